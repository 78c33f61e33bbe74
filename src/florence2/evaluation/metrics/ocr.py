"""Text that was read: error rates, words that are right, and words that are found and right.

CER and WER are jiwer's: edits over all texts by the length of all true texts, so that they can pass 1. Spaces at the
ends do not count; nothing else is normalised.

Finding and reading follows ICDAR 2015's end-to-end task: a region counts where its outline overlaps a true one by more
than 0.5 and its text is the same without regard to case; what lies by more than half in an illegible region counts
neither for nor against. Matching is one to one and as good as can be; ICDAR's own takes the first in the file. Own
code: ICDAR's evaluation is a script, not a library.

Source: Karatzas et al. (2015), "ICDAR 2015 competition on robust reading", section on end-to-end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from florence2.errors import DataError
from florence2.evaluation.metrics import quads
from florence2.evaluation.metrics.libraries import library
from florence2.results import Quad, TextRegion

ENOUGH = 0.5

Regions = Sequence[TextRegion]


def score(predicted: Sequence[str], truth: Sequence[str]) -> dict[str, float | None]:
    """CER, WER, accuracy (the whole text, with its case) and accuracy-nocase."""
    return {
        "CER": cer(predicted, truth),
        "WER": wer(predicted, truth),
        "accuracy": word_accuracy(predicted, truth),
        "accuracy-nocase": word_accuracy([p.casefold() for p in predicted], [t.casefold() for t in truth]),
    }


def cer(predicted: Sequence[str], truth: Sequence[str]) -> float | None:
    """Character error rate, equal to ``jiwer.cer`` of the lists; None where no true text has a character."""
    return _rate(*edits("characters", predicted, truth))


def wer(predicted: Sequence[str], truth: Sequence[str]) -> float | None:
    """Word error rate, equal to ``jiwer.wer`` of the lists; None where no true text has a word."""
    return _rate(*edits("words", predicted, truth))


def word_accuracy(predicted: Sequence[str], truth: Sequence[str]) -> float:
    """The part of texts that are right to the letter, case included; spaces at the ends do not count.

    For the figure without regard to case give both in one case. Raises DataError where there are no texts.
    """
    _check(predicted, truth)
    return sum(p.strip() == t.strip() for p, t in zip(predicted, truth, strict=True)) / len(truth)


def spotting(
    predicted: Sequence[Regions], truth: Sequence[Regions], illegible: Sequence[Sequence[Quad]] | None = None
) -> dict[str, float | None]:
    """precision, recall, F1 of regions that are found and read, and the same of finding alone (det-...).

    One entry per photo; ``illegible`` are quads of text that nobody can read. None where there are no regions at all.
    """
    _check(predicted, truth)
    unread = [()] * len(truth) if illegible is None else illegible
    if len(unread) != len(truth):
        raise DataError(f"illegible regions of {len(unread)} photos, texts of {len(truth)}; expected as many")
    spots = [spot(*photo) for photo in zip(predicted, truth, unread, strict=True)]
    return spotting_of(
        sum(len(s.counted) for s in spots),
        sum(s.wanted for s in spots),
        sum(s.located for s in spots),
        sum(len(s.right) for s in spots),
    )


@dataclass(frozen=True)
class Spots:
    """What was found in one photo."""

    counted: tuple[int, ...]
    """Numbers of the predicted regions that are not in illegible text."""
    wanted: int
    located: int
    right: frozenset[int]
    """Numbers of the predicted regions that are found and read."""


def spot(predicted: Regions, true: Regions, illegible: Sequence[Quad] = ()) -> Spots:
    """The regions of one photo beside its true ones."""
    counted = [i for i, r in enumerate(predicted) if not any(quads.inside(r.quad, quad) > ENOUGH for quad in illegible)]
    near = {(i, j) for i in counted for j, t in enumerate(true) if quads.iou(predicted[i].quad, t.quad) > ENOUGH}
    same = {(i, j) for i, j in near if _same(predicted[i].text, true[j].text)}
    return Spots(tuple(counted), len(true), len(assignment(near)), frozenset(assignment(same)))


def spotting_of(found: float, wanted: float, located: float, right: float) -> dict[str, float | None]:
    """``spotting`` from numbers of regions: predicted, true, found, found and read."""
    return {**_figures("", right, found, wanted), **_figures("det-", located, found, wanted)}


def assignment(pairs: set[tuple[int, int]]) -> dict[int, int]:
    """The most pairs (i, j) of which no two share an i or a j, as i → j."""
    ways: dict[int, list[int]] = {}
    for i, j in sorted(pairs):
        ways.setdefault(i, []).append(j)
    partner: dict[int, int] = {}

    def place(i: int, tried: set[int]) -> bool:
        for j in ways[i]:
            if j not in tried:
                tried.add(j)
                if j not in partner or place(partner[j], tried):
                    partner[j] = i
                    return True
        return False

    for i in ways:
        place(i, set())
    return {i: j for j, i in partner.items()}


def _same(a: str, b: str) -> bool:
    return a.strip().casefold() == b.strip().casefold()


def _figures(prefix: str, right: float, found: float, wanted: float) -> dict[str, float | None]:
    if not found + wanted:
        return {f"{prefix}{name}": None for name in ("precision", "recall", "F1")}
    return {
        f"{prefix}precision": right / found if found else 0.0,
        f"{prefix}recall": right / wanted if wanted else None,
        f"{prefix}F1": 2 * right / (found + wanted),
    }


def edits(unit: Literal["characters", "words"], predicted: Sequence[str], truth: Sequence[str]) -> tuple[int, int]:
    """(edits, true length) over all texts; texts that are truly empty are counted here, older versions of jiwer refuse
    them."""
    _check(predicted, truth)
    cut: Callable[[str], list[str]] = list if unit == "characters" else str.split
    surplus = sum(len(cut(p.strip())) for p, t in zip(predicted, truth, strict=True) if not t.strip())
    pairs = [(p, t) for p, t in zip(predicted, truth, strict=True) if t.strip()]
    if not pairs:
        return surplus, 0
    counts = getattr(library("jiwer"), f"process_{unit}")([t for _, t in pairs], [p for p, _ in pairs])
    changed: int = counts.substitutions + counts.deletions + counts.insertions
    length: int = counts.hits + counts.substitutions + counts.deletions
    return changed + surplus, length


def _rate(changed: int, length: int) -> float | None:
    return changed / length if length else None


def _check(predicted: Sequence[object], truth: Sequence[object]) -> None:
    if len(predicted) != len(truth):
        raise DataError(f"{len(predicted)} predictions of {len(truth)} samples; expected one for each")
    if not truth:
        raise DataError("there are no texts to score; give at least one")
