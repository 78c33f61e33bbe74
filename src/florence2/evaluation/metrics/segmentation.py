"""How well masks fit, one predicted mask per true one: referring expressions, regions.

mIoU is the mean over samples of the overlap, cIoU (also called overall IoU) all shared pixels by all covered pixels,
and Pr@X the part of samples that overlap by X or more. Own code: a few counts that every project writes for itself; the
reading of outlines is pycocotools' (``masks.py``).

Sources: Kazemzadeh et al. (2014); Yu et al. (2016), "Modeling context in referring expressions"; Liu et al. (2023),
"GRES".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from florence2.errors import DataError
from florence2.evaluation.metrics import masks
from florence2.evaluation.metrics.libraries import library
from florence2.evaluation.metrics.masks import Mask

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
_NAMES = ("mIoU", "cIoU", *(f"Pr@{limit}" for limit in THRESHOLDS))


def score(pairs: Iterable[tuple[Mask, Mask]]) -> dict[str, float]:
    """mIoU, cIoU and Pr@0.5 to Pr@0.9 of (predicted, true) masks, (H, W) bool each pair of one size.

    Where both are empty, nothing was to be found and nothing was: 1 in mIoU. Raises DataError without pairs.
    """
    return score_counts([count(predicted, true) for predicted, true in pairs])


def score_counts(counts: Iterable[tuple[float, float]]) -> dict[str, float]:
    """``score`` from (shared pixels, covered pixels) of every sample."""
    known = list(counts)
    if not known:
        raise DataError("there are no masks to score; give at least one pair")
    ious = [shared / covered if covered else 1.0 for shared, covered in known]
    covered = math.fsum(c for _, c in known)
    return {
        "mIoU": math.fsum(ious) / len(ious),
        "cIoU": math.fsum(s for s, _ in known) / covered if covered else 1.0,
        **{f"Pr@{limit}": sum(value >= limit for value in ious) / len(ious) for limit in THRESHOLDS},
    }


def count(predicted: Mask, true: Mask) -> tuple[int, int]:
    """(shared pixels, covered pixels)"""
    if predicted.shape != true.shape:
        raise DataError(
            f"a mask is {predicted.shape} and its truth {true.shape}; expected (height, width) of the photo"
        )
    return int((predicted & true).sum()), int((predicted | true).sum())


def iou(predicted: Mask, true: Mask) -> float:
    """Of one pair; 1 where both are empty."""
    shared, covered = count(predicted, true)
    return shared / covered if covered else 1.0


def coco_score(truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """``score`` of COCO files, one sample per image and category: the union of its masks, whatever their scores.

    With one image per expression, as referring data sets are written, these are RefCOCO's figures; with many objects
    per category they are those of semantic segmentation per image. A category that was found where none is has the
    overlap 0. Crowds and what is to be ignored are left out. None where there are no samples.
    """
    tools = library("pycocotools.mask")
    sizes = {i["id"]: (i["width"], i["height"]) for i in truth["images"] if "width" in i and "height" in i}
    samples: dict[tuple[Any, Any], tuple[list[Any], list[Any]]] = {}
    names = {category["name"]: category["id"] for category in truth["categories"]}
    for side, entries in enumerate((results, truth["annotations"])):
        for entry in entries:
            if entry.get("iscrowd") or entry.get("ignore"):
                continue
            category = entry["category_id"] if "category_id" in entry else names[entry["category_name"]]
            what = f"an entry of image {entry['image_id']!r}"
            mask = masks.run_lengths(entry["segmentation"], sizes.get(entry["image_id"]), what)
            samples.setdefault((entry["image_id"], category), ([], []))[side].append(mask)
    counts = []
    for found, true in samples.values():
        areas = [float(tools.area(tools.merge(several))) if several else 0.0 for several in (found, true)]
        covered = float(tools.area(tools.merge(found + true)))
        counts.append((areas[0] + areas[1] - covered, covered))
    figures: dict[str, float | None] = {}
    figures.update(score_counts(counts) if counts else dict.fromkeys(_NAMES))
    return figures
