"""Printed texts: one or two lines in some font, perhaps on a plate, perhaps turned or seen from the side.

A piece is set upright first, which gives exact boxes around the ink of its lines; one map of the plane then carries
the ink, the plate and the boxes to their place.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy
from PIL import Image, ImageDraw

from florence2.data.records import Words
from florence2.data.scenes import fonts, vocabulary
from florence2.data.scenes.colours import COLOURS, RGB, contrast, distance, mix, shade
from florence2.errors import DataError
from florence2.results import Box, Quad

if TYPE_CHECKING:
    from numpy.typing import NDArray

Point = tuple[float, float]
SMALLEST = 12
"""Pixels of the smallest letters."""
LEGIBLE = 4.5
"""Contrast of ink and ground. Source: WCAG 2, success criterion 1.4.3."""
SEEN = 110.0
"""How different a plate is from what is around it."""
ATTEMPTS = 8


@dataclass(frozen=True)
class Print:
    """A text that has been set. The upright block is in fine pixels, ``fine`` of them to a pixel of the scene."""

    lines: tuple[str, ...]
    font: str
    pixels: int
    """Size of the font in the scene."""
    fine: int
    """1 where the block is placed as it is, so that letters stay crisp."""
    letters: Image.Image
    """L: the upright block, a rim included."""
    ink: tuple[Box, ...]
    """Around each line, in the block."""
    corners: tuple[Point, ...]
    """Where the corners of the block go in the scene, from the top left clockwise; their box begins at (0, 0)."""

    @property
    def block(self) -> tuple[int, int]:
        """(width, height) in fine pixels."""
        return self.letters.size

    @property
    def extent(self) -> tuple[float, float]:
        """(width, height) that it takes in the scene."""
        return max(x for x, _ in self.corners), max(y for _, y in self.corners)


@dataclass(frozen=True)
class Piece:
    """A text in the scene."""

    words: tuple[Words, ...]
    """Its lines."""
    box: Box
    """Around all of it, the plate included."""
    colour: str
    """Of the ink."""
    plate: str
    """Colour of what it is printed on; empty where that is the ground."""

    @property
    def text(self) -> str:
        return " ".join(words.text for words in self.words)


def compose(lines: Sequence[str], found: Sequence[str], size: tuple[int, int], rng: random.Random) -> Print | None:
    """Chooses and sets a text; None where nothing fits the picture.

    Raises DataError where no font has the letters of what is to be printed.
    """
    for _ in range(ATTEMPTS):
        texts = [vocabulary.printed(tuple(lines), rng) for _ in range(rng.choices((1, 2), (5, 1))[0])]
        font = fonts.choose(found, "".join(texts), rng)
        if font is not None:
            break
    else:
        raise DataError(f"no font has all letters of {' '.join(texts)!r}; name folders of fonts that have them")
    largest = min(0.2 * min(size), 0.9 * size[0] / max(map(len, texts)) / 0.45)
    pixels = round(max(SMALLEST, rng.triangular(0.04 * min(size), largest, 0.07 * min(size))))
    return _set(tuple(texts), font, pixels, size, rng)


def _set(lines: tuple[str, ...], font: str, pixels: int, size: tuple[int, int], rng: random.Random) -> Print | None:
    straight, centred = rng.random() < 0.45, rng.random() < 0.5
    fine = 1 if straight else 2
    while True:
        letters, ink = _upright(lines, fonts.load(font, pixels * fine), centred)
        flat = (letters.width / fine, letters.height / fine)
        corners = _rectangle(flat) if straight else _seen(flat, rng)
        text = Print(lines, font, pixels, fine, letters, ink, corners)
        if text.extent[0] <= 0.96 * size[0] and text.extent[1] <= 0.96 * size[1]:
            return text
        if pixels == SMALLEST:
            return None
        pixels = max(SMALLEST, round(0.8 * pixels))


def _upright(lines: tuple[str, ...], font: fonts.Font, centred: bool) -> tuple[Image.Image, tuple[Box, ...]]:
    """(L: lines under each other, with a rim that a plate needs; the box around the ink of each)."""
    inked = [_line(line, font) for line in lines]
    rim, step = round(0.35 * font.size), round(1.15 * font.size)
    width = max(mask.width for mask, _ in inked)
    ink: list[tuple[int, int, int, int]] = []
    baseline = 0
    for mask, rise in inked:
        baseline = max(baseline + step, ink[-1][3] + rim // 2 + rise) if ink else rim + rise
        x, y = rim + ((width - mask.width) // 2 if centred else 0), baseline - rise
        ink.append((x, y, x + mask.width, y + mask.height))
    letters = Image.new("L", (width + 2 * rim, ink[-1][3] + rim))
    for (mask, _), box in zip(inked, ink, strict=True):
        letters.paste(mask, box[:2])
    return letters, tuple(ink)


def _line(line: str, font: fonts.Font) -> tuple[Image.Image, int]:
    """(L: its ink and nothing around it; how far this rises over the baseline)."""
    x0, y0, x1, y1 = font.getbbox(line, anchor="ls")  # with the room that letters keep to their neighbours
    left, top = math.floor(x0) - 1, math.floor(y0) - 1
    mask = Image.new("L", (math.ceil(x1) + 1 - left, math.ceil(y1) + 1 - top))
    ImageDraw.Draw(mask).text((-left, -top), line, 255, font, anchor="ls")
    box = mask.getbbox() or (0, 0, 1, 1)
    return mask.crop(box), -(top + box[1])


def _rectangle(size: tuple[float, float]) -> tuple[Point, ...]:
    width, height = size
    return (0.0, 0.0), (width, 0.0), (width, height), (0.0, height)


def _seen(size: tuple[float, float], rng: random.Random) -> tuple[Point, ...]:
    """The corners of a rectangle that is turned a little, and perhaps stretched, slanted or seen from the side."""
    _, height = size
    corners = list(_rectangle(size))
    if rng.random() < 0.4:  # one side is farther away
        top, bottom = rng.uniform(0.02, 0.12) * height, rng.uniform(0.02, 0.12) * height
        far = (0, 3) if rng.random() < 0.5 else (1, 2)
        corners[far[0]] = (corners[far[0]][0], top)
        corners[far[1]] = (corners[far[1]][0], height - bottom)
        corners = [(0.93 * x, y) for x, y in corners]
    wide = math.exp(rng.uniform(-0.2, 0.25)) if rng.random() < 0.4 else 1.0
    slant = rng.uniform(-0.25, 0.25) if rng.random() < 0.2 else 0.0
    angle = math.radians(rng.gauss(0, 6))
    cos, sin = math.cos(angle), math.sin(angle)
    flat = [(wide * x + slant * y, y) for x, y in corners]
    moved = [(x * cos - y * sin, x * sin + y * cos) for x, y in flat]
    x0, y0 = min(x for x, _ in moved), min(y for _, y in moved)
    return tuple((x - x0, y - y0) for x, y in moved)


# Printing


def paint(canvas: Image.Image, text: Print, left: int, top: int, rng: random.Random) -> Piece:
    """Prints it on the canvas, its box beginning at (left, top)."""
    size = math.ceil(text.extent[0]), math.ceil(text.extent[1])
    under = _extremes(canvas.crop((left, top, left + size[0], top + size[1])))
    middle = mix(*under, 0.5)
    shades = [(name, shade(name, rng)) for name in rng.sample(COLOURS, len(COLOURS))]
    inks = _legible(shades, under)
    plate = ""
    if rng.random() < 0.4 or not inks:
        far = [pair for pair in shades if distance(pair[1], middle) > SEEN]
        (plate, middle), inks = next((pair, found) for pair in far if (found := _legible(shades, pair[1:])))
        canvas.paste(middle, (left, top), _carried(_plate(text, rng), text, size))
    name, ink = inks[0]
    letters = _carried(text.letters, text, size)
    if rng.random() < 0.2:
        lift = max(1, text.pixels // 16)
        dark = contrast(ink, (0, 0, 0)) >= LEGIBLE
        canvas.paste(mix(middle, (0, 0, 0) if dark else ink, 0.35), (left + lift, top + lift), letters)
    canvas.paste(ink, (left, top), letters)

    there = _map(_rectangle(text.block), text.corners)
    quads = [_quad(there, box, left, top) for box in text.ink]
    words = tuple(Words(text=line, quad=quad) for line, quad in zip(text.lines, quads, strict=True))
    around = (float(left), float(top), left + text.extent[0], top + text.extent[1])
    return Piece(words, around if plate else _around(quads), name, plate)


def _legible(inks: Sequence[tuple[str, RGB]], grounds: Sequence[RGB]) -> list[tuple[str, RGB]]:
    return [(name, ink) for name, ink in inks if min(contrast(ink, ground) for ground in grounds) >= LEGIBLE]


def _plate(text: Print, rng: random.Random) -> Image.Image:
    """L: a rectangle, its corners perhaps rounded, that fills the block."""
    mask = Image.new("L", text.block)
    corner = min(rng.choice((0.0, 0.2, 0.5)) * text.pixels * text.fine, mask.height / 2, mask.width / 2)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, mask.width - 1, mask.height - 1), corner, 255)
    return mask


def _carried(mask: Image.Image, text: Print, size: tuple[int, int]) -> Image.Image:
    """The upright block as it is seen."""
    fine = text.fine
    if fine == 1:
        return mask
    seen = [(x * fine, y * fine) for x, y in text.corners]
    back = _map(seen, _rectangle(text.block)).ravel()[:8].tolist()
    large = (size[0] * fine, size[1] * fine)
    return mask.transform(large, Image.Transform.PERSPECTIVE, back, Image.Resampling.BILINEAR).reduce(fine)


def _map(source: Sequence[Point], target: Sequence[Point]) -> NDArray[numpy.float64]:
    """(3, 3): the projective map that carries four points to four points."""
    rows, values = [], []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return numpy.append(numpy.linalg.solve(numpy.array(rows), numpy.array(values)), 1.0).reshape(3, 3)


def _quad(there: NDArray[numpy.float64], box: Box, left: int, top: int) -> Quad:
    x0, y0, x1, y1 = box
    points = there @ numpy.array([(x0, x1, x1, x0), (y0, y0, y1, y1), (1, 1, 1, 1)])
    flat = numpy.add((points[:2] / points[2]).T, (left, top))
    a, b, c, d, e, f, g, h = (round(value, 2) for value in flat.ravel().tolist())
    return a, b, c, d, e, f, g, h


def _around(quads: Sequence[Quad]) -> Box:
    xs, ys = [x for quad in quads for x in quad[0::2]], [y for quad in quads for y in quad[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def _extremes(patch: Image.Image) -> tuple[RGB, RGB]:
    """The lightest and the darkest colour, single pixels averaged away."""
    small = patch.reduce(max(1, min(patch.size) // 12)) if min(patch.size) >= 24 else patch
    grey = small.convert("L")
    values = grey.tobytes()
    width = grey.width

    def at(value: int) -> RGB:
        number = values.index(value)
        pixel = small.getpixel((number % width, number // width))
        assert isinstance(pixel, tuple)
        return int(pixel[0]), int(pixel[1]), int(pixel[2])

    return at(max(values)), at(min(values))
