"""LoRA adapters on a model: put on, trained, saved, loaded, switched and merged. The mathematics is peft's.

    add_adapter(model, LoraSettings(rank=16, targets=("attention", "ffn")))
    ...                                       # train: only the adapter learns
    save_adapter(model, "my-adapter")
    load_adapter(other_model, "my-adapter")   # or one that was trained elsewhere, in any layout

Source: "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685), y = W x + (alpha / r) B A x.

The vocabulary projection is the shared embedding, so an adapter on it ("head") changes what is said and not what is
read. It lives in a module of its own (``Bart.head``) and can not be merged into the one matrix that serves both.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from florence2.checkpoints import adapter_layers as layers
from florence2.checkpoints.adapter_files import (
    HEAD,
    AdapterFile,
    fit_vocabulary,
    import_peft,
    module_name,
    read_adapter,
    write_adapter,
)
from florence2.checkpoints.layouts import EMBEDDING, LAYOUTS, Layout
from florence2.checkpoints.load import check_finite
from florence2.errors import CheckpointError, ConfigError
from florence2.model import Florence2Model

GROUPS = {
    "attention": r"text\..+_attention\.(q|k|v|out)",
    "ffn": r"text\..+\.ffn\.fc[12]",
    "vision": r"vision\..+\.(attention\.(qkv|proj)|mlp\.fc[12])",
    "convolutions": r"vision\.stages\.\d+\.embed\.conv",
    "projector": r"projector\.projection",
    "head": r"text\.head",
}
"""Names for the targets of an adapter, and the modules that each means."""

_HEAD = HEAD["florence2"]


@dataclass(frozen=True)
class LoraSettings:
    """What an adapter is to be. ``alpha / rank`` scales it, or ``alpha / √rank`` with ``rslora``."""

    rank: int = 8
    alpha: float = 16
    dropout: float = 0.05
    targets: tuple[str, ...] = ("attention",)
    """Groups (``GROUPS``), or endings of module names such as "fc2", "cross_attention.q" or Microsoft's "q_proj"."""
    rslora: bool = False
    dora: bool = False
    """Learn the length of each row apart from its direction (arXiv 2402.09353): slower."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"the rank of an adapter is at least 1, found {self.rank}")
        if self.alpha <= 0:
            raise ConfigError(f"alpha is more than 0, found {self.alpha}; it is often twice the rank")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"the dropout of an adapter lies in [0, 1), found {self.dropout}")
        if not self.targets or isinstance(self.targets, str):
            raise ConfigError(f"targets is a tuple of names, found {self.targets!r}; groups: {', '.join(GROUPS)}")


def add_adapter(model: Florence2Model, settings: LoraSettings, name: str = "default") -> list[str]:
    """Put a new adapter on the model, in use and the only part that learns; returns the names of the changed modules.

    It changes nothing until it is trained. Raises ConfigError for a target that matches no module.
    """
    layers.refuse_int8(model)
    import_peft()
    _check_name(model, name)
    chosen = _find_targets(model, settings.targets)
    if settings.dora:
        _check_rows(model, chosen)
    with layers.undone_on_error(model, name):
        layers.inject(
            model,
            name,
            dict.fromkeys(chosen, settings.rank),
            dict.fromkeys(chosen, settings.alpha),
            {"lora_dropout": settings.dropout, "use_rslora": settings.rslora, "use_dora": settings.dora},
        )
    layers.train_only(model, name)
    return chosen


def load_adapter(
    model: Florence2Model,
    source: str | Path | AdapterFile,
    name: str = "default",
    revision: str | None = None,
    offline: bool | None = None,
    trainable: bool = False,
) -> list[str]:
    """Put an adapter from a folder or the hub on the model, in use; returns the names of the changed modules.

    Adapters for Microsoft's code, for transformers and for this library are told apart by their keys. All tensors of
    the file are applied, or nothing. With ``trainable`` it learns on, and nothing else does; without, it is frozen.

    Raises CheckpointError where the file is broken or was made for another model.
    """
    layers.refuse_int8(model)
    import_peft()
    _check_name(model, name)
    file = source if isinstance(source, AdapterFile) else read_adapter(source, revision, offline)
    file = fit_vocabulary(file, model.config.text.vocab_size)
    absent = sorted(set(file.ranks) - set(_adaptable(model)))
    if absent:
        raise _misfit(model, file, f"{len(absent)} of its {len(file.ranks)} modules are not in the model: {absent[0]}")
    whole = _trained_beside(model, file)
    settings: dict[str, Any] = {
        "lora_dropout": file.dropout,
        "use_rslora": file.rslora,
        "use_dora": file.dora,
        **({"lora_bias": True} if any(key.endswith(".lora_B.bias") for key in file.lora) else {}),
        **({"modules_to_save": sorted({key.rpartition(".")[0] for key in whole})} if whole else {}),
    }
    with layers.undone_on_error(model, name):
        layers.inject(model, name, file.ranks, file.alphas, settings)
        _fill(model, name, file, {**file.lora, **whole})
    if trainable:
        layers.train_only(model, name)
    return layers.changed(model, name)


def save_adapter(
    model: Florence2Model,
    folder: str | Path,
    layout: Layout = "florence2",
    base: str = "",
    name: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write an adapter as peft does, in the names of ``layout``, and return its folder.

    peft loads it on the model of that layout: "native" on ``transformers.Florence2ForConditionalGeneration``,
    "microsoft" on Microsoft's remote code. ``name`` None is the adapter in use. ``base`` is noted as what it was
    trained on; empty takes the name of the model. A folder that holds something is refused, unless ``overwrite`` is
    given and it holds an adapter.
    """
    if layout not in LAYOUTS:
        raise CheckpointError(f"there is no layout {layout!r}; expected one of {', '.join(LAYOUTS)}")
    name = _known(model, name)
    folder = Path(folder).expanduser()
    adapted = {module: layer for module, layer in layers.lora_layers(model).items() if name in layer.r}
    config = layers.configs(model)[name]
    write_adapter(
        folder,
        layout,
        layers.tensors(model, name),
        ranks={module: layer.r[name] for module, layer in adapted.items()},
        alphas={module: layer.lora_alpha[name] for module, layer in adapted.items()},
        settings={
            "lora_dropout": config.lora_dropout,
            "use_rslora": config.use_rslora,
            "use_dora": config.use_dora,
            **({"lora_bias": True} if getattr(config, "lora_bias", False) else {}),
        },
        base=base or model.config.name,
        overwrite=overwrite,
    )
    return folder


