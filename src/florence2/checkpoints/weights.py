"""Files of weights → names and tensors: safetensors and pickles, whole and in shards. Nothing in a file is run.

The tensors come back memory-mapped: reading the names of a file costs nothing, its bytes are read when they are
copied into the model.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from florence2.checkpoints.configs import read_json
from florence2.errors import CheckpointError

SAFETENSORS = "model.safetensors"
"""The file that is written; with shards, ``model-00001-of-0000N.safetensors`` and an index."""
CANDIDATES = (SAFETENSORS, f"{SAFETENSORS}.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""In this order; the first that a folder holds is read."""


def read_weights(folder: Path, file: Path | None = None) -> dict[str, Tensor]:
    """Name → tensor of the checkpoint in ``folder``, or of one ``file``."""
    file = file or find(folder)
    if file.name.endswith(".index.json"):
        return _read_shards(file)
    return _read_file(file)


def give_back(tensor: Tensor) -> None:
    """Let go of the memory behind a tensor of a safetensors file that was copied and is not read again.

    Such a tensor is a view of the file; without this the whole file would lie in memory beside the model. The kernel is
    told that the pages are not needed
    (were they read again, it would fetch them). Other systems than Linux are not asked.
    """
    if not sys.platform.startswith("linux") or not tensor.is_contiguous():
        return
    first = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE  # whole pages only: others share the rest
    last = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if last > first:
        _c_library().madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), mmap.MADV_DONTNEED)


def give_back_holes() -> None:
    """Let go of memory that was freed between what stays. Loading leaves such holes; other C libraries than GNU's are
    not asked."""
    if sys.platform.startswith("linux") and hasattr(_c_library(), "malloc_trim"):
        _c_library().malloc_trim(0)


@functools.cache
def _c_library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def find(folder: Path) -> Path:
    """The file of weights, or the index of its shards. Raises CheckpointError where there is none."""
    for name in CANDIDATES:
        if (folder / name).is_file():
            return folder / name
    others = sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])
    if len(others) == 1 and not others[0].name.startswith("adapter_model"):
        return others[0]
    if (folder / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{folder} holds a LoRA adapter (adapter_config.json), not a model; load the model it was made for and "
            "give the folder as its adapter: Florence2.from_pretrained(model, adapter=folder)"
        )
    found = ", ".join(path.name for path in others) or "none"
    raise CheckpointError(
        f"{folder} holds no weights under a name that is looked for ({', '.join(CANDIDATES)}); files of weights there: "
        f"{found}. Copy the weights, or name the one file to be read"
    )


def _read_shards(index: Path) -> dict[str, Tensor]:
    placed = read_json(index).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise CheckpointError(f"{index} has no weight_map; copy the index again")
    shards = sorted(set(placed.values()))
    absent = [shard for shard in shards if not (index.parent / shard).is_file()]
    if absent:
        raise CheckpointError(
            f"{index.parent} lacks {len(absent)} of {len(shards)} shards that {index.name} names: "
            f"{', '.join(absent[:3])}; copy them as well"
        )
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        tensors |= _read_file(index.parent / shard)
    lost = sorted(set(placed) - set(tensors))
    if lost:
        raise CheckpointError(
            f"{index.name} places {lost[0]} in {placed[lost[0]]}, which does not hold it ({len(lost)} such); the index "
            "and the shards are of different checkpoints"
        )
    return tensors


def _read_file(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise CheckpointError(f"there is no file {file}")
    if file.stat().st_size == 0:
        raise CheckpointError(f"{file} is empty; copy it again")
    readers: dict[str, Callable[[Path], dict[str, Tensor]]] = {
        ".safetensors": _read_safetensors,
        ".bin": _read_pickle,
        ".pt": _read_pickle,
        ".pth": _read_pickle,
    }
    if file.suffix not in readers:
        raise CheckpointError(f"{file.name} is not a file of weights that can be read; expected {', '.join(readers)}")
    return readers[file.suffix](file)


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        with safe_open(str(file), framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dictionary)
    except (SafetensorError, OSError, ValueError) as error:
        if _is_pointer(file):
            raise CheckpointError(f"{file} is a Git LFS pointer, not the weights; run 'git lfs pull' there") from error
        raise CheckpointError(
            f"{file} is broken ({error}); its {file.stat().st_size:,} bytes are not a whole safetensors file, copy it "
            "again"
        ) from error


def _read_pickle(file: Path) -> dict[str, Tensor]:
    if _is_pointer(file):
        raise CheckpointError(f"{file} is a Git LFS pointer, not the weights; run 'git lfs pull' there")
    try:
        # Files older than the zip format of torch 1.6 cannot be mapped.
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file} is a pickle that would run code when it is read, or it is broken; only plain tensors are read. "
            f"Ask for the weights as safetensors. What stopped the reader: {_first_line(error)}"
        ) from error
    except Exception as error:  # broken bytes are a program for the reader, and may stop it in any way
        raise CheckpointError(f"{file} is broken ({_first_line(error)}); copy it again") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{file} does not hold a state dict (names and tensors), but a {type(content).__name__}")
    return content


def _is_pointer(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(24) == b"version https://git-lfs."


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
