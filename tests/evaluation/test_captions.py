"""CIDEr, BLEU and ROUGE-L beside pycocoevalcap."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence2.errors import DataError
from florence2.evaluation.metrics import captions

WORDS = list("abcdefgh")
Sentence = list[str]
Photos = tuple[list[Sentence], list[list[Sentence]]]


def test_cider_by_hand() -> None:
    """Two photos: "a" is in the references of both, so its idf is 0; each other n-gram has log 2."""
    predicted, references = [["a", "cat"], ["a", "dog"]], [[["a", "cat"]], [["a", "dog"]]]
    # n = 1 and 2: cosine 1; n = 3 and 4: there are none, 0
    assert captions.cider(predicted, references) == pytest.approx(10 * (1 + 1 + 0 + 0) / 4)
    assert captions.cider([["a", "dog"], ["a", "cat"]], references) == 0
    # one token more costs exp(-1 / 72), and what is said twice counts once
    longer = captions.cider_each([["a", "cat", "cat"], ["a"]], references)
    cosine_1 = (1 * 1) / (2 * 1)
    weights = [math.log(2), math.log(2)]  # "a cat", and "cat cat", which no reference has
    cosine_2 = weights[0] ** 2 / (math.hypot(*weights) * weights[0])
    assert longer == pytest.approx([10 * (cosine_1 + cosine_2) / 4 * math.exp(-1 / 72), 0.0])


def test_plain_cider_has_no_penalties() -> None:
    predicted, references = [["a", "cat", "cat"], ["a"]], [[["a", "cat"]], [["a", "dog"]]]
    cosine_1 = 2 / 2  # (0, 2) and (0, 1) point the same way
    cosine_2 = 1 / math.sqrt(2)
    assert captions.cider_plain(predicted, references) == pytest.approx(10 * (cosine_1 + cosine_2) / 4 / 2)


def test_given_frequencies() -> None:
    predicted, references = [["a", "cat"]], [[["a", "cat"]]]
    assert captions.cider(predicted, references) == 0  # one photo: whatever is said is said everywhere
    known = captions.Frequencies.of([[["a", "cat"]], [["a", "dog"]]])
    assert (known.photos, known.counts["a",], known.counts["cat",]) == (2, 2, 1)
    assert captions.cider(predicted, references, known) == pytest.approx(5)
    with pytest.raises(DataError, match="0 photos"):
        captions.cider(predicted, references, captions.Frequencies(0, {}))


def test_bleu_by_hand() -> None:
    predicted, references = [["the", "the", "the"]], [[["the", "cat", "is", "here"], ["the", "the", "dog"]]]
    # clipped to the most in one reference: 2 of 3; bigrams: "the the" once of 2; the closest length is 3
    one, two, three, four = captions.bleu(predicted, references)
    assert one == pytest.approx(2 / 3)
    assert two == pytest.approx(math.sqrt(2 / 3 * 1 / 2))
    assert three < 1e-3
    assert four < 1e-3
    short = captions.bleu([["the", "cat"]], [[["the", "cat", "is", "here"]]])
    assert short[0] == pytest.approx(math.exp(1 - 4 / 2))


def test_rouge_by_hand() -> None:
    # longest common: "a c", of 3 and of 4; the best precision and the best recall of all references
    precision, recall, beta = 2 / 3, 2 / 4, 1.2
    expected = (1 + beta**2) * precision * recall / (recall + beta**2 * precision)
    assert captions.rouge_l([["a", "b", "c"]], [[["a", "x", "c", "y"]]]) == pytest.approx(expected)
    assert captions.rouge_l([["a"]], [[["b"]]]) == 0
    assert captions.rouge_l([[]], [[["b"]]]) == 0
    assert captions.rouge_l([[]], [[[]]]) == 1


def random_photos(rng: random.Random) -> Photos:
    def sentence(shortest: int) -> Sentence:
        return [rng.choice(WORDS) for _ in range(rng.randrange(shortest, 9))]

    count = rng.randrange(1, 6)
    references = [[sentence(1) for _ in range(rng.randrange(1, 4))] for _ in range(count)]
    return [sentence(0) for _ in range(count)], references


def theirs(predicted: list[Sentence], references: list[list[Sentence]]) -> list[float]:
    cider = pytest.importorskip("pycocoevalcap.cider.cider", reason="pip install pycocoevalcap").Cider()
    bleu = pytest.importorskip("pycocoevalcap.bleu.bleu").Bleu(4)
    rouge = pytest.importorskip("pycocoevalcap.rouge.rouge").Rouge()
    truth = {n: [" ".join(reference) for reference in several] for n, several in enumerate(references)}
    given = {n: [" ".join(sentence)] for n, sentence in enumerate(predicted)}
    return [
        float(cider.compute_score(truth, given)[0]),
        *bleu.compute_score(truth, given, verbose=0)[0],
        float(rouge.compute_score(truth, given)[0]),
    ]


def ours(predicted: list[Sentence], references: list[list[Sentence]]) -> list[float]:
    figures = captions.score(
        [" ".join(s) for s in predicted], [[" ".join(r) for r in rs] for rs in references], str.split
    )
    return [figures[name] for name in ("CIDEr", "BLEU1", "BLEU2", "BLEU3", "BLEU4", "ROUGEL")]


def test_equal_to_pycocoevalcap() -> None:
    rng = random.Random(0)
    worst = 0.0
    for _ in range(1000):
        photos = random_photos(rng)
        worst = max(worst, *(abs(a - b) for a, b in zip(ours(*photos), theirs(*photos), strict=True)))
    assert worst < 1e-6


@pytest.mark.parametrize(("name", "value"), [("SIGMA", 5.0), ("BETA", 1.0), ("LONGEST", 3)])
def test_a_wrong_constant_is_noticed(name: str, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(0)
    cases = [random_photos(rng) for _ in range(20)]
    right = [theirs(*photos) for photos in cases]
    monkeypatch.setattr(captions, name, value)

    def score(predicted: list[Sentence], references: list[list[Sentence]]) -> list[float]:
        found = [captions.cider(predicted, references), captions.rouge_l(predicted, references)]
        return found

    gaps = [
        abs(a - b) for p, r in zip(cases, right, strict=True) for a, b in zip(score(*p), (r[0], r[-1]), strict=True)
    ]
    assert max(gaps) > 1e-3


@given(st.integers(0, 10**6))
def test_the_order_of_photos_does_not_matter(seed: int) -> None:
    rng = random.Random(seed)
    predicted, references = random_photos(rng)
    order = rng.sample(range(len(predicted)), len(predicted))
    turned = [rng.sample(references[n], len(references[n])) for n in order]
    assert ours([predicted[n] for n in order], turned) == ours(predicted, references)
    plain = captions.cider_plain(predicted, references)
    assert captions.cider_plain([predicted[n] for n in order], turned) == plain


def test_texts_are_tokenized() -> None:
    figures = captions.score(["A cat, isn't it?", "Two dogs"], [["a cat is n't it"], ["two dogs!"]])
    assert figures["BLEU1"] == pytest.approx(1)
    assert (
        captions.score(["A cat, isn't it?", "Two dogs"], [["a cat is n't it"], ["two dogs!"]], str.split)["BLEU1"] < 0.5
    )


def test_a_token_that_spans_a_space() -> None:
    """ "1 1/2" is one token to ROUGE and two to the others, as in pycocoevalcap."""
    figures = captions.score(["1 1/2"], [["1 cup"]])
    assert figures["BLEU1"] == pytest.approx(0.5)
    assert figures["ROUGEL"] == 0


def test_unicode_and_empty() -> None:
    same = [["ein", "großer", "hund", "läuft"], ["日本", "😀"]]
    assert captions.rouge_l(same, [[s] for s in same]) == 1
    assert captions.cider([[], []], [[["a"]], [["b"]]]) == 0
    assert captions.bleu([[]], [[["a"]]])[0] == 0


@pytest.mark.parametrize("metric", [captions.cider, captions.cider_plain, captions.bleu, captions.rouge_l])
def test_mistakes_are_explained(metric: Callable[[Sequence[Sentence], Sequence[Sequence[Sentence]]], object]) -> None:
    for predicted, references, words in (
        ([], [], "no captions"),
        ([["a"]], [], "1 captions and references of 0 photos"),
        ([["a"]], [[]], "photo 0 has no reference"),
    ):
        with pytest.raises(DataError, match=words):
            metric(predicted, references)
