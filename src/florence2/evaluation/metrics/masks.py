"""Masks in the form that pycocotools counts in: compressed run lengths.

Polygons are filled by pycocotools' own rule, which RefCOCO's and COCO's evaluations use, so that figures are theirs to
the last pixel. Several polygons are one mask: their union.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy
from numpy.typing import NDArray

from florence2.data.masks import decode
from florence2.errors import DataError
from florence2.evaluation.metrics.libraries import library
from florence2.results import Polygon

Mask = NDArray[numpy.bool_]


def fill(polygons: Sequence[Polygon], size: tuple[int, int]) -> Mask:
    """The pixels of polygons on a photo of ``size`` (width, height): (H, W) bool. Those with fewer than three points
    have none."""
    tools = library("pycocotools.mask")
    mask: Mask = tools.decode(run_lengths([list(p) for p in polygons], size, "an outline")).astype(bool)
    return mask


def run_lengths(segmentation: Any, size: tuple[int, int] | None, what: str) -> dict[str, Any]:
    """COCO's ``segmentation`` (polygons, run lengths as numbers or compressed) or a mask (H, W) → compressed.

    ``size`` is (width, height) of the image. Raises DataError where it is missing or does not fit.
    """
    tools = library("pycocotools.mask")
    if isinstance(segmentation, numpy.ndarray):
        found: dict[str, Any] = tools.encode(numpy.asfortranarray(segmentation.astype(numpy.uint8)))
    elif isinstance(segmentation, dict):
        found = _compressed(segmentation, what)
    else:
        found = _filled(segmentation, size, what)
    if size is not None and list(found["size"]) != [size[1], size[0]]:
        raise DataError(
            f"the mask of {what} is {found['size'][1]} x {found['size'][0]}, its image {size[0]} x {size[1]}"
        )
    return found


def _compressed(segmentation: dict[str, Any], what: str) -> dict[str, Any]:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(counts, (str, bytes)):
        mask = decode(segmentation, f"the mask of {what}")
        found: dict[str, Any] = library("pycocotools.mask").encode(numpy.asfortranarray(mask.astype(numpy.uint8)))
        return found
    whole = isinstance(size, (list, tuple)) and len(size) == 2 and all(type(v) is int and v > 0 for v in size)
    if not isinstance(size, (list, tuple)) or not whole:
        raise DataError(f"the size of the mask of {what} is {size!r}, expected [height, width]")
    text = counts.encode("ascii", "replace") if isinstance(counts, str) else counts
    if not _fits(text, size[0] * size[1]):  # pycocotools reads on beyond the end of runs that do not
        raise DataError(f"the runs of the mask of {what} do not cover its {size[0]} x {size[1]} pixels")
    return {"size": list(size), "counts": text}


def _fits(counts: bytes, pixels: int) -> bool:
    """Do compressed runs cover so many pixels? As ``data.masks.decode`` reads them, fast enough for half a million."""
    letters = numpy.frombuffer(counts, dtype=numpy.uint8).astype(numpy.int64) - 48
    if not letters.size or letters.min() < 0 or letters.max() > 63 or letters[-1] & 32:
        return False
    ends = numpy.flatnonzero(~letters & 32)  # the last letter of each run
    starts = numpy.concatenate([[0], ends[:-1] + 1])
    places = numpy.arange(letters.size) - numpy.repeat(starts, ends - starts + 1)
    if places.max() > 11:
        return False
    values = numpy.add.reduceat((letters & 31) << (5 * places), starts)
    values -= numpy.where(letters[ends] & 16, numpy.int64(1) << (5 * (ends - starts + 1)), 0)  # the sign
    runs = values.copy()
    runs[1::2] = numpy.cumsum(values[1::2])  # differences to the run before last ...
    runs[2::2] = numpy.cumsum(values[2::2])  # ... from the fourth run on
    return bool(runs.min() >= 0 and runs.sum() == pixels)


def _filled(segmentation: Any, size: tuple[int, int] | None, what: str) -> dict[str, Any]:
    if size is None:
        raise DataError(f"the size of the image of {what} is not known, and its polygons cannot be filled without")
    if not isinstance(segmentation, (list, tuple)):
        raise DataError(f"the segmentation of {what} is {segmentation!r}, expected polygons or a run-length mask")
    polygons = []
    for polygon in segmentation:
        numbers = isinstance(polygon, (list, tuple)) and all(isinstance(v, (int, float)) for v in polygon)
        if not numbers or len(polygon) % 2 or not numpy.isfinite(polygon).all():
            raise DataError(f"a polygon of {what} is {polygon!r}, expected x, y, x, y, ...")
        if len(polygon) >= 6:
            polygons.append([float(v) for v in polygon])
    tools = library("pycocotools.mask")
    width, height = size
    if not polygons:
        empty: dict[str, Any] = tools.encode(numpy.zeros((height, width), dtype=numpy.uint8, order="F"))
        return empty
    merged: dict[str, Any] = tools.merge(tools.frPyObjects(polygons, height, width))
    return merged
