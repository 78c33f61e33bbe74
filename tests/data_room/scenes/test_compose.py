"""Whole scenes: the same everywhere, sound as training data, and true to their pictures."""

from __future__ import annotations

import hashlib
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image

from florence2.data import Record, check
from florence2.data.scenes import Scenes, SceneSettings, colours
from florence2.data.scenes.english import plural
from florence2.errors import DataError
from florence2.language.tokenizer import Tokenizer
from tests.data_room.scenes.conftest import encoded, inside

PLAIN = ("circle", "square", "triangle", "diamond", "pentagon", "hexagon", "star", "heart", "cross")
"""Of one colour all over."""


def fingerprint(scenes: Scenes, numbers: list[int]) -> str:
    digest = hashlib.sha256()
    for number in numbers:
        record, picture = scenes[number]
        digest.update(repr(record).encode() + picture.tobytes())
    return digest.hexdigest()


SETTINGS = SceneSettings(count=60, seed=3, size=(200, 160), objects=(2, 6), words=(1, 2))


def test_same_in_every_process_and_order() -> None:
    scenes = Scenes(SETTINGS)
    code = (
        "from tests.data_room.scenes.test_compose import *\n"
        "Scenes(SETTINGS)[7]\n"  # what was made before does not matter
        "print(fingerprint(Scenes(SETTINGS), [5, 1, 9]))"
    )
    root = Path(__file__).parents[3]
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root, env={"PYTHONHASHSEED": "77"}
    )
    assert other.stdout.strip() == fingerprint(scenes, [5, 1, 9])
    assert fingerprint(scenes, [5, 1, 9]) == fingerprint(Scenes(SETTINGS), [5, 1, 9])
    assert fingerprint(Scenes(replace(SETTINGS, seed=4)), [5, 1, 9]) != other.stdout.strip()


def test_pickled_scenes_are_the_same_and_small() -> None:
    scenes = Scenes(SETTINGS)
    before = fingerprint(scenes, [2])
    packed = pickle.dumps(scenes)
    assert len(packed) < 2000
    assert fingerprint(pickle.loads(packed), [2]) == before


def test_a_sequence() -> None:
    scenes = Scenes(replace(SETTINGS, count=3))
    assert len(scenes) == 3
    assert [record.id for record, _ in scenes] == ["3-000000", "3-000001", "3-000002"]
    record, picture = scenes[1]
    assert (record.image, record.source) == (None, "scenes")
    assert picture.size == (record.width, record.height) == (200, 160)
    assert picture.mode == "RGB"
    with pytest.raises(IndexError, match="from 0 to 2"):
        scenes[3]


@pytest.mark.parametrize(
    "settings",
    [
        SceneSettings(count=60),
        SceneSettings(count=30, size=(640, 360), objects=(0, 12), words=(0, 5), seed=1),
        SceneSettings(count=40, size=(64, 96), objects=(0, 3), seed=2),
    ],
    ids=["usual", "many", "tiny"],
)
def test_every_record_passes_the_check(settings: SceneSettings, tokenizer: Tokenizer) -> None:
    report = check(encoded(Scenes(settings), range(settings.count)), tokenizer)
    assert report.records == settings.count
    assert report.problems == []


@pytest.mark.slow
def test_two_hundred_records_pass_the_check(tokenizer: Tokenizer) -> None:
    settings = SceneSettings(count=200, seed=11, objects=(0, 8), words=(0, 3))
    report = check(encoded(Scenes(settings), range(200)), tokenizer)
    assert report.problems == []
    taught = {"<OD>", "<OCR_WITH_REGION>", "<CAPTION_TO_PHRASE_GROUNDING>", "<VQA>", "<REGION_TO_SEGMENTATION>"}
    assert taught <= set(report.targets)


def test_as_many_as_asked_for_and_of_the_labels_asked_for() -> None:
    scenes = Scenes(SceneSettings(count=30, objects=(2, 4), words=(1, 1), labels=("star", "rocket")))
    for record, _ in scenes:
        assert 1 <= len(record.objects or ()) <= 4  # one may have been hidden too much
        assert {thing.label for thing in record.objects or ()} <= {"star", "rocket"}
        assert record.exhaustive == ("star", "rocket")
        assert record.text
    assert sum(len(record.objects or ()) >= 2 for record, _ in scenes) >= 27
    empty, _ = Scenes(SceneSettings(objects=(0, 0), words=(0, 0)))[0]
    assert (empty.objects, empty.text) == ((), ())  # an explicit negative
    with pytest.raises(DataError, match="nobody can draw 'stone'"):
        Scenes(SceneSettings(labels=("stone",)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": (63, 300)}, "63 x 300"),
        ({"objects": (4, 2)}, "objects are from 4 to 2"),
        ({"words": (-1, 2)}, "words are from -1 to 2"),
        ({"count": -1}, "the count of scenes is -1"),
    ],
)
def test_settings_that_make_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        SceneSettings(**changes)


