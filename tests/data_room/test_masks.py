"""Run-length masks become outlines of the same pixels; pycocotools is the judge."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from florence2.data import masks
from florence2.errors import DataError

shapes = st.tuples(st.integers(1, 12), st.integers(1, 12))


@st.composite
def drawn(draw: st.DrawFn) -> Any:
    height, width = draw(shapes)
    bits = draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    return numpy.array(bits, dtype=bool).reshape(height, width)


def filled(polygons: tuple[tuple[float, ...], ...], shape: tuple[int, int]) -> Any:
    """Pixels whose centres an odd number of edges lies to the left of: the even-odd rule, by hand."""
    ys, xs = numpy.mgrid[: shape[0], : shape[1]] + 0.5
    inside = numpy.zeros(shape, dtype=int)
    for polygon in polygons:
        points = list(zip(polygon[0::2], polygon[1::2], strict=True))
        odd = numpy.zeros(shape, dtype=bool)
        for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
            if x0 == x1:
                odd ^= (xs > x0) & (min(y0, y1) < ys) & (ys < max(y0, y1))
        inside += odd
    return inside


@given(mask=drawn())
@settings(max_examples=200)
def test_outlines_fill_the_same_pixels(mask: Any) -> None:
    polygons = masks.outlines(mask)
    assert (filled(polygons, mask.shape) == mask).all()  # each pixel once: the parts do not overlap either
    assert all(len(polygon) >= 8 for polygon in polygons)


def test_holes_are_cut_open() -> None:
    ring = numpy.ones((5, 7), dtype=bool)
    ring[2, 3] = False
    assert len(masks.outlines(ring)) == 2
    assert masks.outlines(~ring) == ((3.0, 2.0, 4.0, 2.0, 4.0, 3.0, 3.0, 3.0),)


@given(mask=drawn())
@settings(max_examples=100)
def test_both_run_length_forms(mask: Any) -> None:
    coder = pytest.importorskip("pycocotools.mask")
    compressed = coder.encode(numpy.asfortranarray(mask.astype(numpy.uint8)))
    assert (masks.decode(compressed) == mask).all()
    assert (masks.decode({**compressed, "counts": compressed["counts"].decode()}) == mask).all()
    flat = mask.T.reshape(-1)
    changes = numpy.flatnonzero(numpy.diff(numpy.concatenate([[False], flat]))).tolist()
    runs = numpy.diff([0, *changes, flat.size]).tolist()
    assert (masks.decode({"size": list(mask.shape), "counts": runs}) == mask).all()


@pytest.mark.parametrize(
    ("rle", "part"),
    [
        ({"size": [2, 2], "counts": [3]}, "cover 3 pixels, expected 2 x 2"),
        ({"size": [2, 2], "counts": [5, -1]}, "cover 4 pixels"),
        ({"size": [2], "counts": [2]}, "expected \\[height, width\\]"),
        ({"size": [2, 2], "counts": "é"}, "no compressed mask"),
        ({"counts": [4]}, "no 'size'"),
        ([1, 2], "expected an object"),
    ],
)
def test_broken_masks(rle: Any, part: str) -> None:
    with pytest.raises(DataError, match=part):
        masks.decode(rle)
