"""What a training run does, written down: the recipe, a TOML file, strict to the last name.

    recipe = Recipe.load("recipes/finetune-detection.toml", ["optimizer.lr=1e-4"])

Every field is a word of the file; tables are dataclasses. ``florence2 train --explain RECIPE`` says what a recipe would
do. Relative paths start at the working directory; ``~`` and ``$NAME`` in paths are expanded.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from florence2.checkpoints.adapters import LoraSettings
from florence2.data.augment import Augment
from florence2.data.scenes import SceneSettings
from florence2.data.targets import ORDERS, Order
from florence2.errors import ConfigError
from florence2.language import tasks
from florence2.training import strict

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SMALLEST = 32
"""Pixels of a side: what DaViT makes one position of."""
Part = Literal["vision", "projector", "embedding", "encoder", "decoder", "text"]
"""Parts of the model; "text" is embedding, encoder and decoder."""


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    source: str = "nano"
    """What is trained further: "nano" (the embedded model), a folder or a hub id."""
    preset: Literal["", "nano", "base", "large"] = ""
    """Start from random weights of this architecture instead of ``source``."""
    tokenizer: str = ""
    """With ``preset``: folder of a tokenizer. Empty: one is trained on the data, of the size of the preset."""
    vocab_size: int = 0
    """Of the tokenizer that is trained; 0: that of the preset."""
    new_words: tuple[str, ...] = ()
    """Words that become tokens of their own."""
    freeze: tuple[Part, ...] = ()
    """Parts that do not learn. Their bytes are compared at the end."""
    gradient_checkpointing: tuple[Literal["vision", "text"], ...] = ()
    """Recompute instead of remember: less memory, about a third more time."""
    compile: bool = False
    """torch.compile: worth its minutes of preparation on a GPU only."""

    def __post_init__(self) -> None:
        if (self.tokenizer or self.vocab_size) and not self.preset:
            raise ConfigError("tokenizer and vocab_size go with preset; a source brings its own")
        if self.preset and self.source != "nano":
            raise ConfigError(
                f"preset {self.preset!r} begins with random weights and source {self.source!r} with trained ones; "
                "give one of the two"
            )
        if self.vocab_size < 0:
            raise ConfigError(f"vocab_size is {self.vocab_size}, expected a number of words, or 0 for the preset's")


@dataclass(frozen=True, kw_only=True)
class DataChoice:
    """One source of records."""

    path: str = ""
    """File or folder of a data set."""
    format: str = ""
    """Its format, where it is not recognised."""
    scenes: SceneSettings | None = None
    """Composed scenes instead of a data set."""
    tasks: tuple[str, ...] | dict[str, float] = ()
    """Tasks that it teaches, with how often each is drawn if given as a table; none: all that it can teach."""
    weight: float | None = None
    """Share of the photos drawn, relative to the other sources; give it for all or for none (then all records are
    drawn equally often)."""
    limit: int | None = None
    """Only the first records."""
    hold_out: float = 0.0
    """Share of the records, chosen by their id, that is kept for validation."""
    order: Order = "given"
    """Of boxes in an answer: given (as in the data), random, raster (from the top left, row by row), area."""
    negatives: int = 1
    """Absent classes that open-vocabulary detection is asked for, per photo."""
    max_points: int | None = None
    """Outlines of more points are thinned out."""
    augment: Augment | None = None
    """Instead of the recipe's ``augment``."""

    def __post_init__(self) -> None:
        if bool(self.path) == (self.scenes is not None):
            raise ConfigError("a source has either a path or scenes; give one of the two")
        if not 0 <= self.hold_out < 1:
            raise ConfigError(f"hold_out is {self.hold_out}, expected a share from 0 to below 1")
        if self.weight is not None and self.weight <= 0:
            raise ConfigError(f"weight is {self.weight}, expected more than 0; remove the source to leave it out")
        if self.order not in ORDERS:
            raise ConfigError(f"order is {self.order!r}, expected one of {', '.join(ORDERS)}")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit is {self.limit}, expected at least 1; leave it out to take all records")
        if self.negatives < 0:
            raise ConfigError(f"negatives is {self.negatives}, expected 0 or more")
        if self.max_points is not None and self.max_points < 3:
            raise ConfigError(f"max_points is {self.max_points}; an outline has at least 3")
        given = self.tasks if isinstance(self.tasks, dict) else dict.fromkeys(self.tasks, 1.0)
        for name, weight in given.items():
            if weight <= 0:
                raise ConfigError(f"the weight of {name} is {weight}, expected more than 0")
        object.__setattr__(self, "tasks", {tasks.get(name).name: weight for name, weight in given.items()})

    @property
    def task_weights(self) -> dict[str, float]:
        """Empty where every task is taught alike."""
        assert isinstance(self.tasks, dict)
        return self.tasks


