"""A folder with an export → a model in onnxruntime, with its tokenizer: ours, or one made elsewhere."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from florence2.checkpoints import configs, hub
from florence2.checkpoints.calibration import Calibration
from florence2.checkpoints.vocabulary import count_words, read_tokenizer
from florence2.config import Florence2Config
from florence2.errors import CheckpointError, ConfigError
from florence2.language.tokenizer import Tokenizer
from florence2.onnx import names
from florence2.onnx.libraries import library
from florence2.onnx.runtime import Decoder, OnnxModel
from florence2.onnx.session import PROVIDERS, Session

HOW = "florence2 export MODEL FOLDER writes such a folder"


@dataclass(frozen=True, eq=False)
class OnnxCheckpoint:
    """An export with all that belongs to it; where a Checkpoint is read for answering, this can stand."""

    model: OnnxModel = field(repr=False)
    tokenizer: Tokenizer | None = field(repr=False)
    config: Florence2Config
    layout: Literal["onnx"] = "onnx"
    source: str = ""
    calibration: Calibration | None = field(default=None, repr=False)

    @property
    def dtype(self) -> torch.dtype:
        """Of what goes in and out; the files may compute in another."""
        return self.model.dtype

    @property
    def device(self) -> torch.device:
        """Where the tensors between the sessions are."""
        return self.model.device


def load(
    source: str | Path | None,
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    offline: bool | None = None,
) -> OnnxCheckpoint:
    """Open an export. ``source`` is a folder with config.json and tokenizer.json, and the graphs in it or in ``onnx/``,
    or the hub id of such a repository: ``revision`` and ``offline`` mean what they mean for other checkpoints.

    ``dtype`` names the precision of the weights by the ending of their files: "float32" (none), "float16", "int8",
    "quantized" ...; "auto" takes the first of these that a folder holds whole, float32 from the hub, where only the
    files of one precision are fetched. ``device`` is "cpu" (and "auto") or "cuda", where onnxruntime was installed
    for it.

    Raises CheckpointError for what is missing or named otherwise, ConfigError for an impossible ``dtype`` or
    ``device``, MissingDependencyError without onnxruntime.
    """
    library("onnxruntime")
    kind = "cpu" if device == "auto" else device
    if kind not in PROVIDERS:
        raise ConfigError(f"device {device!r} is not one for an export; expected auto, {', '.join(PROVIDERS)}")
    place = _place(source, dtype, revision, offline)
    folder = place.folder
    graphs = folder / names.FOLDER if (folder / names.FOLDER).is_dir() else folder
    format = _format(graphs, dtype)
    config = configs.read(folder, "microsoft", place.name)
    tokenizer = read_tokenizer(folder, config.text)
    words = count_words(tokenizer, config.text)
    config = dataclasses.replace(config, text=dataclasses.replace(config.text, vocab_size=words))
    model = _open(config, graphs, format, kind)
    return OnnxCheckpoint(model, tokenizer, config, source=place.name, calibration=Calibration.load(folder))


def _place(source: str | Path | None, dtype: str, revision: str | None, offline: bool | None) -> hub.Place:
    if source is None:
        raise CheckpointError(
            f"the embedded model is not carried as ONNX; export it first: {HOW.replace('MODEL', 'nano')}"
        )
    if Path(source).expanduser().is_file():
        raise CheckpointError(f"{source} is one file of an export; give the folder that holds config.json")
    return hub.locate(source, revision, offline, functools.partial(_fetch, _suffix(dtype)))


def _fetch(suffix: str, repository: str, revision: str | None, offline: bool | None) -> Path:
    """The snapshot with the graphs of one precision: the merged decoder where there is one, else the pair."""

    def fetched(*files: str) -> Path:
        patterns = [f"{folder}{file}{suffix}.onnx*" for folder in (f"{names.FOLDER}/", "") for file in files]
        return hub.snapshot(repository, revision, offline, patterns)

    folder = fetched(names.VISION, names.EMBED, names.ENCODER, names.MERGED)
    if not any(folder.rglob(f"{names.MERGED}{suffix}.onnx")):
        folder = fetched(names.FIRST, names.NEXT)
    return folder


def _suffix(dtype: str) -> str:
    """The ending of the files of a precision. Raises ConfigError for one that is none."""
    if dtype != "auto" and dtype not in names.SUFFIXES:
        raise ConfigError(f"dtype {dtype!r} is not one of an export; expected auto, {', '.join(names.SUFFIXES)}")
    return "" if dtype == "auto" else names.SUFFIXES[dtype]


def _format(graphs: Path, dtype: str) -> str:
    """The precision whose files are read."""
    known = {precision: _missing(graphs, suffix) for precision, suffix in names.SUFFIXES.items()}
    whole = [precision for precision, missing in known.items() if not missing]
    if dtype == "auto" and whole:
        return whole[0]
    wanted = "float32" if dtype == "auto" else dtype
    if wanted in whole:
        return wanted
    found = ", ".join(sorted(path.name for path in graphs.glob("*.onnx"))) or "no .onnx file"
    there = f"; whole are {', '.join(whole)}" if whole else ""
    raise CheckpointError(
        f"{graphs} lacks {' and '.join(known[wanted])} for {wanted}; found {found}{there}. Copy the missing files, or "
        f"export the model again: {HOW}, with --int8 in both precisions"
    )


def _missing(graphs: Path, suffix: str) -> list[str]:
    def there(name: str) -> bool:
        return (graphs / f"{name}{suffix}.onnx").is_file()

    missing = [f"{name}{suffix}.onnx" for name in (names.VISION, names.EMBED, names.ENCODER) if not there(name)]
    if not there(names.MERGED) and not (there(names.FIRST) and there(names.NEXT)):
        missing.append(f"{names.MERGED}{suffix}.onnx (or the pair {names.FIRST}, {names.NEXT})")
    return missing


def _open(config: Florence2Config, graphs: Path, format: str, device: str) -> OnnxModel:
    suffix = names.SUFFIXES[format]

    def opened(name: str, needs: list[str], gives: list[str], takes: list[str]) -> Session:
        return Session(graphs / f"{name}{suffix}.onnx", device, needs, gives, takes)

    layers = config.text.decoder_layers
    vision = opened(names.VISION, [names.PIXELS], [names.IMAGE_FEATURES], [])
    _check_size(vision, config)
    own, cross = names.past("decoder", layers), names.past("encoder", layers)
    outputs = [names.LOGITS, *names.present("decoder", layers)]
    everything = [*outputs, *names.present("encoder", layers)]
    inputs = [names.EMBEDS, names.MEMORY_MASK]
    if (graphs / f"{names.MERGED}{suffix}.onnx").is_file():
        needs = [*inputs, names.MEMORY_STATES, *own, *cross, names.USE_CACHE]
        first = following = opened(names.MERGED, needs, everything, [])
    else:
        first = opened(names.FIRST, [*inputs, names.MEMORY_STATES], everything, [])
        following = opened(names.NEXT, [names.EMBEDS, *own, *cross], outputs, [names.MEMORY_MASK, names.MEMORY_STATES])
    return OnnxModel(
        config,
        vision,
        opened(names.EMBED, [names.IDS], [names.EMBEDS], []),
        opened(names.ENCODER, [names.EMBEDS, names.MASK], [names.STATES], []),
        Decoder(config, first, following),
        format,
    )


def _check_size(vision: Session, config: Florence2Config) -> None:
    """Where the graph has a size of its own, it must be the one that photos are made to."""
    sides = vision.shapes[names.PIXELS][-2:]
    fixed = [side for side in sides if isinstance(side, int)]
    if fixed and tuple(sides) != config.image.size:
        height, width = config.image.size
        raise CheckpointError(
            f"{vision.path} takes photos of {sides[1]} x {sides[0]} pixels, preprocessor_config.json says {width} x "
            f"{height}; the two do not belong together: copy both from one export"
        )