def adapter_names(model: Florence2Model) -> tuple[str, ...]:
    """The adapters that the model carries, in the order in which they came."""
    return tuple(layers.configs(model))


def active_adapter(model: Florence2Model) -> str | None:
    """The adapter in use; None where the base answers."""
    return layers.in_use(model)


def use_adapter(model: Florence2Model, name: str | None) -> None:
    """Switch to one of the model's adapters; None gives exactly the base. What learns and what is frozen stays so."""
    layers.switch(model, None if name is None else _known(model, name))


def remove_adapter(model: Florence2Model, name: str | None = None) -> None:
    """Take an adapter off, by default the one in use. Where it was in use, the base answers from then on.

    Behind the last one the model is plain again and all of it learns, as after loading.
    """
    layers.delete(model, _known(model, name))
    if not adapter_names(model):
        model.requires_grad_(True)


def merge_adapter(model: Florence2Model) -> None:
    """Add the adapter in use to the weights for good; the other adapters are taken off and the model is plain again.

    Raises CheckpointError, and changes nothing, where the adapter can not be merged: on the head it can not.
    """
    name = _known(model, None)
    for key, tensor in layers.tensors(model, name).items():
        check_finite(key, tensor)
    if _HEAD in layers.changed(model, name):
        raise CheckpointError(
            f"the adapter {name!r} changes the vocabulary projection ({_HEAD}, elsewhere lm_head), whose matrix is "
            "also the embedding of the words; merged, it would change what the model reads as well. Keep it as an "
            "adapter, or train one without the head"
        )
    layers.merge(model, name)
    model.requires_grad_(True)


