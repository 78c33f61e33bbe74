"""Answers become JSON and back, COCO results, supervision Detections, and pictures."""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from florence2.errors import AnswerError, MissingDependencyError
from florence2.results import (
    Answer,
    Detections,
    Instance,
    Object,
    Raw,
    Segments,
    Text,
    TextRegion,
    TextRegions,
)

number = st.floats(-1e6, 1e6)
unit = st.floats(0, 1)
words = st.text(max_size=20)


def numbers(count: int) -> st.SearchStrategy[tuple[float, ...]]:
    return st.tuples(*[number] * count)


polygons = st.lists(st.integers(1, 6).flatmap(lambda points: numbers(2 * points)), min_size=1, max_size=3).map(tuple)
objects = st.builds(
    Object,
    label=words,
    box=numbers(4),
    score=unit,
    label_score=unit,
    box_score=unit,
    polygons=st.just(()) | polygons,
)
raws = st.builds(
    Raw, token_ids=st.lists(st.integers(0, 60000)).map(tuple), text=words, logprobs=st.lists(number).map(tuple)
)
shared_fields: dict[str, Any] = {
    "task": words,
    "width": st.integers(1, 9999),
    "height": st.integers(1, 9999),
    "confidence": unit,
    "truncated": st.booleans(),
    "dropped": st.lists(words, max_size=3).map(tuple),
    "raw": st.none() | raws,
}
answers = st.one_of(
    st.builds(Text, text=words, **shared_fields),
    st.builds(Detections, objects=st.lists(objects, max_size=4).map(tuple), **shared_fields),
    st.builds(
        Segments,
        instances=st.lists(st.builds(Instance, label=words, polygons=polygons, score=unit), max_size=4).map(tuple),
        **shared_fields,
    ),
    st.builds(
        TextRegions,
        regions=st.lists(st.builds(TextRegion, text=words, quad=numbers(8), score=unit), max_size=4).map(tuple),
        **shared_fields,
    ),
)

DETECTIONS = Detections(
    task="<OD>",
    width=100,
    height=80,
    objects=(
        Object(label="cat", box=(10.0, 20.0, 40.0, 60.0), score=0.9),
        Object(label="dog", box=(0.0, 0.0, 99.5, 80.0), score=0.4),
        Object(label="cat", box=(50.0, 20.0, 70.0, 60.0), score=0.6),
    ),
)
SEGMENTS = Segments(
    task="<REFERRING_EXPRESSION_SEGMENTATION>",
    width=20,
    height=10,
    instances=(
        Instance(label="left", polygons=((2.0, 1.0, 8.0, 1.0, 8.0, 5.0, 2.0, 5.0),), score=0.7),
        Instance(
            label="two parts",
            polygons=((10.0, 1.0, 12.0, 1.0, 12.0, 4.0), (15.0, 5.0, 19.0, 5.0, 15.0, 9.0), (0.0, 0.0, 5.0, 5.0)),
            score=0.2,
        ),
    ),
)
REGIONS = TextRegions(
    task="<OCR_WITH_REGION>",
    width=50,
    height=50,
    regions=(
        TextRegion(text="STOP", quad=(10.0, 10.0, 30.0, 12.0, 29.0, 20.0, 9.0, 18.0), score=0.8),
        TextRegion(text="停", quad=(1.0, 1.0, 5.0, 1.0, 5.0, 5.0, 1.0, 5.0), score=0.3),
    ),
)
TEXT = Text(task="<CAPTION>", width=10, height=10, text="A cat.")
KINDS = (TEXT, DETECTIONS, SEGMENTS, REGIONS)


# JSON


@given(answers)
def test_stored_answers_come_back_equal(answer: Answer) -> None:
    stored = answer.to_dict()
    assert Answer.from_dict(stored) == answer
    text = json.dumps(stored)
    assert Answer.from_dict(json.loads(text)) == answer
    assert json.loads(text) == stored  # lists already, no tuples
    assert type(answer).from_dict(stored) == answer


def test_what_is_stored() -> None:
    assert TEXT.to_dict() == {
        "type": "text",
        "task": "<CAPTION>",
        "width": 10,
        "height": 10,
        "confidence": 1.0,
        "truncated": False,
        "dropped": [],
        "text": "A cat.",
    }
    raw = Raw(token_ids=(2, 0, 7, 2), text="</s><s>A</s>", logprobs=(0.0, -0.5, 0.0))
    stored = dataclasses.replace(TEXT, raw=raw).to_dict()
    assert stored["raw"] == {"token_ids": [2, 0, 7, 2], "text": "</s><s>A</s>", "logprobs": [0.0, -0.5, 0.0]}
    assert DETECTIONS.to_dict()["objects"][1] == {
        "label": "dog",
        "box": [0.0, 0.0, 99.5, 80.0],
        "score": 0.4,
        "label_score": 1.0,
        "box_score": 1.0,
    }


