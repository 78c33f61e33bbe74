"""A run as one JSON object: what was asked of whom, and every figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from florence2.evaluation.metrics import calibration
from florence2.evaluation.outcomes import Judged, Outcome


def document(outcomes: Sequence[Outcome], model: str, details: Mapping[str, object]) -> dict[str, Any]:
    """Figures in [0, 1] but CIDEr, error rates and distances; None where one does not exist."""
    return {
        "model": model,
        "details": dict(details),
        "benchmarks": {outcome.benchmark.name: _benchmark(outcome) for outcome in outcomes},
    }


def _benchmark(outcome: Outcome) -> dict[str, Any]:
    benchmark, measured = outcome.benchmark, outcome.measured
    return {
        "title": benchmark.title,
        "task": benchmark.task,
        "protocol": benchmark.protocol,
        "templated": benchmark.templated,
        "samples": len(outcome.samples),
        "photos": len({sample.photo for sample in outcome.samples}),
        "errors": {outcome.samples[number].id: error for number, error in outcome.errors.items()},
        "main": benchmark.main,
        "figures": measured.figures,
        "intervals": {name: list(borders) for name, borders in outcome.intervals.items()},
        "blind": outcome.blind,
        "calibration": _calibration(measured.judged, outcome.uncalibrated),
        "classes": {name: dict(figures) for name, figures in measured.classes.items()},
        "paper": [asdict(published) for published in benchmark.paper],
    }


def _calibration(judged: Sequence[Judged], before: Sequence[Judged] | None) -> dict[str, Any] | None:
    """ECE and Brier score of what was said with a score, and before it was calibrated."""
    if not judged:
        return None
    found: dict[str, Any] = {"count": len(judged), **_errors(judged)}
    if before is not None:
        found["uncalibrated"] = _errors(before)
    return found


def _errors(judged: Sequence[Judged]) -> dict[str, float]:
    scores, right = [j.score for j in judged], [j.right for j in judged]
    return {"ECE": calibration.ece(scores, right), "Brier": calibration.brier(scores, right)}
