"""Overlap of boxes."""

from __future__ import annotations

import random

import numpy
import pytest

from florence2.errors import DataError
from florence2.evaluation.metrics import boxes
from florence2.results import Box

SQUARE = (0.0, 0.0, 10.0, 10.0)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (SQUARE, 1.0),
        ((5.0, 0.0, 15.0, 10.0), 1 / 3),
        ((0.0, 0.0, 10.0, 5.0), 0.5),
        ((10.0, 0.0, 20.0, 10.0), 0.0),  # they touch
        ((50.0, 50.0, 60.0, 60.0), 0.0),
        ((3.0, 3.0, 3.0, 3.0), 0.0),
    ],
)
def test_by_hand(other: Box, expected: float) -> None:
    assert boxes.iou(SQUARE, other) == boxes.iou(other, SQUARE) == pytest.approx(expected)
    assert boxes.iou_matrix([SQUARE], [other]) == pytest.approx(numpy.array([[expected]]))


def test_empty_boxes_share_nothing() -> None:
    point = (3.0, 3.0, 3.0, 3.0)
    assert boxes.iou(point, point) == 0
    assert boxes.iou_matrix([point], [point]).tolist() == [[0.0]]


def random_boxes(rng: random.Random, count: int) -> list[Box]:
    corners = [(rng.uniform(-5, 20), rng.uniform(-5, 20)) for _ in range(count)]
    return [(x, y, x + rng.uniform(0.1, 20), y + rng.uniform(0.1, 20)) for x, y in corners]


def equal_to_pycocotools(shift: float = 0.0) -> bool:
    masks = pytest.importorskip("pycocotools.mask")
    rng = random.Random(0)
    for _ in range(1000):
        a, b = random_boxes(rng, rng.randrange(1, 4)), random_boxes(rng, rng.randrange(1, 4))
        sides = [[[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1 in some] for some in (a, b)]
        theirs = masks.iou(*sides, [0] * len(b))
        ours = boxes.iou_matrix([(x0 + shift, y0, x1, y1) for x0, y0, x1, y1 in a], b)
        one = [[boxes.iou(x, y) for y in b] for x in a] if not shift else ours
        if numpy.abs(ours - theirs).max() > 1e-9 or numpy.abs(one - theirs).max() > 1e-9:
            return False
    return True


def test_equal_to_pycocotools() -> None:
    assert equal_to_pycocotools()
    assert not equal_to_pycocotools(shift=0.01)


def test_matrix_of_nothing_and_hull() -> None:
    assert boxes.iou_matrix([], [SQUARE]).shape == (0, 1)
    assert boxes.iou_matrix([SQUARE], []).shape == (1, 0)
    assert boxes.hull([SQUARE, (-1.0, 5.0, 3.0, 40.0)]) == (-1.0, 0.0, 10.0, 40.0)
    with pytest.raises(DataError, match="no boxes"):
        boxes.hull([])
    with pytest.raises(DataError, match="not four numbers"):
        boxes.iou_matrix([(1.0, 2.0, 3.0)], [SQUARE])  # type: ignore[list-item]
