"""From the score that a model gives to the probability that it is right: a monotone map per task.

Stored beside the weights as ``calibration.json``, fitted by ``florence2.evaluation.calibrate``, applied by the
pipeline. A curve rises strictly, so who ranks by score ranks by probability, and average precision stays what it was
(but for scores that differ by less than float64 can tell apart).

    {"format": "florence2-calibration", "version": 1, "notes": {...},
     "tasks": {"<OD>": {"of": "score", "scores": [0, 0.3, 1], "probabilities": [0, 0.6, 0.9]}}}
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import uuid
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from florence2.checkpoints.configs import read_json
from florence2.errors import CheckpointError, ConfigError
from florence2.results import Answer

FILE = "calibration.json"
FORMAT, VERSION = "florence2-calibration", 1

Of = Literal["score", "confidence"]
"""What a curve maps: the score of each object, outline or text region, or the confidence of a Text."""


@dataclass(frozen=True)
class Curve:
    """Straight lines between the points (score, probability), from score 0 to score 1, rising strictly."""

    scores: tuple[float, ...]
    probabilities: tuple[float, ...]
    of: Of = "score"

    def __post_init__(self) -> None:
        if self.of not in ("score", "confidence"):
            raise ConfigError(f'of is {self.of!r}, expected "score" or "confidence"')
        for name in ("scores", "probabilities"):
            values = getattr(self, name)
            for i, value in enumerate(values):
                if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:  # NaN too
                    raise ConfigError(f"{name}[{i}] is {value!r}, expected a number from 0 to 1")
            for i, (one, next_) in enumerate(pairwise(values)):
                if not one < next_:
                    raise ConfigError(
                        f"{name}[{i + 1}] is {next_!r} behind {one!r}; both must rise strictly, or the order of scores "
                        "would change"
                    )
        if len(self.scores) != len(self.probabilities):
            raise ConfigError(f"{len(self.scores)} scores and {len(self.probabilities)} probabilities; expected pairs")
        if len(self.scores) < 2 or (self.scores[0], self.scores[-1]) != (0, 1):
            raise ConfigError(f"scores are {_ends(self.scores)}; expected them to begin with 0 and end with 1")

    def __call__(self, score: float) -> float:
        return _on_lines(self.scores, self.probabilities, score)

    def score(self, probability: float) -> float:
        """The inverse: the score that became ``probability``, up to rounding."""
        return _on_lines(self.probabilities, self.scores, probability)


@dataclass(frozen=True)
class Calibration:
    curves: dict[str, Curve]
    """By task token; a task without one keeps its scores."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What it was fitted on and what it achieves, as JSON; changes nothing."""

    @property
    def fingerprint(self) -> str:
        """The same for the same curves."""
        return hashlib.sha256(json.dumps(self._tasks(), sort_keys=True).encode()).hexdigest()[:16]

    def apply(self, answer: Answer) -> Answer:
        """The answer with probabilities for scores: of its objects, or of a Text its confidence."""
        curve = self.curves.get(answer.task)
        if curve is None or (curve.of == "score") != (answer.items_field is not None):
            return answer
        if answer.items_field is None:
            return dataclasses.replace(answer, confidence=curve(answer.confidence))
        items = tuple(
            dataclasses.replace(item, score=curve(item.score)) for item in getattr(answer, answer.items_field)
        )
        changes: dict[str, Any] = {answer.items_field: items}
        return dataclasses.replace(answer, **changes)

    @classmethod
    def load(cls, folder: Path) -> Calibration | None:
        """What is stored in a checkpoint's folder; None where nothing is. Raises CheckpointError where it is broken."""
        path = Path(folder) / FILE
        if not path.exists():
            return None
        values = read_json(path)
        try:
            _fields(values, "the file", ("format", "version", "tasks"), ("notes",))
            if values["format"] != FORMAT:
                raise ConfigError(f"format is {values['format']!r}, expected {FORMAT!r}")
            if values["version"] != VERSION or isinstance(values["version"], bool):
                raise ConfigError(
                    f"version is {values['version']!r}, this version of florence2 reads {VERSION}; update florence2"
                )
            tasks, notes = _object(values["tasks"], "tasks"), _object(values.get("notes", {}), "notes")
            return cls({task: _curve(stored, f"tasks[{task!r}]") for task, stored in tasks.items()}, notes)
        except ConfigError as error:
            raise CheckpointError(
                f"{path}: {error}. Copy the file again from where the weights came from, or delete it: scores are then "
                "as the model gives them"
            ) from error

    def save(self, folder: Path) -> Path:
        """Write it beside the weights, whole or not at all. Raises CheckpointError where that cannot be."""
        path = Path(folder) / FILE
        part = path.with_name(f".{FILE}.{uuid.uuid4().hex[:8]}.part")
        content = {"format": FORMAT, "version": VERSION, "notes": self.notes, "tasks": self._tasks()}
        try:
            text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)
            part.write_text(text + "\n", encoding="utf-8")
            os.replace(part, path)
        except (OSError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be written: {error}") from error
        finally:
            part.unlink(missing_ok=True)
        return path

    def _tasks(self) -> dict[str, Any]:
        return {
            task: {"of": curve.of, "scores": list(curve.scores), "probabilities": list(curve.probabilities)}
            for task, curve in self.curves.items()
        }


def _on_lines(xs: Sequence[float], ys: Sequence[float], x: float) -> float:
    """Never falling, also in float64: the slope of a line is computed once, and no line passes its end."""
    if x <= xs[0]:
        return ys[0]
    if x >= xs[-1]:
        return ys[-1]
    right = bisect_right(xs, x)
    x0, x1, y0, y1 = xs[right - 1], xs[right], ys[right - 1], ys[right]
    return min(y0 + (x - x0) * ((y1 - y0) / (x1 - x0)), y1)


def _curve(stored: Any, where: str) -> Curve:
    values = _object(stored, where)
    _fields(values, where, ("of", "scores", "probabilities"), ())
    for name in ("scores", "probabilities"):
        if not isinstance(values[name], list):
            raise ConfigError(f"{where}.{name} is a {type(values[name]).__name__}, expected a list of numbers")
    try:
        return Curve(tuple(values["scores"]), tuple(values["probabilities"]), values["of"])
    except ConfigError as error:
        raise ConfigError(f"{where}.{error}") from error


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} is a {type(value).__name__}, expected an object")
    return value


def _fields(values: dict[str, Any], where: str, needed: Sequence[str], free: Sequence[str]) -> None:
    missing = [name for name in needed if name not in values]
    unknown = [name for name in values if name not in (*needed, *free)]
    if missing:
        raise ConfigError(f"{where} has no {missing[0]!r}")
    if unknown:
        raise ConfigError(f"{where} has an unknown field {unknown[0]!r}; known: {', '.join((*needed, *free))}")


def _ends(values: Sequence[float]) -> str:
    return f"{values[0]} to {values[-1]}" if values else "none"
