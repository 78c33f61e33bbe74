"""Do scores say how often a model is right? Expected calibration error, reliability bins, Brier score.

Own code, a few lines of numpy, so that they can be had where scikit-learn is not; equal to its ``calibration_curve``
and ``brier_score_loss``. A confidence at the border of two bins belongs to the lower one; equal confidences are never
parted, so bins of equal mass are as equal as ties allow.

Sources: Naeini et al. (2015); Guo et al. (2017), "On calibration of modern neural networks"; Brier (1950).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy

from florence2.errors import DataError

Binning = Literal["width", "mass"]
"""Bins between equally spaced borders of [0, 1], or between quantiles of the confidences."""


@dataclass(frozen=True)
class Bin:
    """The samples of one bin: how sure the model was on average, and how often it was right."""

    count: int
    confidence: float
    accuracy: float


def reliability(
    confidences: Sequence[float], right: Sequence[bool], bins: int = 15, binning: Binning = "width"
) -> list[Bin]:
    """The bins that hold samples, from low to high confidence.

    Raises DataError where there are no samples, or a confidence is outside of [0, 1].
    """
    _check(confidences, right)
    if bins < 1:
        raise DataError(f"{bins} bins were asked for; expected 1 or more")
    values = numpy.asarray(confidences, dtype=float)
    shares = numpy.linspace(0.0, 1.0, bins + 1)
    borders = shares if binning == "width" else numpy.percentile(values, shares * 100)
    places = numpy.searchsorted(borders[1:-1], values)
    found = []
    for place in sorted(set(places.tolist())):
        inside = numpy.flatnonzero(places == place).tolist()
        confidence = math.fsum(confidences[n] for n in inside) / len(inside)
        found.append(Bin(len(inside), confidence, sum(bool(right[n]) for n in inside) / len(inside)))
    return found


def ece(confidences: Sequence[float], right: Sequence[bool], bins: int = 15, binning: Binning = "width") -> float:
    """Expected calibration error: the mean over samples of the gap |accuracy - confidence| of their bin."""
    found = reliability(confidences, right, bins, binning)
    return math.fsum(b.count * abs(b.accuracy - b.confidence) for b in found) / len(confidences)


def brier(confidences: Sequence[float], right: Sequence[bool]) -> float:
    """The mean of (confidence - right)²."""
    _check(confidences, right)
    return math.fsum((c - bool(r)) ** 2 for c, r in zip(confidences, right, strict=True)) / len(confidences)


def _check(confidences: Sequence[float], right: Sequence[bool]) -> None:
    if len(confidences) != len(right):
        raise DataError(f"{len(confidences)} confidences of {len(right)} samples; expected one for each")
    if not len(confidences):
        raise DataError("there are no confidences to score; give at least one")
    for number, value in enumerate(confidences):
        if not 0 <= value <= 1:  # NaN too
            raise DataError(f"confidence {number} is {value}; expected a number from 0 to 1")
