"""What a new picture shows of a photo, and where boxes, outlines and quads go: mirrored, cut out, put smaller.

    x' = scale_x · x + shift_x        y' = scale_y · y + shift_y        a mirror image has scale_x = -1

Moving loses nothing and cuts nothing; cutting (``clip_box``, ``clip_polygon``) happens before, in pixels of the old
photo, at the ``window`` that the new picture is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from florence2.results import Box, Polygon, Quad

Point = tuple[float, float]


@dataclass(frozen=True)
class View:
    """A new picture of ``width`` x ``height`` pixels and how to get there from the old ones."""

    width: int
    height: int
    scale: Point = (1.0, 1.0)
    shift: Point = (0.0, 0.0)
    cuts: bool = False
    """Parts of the photo may be out of the picture."""

    @property
    def window(self) -> Box:
        """The new picture in pixels of the old photo; it reaches beyond the photo where that was put smaller."""
        (scale_x, scale_y), (left, top) = self.scale, self.shift
        return (-left / scale_x, -top / scale_y, (self.width - left) / scale_x, (self.height - top) / scale_y)

    @property
    def mirrored(self) -> bool:
        return self.scale[0] < 0

    def polygon(self, polygon: Sequence[float]) -> Polygon:
        """A mirrored outline runs the other way round, so that it keeps its sense (clockwise or not)."""
        points = self._points(polygon)
        if self.mirrored:
            points = points[:1] + points[:0:-1]
        return _flat(points)

    def box(self, box: Box) -> Box:
        (x0, y0), (x1, y1) = self._points(box)
        return (x1, y0, x0, y1) if self.mirrored else (x0, y0, x1, y1)

    def quad(self, quad: Quad) -> Quad:
        """Still clockwise from the top left: in a mirror image the old top right is the new top left."""
        a, b, c, d = self._points(quad)
        if self.mirrored:
            a, b, c, d = b, a, d, c
        return (*a, *b, *c, *d)

    def _points(self, values: Sequence[float]) -> list[Point]:
        (scale_x, scale_y), (left, top) = self.scale, self.shift
        return [(scale_x * x + left, scale_y * y + top) for x, y in zip(values[0::2], values[1::2], strict=False)]


def mirror(width: int, height: int) -> View:
    return View(width, height, (-1.0, 1.0), (float(width), 0.0))


def cutout(left: int, top: int, width: int, height: int) -> View:
    return View(width, height, shift=(-float(left), -float(top)), cuts=True)


def smaller(size: tuple[int, int], left: int, top: int, width: int, height: int) -> View:
    """A photo of ``size`` drawn ``width`` x ``height`` at (left, top) of a ground as large as the photo."""
    return View(*size, (width / size[0], height / size[1]), (float(left), float(top)))


# Cutting, in pixels of one picture


def clip_box(box: Box, window: Box) -> Box:
    """The part inside; empty (no positive width or height) where there is none."""
    return (max(box[0], window[0]), max(box[1], window[1]), min(box[2], window[2]), min(box[3], window[3]))


def clip_polygon(polygon: Sequence[float], window: Box) -> Polygon:
    """The part inside; () where nothing with an area is left.

    An outline that leaves and comes back stays one outline, its parts joined along the rim.
    Source: Sutherland and Hodgman (1974), "Reentrant polygon clipping".
    """
    xs, ys = polygon[0::2], polygon[1::2]
    if not xs or not ys:
        return ()
    if window[0] <= min(xs) and window[1] <= min(ys) and max(xs) <= window[2] and max(ys) <= window[3]:
        return tuple(polygon)
    points = list(zip(xs, ys, strict=False))
    for axis, rim, sign in ((0, window[0], 1), (1, window[1], 1), (0, window[2], -1), (1, window[3], -1)):
        points = _half(points, axis, rim, sign)
    points = [point for n, point in enumerate(points) if point != points[n - 1]]
    clipped = _flat(points)
    return clipped if len(points) >= 3 and polygon_area(clipped) > 0 else ()


def _half(points: list[Point], axis: int, rim: float, sign: int) -> list[Point]:
    """The part of an outline on one side of a rim."""
    kept = []
    for n, here in enumerate(points):
        before = points[n - 1]
        inside, was_inside = sign * (here[axis] - rim) >= 0, sign * (before[axis] - rim) >= 0
        if inside != was_inside:
            way = (rim - before[axis]) / (here[axis] - before[axis])
            other = before[1 - axis] + way * (here[1 - axis] - before[1 - axis])
            kept.append((rim, other) if axis == 0 else (other, rim))
        if inside:
            kept.append(here)
    return kept


def _flat(points: list[Point]) -> Polygon:
    return tuple(value for point in points for value in point)


def box_area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def polygon_area(polygon: Sequence[float]) -> float:
    """Pixels inside (the shoelace formula)."""
    xs, ys = polygon[0::2], polygon[1::2]
    twice = sum(xs[n - 1] * y - xs[n] * ys[n - 1] for n, y in enumerate(ys[: len(xs)]))
    return abs(twice) / 2


def place(box: Box, frame: Box) -> tuple[int, int]:
    """Where the middle of a box stands in a frame, in strips that end at a third, the half and two thirds."""
    x = ((box[0] + box[2]) / 2 - frame[0]) / (frame[2] - frame[0])
    y = ((box[1] + box[3]) / 2 - frame[1]) / (frame[3] - frame[1])
    rims = (1 / 3, 1 / 2, 2 / 3)
    return sum(x > rim for rim in rims), sum(y > rim for rim in rims)