# Outlines and colours against the picture


def nearest_name(pixel: Any) -> str:
    """The colour whose range a pixel is nearest to, by hue where it has one."""
    hue, saturation, value = colorsys_of(pixel)

    def off(name: str) -> float:
        (h0, h1), (s0, s1), (v0, v1) = colours._NAMED[name]
        turn = min(abs((hue - h + 180) % 360 - 180) for h in (h0, (h0 + h1) / 2, h1)) if h1 - h0 < 360 else 0
        far = [max(low - x, x - high, 0) for x, (low, high) in ((saturation, (s0, s1)), (value, (v0, v1)))]
        return turn / 60 + 2 * far[0] + 1.5 * far[1]

    return min(colours.COLOURS, key=off)


def colorsys_of(pixel: Any) -> tuple[float, float, float]:
    import colorsys

    hue, saturation, value = colorsys.rgb_to_hsv(*(float(v) / 255 for v in pixel))
    return 360 * hue, saturation, value


def told_colours(record: Record) -> list[tuple[str, tuple[tuple[float, ...], ...]]]:
    """(colour, outlines) of what a referring expression or a question gives a colour."""
    found = []
    for ref in record.refs:
        words = ref.text.split()
        if words[1] in colours.COLOURS and words[2] in PLAIN:
            found.append((words[1], ref.polygons))
    for asked in record.qa:
        if match := re.fullmatch(r"What (?:color is|is the color of) the ([a-z]+)\?", asked.question):
            (thing,) = (thing for thing in record.objects or () if thing.label == match[1])
            found.append((asked.answers[0], thing.polygons))
    return found