def test_numbers_written_as_integers_are_read_as_floats() -> None:
    stored = json.loads(json.dumps(DETECTIONS.to_dict()).replace(".0", ""))
    read = Detections.from_dict(stored)
    assert read == DETECTIONS
    assert all(isinstance(value, float) for item in read.objects for value in item.box)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"type": "boxes"}, "found 'boxes'"),
        ({"objects": 7}, "detections.objects must be a list"),
        ({"objects": [{"label": "cat"}]}, r"detections.objects\[0\] misses the field 'box'"),
        ({"objects": [{"label": "cat", "box": [1, 2, 3]}]}, r"objects\[0\].box must be 4 numbers; found 3"),
        ({"objects": [{"label": "cat", "box": [1, 2, 3, "4"]}]}, r"box\[3\] must be a number; found '4'"),
        ({"objects": [{"label": 5, "box": [1, 2, 3, 4]}]}, "label must be a string"),
        ({"objects": [{"label": "a", "box": [1, 2, 3, 4], "polygons": [[1, 2, 3]]}]}, "even count of numbers"),
        ({"objects": [3]}, r"objects\[0\] must be a dict"),
        ({"colour": "red"}, "unknown field 'colour'"),
        ({"_photo": "x"}, "unknown field '_photo'"),
        ({"truncated": 1}, "true or false"),
        ({"width": 1.5}, "width must be an integer"),
    ],
)
def test_what_is_not_an_answer(change: dict[str, Any], part: str) -> None:
    with pytest.raises(AnswerError, match=part):
        Answer.from_dict({**DETECTIONS.to_dict(), **change})


def test_missing_fields_and_other_kinds() -> None:
    with pytest.raises(AnswerError, match="misses the field 'task'"):
        Answer.from_dict({"type": "text", "width": 1, "height": 1})
    with pytest.raises(AnswerError, match="type 'text'"):
        Detections.from_dict(TEXT.to_dict())
    with pytest.raises(AnswerError, match="found a list"):
        Answer.from_dict([])  # type: ignore[arg-type]


# COCO


def test_coco_results() -> None:
    first, second, _ = DETECTIONS.to_coco(image_id=7, category_ids={"cat": 17, "dog": 18})
    assert first == {
        "image_id": 7,
        "category_id": 17,
        "category_name": "cat",
        "bbox": [10.0, 20.0, 30.0, 40.0],
        "score": 0.9,
    }
    assert second["category_id"] == 18
    assert "category_id" not in DETECTIONS.to_coco(image_id="a.jpg")[0]
    assert TEXT.to_coco(image_id=1) == []
    region = REGIONS.to_coco(image_id=1, category_ids={"text": 1})[0]
    assert region["text"] == "STOP"
    assert region["category_name"] == "text"
    assert region["bbox"] == [9.0, 10.0, 21.0, 10.0]
    assert region["segmentation"] == [[10.0, 10.0, 30.0, 12.0, 29.0, 20.0, 9.0, 18.0]]
    assert len(SEGMENTS.to_coco(image_id=1)[1]["segmentation"]) == 2  # two points have no inside
    json.dumps(SEGMENTS.to_coco(image_id=1))


def test_coco_refuses_labels_without_an_id() -> None:
    with pytest.raises(AnswerError, match=r"'dog' has no category id \(there are ids for 'cat'\)"):
        DETECTIONS.to_coco(image_id=1, category_ids={"cat": 1})


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_pycocotools_gives_full_marks_to_the_truth(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    answer = DETECTIONS if kind == "bbox" else SEGMENTS
    ids = {label: place for place, label in enumerate(("cat", "dog", "left", "two parts"), start=1)}
    results = answer.to_coco(image_id=1, category_ids=ids)
    truth = coco.COCO()
    truth.dataset = {
        "images": [{"id": 1, "width": answer.width, "height": answer.height}],
        "categories": [{"id": place, "name": label} for label, place in ids.items()],
        "annotations": [
            {**result, "id": place, "iscrowd": 0, "area": result["bbox"][2] * result["bbox"][3]}
            for place, result in enumerate(results, start=1)
        ],
    }
    truth.createIndex()

    def precision(found: list[dict[str, Any]]) -> float:
        measured = evaluation.COCOeval(truth, truth.loadRes(found), kind)
        measured.evaluate()
        measured.accumulate()
        measured.summarize()
        return float(measured.stats[0])

    assert precision(results) == pytest.approx(1)
    moved = answer.resized(answer.width * 2, answer.height).to_coco(image_id=1, category_ids=ids)
    assert precision(moved) < 0.5
    capsys.readouterr()


# supervision


def test_supervision_detections() -> None:
    sv = pytest.importorskip("supervision")
    found = DETECTIONS.to_supervision()
    assert isinstance(found, sv.Detections)
    assert found.xyxy.tolist() == [list(item.box) for item in DETECTIONS.objects]
    assert found.confidence.tolist() == pytest.approx(DETECTIONS.scores)
    assert found.class_id.tolist() == [0, 1, 0]
    assert found["class_name"].tolist() == ["cat", "dog", "cat"]
    assert found.mask is None
    assert DETECTIONS.to_supervision(classes=["dog", "bird", "cat"]).class_id.tolist() == [2, 0, 2]
    with pytest.raises(AnswerError, match="'dog' is not one of the classes cat"):
        DETECTIONS.to_supervision(classes=["cat"])


def test_supervision_masks() -> None:
    pytest.importorskip("supervision")
    found = SEGMENTS.to_supervision()
    assert found.mask.shape == (2, 10, 20)
    assert found.mask[0].sum() == 24  # 6 x 4, exactly
    assert found.mask[0, 1:5, 2:8].all()
    assert found.xyxy[1].tolist() == [0.0, 0.0, 19.0, 9.0]
    outlined = dataclasses.replace(
        DETECTIONS,
        objects=tuple(
            dataclasses.replace(item, polygons=((0.0, 0.0, 10.0, 0.0, 10.0, 10.0, 0.0, 10.0),))
            for item in DETECTIONS.objects
        ),
    )
    assert outlined.to_supervision().mask.sum(axis=(1, 2)).tolist() == [100, 100, 100]


def test_supervision_text_regions() -> None:
    sv = pytest.importorskip("supervision")
    found = REGIONS.to_supervision()
    assert found["text"].tolist() == ["STOP", "停"]
    assert found["class_name"].tolist() == ["text", "text"]
    assert found[sv.config.ORIENTED_BOX_COORDINATES].shape == (2, 4, 2)
    assert found.xyxy[0].tolist() == [9.0, 10.0, 30.0, 20.0]


@pytest.mark.parametrize("answer", [TEXT, *(type(kind)(task="x", width=8, height=8) for kind in KINDS)])
def test_supervision_of_nothing(answer: Answer) -> None:
    sv = pytest.importorskip("supervision")
    assert answer.to_supervision().is_empty()
    assert len(sv.Detections.merge([answer.to_supervision(), answer.to_supervision()])) == 0


def test_without_supervision_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingDependencyError, match=r"pip install florence2\[supervision\]"):
        DETECTIONS.to_supervision()


