"""Folders of LoRA adapters, in the names of any of the three layouts, read into ours and written.

An adapter is ``adapter_config.json`` and ``adapter_model.safetensors``, as the library peft writes them. Its keys are
names of modules of the model that it was trained on, so the same adapter looks different for each layout:

    ours        base_model.model.text.encoder.layers.0.self_attention.q.lora_A.weight
    microsoft   base_model.model.language_model.model.encoder.layers.0.self_attn.q_proj.lora_A.weight
    native      base_model.model.model.language_model.encoder.layers.0.self_attn.q_proj.lora_A.weight

The layout is recognised by these names and by nothing else. What ``target_modules`` in the configuration says is not
looked at: recipes name modules there that do not exist, and the keys say what was trained.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from florence2.checkpoints.configs import read_json
from florence2.checkpoints.hub import locate
from florence2.checkpoints.layouts import EMBEDDING, LAYOUTS, Layout, to_ours, translate
from florence2.checkpoints.load import check_finite
from florence2.checkpoints.save import put_in_place
from florence2.checkpoints.vocabulary import pad_rows, padded_rows
from florence2.checkpoints.weights import read_weights
from florence2.errors import CheckpointError, MissingDependencyError

HEAD: dict[Layout, str] = {"florence2": "text.head", "microsoft": "language_model.lm_head", "native": "lm_head"}
"""The vocabulary projection as a module. Its weight is the shared embedding, an adapter on it is not shared."""

CONFIG, WEIGHTS = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")


@dataclass(frozen=True, eq=False)
class AdapterFile:
    """What a folder holds, in our names."""

    source: str
    """The hub id, or the name of the folder."""
    layout: Layout
    """The layout of the names in the file."""
    base: str
    """What the adapter says it was trained on; may be empty."""
    ranks: dict[str, int]
    """Module → rank."""
    alphas: dict[str, float]
    dropout: float
    rslora: bool
    dora: bool
    lora: dict[str, Tensor]
    """Keys as ``text.encoder.layers.0.self_attention.q.lora_A.weight``."""
    full: dict[str, Tensor]
    """Whole tensors that lie beside the LoRA matrices, by the names of ``Florence2Model.state_dict()``.

    The shared embedding and its copies are in ``embeddings`` instead.
    """
    embeddings: dict[str, Tensor]
    """Copies of the shared embedding, by their own names. peft adds them unasked where ``lm_head`` is adapted."""


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no model."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def read_adapter(source: str | Path, revision: str | None = None, offline: bool | None = None) -> AdapterFile:
    """Read a folder or a repository of the hub. Every tensor is accounted for.

    Raises CheckpointError for what is not a LoRA adapter of Florence-2, or one that does more than LoRA.
    """
    place = locate(source, revision, offline)
    config = _read_config(place.folder)
    tensors = read_weights(place.folder, _weights_in(place.folder))
    try:
        return _parse(tensors, config, place.name)
    except CheckpointError as error:
        raise CheckpointError(f"{place.folder}: {error}") from error


def write_adapter(
    folder: Path,
    layout: Layout,
    tensors: Mapping[str, Tensor],
    ranks: Mapping[str, int],
    alphas: Mapping[str, float],
    settings: Mapping[str, Any],
    base: str,
    overwrite: bool,
) -> None:
    """Write an adapter that peft can load on the model of ``layout``; the folder appears whole or not at all.

    ``tensors`` are in our names, LoRA matrices and whole tensors; ``settings`` are the fields of peft's LoraConfig that
    hold for the whole adapter.
    """
    lora_config = import_peft().LoraConfig
    _check_target(folder, overwrite)
    renamed, whole = {}, set()
    for key, tensor in tensors.items():
        check_finite(key, tensor)
        renamed[_PREFIX + _their_key(key, layout)] = _their_tensor(key, tensor, tensors, layout).contiguous().cpu()
        if _split(key) is None:
            whole.add(_their_key(key, layout).rpartition(".")[0])
    their_ranks = {_their_module(module, layout): rank for module, rank in ranks.items()}
    their_alphas = {_their_module(module, layout): alpha for module, alpha in alphas.items()}
    rank, alpha = _most_common(their_ranks.values()), _most_common(their_alphas.values())
    config = lora_config(
        r=rank,
        lora_alpha=alpha,
        rank_pattern={module: own for module, own in their_ranks.items() if own != rank},
        alpha_pattern={module: own for module, own in their_alphas.items() if own != alpha},
        target_modules=sorted(their_ranks),
        modules_to_save=sorted(whole) or None,
        base_model_name_or_path=base or None,
        inference_mode=True,
        **settings,
    )
    part = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.part"
    try:
        part.mkdir(parents=True)
        config.save_pretrained(str(part))
        save_file(renamed, part / WEIGHTS[0], metadata={"format": "pt", "florence2_layout": layout})
        (part / WEIGHTS[0]).chmod((part / CONFIG).stat().st_mode)  # safetensors keeps its files to their owner
        put_in_place(part, folder)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder} cannot be written: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def module_name(name: str, source: Layout, target: Layout) -> str | None:
    """The name of the same linear layer or convolution in another layout; None where it is no module there."""
    if name == HEAD[source]:
        return HEAD[target]
    found = translate(f"{name}.weight", source, target)
    if found is None or not found.endswith(".weight") or found == translate(EMBEDDING, "florence2", target):
        return None
    return found.removesuffix(".weight")


def fit_vocabulary(file: AdapterFile, words: int) -> AdapterFile:
    """Without the rows that pad the native vocabulary; no word of ours reaches them."""
    if file.layout != "native":
        return file
    head = HEAD["florence2"]
    lora = {
        key: tensor[:words] if key.startswith(f"{head}.") and not key.endswith("lora_A.weight") else tensor
        for key, tensor in file.lora.items()
    }
    embeddings = {name: tensor[:words] for name, tensor in file.embeddings.items()}
    return dataclasses.replace(file, lora=lora, embeddings=embeddings)


def import_peft() -> Any:
    """The library peft, or what to do where it is absent."""
    try:
        import peft
    except ImportError as error:
        raise MissingDependencyError(
            f"adapters need the library peft ({error}); pip install 'florence2[train]'"
        ) from error
    return peft


_PREFIX = "base_model.model."

_MATRIX = re.compile(r"(.+)\.(lora_A|lora_B)(?:\.[^.]+)?\.(weight|bias)")
_MAGNITUDE = re.compile(r"(.+)\.(lora_magnitude_vector)(?:\.[^.]+)*")
_INNER = re.compile(r"\.(base_layer|modules_to_save\.[^.]+)(?=\.)")
"""What peft puts between a module and its weight."""

_PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")
"""Values of init_lora_weights after which the base model is still what it was."""
_MORE_THAN_LORA = (
    *("layer_replication", "use_qalora", "alora_invocation_tokens", "trainable_token_indices", "target_parameters"),
    *("use_bdlora", "arrow_config", "kasa_config", "velora_config", "monteclora_config", "megatron_config"),
)
"""Settings of peft's LoraConfig that change what is computed; none of them is known to occur with Florence-2."""


