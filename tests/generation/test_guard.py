"""Structured answers that would go on for ever end; those that only look like it go on."""

from __future__ import annotations

import random

import pytest
import torch

from florence2.config import BASE
from florence2.generation import Generated, generate, guard, policy_for
from florence2.generation.guard import POINT_REVISITS, RepeatGuard, SingleGuard
from florence2.language import grammar, tasks
from florence2.language.tokenizer import Tokenizer
from tests.generation.mock import ScriptModel, photos

BUDGET = 400
BEAMS = [1, 3]


def locations(tokenizer: Tokenizer, *bins: int) -> list[int]:
    return [tokenizer.location_id(n) for n in bins]


def say(tokenizer: Tokenizer, task: str, script: list[int], beams: int, guard: bool = True) -> Generated:
    """What comes of a model that says ``script`` again and again."""
    policy = policy_for(tasks.get(task), BASE, num_beams=beams, max_new_tokens=BUDGET, repeat_guard=guard)
    automaton = grammar.compile(tasks.get(task).grammar, tokenizer)
    answer = generate(ScriptModel(script, tokenizer.vocab_size), photos(1), policy, automaton)[0]
    assert automaton.accepts(answer.ids)
    return answer


@pytest.mark.parametrize("beams", BEAMS)
@pytest.mark.parametrize(
    ("task", "words", "bins"),
    [
        ("<OD>", "dog", (1, 2, 3, 4)),
        ("<REGION_PROPOSAL>", "", (1, 2, 3, 4)),
        ("<OCR_WITH_REGION>", "STOP", (1, 2, 3, 2, 3, 4, 1, 4)),
        ("<OPEN_VOCABULARY_DETECTION>", "hot dog", (1, 2, 3, 4)),
    ],
)
def test_a_repeated_thing_ends_the_answer(
    tokenizer: Tokenizer, task: str, words: str, bins: tuple[int, ...], beams: int
) -> None:
    script = tokenizer.encode(words) + locations(tokenizer, *bins)
    answer = say(tokenizer, task, script, beams)
    assert answer.ids == (2, 0, *script, *script, 2)
    assert not answer.truncated


@pytest.mark.parametrize("beams", BEAMS)
def test_without_the_guard_the_loop_runs_to_the_limit(tokenizer: Tokenizer, beams: int) -> None:
    """The planted fault of the test above."""
    script = tokenizer.encode("dog") + locations(tokenizer, 1, 2, 3, 4)
    answer = say(tokenizer, "<OD>", script, beams, guard=False)
    assert len(answer.ids) > BUDGET - 6
    assert answer.truncated


def test_a_longer_loop_ends_too(tokenizer: Tokenizer) -> None:
    boxes = [tokenizer.encode("dog") + locations(tokenizer, n, n, n + 9, n + 9) for n in range(7)]
    script = [id for box in boxes for id in box]
    assert say(tokenizer, "<OD>", script, beams=1).ids == (2, 0, *script, *boxes[0], 2)


def test_the_same_box_under_another_label_is_another_thing(tokenizer: Tokenizer) -> None:
    dog, cat = tokenizer.encode("dog"), tokenizer.encode("cat")
    first, second = locations(tokenizer, 1, 2, 3, 4), locations(tokenizer, 5, 6, 7, 8)
    script = [*dog, *first, *second, *cat, *first, *second, tokenizer.eos_id]
    assert say(tokenizer, "<CAPTION_TO_PHRASE_GROUNDING>", script, beams=1).ids == (2, 0, *script)


def test_the_same_box_twice_under_one_label_is_a_repeat(tokenizer: Tokenizer) -> None:
    dog, box = tokenizer.encode("dog"), locations(tokenizer, 1, 2, 3, 4)
    script = [*dog, *box, *box, *box, tokenizer.eos_id]
    assert say(tokenizer, "<OD>", script, beams=1).ids == (2, 0, *dog, *box, *box, 2)


@pytest.mark.parametrize("beams", BEAMS)
def test_a_polygon_may_come_back_to_a_few_points(tokenizer: Tokenizer, beams: int) -> None:
    bins = [n for n in range(20) for _ in range(2)]
    outline = locations(tokenizer, *bins, *bins[6 : 6 + 2 * POINT_REVISITS])
    script = [*outline, tokenizer.eos_id]
    assert say(tokenizer, "<REFERRING_EXPRESSION_SEGMENTATION>", script, beams).ids == (2, 0, *script)


@pytest.mark.parametrize("beams", BEAMS)
@pytest.mark.parametrize("marked", [False, True])
def test_a_polygon_that_goes_round_in_circles_ends(tokenizer: Tokenizer, beams: int, marked: bool) -> None:
    start = [tokenizer.poly_id] if marked else []
    outline = locations(tokenizer, *range(10))
    script = [*start, *outline, *outline * 60]
    answer = say(tokenizer, "<REFERRING_EXPRESSION_SEGMENTATION>", script, beams)
    # The first three points are one thing, so they are no points yet when they come back the first time.
    assert len(answer.ids) < 2 + len(start) + 10 + 6 + 2 * (POINT_REVISITS + 1) + 3
    assert not answer.truncated


def test_the_same_polygon_again_ends_the_answer(tokenizer: Tokenizer) -> None:
    script = [tokenizer.poly_id, *locations(tokenizer, 1, 2, 3, 4, 5, 6, 7, 8), tokenizer.end_poly_id]
    answer = say(tokenizer, "<REFERRING_EXPRESSION_SEGMENTATION>", script, beams=1)
    assert answer.ids == (2, 0, *script, *script[:7], tokenizer.end_poly_id, 2)


def test_one_answer_is_watched_as_several_are() -> None:
    """Things, words and boundaries at random, few enough to come again; twin: some are closed early, some late."""
    ends = set()
    for seed in range(40):
        numbers = random.Random(seed)
        alone, several = SingleGuard(), RepeatGuard(2, BUDGET, torch.device("cpu"))
        for step in range(BUDGET):
            token, kind, boundary = numbers.randrange(4), numbers.choice("wlll-"), numbers.random() < 0.4
            token += 50_000 if kind == "l" else 0
            alone.advance(token, kind == "w", kind == "l", boundary)
            both = (torch.tensor([value] * 2) for value in (token, kind == "w", kind == "l", boundary))
            several.advance(*both)
            assert several.closed.tolist() == [alone.closed] * 2
            assert several.revisits.tolist() == [alone.revisits] * 2
            if alone.closed:
                ends.add(step)
                break
    assert len(ends) > 1


def test_the_next_word_at_one_coordinate_less_is_another_thing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids and coordinates are hashed with factors of their own; twin: with the same one it comes again."""
    said = [700, 10, 20, 31, 40, 701, 10, 20, 30, 40]

    def ends() -> bool:
        several = RepeatGuard(2, BUDGET, torch.device("cpu"))
        for step, id in enumerate(said):
            word = torch.tensor([id >= 700] * 2)
            several.advance(torch.tensor([id] * 2), word, ~word, torch.tensor([step % 5 == 4] * 2))
        return bool(several.closed.any())

    assert not ends()
    monkeypatch.setattr(guard, "_APART", guard._BASE)
    assert ends()
