"""What drawings are made of: polygons in a square of 100 x 100, y down, each with a tone.

A tone is the body's own colour (the one that names the thing), a darker or lighter one, or a material.
"""

from __future__ import annotations

import math

Points = tuple[tuple[float, float], ...]
Part = tuple[Points, str]
BODY, DARK, LIGHT = "body", "dark", "light"
MATERIALS = {
    "wood": (124, 84, 52),
    "tyre": (44, 44, 48),
    "glass": (203, 228, 242),
    "leaf": (66, 138, 58),
    "gold": (246, 196, 64),
    "cream": (250, 242, 222),
    "ink": (34, 34, 38),
    "steel": (150, 156, 164),
}
"""Tones that stay the same whatever colour the thing has."""


def disc(x: float, y: float, rx: float, ry: float | None = None, start: float = 0, stop: float = 360) -> Points:
    """An ellipse, or an arc of it; angles run clockwise from the right, as y runs down."""
    ry = rx if ry is None else ry
    whole = abs(stop - start) >= 360
    count = max(6, round(abs(stop - start) / 360 * 40))
    angles = [math.radians(start + (stop - start) * i / count) for i in range(count if whole else count + 1)]
    return tuple((x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles)


def bar(x0: float, y0: float, x1: float, y1: float, round_by: float = 0) -> Points:
    """A rectangle, its corners rounded by a radius."""
    if not round_by:
        return (x0, y0), (x1, y0), (x1, y1), (x0, y1)
    r = round_by
    corners = ((x1 - r, y1 - r, 0), (x0 + r, y1 - r, 90), (x0 + r, y0 + r, 180), (x1 - r, y0 + r, 270))
    return tuple(point for x, y, angle in corners for point in disc(x, y, r, r, angle, angle + 90))


def line(x0: float, y0: float, x1: float, y1: float, width: float) -> Points:
    length = math.hypot(x1 - x0, y1 - y0)
    dx, dy = (y1 - y0) / length * width / 2, (x0 - x1) / length * width / 2
    return (x0 + dx, y0 + dy), (x1 + dx, y1 + dy), (x1 - dx, y1 - dy), (x0 - dx, y0 - dy)


def arch(x: float, y: float, outer: float, inner: float, start: float, stop: float) -> Points:
    """A piece of a ring."""
    return disc(x, y, outer, outer, start, stop) + disc(x, y, inner, inner, stop, start)


def regular(count: int, radius: float = 50, inner: float | None = None) -> Points:
    """A regular polygon with a corner on top; with an inner radius, a star."""
    radii = [radius] if inner is None else [radius, inner]
    total = count * len(radii)
    angles = [(math.radians(360 * i / total - 90), radii[i % len(radii)]) for i in range(total)]
    return tuple((50 + r * math.cos(a), 50 + r * math.sin(a)) for a, r in angles)


def mirrored(points: Points) -> Points:
    return tuple((100 - x, y) for x, y in points)


def both(points: Points, tone: str) -> list[Part]:
    """On the left and on the right."""
    return [(points, tone), (mirrored(points), tone)]
