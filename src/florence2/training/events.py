"""What a run tells those who watch it: progress bars, logs, and whatever a user passes as ``watchers``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Plan:
    """Known before the first step."""

    folder: Path
    steps: int
    start: int
    """Steps that an earlier start of the run has made."""
    images_per_step: int


@dataclass(frozen=True)
class Progressed:
    """The steps since the last report."""

    step: int
    """Steps made so far."""
    loss: float
    """Mean negative log-likelihood of an answer token."""
    tasks: Mapping[str, float]
    """The same per task; the empty name is for prompts of no known task."""
    lr: float
    """Of the fastest group."""
    norm: float
    """Of the last gradient, before it was clipped."""
    images_per_second: float
    tokens_per_second: float
    skipped: tuple[str, ...] = ()
    """Records and targets that could not be used."""


@dataclass(frozen=True)
class Validated:
    step: int
    figures: Mapping[str, float]
    """By name: "loss", "<OD> loss", "<OD> token accuracy", "<OD> AP50" ..."""
    best: bool
    """Better than ever before in this run."""


@dataclass(frozen=True)
class Finished:
    """How a run ended."""

    folder: Path
    step: int
    steps: int
    model: Path | None
    """The trained checkpoint, or the adapter; None where the run was stopped before its end."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Of the last validation."""

    @property
    def complete(self) -> bool:
        return self.step == self.steps


class Watcher:
    """Does nothing; override what is of interest. Only the leading process calls watchers."""

    def begin(self, plan: Plan) -> None: ...
    def doing(self, what: str, done: int) -> None:
        """Preparation and validation: ``done`` records of it so far."""

    def progressed(self, progress: Progressed) -> None: ...
    def stepped(self, step: int) -> None:
        """After every step."""

    def validated(self, validated: Validated) -> None: ...
    def saved(self, path: Path) -> None: ...
    def finished(self, finished: Finished) -> None: ...