# Filters, sizes, photos, words


def test_keep() -> None:
    assert DETECTIONS.keep(0.5).scores == [0.9, 0.6]
    assert len(SEGMENTS.keep(0.7)) == 1
    assert str(REGIONS.keep(0.5)) == "STOP"
    assert TEXT.keep(1.1) == TEXT
    assert len(DETECTIONS) == 3


@given(answers)
def test_resizing_there_and_back(answer: Answer) -> None:
    there = answer.resized(answer.width * 4, answer.height * 2)
    assert (there.width, there.height) == (answer.width * 4, answer.height * 2)
    assert there.resized(answer.width, answer.height) == answer  # powers of two are exact


def test_resizing_scales_each_axis() -> None:
    assert DETECTIONS.resized(200, 240).boxes[0] == (20.0, 60.0, 80.0, 180.0)
    assert SEGMENTS.resized(40, 10).instances[0].polygons[0] == (4.0, 1.0, 16.0, 1.0, 16.0, 5.0, 4.0, 5.0)
    assert REGIONS.resized(50, 100).regions[1].quad == (1.0, 2.0, 5.0, 2.0, 5.0, 10.0, 1.0, 10.0)


@pytest.mark.parametrize("answer", KINDS)
def test_the_photo_is_no_part_of_the_answer(answer: Answer) -> None:
    photo = Image.new("RGB", (answer.width, answer.height))
    carrying = answer.with_photo(photo)
    assert carrying == answer
    assert hash(carrying) == hash(answer)
    assert repr(carrying) == repr(answer)
    assert carrying.to_dict() == answer.to_dict()
    sent = pickle.loads(pickle.dumps(carrying))
    assert sent == answer
    with pytest.raises(AnswerError, match=r"call draw\(photo\)"):
        sent.draw()
    assert carrying.keep(0.5).draw().mode == "RGB"  # derived answers keep it


@pytest.mark.parametrize("answer", KINDS)
def test_a_notebook_shows_the_picture(answer: Answer) -> None:
    assert answer._repr_png_() is None
    picture = answer.with_photo(np.zeros((80, 100, 3), np.uint8))._repr_png_()
    assert picture is not None
    assert Image.open(io.BytesIO(picture)).format == "PNG"
    large = answer.with_photo(Image.new("RGB", (3000, 1500)))._repr_png_()
    assert large is not None
    assert Image.open(io.BytesIO(large)).width == 1024


def test_words() -> None:
    assert str(TEXT) == "A cat."
    assert str(DETECTIONS).splitlines()[0] == "cat 0.90 at (10, 20, 40, 60)"
    assert str(SEGMENTS).splitlines()[0] == "left 0.70 within (2, 1, 8, 5)"
    assert str(REGIONS) == "STOP\n停"
    proposal = Detections(task="<REGION_PROPOSAL>", width=9, height=9, objects=(Object(label="", box=(0, 0, 1, 1)),))
    assert str(proposal) == "object 1.00 at (0, 0, 1, 1)"


def test_importing_the_results_is_light() -> None:
    heavy = ("torch", "numpy", "supervision")
    code = f"import sys, florence2.results, florence2.results_export; print([n for n in {heavy} if n in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
