"""Overlap of quads, the four-cornered outlines of words and lines.

A quad is taken for the convex figure around its corners, in whatever order they come; a word is never anything else,
and a model that mixes up two corners is measured all the same. Own code: the clipping of one convex figure by another
is short (Sutherland and Hodgman 1974), and shapely would be a library for this alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

Point = tuple[float, float]
Figure = list[Point]
"""Corners of a convex figure, all turning the same way; fewer than three where it has no area."""


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of (x0, y0, x1, y1, ...); 0 where neither has an area."""
    left, right = convex(a), convex(b)
    shared = area(clip(left, right))
    covered = area(left) + area(right) - shared
    return min(shared / covered, 1.0) if covered > 0 else 0.0


def inside(a: Sequence[float], b: Sequence[float]) -> float:
    """The part of ``a`` that lies in ``b``; 0 where ``a`` has no area."""
    left = convex(a)
    whole = area(left)
    return min(area(clip(left, convex(b))) / whole, 1.0) if whole > 0 else 0.0


def convex(outline: Sequence[float]) -> Figure:
    """The convex figure around points (Andrew 1979)."""
    points = sorted(set(zip(outline[0::2], outline[1::2], strict=True)))
    if len(points) < 3:
        return points
    halves: list[Figure] = []
    for way in (points, points[::-1]):
        half: Figure = []
        for point in way:
            while len(half) > 1 and _turn(half[-2], half[-1], point) <= 0:
                half.pop()
            half.append(point)
        halves.append(half[:-1])
    return halves[0] + halves[1]


def clip(subject: Figure, window: Figure) -> Figure:
    """What two convex figures share."""
    if len(subject) < 3 or len(window) < 3:
        return []
    left = subject
    for start, end in zip(window, [*window[1:], window[0]], strict=True):
        sides = [_turn(start, end, point) for point in left]
        kept: Figure = []
        for number, (point, side) in enumerate(zip(left, sides, strict=True)):
            before, side_before = left[number - 1], sides[number - 1]
            if (side >= 0) != (side_before >= 0):
                part = side_before / (side_before - side)
                kept.append((before[0] + part * (point[0] - before[0]), before[1] + part * (point[1] - before[1])))
            if side >= 0:
                kept.append(point)
        left = kept
    return left


def area(figure: Figure) -> float:
    if len(figure) < 3:
        return 0.0
    x, y = figure[0]  # measured from a corner: nothing is lost far from the origin
    moved = [(a - x, b - y) for a, b in figure]
    return abs(sum(a * d - b * c for (a, b), (c, d) in itertools.pairwise(moved))) / 2


def _turn(a: Point, b: Point, c: Point) -> float:
    """Positive where a → b → c turns towards larger y from larger x, zero on a line."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
