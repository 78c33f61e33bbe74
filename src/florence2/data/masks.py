"""Run-length masks of COCO -> outlines, exactly: the polygons fill the same pixels.

Polygons are what Florence-2 answers with, and a polygon has no holes. A part with a hole is therefore cut in two at
the hole, and so on until no part has one: more polygons, the same pixels. Own code, because pycocotools needs a
compiler on some systems, decodes masks but does not trace them, and this is short.

Source: the run-length format of COCO's mask API (maskApi.c): runs of zeros and ones in turn, down the columns; the
compressed form holds differences to the run before last, six bits per character.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from florence2.data import fields
from florence2.errors import DataError
from florence2.results import Polygon

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Mask = NDArray[numpy.bool_]

Corner = tuple[int, int]


def decode(rle: Any, what: str = "the mask") -> Mask:
    """{"size": [height, width], "counts": [...] or "..."} -> (H, W) bool. Raises DataError where it does not fit."""
    import numpy

    d = fields.mapping(rle, what)
    size = [fields.whole(v, f"the size of {what}") for v in fields.items(fields.field(d, "size", what), "size")]
    if len(size) != 2 or min(size) < 1:
        raise DataError(f"the size of {what} is {size}, expected [height, width]")
    height, width = size
    counts = fields.field(d, "counts", what)
    if isinstance(counts, bytes):
        counts = counts.decode("ascii", "replace")
    runs = _runs(counts, what) if isinstance(counts, str) else [fields.whole(v, "a run") for v in counts]
    if min(runs, default=0) < 0 or sum(runs) != height * width:
        raise DataError(f"the runs of {what} cover {sum(runs)} pixels, expected {height} x {width} = {height * width}")
    values = numpy.arange(len(runs)) % 2 == 1
    return numpy.repeat(values, runs).reshape(width, height).T


def _runs(text: str, what: str) -> list[int]:
    runs: list[int] = []
    value, shift = 0, 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64:
            raise DataError(f"the runs of {what} hold {letter!r}, which no compressed mask has")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift  # the sign
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value, shift = 0, 0
    return runs


def outlines(mask: Mask) -> tuple[Polygon, ...]:
    """The polygons along the pixel edges of ``mask`` (H, W); together they fill its pixels and no others."""
    return tuple(tuple(float(v) for corner in loop for v in corner) for loop in _loops(mask, 0))


def _loops(mask: Mask, left: int) -> Iterator[list[Corner]]:
    """Closed walks around the parts of ``mask``, which begins at column ``left`` of the photo."""
    ways = _edges(mask)
    outer: list[list[Corner]] = []
    while ways:
        loop = _walk(ways)
        if _area(loop) > 0:
            outer.append(loop)
        else:  # a hole: cut through it, between two columns of which it has pixels on one side at least
            cut = min(x for x, _ in loop) + 1
            yield from _loops(mask[:, :cut], left)
            yield from _loops(mask[:, cut:], left + cut)
            return
    for loop in outer:
        yield [(x + left, y) for x, y in _without_straight(loop)]


def _edges(mask: Mask) -> dict[Corner, list[Corner]]:
    """Every pixel edge between inside and outside, as a way with the inside to its right."""
    import numpy

    padded = numpy.pad(mask, 1).astype(numpy.int8)
    across = padded[1:, 1:-1] - padded[:-1, 1:-1]  # (H+1, W): 1 where the row below is inside
    down = padded[1:-1, 1:] - padded[1:-1, :-1]  # (H, W+1): 1 where the column to the right is inside
    ways: dict[Corner, list[Corner]] = {}

    def add(start: Corner, end: Corner) -> None:
        ways.setdefault(start, []).append(end)

    for y, x in numpy.argwhere(across != 0).tolist():
        add(*(((x, y), (x + 1, y)) if across[y, x] > 0 else ((x + 1, y), (x, y))))
    for y, x in numpy.argwhere(down != 0).tolist():
        add(*(((x, y + 1), (x, y)) if down[y, x] > 0 else ((x, y), (x, y + 1))))
    return ways


def _walk(ways: dict[Corner, list[Corner]]) -> list[Corner]:
    """Takes one closed walk out of ``ways``. Where two parts touch at a corner it turns right: they stay two parts."""
    start = next(iter(ways))
    loop, here, direction = [start], start, (0, 0)
    while True:
        choices = ways[here]
        turn = (-direction[1], direction[0])  # to the right, as y runs down
        right = (here[0] + turn[0], here[1] + turn[1])
        step = right if len(choices) > 1 and right in choices else choices[0]
        choices.remove(step)
        if not choices:
            del ways[here]
        direction, here = (step[0] - here[0], step[1] - here[1]), step
        if here == start:
            return loop
        loop.append(here)


def _area(loop: list[Corner]) -> float:
    following = [*loop[1:], loop[0]]
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(loop, following, strict=True)) / 2


def _without_straight(loop: list[Corner]) -> list[Corner]:
    """Only the corners at which the walk turns."""
    before, behind = [loop[-1], *loop[:-1]], [*loop[1:], loop[0]]
    return [
        b for a, b, c in zip(before, loop, behind, strict=True) if not (a[0] == b[0] == c[0] or a[1] == b[1] == c[1])
    ]
