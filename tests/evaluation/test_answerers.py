"""Who answers: our model through its pipeline, and the truth."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from florence2 import Florence2
from florence2.data.records import Record
from florence2.errors import BoxError, DataError, TaskError
from florence2.evaluation.answerers import Answerer, Ours, Truth, fingerprint
from florence2.evaluation.samples import Given, Sample
from florence2.language.tasks import TASKS
from florence2.results import Answer, Detections, Object, Text
from tests.tiny_checkpoint import picture, tiny_checkpoint

INPUTS: dict[str, Given] = {
    "nothing": None,
    "text": "a red guitar",
    "boxes": (5.0, 5.0, 50.0, 50.0),
    "labels": ("car", "dog"),
}


def sample(task: str, given: Given = None, photo: str = "0", truth: tuple[Answer, ...] = ()) -> Sample:
    record = Record(image=Path(f"{photo}.png"), id=photo, width=90, height=60)
    return Sample(id=f"{photo} {task}", record=record, task=task, given=given, truth=truth)


ALL = [sample(task.name, INPUTS[task.takes], str(i // 6)) for i, task in enumerate(TASKS.values())]
PHOTOS = [picture(i // 6) for i in range(len(ALL))]
"""Objects of their own, of which neighbours show the same."""


@pytest.fixture(scope="module")
def model() -> Florence2:
    return Florence2(tiny_checkpoint())


def test_every_task_is_answered_as_the_pipeline_does(model: Florence2) -> None:
    ours: Answerer = Ours(model, num_beams=1)
    answers = ours.answer(ALL, PHOTOS)
    for asked, photo, answer in zip(ALL, PHOTOS, answers, strict=True):
        assert isinstance(answer, TASKS[asked.task].result)
        assert answer._photo is None
        (expected,) = model.run_many(photo, [(asked.task, asked.given)], num_beams=1)
        assert close(answer, expected)
    others = ours.answer(ALL, PHOTOS[::-1])  # the twin: other photos give other answers
    assert not all(close(a, b) for a, b in zip(answers, others, strict=True))


def close(left: Any, right: Any) -> bool:
    """Equal but for the scores, whose last digits depend on what else is in the batch."""
    a, b = left.to_dict(), right.to_dict()
    for values in (a, b):
        values.pop("confidence")
        for items in values.values():
            for item in items if isinstance(items, list) else ():
                for name in [name for name in item if name.endswith("score")] if isinstance(item, dict) else ():
                    item.pop(name)
    return bool(a == b)


def test_the_photo_of_neighbours_is_encoded_once(model: Florence2, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    encode = model.model.encode_image

    def counted(pixels: torch.Tensor) -> torch.Tensor:
        calls.append(len(pixels))
        return encode(pixels)

    monkeypatch.setattr(model.model, "encode_image", counted)
    Ours(model, num_beams=1).answer(ALL, PHOTOS)
    assert sum(calls) == len({asked.photo for asked in ALL})
    calls.clear()
    Ours(model, num_beams=1).answer(ALL[:2], [picture(0), picture(1)])  # a blind run: one photo, two others shown
    assert sum(calls) == 2


def test_what_cannot_be_answered_gives_its_error(model: Florence2) -> None:
    asked = [
        sample("<CAPTION>"),
        sample("<REGION_TO_CATEGORY>", (0.0, 0.0, 500.0, 500.0)),
        sample("<NONSENSE>"),
        sample("<OD>"),
    ]
    found = Ours(model, num_beams=1).answer(asked, [picture()] * 4)
    assert [type(answer) for answer in found] == [Text, BoxError, TaskError, Detections]
    assert Ours(model).answer([], []) == []


def test_closed_labels_are_open_where_the_grammar_is_off(model: Florence2) -> None:
    asked = [sample("<OPEN_VOCABULARY_DETECTION>", ("car", "dog"))]
    (closed,) = Ours(model, num_beams=1).answer(asked, [picture()])
    (open_,) = Ours(model, reference=True).answer(asked, [picture()])
    assert isinstance(closed, Detections)
    assert set(closed.labels) <= {"car", "dog"}
    expected = model.run(picture(), "<OPEN_VOCABULARY_DETECTION>", "car<and>dog", reference=True)
    assert isinstance(open_, Detections)
    assert open_.objects == expected.objects  # type: ignore[attr-defined]


def test_unknown_options_are_named_at_once(model: Florence2) -> None:
    with pytest.raises(TaskError, match="unknown option 'beams'"):
        Ours(model, beams=3)  # type: ignore[call-arg]


def test_a_description_says_what_decides_the_answers(model: Florence2) -> None:
    first = Ours(model, num_beams=1).describe()
    assert first == Ours(Florence2(tiny_checkpoint()), num_beams=1).describe()
    assert json.loads(json.dumps(first)) == first
    assert (first["model"], first["dtype"], first["options"]) == (model.name, "float32", {"num_beams": 1})
    assert first != Ours(model).describe()
    changed = copy.deepcopy(tiny_checkpoint().model)
    changed.text.shared.weight.data[7, 3] += 1e-3
    other = Florence2(dataclasses.replace(tiny_checkpoint(), model=changed))
    assert other.name == model.name
    assert [name for name, value in Ours(other, num_beams=1).describe().items() if value != first[name]] == ["weights"]


def test_a_fingerprint_tells_values_shapes_types_and_names() -> None:
    one = {"a": torch.arange(6.0), "b": torch.tensor(1)}
    variants = [
        one,
        {**one, "a": torch.arange(6.0) + 1},
        {**one, "a": torch.arange(6.0).reshape(2, 3)},
        {**one, "a": torch.arange(6.0).to(torch.bfloat16)},
        {"c": one["a"], "b": one["b"]},
    ]
    assert len({fingerprint(weights) for weights in variants}) == len(variants)
    assert fingerprint({"b": one["b"], "a": one["a"]}) == fingerprint(one)


def test_the_truth_is_the_first_right_answer() -> None:
    right = Text(task="<CAPTION>", width=90, height=60, text="a dog")
    other = dataclasses.replace(right, text="the dog")
    boxes = Detections(task="<OD>", width=90, height=60, objects=(Object(label="dog", box=(1.0, 2.0, 3.0, 4.0)),))
    truth: Answerer = Truth()
    photos = [Image.new("RGB", (90, 60))] * 3
    asked = [sample("<CAPTION>", truth=(right, other)), sample("<OD>", truth=(boxes,)), sample("<OD>")]
    first, second, none = truth.answer(asked, photos)
    assert (first, second) == (right, boxes)
    assert first != other
    assert isinstance(none, DataError)
    assert (truth.name, truth.describe()) == ("truth", {"answerer": "truth"})
