"""Names: accuracy and F1, equal to scikit-learn's.

Labels are compared as they are written.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from florence2.errors import DataError
from florence2.evaluation.metrics.libraries import library


def score(predicted: Sequence[str], truth: Sequence[str]) -> dict[str, float]:
    """accuracy, F1 (micro) and macroF1."""
    return {"accuracy": accuracy(predicted, truth), "F1": f1(predicted, truth), "macroF1": macro_f1(predicted, truth)}


def accuracy(predicted: Sequence[str], truth: Sequence[str]) -> float:
    """The part of labels that are right. Raises DataError where there are none, or not as many as true ones."""
    _check(predicted, truth)
    return sum(p == t for p, t in zip(predicted, truth, strict=True)) / len(truth)


def f1(predicted: Sequence[str], truth: Sequence[str]) -> float:
    """Micro F1; with one label per sample it is the accuracy. An empty prediction is a wrong label like any other."""
    return _f1(predicted, truth, "micro")


def macro_f1(predicted: Sequence[str], truth: Sequence[str]) -> float:
    """The mean F1 of all classes that were predicted or are true; a class without hits has 0 (``zero_division=0``)."""
    return _f1(predicted, truth, "macro")


def top_k(ranked: Sequence[Sequence[str]], truth: Sequence[str | Collection[str]], k: int = 1) -> float:
    """The part of samples with a true label among the first ``k``; top-1 by default. Several labels may be true."""
    _check(ranked, truth)
    if k < 1:
        raise DataError(f"top-{k} was asked for; expected 1 or more")
    hits = 0
    for labels, true in zip(ranked, truth, strict=True):
        wanted = {true} if isinstance(true, str) else set(true)
        hits += not wanted.isdisjoint(list(labels)[:k])
    return hits / len(truth)


def _f1(predicted: Sequence[str], truth: Sequence[str], average: str) -> float:
    _check(predicted, truth)
    metrics = library("sklearn.metrics")
    return float(metrics.f1_score(list(truth), list(predicted), average=average, zero_division=0))


def _check(predicted: Sequence[object], truth: Sequence[object]) -> None:
    if len(predicted) != len(truth):
        raise DataError(f"{len(predicted)} predictions of {len(truth)} samples; expected one for each")
    if not truth:
        raise DataError("there are no labels to score; give at least one")
