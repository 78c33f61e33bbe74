"""Boxes, outlines and quads in a mirror, in a window, in a larger frame."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence2.data import views
from florence2.data.views import clip_polygon, place, polygon_area

quarters = st.integers(0, 160).map(lambda n: n / 4)
polygons = st.lists(quarters, min_size=6, max_size=14).filter(lambda p: len(p) % 2 == 0).map(tuple)


def signed_area(polygon: tuple[float, ...]) -> float:
    xs, ys = polygon[0::2], polygon[1::2]
    return sum(xs[n - 1] * ys[n] - xs[n] * ys[n - 1] for n in range(len(xs))) / 2


def test_a_mirror() -> None:
    view = views.mirror(100, 50)
    assert view.box((10, 5, 30, 20)) == (70, 5, 90, 20)
    assert view.quad((10, 5, 30, 6, 30, 20, 10, 19)) == (70, 6, 90, 5, 90, 19, 70, 20)  # from its new top left
    assert view.polygon((10, 5, 30, 5, 20, 20)) == (90, 5, 80, 20, 70, 5)


def test_windows() -> None:
    crop = views.cutout(10, 5, 40, 30)
    assert crop.window == (10, 5, 50, 35)
    assert crop.box((10, 5, 50, 35)) == (0, 0, 40, 30)
    smaller = views.smaller((100, 50), 30, 10, 50, 25)
    assert smaller.window == (-60, -20, 140, 80)
    assert smaller.box((0, 0, 100, 50)) == (30, 10, 80, 35)
    assert not views.smaller((320, 240), 97, 3, 223, 171).cuts  # whatever rounding does to its window


@given(polygons)
def test_a_mirror_keeps_the_sense_of_an_outline(polygon: tuple[float, ...]) -> None:
    view = views.mirror(40, 40)
    assert signed_area(view.polygon(polygon)) == pytest.approx(signed_area(polygon))
    assert view.polygon(view.polygon(polygon)) == polygon
    assert view.polygon(polygon)[:2] == (40 - polygon[0], polygon[1])


@given(polygons, quarters, quarters)
def test_clipped_outlines_lie_inside_and_add_up(polygon: tuple[float, ...], x: float, y: float) -> None:
    left, right = clip_polygon(polygon, (0, 0, x, 40)), clip_polygon(polygon, (x, 0, 40, 40))
    for rest in (left, right, clip_polygon(polygon, (x / 2, y / 2, x, y))):
        assert rest in ((), polygon) or (len(rest) >= 6 and polygon_area(rest) > 0)
    assert all(value <= x + 1e-9 for value in left[0::2])
    assert all(value >= x - 1e-9 for value in right[0::2])
    both = sum(signed_area(rest) for rest in (left, right) if rest)
    empty = [side for side, rest in ((True, left), (False, right)) if not rest]
    if not empty:  # a part that winds to nothing is dropped, a whole outline need not be
        assert both == pytest.approx(signed_area(polygon))


def test_clipping() -> None:
    square = (10.0, 10.0, 30.0, 10.0, 30.0, 30.0, 10.0, 30.0)
    assert clip_polygon(square, (0, 0, 40, 40)) == square
    assert polygon_area(clip_polygon(square, (20, 20, 40, 40))) == 100
    assert clip_polygon(square, (30, 0, 40, 40)) == ()  # it only touches
    assert clip_polygon(square, (31, 0, 40, 40)) == ()
    assert clip_polygon((), (0, 0, 40, 40)) == ()
    comb = (0.0, 0.0, 50.0, 0.0, 50.0, 30.0, 40.0, 30.0, 40.0, 10.0, 10.0, 10.0, 10.0, 30.0, 0.0, 30.0)
    assert polygon_area(clip_polygon(comb, (0, 20, 50, 30))) == 200  # two teeth, joined along the rim


def test_places() -> None:
    frame = (0.0, 0.0, 60.0, 60.0)
    assert place((0, 0, 10, 10), frame) == (0, 0)
    assert place((20, 25, 30, 30), frame) == (1, 1)
    assert place((30, 50, 38, 60), frame) == (2, 3)
    assert place((0, 0, 10, 10), (-60, -60, 0, 0)) == (3, 3)
