"""How like people's captions a caption is: CIDEr, BLEU, ROUGE-L.

Every figure equals the one that ``pycocoevalcap`` prints, whose own functions need Java around them: the tokenizer is
ours (``ptb.py``), and so are these few lines of counting. Captions are lists of tokens.

``cider`` is what the field prints as "CIDEr": the paper calls it CIDEr-D (Vedantam et al. 2015, arXiv 1411.5726,
section 8), and it runs from 0 to 10. ``cider_plain`` is the CIDEr of the paper's section 4 on the same scale.
BLEU: Papineni et al. (2002). ROUGE-L: Lin (2004), with beta 1.2 as in COCO's evaluation.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

from florence2.errors import DataError
from florence2.evaluation.metrics import ptb

Tokens = Sequence[str]
Gram = tuple[str, ...]
Counts = NDArray[numpy.float64]

LONGEST = 4
"""n-grams of one to so many tokens."""
SIGMA = 6.0
"""Of the length penalty of CIDEr-D, tokens."""
BETA = 1.2
"""Weight of recall in ROUGE-L."""


@dataclass(frozen=True)
class Frequencies:
    """In how many photos' references each n-gram stands, of so many photos: the idf of CIDEr."""

    photos: int
    counts: Mapping[Gram, int]

    @classmethod
    def of(cls, references: Sequence[Sequence[Tokens]]) -> Frequencies:
        """Counted over references, several per photo."""
        counts: Counter[Gram] = Counter()
        for several in references:
            counts.update({gram for reference in several for gram in _grams(reference)})
        return cls(len(references), counts)


def score(
    predicted: Sequence[str],
    references: Sequence[Sequence[str]],
    tokenize: Callable[[str], Tokens] = ptb.tokenize,
) -> dict[str, float]:
    """CIDEr (0 to 10), BLEU1 to BLEU4 and ROUGEL (0 to 1) of texts. ``tokenize=str.split`` for tokenized texts."""
    found = [tokenize(text) for text in predicted]
    true = [[tokenize(text) for text in several] for several in references]
    # A token that spans a space is one to ROUGE and two to the others, as in the reference.
    cut_found = [cut(tokens) for tokens in found]
    cut_true = [[cut(tokens) for tokens in several] for several in true]
    bleus = bleu(cut_found, cut_true)
    return {
        "CIDEr": cider(cut_found, cut_true),
        **{f"BLEU{n}": value for n, value in enumerate(bleus, start=1)},
        "ROUGEL": rouge_l(found, true),
    }


def cider(
    predicted: Sequence[Tokens], references: Sequence[Sequence[Tokens]], frequencies: Frequencies | None = None
) -> float:
    """CIDEr-D, the mean over photos, 0 to 10; equal to ``pycocoevalcap.cider.Cider``.

    ``frequencies`` are counted over these references where none are given; over one photo alone every idf is 0.
    Raises DataError where there are no photos, or one without a reference.
    """
    return mean(cider_each(predicted, references, frequencies))


cider_d = cider
"""The name that the paper has for it."""


def cider_each(
    predicted: Sequence[Tokens], references: Sequence[Sequence[Tokens]], frequencies: Frequencies | None = None
) -> list[float]:
    """``cider`` of every photo."""
    return _cider(predicted, references, frequencies, clipped=True)


def cider_plain(
    predicted: Sequence[Tokens], references: Sequence[Sequence[Tokens]], frequencies: Frequencies | None = None
) -> float:
    """CIDEr without the -D: no clipped counts, no length penalty; the mean over photos, 0 to 10."""
    return mean(_cider(predicted, references, frequencies, clipped=False))