@dataclass(frozen=True, kw_only=True)
class BatchSize:
    images: int = 8
    """Photos of one step of the optimiser, over all processes."""
    micro: int = 0
    """Photos that one process takes at a time; the rest is accumulated. 0: all that fall to it."""
    targets: int = 4
    """Answers per photo and step; the photo is encoded once for all of them. 0: all that there are."""
    workers: int | None = None
    """Processes per rank that prepare photos; 0: the training process itself. Not given: 4 beside a GPU, else 0."""

    def __post_init__(self) -> None:
        if self.images < 1:
            raise ConfigError(f"images is {self.images}, expected at least 1")
        for name, value in (("micro", self.micro), ("targets", self.targets), ("workers", self.workers or 0)):
            if value < 0:
                raise ConfigError(f"{name} is {value}, expected 0 or more")


@dataclass(frozen=True, kw_only=True)
class OptimizerChoice:
    """AdamW, decoupled weight decay (Loshchilov and Hutter, 2019); none on norms, biases and embeddings."""

    lr: float = 1e-5
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01
    clip: float = 1.0
    """Largest norm of all gradients together; 0: no limit."""
    lr_scale: dict[Part, float] = field(default_factory=dict)
    """Factors on the learning rate of parts, such as ``{ vision = 0.1 }``."""
    layer_decay: float = 1.0
    """Factor per layer downwards (layer-wise learning rates, as in ELECTRA); 1: all layers learn alike."""
    ema: float = 0.0
    """Decay of the running average of the weights that is validated and saved, such as 0.999; 0: none."""

    def __post_init__(self) -> None:
        shares = (("betas[0]", self.betas[0]), ("betas[1]", self.betas[1]), ("ema", self.ema))
        for name, value in shares:
            if not 0 <= value < 1:
                raise ConfigError(f"{name} is {value}, expected a share from 0 to below 1")
        for name, value in (("lr", self.lr), ("eps", self.eps)):
            if not value > 0:
                raise ConfigError(f"{name} is {value}, expected more than 0")
        for name, value in (("weight_decay", self.weight_decay), ("clip", self.clip)):
            if not value >= 0:
                raise ConfigError(f"{name} is {value}, expected 0 or more")
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(f"layer_decay is {self.layer_decay}, expected a factor above 0, at most 1")
        for part, scale in self.lr_scale.items():
            if not scale > 0:
                raise ConfigError(f"lr_scale.{part} is {scale}, expected more than 0; model.freeze stops a part")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    steps: int = 0
    """Of the optimiser."""
    epochs: float = 0.0
    """Instead of ``steps``: passes over as many photos as the data has."""
    warmup: int = 0
    """Steps in which the learning rate rises."""
    shape: Literal["cosine", "linear", "constant"] = "cosine"
    """How it falls behind the warm-up."""
    floor: float = 0.0
    """Share of the learning rate that is left at the end."""

    def __post_init__(self) -> None:
        if (self.steps > 0) == (self.epochs > 0) or min(self.steps, self.epochs) < 0:
            raise ConfigError(f"give steps or epochs, one of the two; found steps {self.steps}, epochs {self.epochs}")
        if self.warmup < 0:
            raise ConfigError(f"warmup is {self.warmup}, expected a number of steps, 0 or more")
        if not 0 <= self.floor <= 1:
            raise ConfigError(f"floor is {self.floor}, expected a share from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class Resolution:
    size: tuple[int, int] | int
    """Side in pixels, or (height, width)."""
    until: float = 1.0
    """Share of the steps at which it ends."""

    def __post_init__(self) -> None:
        if min(self.pixels) < SMALLEST:
            raise ConfigError(f"size is {self.size}, expected at least {SMALLEST} pixels")
        if not 0 < self.until <= 1:
            raise ConfigError(f"until is {self.until}, expected a share of the steps above 0, at most 1")

    @property
    def pixels(self) -> tuple[int, int]:
        """(height, width)"""
        return (self.size, self.size) if isinstance(self.size, int) else self.size


@dataclass(frozen=True, kw_only=True)
class LossChoice:
    label_smoothing: float = 0.0
    """Share of the truth that is spread over all tokens."""
    location_spread: float = 0.0
    """Standard deviation, in bins, of a Gaussian over which the truth of a location token is spread: its neighbours
    are nearly right. Helps where data is little; 0 is the paper's loss."""

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"label_smoothing is {self.label_smoothing}, expected a share from 0 to below 1")
        if not self.location_spread >= 0:
            raise ConfigError(f"location_spread is {self.location_spread}, expected 0 or more bins")