def changes_image_tokens(model: Florence2Model) -> bool:
    """Whether the adapter in use touches the image encoder or the projector: then photos are encoded with it."""
    name = active_adapter(model)
    return name is not None and any(
        module.startswith(("vision.", "projector.")) for module in layers.changed(model, name)
    )


def _find_targets(model: Florence2Model, targets: Sequence[str]) -> list[str]:
    """The modules that the targets mean, in the order of the model; ConfigError for a target that means none."""
    present = _adaptable(model)
    chosen: set[str] = set()
    for target in targets:
        if target in GROUPS:
            found = {name for name in present if re.fullmatch(GROUPS[target], name)}
        else:
            found = set()
            for layout in LAYOUTS:  # ours first: "proj" is another set of modules in Microsoft's names
                found = found or {name for name in present if _ends(module_name(name, "florence2", layout), target)}
        if not found:
            raise ConfigError(
                f"no module of the model is called {target!r}; the nearest names are {_nearest(present, target)}, the "
                f"groups {', '.join(GROUPS)}"
            )
        chosen |= found
    return [name for name in present if name in chosen]


def _check_rows(model: Florence2Model, chosen: Sequence[str]) -> None:
    """DoRA divides by the length of every row. That of the padding in the embedding is often zero."""
    state = {layers.plain_name(name): tensor for name, tensor in model.state_dict().items()}
    for module in chosen:
        name = EMBEDDING if module == _HEAD else f"{module}.weight"
        empty = (state[name].flatten(1) == 0).all(dim=1).sum()
        if empty:
            raise ConfigError(
                f"dora can not adapt {module}: {int(empty)} rows of {name} are zero and have no direction"
            )


def _ends(name: str | None, target: str) -> bool:
    return name is not None and f".{name}".endswith(f".{target}")


def _nearest(present: Sequence[str], target: str) -> str:
    theirs = {module_name(name, "florence2", layout) for name in present for layout in LAYOUTS}
    known = {*GROUPS, *(name.rpartition(".")[2] for name in theirs if name)}
    return ", ".join(difflib.get_close_matches(target, sorted(known), n=3, cutoff=0.0))


def _adaptable(model: Florence2Model) -> list[str]:
    """Names of all linear layers and convolutions, adapters on them or not, and of the head."""
    adapted = layers.lora_layers(model)
    inside = tuple(f"{module}." for module in (*adapted, *layers.wrappers(model)))
    names = [
        name
        for name, module in model.named_modules()
        if (name in adapted or isinstance(module, nn.Linear | nn.Conv2d)) and not name.startswith(inside)
    ]
    return names if _HEAD in names else [*names, _HEAD]


