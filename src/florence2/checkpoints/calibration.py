"""From the score that a model gives to the probability that it is right: a monotone map per task.

Stored beside the weights as ``calibration.json``, fitted by ``florence2.evaluation.calibrate``, applied by the
pipeline.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from florence2.results import Answer

FILE = "calibration.json"


@dataclass(frozen=True)
class Curve:
    """Straight lines between the points (score, probability); level beyond the first and the last."""

    scores: tuple[float, ...]
    probabilities: tuple[float, ...]

    def __call__(self, score: float) -> float:
        raise NotImplementedError


@dataclass(frozen=True)
class Calibration:
    curves: dict[str, Curve]
    """By task token; a task without one keeps its scores."""

    def apply(self, answer: Answer) -> Answer:
        """The answer with probabilities for scores: of its objects, or of a Text its confidence."""
        raise NotImplementedError

    @classmethod
    def load(cls, folder: Path) -> Calibration | None:
        """What is stored in a checkpoint's folder; None where nothing is."""
        raise NotImplementedError

    def save(self, folder: Path) -> Path:
        raise NotImplementedError
