"""Whatever is done to a photo, what its record says is still to be seen: checked in the pixels.

Scenes are painted for it: rectangles, each in a colour of its own, on black. The planted faults are boxes that
stay where they were, classes that are called absent although a sliver shows, a crop that is taken elsewhere.
"""

from __future__ import annotations

import io
import itertools
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageEnhance

from florence2.data import Pair, Phrase, Question, Record, Reference, Thing, check
from florence2.data.augment import Augment, augment
from florence2.data.records import Place, broken
from florence2.data.records_moved import mirror
from florence2.errors import ConfigError, DataError
from florence2.language.tokenizer import Tokenizer
from florence2.results import Box
from tests.data_room.examples import image_bytes, rich_record

CELL = 16
NEAR = 10
"""Where a photo was put smaller, colours that differ by less are the same."""
PAINTS = tuple(itertools.islice(itertools.product((60, 150, 240), repeat=3), 1, None))  # no black
NAMES = tuple(f"{word} {side} thing" for word in "abcdefgh" for side in ("left", "right"))


@st.composite
def scenes(draw: st.DrawFn, outlined: bool = True) -> tuple[Record, Image.Image]:
    """Objects in the cells of a grid, one label each, and everything else that can be said about them."""
    columns, rows = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    size = (columns * CELL, rows * CELL)
    photo = Image.new("RGB", size)
    pencil = ImageDraw.Draw(photo)
    things = []
    cells = draw(st.lists(st.sampled_from(range(columns * rows)), min_size=1, max_size=6, unique=True))
    for number, cell in enumerate(cells):
        left, top = cell % columns * CELL, cell // columns * CELL
        x0, y0 = left + draw(st.integers(2, 4)), top + draw(st.integers(2, 4))
        x1, y1 = x0 + draw(st.integers(4, 8)), y0 + draw(st.integers(4, 8))
        pencil.rectangle((x0, y0, x1 - 1, y1 - 1), PAINTS[number])
        outline = (x0, y0, x1, y0, x1, y1, x0, y1)
        things.append(
            Thing(
                label=NAMES[number],
                box=(x0, y0, x1, y1),
                polygons=(outline,) if outlined and draw(st.booleans()) else (),
            )
        )
    caption = "On the left a thing and here " + " and ".join(thing.label for thing in things) + "."
    second = " and ".join(thing.label for thing in things)
    record = Record(
        image=None,
        id="painted",
        width=size[0],
        height=size[1],
        captions=draw(st.sampled_from([(), (caption,), (second,), (caption, second, "things"), ("things", second)])),
        objects=tuple(things),
        exhaustive=NAMES,
        refs=tuple(Reference(text=f"the {thing.label}", box=thing.box) for thing in things if draw(st.booleans())),
        qa=(Question(question="How many?", answers=(str(len(things)),)),) if draw(st.booleans()) else (),
    )
    phrases = [
        Phrase(text=thing.label, boxes=(thing.box,), caption=number, start=text.index(thing.label))
        for number, text in enumerate(record.captions)
        for thing in things
        if thing.label in text and draw(st.booleans())
    ]
    return replace(record, phrases=tuple(phrases)), photo


def paint_of(label: str, mirrored: bool) -> tuple[int, int, int]:
    """By the label in the painted scene."""
    swapped = {"left": "right", "right": "left"}
    words = [swapped.get(word, word) if mirrored else word for word in label.split()]
    return PAINTS[NAMES.index(" ".join(words))]


