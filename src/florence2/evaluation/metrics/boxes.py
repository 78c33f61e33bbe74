"""Overlap of boxes (x0, y0, x1, y1): the area that two boxes share, by the area that they cover together.

Coordinates are continuous: a box from 0 to 10 is 10 wide, no pixel is added (COCO's convention; Pascal VOC's adds one).
Own code: six lines, and the libraries that have them bring PyTorch or a compiler along.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy
from numpy.typing import NDArray

from florence2.errors import DataError
from florence2.results import Box

Matrix = NDArray[numpy.float64]


def area(box: Box) -> float:
    """Square pixels; an inverted box has none."""
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def iou(a: Box, b: Box) -> float:
    """Intersection over union, in [0, 1]; 0 where both boxes are empty, as in COCO's evaluation."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    covered = area(a) + area(b) - shared
    return shared / covered if covered > 0 else 0.0


def iou_matrix(a: Sequence[Box], b: Sequence[Box]) -> Matrix:
    """Of every box of ``a`` with every box of ``b``: (A, B). Raises DataError where a box is not four numbers."""
    left, right = _array(a)[:, None], _array(b)[None]  # (A, 1, 4), (1, B, 4)
    corners = numpy.minimum(left[..., 2:], right[..., 2:]) - numpy.maximum(left[..., :2], right[..., :2])
    shared = corners.clip(0).prod(-1)  # (A, B)
    covered = _areas(left) + _areas(right) - shared
    found: Matrix = numpy.divide(shared, covered, out=numpy.zeros_like(shared), where=covered > 0)
    return found


def hull(boxes: Sequence[Box]) -> Box:
    """The smallest box around all. Raises DataError where there is none."""
    if not boxes:
        raise DataError("no boxes were given, and there is no box around nothing")
    return (
        min(box[0] for box in boxes),
        min(box[1] for box in boxes),
        max(box[2] for box in boxes),
        max(box[3] for box in boxes),
    )


def _array(boxes: Sequence[Box]) -> Matrix:
    if any(len(box) != 4 for box in boxes):
        raise DataError("a box is not four numbers; expected (x0, y0, x1, y1)")
    return numpy.array(boxes, dtype=float).reshape(-1, 4)


def _areas(boxes: Matrix) -> Matrix:
    found: Matrix = (boxes[..., 2:] - boxes[..., :2]).clip(0).prod(-1)
    return found
