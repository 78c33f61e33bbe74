"""Things ready to be laid on a picture, and what of each is seen once others lie on top of it.

Outlines are in pixels of the scene, their corners on the grid between pixels: pixel (0, 0) reaches from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy
from PIL import Image

from florence2.data import masks
from florence2.data.fields import hull
from florence2.results import Box, Polygon

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Mask = NDArray[numpy.bool_]

VISIBLE = 0.4
"""Share of a thing that must be seen; below it is taken out of the picture."""
TOLERANCE = 0.75
"""Pixels that a traced outline may be off: the steps of slanted edges vanish."""
MOST_POINTS = 150
"""Of all outlines of a thing: an answer has room for 1,024 tokens, and a point takes two."""


@dataclass(frozen=True)
class Sprite:
    """A thing with its soft mask. ``left``, ``top``: where the mask's first pixel lies in the scene."""

    label: str
    colour: str
    """Its name; empty where nobody knows."""
    picture: Image.Image
    """RGB."""
    alpha: Image.Image
    """L, of the same size."""
    left: int
    top: int
    outline: tuple[Polygon, ...]
    """All of it, also where something hides it."""
    shadow: Image.Image | None = None
    """L, larger by ``margin`` on all sides: of a thing that lies a little above the ground."""

    @property
    def box(self) -> Box:
        return self.left, self.top, self.left + self.alpha.width, self.top + self.alpha.height

    def paint(self, canvas: Image.Image) -> None:
        if self.shadow is not None:
            around = (self.shadow.width - self.alpha.width) // 2
            corner = self.left - around + round(0.8 * around), self.top - around + around
            canvas.paste((0, 0, 0), corner, self.shadow)
        canvas.paste(self.picture, (self.left, self.top), self.alpha)


@dataclass(frozen=True)
class Seen:
    """A sprite and what is seen of it."""

    sprite: Sprite
    polygons: tuple[Polygon, ...]
    box: Box
    area: float
    """Pixels."""
    hidden_by: tuple[int, ...]
    """Which of the others, counted from the bottom, lie on it."""


def visible(sprites: Sequence[Sprite], size: tuple[int, int]) -> list[Seen]:
    """What is seen of things that are painted in this order; those of which too little is seen are left out.

    Taking one out only uncovers those below it, so one pass from the top is enough.
    """
    kept: list[tuple[Sprite, Mask]] = []  # from the top down
    found: list[tuple[Seen, list[Sprite]]] = []
    for sprite in reversed(sprites):
        own = solid(sprite.alpha)
        seen = own.copy()
        cut = _off_picture(seen, sprite, size)
        above = [other for other, mask in kept if _cover(seen, sprite, other, mask)]
        pixels = int(seen.sum())
        if not above and not cut:
            polygons = sprite.outline
            box = hull(polygons)
        elif pixels >= VISIBLE * own.sum() and (traced := trace(seen, sprite.left, sprite.top)):
            polygons, box = traced
        else:
            continue
        kept.append((sprite, own))
        found.append((Seen(sprite, polygons, box, pixels, ()), above))
    found.reverse()
    order = {id(seen.sprite): number for number, (seen, _) in enumerate(found)}
    return [
        Seen(s.sprite, s.polygons, s.box, s.area, tuple(sorted(order[id(other)] for other in above)))
        for s, above in found
    ]


def margin(side: float) -> int:
    """Pixels of the shadow around a thing of this size."""
    return max(2, round(side / 24))


def solid(alpha: Image.Image) -> Mask:
    """(H, W) bool: where a thing is more there than not."""
    return numpy.asarray(alpha) >= 128


def _off_picture(mask: Mask, sprite: Sprite, size: tuple[int, int]) -> bool:
    """Takes off the mask what lies outside of the picture; whether there was any."""
    before = mask.sum()
    mask[: max(0, -sprite.top)] = False
    mask[max(0, size[1] - sprite.top) :] = False
    mask[:, : max(0, -sprite.left)] = False
    mask[:, max(0, size[0] - sprite.left) :] = False
    return bool(mask.sum() < before)