def require_true(record: Record, picture: Image.Image, mirrored: bool, margin: int = 0) -> None:
    """Each box is filled with its colour, and black around it; what is called absent does not show.

    ``margin`` is the width in pixels of edges that were blurred.
    """
    assert picture.size == (record.width, record.height)
    pixels = numpy.asarray(picture).astype(int)
    boxes = [(thing.label, thing.box) for thing in record.objects or ()]
    boxes += [(ref.text.removeprefix("the "), ref.box) for ref in record.refs]
    boxes += [(phrase.text, box) for phrase in record.phrases for box in phrase.boxes]
    for label, box in boxes:
        same = (abs(pixels - paint_of(label, mirrored)) <= (NEAR if margin else 0)).all(-1)
        x0, y0, x1, y1 = box
        assert 0 <= x0 < x1 <= record.width + 1e-6
        assert 0 <= y0 < y1 <= record.height + 1e-6
        inner = same[round(y0) + margin : round(y1) - margin, round(x0) + margin : round(x1) - margin]
        assert inner.all(), f"{label} is not in its box {box}"
        outer = numpy.ones_like(same)
        outer[max(0, round(y0) - margin) : round(y1) + margin, max(0, round(x0) - margin) : round(x1) + margin] = False
        assert not (same & outer).any(), f"{label} is not only in its box {box}"
    for thing in record.objects or ():
        for polygon in thing.polygons:
            assert min(polygon[0::2]) == pytest.approx(thing.box[0])
            assert max(polygon[1::2]) == pytest.approx(thing.box[3])
    present = {thing.label for thing in record.objects or ()}
    for name in set(record.exhaustive or ()) - present:
        assert not (pixels == paint_of(name, mirrored)).all(-1).any(), f"{name} is called absent and shows"
    for phrase in record.phrases:
        if phrase.caption is not None:
            assert record.captions[phrase.caption][phrase.start or 0 :].startswith(phrase.text)
    total = len(present)
    assert all(asked.answers == (str(total),) for asked in record.qa)
    for text in record.captions:  # names all objects that were painted
        assert text == "things" or all(label in text for label in present)
        assert text == "things" or text.count(" thing") - text.startswith("On the ") == total or record.phrases


CHANGES = {
    "mirror": Augment(flip=1),
    "crop": Augment(crop=1, min_area=0.1),
    "small rest": Augment(crop=1, min_area=0.1, visible=0.05),
    "mirror and crop": Augment(flip=1, crop=1, visible=0.6),
}


@pytest.mark.parametrize("change", CHANGES)
@given(scene=scenes(), seed=st.integers(0, 999))
@settings(max_examples=60)
def test_what_is_said_is_seen(change: str, scene: tuple[Record, Image.Image], seed: int) -> None:
    record, photo = scene
    how = CHANGES[change]
    changed, picture = augment(record, photo, how, random.Random(seed))
    require_true(changed, picture, mirrored=how.flip == 1)
    if change == "mirror":
        assert changed is not record
        assert len(changed.phrases) == len(record.phrases)


@given(scene=scenes(), seed=st.integers(0, 999))
@settings(max_examples=60)
def test_what_is_said_is_seen_when_it_is_smaller(scene: tuple[Record, Image.Image], seed: int) -> None:
    record, photo = scene
    changed, picture = augment(record, photo, Augment(shrink=1), random.Random(seed))
    corners = [picture.getpixel((x, y)) for x in (0, picture.width - 1) for y in (0, picture.height - 1)]
    differences = [abs(numpy.subtract(corner, paint)).max() for corner in corners for paint in PAINTS]
    if min(differences) > NEAR:  # a ground in the colour of an object would tell nothing
        require_true(replace(changed, exhaustive=None), picture, mirrored=False, margin=2)
    assert [thing.label for thing in changed.objects or ()] == [thing.label for thing in record.objects or ()]
    assert changed.exhaustive == NAMES


# Planted faults


def noticed(how: Augment, margin: int = 0) -> bool:
    """Does one of a hundred painted scenes show that something is wrong?"""
    photo = Image.new("RGB", (64, 48))
    ImageDraw.Draw(photo).rectangle((4, 4, 23, 13), PAINTS[0])
    ImageDraw.Draw(photo).rectangle((40, 20, 51, 43), PAINTS[1])
    things = (Thing(label=NAMES[0], box=(4, 4, 24, 14)), Thing(label=NAMES[1], box=(40, 20, 52, 44)))
    qa = (Question(question="How many?", answers=("2",)),)
    record = Record(image=None, id="x", width=64, height=48, objects=things, exhaustive=NAMES, qa=qa)
    for seed in range(100):
        changed, picture = augment(record, photo, how, random.Random(seed))
        try:
            require_true(changed, picture, mirrored=how.flip == 1, margin=margin)
        except AssertionError:
            return True
    return False


