from __future__ import annotations

import pytest

from florence2.errors import BoxError, TaskError
from florence2.language import tasks
from florence2.language.grammar import BOXES, PLAIN_TEXT
from florence2.language.tasks import Task
from florence2.results import Answer, Detections, Text


@pytest.fixture
def registry(monkeypatch):
    """Tasks registered in a test are gone after it."""
    monkeypatch.setattr(tasks, "_tasks", dict(tasks._tasks))
    monkeypatch.setattr(tasks, "_names", dict(tasks._names))


def test_the_fifteen_tasks_and_free_questions():
    assert len(tasks.TASKS) == 18
    assert {"<VQA>", "<DocVQA>", "<ASK>"} < set(tasks.TASKS)
    assert all(task.summary for task in tasks.TASKS.values())


@pytest.mark.parametrize(
    ("name", "token"),
    [
        ("<OD>", "<OD>"),
        ("OD", "<OD>"),
        ("od", "<OD>"),
        ("detect", "<OD>"),
        ("caption", "<CAPTION>"),
        ("detailed caption", "<DETAILED_CAPTION>"),
        ("more-detailed-caption", "<MORE_DETAILED_CAPTION>"),
        ("ground", "<CAPTION_TO_PHRASE_GROUNDING>"),
        ("segment", "<REFERRING_EXPRESSION_SEGMENTATION>"),
        ("<docvqa>", "<DocVQA>"),
        ("ask", "<ASK>"),
    ],
)
def test_a_task_has_several_names(name, token):
    assert tasks.get(name).name == token
    assert tasks.get(tasks.get(name)).name == token


def test_an_unknown_task_gets_the_nearest_names():
    with pytest.raises(TaskError, match="did you mean <CAPTION>"):
        tasks.get("captoin")
    with pytest.raises(TaskError, match="Known: <CAPTION>"):
        tasks.get("<ZZZZ>")
    with pytest.raises(TaskError, match="found 3"):
        tasks.get(3)


@pytest.mark.parametrize(
    ("name", "inputs", "prompt"),
    [
        ("<OD>", {}, "Locate the objects with category name in the image."),
        ("<ASK>", {"text": "how many dogs?"}, "how many dogs?"),
        ("<VQA>", {"text": "why?"}, "<VQA>why?"),
        ("<REGION_TO_OCR>", {"region": (1, 2, 3, 4)}, "What text is in the region <loc_1><loc_2><loc_3><loc_4>?"),
        ("<OPEN_VOCABULARY_DETECTION>", {"labels": ["a", "b"]}, "Locate a<and>b in the image."),
        ("<OPEN_VOCABULARY_DETECTION>", {"text": "a<and>b"}, "Locate a<and>b in the image."),
        ("<CAPTION_TO_PHRASE_GROUNDING>", {"text": "{input}"}, "Locate the phrases in the caption: {input}"),
    ],
)
def test_prompts_are_filled(name, inputs, prompt):
    assert tasks.get(name).fill(**inputs) == prompt


@pytest.mark.parametrize(
    ("name", "inputs", "error", "message"),
    [
        ("<OD>", {"text": "car"}, TaskError, "takes nothing"),
        ("<ASK>", {}, TaskError, "needs a text"),
        ("<ASK>", {"text": "  "}, TaskError, "needs a text"),
        ("<ASK>", {"region": (1, 2, 3, 4)}, TaskError, "boxes were given"),
        ("<OPEN_VOCABULARY_DETECTION>", {"labels": []}, TaskError, "one or more labels"),
        ("<OPEN_VOCABULARY_DETECTION>", {"labels": ["a", " "]}, TaskError, "one or more labels"),
        ("<REGION_TO_OCR>", {}, TaskError, "needs a box"),
        ("<REGION_TO_OCR>", {"region": (1, 2, 3)}, BoxError, "four bins"),
        ("<REGION_TO_OCR>", {"region": (1, 2, 3, 1000)}, BoxError, "from 0 to 999"),
        ("<REGION_TO_OCR>", {"region": (9, 2, 3, 4)}, BoxError, "inverted"),
    ],
)
def test_wrong_inputs_are_named(name, inputs, error, message):
    with pytest.raises(error, match=message):
        tasks.get(name).fill(**inputs)


def test_a_third_party_task_is_one_registration(registry):
    task = tasks.register(Task("<COUNT>", "How many {input}?", PLAIN_TEXT, Text, takes="text", aliases=("count",)))
    assert tasks.get("Count") is tasks.get("<COUNT>") is task
    assert task.fill("dogs") == "How many dogs?"
    assert task.policy == "text"
    assert Task("<X>", "x", BOXES, Detections).policy == "structured"


def test_registration_refuses_what_is_taken_or_wrong(registry):
    with pytest.raises(TaskError, match="already belongs to <OD>"):
        tasks.register(Task("<DETECT>", "x", BOXES, Detections))
    with pytest.raises(TaskError, match="must hold"):
        Task("<X>", "no place", PLAIN_TEXT, Text, takes="text")
    with pytest.raises(TaskError, match="must not hold"):
        Task("<X>", "{input}", PLAIN_TEXT, Text)
    with pytest.raises(TaskError, match="expected one of Text"):
        Task("<X>", "x", PLAIN_TEXT, Answer)
    with pytest.raises(TaskError, match="needs a name"):
        Task("", "x", PLAIN_TEXT, Text)
