"""Figures that are means and ratios over samples, as functions of how often each sample counts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy

from florence2.evaluation.outcomes import Statistic, Weights


def mean(values: Sequence[float]) -> Statistic:
    """Exact in any order where all count once."""
    column = numpy.asarray(values, dtype=float)

    def statistic(weights: Weights) -> float | None:
        total = math.fsum(weights)
        return math.fsum(column * weights) / total if total else None

    return statistic


def ratio(above: Sequence[float], below: Sequence[float]) -> Statistic:
    """The sum of one by the sum of the other; None where that is nothing."""
    top, bottom = numpy.asarray(above, dtype=float), numpy.asarray(below, dtype=float)

    def statistic(weights: Weights) -> float | None:
        total = math.fsum(bottom * weights)
        return math.fsum(top * weights) / total if total else None

    return statistic


def value(statistic: Statistic, count: int) -> float | None:
    """The figure where each of ``count`` samples counts once."""
    return statistic(numpy.ones(count))
