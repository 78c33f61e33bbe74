"""Curves from judged answers: what they gain on unseen photos, and what they never change."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence2.checkpoints.calibration import Calibration, Curve
from florence2.errors import DataError, TaskError
from florence2.evaluation import calibrate
from florence2.evaluation.calibrate import fit, fit_curve
from florence2.evaluation.metrics.calibration import ece
from florence2.evaluation.outcomes import Judged

sklearn = pytest.importorskip("sklearn.isotonic", reason="calibration needs scikit-learn (pip install '.[eval]')")


def judged(truth: Callable[[float], float], count: int = 4000, seed: int = 0, per_sample: int = 4) -> list[Judged]:
    """Things with uniform scores that are right with probability ``truth(score)``."""
    dice = random.Random(seed)
    scores = [dice.random() for _ in range(count)]
    return [Judged(n // per_sample, score, dice.random() < truth(score)) for n, score in enumerate(scores)]


def timid(score: float) -> float:
    return math.sqrt(score)


def bold(score: float) -> float:
    return 0.6 * score**2


@pytest.mark.parametrize("truth", [timid, bold])
def test_scores_that_were_wrong_become_right(truth: Callable[[float], float]) -> None:
    calibration = fit({"<OD>": judged(truth)})
    curve = calibration.curves["<OD>"]
    assert max(abs(curve(score) - truth(score)) for score in numpy.linspace(0.02, 0.98, 50)) < 0.08
    fresh = judged(truth, seed=1)
    right = [thing.right for thing in fresh]
    before, after = ece([thing.score for thing in fresh], right), ece([curve(thing.score) for thing in fresh], right)
    assert before > 0.1
    assert after < 0.03
    noted = calibration.notes["tasks"]["<OD>"]
    assert noted["ece before"] == pytest.approx(before, abs=0.02)
    assert noted["ece after"] < 0.03
    assert noted["brier after"] < noted["brier before"]
    assert (noted["judged"], noted["samples"]) == (4000, 1000)
    # the twin: the curve of another model does not fit
    other = fit_curve(judged(bold if truth is timid else timid))
    assert ece([other(thing.score) for thing in fresh], right) > 0.1


scores = st.one_of(st.floats(0, 1), st.integers(0, 1000).map(lambda n: n / 1000))
things = st.lists(st.tuples(scores, st.booleans(), st.integers(0, 9)), min_size=1, max_size=300)


@given(things)
def test_any_curve_rises_strictly_and_keeps_the_ranking(drawn: list[tuple[float, bool, int]]) -> None:
    curve = fit_curve([Judged(sample, score, right) for score, right, sample in drawn])
    scores = sorted({score for score, _, _ in drawn})
    found = [curve(score) for score in scores]
    assert all(0 <= probability <= 1 for probability in found)
    for (low, one), (high, other) in pairwise(zip(scores, found, strict=True)):
        assert one <= other
        assert one < other or high - low < 1e-9


@given(st.lists(st.tuples(st.integers(0, 100), st.booleans()), min_size=1, max_size=200))
def test_blocks_are_those_of_scikit_learn(drawn: list[tuple[int, bool]]) -> None:
    scores, right = [n / 100 for n, _ in drawn], [float(right) for _, right in drawn]
    blocks = calibrate._blocks([Judged(0, score, bool(truth)) for score, truth in zip(scores, right, strict=True)])
    levels = sklearn.IsotonicRegression().fit_transform(scores, right)
    ours = [share for count, _, share in blocks for _ in range(count)]
    assert ours == pytest.approx(sorted(levels))
    assert all(one < other for one, other in pairwise(share for _, _, share in blocks))
    assert sum(count * score for count, score, _ in blocks) == pytest.approx(sum(scores))


def test_blocks_are_never_of_a_few_things() -> None:
    lucky = [*judged(bold, 1000), *[Judged(999, 1.0, True)] * 3]
    assert calibrate._blocks(lucky)[-1][2] == 1  # three things, all right
    assert fit_curve(lucky)(1.0) < 0.9


def test_ranking_and_so_average_precision_stay() -> None:
    asked = judged(bold)
    curve = fit({"<OD>": asked}).curves["<OD>"]
    before = sorted(range(len(asked)), key=lambda n: -asked[n].score)
    assert before == sorted(range(len(asked)), key=lambda n: -curve(asked[n].score))
    fallen = Curve.__new__(Curve)  # the twin: a curve that falls, which no honest way makes
    object.__setattr__(fallen, "scores", (0.0, 0.5, 1.0))
    object.__setattr__(fallen, "probabilities", (0.1, 0.9, 0.2))
    assert before != sorted(range(len(asked)), key=lambda n: -fallen(asked[n].score))


def test_it_is_deterministic_whatever_the_order() -> None:
    asked = judged(timid, 600)
    shuffled = random.Random(7).sample(asked, len(asked))
    one, other = fit({"<OD>": asked}), fit({"<OD>": shuffled})
    assert one.curves == other.curves
    assert one == fit({"<OD>": asked})


def test_it_goes_through_the_file(tmp_path: Path) -> None:
    calibration = fit({"<OD>": judged(timid), "<CAPTION>": judged(bold)}, notes={"data": "made up"})
    calibration.save(tmp_path)
    assert Calibration.load(tmp_path) == calibration
    assert calibration.notes["data"] == "made up"
    assert {task: curve.of for task, curve in calibration.curves.items()} == {
        "<OD>": "score",
        "<CAPTION>": "confidence",
    }


def test_things_of_one_sample_stay_in_one_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = judged(timid, 400, per_sample=7)
    seen: list[set[int]] = []
    monkeypatch.setattr(
        calibrate,
        "fit_curve",
        lambda part: (seen.append({thing.sample for thing in part}), Curve((0.0, 1.0), (0.0, 1.0)))[1],
    )
    calibrate._cross_validated(asked, 5)
    everything = {thing.sample for thing in asked}
    left_out = [everything - part for part in seen]
    assert [len(part) for part in left_out] == [12, 12, 11, 12, 11]
    assert set.union(*left_out) == everything
    assert all(sorted(part) == list(range(min(part), max(part) + 1)) for part in left_out)


def test_a_curve_learnt_by_heart_does_not_pass_for_a_gain() -> None:
    """Each fifth of the photos has scores of its own, so that nothing is known of them without them."""
    dice = random.Random(3)
    asked = [
        Judged(part * 20 + n // 20, (part + dice.random()) / 5, dice.random() < 0.1 + 0.2 * part)
        for part in range(5)
        for n in range(20 * 20)
    ]
    fitted = fit_curve(asked)
    by_heart = ece([fitted(thing.score) for thing in asked], [thing.right for thing in asked])
    assert calibrate._cross_validated(asked, 5)["ece after"] > 2 * by_heart


def test_a_task_with_too_little_is_left_out_and_said_so() -> None:
    calibration = fit(
        {
            "<OD>": judged(timid),
            "<OCR_WITH_REGION>": judged(timid, 199),
            "<CAPTION>": judged(lambda _: 1.1),
            "<DENSE_REGION_CAPTION>": judged(lambda _: -0.1),
            "<REGION_PROPOSAL>": [dataclasses.replace(thing, sample=thing.sample % 4) for thing in judged(timid)],
            "<OCR>": [],
        }
    )
    assert list(calibration.curves) == ["<OD>"]
    assert calibration.notes["left out"] == {
        "<OCR_WITH_REGION>": "199 things were judged, at least 200 are needed",
        "<CAPTION>": "all of 4000 things were right",
        "<DENSE_REGION_CAPTION>": "none of 4000 things were right",
        "<REGION_PROPOSAL>": "the things are of 4 samples, 5 folds need as many",
        "<OCR>": "0 things were judged, at least 200 are needed",
    }


def test_what_would_gain_nothing_is_left_out() -> None:
    perfect = [Judged(n, (n % 10 + 0.5) / 10, (n // 10) % 20 < 2 * (n % 10) + 1) for n in range(2000)]
    with pytest.raises(
        DataError, match=r"on unseen photos its expected calibration error would go from 0\.0000 to 0\.0"
    ):
        fit({"<OD>": perfect})


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({}, "no task to calibrate .nothing was judged"),
        ({"<OD>": []}, "<OD>: 0 things were judged"),
        ({"<OD>": [*judged(timid), Judged(0, 1.5, True)]}, "has the score 1.5; expected 0 to 1|confidence"),
        ({"<OD>": [*judged(timid), Judged(0, math.nan, True)]}, "has the score nan"),
    ],
)
def test_what_can_not_be_fitted_is_named(asked: dict[str, list[Judged]], says: str) -> None:
    with pytest.raises(DataError, match=says):
        fit(asked)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(DataError, match="1 folds"):
        fit({"<OD>": judged(timid)}, folds=1)
    with pytest.raises(TaskError, match="no task '<NONSENSE>'"):
        fit({"<NONSENSE>": judged(timid)})