def _cover(mask: Mask, sprite: Sprite, other: Sprite, cover: Mask) -> bool:
    """Takes off the mask what the other thing hides; whether there was any."""
    x0, y0 = max(sprite.box[0], other.box[0]), max(sprite.box[1], other.box[1])
    x1, y1 = min(sprite.box[2], other.box[2]), min(sprite.box[3], other.box[3])
    if x0 >= x1 or y0 >= y1:
        return False
    ours = _window(mask, sprite, (x0, y0, x1, y1))
    hidden = ours & _window(cover, other, (x0, y0, x1, y1))
    ours &= ~hidden
    return bool(hidden.any())


def _window(mask: Mask, sprite: Sprite, box: tuple[Any, ...]) -> Mask:
    x0, y0, x1, y1 = (int(v) for v in box)
    return mask[y0 - sprite.top : y1 - sprite.top, x0 - sprite.left : x1 - sprite.left]


# From masks to outlines


def trace(mask: Mask, left: int = 0, top: int = 0) -> tuple[tuple[Polygon, ...], Box] | None:
    """(outlines, box) of a mask, shards left out, in few points; None where nothing is left."""
    enough = max(6.0, 0.01 * float(mask.sum()))
    loops = [_points(loop) for loop in masks.outlines(mask)]
    loops = [loop for loop in loops if abs(area(loop)) >= enough]
    if not loops:
        return None
    corners = numpy.concatenate(loops)
    (x0, y0), (x1, y1) = corners.min(0).tolist(), corners.max(0).tolist()
    tolerance = TOLERANCE
    while True:
        simple = [simplified(_without_steps(loop), tolerance) for loop in loops]
        if sum(map(len, simple)) <= MOST_POINTS or tolerance > 64:
            break
        tolerance *= 1.5
    return tuple(_moved(loop, left, top) for loop in simple), (x0 + left, y0 + top, x1 + left, y1 + top)


def _without_steps(points: NDArray[numpy.float64]) -> NDArray[numpy.float64]:
    """A line along pixel edges, its short edges replaced by their middles: slanted sides lose most of their steps."""
    following = numpy.roll(points, -1, axis=0)
    short = numpy.abs(following - points).sum(1) <= 2
    middles = (points + following) / 2
    pairs = numpy.stack([numpy.where(short[:, None], middles, points), following], axis=1)  # (N, start and end, 2)
    kept = numpy.stack([numpy.ones_like(short), ~short], axis=1)
    smooth: NDArray[numpy.float64] = pairs[kept]
    return smooth if len(smooth) >= 3 else points


def _points(polygon: Polygon) -> NDArray[numpy.float64]:
    return numpy.array(polygon).reshape(-1, 2)


def _moved(points: NDArray[numpy.float64], left: float, top: float) -> Polygon:
    return tuple(numpy.add(points, (left, top)).ravel().tolist())


def area(points: NDArray[numpy.float64]) -> float:
    """Of a closed line (N, 2); below 0 where it runs the other way round."""
    x, y = points[:, 0], points[:, 1]
    return float((x * numpy.roll(y, -1) - numpy.roll(x, -1) * y).sum() / 2)


def simplified(points: NDArray[numpy.float64], tolerance: float) -> NDArray[numpy.float64]:
    """(N, 2) -> fewer points of the same closed line: none that left was farther than ``tolerance`` from it.

    Source: Douglas and Peucker (1973), "Algorithms for the reduction of the number of points".
    """
    far = int(((points - points[0]) ** 2).sum(1).argmax())
    closed = numpy.concatenate([points, points[:1]])
    keep = numpy.zeros(len(closed), dtype=bool)
    keep[[0, far, -1]] = True
    spans = [(0, far), (far, len(points))]
    while spans:
        start, stop = spans.pop()
        if stop - start < 2:
            continue
        a, along = closed[start], closed[stop] - closed[start]
        between = closed[start + 1 : stop] - a
        length = float(numpy.hypot(*along))
        off = (
            numpy.abs(between[:, 0] * along[1] - between[:, 1] * along[0]) / length
            if length
            else numpy.hypot(*between.T)
        )
        worst = int(off.argmax())
        if off[worst] > tolerance:
            middle = start + 1 + worst
            keep[middle] = True
            spans += [(start, middle), (middle, stop)]
    simple = points[keep[:-1]]
    return simple if len(simple) >= 3 else points