@dataclass(frozen=True, kw_only=True)
class ValidationChoice:
    data: dict[str, DataChoice] = field(default_factory=dict)
    """Data sets to validate on, beside what the training sources hold out."""
    every: int = 500
    """Steps."""
    first: bool = False
    """Validate before the first step too, to see what training changes."""
    records: int = 200
    """At most so many per source, the same every time."""
    answers: bool = False
    """Also let the model answer, and score the answers by the metric of each task."""
    best: str = "loss"
    """The figure that decides which model is kept as best, such as "loss" or "<OD> AP50"."""

    def __post_init__(self) -> None:
        if self.every < 1 or self.records < 1:
            raise ConfigError(f"every is {self.every} and records {self.records}, expected at least 1 of each")
        if self.best.startswith("<"):
            tasks.get(self.best.partition(" ")[0])
        if not self.answers and not self.best.endswith(("loss", "token accuracy")):
            raise ConfigError(
                f"best is {self.best!r}, a figure of answers; set answers = true, or name one of losses and tokens, "
                'such as "loss" or "<OD> loss"'
            )


@dataclass(frozen=True, kw_only=True)
class SaveChoice:
    every: int = 500
    """Steps between two snapshots."""
    keep: int = 2
    """Snapshots that stay, the last ones; 0: all. The best model is kept beside them."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ConfigError(f"every is {self.every}, expected at least 1 step")
        if self.keep < 0:
            raise ConfigError(f"keep is {self.keep}, expected a number of snapshots, or 0 for all")


@dataclass(frozen=True, kw_only=True)
class LogChoice:
    every: int = 10
    """Steps between two lines of log.jsonl."""
    tensorboard: bool = True
    """Also write curves for TensorBoard."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ConfigError(f"every is {self.every}, expected at least 1 step")


@dataclass(frozen=True, kw_only=True)
class Preflight:
    records: int = 5000
    """Records of each source that are checked before training, spread evenly; 0: all."""
    problems: Literal["stop", "skip"] = "stop"
    """What happens where there are problems: stop, or leave these records out (then all are checked)."""

    def __post_init__(self) -> None:
        if self.records < 0:
            raise ConfigError(f"records is {self.records}, expected 0 (all) or more")


