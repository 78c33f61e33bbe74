"""Objects cut out of photos, for scenes of real things: from any data set whose objects have outlines.

Of each object the data set is asked for more than its outline: what else reaches into it. A dog with a ball in its
mouth brings a ball along, so a scene with this dog can no longer say how many balls there are (``Cutout.known``).
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy
from PIL import Image, ImageDraw, ImageFilter

from florence2.data.fields import hull
from florence2.data.formats import read
from florence2.data.records import Record, Thing
from florence2.data.scenes.sprites import MOST_POINTS, TOLERANCE, Sprite, area, simplified
from florence2.errors import DataError
from florence2.results import Box, Polygon

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST = 2000
"""Objects that are kept in memory, drawn evenly from all; at most about 0.1 MB each."""
LARGEST = 192
"""Pixels of the longer side of a kept object."""
SMALLEST = 32
"""Pixels of the shorter side below which an object is a smudge."""
WHOLE = 0.85
"""Share of an object that is in one piece; less, and something stood before it."""
ENLARGED = 1.5
"""How much larger than it was kept an object may be shown: beyond, it is a blur."""
TURN = 12.0
"""Degrees to either side."""
PRINTED = frozenset(
    (
        *("book", "bottle", "clock", "keyboard", "laptop", "license plate", "parking meter", "remote", "stop sign"),
        *("cell phone", "tv", "traffic sign", "sign", "billboard", "banner", "newspaper", "magazine", "poster", "text"),
    )
)
"""Labels of things that often bear print, which nobody mirrors; neither what has text in the data set."""


@dataclass(frozen=True)
class Cutout:
    label: str
    picture: Image.Image
    """RGB, cropped."""
    alpha: Image.Image
    """L, a little soft at the edge."""
    outline: tuple[NDArray[numpy.float64], ...]
    """(N, 2) each, in pixels of the picture."""
    known: frozenset[str]
    """Labels of which there surely is nothing else in it."""
    mirrored: bool
    """Whether it may be."""


@dataclass(frozen=True)
class Cutting:
    """A cutout with its turn: the longer side of its box has length 1, the box begins at (0, 0)."""

    cutout: Cutout
    matrix: NDArray[numpy.float64]
    """(2, 3): pixels of the cutout -> here."""
    extent: tuple[float, float]

    @property
    def label(self) -> str:
        return self.cutout.label

    @property
    def largest(self) -> float:
        """Pixels of the longer side."""
        return ENLARGED * max(self.cutout.alpha.size)

    def sprite(self, side: float, left: float, top: float, rng: random.Random) -> Sprite:
        """Lays it out, ``side`` pixels on its longer side, with its box beginning at (left, top)."""
        x0, y0 = math.floor(left), math.floor(top)
        size = math.ceil(left + self.extent[0] * side) - x0, math.ceil(top + self.extent[1] * side) - y0
        matrix = self.matrix * side
        matrix[:, 2] += (left - x0, top - y0)
        back = numpy.linalg.inv(matrix[:, :2])
        data = [value for row, shift in zip(back, -back @ matrix[:, 2], strict=True) for value in (*row, shift)]
        scale = math.sqrt(abs(numpy.linalg.det(back)))
        layers = [self.cutout.picture, self.cutout.alpha]
        if scale > 1.5:  # many pixels become one: their mean, not any of them
            step = int(scale)
            layers = [layer.reduce(step) for layer in layers]
            data = [value / step for value in data]
        picture, alpha = (
            layer.transform(size, Image.Transform.AFFINE, data, Image.Resampling.BILINEAR) for layer in layers
        )
        matrix[:, 2] += (x0, y0)
        outline = tuple(_flat(points @ matrix[:, :2].T + matrix[:, 2]) for points in self.cutout.outline)
        return Sprite(self.label, "", _jittered(picture, rng), alpha, x0, y0, outline)


def cutting(cutout: Cutout, rng: random.Random) -> Cutting:
    """The cutout, turned a little, mirrored or not."""
    turn = math.radians(rng.uniform(-TURN, TURN)) if rng.random() < 0.5 else 0.0
    flip = -1.0 if rng.random() < 0.5 and cutout.mirrored else 1.0
    linear = numpy.array([[flip * math.cos(turn), -math.sin(turn)], [flip * math.sin(turn), math.cos(turn)]])
    points = numpy.concatenate(cutout.outline) @ linear.T
    low, high = points.min(0), points.max(0)
    size = float((high - low).max())
    width, height = ((high - low) / size).tolist()
    return Cutting(cutout, numpy.column_stack([linear, -low]) / size, (width, height))


def gather(sources: Sequence[Path], labels: Collection[str], seed: int) -> tuple[Cutout, ...]:
    """At most ``MOST`` objects of the data sets, of these labels or of all.

    Raises DataError where there is none that can be cut out, or none of a label that is asked for.
    """
    rng = random.Random(f"{seed} cutouts")
    drawn: list[tuple[int, Record, Thing]] = []
    count = 0
    for source in sources:
        for record in read(source):
            for thing in record.objects or () if not record.error else ():
                if (labels and thing.label not in labels) or not _fit(thing, record):
                    continue
                count += 1  # a sample of all, with one look at each: Vitter (1985), "Random sampling with a reservoir"
                place = len(drawn) if len(drawn) < MOST else rng.randrange(count)
                if place < MOST:
                    drawn[place : place + 1] = [(count, record, thing)]
    found = _cut_all(drawn)
    missing = sorted(set(labels) - {cutout.label for cutout in found})
    if not found or missing:
        what = f"objects of the labels {', '.join(missing)}" if missing else "objects"
        named = ", ".join(map(str, sources))
        raise DataError(
            f"{named}: there are no {what} with outlines that could be cut out; they must be whole (not at the edge "
            f"of their photo) and at least {SMALLEST} pixels in size"
        )
    return found


def _fit(thing: Thing, record: Record) -> bool:
    """Whether a thing is whole (neither at the edge of its photo nor in pieces), large enough and has an outline."""
    if not thing.polygons or thing.crowd or any(len(polygon) < 6 for polygon in thing.polygons):
        return False
    x0, y0, x1, y1 = hull(thing.polygons)
    inside = x0 > 1 and y0 > 1 and x1 < record.width - 1 and y1 < record.height - 1
    areas = [abs(area(numpy.array(polygon).reshape(-1, 2))) for polygon in thing.polygons]
    return inside and min(x1 - x0, y1 - y0) >= SMALLEST and max(areas) >= WHOLE * sum(areas)


def _cut_all(drawn: list[tuple[int, Record, Thing]]) -> tuple[Cutout, ...]:
    """Photo by photo, so that each is decoded once; in the order in which they were found."""
    by_record: dict[int, tuple[Record, list[Thing]]] = {}
    for _, record, thing in sorted(drawn, key=lambda item: item[0]):
        by_record.setdefault(id(record), (record, []))[1].append(thing)
    return tuple(
        _cut(photo, record, thing)
        for record, things in by_record.values()
        for photo in [record.load()]
        for thing in things
    )


def _cut(photo: Image.Image, record: Record, thing: Thing) -> Cutout:
    x0, y0, x1, y1 = hull(thing.polygons)
    left, top, right, bottom = math.floor(x0) - 1, math.floor(y0) - 1, math.ceil(x1) + 1, math.ceil(y1) + 1
    scale = min(1.0, LARGEST / max(right - left, bottom - top))
    size = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
    factor = size[0] / (right - left), size[1] / (bottom - top)
    loops = [(numpy.array(polygon).reshape(-1, 2) - (left, top)) * factor for polygon in thing.polygons]
    fine = 3
    mask = Image.new("L", (size[0] * fine, size[1] * fine))
    for loop in loops:
        ImageDraw.Draw(mask).polygon([(x * fine - 0.5, y * fine - 0.5) for x, y in loop.tolist()], 255)
    alpha = mask.filter(ImageFilter.BoxBlur(fine * 0.6)).reduce(fine)
    picture = photo.resize(size, Image.Resampling.BICUBIC, (left, top, right, bottom), reducing_gap=2.0)
    tolerance = TOLERANCE * 0.7
    outline = [simplified(loop, tolerance) for loop in loops]
    while sum(map(len, outline)) > MOST_POINTS and tolerance < LARGEST:
        tolerance *= 1.5
        outline = [simplified(loop, tolerance) for loop in loops]
    around = (x0, y0, x1, y1)
    words = [*(words.quad for words in record.text or ()), *record.illegible]
    has_print = thing.label in PRINTED or any(_meet(hull((quad,)), around) for quad in words)
    inside = {other.label for other in record.objects or () if other is not thing and _meet(other.box, around)}
    known = frozenset(record.exhaustive or ()) - inside
    return Cutout(thing.label, picture, alpha, tuple(outline), known, not has_print)


def _flat(points: NDArray[numpy.float64]) -> Polygon:
    return tuple(numpy.round(points, 2).ravel().tolist())


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _jittered(picture: Image.Image, rng: random.Random) -> Image.Image:
    """Another light: each channel a little stronger or weaker, all together lighter or darker."""
    light = rng.uniform(0.8, 1.2)
    gains = [light * rng.uniform(0.93, 1.07) for _ in range(3)]
    table = [min(255, round(value * gain)) for gain in gains for value in range(256)]
    return picture.point(table)
