"""mIoU, cIoU and Pr@X."""

from __future__ import annotations

import random
from typing import Any

import numpy
import pytest

from florence2.errors import DataError
from florence2.evaluation.metrics import masks, segmentation
from florence2.evaluation.metrics.masks import Mask


def rows(count: int, height: int = 10, width: int = 4) -> Mask:
    mask = numpy.zeros((height, width), dtype=bool)
    mask[:count] = True
    return mask


def test_by_hand() -> None:
    pairs = [(rows(5), rows(10)), (rows(2, width=1), rows(2, width=1)), (rows(1), rows(0))]
    figures = segmentation.score(pairs)
    assert figures["mIoU"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert figures["cIoU"] == pytest.approx((20 + 2 + 0) / (40 + 2 + 4))
    assert figures["Pr@0.5"] == pytest.approx(2 / 3)
    assert figures["Pr@0.6"] == figures["Pr@0.9"] == pytest.approx(1 / 3)
    assert segmentation.iou(*pairs[0]) == 0.5


def test_nothing_and_nothing() -> None:
    assert segmentation.score([(rows(0), rows(0))])["mIoU"] == 1
    assert segmentation.score([(rows(0), rows(0)), (rows(0), rows(5))])["cIoU"] == 0
    with pytest.raises(DataError, match="no masks"):
        segmentation.score([])
    with pytest.raises(DataError, match=r"a mask is \(10, 4\) and its truth \(10, 5\)"):
        segmentation.score([(rows(1), rows(1, width=5))])


def polygon(rng: random.Random) -> tuple[float, ...]:
    x, y = rng.uniform(0, 30), rng.uniform(0, 30)
    points = [(x, y), (x + rng.uniform(4, 30), y), (x + rng.uniform(4, 30), y + rng.uniform(4, 30)), (x, y + 20)]
    return tuple(value for point in points for value in point)


def gap_to_pycocotools(count: int, fault: bool = False) -> float:
    """Ours from filled polygons beside pycocotools' IoU of run lengths."""
    tools = pytest.importorskip("pycocotools.mask")
    rng = random.Random(0)
    worst = 0.0
    for _ in range(count):
        a, b = ([polygon(rng) for _ in range(rng.randrange(1, 4))] for _ in range(2))
        merged = [tools.merge(tools.frPyObjects([list(p) for p in some], 64, 64)) for some in (a, b)]
        ours = segmentation.iou(masks.fill(a, (64, 64)), masks.fill(b[:-1] if fault else b, (64, 64)))
        worst = max(worst, abs(ours - float(tools.iou(merged[:1], merged[1:], [0])[0, 0])))
    return worst


def test_equal_to_pycocotools() -> None:
    assert gap_to_pycocotools(1000) < 1e-9
    assert gap_to_pycocotools(20, fault=True) > 1e-3


def test_order_does_not_matter() -> None:
    rng = random.Random(1)
    pairs = [(rows(rng.randrange(11)), rows(rng.randrange(11))) for _ in range(50)]
    assert segmentation.score(rng.sample(pairs, 50)) == segmentation.score(pairs)


# COCO files


def square(side: float, x: float = 0.0) -> list[list[float]]:
    return [[x, 0.0, x + side, 0.0, x + side, side, x, side]]


def document(*annotations: dict[str, Any]) -> dict[str, Any]:
    images = [{"id": n, "width": 50, "height": 40} for n in (1, 2)]
    return {"images": images, "annotations": list(annotations), "categories": [{"id": 1, "name": "it"}]}


def entry(image: int, outline: list[list[float]], **more: Any) -> dict[str, Any]:
    return {"image_id": image, "category_id": 1, "segmentation": outline, **more}


def test_one_sample_per_image_and_category() -> None:
    truth = document(entry(1, square(20)), entry(2, square(10)), entry(2, square(10, 20)))
    found = [entry(1, square(10)), entry(2, square(10)), entry(2, square(10, 20)), entry(2, square(10, 20))]
    figures = segmentation.coco_score(truth, found)
    assert figures["mIoU"] == pytest.approx((0.25 + 1) / 2)
    assert figures["cIoU"] == pytest.approx((100 + 200) / (400 + 200))
    assert figures["Pr@0.5"] == 0.5
    named = [{"image_id": 1, "category_name": "it", "segmentation": square(20)}]
    assert segmentation.coco_score(document(entry(1, square(20))), named)["mIoU"] == 1


def test_missing_surplus_and_crowds() -> None:
    assert segmentation.coco_score(document(entry(1, square(20))), [])["mIoU"] == 0
    assert segmentation.coco_score(document(), [entry(1, square(20))])["cIoU"] == 0
    assert set(segmentation.coco_score(document(entry(1, square(20), iscrowd=1)), []).values()) == {None}
