"""The pre-flight finds every planted mistake, names its place, and finds nothing in sound data."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from florence2.data import Phrase, Question, Reference, Thing, Words, check, read
from florence2.data.records import Place, Record, broken
from florence2.data.targets import Choices
from florence2.errors import DataError
from florence2.language import answers
from florence2.language.tokenizer import Tokenizer
from tests.data_room.examples import image_bytes, rich_record


def found(record: Record, tokenizer: Tokenizer, **options: Any) -> list[tuple[str, str]]:
    return [(problem.kind, problem.message) for problem in check([record], tokenizer, **options).problems]


def test_sound_data_has_no_problems(tokenizer: Tokenizer) -> None:
    report = check([rich_record(), rich_record(id="two", objects=(), text=(), phrases=(), refs=())], tokenizer)
    report.require()
    assert report.ok
    assert report.records == 2
    assert report.targets["<OD>"] == 4
    assert report.longest["<CAPTION>"] > 3
    assert report.examples["<OD>"].suffix.startswith("cat<loc_125>")
    assert "no problems" in str(report)
    assert json.loads(json.dumps(report.to_dict()))["targets"]["<OD>"] == 4


def thing(**changes: Any) -> dict[str, Any]:
    return {"objects": (Thing(**{"label": "cat", "box": (1, 1, 20, 20), **changes}),)}


PLANTED: dict[str, tuple[dict[str, Any], str, str]] = {
    "inverted box": (thing(box=(20, 1, 1, 20)), "box", "the box of 'cat' is inverted: (20, 1, 1, 20)"),
    "empty box": (thing(box=(5, 1, 5, 20)), "box", "is empty: (5, 1, 5, 20)"),
    "box outside": (thing(box=(5, 1, 5000, 20)), "box", "lies outside the 80 x 60 photo: (5, 1, 5000, 20)"),
    "box of NaN": (thing(box=(math.nan, 1, 5, 20)), "box", "lies outside"),
    "odd polygon": (thing(polygons=((1, 1, 20, 1, 20, 20, 1),)), "outline", "has 7 numbers, expected as many x as y"),
    "two points": (thing(polygons=((1, 1, 20, 1),)), "outline", "has 2 points, expected at least 3"),
    "polygon outside": (thing(polygons=((1, 1, 20, 1, 20, 900),)), "outline", "an outline of 'cat' lies outside"),
    "empty label": (thing(label=" "), "text", "a label is empty"),
    "location in a label": (thing(label="cat<loc_5>"), "text", "a label holds <loc_5>, a mark of the answer language"),
    "mark in a label": (thing(label="cat</s>"), "text", "holds </s>"),
    "unknown location": (thing(label="<loc_1000> cat"), "text", "holds <loc_1000>"),
    "half a character": (thing(label="c\ud800"), "text", "cannot be tokenised"),
    "empty caption": ({"captions": ("",)}, "text", "a caption is empty"),
    "long caption": ({"captions": ("dog " * 5000,)}, "length", "the position table 1024; thin it out or split it"),
    "long question": ({"qa": (Question(question="why " * 900, answers=("so",)),)}, "length", "there is room for 447"),
    "empty answer": ({"qa": (Question(question="why?", answers=("",)),)}, "text", "an answer is empty"),
    "empty question": ({"qa": (Question(question="", answers=("so",)),)}, "text", "a question is empty"),
    "phrase outside": (
        {"phrases": (Phrase(text="A cat", boxes=((0, 0, 90, 9),), caption=0),)},
        "box",
        "a box of the phrase 'A cat' lies outside",
    ),
    "phrase of no caption": (
        {"phrases": (Phrase(text="A cat", boxes=((0, 0, 9, 9),), caption=7),)},
        "target",
        "a phrase is from caption 7, there are 2",
    ),
    "expression outside": ({"refs": (Reference(text="it", box=(-9, 0, 9, 9)),)}, "box", "the box of 'it' lies outside"),
    "quad outside": (
        {"text": (Words(text="GO", quad=(0, 0, 99, 0, 99, 9, 0, 9)),)},
        "outline",
        "the quad of 'GO' lies outside the 80 x 60 photo",
    ),
    "broken image": ({"image": image_bytes(80, 60)[:200]}, "image", ""),
    "truncated JPEG": ({"image": image_bytes(80, 60, "JPEG")[:-150]}, "image", ""),
    "no image": ({"image": b"no image at all"}, "image", ""),
    "missing image": ({"image": Path("nowhere.png")}, "image", "nowhere.png"),
    "unnamed image": ({"image": None}, "image", "names no image"),
    "other size": ({"width": 79}, "image", "it is 80 x 60 (turned upright), the annotations are for 79 x 60"),
}


@pytest.mark.parametrize("mistake", PLANTED)
def test_planted_mistakes(mistake: str, tokenizer: Tokenizer) -> None:
    changes, kind, message = PLANTED[mistake]
    problems = found(rich_record(place=Place("set.jsonl", 12), **changes), tokenizer)
    assert any(k == kind and message in m for k, m in problems), problems
    report = check([rich_record(place=Place("set.jsonl", 12), **changes)], tokenizer)
    assert all(str(problem).startswith("set.jsonl:12 (one) ") for problem in report.problems)
    with pytest.raises(DataError, match=r"the first: set\.jsonl:12"):
        report.require()


SUFFIXES = {
    "beyond the bins": ("<OD>", "cat<loc_1><loc_2><loc_3><loc_1000>", "<loc_1000> is not in the vocabulary"),
    "beyond the bins in text": ("<VQA>where?", "at <loc_1000>", "<loc_1000> is not in the vocabulary"),
    "below the bins": ("<OD>", "cat<loc_-1><loc_2><loc_3><loc_9>", "<loc_-1> is not in the vocabulary"),
    "three of four": ("<OD>", "cat<loc_1><loc_2><loc_3>", "is no answer of <OD>"),
    "inverted": ("<OD>", "cat<loc_9><loc_2><loc_3><loc_8>", "ends the box before its beginning"),
    "no label": ("<OD>", "<loc_1><loc_2><loc_3><loc_9>", "is no answer of <OD>"),
    "text only": ("<OD>", "a cat", "its answers are (label box+)*"),
    "locations in a caption": ("<CAPTION>", "a cat<loc_1>", "is no answer of <CAPTION>"),
    "empty caption": ("<CAPTION>", "", "is no answer of <CAPTION>"),
    "half a point": ("<REFERRING_EXPRESSION_SEGMENTATION>it", "<loc_1>" * 7, "is no answer of"),
    "end inside": ("<VQA>why?", "so</s>so", "is no answer of <VQA>"),
    "empty for a prompt of one's own": ("Count!", " ", "the answer is empty"),
}


@pytest.mark.parametrize("mistake", SUFFIXES)
def test_planted_suffixes(mistake: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    prefix, suffix, message = SUFFIXES[mistake]
    (tmp_path / "a.png").write_bytes(image_bytes(80, 60))
    lines = [("<OD>", "cat<loc_1><loc_2><loc_3><loc_9>"), (prefix, suffix), ("<CAPTION>", "a cat")]
    documents = [json.dumps({"image": "a.png", "prefix": p, "suffix": s}) for p, s in lines]
    (tmp_path / "annotations.jsonl").write_text("\n".join(documents))
    (problem,) = check(read(tmp_path), tokenizer).problems
    assert message in problem.message
    assert problem.kind == "target"
    assert problem.place == f"{tmp_path / 'annotations.jsonl'}:2"


def test_suffixes_that_are_right(tokenizer: Tokenizer) -> None:
    good = [
        ("<OD>", ""),
        ("<OD>", "cat<loc_1><loc_2><loc_3><loc_9><loc_4><loc_4><loc_9><loc_9>dog<loc_0><loc_0><loc_999><loc_999>"),
        ("<OCR>", ""),
        ("Count the cats.", "3<loc_5>"),
        ("Locate cats in the image.", "cats<loc_1><loc_2><loc_3><loc_9>"),
    ]
    record = rich_record()
    for prefix, suffix in good:
        pair = replace(record.pairs[0], prompt=prefix, answer=suffix)
        assert found(replace(record, pairs=(pair,)), tokenizer) == [], (prefix, suffix)


def test_broken_entries_are_problems(tokenizer: Tokenizer) -> None:
    report = check([broken(Place("a.xml", 3), "it is no XML", "a"), rich_record()], tokenizer)
    assert [str(problem) for problem in report.problems] == ["a.xml:3 (a) entry: it is no XML"]
    assert report.records == 2


def test_a_formatter_with_a_fault_is_found(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted twin of the round trip: ids that say something else."""
    right: Callable[..., list[int]] = answers.format

    def shifted(answer: Any, task: Any, tokenizer: Tokenizer) -> list[int]:
        ids = right(answer, task, tokenizer)
        return [id + 1 if tokenizer.location_of(id) is not None and id % 7 == 0 else id for id in ids]

    monkeypatch.setattr(answers, "format", shifted)
    problems = found(rich_record(pairs=()), tokenizer, task="<OD>")
    assert [kind for kind, _ in problems] == ["target"]
    assert "it is parsed back as" in problems[0][1]


def test_only_some_tasks_and_records(tokenizer: Tokenizer) -> None:
    report = check([rich_record()] * 5, tokenizer, task=["<OD>", "caption"], limit=2, choices=Choices(order="area"))
    assert report.records == 2
    assert set(report.targets) == {"<OD>", "<CAPTION>"}


def test_long_reports_are_cut_for_people_only(tokenizer: Tokenizer) -> None:
    report = check([rich_record(captions=("",) * 100, phrases=())], tokenizer)
    assert "... and 60 more" in str(report)
    assert len(report.to_dict()["problems"]) == 100
