"""Drawn figures: one of the shapes, turned, stretched and painted, with its exact outline."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Collection
from dataclasses import dataclass

import numpy
from PIL import Image, ImageDraw, ImageFilter

from florence2.data import masks
from florence2.data.scenes.colours import COLOURS, RGB, distance, mix, shade
from florence2.data.scenes.shapes import SHAPES
from florence2.data.scenes.sprites import Sprite, margin, simplified
from florence2.data.scenes.strokes import BODY, DARK, LIGHT, MATERIALS, Part, Points
from florence2.results import Polygon

GRID = 1024
"""Cells across a shape of several parts when the outline around all of them is traced."""
APART = 170.0
"""How different a figure's colour is from the ground that it stands on."""


@dataclass(frozen=True)
class Figure:
    """A shape with its turn: the longer side of its box has length 1, the box begins at (0, 0)."""

    label: str
    parts: tuple[Part, ...]
    outline: tuple[Points, ...]
    extent: tuple[float, float]
    """(width, height) of its box."""

    def sprite(
        self, side: float, left: float, top: float, ground: RGB, under: Collection[str], rng: random.Random
    ) -> Sprite:
        """Paints it, ``side`` pixels on its longer side, with its box beginning at (left, top).

        Its colour differs from the ground, and from the colours named ``under``: of things below it.
        """
        name, colour = _colour(self.label, ground, under, rng)
        fine = 2 if side > 130 else 3 if side > 70 else 4
        x0, y0 = math.floor(left), math.floor(top)
        width = math.ceil(left + self.extent[0] * side) - x0
        height = math.ceil(top + self.extent[1] * side) - y0

        def pixels(points: Points) -> list[tuple[float, float]]:
            """On the fine grid, whose pixel centres are whole numbers."""
            return [((x * side + left - x0) * fine - 0.5, (y * side + top - y0) * fine - 0.5) for x, y in points]

        body = Image.new("RGB", (width * fine, height * fine), colour)
        alpha = Image.new("L", body.size)
        pencil, cutter = ImageDraw.Draw(body), ImageDraw.Draw(alpha)
        for points, tone in self.parts:
            if tone != BODY or len(self.parts) > 1:
                pencil.polygon(pixels(points), _tone(tone, colour))
        rim = rng.random() < 0.3 and len(self.outline) == 1  # several: a hole was cut open, and the cut is no edge
        for points in self.outline:
            cutter.polygon(pixels(points), 255)
            if rim:
                closed = pixels((*points, points[0]))
                pencil.line(closed, mix(colour, (0, 0, 0), 0.55), max(2, round(side * fine / 28)), "curve")
        picture, mask = body.reduce(fine), alpha.reduce(fine)
        if rng.random() < 0.4:
            picture = _shaded(picture, rng)
        shadow = _shadow(mask, side) if rng.random() < 0.25 else None
        outline = tuple(_flat(points, side, left, top) for points in self.outline)
        return Sprite(self.label, name, picture, mask, x0, y0, outline, shadow)


def figure(label: str, rng: random.Random) -> Figure:
    """A figure of this label, one of its drawings, turned and stretched at random."""
    shape = SHAPES[label]
    drawing = rng.randrange(len(shape.drawings))
    turn = math.radians(rng.uniform(-shape.turn, shape.turn))
    wide = math.exp(rng.uniform(-shape.stretch, shape.stretch))
    flip = -1.0 if shape.turn and rng.random() < 0.5 else 1.0
    a, b, c, d = flip * wide * math.cos(turn), -math.sin(turn), flip * wide * math.sin(turn), math.cos(turn)

    def moved(points: Points) -> Points:
        return tuple((a * x + b * y, c * x + d * y) for x, y in points)

    outline = [moved(points) for points in _outline(label, drawing)]
    parts = [(moved(points), tone) for points, tone in _parts(label, drawing)]
    xs, ys = zip(*(point for points in outline for point in points), strict=True)
    x0, y0 = min(xs), min(ys)
    size = max(max(xs) - x0, max(ys) - y0)

    def fitted(points: Points) -> Points:
        return tuple(((x - x0) / size, (y - y0) / size) for x, y in points)

    return Figure(
        label,
        tuple((fitted(points), tone) for points, tone in parts),
        tuple(fitted(points) for points in outline),
        ((max(xs) - x0) / size, (max(ys) - y0) / size),
    )


@functools.cache
def _parts(label: str, drawing: int) -> tuple[Part, ...]:
    return tuple(SHAPES[label].drawings[drawing]())


@functools.cache
def _outline(label: str, drawing: int) -> tuple[Points, ...]:
    """Around all parts: a single part is its own outline, several are drawn large and traced."""
    parts = [points for points, _ in _parts(label, drawing)]
    if len(parts) == 1:
        return (parts[0],)
    xs, ys = zip(*(point for points in parts for point in points), strict=True)
    x0, y0, scale = min(xs), min(ys), (GRID - 2) / max(max(xs) - min(xs), max(ys) - min(ys))
    canvas = Image.new("1", (GRID, GRID))
    pencil = ImageDraw.Draw(canvas)
    for points in parts:
        pencil.polygon([((x - x0) * scale + 0.5, (y - y0) * scale + 0.5) for x, y in points], 1)
    loops = [numpy.array(loop).reshape(-1, 2) for loop in masks.outlines(numpy.asarray(canvas))]
    small = [simplified(loop, 2.0) for loop in loops if len(loop) > 8]
    return tuple(tuple(((x - 1) / scale + x0, (y - 1) / scale + y0) for x, y in loop.tolist()) for loop in small)


def _colour(label: str, ground: RGB, under: Collection[str], rng: random.Random) -> tuple[str, RGB]:
    """A colour that is seen on the ground, with its name; often a usual one."""
    usual = SHAPES[label].usual
    wishes = [rng.choice(usual)] if usual and rng.random() < 0.5 else []
    wishes += rng.sample(COLOURS, len(COLOURS))
    shades = [(name, shade(name, rng)) for name in wishes if name not in under]
    for name, colour in shades:
        if distance(colour, ground) >= APART:
            return name, colour
    return max(shades, key=lambda pair: distance(pair[1], ground))


def _tone(tone: str, colour: RGB) -> RGB:
    if tone == DARK:
        return mix(colour, (0, 0, 0), 0.28) if max(colour) > 60 else mix(colour, (255, 255, 255), 0.22)
    if tone == LIGHT:
        return mix(colour, (255, 255, 255), 0.4) if min(colour) < 225 else mix(colour, (120, 130, 150), 0.25)
    return MATERIALS.get(tone, colour)


def _shaded(picture: Image.Image, rng: random.Random) -> Image.Image:
    """A little lighter on top and darker below, or the other way round."""
    ramp = Image.linear_gradient("L").resize(picture.size)
    if rng.random() < 0.3:
        ramp = ramp.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    light, dark = (Image.blend(picture, Image.new("RGB", picture.size, edge), 0.16) for edge in ("white", "black"))
    return Image.composite(dark, light, ramp)


def _shadow(mask: Image.Image, side: float) -> Image.Image:
    """Soft and faint, with a margin of ``sprites.margin`` on all sides."""
    around = margin(side)
    wide = Image.new("L", (mask.width + 2 * around, mask.height + 2 * around))
    wide.paste(mask.point(_FAINT), (around, around))
    return wide.filter(ImageFilter.BoxBlur(around / 2))


_FAINT = [round(0.4 * value) for value in range(256)]


def _flat(points: Points, side: float, left: float, top: float) -> Polygon:
    return tuple(round(value, 2) for x, y in points for value in (x * side + left, y * side + top))