def bleu(predicted: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> tuple[float, float, float, float]:
    """BLEU-1 to BLEU-4 of the corpus, with the closest reference length; equal to ``pycocoevalcap.bleu.Bleu(4)``.

    Raises DataError where there are no photos, or one without a reference.
    """
    _check(predicted, references)
    return bleu_of(
        numpy.sum([bleu_counts(c, several) for c, several in zip(predicted, references, strict=True)], axis=0)
    )


def bleu_counts(caption: Tokens, references: Sequence[Tokens]) -> Counts:
    """What BLEU adds up over captions, (10,): n-grams of the caption that are in a reference, for n = 1 .. 4, all its
    n-grams, its length, and that of the closest reference."""
    most: Counter[Gram] = Counter()
    for reference in references:
        most |= _grams(reference)
    right = [0] * LONGEST
    for gram, count in _grams(caption).items():
        right[len(gram) - 1] += min(count, most[gram])
    given = [max(len(caption) - n, 0) for n in range(LONGEST)]
    wanted = min((abs(len(reference) - len(caption)), len(reference)) for reference in references)[1]
    return numpy.array((*right, *given, len(caption), wanted), dtype=float)


def bleu_of(counts: Counts) -> tuple[float, float, float, float]:
    """BLEU-1 to BLEU-4 of summed counts."""
    *hits, length, wanted = counts.tolist()
    right, given = hits[:LONGEST], hits[LONGEST:]
    # The two small numbers are the reference's: no division by zero, and no hit at all is not quite nothing.
    ratio = (length + 1e-15) / (wanted + 1e-9)
    penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    product, scores = 1.0, []
    for n in range(LONGEST):
        product *= (right[n] + 1e-15) / (given[n] + 1e-9)
        scores.append(product ** (1 / (n + 1)) * penalty)
    return (scores[0], scores[1], scores[2], scores[3])


def rouge_l(predicted: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> float:
    """ROUGE-L, the mean over photos, 0 to 1; equal to ``pycocoevalcap.rouge.Rouge``.

    Raises DataError where there are no photos, or one without a reference.
    """
    return mean(rouge_l_each(predicted, references))


def rouge_l_each(predicted: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> list[float]:
    """``rouge_l`` of every photo."""
    _check(predicted, references)
    scores = []
    for caption, several in zip(predicted, references, strict=True):
        found = list(caption) or [""]  # nothing is one empty token, as in the reference: nothing for nothing is right
        common = [(_longest_common(found, list(true) or [""]), len(true) or 1) for true in several]
        precision = max(shared for shared, _ in common) / len(found)
        recall = max(shared / length for shared, length in common)
        bottom = recall + BETA**2 * precision
        scores.append((1 + BETA**2) * precision * recall / bottom if bottom else 0.0)
    return scores


def mean(scores: Sequence[float]) -> float:
    """In whatever order they come, to the last bit. Raises DataError where there are none."""
    if not scores:
        raise DataError("there is nothing to score; give at least one prediction with its truth")
    return math.fsum(scores) / len(scores)


def cut(tokens: Tokens) -> list[str]:
    """Tokens as CIDEr and BLEU see them: one that spans a space is two."""
    return " ".join(tokens).split()


def _check(predicted: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> None:
    if len(predicted) != len(references):
        raise DataError(f"{len(predicted)} captions and references of {len(references)} photos; expected as many")
    if not predicted:
        raise DataError("there are no captions to score; give at least one with its references")
    for number, several in enumerate(references):
        if not several:
            raise DataError(f"photo {number} has no reference caption; give at least one")


def _grams(tokens: Tokens) -> Counter[Gram]:
    """n-grams of all lengths with their counts."""
    return Counter(
        tuple(tokens[start : start + n]) for n in range(1, LONGEST + 1) for start in range(max(len(tokens) - n + 1, 0))
    )


@dataclass(frozen=True)
class _Weighted:
    """tf-idf weights of the n-grams of a caption, their norms for n = 1 .. 4, and the caption's length."""

    weights: tuple[dict[Gram, float], ...]
    norms: tuple[float, ...]
    length: int
    """The number of bigrams, which is what the reference compares; differences of lengths are the same, but for
    captions of one token or none."""


def _cider(
    predicted: Sequence[Tokens],
    references: Sequence[Sequence[Tokens]],
    frequencies: Frequencies | None,
    clipped: bool,
) -> list[float]:
    _check(predicted, references)
    known = Frequencies.of(references) if frequencies is None else frequencies
    if known.photos < 1:
        raise DataError(f"document frequencies are of {known.photos} photos; expected at least one")
    scores = []
    for caption, several in zip(predicted, references, strict=True):
        mine = _weighted(caption, known)
        similar = math.fsum(_similarity(mine, _weighted(reference, known), clipped) for reference in several)
        scores.append(10 * similar / len(several))
    return scores


def _weighted(tokens: Tokens, known: Frequencies) -> _Weighted:
    weights: tuple[dict[Gram, float], ...] = tuple({} for _ in range(LONGEST))
    for gram, count in _grams(tokens).items():
        idf = math.log(known.photos) - math.log(max(1.0, known.counts.get(gram, 0)))
        weights[len(gram) - 1][gram] = count * idf
    norms = tuple(math.sqrt(math.fsum(w * w for w in of_n.values())) for of_n in weights)
    return _Weighted(weights, norms, max(len(tokens) - 1, 0))


def _similarity(a: _Weighted, b: _Weighted, clipped: bool) -> float:
    """Mean over n of the cosine; clipped: weights above the reference's do not count, other lengths cost."""
    cosines = []
    for n in range(LONGEST):
        theirs = b.weights[n]
        norm = a.norms[n] * b.norms[n]
        if norm:
            shared = ((weight, theirs[gram]) for gram, weight in a.weights[n].items() if gram in theirs)
            cosines.append(math.fsum((min(w, t) if clipped else w) * t for w, t in shared) / norm)
    penalty = math.exp(-((a.length - b.length) ** 2) / (2 * SIGMA**2)) if clipped else 1.0
    return math.fsum(cosines) / LONGEST * penalty


def _longest_common(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for token in a:
        before = 0
        for place, other in enumerate(b, start=1):
            before, row[place] = row[place], before + 1 if token == other else max(row[place], row[place - 1])
    return row[-1]
