"""Measures of boxes: detection, proposals, closed labels, grounding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy

from florence2.errors import DataError
from florence2.evaluation.measures import sums
from florence2.evaluation.metrics import boxes as overlap
from florence2.evaluation.metrics import detection as precision
from florence2.evaluation.metrics import grounding as phrases
from florence2.evaluation.outcomes import Curve, Figures, Judged, Measured, Statistic
from florence2.evaluation.samples import Sample
from florence2.results import Box, Detections

POINTS = 101
"""Of a precision-recall curve."""


def detection(samples: Sequence[Sample], answers: Sequence[Detections]) -> Measured:
    """Objects of classes that no truth has change nothing: their AP does not exist."""
    return _average_precision(samples, answers, named=True)


def proposals(samples: Sequence[Sample], answers: Sequence[Detections]) -> Measured:
    """The boxes alone: all things are of one class."""
    return _average_precision(samples, answers, named=False)


def closed(samples: Sequence[Sample], answers: Sequence[Detections]) -> Measured:
    """Detection of the labels that a sample gives; those without a true box or a crowd are absent."""
    measured = _average_precision(samples, answers, named=True)
    absent = [_asked(s) - {o.label for o in (*_true(s).objects, *s.ignored)} for s in samples]
    false = [sum(o.label in without for o in a.objects) for a, without in zip(answers, absent, strict=True)]
    empty = [len(w - {o.label for o in a.objects}) for a, w in zip(answers, absent, strict=True)]
    extra: dict[str, Statistic] = {
        "absent-boxes": sums.ratio(false, [len(without) for without in absent]),
        "absent-accuracy": sums.ratio(empty, [len(without) for without in absent]),
    }
    values = {name: sums.value(statistic, len(samples)) for name, statistic in extra.items()}
    return Measured(
        figures={**measured.figures, **values},
        statistics={**measured.statistics, **extra},
        cases=measured.cases,
        case=measured.case,
        judged=measured.judged,
        curves=measured.curves,
        classes=measured.classes,
    )


def grounding(samples: Sequence[Sample], answers: Sequence[Detections]) -> Measured:
    """Every true phrase gets the boxes that carry its words; a single phrase gets all boxes, since a model names a part
    of an expression ("a man" of "a man in red")."""
    found: list[list[Box]] = []
    scores: list[list[float]] = []
    true: list[list[Box]] = []
    owners: list[int] = []
    for number, (sample, answer) in enumerate(zip(samples, answers, strict=True)):
        wanted = list(dict.fromkeys(_folded(o.label) for o in _true(sample).objects))
        for phrase in wanted:
            mine = [o for o in answer.objects if len(wanted) == 1 or _folded(o.label) == phrase]
            mine = sorted(mine, key=lambda o: (-o.score, o.box))
            found.append([o.box for o in mine])
            scores.append([o.score for o in mine])
            true.append([o.box for o in _true(sample).objects if _folded(o.label) == phrase])
            owners.append(number)
    rows = sorted(zip(true, found, scores, strict=True))  # of equal scores mAP takes the first phrase first
    figures = phrases.score([f for _, f, _ in rows], [t for t, _, _ in rows], [s for _, _, s in rows]) if rows else {}
    hits = {
        "accuracy": _hits(found, true, 1, "any"),
        "R@5": _hits(found, true, 5, "any"),
        "R@10": _hits(found, true, 10, "any"),
        "merged-accuracy": _hits(found, true, 1, "merged"),
    }
    places, count = numpy.array(owners, dtype=numpy.int64), len(samples)
    asked = numpy.bincount(places, minlength=count)
    statistics = {
        name: sums.ratio(numpy.bincount(places, values, minlength=count).tolist(), asked.tolist())
        for name, values in hits.items()
    }
    best = [
        max((overlap.iou(boxes[0], box) for box in several), default=0.0) if boxes else 0.0
        for boxes, several in zip(found, true, strict=True)
    ]
    overlaps = numpy.bincount(places, best, minlength=count)
    return Measured(
        figures={
            **{name: sums.value(statistic, count) for name, statistic in statistics.items()},
            **{name: figures.get(name) for name in ("merged-R@5", "merged-R@10", "mAP", "AP50")},
        },
        statistics=statistics,
        cases=tuple(o / n if n else None for o, n in zip(overlaps.tolist(), asked.tolist(), strict=True)),
        case="IoU",
        judged=tuple(
            Judged(number, row[0], bool(hit))
            for number, row, hit in zip(owners, scores, hits["accuracy"], strict=True)
            if row
        ),
    )


def _hits(found: list[list[Box]], true: list[list[Box]], k: int, protocol: phrases.Protocol) -> list[float]:
    return [phrases.recall([f], [t], k, protocol) for f, t in zip(found, true, strict=True)]


def _folded(label: str) -> str:
    return label.strip().casefold()


def _true(sample: Sample) -> Detections:
    return cast(Detections, sample.truth[0])


def _asked(sample: Sample) -> set[str]:
    if not isinstance(sample.given, tuple) or not all(isinstance(label, str) for label in sample.given):
        raise DataError(f"{sample.id} gives {sample.given!r}, expected the labels that are asked for")
    return set(cast("tuple[str, ...]", sample.given))


# Average precision


def _average_precision(samples: Sequence[Sample], answers: Sequence[Detections], named: bool) -> Measured:
    names = sorted({o.label if named else "" for sample in samples for o in _true(sample).objects})
    count = len(samples)
    if not names:
        nothing = tuple(None if not a.objects else 0.0 for a in answers)
        return Measured(figures=dict.fromkeys(("AP", "AP50", "AP75", "AR100")), cases=nothing, case="F1")
    # Of equal scores COCO takes the first image first; here none is the first because of where it stands.
    order = sorted(range(count), key=lambda n: _content(samples[n], answers[n]))
    truth, results = _documents([samples[n] for n in order], [answers[n] for n in order], names, named)
    evaluation = precision.evaluate(truth, results)
    ranked = precision.rankings(truth, results)
    places = numpy.array(order)
    statistics: dict[str, Statistic] = {
        "AP": lambda weights: ranked.ap(weights[places]),
        "AP50": lambda weights: ranked.ap(weights[places], 0),
        "AP75": lambda weights: ranked.ap(weights[places], 5),
    }
    right, wrong, wanted = numpy.zeros(count), numpy.zeros(count), numpy.zeros(count)
    judged: list[Judged] = []
    for ranking in ranked.rankings:
        hit, miss = ranking.right[0], ranking.wrong[0]  # IoU 0.5
        owners = places[ranking.images]
        right += numpy.bincount(owners, hit, minlength=count)
        wrong += numpy.bincount(owners, miss, minlength=count)
        wanted[places] += ranking.wanted
        counted = hit | miss
        judged += [
            Judged(int(owner), float(score), bool(good))
            for owner, score, good in zip(owners[counted], ranking.scores[counted], hit[counted], strict=True)
        ]
    sizes = right + wrong + wanted
    classes: dict[str, Figures] = {}
    if named:
        for number, name in enumerate(names):
            classes[name] = {
                "count": float(ranked.rankings[number].wanted.sum()),
                "AP": evaluation.ap(classes=[number]),
                "AP50": evaluation.ap(iou=0, classes=[number]),
            }
    return Measured(
        figures={name: value for name, value in evaluation.coco().items() if not name.startswith("AP-")},
        statistics=statistics,
        cases=tuple(2 * r / s if s else None for r, s in zip(right.tolist(), sizes.tolist(), strict=True)),
        case="F1",
        judged=tuple(sorted(judged, key=lambda j: (j.sample, -j.score, j.right))),
        curves=(_curve(judged, float(wanted.sum())),),
        classes=classes,
    )


def _content(sample: Sample, answer: Detections) -> tuple[Any, ...]:
    """Equal only where samples can be exchanged. What is true comes first, so that two models are ordered alike."""
    true, ignored, found = (
        [(o.box, o.label, o.score) for o in objects]
        for objects in (_true(sample).objects, sample.ignored, answer.objects)
    )
    return true, ignored, sample.areas, sample.classes, found


def _documents(
    samples: Sequence[Sample], answers: Sequence[Detections], names: Sequence[str], named: bool
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """As COCO writes them; the samples are the images, by number."""
    numbers = {name: number for number, name in enumerate(names)}
    truth: dict[str, Any] = {
        "images": [{"id": n, "width": _true(s).width, "height": _true(s).height} for n, s in enumerate(samples)],
        "categories": [{"id": number, "name": name} for name, number in numbers.items()],
        "annotations": [],
    }
    results = []
    for number, (sample, answer) in enumerate(zip(samples, answers, strict=True)):
        areas = sample.areas or (None,) * len(_true(sample).objects)
        if len(areas) != len(_true(sample).objects):
            raise DataError(f"{sample.id} has {len(areas)} areas of {len(_true(sample).objects)} true objects")
        for item, area in zip(_true(sample).objects, areas, strict=True):
            entry = _entry(number, numbers[item.label if named else ""], item.box)
            truth["annotations"].append(entry if area is None else {**entry, "area": area})
        for item in sample.ignored:
            label = item.label if named else ""
            if label in numbers:
                truth["annotations"].append({**_entry(number, numbers[label], item.box), "iscrowd": 1})
        for item in answer.objects:
            label = item.label if named else ""
            unknown = named and sample.classes and label not in sample.classes
            if label in numbers and not unknown:
                results.append({**_entry(number, numbers[label], item.box), "score": item.score})
    return truth, results


def _entry(number: int, category: int, box: Box) -> dict[str, Any]:
    x0, y0, x1, y1 = box
    return {"image_id": number, "category_id": category, "bbox": [x0, y0, max(x1 - x0, 0.0), max(y1 - y0, 0.0)]}


def _curve(judged: Sequence[Judged], wanted: float) -> Curve:
    """All classes together, at IoU 0.5: precision where recall is first reached, thinned out to a hundred points."""
    ordered = sorted(judged, key=lambda j: (-j.score, j.right, j.sample))
    hits = numpy.cumsum([j.right for j in ordered])
    exact = hits / numpy.arange(1, len(ordered) + 1) if ordered else numpy.zeros(0)
    recall = hits / wanted if wanted else numpy.zeros(len(ordered))
    kept = numpy.unique(numpy.linspace(0, max(len(ordered) - 1, 0), POINTS).round().astype(int))[: len(ordered)]
    return Curve("all classes", tuple(recall[kept].tolist()), tuple(exact[kept].tolist()))