def _trained_beside(model: Florence2Model, file: AdapterFile) -> dict[str, Tensor]:
    """Whole tensors of the file that differ from the model's, and what else belongs to the same modules."""
    state = {layers.plain_name(name): tensor for name, tensor in model.state_dict().items()}
    found = dict(file.full)
    for name, tensor in file.embeddings.items():
        _check_shape(model, file, name, tensor, state[EMBEDDING])
        if file.layout == "florence2":
            found[EMBEDDING] = tensor
        elif not _same(tensor, state[EMBEDDING]):
            raise CheckpointError(
                f"the adapter {file.source} brings {name} with other values than the model has. Either it was trained "
                "on another base, or it trained copies of the embedding apart from each other, where this model has "
                f"one matrix. It names {file.base or 'no base'}, this is {_title(model)}"
            )
    for name, tensor in found.items():
        _check_shape(model, file, name, tensor, state.get(name))
    differing = {name for name, tensor in found.items() if not _same(tensor, state[name])}
    owners = {name.rpartition(".")[0] for name in differing}
    weights = {layers.plain_name(name) for name, _ in model.named_parameters()}
    blocked = sorted(differing - weights) + sorted(owners & {*file.ranks, *layers.lora_layers(model)})
    if EMBEDDING in differing and (_HEAD in file.ranks or model.text.head is not None):
        blocked.append(EMBEDDING)
    if blocked:
        raise CheckpointError(
            f"the adapter {file.source} brings its own values for {blocked[0]} as a whole, where the model has a fixed "
            "table or LoRA matrices, and the two can not stand side by side. Merge the adapter with peft where it was "
            "trained, and load the merged model"
        )
    return {name: found.get(name, state[name]) for name in sorted(weights) if name.rpartition(".")[0] in owners}


def _same(left: Tensor, right: Tensor) -> bool:
    """Equal, but for the rounding of the narrower of the two types."""
    left = left.to(right.device)
    return torch.equal(left.to(right.dtype), right) or torch.equal(left, right.to(left.dtype))


def _fill(model: Florence2Model, name: str, file: AdapterFile, given: dict[str, Tensor]) -> None:
    """The tensors of the file, into an injected adapter. Whatever does not fit exactly is an error."""
    expected = layers.tensors(model, name)
    odd = sorted(set(expected) ^ set(given))
    if odd:
        where = "lacks" if odd[0] in expected else "holds, without use for them,"
        raise CheckpointError(f"the adapter {file.source} {where} {len(odd)} tensors: {', '.join(odd[:4])}")
    for key, tensor in given.items():
        _check_shape(model, file, key, tensor, expected[key])
    import_peft().set_peft_model_state_dict(model, given, adapter_name=name)


def _check_shape(model: Florence2Model, file: AdapterFile, name: str, given: Tensor, own: Tensor | None) -> None:
    if own is None or own.shape != given.shape:
        there = "nothing of that name" if own is None else str(tuple(own.shape))
        raise _misfit(model, file, f"{name} is {tuple(given.shape)} in the file, the model has {there}")


def _misfit(model: Florence2Model, file: AdapterFile, what: str) -> CheckpointError:
    return CheckpointError(
        f"the adapter {file.source} does not fit the model: {what}. It was made for "
        f"{file.base or 'a model that it does not name'}, this is {_title(model)}; load it on the model that it was "
        "trained on"
    )


def _title(model: Florence2Model) -> str:
    text = model.config.text
    depth = f"{text.encoder_layers} + {text.decoder_layers} layers"
    return f"{model.config.name or 'a model without a name'} (width {text.d_model}, {depth}, {text.vocab_size:,} words)"


def _known(model: Florence2Model, name: str | None) -> str:
    """``name``, or the adapter in use for None; CheckpointError where there is none."""
    chosen = active_adapter(model) if name is None else name
    if chosen is None or chosen not in adapter_names(model):
        asked = "no adapter is in use" if name is None else f"there is no adapter {name!r}"
        raise CheckpointError(f"{asked}; the model carries {', '.join(adapter_names(model)) or 'none'}")
    return chosen


def _check_name(model: Florence2Model, name: str) -> None:
    """peft finds the parts of an adapter by its name inside the names of tensors."""
    if name in adapter_names(model):
        raise ConfigError(f"the model already carries an adapter {name!r}; take it off, or choose another name")
    taken = {part for module, _ in model.named_modules() for part in module.split(".")}
    if not re.fullmatch(r"\w[\w-]*", name) or name in taken or hasattr(nn.ModuleDict, name):
        raise ConfigError(
            f"an adapter can not be called {name!r}: letters, digits, - and _ make a name, and it must not be that of "
            'a part of the model; e.g. "invoices"'
        )
