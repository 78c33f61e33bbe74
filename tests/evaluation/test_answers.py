"""Typed answers → the metrics of their task."""

from __future__ import annotations

import dataclasses
import random
import subprocess
import sys

import pytest

from florence2.errors import DataError, TaskError
from florence2.evaluation import score_answers
from florence2.results import Answer, Box, Detections, Instance, Object, Segments, Text, TextRegion, TextRegions

SIZE = {"width": 100, "height": 80}


def text(task: str, words: str) -> Text:
    return Text(task=task, text=words, **SIZE)


def detections(*found: tuple[str, Box, float], task: str = "<OD>") -> Detections:
    objects = tuple(Object(label=label, box=box, score=score) for label, box, score in found)
    return Detections(task=task, objects=objects, **SIZE)


def square(side: float, x: float = 0) -> tuple[float, ...]:
    return (x, 0, x + side, 0, x + side, side, x, side)


def segments(*polygons: tuple[float, ...]) -> Segments:
    instances = tuple(Instance(label="", polygons=(polygon,)) for polygon in polygons)
    return Segments(task="<REGION_TO_SEGMENTATION>", instances=instances, **SIZE)


def words(*found: tuple[str, tuple[float, ...]]) -> TextRegions:
    regions = tuple(TextRegion(text=said, quad=quad) for said, quad in found)  # type: ignore[arg-type]
    return TextRegions(task="<OCR_WITH_REGION>", regions=regions, **SIZE)


CAT, DOG = (0.0, 0.0, 20.0, 20.0), (50.0, 10.0, 90.0, 70.0)

GOOD: dict[str, tuple[list[Answer], list[Answer | list[Answer]], dict[str, float]]] = {
    "<OD>": (
        [detections(("cat", CAT, 0.9), ("dog", DOG, 0.4)), detections()],
        [detections(("dog", DOG, 1.0), ("cat", CAT, 1.0)), detections()],
        {"AP": 1.0, "AP50": 1.0, "AP75": 1.0, "AR100": 1.0},
    ),
    "<OPEN_VOCABULARY_DETECTION>": (
        [detections(("cat", CAT, 0.9), ("cow", DOG, 1.0))],  # no truth has cows, so their AP does not exist
        [detections(("cat", CAT, 1.0))],
        {"AP": 1.0},
    ),
    "<REGION_PROPOSAL>": ([detections(("", CAT, 0.5))], [detections(("a name", CAT, 1.0))], {"AP": 1.0, "AR100": 1.0}),
    "<CAPTION>": (
        [text("<CAPTION>", "A cat sits."), text("<CAPTION>", "Two dogs run on grass.")],
        [
            [text("<CAPTION>", "a cat sits"), text("<CAPTION>", "the animal")],
            [text("<CAPTION>", "two dogs run on grass")],
        ],
        {"BLEU4": 1.0, "ROUGEL": 1.0},
    ),
    "<VQA>": (
        [text("<VQA>", "two"), text("<VQA>", "Cat.")],
        [text("<VQA>", "2"), text("<VQA>", "the cat")],
        {"accuracy": 1.0},
    ),
    "<ASK>": (
        [text("<ASK>", "a red car")],
        [[text("<ASK>", "blue"), text("<ASK>", "a red cat")]],
        {"accuracy": 0.0, "ANLS": 8 / 9},
    ),
    "<OCR>": (
        [text("<OCR>", "STOP"), text("<OCR>", "GQ")],
        [text("<OCR>", "STOP"), text("<OCR>", "GO")],
        {"accuracy": 0.5, "CER": 1 / 6},
    ),
    "<OCR_WITH_REGION>": (
        [words(("stop", square(20)), ("x", square(9, 60)))],
        [words(("STOP", square(19)), ("go", square(10, 60)))],
        {"F1": 0.5, "det-F1": 1.0},
    ),
    "<REGION_TO_SEGMENTATION>": (
        [segments(square(10)), segments(square(20))],
        [segments(square(20)), segments(square(20))],
        {"mIoU": 0.625, "cIoU": 0.625},
    ),
    "<CAPTION_TO_PHRASE_GROUNDING>": (
        [detections(("a cat", CAT, 0.9), ("a cat", DOG, 0.2), ("a dog", CAT, 0.9)), detections(("a man", CAT, 1.0))],
        [detections(("A cat", CAT, 1.0), ("a dog", DOG, 1.0)), detections(("a man in red", CAT, 1.0))],
        {"accuracy": 2 / 3},
    ),
    "<REGION_TO_CATEGORY>": (
        [text("<REGION_TO_CATEGORY>", "cat"), text("<REGION_TO_CATEGORY>", "dog")],
        [
            [text("<REGION_TO_CATEGORY>", "feline"), text("<REGION_TO_CATEGORY>", "cat")],
            text("<REGION_TO_CATEGORY>", "cow"),
        ],
        {"accuracy": 0.5},
    ),
}