def colours_agree(scenes: Scenes, numbers: range, shift: tuple[float, float] = (0, 0)) -> tuple[int, int]:
    """(outlines whose pixels have the colour that is told, all of which one is told)."""
    right = total = 0
    for number in numbers:
        record, picture = scenes[number]
        pixels = numpy.asarray(picture)
        for colour, polygons in told_colours(record):
            mask = inside(polygons, picture.size, shift)
            if mask.any():
                total += 1
                spots = pixels[mask][:: max(1, mask.sum() // 60)]
                names = [nearest_name(pixel) for pixel in spots]
                right += names.count(colour) > 0.85 * len(names)
    return right, total


def test_outlines_hold_the_colour_that_is_told() -> None:
    scenes = Scenes(SceneSettings(count=60, labels=PLAIN, objects=(2, 5), seed=5))
    right, total = colours_agree(scenes, range(60))
    assert total > 100
    assert right >= 0.97 * total
    wrong, total = colours_agree(scenes, range(60), shift=(25, 25))
    assert wrong < 0.1 * total  # the same outlines a little beside: noticed


def test_objects_do_not_share_pixels() -> None:
    scenes = Scenes(SceneSettings(count=60, objects=(4, 8), words=(0, 0), seed=6))
    shared = whole = 0
    for record, picture in scenes:
        covered = numpy.zeros((picture.height, picture.width), dtype=int)
        for thing in record.objects or ():
            covered += inside(thing.polygons, picture.size)
        shared += int((covered > 1).sum())
        whole += int((covered > 0).sum())
    assert shared < 0.004 * whole  # traced outlines are off by less than a pixel


def test_boxes_are_around_the_outlines() -> None:
    for record, picture in Scenes(SceneSettings(count=60, objects=(3, 6), seed=8)):
        for thing in record.objects or ():
            xs = [x for polygon in thing.polygons for x in polygon[0::2]]
            ys = [y for polygon in thing.polygons for y in polygon[1::2]]
            around = (min(xs), min(ys), max(xs), max(ys))
            assert all(abs(a - b) <= 1 for a, b in zip(around, thing.box, strict=True))
            assert min(around) >= 0
            assert (around[2] <= picture.width, around[3] <= picture.height) == (True, True)
            assert all(len(polygon) >= 6 for polygon in thing.polygons)


# What is said against the objects


def phrases_stand_in_their_captions(record: Record) -> bool:
    return all(
        record.captions[p.caption or 0][p.start or 0 : (p.start or 0) + len(p.text)] == p.text for p in record.phrases
    )


def test_phrases_stand_in_their_captions() -> None:
    scenes = Scenes(SceneSettings(count=80, objects=(1, 6), seed=9))
    records = [record for record, _ in scenes]
    assert all(map(phrases_stand_in_their_captions, records))
    assert sum(len(record.phrases) for record in records) > 150
    moved = [replace(r, phrases=tuple(replace(p, start=(p.start or 0) + 1) for p in r.phrases)) for r in records]
    assert not any(phrases_stand_in_their_captions(record) for record in moved if record.phrases)


def test_phrases_have_the_boxes_of_what_they_name() -> None:
    """ "two blue stars" has two boxes, each of a star."""
    numbers = {"a": 1, "an": 1, "one": 1, "the": 1, "two": 2, "three": 3, "four": 4, "five": 5}
    seen = 0
    for record, _ in Scenes(SceneSettings(count=80, objects=(2, 5), words=(0, 0), seed=10, labels=("star", "cup"))):
        for phrase in record.phrases:
            first, *_, last = phrase.text.split()
            label = last.removesuffix("s")
            boxes = [thing.box for thing in record.objects or () if thing.label == label]
            assert len(phrase.boxes) == numbers[first.lower()]
            assert set(phrase.boxes) <= set(boxes)
            seen += len(phrase.boxes) > 1
    assert seen > 10


def counts_are_right(record: Record, labels: tuple[str, ...]) -> list[bool]:
    found = []
    for asked in record.qa:
        for label in labels:
            if re.match(rf"How many {plural(label)} are ", asked.question):
                found.append(asked.answers[0] == str(sum(t.label == label for t in record.objects or ())))
    return found


def test_counts_are_right() -> None:
    scenes = Scenes(SceneSettings(count=150, objects=(1, 6), seed=12))
    records = [record for record, _ in scenes]
    found = [right for record in records for right in counts_are_right(record, scenes.labels)]
    assert len(found) > 100
    assert all(found)
    fewer = [replace(record, objects=(record.objects or ())[1:]) for record in records]
    assert not all(right for record in fewer for right in counts_are_right(record, scenes.labels))


def test_presence_is_told_right_and_as_often_yes_as_no() -> None:
    scenes = Scenes(SceneSettings(count=200, objects=(1, 4), seed=13))
    answers = []
    for record, _ in scenes:
        for asked in record.qa:
            if match := re.fullmatch(
                r"Is there an? ([a-z ]+?) (?:in the picture|in this image|here)\?", asked.question
            ):
                words = match[1].split(" ", 1)
                label = match[1] if match[1] in scenes.labels else words[-1]
                there = any(thing.label == label for thing in record.objects or ())
                if label == match[1]:
                    assert asked.answers == ("yes" if there else "no",)
                else:
                    assert there  # a colour is asked of what is there
                answers.append(asked.answers[0])
    assert 0.35 < answers.count("yes") / len(answers) < 0.65


def test_texts_are_told_as_they_are_printed() -> None:
    read = 0
    for record, _ in Scenes(SceneSettings(count=100, objects=(0, 2), words=(1, 1), seed=14)):
        printed = " ".join(words.text for words in record.text or ())
        for asked in record.qa:
            if re.match("What (does|is written|can be read)", asked.question):
                assert asked.answers == (printed,)
                read += 1
        assert all(f'"{printed}"' in caption for caption in record.captions if '"' in caption)
    assert read > 40


def test_words_vary() -> None:
    records = [record for record, _ in Scenes(SceneSettings(count=120, seed=15))]
    openings = {" ".join(caption.split()[:2]) for record in records for caption in record.captions}
    questions = {" ".join(asked.question.split()[:2]) for record in records for asked in record.qa}
    references = {" ".join(ref.text.split()[-3:-1]) for record in records for ref in record.refs}
    assert (len(openings) >= 30, len(questions) >= 6, len(references) >= 40) == (True, True, True)


# Grounds


def test_photos_as_grounds_claim_no_absence(tmp_path: Path) -> None:
    Image.effect_noise((90, 70), 60).convert("RGB").save(tmp_path / "a.jpg")
    Image.new("RGB", (300, 500), (10, 120, 60)).save(tmp_path / "b.png")
    scenes = Scenes(SceneSettings(count=20, backgrounds=(tmp_path.name,), objects=(0, 2)), root=tmp_path.parent)
    for record, picture in scenes:
        assert picture.size == (320, 320)
        assert record.exhaustive is None
        assert record.objects is None or record.objects
        assert record.text is None or record.text
        assert not [q for q in record.qa if q.question.startswith("How many") or q.answers[0] in ("0", "none")]
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="no folder with photos"):
        Scenes(SceneSettings(backgrounds=(str(empty),)))[0]


@pytest.mark.parametrize("kind", range(9))
def test_grounds_fill_the_picture(kind: int) -> None:
    import random

    from florence2.data.scenes import grounds

    drawn: Callable[..., grounds.Ground] = tuple(grounds._KINDS)[kind]
    for size in ((64, 200), (333, 127)):
        ground = drawn(size, random.Random(kind))
        assert ground.picture.size == size
        assert ground.picture.mode == "RGB"
        assert ground.known
