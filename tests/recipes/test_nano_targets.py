"""What the embedded model is taught: annotations follow the crop and the mirror, and every answer is decodable."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from florence2.language import grammar
from florence2.language.tasks import TASKS
from florence2.language.tokenizer import Tokenizer

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "nano"))

import targets

WHOLE = [0.0, 0.0, 1.0, 1.0]
CLASSES = {"coco80": ["dog", "car", "cat"]}


def record() -> targets.Record:
    square = [50, 20, 150, 20, 150, 80, 50, 80]
    made = {
        "id": "a",
        "source": "coco",
        "width": 200,
        "height": 100,
        "captions": ["A dog 's ball on the left ."],
        "objects": [{"label": "dog", "bbox": [50, 20, 150, 80], "polygons": [square]}],
        "exhaustive_classes": "coco80",
        "phrases": [{"caption": 0, "phrase": "A dog", "boxes": [[50, 20, 150, 80]]}],
        "refs": [{"text": "the leftmost dog", "bbox": [50, 20, 150, 80]}],
        "qa": [{"question": "Is the dog on the left?", "answers": ["yes"], "origin": "rule"}],
        "text": [{"text": "EXIT", "quad": [0, 0, 50, 0, 50, 20, 0, 20]}],
    }
    targets.prepare([made])
    return made


@pytest.fixture(scope="module")
def teacher() -> targets.Teacher:
    return targets.Teacher(Tokenizer.train(["a dog and a ball on the left"] * 4, 1290))


def test_the_whole_photo_keeps_everything() -> None:
    seen = targets.view(record(), WHOLE, False, CLASSES)
    assert seen.objects[0]["bbox"] == [0.25, 0.2, 0.75, 0.8]
    assert seen.captions == ["A dog's ball on the left."]
    assert seen.text[0]["quad"] == [0, 0, 0.25, 0, 0.25, 0.2, 0, 0.2]


def test_a_mirror_swaps_sides_in_boxes_and_words() -> None:
    made = record()
    made["objects"][0]["bbox"] = [0, 0, 50, 50]
    seen = targets.view(made, WHOLE, True, CLASSES)
    assert seen.objects[0]["bbox"] == [0.75, 0.0, 1.0, 0.5]
    assert seen.captions == ["A dog's ball on the right."]
    assert seen.refs[0]["text"] == "the rightmost dog"
    assert seen.qa[0]["question"] == "Is the dog on the right?"
    assert seen.text == []
    assert targets.swap_sides("a bright copyright") == "a bright copyright"


def test_a_cut_drops_what_it_makes_untrue() -> None:
    seen = targets.view(record(), [0.7, 0.0, 1.0, 1.0], False, CLASSES)
    assert (seen.objects, seen.captions, seen.refs, seen.qa, seen.closed) == ([], [], [], [], ())


def test_outlines_are_thinned_and_spelt_in_one_way() -> None:
    circle = [float(v) for i in range(40) for v in (100 + (i % 20) * 3, abs(20 - i) * 4)]
    assert len(targets.thin_out(circle)) == 2 * targets.MOST_POINTS
    square = [0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0]
    spellings = [square[2 * k :] + square[: 2 * k] for k in range(4)]
    spellings += [[v for i in reversed(range(4)) for v in s[2 * i : 2 * i + 2]] for s in spellings]
    assert {tuple(targets.canonical(s)) for s in spellings} == {tuple(square)}


def test_every_answer_is_accepted_by_the_grammar_of_its_task(teacher: targets.Teacher) -> None:
    seen = targets.view(record(), WHOLE, False, CLASSES)
    automata = {task.prompt: grammar.compile(task.grammar, teacher.tokenizer) for task in TASKS.values()}
    fixed = 0
    for seed in range(20):
        for prompt, answer in teacher.pairs(seen, 30, random.Random(seed)):
            automaton = automata.get(teacher.tokenizer.decode(prompt[1:-1]))
            fixed += automaton is not None
            assert automaton is None or automaton.accepts(answer)
    assert fixed > 100


def test_a_malformed_answer_stops_the_recipe(teacher: targets.Teacher) -> None:
    with pytest.raises(SystemExit, match="malformed"):
        teacher._pair("<OD>", [*teacher.tokenizer.encode_plain("dog"), teacher.tokenizer.location_id(5)])
