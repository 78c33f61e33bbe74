"""The rules of augmentation one by one: what a crop, a mirror or a larger frame leaves of a record."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from florence2.data import Pair, Phrase, Question, Record, Reference, Thing, Words, pairs
from florence2.data.augment import Augment, augment
from florence2.data.jsonl import spelling
from florence2.data.pair_texts import parse
from florence2.data.records_moved import mirror, seen
from florence2.data.views import View, cutout, smaller
from florence2.results import Box

SIZE = (80, 60)
CAT, OTHER_CAT, DOG = (10, 10, 30, 40), (40, 12, 60, 50), (50, 20, 78, 58)
LEFT_HALF = cutout(0, 0, 45, 60)  # all of one cat, a quarter of the other, nothing of the dog
MOST = cutout(0, 5, 72, 55)  # all, but the dog is cut
WHOLE = cutout(5, 5, 75, 55)
FRAME = smaller(SIZE, 40, 30, 40, 30)


def bare(**changes: Any) -> Record:
    things = (
        Thing(label="cat", box=CAT),
        Thing(label="cat", box=OTHER_CAT),
        Thing(label="dog", box=DOG),
    )
    record = Record(image=None, id="x", width=80, height=60, objects=things, exhaustive=("cat", "dog", "zebra"))
    return replace(record, **changes)


def through(view: View, **changes: Any) -> Record | None:
    return seen(bare(**changes), view, 0.35)


def test_slivers_are_neither_present_nor_absent() -> None:
    record = through(LEFT_HALF)
    assert record is not None
    assert record.objects == (Thing(label="cat", box=CAT),)
    assert record.exhaustive == ("dog", "zebra")  # nothing of the dog shows: it is absent
    assert seen(bare(), LEFT_HALF, 0.2).exhaustive == ("cat", "dog", "zebra")  # type: ignore[union-attr]


def test_objects_of_outlines() -> None:
    """An outline says better than its box what shows, and where."""
    corner = (10.0, 10.0, 30.0, 10.0, 10.0, 40.0)  # most of it is to the left
    things = (Thing(label="cat", box=CAT, polygons=(corner,)), Thing(label="dog", box=(0, 0, 60, 60)))
    record = through(cutout(0, 25, 80, 35), objects=things)
    assert record is not None
    assert [thing.label for thing in record.objects or ()] == ["dog"]  # half of the box, a quarter of the cat
    assert "cat" not in (record.exhaustive or ())
    record = through(cutout(0, 0, 80, 25), objects=things)
    assert record is not None
    record = through(cutout(20, 0, 60, 60), objects=things, refs=(Reference(text="it", box=CAT),))
    assert [thing.label for thing in (record or bare()).objects or ()] == ["dog"]
    record = seen(bare(objects=things, refs=(Reference(text="it", box=CAT),)), cutout(20, 0, 60, 60), 0.2)
    assert record is not None
    (cat, _) = record.objects or ()
    assert cat.box == record.refs[0].box == (0, 10, 10, 25)  # not down to 40
    assert cat.polygons == ((0, 10, 10, 10, 0, 25),)


CAPTIONS: dict[str, tuple[View, dict[str, Any], tuple[str, ...]]] = {
    "all shown": (WHOLE, {}, ("Two cats.",)),
    "all shown in part": (MOST, {}, ("Two cats.",)),
    "one lost": (LEFT_HALF, {}, ()),
    "nothing known, much left": (MOST, {"objects": None, "exhaustive": None}, ("Two cats.",)),
    "no objects, much left": (MOST, {"objects": ()}, ("Two cats.",)),
    "in a frame": (FRAME, {}, ("Two cats.",)),
    "nothing known, in a frame": (FRAME, {"objects": None}, ("Two cats.",)),
    "a place": (WHOLE, {"captions": ("A cat on the left.",)}, ()),
    "a place in a frame": (FRAME, {"captions": ("A cat on the left.",)}, ()),
    "its phrase shows": (LEFT_HALF, {"phrases": (Phrase(text="Two", boxes=(CAT,), caption=0),)}, ("Two cats.",)),
    "its phrase is lost": (LEFT_HALF, {"phrases": (Phrase(text="cats", boxes=(OTHER_CAT,), caption=0),)}, ()),
    "its phrase shows in part": (
        LEFT_HALF,
        {"phrases": (Phrase(text="cats", boxes=(CAT, OTHER_CAT), caption=0),)},
        ("Two cats.",),
    ),
    "its phrase counts": (LEFT_HALF, {"phrases": (Phrase(text="Two cats", boxes=(CAT, OTHER_CAT), caption=0),)}, ()),
}


@pytest.mark.parametrize("rule", CAPTIONS)
def test_captions(rule: str) -> None:
    view, changes, kept = CAPTIONS[rule]
    record = through(view, **{"captions": ("Two cats.",), **changes})
    assert record is not None
    assert record.captions == kept


def test_captions_of_unknown_photos_need_most_of_it() -> None:
    changes = {"objects": None, "exhaustive": None, "captions": ("Two cats.",)}
    assert through(cutout(0, 0, 60, 57), **changes) is not None
    assert through(cutout(0, 0, 60, 55), **changes) is None  # 0.69 of it: nothing would be left to learn


def test_phrases_go_with_their_caption() -> None:
    phrases = (
        Phrase(text="A dog", boxes=(DOG,), caption=0, start=0),
        Phrase(text="cats", boxes=(CAT, OTHER_CAT), caption=1, start=0),
        Phrase(text="a cat", boxes=(CAT,)),
        Phrase(text="a dog", boxes=(DOG,)),
    )
    record = through(LEFT_HALF, captions=("A dog.", "cats"), phrases=phrases)
    assert record is not None
    assert record.captions == ("cats",)
    assert record.phrases == (
        Phrase(text="cats", boxes=(CAT,), caption=0, start=0),
        Phrase(text="a cat", boxes=(CAT,)),
    )


REFS: dict[str, tuple[View, str, Box, bool]] = {
    "shown": (LEFT_HALF, "the black cat", CAT, True),
    "lost": (LEFT_HALF, "the black cat", OTHER_CAT, False),
    "cut": (MOST, "the dog", DOG, True),
    "a place, all shown": (MOST, "the cat on the left", CAT, True),
    "a place, one lost": (LEFT_HALF, "the cat on the left", CAT, False),
    "a place that is no more": (cutout(9, 0, 71, 60), "the dog at the top", DOG, True),
    "a place that moved": (cutout(0, 9, 80, 51), "the cat in the middle", OTHER_CAT, False),
    "a place in a frame": (FRAME, "the cat on the left", CAT, False),
    "a rank, all shown": (WHOLE, "the largest animal", DOG, True),
    "a rank, one cut": (MOST, "the largest animal", DOG, False),
    "a rank in a frame": (FRAME, "the largest animal", DOG, True),
}


@pytest.mark.parametrize("rule", REFS)
def test_references(rule: str) -> None:
    view, text, box, kept = REFS[rule]
    record = through(view, refs=(Reference(text=text, box=box),))
    assert record is not None
    assert bool(record.refs) == kept


QUESTIONS: dict[str, tuple[View, str, dict[str, Any], bool]] = {
    "all shown": (WHOLE, "How many cats?", {}, True),
    "one lost": (LEFT_HALF, "How many cats?", {}, False),
    "a place": (WHOLE, "Is the cat on the left?", {}, False),
    "a place in a frame": (FRAME, "Is the cat on the left?", {}, False),
    "in a frame": (FRAME, "How many cats?", {}, True),
    "nothing known": (cutout(0, 0, 79, 60), "How many cats?", {"objects": (), "captions": ("a",)}, False),
    "nothing known, in a frame": (FRAME, "How many cats?", {"objects": ()}, True),
}


@pytest.mark.parametrize("rule", QUESTIONS)
def test_questions(rule: str) -> None:
    view, question, changes, kept = QUESTIONS[rule]
    record = through(view, qa=(Question(question=question, answers=("2",)),), **changes)
    assert record is not None
    assert bool(record.qa) == kept


STOP, GO = (1, 1, 21, 1, 21, 11, 1, 11), (40, 1, 60, 1, 60, 15, 40, 15)


def test_words_that_are_cut_are_illegible() -> None:
    record = bare(
        text=(Words(text="STOP", quad=STOP), Words(text="GO", quad=GO)), illegible=((70, 0, 80, 0, 80, 9, 70, 9),)
    )
    cut = seen(record, cutout(0, 0, 50, 60), 0.35)
    assert cut is not None
    assert cut.text == (Words(text="STOP", quad=STOP),)
    assert cut.illegible == ((40, 1, 50, 1, 50, 15, 40, 15),)
    nearly = seen(record, cutout(2, 0, 78, 60), 0.35)  # 0.95 of STOP shows
    assert nearly is not None
    assert nearly.text == (
        Words(text="STOP", quad=(0, 1, 19, 1, 19, 11, 0, 11)),
        Words(text="GO", quad=(38, 1, 58, 1, 58, 15, 38, 15)),
    )
    small = seen(record, smaller(SIZE, 0, 0, 48, 36), 0.35)  # STOP is 6 pixels high, GO 8.4
    assert small is not None
    assert [each.text for each in small.text or ()] == ["GO"]
    assert len(small.illegible) == 2
    assert seen(record, smaller(SIZE, 0, 0, 40, 30), 0.35) is None  # no word is left
    assert seen(record, cutout(0, 20, 80, 40), 0.35) is None


def test_crops_keep_something() -> None:
    assert through(cutout(0, 0, 9, 9)) is None
    assert through(cutout(0, 0, 9, 9), objects=()) is not None  # still none
    crowd = (Thing(label="cat", box=CAT, crowd=True), Thing(label="dog", box=DOG))
    assert through(cutout(0, 0, 45, 60), objects=crowd) is None


NEVER: dict[str, dict[str, Any]] = {
    "text": {"text": (Words(text="STOP", quad=STOP),)},
    "illegible text": {"illegible": (STOP,)},
    "a quoting caption": {"captions": ('A sign with "STOP".',)},
    "a question about text": {"qa": (Question(question="What does the sign say?", answers=("stop",)),)},
    "no side": {"captions": ("A man who has left.",)},
    "a pair that reads": {"pairs": (Pair(prompt="<OCR>", answer="STOP"),)},
    "a pair of no task": {"pairs": (Pair(prompt="Count.", answer="3"),)},
    "half a box": {"pairs": (Pair(prompt="<OD>", answer="cat<loc_1><loc_2><loc_3>"),)},
}


@pytest.mark.parametrize("reason", NEVER)
def test_photos_that_are_not_mirrored(reason: str) -> None:
    record = bare(**NEVER[reason])
    assert mirror(record) is None
    photo = Image.new("RGB", SIZE)
    changed, picture = augment(record, photo, Augment(flip=1), random.Random(0))
    assert changed is record
    assert picture is photo


def test_photos_known_to_show_no_text_are_mirrored() -> None:
    assert mirror(bare(text=(), pairs=(Pair(prompt="<OCR>", answer=""),))) is not None


# Explicit pairs


def as_pairs(record: Record) -> tuple[Pair, ...]:
    """All lessons of a record that can move, spelled out."""
    lessons = [lesson for lesson in pairs(replace(record, pairs=())) if lesson.task != "<OCR>"]
    return tuple(Pair(prompt=lesson.prefix, answer=lesson.suffix(spelling())) for lesson in lessons)


def numbers(pair: Pair) -> list[int]:
    return [int(number) for number in re.findall(r"<loc_(\d+)>", pair.prompt + pair.answer)]


def letters(pair: Pair) -> str:
    return re.sub(r"<loc_\d+>", "#", f"{pair.prompt} -> {pair.answer}")


@pytest.mark.parametrize("view", [None, MOST, WHOLE, FRAME])
def test_pairs_say_what_the_annotations_say(view: View | None) -> None:
    """Up to the rounding of bins: those of moved pairs are rounded twice."""
    outline = (40, 12, 60, 12, 60, 50)
    parts = ((50, 20, 60, 20, 60, 58), (62, 20, 71, 20, 78, 58))
    dog = Thing(label="left dog" if view is None else "dog", box=DOG, polygons=parts)
    record = bare(
        captions=("A cat.",),
        objects=(Thing(label="cat", box=CAT), Thing(label="cat", box=OTHER_CAT, polygons=(outline,)), dog),
        text=None if view is None else (Words(text="GO", quad=(5, 8, 30, 9, 30, 28, 5, 27)),),
        phrases=(Phrase(text="A cat", boxes=(CAT,), caption=0, start=0),),
        refs=(Reference(text="a gray cat", box=OTHER_CAT),),
    )
    told = replace(record, pairs=as_pairs(record))
    assert len(told.pairs) > 12
    moved = mirror(told) if view is None else seen(told, view, 0.35)
    assert moved is not None
    expected = as_pairs(moved)
    assert list(map(letters, moved.pairs)) == list(map(letters, expected))
    for pair, other in zip(moved.pairs, expected, strict=True):
        assert numbers(pair) == pytest.approx(numbers(other), abs=2)
    assert list(map(numbers, moved.pairs)) != list(map(numbers, told.pairs))


PAIRS: dict[str, tuple[View, Pair, bool]] = {
    "objects": (MOST, Pair(prompt="<OD>", answer="cat<loc_125><loc_166><loc_375><loc_666>"), True),
    "a lost object": (LEFT_HALF, Pair(prompt="<OD>", answer="cat<loc_500><loc_200><loc_750><loc_833>"), False),
    "none": (MOST, Pair(prompt="<OD>", answer=""), True),
    "no task": (MOST, Pair(prompt="Count.", answer="3"), False),
    "free text": (MOST, Pair(prompt="<OD>", answer="a cat at <loc_1>"), False),
    "no bin": (MOST, Pair(prompt="<OD>", answer="cat<loc_1><loc_2><loc_3><loc_1000>"), False),
    "below the bins": (MOST, Pair(prompt="<OD>", answer="cat<loc_-1><loc_2><loc_3><loc_9>"), False),
    "inverted": (MOST, Pair(prompt="<OD>", answer="cat<loc_9><loc_2><loc_3><loc_9>"), False),
    "a caption": (MOST, Pair(prompt="<CAPTION>", answer="two cats"), True),
    "a caption, one lost": (LEFT_HALF, Pair(prompt="<CAPTION>", answer="two cats"), False),
    "a caption with a place": (MOST, Pair(prompt="<CAPTION>", answer="a cat on the left"), False),
    "a question": (MOST, Pair(prompt="<VQA>How many?", answer="2"), True),
    "a question of a place": (MOST, Pair(prompt="<VQA>What is on the left?", answer="a cat"), False),
    "all text": (WHOLE, Pair(prompt="<OCR>", answer="STOP"), False),
    "all text in a frame": (FRAME, Pair(prompt="<OCR>", answer="STOP"), False),
    "no text": (WHOLE, Pair(prompt="<OCR>", answer=""), True),
    "a region": (MOST, Pair(prompt="<REGION_TO_CATEGORY><loc_125><loc_166><loc_375><loc_666>", answer="cat"), True),
    "a lost region": (
        LEFT_HALF,
        Pair(prompt="<REGION_TO_CATEGORY><loc_600><loc_166><loc_975><loc_666>", answer="cat"),
        False,
    ),
    "a prompt": (
        MOST,
        Pair(prompt="What is the region <loc_125><loc_166><loc_375><loc_666>?", answer="cat"),
        True,
    ),
    "two regions": (MOST, Pair(prompt=f"<REGION_TO_CATEGORY>{'<loc_5>' * 8}", answer="cat"), False),
}


@pytest.mark.parametrize("rule", PAIRS)
def test_pairs(rule: str) -> None:
    view, pair, moved = PAIRS[rule]
    record = through(view, pairs=(pair,))
    assert (record is not None) == moved
    if record is not None and numbers(pair):
        assert numbers(record.pairs[0]) != numbers(pair)
        assert letters(record.pairs[0]) == letters(pair)


def test_marked_outlines_are_moved() -> None:
    outline = "".join(f"<loc_{n}>" for n in (100, 100, 300, 100, 200, 400))
    pair = Pair(
        prompt="<OPEN_VOCABULARY_DETECTION>cat",
        answer=f"cat<poly>{outline}<sep>{outline}</poly>dog<loc_0><loc_0><loc_9><loc_9>",
    )
    assert [shape.kind for shape in parse(pair, SIZE).shapes] == ["polygon", "polygon", "box"]  # type: ignore[union-attr]
    mirrored = mirror(bare(pairs=(pair,)))
    assert mirrored is not None
    turned = "".join(f"<loc_{n}>" for n in (899, 100, 799, 400, 699, 100))
    assert mirrored.pairs[0].answer == (f"cat<poly>{turned}<sep>{turned}</poly>dog<loc_990><loc_0><loc_999><loc_9>")


def test_sides_in_pairs_are_swapped() -> None:
    asked = Pair(prompt="<VQA>Is it the left one?", answer="left")
    mirrored = mirror(bare(pairs=(asked,)))
    assert mirrored is not None
    assert mirrored.pairs == (Pair(prompt="<VQA>Is it the right one?", answer="right"),)
