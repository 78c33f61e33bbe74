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
    negatives: int = 1
    max_points: int | None = None
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
        if self.images < 1 or self.micro < 0 or self.targets < 0 or (self.workers or 0) < 0:
            raise ConfigError("images must be at least 1; micro, targets and workers must not be negative")


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
        if self.lr <= 0 or self.layer_decay <= 0 or not 0 <= self.ema < 1 or self.clip < 0:
            raise ConfigError("expected lr > 0, layer_decay > 0, 0 <= ema < 1 and clip >= 0")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    steps: int = 0
    epochs: float = 0.0
    """Instead of ``steps``: passes over as many photos as the data has."""
    warmup: int = 0
    """Steps in which the learning rate rises."""
    shape: Literal["cosine", "linear", "constant"] = "cosine"
    floor: float = 0.0
    """Share of the learning rate that is left at the end."""

    def __post_init__(self) -> None:
        if (self.steps > 0) == (self.epochs > 0):
            raise ConfigError(f"give steps or epochs, one of the two; found steps {self.steps}, epochs {self.epochs}")


@dataclass(frozen=True, kw_only=True)
class Resolution:
    size: tuple[int, int] | int
    """Side in pixels, or (height, width)."""
    until: float = 1.0
    """Share of the steps at which it ends."""

    @property
    def pixels(self) -> tuple[int, int]:
        """(height, width)"""
        return (self.size, self.size) if isinstance(self.size, int) else self.size


@dataclass(frozen=True, kw_only=True)
class LossChoice:
    label_smoothing: float = 0.0
    location_spread: float = 0.0
    """Standard deviation, in bins, of a Gaussian over which the truth of a location token is spread: its neighbours
    are nearly right. Helps where data is little; 0 is the paper's loss."""

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1 or self.location_spread < 0:
            raise ConfigError("expected 0 <= label_smoothing < 1 and location_spread >= 0")


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


@dataclass(frozen=True, kw_only=True)
class SaveChoice:
    every: int = 500
    """Steps between two snapshots."""
    keep: int = 2
    """Snapshots that stay; the best model is kept beside them."""


@dataclass(frozen=True, kw_only=True)
class LogChoice:
    every: int = 10
    """Steps between two lines of log.jsonl."""
    tensorboard: bool = True


@dataclass(frozen=True, kw_only=True)
class Preflight:
    records: int = 5000
    """Records of each source that are checked before training, spread evenly; 0: all."""
    problems: Literal["stop", "skip"] = "stop"
    """What happens where there are problems: stop, or leave these records out (then all are checked)."""


@dataclass(frozen=True, kw_only=True)
class Run:
    device: str = "auto"
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
    seed: int = 0
    model: ModelChoice = ModelChoice()
    lora: LoraSettings | None = None
    batch: BatchSize = BatchSize()
    augment: Augment = field(default_factory=Augment)
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
        if self.lora is not None and self.model.freeze:
            raise ConfigError("lora freezes the whole model but its adapters; leave out model.freeze")
        if self.lora is not None and self.run.distributed == "fsdp":
            raise ConfigError("lora trains so little that fsdp saves nothing; use ddp")
        if self.run.precision == "fp16" and self.run.distributed == "fsdp":
            raise ConfigError("fp16 needs loss scaling, which fsdp does not share; use bf16")

    @classmethod
    def load(cls, path: str | Path, changes: Iterable[str] = ()) -> Recipe:
        """Reads a TOML file; ``changes`` are ``table.name=value`` with the value as TOML writes it.

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
            strict.assign(table, *_change(change))
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


def _change(change: str) -> tuple[str, Any]:
    path, equals, text = change.partition("=")
    if not equals or not path.strip():
        raise ConfigError(f"--set {change}: expected table.name=value, such as optimizer.lr=1e-4")
    try:
        return path.strip(), tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return path.strip(), text.strip()  # a text without its quotes, as a shell leaves it
