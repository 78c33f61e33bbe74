"""A checkpoint → a model that runs. Strict: what is missing, left over, misshapen or not a number is named.

The model is built without drawing random weights and the tensors of the file are put in place of its own, so
loading costs one copy of the file. The tied copies of the embedding may be present or not; copies that differ
are refused, since a head of its own is what made others answer at random without any error.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from florence2.checkpoints import configs
from florence2.checkpoints.calibration import Calibration
from florence2.checkpoints.formats import choose, name_of
from florence2.checkpoints.hub import locate
from florence2.checkpoints.layouts import (
    EMBEDDING,
    LOGITS_BIAS,
    OPTIONAL,
    TEMPORAL,
    TIED,
    Layout,
    Recognised,
    is_unused,
    recognise,
    shape_from_ours,
    to_ours,
    translate,
)
from florence2.checkpoints.vocabulary import count_words, read_tokenizer
from florence2.checkpoints.weights import find, give_back, give_back_holes, read_weights
from florence2.config import Florence2Config
from florence2.errors import CheckpointError, ConfigError
from florence2.language.tokenizer import Tokenizer
from florence2.model import Florence2Model, int8, packing

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model with all that belongs to it. ``Checkpoint(model, tokenizer, model.config)`` is enough to save one."""

    model: Florence2Model = field(repr=False)
    tokenizer: Tokenizer | None = field(repr=False)
    """None only where the folder has none and the vocabulary is not the published one."""
    config: Florence2Config
    layout: Layout = "florence2"
    """The layout that the files were in."""
    source: str = ""
    """The hub id, or the name of the folder."""
    recognised: str = ""
    """How sure the layout is, in words."""
    calibration: Calibration | None = field(default=None, repr=False)
    """What turns scores into probabilities; void as soon as the weights change."""
    format: str = ""
    """Why the weights have their number format, in words."""

    @property
    def dtype(self) -> torch.dtype:
        return self.model.text.shared.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.model.text.logits_bias.device


def load(
    source: str | Path | None = None,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    offline: bool | None = None,
    packed: bool = False,
) -> Checkpoint:
    """Load a checkpoint of any of the three layouts; the model is in evaluation mode.

    ``source``: None for the embedded model, a folder, a file of weights with its config.json beside it, or a hub
    id with ``revision`` (branch, tag or commit). ``dtype`` "auto" is what is fast and safe on the device
    (``formats``), and the log says what it was; "int8" rounds large matrices, on a CPU. ``device`` "auto" takes a
    CUDA GPU where there is one. ``offline=True`` uses the hub's cache only; None leaves that to ``HF_HUB_OFFLINE``.
    ``packed``: the model shall only answer, and its weights may lie as this processor multiplies them (``packing``).

    Raises CheckpointError for what is wrong with the files, TokenizerError for the tokenizer, ConfigError for an
    impossible ``dtype`` or ``device``.
    """
    where = _device(device)
    place = locate(source, revision, offline)
    file = place.weights or find(place.folder)
    tensors = read_weights(place.folder, file)
    try:
        found = recognise(tensors)
        config = configs.read(place.folder, found.layout, place.name)
        tokenizer = read_tokenizer(place.folder, config.text)
        rows, words = config.text.vocab_size, count_words(tokenizer, config.text)
        config = dataclasses.replace(config, text=dataclasses.replace(config.text, vocab_size=words))
        model = build(config)
        state = _fit(tensors, found, model, rows)
        format = choose(dtype, where, tensors)
        plan = int8.plan(where, format.dtype) if format.int8 else packing.exact(where, format.dtype) if packed else None
        _place(model, state, format.dtype, where, ".safetensors" in file.name, plan, format.int8)
        calibration = Calibration.load(place.folder)
    except CheckpointError as error:
        if str(place.folder) in str(error):
            raise
        raise CheckpointError(f"{place.weights or place.folder}: {error}") from error
    log.info("%s runs in %s on %s: %s", place.name, int8.format_of(model), where, format.why)
    model.eval()
    return Checkpoint(model, tokenizer, config, found.layout, place.name, str(found), calibration, format.why)


def build(config: Florence2Config) -> Florence2Model:
    """The model with its weights allocated and not set; its buffers are. Load weights before use."""
    with _NoInitialisation():
        return Florence2Model(config)


def check_finite(name: str, tensor: Tensor) -> None:
    """Refuse NaN and infinity. One sum over the tensor, and a closer look only where that is not finite."""
    if not tensor.sum(dtype=torch.float32).isfinite() and not tensor.isfinite().all():
        bad = int((~tensor.isfinite()).sum())
        raise CheckpointError(
            f"{name} holds {bad} values that are not finite in {name_of(tensor.dtype)}; the training that wrote it has "
            "diverged, or the type is too narrow for it (bfloat16 and float32 reach further than float16)"
        )


