"""RefCOCO val as referring expression segmentation: expressions that mean a mask.

Sources: see ``refer.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from florence2.data import fields, masks
from florence2.errors import DataError
from florence2.evaluation.benchmarks import refer
from florence2.evaluation.benchmarks.records import Benchmark
from florence2.evaluation.benchmarks.sources import checked, entry, tuned, zero_shot
from florence2.evaluation.samples import Sample
from florence2.results import Instance, Polygon, Segments

TASK = "<REFERRING_EXPRESSION_SEGMENTATION>"


def _read(folder: Path) -> Iterator[Sample]:
    for expression in refer.read(folder, "refcoco", "val"):
        record = expression.record
        with entry(expression.path, expression.where):
            polygons = _outlines(expression.annotation.get("segmentation"), (record.width, record.height))
        truth = Segments(
            task=TASK,
            width=record.width,
            height=record.height,
            instances=(Instance(label=expression.text, polygons=polygons),),
        )
        yield Sample(id=expression.id, record=record, task=TASK, given=expression.text, truth=(truth,))


def _outlines(segmentation: object, size: tuple[int, int]) -> tuple[Polygon, ...]:
    """Polygons as they are; run lengths as polygons of the same pixels."""
    if isinstance(segmentation, dict):
        mask = masks.decode(segmentation, "the segmentation")
        if mask.shape != (size[1], size[0]):
            raise DataError(f"the mask is {mask.shape[1]} x {mask.shape[0]}, the photo {size[0]} x {size[1]}")
        found = masks.outlines(mask)
    else:
        found = tuple(fields.points(p, "a polygon") for p in fields.items(segmentation, "segmentation"))
    if not any(len(polygon) >= 6 for polygon in found) or any(len(polygon) % 2 for polygon in found):
        raise DataError("its segmentation is no outline; expected polygons of three points or more")
    return found


BENCHMARKS: tuple[Benchmark, ...] = (
    Benchmark(
        name="refcoco-val-res",
        title="RefCOCO, val, masks",
        task=TASK,
        measure="segmentation",
        main="mIoU",
        protocol="One question per expression; all polygons of the answer together are its mask, those of the true "
        "object theirs, filled at the size of the photo. mIoU is the mean IoU over expressions, as the paper prints "
        "it; cIoU (overall IoU), which others print, is another figure. Expressions as lichengunc/refer cleaned them "
        "(sent), splits of UNC.",
        read=partial(checked, read=_read, file=refer.refs_of("refcoco")),
        needs=refer.needs("refcoco"),
        paper=zero_shot("mIoU", 34.6, 35.8) + tuned("mIoU", 78.0, 80.5, "table 6"),
    ),
)
