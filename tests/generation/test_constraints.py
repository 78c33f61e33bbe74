"""Whatever the model wants to say, it says it in the grammar of the task, within the budget."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from florence2.config import BASE, DecodingPolicy
from florence2.errors import ConfigError
from florence2.generation import Generated, generate, policy_for
from florence2.generation.constraints import Constraint
from florence2.generation.search import alternatives
from florence2.generation.single import SingleConstraint
from florence2.language import grammar, tasks
from florence2.language.grammar import Automaton
from florence2.language.tokenizer import Tokenizer
from florence2.model import Florence2Model, Memory
from tests.generation.mock import MockModel, ScriptModel, photos
from tests.model.tiny import TINY, tiny_model

SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {"num_beams": 1},
    "beams": {"num_beams": 3},
    "sampling": {"temperature": 1.0, "seed": 3},
}
BUDGETS = [2, 3, 5, 6, 7, 8, 11, 40]
STRUCTURED = [name for name, task in tasks.TASKS.items() if task.policy == "structured"]
LABELS = ["dog", "hot dog", "traffic light", "guitar"]
ROWS = 6


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Florence2Model:
    """Random weights; the vocabulary has some rows more than the tokenizer has ids, as converted checkpoints do."""
    text = dataclasses.replace(TINY.text, vocab_size=tokenizer.vocab_size + 7)
    return tiny_model(seed=4, config=dataclasses.replace(TINY, text=text))


@pytest.fixture(scope="module")
def memory(model: Florence2Model) -> Memory:
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        image_tokens = model.encode_image(torch.randn(ROWS, 3, 64, 64, generator=generator))
        return model.encode(image_tokens, torch.randint(4, 300, (ROWS, 6), generator=generator))


def policy(task: str, search: str, budget: int, **changes: Any) -> DecodingPolicy:
    return policy_for(tasks.get(task), BASE, max_new_tokens=budget, **SEARCHES[search], **changes)


def compiled(task: str, tokenizer: Tokenizer, labels: list[str] | None = None) -> Automaton:
    return grammar.compile(tasks.get(task).grammar, tokenizer, labels)


def rejected(answers: list[Generated], automaton: Automaton, budget: int) -> list[str]:
    """Why the automaton does not accept, per answer that is not well-formed or too long."""
    reasons = []
    for answer in answers:
        why = automaton.rejection(answer.ids)
        if why is None and (len(answer.ids) > budget + 1 or answer.ids[:2] != (2, 0) or answer.ids[-1] != 2):
            why = "too long, or badly begun or ended"
        if why is not None:
            reasons.append(why)
    return reasons


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("task", STRUCTURED)
def test_every_structured_answer_is_well_formed(
    model: Florence2Model, memory: Memory, tokenizer: Tokenizer, task: str, search: str
) -> None:
    automaton = compiled(task, tokenizer)
    lengths = set()
    for budget in BUDGETS:
        found = alternatives(model, memory, policy(task, search, budget), automaton)
        answers = [answer for photo in found for answer in photo]
        assert len(answers) >= ROWS
        assert rejected(answers, automaton, budget) == []
        lengths |= {len(answer.ids) for answer in answers}
    assert len(lengths) > 3  # random weights do say something


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("task", [name for name, task in tasks.TASKS.items() if task.policy == "text"])
def test_text_answers_are_text(
    model: Florence2Model, memory: Memory, tokenizer: Tokenizer, task: str, search: str
) -> None:
    automaton = compiled(task, tokenizer)
    for budget in (3, 4, 20):
        answers = generate(model, memory, policy(task, search, budget), automaton)
        assert rejected(answers, automaton, budget) == []


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("task", ["<OD>", "<OPEN_VOCABULARY_DETECTION>", "<CAPTION>"])
def test_closed_labels_admit_no_other(
    model: Florence2Model, memory: Memory, tokenizer: Tokenizer, task: str, search: str
) -> None:
    automaton = compiled(task, tokenizer, LABELS)
    said = set()
    for budget in (6, 9, 14, 40):
        found = alternatives(model, memory, policy(task, search, budget), automaton)
        answers = [answer for photo in found for answer in photo]
        assert rejected(answers, automaton, budget) == []
        for answer in answers:
            segments, dropped = automaton.segments(answer.ids)
            assert dropped == []
            said |= {
                tokenizer.decode([answer.ids[i] for i in segment.positions]).strip()
                for segment in segments
                if segment.kind in ("label", "text")
            }
    assert said
    assert said <= set(LABELS)


def test_without_the_constraint_answers_are_not_well_formed(
    model: Florence2Model, memory: Memory, tokenizer: Tokenizer
) -> None:
    """The planted fault of the tests above."""
    for task in STRUCTURED:
        automaton = compiled(task, tokenizer)
        free = policy(task, "greedy", 40, constrained=False)
        assert rejected(generate(model, memory, free, automaton), automaton, 40)


def test_without_registers_boxes_are_inverted(
    monkeypatch: pytest.MonkeyPatch, model: Florence2Model, memory: Memory, tokenizer: Tokenizer
) -> None:
    """The planted fault: nothing is ever written into the registers."""
    automaton = compiled("<REGION_PROPOSAL>", tokenizer)
    monkeypatch.setattr(torch.Tensor, "scatter_", lambda self, *_: self)
    unguarded = policy("<REGION_PROPOSAL>", "greedy", 40, repeat_guard=False)
    assert any(
        "before its beginning" in why for why in rejected(generate(model, memory, unguarded, automaton), automaton, 40)
    )


@pytest.mark.parametrize("guard", [True, False])
@pytest.mark.parametrize(
    ("task", "labels"), [("<OPEN_VOCABULARY_DETECTION>", LABELS), ("<REFERRING_EXPRESSION_SEGMENTATION>", None)]
)
def test_a_single_answer_may_say_what_one_of_several_may(
    tokenizer: Tokenizer, task: str, labels: tuple[str, ...] | None, guard: bool
) -> None:
    """In plain numbers and in tensors: boxes, of which the last corner is not before the first, labels of two kinds,
    outlines; five tokens in six are the last that may be said, so that things come again. Twins: the guard closes
    some answer, and a floor forbids something."""
    automaton = compiled(task, tokenizer, labels)
    one = policy(task, "greedy", 120, repeat_guard=guard)
    size, cpu = tokenizer.vocab_size, torch.device("cpu")
    generator = torch.Generator().manual_seed(1)
    closed, floors = False, False
    for _ in range(6):
        alone = SingleConstraint([automaton], one, size, cpu)
        several = Constraint([automaton] * 2, one, size, cpu)
        for _ in range(80):
            allowed = alone.allowed()
            assert torch.equal(allowed.expand(2, -1), several.allowed())
            assert bool(alone.forced()) == bool(several.forced()[0])
            assert torch.equal(alone.within(7), several.within(7)[:1])
            if not allowed.any():  # behind the end
                break
            choices = allowed[0].nonzero()
            place = torch.randint(len(choices), (1,), generator=generator)
            token = choices[place if torch.rand(1, generator=generator) < 1 / 6 else torch.tensor([-1]), 0]
            alone.advance(token)
            several.advance(token.expand(2))
            closed |= several.guard is not None and bool(several.guard.closed[0])
            floors |= alone.register[alone.floors[alone.at]] >= 0
    assert closed == guard
    assert floors == (labels is not None)


def test_a_single_answer_has_no_parents(tokenizer: Tokenizer) -> None:
    one = policy("<OD>", "greedy", 40)
    alone = SingleConstraint([compiled("<OD>", tokenizer)], one, tokenizer.vocab_size, torch.device("cpu"))
    with pytest.raises(NotImplementedError):
        alone.reorder(torch.tensor([0]))


@pytest.mark.parametrize("search", SEARCHES)
def test_tasks_mix_in_a_batch(model: Florence2Model, memory: Memory, tokenizer: Tokenizer, search: str) -> None:
    """Each row as it would be alone, whatever the grammars of its neighbours; one row has none."""
    automata = [
        compiled("<OD>", tokenizer),
        compiled("<OD>", tokenizer, LABELS),
        None,
        compiled("<REFERRING_EXPRESSION_SEGMENTATION>", tokenizer),
        compiled("<CAPTION>", tokenizer, LABELS),
        compiled("<OCR_WITH_REGION>", tokenizer),
    ]
    shared = policy("<OD>", search, 24)
    together = generate(model, memory, shared, automata)
    for i, automaton in enumerate(automata):
        alone = generate(model, memory.select(torch.tensor([i])), shared, automaton)[0]
        assert together[i].ids == alone.ids
        assert together[i].truncated == alone.truncated
        assert together[i].logprobs == pytest.approx(alone.logprobs, abs=1e-4)
        assert automaton is None or rejected([alone], automaton, 24) == []


def test_a_budget_too_small_for_any_answer_is_refused(tokenizer: Tokenizer) -> None:
    model = MockModel(torch.zeros(tokenizer.vocab_size, tokenizer.vocab_size))
    with pytest.raises(ConfigError, match="max_new_tokens is 2; the shortest answer that the grammar allows has 3"):
        generate(model, photos(1), policy("<CAPTION>", "greedy", 2), compiled("<CAPTION>", tokenizer))


def test_two_more_openings_and_none_later(tokenizer: Tokenizer) -> None:
    model = ScriptModel([tokenizer.bos_id], tokenizer.vocab_size)
    for search in ("greedy", "beams"):
        ids = generate(model, photos(1), policy("<OD>", search, 40), compiled("<OD>", tokenizer))[0].ids
        assert ids[:4] == (2, 0, 0, 0)
        assert tokenizer.bos_id not in ids[4:]


def test_truncated_where_the_budget_forbade_what_the_model_wanted(tokenizer: Tokenizer) -> None:
    dog, box = tokenizer.encode("dog"), [tokenizer.location_id(n) for n in (1, 2, 3, 4)]
    script = [*dog, *box, tokenizer.eos_id]
    model = ScriptModel(script, tokenizer.vocab_size)
    automaton = compiled("<OD>", tokenizer)
    for search in ("greedy", "beams"):
        whole = generate(model, photos(1), policy("<OD>", search, len(script) + 1), automaton)[0]
        assert whole.ids == (2, 0, *script)
        assert not whole.truncated
        cut = generate(model, photos(1), policy("<OD>", search, len(script)), automaton)[0]
        assert automaton.accepts(cut.ids)
        assert cut.truncated


def test_the_ban_yields_to_the_grammar(tokenizer: Tokenizer) -> None:
    """A ban of single repeats leaves no way to close a second polygon; the grammar wins."""
    automaton = compiled("<REFERRING_EXPRESSION_SEGMENTATION>", tokenizer)
    points = [tokenizer.location_id(n) for n in range(12)]
    script = [tokenizer.poly_id, *points[:6], tokenizer.end_poly_id]
    model = ScriptModel([*script, tokenizer.poly_id, *points[6:], tokenizer.end_poly_id], tokenizer.vocab_size)
    for search in ("greedy", "beams"):
        banned = policy("<REFERRING_EXPRESSION_SEGMENTATION>", search, 60, no_repeat_ngram_size=1)
        assert automaton.accepts(generate(model, photos(1), banned, automaton)[0].ids)
