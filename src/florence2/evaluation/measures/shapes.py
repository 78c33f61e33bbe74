"""Measures of outlines and of regions of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy

from florence2.evaluation.measures import sums
from florence2.evaluation.metrics import masks, ocr
from florence2.evaluation.metrics import segmentation as overlap
from florence2.evaluation.outcomes import Judged, Measured, Statistic, Weights
from florence2.evaluation.samples import Sample
from florence2.results import Polygon, Segments, TextRegions


def segmentation(samples: Sequence[Sample], answers: Sequence[Segments]) -> Measured:
    """All outlines of an answer are one mask, as are those of its truth."""
    counts = []
    for sample, answer in zip(samples, answers, strict=True):
        right = cast(Segments, sample.truth[0])
        size = (right.width, right.height)
        counts.append(overlap.count(masks.fill(_polygons(answer), size), masks.fill(_polygons(right), size)))
    shared, covered = [s for s, _ in counts], [c for _, c in counts]
    ious = [s / c if c else 1.0 for s, c in counts]
    statistics = {
        "mIoU": sums.mean(ious),
        "cIoU": _overall(sums.ratio(shared, covered)),
        **{f"Pr@{limit}": sums.mean([value >= limit for value in ious]) for limit in overlap.THRESHOLDS},
    }
    return Measured(
        figures={**overlap.score_counts(counts)},
        statistics=statistics,
        cases=tuple(ious),
        case="IoU",
        judged=tuple(
            Judged(number, answer.instances[0].score, iou >= 0.5)
            for number, (answer, iou) in enumerate(zip(answers, ious, strict=True))
            if len(answer.instances) == 1  # the mask of several belongs to no single score
        ),
    )


def _overall(ratio: Statistic) -> Statistic:
    """Nothing was to be found and nothing was: 1, as in ``metrics``."""

    def statistic(weights: Weights) -> float | None:
        found = ratio(weights)
        return 1.0 if found is None else found

    return statistic


def spotting(samples: Sequence[Sample], answers: Sequence[TextRegions]) -> Measured:
    spots = [
        ocr.spot(answer.regions, cast(TextRegions, sample.truth[0]).regions, sample.illegible)
        for sample, answer in zip(samples, answers, strict=True)
    ]
    table = numpy.array([(len(s.counted), s.wanted, s.located, len(s.right)) for s in spots], dtype=float)

    def figure(name: str) -> Statistic:
        def statistic(weights: Weights) -> float | None:
            found, wanted, located, right = (weights @ table).tolist()
            return ocr.spotting_of(found, wanted, located, right)[name]

        return statistic

    statistics = {name: figure(name) for name in ocr.spotting_of(0, 0, 0, 0)}
    return Measured(
        figures={name: sums.value(statistic, len(samples)) for name, statistic in statistics.items()},
        statistics=statistics,
        cases=tuple(2 * r / (f + w) if f + w else None for f, w, _, r in table.tolist()),
        case="F1",
        judged=tuple(
            Judged(number, answers[number].regions[i].score, i in spot.right)
            for number, spot in enumerate(spots)
            for i in spot.counted
        ),
    )


def _polygons(answer: Segments) -> list[Polygon]:
    return [polygon for instance in answer.instances for polygon in instance.polygons]
