"""How well masks fit, one predicted mask per true one: referring expressions, regions.

mIoU is the mean over samples of the overlap, cIoU (also called overall IoU) all shared pixels by all covered pixels,
and Pr@X the part of samples that overlap by X or more. Own code: a few counts that every project writes for itself; the
reading of outlines is pycocotools' (``masks.py``).

Sources: Kazemzadeh et al. (2014); Yu et al. (2016), "Modeling context in referring expressions"; Liu et al. (2023),
"GRES".
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from florence2.errors import DataError
from florence2.evaluation.metrics.masks import Mask

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


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
