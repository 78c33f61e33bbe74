"""Intervals cover the truth as often as they say; photos are drawn, not samples; what two models share drops out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy
import pytest

from florence2.evaluation import bootstrap
from florence2.evaluation.measures import MEASURES, sums
from florence2.evaluation.outcomes import Statistic
from tests.evaluation.asked import drawn

Values = Sequence[float] | numpy.ndarray[Any, Any]


def mean(values: Values) -> Statistic:
    """As ``sums.mean``, fast."""
    column = numpy.asarray(values, dtype=float)
    return lambda weights: float(column @ weights / weights.sum())


def apart(values: Values) -> list[str]:
    """A photo for each."""
    return [f"photo{n}" for n in range(len(values))]


def found(values: Values, photos: Sequence[str] | None = None, draws: int = 200, seed: int = 0) -> tuple[float, float]:
    interval = bootstrap.interval(mean(values), photos or apart(values), draws, seed)
    assert interval is not None
    return interval


# Intervals


def correlated(seed: int, count: int = 50) -> tuple[list[float], list[str]]:
    """Eight samples of each photo that are mostly right or mostly wrong together; the mean of all is a half."""
    lot = numpy.random.default_rng(seed)
    values, photos = [], []
    for photo in range(count):
        chance = lot.choice((0.1, 0.9))
        values += (lot.random(8) < chance).astype(float).tolist()
        photos += [f"photo{photo}"] * 8
    return values, photos


def coverage(by_photo: bool, sets: int = 200) -> float:
    """How often the interval holds the true mean."""
    covered = 0
    for seed in range(sets):
        values, photos = correlated(seed)
        low, high = found(values, photos if by_photo else apart(values), seed=seed)
        covered += low <= 0.5 <= high
    return covered / sets


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    assert 0.9 < coverage(by_photo=True) < 0.99
    assert coverage(by_photo=False) < 0.75  # the twin: samples drawn as if they were independent


def test_an_interval_of_independent_samples_is_that_of_the_textbook() -> None:
    values = numpy.random.default_rng(1).normal(3, 2, 400)
    low, high = found(values, draws=2000)
    error = values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.15 * error)


def test_an_interval_narrows_with_more_photos_not_with_more_samples_of_them() -> None:
    values = list(numpy.random.default_rng(2).random(50))
    width, again, more = (
        high - low
        for low, high in (
            found(values),
            found(values * 4, apart(values) * 4),  # each photo asked four times over
            found(values * 4),  # the twin: as four photos
        )
    )
    assert again == pytest.approx(width)
    assert more == pytest.approx(width / 2, rel=0.2)


@pytest.mark.parametrize("name", MEASURES)
def test_every_figure_lies_in_its_interval(name: str) -> None:
    given = drawn(name, 40, 1, "few")
    measured = given.measured()
    photos = [sample.photo for sample in given.samples]
    for key, statistic in measured.statistics.items():
        interval = bootstrap.interval(statistic, photos, 60)
        figure = measured.figures[key]
        assert interval is not None
        assert figure is not None
        assert interval[0] < interval[1]
        assert interval[0] <= figure <= interval[1]


def test_there_is_no_interval_where_nothing_can_be_drawn() -> None:
    assert bootstrap.interval(mean([0.1, 0.2]), ["a", "a"]) is None
    assert bootstrap.interval(lambda _: None, ["a", "b"]) is None
    assert bootstrap.interval(mean([0.1, 0.2]), ["a", "b"], draws=0) is None
    assert bootstrap.difference(mean([0.1, 0.2]), mean([0.1, 0.3]), ["a", "a"]) is None
    assert bootstrap.difference(mean([0.1, 0.2]), lambda _: None, ["a", "b"]) is None


def test_a_figure_that_mostly_does_not_exist_has_no_interval() -> None:
    rare, common = (
        sums.ratio([1.0] * below + [0.0] * (40 - below), [1.0] * below + [0.0] * (40 - below)) for below in (0, 3)
    )
    photos = apart([0.0] * 40)
    assert bootstrap.interval(rare, photos, 200) is None
    assert bootstrap.interval(common, photos, 200) == (1, 1)  # missing in one of twenty draws
    once = sums.ratio([0.5], [1.0])
    assert bootstrap.interval(lambda w: once(w[:1]) if w[0] > 1 else None, photos, 200) is None  # in one of four


# What is drawn


def test_photos_are_drawn_and_all_their_samples_with_them() -> None:
    photos = ["b", "a", "b", "c", "a", "b"]
    draws = list(bootstrap.weights(photos, 500, 0))
    assert len(draws) == 500
    for w in draws:
        assert w[0] == w[2] == w[5]
        assert w[1] == w[4]
        assert w[0] + w[1] + w[3] == 3  # as many photos as there are
    assert numpy.mean(draws, axis=0) == pytest.approx(1, abs=0.1)
    assert {w[3] for w in draws} == {0, 1, 2, 3}


def test_the_same_is_drawn_again_whatever_the_order_of_the_samples() -> None:
    values, photos = correlated(1)
    statistic = sums.mean(values)
    first = bootstrap.interval(statistic, photos, 100)
    assert first == bootstrap.interval(statistic, photos, 100)
    order = list(numpy.random.default_rng(0).permutation(len(values)))
    moved = sums.mean([values[n] for n in order])
    assert first == bootstrap.interval(moved, [photos[n] for n in order], 100)
    assert first != bootstrap.interval(statistic, photos, 100, seed=1)
    other = mean([1 - v for v in values])
    assert bootstrap.difference(statistic, other, photos) == bootstrap.difference(statistic, other, photos)


# Differences


def test_a_small_constant_gain_is_seen_where_photos_are_paired() -> None:
    lot = numpy.random.default_rng(3)
    before = lot.normal(0.5, 0.2, 100)
    after = before + lot.normal(0.02, 0.02, 100)
    photos = apart(before)
    paired = bootstrap.difference(mean(before), mean(after), photos)
    assert paired is not None
    assert paired.value == pytest.approx(after.mean() - before.mean())
    assert 0.01 < paired.interval[0] < paired.value < paired.interval[1] < 0.03
    assert paired.p < 0.01
    assert found(before)[1] > found(after)[0]  # intervals of their own overlap
    # The twin: the same values, but what is common to both is lost.
    unpaired = bootstrap.difference(mean(before), mean(lot.permutation(after)), photos)
    assert unpaired is not None
    assert unpaired.value == pytest.approx(paired.value)
    assert unpaired.interval[0] < 0 < unpaired.interval[1]
    assert unpaired.p > 0.2


def test_the_other_way_round_is_the_same_with_another_sign() -> None:
    lot = numpy.random.default_rng(4)
    before, after = lot.random(30), lot.random(30)
    there = bootstrap.difference(mean(before), mean(after), apart(before))
    back = bootstrap.difference(mean(after), mean(before), apart(before))
    assert there is not None
    assert back is not None
    assert back.value == pytest.approx(-there.value)
    assert back.interval == pytest.approx((-there.interval[1], -there.interval[0]))
    assert back.p == there.p


def test_equal_models_do_not_differ() -> None:
    values = numpy.random.default_rng(5).random(30)
    same = bootstrap.difference(mean(values), mean(values.copy()), apart(values))
    assert same == bootstrap.Difference(0, (0, 0), 1)
    better = bootstrap.difference(mean(values), mean(values + 0.1), apart(values))
    assert better is not None
    assert better.p == pytest.approx(2 / (bootstrap.DRAWS + 1))  # never 0


def test_chance_is_taken_for_a_difference_as_seldom_as_it_says() -> None:
    ps = []
    for seed in range(200):
        lot = numpy.random.default_rng(seed)
        before, after = lot.random(40), lot.random(40)
        difference = bootstrap.difference(mean(before), mean(after), apart(before), 200, seed)
        assert difference is not None
        ps.append(difference.p)
    assert 0.01 < numpy.mean(numpy.array(ps) < 0.05) < 0.1
    assert 0.4 < numpy.mean(ps) < 0.6


def test_samples_of_one_photo_make_a_difference_less_sure() -> None:
    lot = numpy.random.default_rng(6)
    gains = numpy.repeat(lot.normal(0.05, 0.2, 25), 4)
    photos = [f"photo{n // 4}" for n in range(100)]
    together = bootstrap.difference(mean(numpy.zeros(100)), mean(gains), photos)
    alone = bootstrap.difference(mean(numpy.zeros(100)), mean(gains), apart(gains))
    assert together is not None
    assert alone is not None
    assert together.p > 2 * alone.p
    widths = [d.interval[1] - d.interval[0] for d in (together, alone)]
    assert widths[0] == pytest.approx(2 * widths[1], rel=0.2)
