"""Calibration beside scikit-learn."""

from __future__ import annotations

import random

import numpy
import pytest

from florence2.errors import DataError
from florence2.evaluation.metrics import calibration
from florence2.evaluation.metrics.calibration import Bin


def test_by_hand() -> None:
    confidences, right = [0.9, 0.7, 0.1], [True, False, False]
    assert calibration.reliability(confidences, right, bins=2) == [
        Bin(count=1, confidence=0.1, accuracy=0.0),
        Bin(count=2, confidence=pytest.approx(0.8), accuracy=0.5),
    ]
    assert calibration.ece(confidences, right, bins=2) == pytest.approx((1 * 0.1 + 2 * 0.3) / 3)
    assert calibration.brier(confidences, right) == pytest.approx((0.01 + 0.49 + 0.01) / 3)


def test_bins_of_equal_mass() -> None:
    confidences = [0.1, 0.2, 0.3, 0.9, 0.95, 1.0]
    counts = [b.count for b in calibration.reliability(confidences, [True] * 6, bins=3, binning="mass")]
    assert counts == [2, 2, 2]
    assert [b.count for b in calibration.reliability(confidences, [True] * 6, bins=3)] == [3, 3]
    same = calibration.reliability([0.5] * 4, [True, False, True, False], bins=4, binning="mass")
    assert same == [Bin(count=4, confidence=0.5, accuracy=0.5)]  # what is equal stays together


def test_borders_belong_to_the_lower_bin() -> None:
    assert [b.count for b in calibration.reliability([0.0, 0.5, 1.0], [True] * 3, bins=2)] == [2, 1]


def gap_to_scikit_learn(count: int, shift: float = 0.0) -> float:
    curve = pytest.importorskip("sklearn.calibration").calibration_curve
    loss = pytest.importorskip("sklearn.metrics").brier_score_loss
    rng = random.Random(0)
    worst = 0.0
    for number in range(count):
        size = rng.randrange(2, 40)
        confidences = [rng.choice([rng.random(), round(rng.random(), 1)]) for _ in range(size)]
        right = [True, False, *(rng.random() < 0.6 for _ in range(size - 2))]
        bins, binning = rng.randrange(1, 12), ("width", "mass")[number % 2]
        theirs = curve(right, confidences, n_bins=bins, strategy={"width": "uniform", "mass": "quantile"}[binning])
        moved = [min(c + shift, 1.0) for c in confidences]
        ours = calibration.reliability(moved, right, bins, binning)  # type: ignore[arg-type]
        if len(ours) != len(theirs[0]):
            return 1.0
        gaps = numpy.abs(numpy.array([[b.accuracy for b in ours], [b.confidence for b in ours]]) - numpy.array(theirs))
        worst = max(worst, gaps.max(), abs(calibration.brier(moved, right) - loss(right, confidences)))
    return worst


def test_equal_to_scikit_learn() -> None:
    assert gap_to_scikit_learn(1000) < 1e-9
    assert gap_to_scikit_learn(20, shift=0.01) > 1e-3


def test_order_does_not_matter() -> None:
    rng = random.Random(0)
    pairs = [(rng.choice([rng.random(), 0.5]), rng.random() < 0.5) for _ in range(60)]
    turned = rng.sample(pairs, 60)
    for binning in ("width", "mass"):
        here, there = (
            calibration.reliability([c for c, _ in some], [r for _, r in some], 10, binning)  # type: ignore[arg-type]
            for some in (pairs, turned)
        )
        assert here == there


def test_mistakes_are_explained() -> None:
    for confidences, right, words in (
        ([], [], "no confidences"),
        ([0.5], [], "1 confidences of 0 samples"),
        ([1.5], [True], "confidence 0 is 1.5"),
        ([float("nan")], [True], "confidence 0 is nan"),
    ):
        with pytest.raises(DataError, match=words):
            calibration.ece(confidences, right)
    with pytest.raises(DataError, match="0 bins"):
        calibration.ece([0.5], [True], bins=0)
