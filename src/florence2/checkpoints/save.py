"""A model → a folder that stands by itself: safetensors, config.json, tokenizer, calibration, in any layout.

The shared embedding is written once, under the first of its names, as all three owners of the layouts do. A
folder appears whole or not at all: it is written beside its place and renamed.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import uuid
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from florence2.checkpoints import configs
from florence2.checkpoints.formats import as_dtype
from florence2.checkpoints.layouts import EMBEDDING, LAYOUTS, Layout, from_ours, translate
from florence2.checkpoints.load import Checkpoint, check_finite
from florence2.checkpoints.vocabulary import image_token_id, pad_rows, padded_rows, write_tokenizer
from florence2.checkpoints.weights import SAFETENSORS
from florence2.config import Florence2Config
from florence2.errors import CheckpointError
from florence2.model.int8 import is_quantized


def save(
    checkpoint: Checkpoint,
    folder: str | Path,
    layout: Layout = "florence2",
    dtype: str | torch.dtype | None = None,
    max_shard_bytes: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a checkpoint and return its folder.

    ``layout``: "florence2" (ours), "microsoft" (for Microsoft's remote code and what is built on it) or "native"
    (for ``transformers.Florence2ForConditionalGeneration``). ``dtype`` None keeps the type of the model.
    ``max_shard_bytes`` splits the weights into files of at most that size. A folder that already holds something
    is refused, unless ``overwrite`` is given and it holds a checkpoint; then it is replaced as a whole.

    Raises CheckpointError where the folder cannot be written or the layout cannot hold the model.
    """
    if layout not in LAYOUTS:
        raise CheckpointError(f"there is no layout {layout!r}; expected one of {', '.join(LAYOUTS)}")
    if is_quantized(checkpoint.model):
        raise CheckpointError(
            'the weights of this model are rounded to int8, which is done at loading; load it with dtype="float32" '
            "and save that"
        )
    folder = Path(folder).expanduser()
    _check_target(folder, overwrite)
    words = checkpoint.config.text.vocab_size
    image_token = image_token_id(checkpoint.tokenizer, words) if layout == "native" else words
    tensors = _tensors(checkpoint, layout, checkpoint.dtype if dtype is None else as_dtype(dtype), image_token)
    embedding = tensors[str(translate(EMBEDDING, "florence2", layout))]
    config = _with_rows(checkpoint, embedding.shape[0])
    type_name = str(embedding.dtype).removeprefix("torch.")

    part = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.part"
    try:
        part.mkdir(parents=True)
        for name, content in configs.write(config, layout, type_name, image_token).items():
            (part / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        if checkpoint.tokenizer is not None:
            write_tokenizer(checkpoint.tokenizer, part, layout)
        if checkpoint.calibration is not None:
            checkpoint.calibration.save(part)
        _write_weights(tensors, part, max_shard_bytes)
        for weights in part.glob("*.safetensors"):  # safetensors keeps them to their owner; share them like the rest
            weights.chmod((part / "config.json").stat().st_mode)
        put_in_place(part, folder)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder} cannot be written: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _tensors(checkpoint: Checkpoint, layout: Layout, dtype: torch.dtype, image_token: int) -> dict[str, Tensor]:
    """Name in ``layout`` → tensor on the CPU, in the shape and type that is written."""
    tensors = {}
    for name, tensor in checkpoint.model.state_dict().items():
        if translate(name, "florence2", "florence2") is None:
            raise CheckpointError(
                f"the model holds {name}, which is no part of Florence-2; merge adapters and unwrap the model before "
                "saving it"
            )
        check_finite(name, tensor)
        tensor = tensor.detach().to(device="cpu", dtype=dtype)
        check_finite(name, tensor)
        if layout == "native" and name == EMBEDDING:
            tensor = pad_rows(tensor, padded_rows(tensor.shape[0], image_token))
        their_name = translate(name, "florence2", layout)
        if their_name is not None:
            tensors[their_name] = from_ours(name, tensor, layout).contiguous()
        elif tensor.any():
            raise CheckpointError(
                f"{name} is not zero and the {layout} layout has no place for it; save as microsoft or florence2"
            )
    return tensors


def _write_weights(tensors: dict[str, Tensor], folder: Path, max_shard_bytes: int | None) -> None:
    shards = _shards(tensors, max_shard_bytes)
    if len(shards) == 1:
        save_file(shards[0], folder / SAFETENSORS, metadata={"format": "pt"})
        return
    placed = {}
    for i, shard in enumerate(shards, start=1):
        file = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        placed.update(dict.fromkeys(shard, file))
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": placed}
    (folder / f"{SAFETENSORS}.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _shards(tensors: dict[str, Tensor], most: int | None) -> list[dict[str, Tensor]]:
    """In order, each as full as ``most`` bytes allow; a larger tensor gets a file of its own."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if most is not None and shards[-1] and size + tensor.nbytes > most:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    return shards


def _with_rows(checkpoint: Checkpoint, rows: int) -> Florence2Config:
    config = checkpoint.config
    return dataclasses.replace(config, text=dataclasses.replace(config.text, vocab_size=rows))


def _check_target(folder: Path, overwrite: bool) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; give the name of a folder")
    if not any(folder.iterdir()):
        return
    if not overwrite:
        raise CheckpointError(f"{folder} is not empty; choose another folder, or pass overwrite=True to replace it")
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder} holds other things than a checkpoint and is not replaced; choose another folder"
        )


def put_in_place(part: Path, folder: Path) -> None:
    """Put ``part`` in the place of ``folder``; what was there goes last."""
    old = part.with_suffix(".old")
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