def _read_config(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG).is_file():
        raise CheckpointError(
            f"{folder} holds no {CONFIG}, so it is not an adapter; a whole model is loaded as the model itself, "
            "florence2.Florence2.from_pretrained(folder)"
        )
    config = read_json(folder / CONFIG)
    path = folder / CONFIG
    if config.get("peft_type") != "LORA":
        raise CheckpointError(f"{path}: the adapter is of the kind {config.get('peft_type')!r}, only LORA is supported")
    if config.get("init_lora_weights", True) not in _PLAIN_STARTS:
        raise CheckpointError(
            f"{path}: init_lora_weights is {config['init_lora_weights']!r}, which changes the base model as well; save "
            "the adapter again with peft's path_initial_model_for_weight_conversion, which makes it a plain one"
        )
    for name in _MORE_THAN_LORA:
        if config.get(name):
            raise CheckpointError(
                f"{path}: {name} is {config[name]!r}, which is more than LoRA and is not supported; merge the adapter "
                "with peft where it was trained, and load the merged model"
            )
    return config


def _weights_in(folder: Path) -> Path:
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"{folder} holds {CONFIG} and neither {' nor '.join(WEIGHTS)}; copy the weights as well")


def _parse(tensors: dict[str, Tensor], config: dict[str, Any], source: str) -> AdapterFile:
    plain = {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}
    layout = _recognise(plain)
    lora: dict[str, Tensor] = {}
    full: dict[str, Tensor] = {}
    embeddings: dict[str, Tensor] = {}
    theirs: dict[str, str] = {}  # our module → their name of it
    unknown: list[str] = []
    for name, tensor in plain.items():
        check_finite(name, tensor)
        split = _split(name)
        ours = module_name(split[0], layout, "florence2") if split else _our_tensor(name, layout)
        if ours is None:
            unknown.append(name)
        elif split:
            theirs[ours] = split[0]
            lora[f"{ours}.{split[1]}"] = tensor
        elif ours == EMBEDDING:
            embeddings[name] = tensor
        else:
            full[ours] = to_ours(ours, tensor, layout)
    if unknown:
        raise CheckpointError(
            f"{len(unknown)} of {len(plain)} tensors belong to no linear layer or convolution of a Florence-2 model in "
            f"the {layout} layout, which the others are in: {_some(unknown)}; nothing was loaded"
        )
    _check_pairs(lora, theirs)
    ranks = {module: lora[f"{module}.lora_A.weight"].shape[0] for module in theirs}
    for module, rank in ranks.items():
        said = _pattern(config.get("rank_pattern"), theirs[module], config.get("r", 8))
        if said != rank:
            raise CheckpointError(
                f"the matrices of {theirs[module]} have rank {rank}, {CONFIG} says {said}; the two files do not belong "
                "together, copy both from one place"
            )
    alpha = config.get("lora_alpha", 8)
    return AdapterFile(
        source=source,
        layout=layout,
        base=str(config.get("base_model_name_or_path") or ""),
        ranks=ranks,
        alphas={module: _pattern(config.get("alpha_pattern"), theirs[module], alpha) for module in theirs},
        dropout=float(config.get("lora_dropout") or 0.0),
        rslora=bool(config.get("use_rslora")),
        dora=bool(config.get("use_dora")),
        lora=lora,
        full=full,
        embeddings=embeddings,
    )