FAULTS: dict[str, tuple[Augment, str, Any]] = {
    "boxes that stay in a mirror": (Augment(flip=1), "View.box", lambda view, box: box),
    "boxes that stay in a crop": (Augment(crop=1), "View.box", lambda view, box: box),
    "boxes that stay in a frame": (Augment(shrink=1), "View.box", lambda view, box: box),
    "slivers": (Augment(crop=1), "records_moved._exhaustive", lambda record, sight: record.exhaustive),
    "a crop that is elsewhere": (
        Augment(crop=1),
        "augment._cut",
        lambda photo, view: photo.crop((0, 0, view.width, view.height)),
    ),
    "questions that stay": (Augment(crop=1), "records_moved._Sight.answers_hold", True),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_noticed(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    how, name, wrong = FAULTS[fault]
    margin = 2 if how.shrink else 0
    assert not noticed(how, margin)
    monkeypatch.setattr(f"florence2.data.{name.replace('View', 'views.View')}", wrong)
    assert noticed(how, margin)


# Other properties


WORDS = ("the left dog", "Leftmost", "a RIGHT-hand glove", "on the right , a cat", "a bright room", "left_arm", "dog")
words = st.sampled_from(WORDS)
quarters = st.integers(0, 80).map(lambda n: n / 4)
boxes = st.tuples(quarters, quarters, quarters, quarters).map(lambda b: (b[0], b[1], b[0] + b[2] + 1, b[1] + b[3] + 1))
polygons = st.lists(quarters, min_size=6, max_size=10).filter(lambda p: len(p) % 2 == 0).map(tuple)
bins = st.lists(st.integers(0, 999), min_size=4, max_size=4).map(
    lambda b: "".join(f"<loc_{n}>" for n in (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3])))
)
things = st.builds(
    Thing, label=words, box=boxes, polygons=st.lists(polygons, max_size=2).map(tuple), crowd=st.booleans()
)
told = st.builds(Pair, prompt=st.just("<OD>"), answer=st.tuples(words, bins, bins).map("".join)) | st.builds(
    Pair, prompt=st.tuples(st.just("<REGION_TO_DESCRIPTION>"), bins).map("".join), answer=words
)


@st.composite
def sided_records(draw: st.DrawFn) -> Record:
    """Full of sides; nothing in them forbids a mirror image. Photos of 48 x 52."""
    captions = tuple(draw(st.lists(st.lists(words, min_size=1, max_size=3).map(" and ".join), max_size=3)))
    phrases = []
    for number, caption in enumerate(captions):
        for start in (0, *(n + 5 for n in range(len(caption)) if caption.startswith(" and ", n))):
            text = caption[start:].partition(" and ")[0]
            phrases.append(Phrase(text=text, boxes=(draw(boxes), draw(boxes)), caption=number, start=start))
    return Record(
        image=image_bytes(48, 52),
        id=draw(st.sampled_from(["a", "b"])),
        width=48,
        height=52,
        captions=captions,
        objects=draw(st.none() | st.lists(things, max_size=4).map(tuple)),
        exhaustive=draw(st.none() | st.just(WORDS)),
        phrases=tuple(phrases),
        refs=tuple(draw(st.lists(st.builds(Reference, text=words, box=boxes, polygons=st.just(())), max_size=3))),
        qa=tuple(draw(st.lists(st.builds(Question, question=words, answers=st.tuples(words, words)), max_size=2))),
        pairs=tuple(draw(st.lists(told, max_size=2))),
    )


@given(sided_records())
def test_a_mirror_in_a_mirror(record: Record) -> None:
    once = mirror(record)
    assert once is not None
    assert mirror(once) == record
    for phrase in once.phrases:
        assert once.captions[phrase.caption or 0][phrase.start or 0 :].startswith(phrase.text)
    if record.captions and "left_arm" in record.captions[0]:
        assert "right_arm" in once.captions[0]


