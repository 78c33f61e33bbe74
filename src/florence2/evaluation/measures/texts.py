"""Measures of texts: captions, answers to questions, names, what was read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import cast

import numpy

from florence2.evaluation.measures import sums
from florence2.evaluation.metrics import captions, classification, ocr, ptb
from florence2.evaluation.metrics import vqa as questions
from florence2.evaluation.outcomes import Figures, Judged, Measured, Statistic, Weights
from florence2.evaluation.samples import Sample
from florence2.results import Answer, Text


def caption(samples: Sequence[Sample], answers: Sequence[Text]) -> Measured:
    """The idf of CIDEr is that of all references here, however often each photo is drawn."""
    said, references = _said(answers), [_texts(sample.truth) for sample in samples]
    found = [ptb.tokenize(text) for text in said]
    true = [[ptb.tokenize(text) for text in several] for several in references]
    cut_found, cut_true = [captions.cut(t) for t in found], [[captions.cut(t) for t in ts] for ts in true]
    each = captions.cider_each(cut_found, cut_true)
    counts = numpy.array([captions.bleu_counts(f, t) for f, t in zip(cut_found, cut_true, strict=True)])

    def bleu(n: int) -> Statistic:
        return lambda weights: captions.bleu_of(weights @ counts)[n - 1]

    statistics = {
        "CIDEr": sums.mean(each),
        **{f"BLEU{n}": bleu(n) for n in range(1, captions.LONGEST + 1)},
        "ROUGEL": sums.mean(captions.rouge_l_each(found, true)),
    }
    return Measured(
        figures={name: sums.value(statistic, len(samples)) for name, statistic in statistics.items()},
        statistics=statistics,
        cases=tuple(each),
        case="CIDEr",
    )


def vqa(samples: Sequence[Sample], answers: Sequence[Text]) -> Measured:
    said, true = _said(answers), [_texts(sample.truth) for sample in samples]
    pairs = list(zip(said, true, strict=True))
    agreement = [questions.vqa_accuracy([s], [t]) for s, t in pairs]
    exact = [questions.exact_match([s], [t]) for s, t in pairs]
    statistics = {
        "accuracy": sums.mean(agreement),
        "EM": sums.mean(exact),
        "ANLS": sums.mean([questions.anls([s], [t]) for s, t in pairs]),
        "Levenshtein": sums.mean([questions.levenshtein([s], [t]) for s, t in pairs]),
    }
    return Measured(
        figures={name: sums.value(statistic, len(samples)) for name, statistic in statistics.items()},
        statistics=statistics,
        cases=tuple(agreement),
        case="accuracy",
        judged=_judged(answers, [value > 0 for value in exact]),
    )


def category(samples: Sequence[Sample], answers: Sequence[Text]) -> Measured:
    """Several names may be right; then the one that was said counts, or the first."""
    said, names = _said(answers), [_texts(sample.truth) for sample in samples]
    right = [s in several for s, several in zip(said, names, strict=True)]
    true = [s if hit else several[0] for s, several, hit in zip(said, names, right, strict=True)]
    statistics: dict[str, Statistic] = {"accuracy": sums.mean(right), "macroF1": _macro_f1(said, true)}
    figures: Figures = {**classification.score(said, true)}
    return Measured(
        figures=figures,
        statistics={**statistics, "F1": statistics["accuracy"]},  # micro F1 of one name per sample is the accuracy
        cases=tuple(float(hit) for hit in right),
        case="right",
        judged=_judged(answers, right),
        classes=_classes(said, true),
    )


def _macro_f1(said: Sequence[str], true: Sequence[str]) -> Statistic:
    names = sorted({*said, *true})
    numbers = {name: number for number, name in enumerate(names)}
    found = numpy.array([numbers[name] for name in said])
    wanted = numpy.array([numbers[name] for name in true])

    def statistic(weights: Weights) -> float | None:
        hits = numpy.bincount(found[found == wanted], weights[found == wanted], len(names))
        sizes = numpy.bincount(found, weights, len(names)) + numpy.bincount(wanted, weights, len(names))
        drawn = sizes > 0
        return float(numpy.mean(2 * hits[drawn] / sizes[drawn])) if drawn.any() else None

    return statistic


def _classes(said: Sequence[str], true: Sequence[str]) -> dict[str, Figures]:
    hits = Counter(t for s, t in zip(said, true, strict=True) if s == t)
    given, wanted = Counter(said), Counter(true)
    return {
        name: {
            "count": wanted[name],
            "precision": hits[name] / given[name] if given[name] else None,
            "recall": hits[name] / wanted[name],
        }
        for name in sorted(wanted)
    }


def reading(samples: Sequence[Sample], answers: Sequence[Text]) -> Measured:
    said, true = _said(answers), [_texts(sample.truth)[0] for sample in samples]
    pairs = list(zip(said, true, strict=True))
    characters = [ocr.edits("characters", [s], [t]) for s, t in pairs]
    words = [ocr.edits("words", [s], [t]) for s, t in pairs]
    whole = [ocr.word_accuracy([s], [t]) for s, t in pairs]
    folded = [ocr.word_accuracy([s.casefold()], [t.casefold()]) for s, t in pairs]
    statistics = {
        "accuracy": sums.mean(whole),
        "accuracy-nocase": sums.mean(folded),
        "CER": sums.ratio(*zip(*characters, strict=True)),
        "WER": sums.ratio(*zip(*words, strict=True)),
    }
    return Measured(
        figures={name: sums.value(statistic, len(samples)) for name, statistic in statistics.items()},
        statistics=statistics,
        cases=tuple(max(0.0, 1 - changed / max(length, 1)) for changed, length in characters),
        case="characters right",
        judged=_judged(answers, [value > 0 for value in folded]),
    )


def _said(answers: Sequence[Text]) -> list[str]:
    return [answer.text for answer in answers]


def _texts(truth: Sequence[Answer]) -> list[str]:
    return [answer.text for answer in cast("Sequence[Text]", truth)]


def _judged(answers: Sequence[Text], right: Sequence[bool]) -> tuple[Judged, ...]:
    return tuple(
        Judged(number, answer.confidence, hit) for number, (answer, hit) in enumerate(zip(answers, right, strict=True))
    )
