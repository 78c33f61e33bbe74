"""Accuracy and F1 beside scikit-learn."""

from __future__ import annotations

import random

import pytest

from florence2.errors import DataError
from florence2.evaluation.metrics import classification


def test_by_hand() -> None:
    predicted, truth = ["cat", "cat", "dog"], ["cat", "dog", "cow"]
    assert classification.accuracy(predicted, truth) == pytest.approx(1 / 3)
    assert classification.f1(predicted, truth) == pytest.approx(1 / 3)
    # cat: one of two found is right and the one that is there was found, 2/3; dog and cow: 0
    assert classification.macro_f1(predicted, truth) == pytest.approx(2 / 9)
    assert classification.score(predicted, truth).keys() == {"accuracy", "F1", "macroF1"}


def test_top_k() -> None:
    ranked = [["cat", "dog"], ["dog", "cat"], []]
    assert classification.top_k(ranked, ["cat", "cat", "cat"]) == pytest.approx(1 / 3)
    assert classification.top_k(ranked, ["cat", "cat", "cat"], 2) == pytest.approx(2 / 3)
    assert classification.top_k(ranked[:1], [{"kitten", "cat"}]) == 1
    with pytest.raises(DataError, match="top-0"):
        classification.top_k(ranked[:1], ["cat"], 0)


def test_empty_and_unicode_labels() -> None:
    assert classification.accuracy(["", "größe"], ["cat", "größe"]) == 0.5
    assert classification.macro_f1(["", "größe"], ["cat", "größe"]) == pytest.approx(1 / 3)
    assert classification.accuracy(["Cat"], ["cat"]) == 0


def gap_to_scikit_learn(count: int, fault: bool = False) -> float:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = random.Random(0)
    worst = 0.0
    for _ in range(count):
        size = rng.randrange(1, 12)
        predicted, truth = ([rng.choice(["a", "b", "c", "ü", ""]) for _ in range(size)] for _ in range(2))
        theirs = [
            metrics.accuracy_score(truth, predicted),
            metrics.f1_score(truth, predicted, average="micro", zero_division=0),
            metrics.f1_score(truth, predicted, average="macro", zero_division=0),
        ]
        ours = classification.score(predicted[::-1] if fault else predicted, truth)
        worst = max(worst, *(abs(a - b) for a, b in zip(ours.values(), theirs, strict=True)))
    return worst


@pytest.mark.parametrize("count", [50, pytest.param(1000, marks=pytest.mark.slow)])
def test_equal_to_scikit_learn(count: int) -> None:
    assert gap_to_scikit_learn(count) < 1e-9


def test_a_fault_is_noticed() -> None:
    assert gap_to_scikit_learn(20, fault=True) > 0.1


def test_order_does_not_matter() -> None:
    rng = random.Random(0)
    pairs = [(rng.choice("abc"), rng.choice("abcd")) for _ in range(40)]
    turned = rng.sample(pairs, 40)
    here, there = (classification.score([p for p, _ in some], [t for _, t in some]) for some in (pairs, turned))
    assert here == there


def test_mistakes_are_explained() -> None:
    for metric in (classification.accuracy, classification.f1, classification.macro_f1):
        with pytest.raises(DataError, match="no labels"):
            metric([], [])
        with pytest.raises(DataError, match="1 predictions of 2 samples"):
            metric(["a"], ["a", "b"])
