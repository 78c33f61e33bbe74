"""Objects cut out of a data set: their outlines, what is left out, what is surely not in them."""

from __future__ import annotations

import io
import pickle
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image, ImageDraw

from florence2.data import Record, Thing, Words, check, write
from florence2.data.scenes import Scenes, SceneSettings
from florence2.data.scenes.cutouts import Cutout, cutting, gather
from florence2.errors import DataError
from florence2.language.tokenizer import Tokenizer
from tests.data_room.scenes.conftest import encoded, inside, overlap

RED, BLUE, GREEN = (200, 30, 30), (30, 30, 200), (20, 160, 40)
KITE = (40.0, 20.0, 80.0, 60.0, 40.0, 110.0, 20.0, 60.0)
BRICK = (100.0, 30.0, 180.0, 30.0, 180.0, 90.0, 100.0, 90.0)


def photo(id: str, things: dict[str, tuple[tuple[float, ...], tuple[int, int, int]]], **changes: Any) -> Record:
    """A green photo with things of one colour each."""
    picture = Image.new("RGB", (200, 130), GREEN)
    for polygon, colour in things.values():
        ImageDraw.Draw(picture).polygon(polygon, colour)
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    objects = tuple(
        Thing(label=label, box=(min(p[0::2]), min(p[1::2]), max(p[0::2]), max(p[1::2])), polygons=(p,))
        for label, (p, _) in things.items()
    )
    record = Record(image=stream.getvalue(), id=id, width=200, height=130, objects=objects)
    return replace(record, **{"exhaustive": ("kite", "brick", "cat"), **changes})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write([photo("one", {"kite": (KITE, RED), "brick": (BRICK, BLUE)})], tmp_path / "set", "packs")
    return tmp_path / "set"


def settings(source: Path, **changes: Any) -> SceneSettings:
    return SceneSettings(**{"count": 30, "cutouts": (str(source),), "objects": (1, 3), "words": (0, 1), **changes})


def colours_agree(scenes: Scenes, shift: tuple[float, float] = (0, 0)) -> float:
    """Share of the pixels in the outlines that have the colour of the thing, whatever the light."""
    shares = []
    for record, picture in scenes:
        pixels = numpy.asarray(picture).astype(int)
        for thing in record.objects or ():
            found = pixels[inside(thing.polygons, picture.size, shift)]
            channel = 0 if thing.label == "kite" else 2
            others = [c for c in (0, 1, 2) if c != channel]
            shares.append(float((found[:, channel] > 1.8 * found[:, others].max(1)).mean()) if len(found) else 0.0)
    return float(numpy.mean(shares))


def test_outlines_hold_the_thing(source: Path) -> None:
    scenes = Scenes(settings(source))
    assert scenes.labels == ("brick", "kite")
    assert colours_agree(scenes) > 0.95
    assert colours_agree(scenes, shift=(22, 22)) < 0.75  # a fault is noticed


def test_records_pass_the_check(source: Path, tokenizer: Tokenizer) -> None:
    scenes = Scenes(settings(source, objects=(2, 6), seed=4))
    records = encoded(scenes, range(30))
    assert check(records, tokenizer).problems == []
    assert {thing.label for record in records for thing in record.objects or ()} == {"kite", "brick"}
    assert all(record.exhaustive == ("brick", "kite") for record in records)
    assert not any(
        "color" in asked.question for record in records for asked in record.qa if "sign" not in asked.question
    )


def test_pickled_without_what_was_read(source: Path) -> None:
    scenes = Scenes(replace(settings(source), cutouts=(source.name,)), root=source.parent)
    record, picture = scenes[3]
    packed = pickle.dumps(scenes)
    assert len(packed) < 2000
    again, same = pickle.loads(packed)[3]
    assert (again, same.tobytes()) == (record, picture.tobytes())


def test_only_the_labels_asked_for(source: Path) -> None:
    scenes = Scenes(settings(source, labels=("kite",)))
    assert scenes.labels == ("kite",)
    assert {thing.label for record, _ in scenes for thing in record.objects or ()} == {"kite"}
    with pytest.raises(DataError, match="no objects of the labels dog"):
        Scenes(settings(source, labels=("kite", "dog")))[0]