def _fit(tensors: dict[str, Tensor], found: Recognised, model: Florence2Model, rows: int) -> dict[str, Tensor]:
    """Our name → tensor in our shape, still in the file's type. ``rows`` is the vocabulary that the file has."""
    ours = model.state_dict()
    layout = found.layout
    words = ours[EMBEDDING].shape[0]
    state: dict[str, Tensor] = {}
    missing: list[str] = []
    left_over = [name for name in tensors if translate(name, layout, layout) is None and not is_unused(name)]
    left_over += [name for name in tensors if (known := translate(name, layout, "florence2")) and known not in ours]
    misshapen: list[str] = []

    for name, own in ours.items():
        their_name = translate(name, "florence2", layout)
        candidates = TIED[layout] if name == EMBEDDING else (their_name,)
        present = [candidate for candidate in candidates if candidate in tensors]
        if not present:
            if name in OPTIONAL:
                state[name] = own  # the constructor's: zeros, or the formula
            else:
                missing.append(str(their_name))
            continue
        stored = (rows, *own.shape[1:]) if name in (EMBEDDING, LOGITS_BIAS) else tuple(own.shape)
        expected = shape_from_ours(name, stored, layout)
        wrong = [candidate for candidate in present if tuple(tensors[candidate].shape) != expected]
        misshapen += [f"{candidate} is {tuple(tensors[candidate].shape)}, not {expected}" for candidate in wrong]
        if not wrong:
            copies = {candidate: to_ours(name, tensors[candidate], layout) for candidate in present}
            if name in (EMBEDDING, LOGITS_BIAS):
                copies = {candidate: copy[:words] for candidate, copy in copies.items()}
            state[name] = next(iter(copies.values()))
            if not missing and not misshapen and not left_over:  # a broken file is not worth reading
                _check_copies(copies)

    if missing or left_over or misshapen:
        problems = (
            ("missing", missing),
            ("not known", left_over),
            ("of another shape than config.json says", misshapen),
        )
        raise CheckpointError(
            f"the weights do not fit the model ({found}): "
            + "; ".join(f"{len(names)} {what}: {_some(names)}" for what, names in problems if names)
            + ". Nothing was loaded: take the weights and config.json from one place, or export the model again"
        )
    _check_temporal(state[TEMPORAL], ours[TEMPORAL])
    return state


def _place(
    model: Florence2Model,
    state: dict[str, Tensor],
    dtype: torch.dtype,
    device: torch.device,
    release: bool,
    plan: packing.Plan | None,
    rounded: bool,
) -> None:
    """``release``: the tensors are views of a file, whose memory is given back as soon as each is copied."""
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            raise CheckpointError(
                f"{name} holds {name_of(tensor.dtype)}; quantised files are not read, take the float16 or float32 "
                "weights"
            )

    def done(name: str) -> None:
        if release:
            give_back(state[name])

    later = set() if plan is None else packing.packable(model, plan)
    placed = {name: own for name, own in model.state_dict().items() if name in later}
    for name, tensor in state.items():
        if name not in later:
            placed[name] = tensor.to(device=device, dtype=dtype, copy=True).contiguous()
            check_finite(name, placed[name])
            done(name)
    model.load_state_dict(placed, strict=True, assign=True)
    if rounded:
        model.requires_grad_(False)
    if plan is not None:
        packing.pack(model, plan, packing.Source(lambda name, _: state[name], check_finite, done))
        give_back_holes()


def _check_copies(copies: dict[str, Tensor]) -> None:
    """All copies of the shared embedding must be the same matrix."""
    (first, kept), *others = copies.items()
    for name, copy in others:
        if copy.dtype != kept.dtype or not torch.equal(copy, kept):
            difference = (copy.float() - kept.float()).abs()
            if not difference.max() > 0:  # the same in another type
                continue
            rows = int((difference.amax(dim=1) > 0).sum())
            raise CheckpointError(
                f"{first} and {name} differ in {rows} of {kept.shape[0]} rows (by up to {difference.max():.3g}), but a "
                "Florence-2 model has one matrix for both. A program that did not tie them wrote this file (Microsoft "
                "repaired its own files for that in August 2025), and it does not say which of the two is right: fetch "
                "the present revision, export the model again with tied weights, or delete the wrong tensor"
            )


def _check_temporal(table: Tensor, formula: Tensor) -> None:
    """The table is never trained; what is far from its formula, rounding aside, was damaged."""
    worst = float((table.float() - formula.float()).abs().max())
    if not worst < 0.1:
        raise CheckpointError(
            f"the temporal table is up to {worst:.3g} away from the cosine formula that it always holds; the file is "
            "damaged, copy it again (or delete the table from it: it is computed where it is missing)"
        )


class _NoInitialisation(TorchFunctionMode):
    """Skips the random numbers that layers fill themselves with. Memory that nothing writes to costs nothing.

    The meta device would do the same, but building on it imports the compiler of torch first, which takes seconds.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        if func in (Tensor.normal_, Tensor.uniform_):
            return args[0]
        return func(*args, **kwargs)


def _device(device: str | torch.device) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device {device!r} does not exist; expected auto, cpu, cuda, cuda:1 or mps") from error
    if chosen.type == "cuda" and (not torch.cuda.is_available() or (chosen.index or 0) >= torch.cuda.device_count()):
        raise ConfigError(
            f"device {str(chosen)!r} was asked for, torch sees {torch.cuda.device_count()} CUDA GPUs; use cpu, or "
            "install a build of torch for your GPU"
        )
    return chosen


def _some(names: list[str], most: int = 4) -> str:
    return ", ".join(sorted(names)[:most]) + (" ..." if len(names) > most else "")