@dataclass(frozen=True, kw_only=True)
class Run:
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda, cuda:1, mps."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the arithmetic; weights and optimiser stay float32. auto: bf16 on GPUs that have it, else fp32."""
    distributed: Literal["ddp", "fsdp"] = "ddp"
    """How several processes (torchrun) share the model."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    output: str
    """Folder of the run: snapshots, logs, the trained model."""
    schedule: Schedule
    data: dict[str, DataChoice]
    """By names of your choice."""
    seed: int = 0
    """Decides everything that is drawn; the same recipe gives the same run."""
    model: ModelChoice = ModelChoice()
    lora: LoraSettings | None = None
    """Train an adapter, and nothing else."""
    batch: BatchSize = BatchSize()
    augment: Augment = field(default_factory=Augment)
    """How photos and their records are changed before they are learned from."""
    optimizer: OptimizerChoice = OptimizerChoice()
    loss: LossChoice = LossChoice()
    resolution: tuple[Resolution, ...] = ()
    """Sizes one after the other; none: the size of the model."""
    validation: ValidationChoice = ValidationChoice()
    save: SaveChoice = SaveChoice()
    log: LogChoice = LogChoice()
    preflight: Preflight = Preflight()
    run: Run = Run()

    def __post_init__(self) -> None:
        if not self.data:
            raise ConfigError("the recipe has no data; add a table such as [data.mine] with a path")
        weighted = [name for name, source in self.data.items() if source.weight is not None]
        if weighted and len(weighted) < len(self.data):
            missing = sorted(set(self.data) - set(weighted))
            raise ConfigError(f"data.{weighted[0]} has a weight and data.{missing[0]} has none; weigh all or none")
        ends = [stage.until for stage in self.resolution]
        if ends and (sorted(ends) != ends or ends[-1] != 1.0):
            raise ConfigError(f"resolution: until must rise to 1.0, found {ends}")
        if self.lora is not None:
            _check_lora(self.model)
        if self.lora is not None and self.run.distributed == "fsdp":
            raise ConfigError("lora trains so little that fsdp saves nothing; use ddp")
        if self.run.precision == "fp16" and self.run.distributed == "fsdp":
            raise ConfigError("fp16 needs loss scaling, which fsdp does not share; use bf16")

    @classmethod
    def load(cls, path: str | Path, changes: Iterable[str] = ()) -> Recipe:
        """Reads a TOML file; ``changes`` are ``table.name=value`` with the value as TOML writes it.

        A change of one of two alternatives (``path`` and ``scenes`` of a source, ``steps`` and ``epochs``, ``source``
        and ``preset`` of the model) takes the place of the other.

        Raises ConfigError where the file is missing, is no TOML, or says something that no recipe can say.
        """
        path = Path(path)
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"the recipe {path} cannot be read ({error.strerror}); check the path") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is no TOML: {error}") from error
        for change in changes:
            place, value = _change(change)
            strict.assign(table, place, value)
            _drop_alternative(table, place)
        try:
            return cls.from_dict(table)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    @classmethod
    def from_dict(cls, table: dict[str, Any]) -> Recipe:
        return strict.build(cls, table)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, all defaults written out."""
        return dataclasses.asdict(self)


def _check_lora(model: ModelChoice) -> None:
    """An adapter is saved without its model: whoever loads it must be able to get the same one."""
    if model.freeze:
        raise ConfigError("lora freezes the whole model but its adapters; leave out model.freeze")
    if model.preset:
        raise ConfigError("lora saves an adapter without its model, and random weights are nowhere else; give a source")
    if model.new_words:
        raise ConfigError(
            "lora saves an adapter without the new words; save a model that has them first (docs/adapters.md) and name "
            "it as model.source"
        )


_EITHER = (("path", "scenes"), ("steps", "epochs"), ("source", "preset"))


def _drop_alternative(table: dict[str, Any], place: str) -> None:
    """What was set takes the place of what it cannot go together with."""
    *parents, name = place.split(".")
    for parent in parents:
        table = table[parent]
    for pair in _EITHER:
        if name in pair:
            table.pop(pair[1 - pair.index(name)], None)


def _change(change: str) -> tuple[str, Any]:
    path, equals, text = change.partition("=")
    if not equals or not path.strip():
        raise ConfigError(f"--set {change}: expected table.name=value, such as optimizer.lr=1e-4")
    try:
        return path.strip(), tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return path.strip(), text.strip()  # a text without its quotes, as a shell leaves it