@pytest.mark.parametrize("task", GOOD)
def test_by_hand(task: str) -> None:
    predicted, truth, expected = GOOD[task]
    figures = score_answers(predicted, truth, task)
    assert {name: figures[name] for name in expected} == pytest.approx(expected)
    assert all(type(value) is float for value in figures.values())


@pytest.mark.parametrize("task", GOOD)
def test_wrong_answers_are_noticed(task: str) -> None:
    predicted, truth, _ = GOOD[task]
    right = score_answers([t[-1] if isinstance(t, list) else t for t in truth], truth, task)
    nothing: dict[type[Answer], dict[str, object]] = {
        Text: {"text": ""},
        Detections: {"objects": ()},
        Segments: {"instances": ()},
        TextRegions: {"regions": ()},
    }
    empty = [dataclasses.replace(answer, **nothing[type(answer)]) for answer in predicted]
    wrong = score_answers(empty, truth, task)
    assert wrong.keys() == right.keys()
    changed = {name for name in right if wrong[name] != right[name]}
    assert changed == set(right) - ({"CIDEr"} if right.get("CIDEr") == 0 else set())


@pytest.mark.parametrize("task", GOOD)
def test_the_order_of_samples_does_not_matter(task: str) -> None:
    predicted, truth, _ = GOOD[task]
    pairs = list(zip(predicted, truth, strict=True)) * 3
    shuffled = random.Random(1).sample(pairs, len(pairs))
    here, there = ([p for p, _ in some] for some in (pairs, shuffled))
    assert score_answers(here, [t for _, t in pairs], task) == score_answers(there, [t for _, t in shuffled], task)


def test_another_size_is_compared_at_the_size_of_the_truth() -> None:
    truth = [detections(("cat", CAT, 1.0))]
    assert score_answers([truth[0].resized(50, 160)], truth, "<OD>")["AP"] == pytest.approx(1)
    unscaled = dataclasses.replace(truth[0], width=50, height=160)
    assert score_answers([unscaled], truth, "<OD>")["AP"] == 0


def test_figures_that_do_not_exist_are_left_out() -> None:
    assert score_answers([detections(("cat", CAT, 1.0))], [detections()], "<OD>") == {}
    assert score_answers([detections()], [detections()], "<CAPTION_TO_PHRASE_GROUNDING>") == {}
    figures = score_answers([text("<OCR>", "a")], [text("<OCR>", "")], "<OCR>")
    assert figures == {"accuracy": 0}


def test_mistakes_are_explained() -> None:
    good = detections(("cat", CAT, 1.0))
    for predicted, truth, task, words in (
        ([], [], "<OD>", "no answers to <OD>"),
        ([good], [], "<OD>", "1 answers were given and 0 are true"),
        ([good], [[]], "<OD>", "sample 0 of <OD> has no true answer"),
        ([good], [text("<OD>", "cat")], "<OD>", "holds a Text, expected a Detections"),
        ([good], [[good, good]], "<OD>", "sample 0 has 2 true answers"),
    ):
        with pytest.raises(DataError, match=words):
            score_answers(predicted, truth, task)  # type: ignore[arg-type]
    with pytest.raises(TaskError, match="no task"):
        score_answers([good], [good], "<NOTHING>")


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    heavy = {"torch", "pycocotools", "sklearn", "jiwer", "rapidfuzz", "scipy"}
    code = f"import sys, florence2.evaluation; print(sorted({heavy!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
