"""Microsoft's post-processing, quirk for quirk, and what our own parser makes of the same texts."""

from __future__ import annotations

import re

import pytest

from florence2.language import answers, compat, grammar, tasks
from florence2.language.compat import description_with_polygons, microsoft_parse, microsoft_parse_ids
from florence2.language.tokenizer import Tokenizer
from florence2.results import Detections, Segments, Text, TextRegions
from tests.golden.microsoft import CARRIED, Case, close, disagreeing, read


def agrees(case: Case) -> bool:
    return microsoft_parse(case["text"], case["task"], case["image_size"]) == {case["task"]: case["output"]}


def directly_agrees(case: Case) -> bool:
    return description_with_polygons(case["text"], case["image_size"]) == case["instances"]


def sequence_agrees(tokenizer: Tokenizer, case: Case) -> bool:
    found = microsoft_parse_ids(
        case["sequence"], case["task"], case["image_size"], tokenizer, case["transition_beam_score"]
    )
    return close(found, {case["task"]: case["output"]})


def test_carried_cases():
    assert disagreeing(CARRIED["parse"], agrees) == []
    assert disagreeing(CARRIED["direct"], directly_agrees) == []


def test_853_cases_and_20_direct_ones(golden):
    values = read(golden, "microsoft_parse")
    assert (len(values["cases"]), len(values["direct"])) == (853, 20)
    assert disagreeing(values["cases"], agrees) == []
    assert disagreeing(values["direct"], directly_agrees) == []


@pytest.fixture(scope="module")
def published(golden) -> Tokenizer:
    return Tokenizer.load(golden / "tokenizer")


def test_60_sequences_with_scores(golden, published):
    cases = read(golden, "microsoft_parse_sequence")
    assert len(cases) == 60
    assert disagreeing(cases, lambda case: sequence_agrees(published, case)) == []


def test_planted_fault_scores_that_do_not_drift(golden, published, monkeypatch):
    monkeypatch.setattr(compat, "_score", lambda begin, end, scores: 0.5)
    cases = read(golden, "microsoft_parse_sequence")
    assert disagreeing(cases, lambda case: sequence_agrees(published, case))


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("_clean", lambda text: text),  # marks left in the text
        ("_one_line", lambda phrase: phrase.strip()),  # line breaks accepted
        ("NOT_GROUNDED", frozenset()),  # every phrase grounded
        ("_LOCATION", re.compile(r"<loc_([0-9]{1,3})>")),  # numbers checked for their range
    ],
)
def test_planted_faults_in_the_parser(monkeypatch, name, fault):
    monkeypatch.setattr(compat, name, fault)
    assert disagreeing(CARRIED["parse"], agrees)


def ours(case: Case, tokenizer: Tokenizer) -> object:
    """Our answer in Microsoft's shape."""
    answer = answers.parse(tokenizer.encode(case["text"]), case["task"], case["image_size"], tokenizer)
    if isinstance(answer, Text):
        return answer.text
    if isinstance(answer, TextRegions):
        quads = [list(region.quad) for region in answer.regions]
        return {"quad_boxes": quads, "labels": [region.text for region in answer.regions]}
    if isinstance(answer, Segments):
        outlines = [[list(polygon) for polygon in instance.polygons] for instance in answer.instances]
        return {"polygons": outlines, "labels": [instance.label for instance in answer.instances]}
    assert isinstance(answer, Detections)
    left_out = compat.NOT_GROUNDED if case["task"] == "<CAPTION_TO_PHRASE_GROUNDING>" else ()
    objects = [item for item in answer.objects if item.label not in left_out]
    return {"bboxes": [list(item.box) for item in objects], "labels": [item.label for item in objects]}


def upright(box: list[float]) -> list[float]:
    x, y = sorted(box[0::2]), sorted(box[1::2])
    return [x[0], y[0], x[1], y[1]]


def test_well_formed_answers_mean_the_same_to_our_own_parser(golden, published):
    """Where an answer has no quirk in it, only these differ: boxes are upright, pronouns stay, `</s>` goes."""
    compared = 0
    for case in read(golden, "microsoft_parse")["cases"]:
        if case["kind"] != "well_formed" or case["task"] == "<OPEN_VOCABULARY_DETECTION>":
            continue
        automaton = grammar.compile(tasks.get(case["task"]).grammar, published)
        reason = automaton.rejection(published.encode(case["text"]))
        if reason is not None and "before its beginning" not in reason:
            continue
        expected = case["output"]
        if isinstance(expected, str):
            expected = expected.strip()
        elif "bboxes" in expected:
            expected = {"bboxes": [upright(box) for box in expected["bboxes"]], "labels": expected["labels"]}
        elif "quad_boxes" in expected:
            labels = [label.removeprefix("</s>").strip() for label in expected["labels"]]
            expected = {"quad_boxes": expected["quad_boxes"], "labels": labels}
        assert ours(case, published) == expected, case["text"]
        compared += 1
    assert compared > 40


@pytest.mark.parametrize("model", ["base", "large"])
def test_published_answers_lose_nothing(golden, published, model):
    """What the official checkpoints wrote is read whole."""
    read_answers = [item for item in read(golden, "published_answers")["answers"] if item["model"].endswith(model)]
    for item in read_answers:
        answer = answers.parse(published.encode(item["answer"]), item["task"], (640, 480), published)
        assert answer.dropped == ()
    assert len(read_answers) >= 6
