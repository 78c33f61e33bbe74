"""How often was the model right at each score? Judged answers → a curve per task that makes scores probabilities.

    blocks   isotonic regression: neighbouring scores joined until the share of right ones never falls
    joined   blocks of few things joined with a neighbour, since a share of three things says nothing
    lines    the blocks' (mean score, share) joined by straight lines, level beyond the first and the last
    rising   0.999 of that and 0.001 of the score itself, so that the curve rises strictly and ranking stays

What a curve is worth is told by cross-validation: each fifth of the photos is judged by a curve fitted on the others.

Sources: Zadrozny and Elkan (2002), "Transforming classifier scores into accurate multiclass probability estimates";
Naeini et al. (2015) for the expected calibration error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from florence2.checkpoints.calibration import Calibration, Curve, Of
from florence2.errors import DataError
from florence2.evaluation import runner
from florence2.evaluation.benchmarks.records import Benchmark
from florence2.evaluation.metrics.calibration import brier, ece
from florence2.evaluation.metrics.libraries import library
from florence2.evaluation.outcomes import Judged
from florence2.language import tasks
from florence2.results import Text

FEWEST = 200
"""Judged things of a task; with fewer it keeps its scores."""
FOLDS = 5
BLOCK = 25
"""Judged things of a block, at least."""
RISE = 1e-3
"""The part of the score itself in a probability: the least slope of a curve."""
APART = 1e-6
"""Blocks whose mean scores are closer than this are one."""

Points = list[tuple[float, float]]


def fit(
    judged: Mapping[str, Sequence[Judged]],
    *,
    fewest: int = FEWEST,
    folds: int = FOLDS,
    notes: Mapping[str, Any] | None = None,
) -> Calibration:
    """The calibration of a model from what it said, by task token, with its own scores (``calibrated=False``).

    Samples of one photo stand together in their numbers and are kept together in the folds; who pools several
    benchmarks of one task gives them different numbers. A task is left out, and ``notes["left out"]`` says why, where
    fewer than ``fewest`` things were judged, all or none were right, or unseen photos gain nothing from the curve.
    ``notes["tasks"]`` holds for each other task how many were judged, the share that was right, and the expected
    calibration error and Brier score before and, on unseen photos, after. ``notes`` given are kept beside these.

    Raises DataError where no task is left, MissingDependencyError without scikit-learn.
    """
    if folds < 2:
        raise DataError(f"{folds} folds were asked for; expected 2 or more")
    curves: dict[str, Curve] = {}
    achieved: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for task, things in judged.items():
        problem = _problem(things, fewest, folds)
        if problem is None:
            figures = _cross_validated(things, folds)
            if figures["ece after"] < figures["ece before"]:
                curves[task], achieved[task] = fit_curve(things, _of(task)), figures
                continue
            problem = (
                f"on unseen photos its expected calibration error would go from {figures['ece before']:.4f} to "
                f"{figures['ece after']:.4f}"
            )
        left_out[task] = problem
    if not curves:
        why = "; ".join(f"{task}: {problem}" for task, problem in left_out.items()) or "nothing was judged"
        raise DataError(f"there is no task to calibrate ({why})")
    found: dict[str, Any] = {**(notes or {}), "tasks": achieved}
    if left_out:
        found["left out"] = left_out
    return Calibration(curves, found)


def fit_run(folder: Path, find: Callable[[str], list[Benchmark]], data: Path | None = None) -> Calibration:
    """The calibration of whoever answered the finished run in ``folder``, with his own scores, however they were shown.

    Benchmarks of one task are pooled. ``data`` is where the data is now, if not where the run found it.
    """
    judged: dict[str, list[Judged]] = {}
    asked: dict[str, int] = {}
    for outcome in runner.stored(folder, find, data, intervals=False):
        task = outcome.benchmark.task
        own = outcome.measured.judged if outcome.uncalibrated is None else outcome.uncalibrated
        first = asked.get(task, 0)
        judged.setdefault(task, []).extend(replace(thing, sample=first + thing.sample) for thing in own)
        asked[task] = first + len(outcome.samples)
    notes = runner.read_notes(folder)
    return fit(judged, notes={"of": notes["answerer"], "benchmarks": notes["benchmarks"]})


def fit_curve(things: Sequence[Judged], of: Of = "score") -> Curve:
    """The curve of one task, see the head of this file. Raises DataError for no things, or a score outside [0, 1]."""
    if not things:
        raise DataError("nothing was judged; a curve needs at least one thing")
    for thing in things:
        if not 0 <= thing.score <= 1:  # NaN too
            raise DataError(f"a thing of sample {thing.sample} has the score {thing.score}; expected 0 to 1")
    points = _joined(_blocks(things))
    (first, lowest), (last, highest) = points[0], points[-1]
    points = [(0.0, lowest), *points[first < APART :]]  # a block at the end itself is that end
    points = [*points[: len(points) - (last > 1 - APART)], (1.0, highest)]
    scores = tuple(score for score, _ in points)
    return Curve(scores, tuple((1 - RISE) * share + RISE * score for score, share in points), of)


def _blocks(things: Sequence[Judged]) -> list[tuple[int, float, float]]:
    """(things, mean score, share that was right) of each level of the isotonic regression, from low to high."""
    scores, places, counts = numpy.unique([thing.score for thing in things], return_inverse=True, return_counts=True)
    right = numpy.bincount(places, weights=[float(thing.right) for thing in things])  # per score, as counts
    levels: NDArray[numpy.float64] = library("sklearn.isotonic").isotonic_regression(
        right / counts, sample_weight=counts.astype(float)
    )
    borders = [0, *(numpy.flatnonzero(numpy.diff(levels) > 0) + 1).tolist(), len(scores)]
    blocks = []
    for a, b in pairwise(borders):
        count = int(counts[a:b].sum())
        blocks.append((count, math.fsum(scores[a:b] * counts[a:b]) / count, math.fsum(right[a:b]) / count))
    return blocks


def _joined(blocks: list[tuple[int, float, float]]) -> Points:
    """Neighbours put together until each block has enough things, apart from the one before. Order and rise stay."""
    done: list[tuple[int, float, float]] = []
    for block in blocks:
        if done and (done[-1][0] < BLOCK or block[1] - done[-1][1] < APART):
            block = _together(done.pop(), block)
        done.append(block)
    while len(done) > 1 and (done[-1][0] < BLOCK or done[-1][1] - done[-2][1] < APART):
        last = done.pop()
        done.append(_together(done.pop(), last))
    return [(min(max(score, 0.0), 1.0), min(max(share, 0.0), 1.0)) for _, score, share in done]


def _together(one: tuple[int, float, float], other: tuple[int, float, float]) -> tuple[int, float, float]:
    count = one[0] + other[0]
    score, share = ((one[0] * one[i] + other[0] * other[i]) / count for i in (1, 2))
    return count, score, share


def _problem(things: Sequence[Judged], fewest: int, folds: int) -> str | None:
    right = sum(thing.right for thing in things)
    samples = len({thing.sample for thing in things})
    if len(things) < fewest:
        return f"{len(things)} things were judged, at least {fewest} are needed"
    if right in (0, len(things)):
        return f"{'all' if right else 'none'} of {len(things)} things were right"
    if samples < folds:
        return f"the things are of {samples} samples, {folds} folds need as many"
    return None


def _cross_validated(things: Sequence[Judged], folds: int) -> dict[str, Any]:
    """How far scores are off as they are, and as curves fitted on the other folds change them."""
    samples = sorted({thing.sample for thing in things})
    # Folds are runs of numbers: the samples of a photo stand together.
    fold = {sample: place * folds // len(samples) for place, sample in enumerate(samples)}
    curves = [fit_curve([thing for thing in things if fold[thing.sample] != n]) for n in range(folds)]
    before, right = [thing.score for thing in things], [thing.right for thing in things]
    after = [curves[fold[thing.sample]](thing.score) for thing in things]
    return {
        "judged": len(things),
        "samples": len(samples),
        "right": sum(right) / len(things),
        "ece before": ece(before, right),
        "ece after": ece(after, right),
        "brier before": brier(before, right),
        "brier after": brier(after, right),
    }


def _of(task: str) -> Of:
    """A Text has nothing but its confidence."""
    return "confidence" if tasks.get(task).result is Text else "score"
