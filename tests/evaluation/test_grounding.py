"""Phrase grounding: recall at k by both protocols, AP."""

from __future__ import annotations

import random

import pytest

from florence2.errors import DataError
from florence2.evaluation.metrics import grounding
from florence2.results import Box

A: Box = (0.0, 0.0, 10.0, 10.0)
B: Box = (20.0, 0.0, 30.0, 10.0)
BOTH: Box = (0.0, 0.0, 30.0, 10.0)
FAR: Box = (50.0, 50.0, 60.0, 60.0)


def test_by_hand() -> None:
    predicted = [[FAR, A], [BOTH], [A]]
    truth = [[A], [A, B], [A, B]]
    assert grounding.recall(predicted, truth, 1) == pytest.approx(1 / 3)  # only the last: BOTH is 1/3 of A
    assert grounding.recall(predicted, truth, 5) == pytest.approx(2 / 3)
    assert grounding.recall(predicted, truth, 1, "merged") == pytest.approx(1 / 3)  # only the second
    assert grounding.recall(predicted, truth, 5, "merged") == pytest.approx(2 / 3)
    assert grounding.accuracy(predicted, truth) == grounding.recall(predicted, truth, 1)


def test_half_is_enough() -> None:
    half: Box = (0.0, 0.0, 10.0, 5.0)
    assert grounding.accuracy([[half]], [[A]]) == 1
    assert grounding.accuracy([[(0.0, 0.0, 10.0, 4.999)]], [[A]]) == 0


def test_scores_rank() -> None:
    assert grounding.rank([[FAR, A]], [[0.1, 0.9]]) == [[A, FAR]]
    assert grounding.rank([[FAR, A]], None) == [[FAR, A]]
    assert grounding.rank([[FAR, A]], [[0.5, 0.5]]) == grounding.rank([[A, FAR]], [[0.5, 0.5]])
    with pytest.raises(DataError, match="not as many scores"):
        grounding.rank([[A]], [[]])


def test_all_figures() -> None:
    figures = grounding.score([[FAR, A], [], [B]], [[A], [A], []], [[0.2, 0.9], [], [0.5]])
    assert (figures["accuracy"], figures["R@1"], figures["R@10"], figures["merged-R@5"]) == (0.5, 0.5, 0.5, 0.5)
    assert figures["AP50"] == pytest.approx(51 / 101)
    assert figures["N-acc"] == 0  # the last phrase is not in its photo, and yet a box was given
    nothing = grounding.score([[]], [[]])
    assert nothing["accuracy"] is nothing["mAP"] is nothing["merged-R@1"] is None
    assert nothing["N-acc"] == 1
    assert grounding.score([[A]], [[A]])["N-acc"] is None


def test_a_phrase_that_is_not_there_costs_precision() -> None:
    sure, unsure = ([[0.5], [score]] for score in (0.9, 0.1))
    assert grounding.average_precision([[A], [B]], [[A], []], sure)["mAP"] == pytest.approx(0.5)
    assert grounding.average_precision([[A], [B]], [[A], []], unsure)["mAP"] == pytest.approx(1)


def overlap(a: Box, b: Box) -> float:
    """Counted square by square: boxes of whole numbers."""
    cells = [{(x, y) for x in range(int(c[0]), int(c[2])) for y in range(int(c[1]), int(c[3]))} for c in (a, b)]
    return len(cells[0] & cells[1]) / len(cells[0] | cells[1])


def random_box(rng: random.Random) -> Box:
    x, y = rng.randrange(6), rng.randrange(6)
    return (float(x), float(y), float(x + rng.randrange(1, 5)), float(y + rng.randrange(1, 5)))


def hits(ranked: list[list[Box]], truth: list[list[Box]], k: int, protocol: grounding.Protocol, enough: float) -> float:
    """The protocols once more, in the plainest way."""
    found = 0
    for boxes, true in zip(ranked, truth, strict=True):
        if protocol == "merged":
            sides = list(zip(*true, strict=True))
            true = [(min(sides[0]), min(sides[1]), max(sides[2]), max(sides[3]))]
        found += any(overlap(box, wanted) >= enough for box in boxes[:k] for wanted in true)
    return found / len(truth)


@pytest.mark.parametrize("protocol", ["any", "merged"])
def test_equal_to_the_definition(protocol: grounding.Protocol) -> None:
    rng = random.Random(0)
    faults = 0
    for _ in range(1000):
        truth = [[random_box(rng) for _ in range(rng.randrange(1, 4))] for _ in range(rng.randrange(1, 5))]
        predicted = [[random_box(rng) for _ in range(rng.randrange(0, 7))] for _ in truth]
        scores = [[rng.random() for _ in boxes] for boxes in predicted]
        ranked = grounding.rank(predicted, scores)
        k = rng.choice(grounding.RANKS)
        ours = grounding.recall(ranked, truth, k, protocol)
        assert ours == pytest.approx(hits(ranked, truth, k, protocol, 0.5))
        faults += ours != hits(ranked, truth, k, protocol, 0.51)
    assert faults  # another threshold is noticed


def test_order_does_not_matter() -> None:
    rng = random.Random(2)
    truth = [[random_box(rng) for _ in range(rng.randrange(0, 3))] for _ in range(30)]
    predicted = [[random_box(rng) for _ in range(rng.randrange(0, 5))] for _ in truth]
    scores = [[rng.choice([0.1, 0.5]) for _ in boxes] for boxes in predicted]
    order = rng.sample(range(30), 30)
    inside = [rng.sample(range(len(predicted[n])), len(predicted[n])) for n in order]
    turned = [[predicted[n][i] for i in ids] for n, ids in zip(order, inside, strict=True)]
    values = [[scores[n][i] for i in ids] for n, ids in zip(order, inside, strict=True)]
    assert grounding.score(turned, [truth[n][::-1] for n in order], values) == grounding.score(predicted, truth, scores)


def test_mistakes_are_explained() -> None:
    for predicted, truth, k, words in (
        ([], [], 1, "no phrases"),
        ([[A]], [], 1, "1 predictions of 0 phrases"),
        ([[A]], [[]], 1, "phrase 0 has no true box"),
        ([[A]], [[A]], 0, "R@0"),
    ):
        with pytest.raises(DataError, match=words):
            grounding.recall(predicted, truth, k)
