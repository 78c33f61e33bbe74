"""What a record teaches, task by task, spelled out."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from florence2.data import Choices, Pair, Phrase, Place, Question, Reference, Thing, pairs
from florence2.data.jsonl import spelling
from florence2.data.records import broken
from florence2.data.targets import ORDERS, resolve, thin_out
from florence2.errors import DataError, TaskError
from florence2.language import grammar
from florence2.language.tasks import TASKS
from florence2.language.tokenizer import Tokenizer
from tests.data_room.examples import data_sets, rich_record

CAT = "<loc_125><loc_166><loc_375><loc_666>"
OTHER_CAT = "<loc_500><loc_200><loc_750><loc_833>"
DOG = "<loc_625><loc_333><loc_975><loc_966>"
STOP = "<loc_12><loc_16><loc_250><loc_16><loc_250><loc_133><loc_12><loc_133>"
GO = "<loc_12><loc_183><loc_250><loc_183><loc_250><loc_300><loc_12><loc_300>"
TRIANGLE = "<loc_125><loc_166><loc_375><loc_166><loc_250><loc_666>"

LESSONS = {
    "<CAPTION>": [("<CAPTION>", "A cat and a dog."), ("<CAPTION>", "Two animals.")],
    "<OD>": [("<OD>", f"cat{CAT}{OTHER_CAT}dog{DOG}"), ("<OD>", "cat<loc_1><loc_2><loc_3><loc_4>")],
    "<REGION_PROPOSAL>": [("<REGION_PROPOSAL>", CAT + OTHER_CAT + DOG)],
    "<DENSE_REGION_CAPTION>": [("<DENSE_REGION_CAPTION>", f"A cat{CAT}the left cat{CAT}")],
    "<CAPTION_TO_PHRASE_GROUNDING>": [
        ("<CAPTION_TO_PHRASE_GROUNDING>A cat and a dog.", f"A cat{CAT}"),
        ("<CAPTION_TO_PHRASE_GROUNDING>the left cat", f"the left cat{CAT}"),
    ],
    "<REFERRING_EXPRESSION_SEGMENTATION>": [("<REFERRING_EXPRESSION_SEGMENTATION>the left cat", TRIANGLE)],
    "<OPEN_VOCABULARY_DETECTION>": [
        ("<OPEN_VOCABULARY_DETECTION>cat", f"cat{CAT}{OTHER_CAT}"),
        ("<OPEN_VOCABULARY_DETECTION>dog", f"dog{DOG}"),
        ("<OPEN_VOCABULARY_DETECTION>zebra", ""),
    ],
    "<REGION_TO_CATEGORY>": [
        (f"<REGION_TO_CATEGORY>{CAT}", "cat"),
        (f"<REGION_TO_CATEGORY>{OTHER_CAT}", "cat"),
        (f"<REGION_TO_CATEGORY>{DOG}", "dog"),
    ],
    "<REGION_TO_DESCRIPTION>": [
        (f"<REGION_TO_DESCRIPTION>{CAT}", "A cat"),
        (f"<REGION_TO_DESCRIPTION>{CAT}", "the left cat"),
    ],
    "<OCR>": [("<OCR>", "STOP GO")],
    "<OCR_WITH_REGION>": [("<OCR_WITH_REGION>", f"STOP{STOP}GO{GO}")],
    "<REGION_TO_OCR>": [
        ("<REGION_TO_OCR><loc_12><loc_16><loc_250><loc_133>", "STOP"),
        ("<REGION_TO_OCR><loc_12><loc_183><loc_250><loc_300>", "GO"),
    ],
    "<VQA>": [("<VQA>How many cats?", "2")],
    "<DocVQA>": [("<DocVQA>How many cats?", "2")],
    "<ASK>": [("<ASK>How many cats?", "2")],
    "<DETAILED_CAPTION>": [("<DETAILED_CAPTION>", "A cat and a dog."), ("<DETAILED_CAPTION>", "Two animals.")],
}


@pytest.mark.parametrize("task", LESSONS)
def test_lessons(task: str) -> None:
    found = pairs(rich_record(), task)
    assert [(target.prefix, target.suffix(spelling())) for target in found] == LESSONS[task]
    assert {target.task for target in found} == {task}


def test_outlines() -> None:
    first, second = pairs(rich_record(), "<REGION_TO_SEGMENTATION>")
    assert (first.prefix, first.suffix(spelling())) == (f"<REGION_TO_SEGMENTATION>{CAT}", TRIANGLE)
    assert second.suffix(spelling()).count("<sep>") == 1  # the dog has two parts
    assert second.prompt == f"What is the polygon mask of region {DOG}"


def test_prompts_are_those_of_the_model() -> None:
    found = {target.task: target.prompt for target in pairs(rich_record())}
    assert found["<OD>"] == "Locate the objects with category name in the image."
    assert found["<VQA>"] == "<VQA>How many cats?"
    assert found["<REGION_TO_OCR>"].startswith("What text is in the region <loc_12>")


def test_all_is_what_nobody_had_to_name() -> None:
    tasks = {target.task for target in pairs(rich_record())}
    assert {"<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>", "<DocVQA>", "<ASK>"}.isdisjoint(tasks)
    assert len(tasks) == len(TASKS) - 4


def test_words_that_mean_several_boxes_describe_none() -> None:
    dogs = Phrase(text="two dogs", boxes=((0, 0, 9, 9), (20, 0, 30, 9)))
    record = rich_record(phrases=(dogs, Phrase(text="a cat", boxes=((1, 2, 9, 9),))), refs=())
    assert [t.answer.text for t in pairs(record, "<REGION_TO_DESCRIPTION>")] == ["a cat"]


def test_nothing_there_is_not_nothing_known() -> None:
    nothing = rich_record(objects=(), text=(), phrases=(), refs=(), pairs=())
    unknown = rich_record(objects=None, text=None, phrases=(), refs=(), pairs=(), exhaustive=None)
    for task in ("<OD>", "<REGION_PROPOSAL>", "<OCR>", "<OCR_WITH_REGION>"):
        assert [target.suffix(spelling()) for target in pairs(nothing, task)] == [""]
        assert pairs(unknown, task) == []
    assert [target.suffix(spelling()) for target in pairs(nothing, "<OPEN_VOCABULARY_DETECTION>")] == [""]


def test_absent_classes_are_drawn_once_and_for_all() -> None:
    record = rich_record(objects=(), exhaustive=tuple("abcdefgh"))

    def asked(seed: int, negatives: int) -> list[str]:
        choices = Choices(seed=seed, negatives=negatives)
        return [target.prefix for target in pairs(record, "<OPEN_VOCABULARY_DETECTION>", choices)]

    assert asked(1, 3) == asked(1, 3)
    assert len(set(asked(1, 3))) == 3
    assert len({tuple(asked(seed, 1)) for seed in range(30)}) > 3
    assert len(asked(0, 99)) == 8
    assert asked(0, 0) == []


def test_a_class_of_crowds_only_is_neither_present_nor_absent() -> None:
    record = rich_record(objects=(Thing(label="dog", box=(0, 0, 9, 9), crowd=True),), exhaustive=("dog",), pairs=())
    assert pairs(record, "<OPEN_VOCABULARY_DETECTION>") == []
    assert [target.suffix(spelling()) for target in pairs(record, "<OD>")] == [""]


def test_orders() -> None:
    boxes = [(10, 30, 20, 40), (50, 0, 60, 10), (0, 0, 40, 60), (70, 30, 80, 41)]
    record = rich_record(objects=tuple(Thing(label=str(n), box=box) for n, box in enumerate(boxes)), pairs=())

    def order(name: str, seed: int = 0) -> str:
        (target,) = pairs(record, "<OD>", Choices(order=name, seed=seed))  # type: ignore[arg-type]
        return "".join(item.label for item in target.answer.objects)  # type: ignore[union-attr]

    assert (order("given"), order("raster"), order("area")) == ("0123", "2103", "2301")
    assert {order("random", seed) for seed in range(200)} > {"0123", "3210"}
    assert order("random", 5) == order("random", 5)
    assert len(ORDERS) == 4
    with pytest.raises(DataError, match="expected one of given, random"):
        Choices(order="reading")  # type: ignore[arg-type]


def test_outlines_are_thinned_out_to_what_fits() -> None:
    circle = tuple(v for n in range(100) for v in ((n if n < 50 else 99 - n) * 1.0, (n % 50) ** 2 / 50))
    thing = Thing(label="cat", box=(0, 0, 60, 60), polygons=(circle,))
    (target,) = pairs(rich_record(objects=(thing,)), "<REGION_TO_SEGMENTATION>", Choices(max_points=12))
    assert target.suffix(spelling()).count("<loc_") == 24
    with pytest.raises(DataError, match="3 points"):
        Choices(max_points=2)


def test_thinning_out_keeps_the_shape() -> None:
    square = (0.0, 0, 5, 0.01, 10, 0, 10, 5, 10, 10, 5, 9.99, 0, 10)
    assert thin_out(square, 4) == (0.0, 0, 10, 0, 10, 10, 0, 10)
    assert thin_out(square, 99) == square
    assert len(thin_out(square, 1)) == 6


@pytest.mark.parametrize(
    ("prefix", "task", "prompt"),
    [
        ("<OD>", "<OD>", "Locate the objects with category name in the image."),
        ("<OCR_WITH_REGION>", "<OCR_WITH_REGION>", "What is the text in the image, with regions?"),
        ("<VQA>How many?", "<VQA>", "<VQA>How many?"),
        (
            "<CAPTION_TO_PHRASE_GROUNDING>a cat",
            "<CAPTION_TO_PHRASE_GROUNDING>",
            "Locate the phrases in the caption: a cat",
        ),
        ("Locate a cat in the image.", "<OPEN_VOCABULARY_DETECTION>", "Locate a cat in the image."),
        ("What is in the image?", "", "What is in the image?"),
        ("<OD>cats", "", "<OD>cats"),
        ("<MINE>", "", "<MINE>"),
    ],
)
def test_prefixes_are_understood(prefix: str, task: str, prompt: str) -> None:
    assert resolve(prefix) == (task, prompt)


def test_explicit_pairs_keep_their_letters_and_place() -> None:
    record = rich_record(pairs=(Pair(prompt="<OD>", answer="cat <loc_1000>", place=Place("a.jsonl", 7)),), objects=None)
    (target,) = pairs(record, "detect")
    assert (target.answer, str(target.place)) == ("cat <loc_1000>", "a.jsonl:7")


def test_mistakes_are_named() -> None:
    with pytest.raises(DataError, match=r"a\.json:3: no bbox"):
        pairs(broken(Place("a.json", 3), "no bbox"))
    with pytest.raises(TaskError, match="there is no task"):
        pairs(rich_record(), "<NONE>")
    with pytest.raises(DataError, match="from caption 5, there are 2"):
        pairs(rich_record(phrases=(Phrase(text="x", boxes=((0, 0, 1, 1),), caption=5),)))
    assert pairs(rich_record(qa=(Question(question="secret?", answers=()),)), "<VQA>") == []


def test_expressions_with_their_own_outline() -> None:
    ref = Reference(text="it", box=(0, 0, 5, 5), polygons=((0, 0, 8, 0, 8, 6),))
    (target,) = pairs(rich_record(refs=(ref,)), "<REFERRING_EXPRESSION_SEGMENTATION>")
    assert target.suffix(spelling()) == "<loc_0><loc_0><loc_100><loc_0><loc_100><loc_100>"


@given(records=data_sets(), seed=st.integers(0, 9))
@settings(max_examples=40)
def test_every_target_is_well_formed(records: list, seed: int) -> None:
    tokenizer: Tokenizer = spelling()
    order = random.Random(seed).choice(ORDERS)
    for record in records:
        for target in pairs(record, None, Choices(order=order, seed=seed)):
            if not isinstance(target.answer, str):
                ids = target.ids(tokenizer)
                whole = grammar.compile(TASKS[target.task].grammar, tokenizer).accepts(ids)
                assert whole or ids == [tokenizer.bos_id, tokenizer.eos_id]
