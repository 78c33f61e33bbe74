"""Drawn things: their outlines are those of their pixels, and what is hidden is taken off."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from florence2.data.scenes import colours, figures
from florence2.data.scenes.shapes import LABELS
from florence2.data.scenes.sprites import Sprite, simplified, solid, trace, visible
from tests.data_room.scenes.conftest import inside, overlap

GROUND = (120, 200, 160)


def drawn(label: str, seed: int, side: float = 90.0) -> Sprite:
    rng = random.Random(seed)
    return figures.figure(label, rng).sprite(side, 10.3, 12.8, GROUND, (), rng)


def on_canvas(sprite: Sprite) -> Any:
    """(120, 120) bool: where the sprite is."""
    canvas = Image.new("L", (120, 120))
    canvas.paste(sprite.alpha, (sprite.left, sprite.top))
    return solid(canvas)


@pytest.mark.parametrize("label", LABELS)
def test_outlines_are_those_of_the_pixels(label: str) -> None:
    for seed in range(4):
        sprite = drawn(label, seed)
        assert overlap(on_canvas(sprite), inside(sprite.outline, (120, 120))) > 0.96
        assert overlap(on_canvas(sprite), inside(sprite.outline, (120, 120), shift=(4, 4))) < 0.93  # a fault is noticed
        xs = [x for polygon in sprite.outline for x in polygon[0::2]]
        ys = [y for polygon in sprite.outline for y in polygon[1::2]]
        assert (min(xs), min(ys)) == pytest.approx((10.3, 12.8), abs=0.02)
        assert max(max(xs) - min(xs), max(ys) - min(ys)) == pytest.approx(90, abs=0.02)
        assert sum(map(len, sprite.outline)) / 2 <= 120  # points: two outlines fit one answer


@pytest.mark.parametrize("label", ["circle", "square", "ring", "cross"])
def test_things_without_details_have_one_colour(label: str) -> None:
    for seed in range(6):
        sprite = drawn(label, seed)
        pixels = numpy.asarray(sprite.picture)[numpy.asarray(sprite.alpha) == 255].astype(int)
        assert numpy.abs(pixels - numpy.median(pixels, axis=0)).mean() < 30
        assert colours.distance(tuple(numpy.median(pixels, axis=0)), GROUND) > 100  # seen on the ground


def test_colours_differ_from_what_lies_below() -> None:
    under = set(colours.COLOURS) - {"purple", "blue"}
    rng = random.Random(1)
    found = {figures.figure("star", rng).sprite(40, 0, 0, GROUND, under, rng).colour for _ in range(30)}
    assert found == {"purple", "blue"}


def test_shades_of_different_names_are_far_apart() -> None:
    rng = random.Random(2)
    shades = [(name, colours.shade(name, rng)) for name in colours.COLOURS for _ in range(30)]
    apart = [colours.distance(a, b) for n, a in shades for m, b in shades if n != m]
    assert min(apart) > 60
    assert colours.contrast((255, 255, 255), (0, 0, 0)) == pytest.approx(21)
    assert colours.contrast((0, 0, 255), (255, 255, 255)) == pytest.approx(8.59, abs=0.01)  # as the web's tools say


# What is seen


def square(left: int, top: int, side: int, colour: str = "red") -> Sprite:
    alpha = Image.new("L", (side, side), 255)
    outline = tuple(float(v) for v in (left, top, left + side, top, left + side, top + side, left, top + side))
    return Sprite("square", colour, Image.new("RGB", alpha.size), alpha, left, top, (outline,))


def test_what_is_hidden_is_taken_off() -> None:
    below, above = square(10, 10, 20), square(20, 10, 20)
    first, second = visible([below, above], (100, 100))
    assert (first.box, first.area, first.hidden_by) == ((10, 10, 20, 30), 200, (1,))
    assert sorted(zip(first.polygons[0][0::2], first.polygons[0][1::2], strict=True)) == [
        (10, 10), (10, 30), (20, 10), (20, 30),
    ]  # fmt: skip
    assert (second.polygons, second.hidden_by) == (above.outline, ())
    assert visible([above, below], (100, 100))[1].box == (10, 10, 30, 30)  # the order decides


def test_what_is_hidden_too_much_is_left_out_and_hides_nothing() -> None:
    lowest, middle, top = square(0, 0, 20), square(12, 0, 20), square(10, 0, 20)
    seen = visible([lowest, middle, top], (100, 100))
    assert [one.sprite for one in seen] == [lowest, top]
    assert seen[0].area == 200  # only the top one lies on it
    assert seen[0].hidden_by == (1,)


def test_what_lies_off_the_picture_is_taken_off() -> None:
    (seen,) = visible([square(-8, 85, 20)], (100, 100))
    assert seen.box == (0, 85, 12, 100)
    assert visible([square(-15, 0, 20)], (100, 100)) == []


def test_a_thing_cut_in_two_has_two_outlines() -> None:
    wide = Image.new("L", (60, 10), 255)
    bar = Sprite("bar", "", Image.new("RGB", wide.size), wide, 0, 20, ((0, 20, 60, 20, 60, 30, 0, 30),))
    first, _ = visible([bar, square(20, 15, 20)], (100, 100))
    assert len(first.polygons) == 2
    assert first.area == 400


@st.composite
def blobs(draw: st.DrawFn) -> Any:
    canvas = Image.new("L", (70, 60))
    pencil = ImageDraw.Draw(canvas)
    for _ in range(draw(st.integers(1, 3))):
        x, y, rx, ry = (draw(st.integers(10, 45)) for _ in range(4))
        pencil.ellipse((x - rx / 2, y - ry / 2, x + rx / 2, y + ry / 2), 255)
    return numpy.asarray(canvas) > 0


@given(mask=blobs())
def test_traced_outlines_follow_the_mask(mask: Any) -> None:
    traced = trace(mask, 0, 0)
    assert traced is not None
    polygons, box = traced
    assert overlap(inside(polygons, (70, 60)), mask) > 0.88
    assert overlap(inside(polygons, (70, 60), shift=(12, 12)), mask) < 0.8  # a fault is noticed
    rows, columns = numpy.flatnonzero(mask.any(1)), numpy.flatnonzero(mask.any(0))
    assert box == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    assert sum(map(len, polygons)) <= 300


def test_shards_are_no_outlines() -> None:
    mask = numpy.zeros((40, 40), dtype=bool)
    mask[5:30, 5:30] = True
    mask[38, 38] = True
    polygons, box = trace(mask, 100, 50) or ((), ())
    assert len(polygons) == 1
    assert box == (105, 55, 130, 80)
    assert trace(numpy.zeros((4, 4), dtype=bool)) is None


@given(st.floats(0.3, 3.0), st.integers(8, 200))
def test_simplified_lines_stay_near(tolerance: float, count: int) -> None:
    angles = numpy.linspace(0, 2 * math.pi, count, endpoint=False)
    circle = numpy.column_stack([40 * numpy.cos(angles), 40 * numpy.sin(angles)])
    simple = simplified(circle, tolerance)
    assert 3 <= len(simple) <= count
    following = numpy.roll(simple, -1, axis=0)
    along = following - simple
    off = [
        min(
            abs((p - a) @ (-d[1], d[0])) / numpy.hypot(*d) if 0 <= (p - a) @ d <= d @ d else numpy.hypot(*(p - a))
            for a, d in zip(simple, along, strict=True)
        )
        for p in circle[::3]
    ]
    assert max(off) <= tolerance + 1e-9
