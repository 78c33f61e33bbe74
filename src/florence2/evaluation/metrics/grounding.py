"""Words that mean boxes: phrase grounding (Flickr30k Entities) and referring expressions (RefCOCO).

A phrase is found where one of the first k boxes overlaps the truth by 0.5 or more. A phrase may mean several boxes:

    any       any of them counts (ANY-BOX)
    merged    the box around all of them is the truth (MERGED-BOXES)

Own code: the two protocols are a few lines in the evaluations of MDETR and GLIP, and no library has them.
Sources: Plummer et al. (2015); Kamath et al. (2021), "MDETR", appendix; Kazemzadeh et al. (2014); He et al. (2023),
"GREC".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from florence2.errors import DataError
from florence2.evaluation.metrics import boxes as overlap
from florence2.evaluation.metrics import detection
from florence2.results import Box

Protocol = Literal["any", "merged"]
Boxes = Sequence[Box]
ENOUGH = 0.5
RANKS = (1, 5, 10)


def score(
    predicted: Sequence[Boxes], truth: Sequence[Boxes], scores: Sequence[Sequence[float]] | None = None
) -> dict[str, float | None]:
    """accuracy, R@1, R@5, R@10 (any box), merged-R@1 ..., mAP and AP50, N-acc; one entry per phrase.

    accuracy is R@1. Phrases without true boxes are not in the photo: they count in mAP (a box for them is wrong) and in
    N-acc (the part of them for which nothing was found), not in recall. Figures that do not exist are None.
    """
    _check(predicted, truth)
    ranked = rank(predicted, scores)
    present = [number for number, boxes in enumerate(truth) if boxes]
    found, true = [ranked[n] for n in present], [truth[n] for n in present]
    figures: dict[str, float | None] = {"accuracy": accuracy(found, true) if present else None}
    protocols: tuple[tuple[str, Protocol], ...] = (("", "any"), ("merged-", "merged"))
    for prefix, protocol in protocols:
        figures |= {f"{prefix}R@{k}": recall(found, true, k, protocol) if present else None for k in RANKS}
    absent = [not ranked[n] for n, boxes in enumerate(truth) if not boxes]
    return {
        **figures,
        **average_precision(predicted, truth, scores),
        "N-acc": sum(absent) / len(absent) if absent else None,
    }


def rank(predicted: Sequence[Boxes], scores: Sequence[Sequence[float]] | None) -> list[list[Box]]:
    """The best box first; equal scores by place. Without scores the boxes stay in the order in which they are given."""
    if scores is None:
        return [list(boxes) for boxes in predicted]
    if [len(boxes) for boxes in predicted] != [len(row) for row in scores]:
        raise DataError("there are not as many scores as boxes; expected one score per box of each phrase")
    return [
        [box for _, box in sorted(zip(row, boxes, strict=True), key=lambda pair: (-pair[0], tuple(pair[1])))]
        for boxes, row in zip(predicted, scores, strict=True)
    ]


def accuracy(ranked: Sequence[Boxes], truth: Sequence[Boxes], protocol: Protocol = "any") -> float:
    """The part of phrases or expressions whose first box overlaps the truth by 0.5: R@1, Acc@0.5 of RefCOCO."""
    return recall(ranked, truth, 1, protocol)


def recall(ranked: Sequence[Boxes], truth: Sequence[Boxes], k: int, protocol: Protocol = "any") -> float:
    """R@k: the part of phrases of which one of the first ``k`` boxes overlaps the truth by 0.5.

    Raises DataError where there are no phrases, or one without a true box.
    """
    _check(ranked, truth)
    if not truth:
        raise DataError("there are no phrases to score; give at least one")
    if k < 1:
        raise DataError(f"R@{k} was asked for; expected k of 1 or more")
    hits = 0
    for number, (boxes, true) in enumerate(zip(ranked, truth, strict=True)):
        if not true:
            raise DataError(f"phrase {number} has no true box; leave it out of recall")
        wanted = [overlap.hull(true)] if protocol == "merged" else list(true)
        hits += bool((overlap.iou_matrix(list(boxes)[:k], wanted) >= ENOUGH).any())
    return hits / len(truth)


def average_precision(
    predicted: Sequence[Boxes], truth: Sequence[Boxes], scores: Sequence[Sequence[float]] | None = None
) -> dict[str, float | None]:
    """mAP (IoU 0.5 to 0.95) and AP50 by COCO's rules, every phrase a photo of its own, all of one class.

    Boxes without scores count as ranked within their phrase: 1, 1/2, 1/3, ...
    """
    _check(predicted, truth)
    rows = [[1 / place for place in range(1, len(boxes) + 1)] for boxes in predicted] if scores is None else scores
    ranked = rank(predicted, rows)
    ordered = [sorted(row, reverse=True) for row in rows]
    document = {
        "images": [{"id": number} for number in range(len(truth))],
        "annotations": [
            {"image_id": number, "category_id": 1, "bbox": _sides(box)}
            for number, boxes in enumerate(truth)
            for box in boxes
        ],
        "categories": [{"id": 1, "name": "phrase"}],
    }
    results = [
        {"image_id": number, "category_id": 1, "bbox": _sides(box), "score": value}
        for number, (boxes, row) in enumerate(zip(ranked, ordered, strict=True))
        for box, value in zip(boxes, row, strict=True)
    ]
    found = detection.evaluate(document, results)
    return {"mAP": found.ap(), "AP50": found.ap(iou=0)}


def _sides(box: Box) -> list[float]:
    return [box[0], box[1], max(box[2] - box[0], 0.0), max(box[3] - box[1], 0.0)]


def _check(predicted: Sequence[Boxes], truth: Sequence[Boxes]) -> None:
    if len(predicted) != len(truth):
        raise DataError(f"{len(predicted)} predictions of {len(truth)} phrases; expected one entry per phrase")