def cut(tmp_path: Path, record: Record) -> dict[str, Cutout]:
    write([record], tmp_path / record.id, "records")
    return {cutout.label: cutout for cutout in gather([tmp_path / record.id], (), 0)}


def test_what_is_not_whole_stays(tmp_path: Path) -> None:
    edge = (0.0, 20.0, 60.0, 20.0, 60.0, 80.0)
    small = (100.0, 100.0, 120.0, 100.0, 120.0, 120.0, 100.0, 120.0)
    found = cut(tmp_path, photo("a", {"kite": (KITE, RED), "wall": (edge, BLUE), "coin": (small, BLUE)}))
    assert set(found) == {"kite"}
    crowd = photo("b", {"kite": (KITE, RED)})
    crowd = replace(crowd, objects=tuple(replace(thing, crowd=True) for thing in crowd.objects or ()))
    with pytest.raises(DataError, match="no objects with outlines that could be cut out"):
        cut(tmp_path, crowd)
    torn = photo("c", {"kite": (KITE, RED)})
    torn = replace(torn, objects=(replace((torn.objects or ())[0], polygons=(KITE, BRICK)),))
    with pytest.raises(DataError, match="no objects"):
        cut(tmp_path, torn)


def test_what_reaches_into_a_thing_is_not_surely_absent(tmp_path: Path) -> None:
    near = (60.0, 40.0, 120.0, 40.0, 120.0, 90.0, 60.0, 90.0)
    found = cut(tmp_path, photo("a", {"kite": (KITE, RED), "brick": (near, BLUE)}))
    assert found["kite"].known == {"kite", "cat"}
    apart = cut(tmp_path, photo("b", {"kite": (KITE, RED), "brick": (BRICK, BLUE)}))
    assert apart["kite"].known == {"kite", "brick", "cat"}
    assert cut(tmp_path, photo("c", {"kite": (KITE, RED)}, exhaustive=None))["kite"].known == frozenset()


def test_print_is_never_mirrored(tmp_path: Path) -> None:
    quad = (110.0, 40.0, 160.0, 40.0, 160.0, 60.0, 110.0, 60.0)
    words = (Words(text="BRICK", quad=quad),)
    found = cut(tmp_path, photo("a", {"kite": (KITE, RED), "brick": (BRICK, BLUE)}, text=words))
    assert (found["kite"].mirrored, found["brick"].mirrored) == (True, False)
    assert not cut(tmp_path, photo("b", {"stop sign": (KITE, RED)}))["stop sign"].mirrored

    def turns(cutout: Cutout) -> set[bool]:
        return {bool(numpy.linalg.det(cutting(cutout, random.Random(n)).matrix[:, :2]) < 0) for n in range(20)}

    assert turns(found["kite"]) == {True, False}
    assert turns(found["brick"]) == {False}


@pytest.mark.parametrize("side", [25.0, 60.0, 130.0])
def test_a_turned_thing_and_its_outline(tmp_path: Path, side: float) -> None:
    kite = cut(tmp_path, photo("a", {"kite": (KITE, RED)}))["kite"]
    for seed in range(6):
        rng = random.Random(seed)
        sprite = cutting(kite, rng).sprite(side, 7.6, 11.2, rng)
        canvas = Image.new("L", (180, 180))
        canvas.paste(sprite.alpha, (sprite.left, sprite.top))
        there = numpy.asarray(canvas) >= 128
        assert overlap(there, inside(sprite.outline, canvas.size)) > 0.93
        assert overlap(there, inside(sprite.outline, canvas.size, shift=(side / 8, 0))) < 0.9
        xs, ys = sprite.outline[0][0::2], sprite.outline[0][1::2]
        assert max(max(xs) - min(xs), max(ys) - min(ys)) == pytest.approx(side, abs=0.05)
        assert (min(xs), min(ys)) == pytest.approx((7.6, 11.2), abs=0.05)