def _recognise(names: Iterable[str]) -> Layout:
    known = Counter(
        layout
        for name in names
        for layout in LAYOUTS
        if (split := _split(name)) and module_name(split[0], layout, layout) is not None
    )
    if not known:
        raise CheckpointError(
            f"these are not LoRA matrices of a Florence-2 model: {_some(list(names)) or 'the file holds no tensors'}; "
            f"expected names like {_PREFIX}language_model.model.encoder.layers.0.self_attn.q_proj.lora_A.weight"
        )
    return known.most_common(1)[0][0]


def _split(key: str) -> tuple[str, str] | None:
    """ "x.q.lora_A.default.weight" → ("x.q", "lora_A.weight"); None for a whole tensor."""
    match = _MATRIX.fullmatch(key)
    if match:
        return match[1], f"{match[2]}.{match[3]}"
    match = _MAGNITUDE.fullmatch(key)
    return (match[1], match[2]) if match else None


def _our_tensor(name: str, layout: Layout) -> str | None:
    return translate(_INNER.sub("", name), layout, "florence2")


def _check_pairs(lora: dict[str, Tensor], theirs: dict[str, str]) -> None:
    lost = [
        f"{theirs[module]}.{part}.weight"
        for module in theirs
        for part in ("lora_A", "lora_B")
        if f"{module}.{part}.weight" not in lora
    ]
    if lost:
        raise CheckpointError(f"{len(lost)} tensors are missing: {_some(lost)}; copy the file again")


def _pattern(patterns: dict[str, Any] | None, module: str, otherwise: Any) -> Any:
    """The value of a module in peft's ``rank_pattern`` or ``alpha_pattern``, whose keys are regular expressions."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return otherwise


def _their_module(module: str, layout: Layout) -> str:
    found = module_name(module, "florence2", layout)
    if found is None:
        raise CheckpointError(
            f"the adapter changes {module}, which is no module of its own in the {layout} layout; save it in the "
            "layout florence2 or native, or merge it and save the model"
        )
    return found


def _their_key(key: str, layout: Layout) -> str:
    split = _split(key)
    if split:
        return f"{_their_module(split[0], layout)}.{split[1]}"
    found = translate(key, "florence2", layout)
    if found is None or (layout != "florence2" and not _is_plain_module(key, found)):
        raise CheckpointError(
            f"the adapter brings {key} as a whole, which the {layout} layout can not hold beside a model; save it in "
            "the layout florence2, or merge it and save the model"
        )
    return found


def _is_plain_module(ours: str, theirs: str) -> bool:
    """Whether one module owns the tensor on both sides; the embedding is one matrix here and four modules there."""
    return ours != EMBEDDING and ours.rpartition(".")[2] == theirs.rpartition(".")[2]


def _their_tensor(key: str, tensor: Tensor, tensors: Mapping[str, Tensor], layout: Layout) -> Tensor:
    """LoRA matrices have the same shape everywhere, but for the padded vocabulary of the native layout."""
    head = HEAD["florence2"]
    if layout != "native" or not key.startswith(f"{head}.") or key.endswith("lora_A.weight"):
        return tensor
    if key != f"{head}.lora_B.weight" or f"{head}.lora_magnitude_vector" in tensors:
        raise CheckpointError(
            f"{key} cannot be padded to the vocabulary of the native layout; save the adapter as florence2 or microsoft"
        )
    words = tensor.shape[0]
    return pad_rows(tensor, padded_rows(words, words))


def _most_common(values: Iterable[Any]) -> Any:
    return Counter(values).most_common(1)[0][0]


def _check_target(folder: Path, overwrite: bool) -> None:
    if folder.is_file():
        raise CheckpointError(f"{folder} is a file; give the name of a folder")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise CheckpointError(f"{folder} is not empty; choose another folder, or pass overwrite=True to replace it")
    if not is_adapter(folder):
        raise CheckpointError(f"{folder} holds other things than an adapter and is not replaced; choose another folder")


def _some(names: list[str], most: int = 4) -> str:
    return ", ".join(sorted(names)[:most]) + (" ..." if len(names) > most else "")