def test_a_mirror_that_forgets_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted twin: offsets of phrases that are not computed anew."""
    record = Record(
        image=None,
        id="x",
        width=48,
        height=52,
        captions=("the left dog and the left cat",),
        phrases=(Phrase(text="the left cat", boxes=((1, 1, 9, 9),), caption=0, start=17),),
    )
    once = mirror(record)
    assert once is not None
    assert (once.captions[0], once.phrases[0].text, once.phrases[0].start) == (
        "the right dog and the right cat",
        "the right cat",
        18,
    )
    monkeypatch.setattr("florence2.data.wording.mirrored_start", lambda text, start: start)
    twice = mirror(record)
    assert twice is not None
    assert not twice.captions[0][twice.phrases[0].start or 0 :].startswith(twice.phrases[0].text)


@given(sided_records(), st.integers(0, 99), st.sampled_from([*CHANGES.values(), Augment(crop=1, shrink=1, colour=1)]))
@settings(max_examples=60)
def test_what_was_sound_stays_sound(tokenizer: Tokenizer, record: Record, seed: int, how: Augment) -> None:
    assert check([record], tokenizer).problems == []
    changed, picture = augment(record, record.load(), how, random.Random(seed))
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    assert check([replace(changed, image=stream.getvalue())], tokenizer).problems == []
    for box in boxes_of(changed):
        assert 0 <= box[0] < box[2] <= changed.width + 1e-9
        assert 0 <= box[1] < box[3] <= changed.height + 1e-9


def boxes_of(record: Record) -> Iterator[Box]:
    yield from (thing.box for thing in record.objects or ())
    yield from (ref.box for ref in record.refs)
    for phrase in record.phrases:
        yield from phrase.boxes


def test_rich_records_stay_sound(tokenizer: Tokenizer) -> None:
    """With words, outlines of several parts and crowds."""
    record = rich_record(pairs=())
    for seed in range(60):
        changed, picture = augment(record, record.load(), Augment(crop=1, shrink=0.3), random.Random(seed))
        stream = io.BytesIO()
        picture.save(stream, "PNG")
        assert check([replace(changed, image=stream.getvalue())], tokenizer).problems == []


def test_the_same_seed_gives_the_same() -> None:
    how = Augment(flip=0.5, crop=0.5, shrink=0.5, colour=0.5)
    record = rich_record(text=None, pairs=())
    photo = record.load()
    runs = [
        [augment(record, photo, how, rng) for _ in range(20)]
        for rng in (random.Random(3), random.Random(3), random.Random(4))
    ]
    said = [[(changed, picture.tobytes()) for changed, picture in run] for run in runs]
    assert said[0] == said[1]
    assert said[0] != said[2]
    assert len({changed.width for changed, _ in said[0]}) > 5


def test_nothing_to_do() -> None:
    record, rng = rich_record(), random.Random(0)
    photo = record.load()
    changed, picture = augment(record, photo, Augment(), rng)
    assert changed is record
    assert picture is photo
    assert rng.random() == random.Random(0).random()
    changed, picture = augment(record, photo, Augment(colour=0.5), rng)
    assert changed is record
    assert picture is not photo


def test_what_cannot_be_augmented() -> None:
    record = rich_record()
    with pytest.raises(DataError, match=r"the photo is 9 x 9 \(RGB\), the record is for 80 x 60"):
        augment(record, Image.new("RGB", (9, 9)), Augment(flip=1), random.Random(0))
    with pytest.raises(DataError, match="no bbox"):
        augment(broken(Place("a", 3), "no bbox"), record.load(), Augment(flip=1), random.Random(0))
    for wrong in ({"flip": 1.5}, {"crop": -0.1}, {"colour": float("nan")}, {"min_area": 0.0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            Augment(**wrong)


def test_colours_are_those_of_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Brightness, contrast, saturation one after the other, wherever nothing is cut off at black or white."""
    photo = Image.fromarray(numpy.random.default_rng(0).integers(64, 192, (30, 40, 3), dtype=numpy.uint8))
    record = Record(image=None, id="x", width=40, height=30)

    def furthest() -> int:
        rng, drawn = random.Random(5), random.Random(5)
        _, picture = augment(record, photo, Augment(colour=0.4), rng)
        for _ in range(3):  # the dice of the other changes
            drawn.random()
        brightness, contrast, saturation = (1 + 0.24 * drawn.uniform(-1, 1) for _ in range(3))
        expected = ImageEnhance.Brightness(photo).enhance(brightness)
        expected = ImageEnhance.Contrast(expected).enhance(contrast)
        expected = ImageEnhance.Color(expected).enhance(saturation)
        return int(abs(numpy.asarray(picture).astype(int) - numpy.asarray(expected).astype(int)).max())

    assert furthest() <= 3  # each step of Pillow rounds down
    monkeypatch.setattr("florence2.data.augment.SWING", 0.8)
    assert furthest() > 6
