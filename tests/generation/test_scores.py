"""Answers of a small real model: scores against teacher forcing, batches against single photos, caches against none."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from florence2.config import BASE, DecodingPolicy
from florence2.generation import Generated, generate, policy_for
from florence2.generation.search import alternatives
from florence2.language import grammar, tasks
from florence2.language.automaton import LOCATION
from florence2.language.grammar import Automaton
from florence2.language.tokenizer import Tokenizer
from florence2.model import Cache, Florence2Model, Memory
from tests.model.tiny import TINY, tiny_model

PHOTOS = 5
BUDGET = 24
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Florence2Model:
    text = dataclasses.replace(TINY.text, vocab_size=tokenizer.vocab_size)
    return tiny_model(seed=11, config=dataclasses.replace(TINY, text=text))


@pytest.fixture(scope="module")
def inputs(model: Florence2Model) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Image tokens, prompts of unequal lengths, their mask."""
    generator = torch.Generator().manual_seed(1)
    with torch.inference_mode():
        image_tokens = model.encode_image(torch.randn(PHOTOS, 3, 64, 64, generator=generator))
    prompts = torch.randint(4, 300, (PHOTOS, 9), generator=generator)
    return image_tokens, prompts, torch.arange(9) < torch.tensor([9, 3, 6, 8, 4])[:, None]


@pytest.fixture(scope="module")
def memory(model: Florence2Model, inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> Memory:
    with torch.inference_mode():
        return model.encode(*inputs)


@pytest.fixture(scope="module")
def automaton(tokenizer: Tokenizer) -> Automaton:
    return grammar.compile(tasks.get("<OD>").grammar, tokenizer)


def policies() -> dict[str, DecodingPolicy]:
    od, caption = tasks.get("<OD>"), tasks.get("<CAPTION>")
    return {
        "greedy": policy_for(od, BASE, num_beams=1, max_new_tokens=BUDGET),
        # A high length penalty makes random weights talk.
        "beams": policy_for(od, BASE, num_beams=3, max_new_tokens=BUDGET, length_penalty=3.0),
        "no early stop": policy_for(
            od, BASE, num_beams=3, max_new_tokens=BUDGET, early_stopping=False, length_penalty=2.0
        ),
        "reference": policy_for(caption, BASE, max_new_tokens=BUDGET, reference=True),
        "sampling": policy_for(od, BASE, max_new_tokens=BUDGET, temperature=0.8, top_k=50, seed=5),
    }


POLICIES = policies()
each_policy = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())


def teacher_forced(
    model: Florence2Model, memory: Memory, photo: int, answer: Generated, automaton: Automaton | None
) -> list[float]:
    """The log-probability of each id by one pass over all of them; 0 for the forced first and last one. With an
    automaton, over the locations alone where it allows nothing else."""
    ids = torch.tensor(answer.ids)
    with torch.inference_mode():
        logits = model.decode(ids[None, :-1], memory.select(torch.tensor([photo])))[0]
    logits = logits.clone()
    if automaton is not None:
        state, first = automaton.start, automaton.first_location_id
        for place, id in enumerate(answer.ids[2:], 1):
            if set(automaton.edges[state]) == {LOCATION}:
                logits[place, :first] = logits[place, first + 1000 :] = float("-inf")
            state = automaton.edges[state][automaton.class_of[id]][0]
    logprobs = logits.log_softmax(-1).gather(1, ids[1:, None])[:, 0].tolist()
    logprobs[0] = 0.0
    if len(logprobs) == BUDGET:
        logprobs[-1] = 0.0
    return logprobs


def worst_logprob(model: Florence2Model, memory: Memory, policy: DecodingPolicy, automaton: Automaton) -> float:
    worst = 0.0
    for photo, answers in enumerate(alternatives(model, memory, policy, automaton)):
        for answer in answers:
            greedy = automaton if policy.constrained and policy.num_beams == 1 else None
            expected = teacher_forced(model, memory, photo, answer, greedy)
            assert len(expected) == len(answer.logprobs) == len(answer.ids) - 1
            worst = max(worst, *(abs(a - b) for a, b in zip(answer.logprobs, expected, strict=True)))
            assert answer.score == pytest.approx(
                sum(answer.logprobs) / len(answer.logprobs) ** policy.length_penalty, abs=TOLERANCE
            )
    return worst


@each_policy
def test_logprobs_are_those_of_teacher_forcing(
    model: Florence2Model, memory: Memory, automaton: Automaton, policy: DecodingPolicy
) -> None:
    assert worst_logprob(model, memory, policy, automaton) < TOLERANCE


def beams_keep_their_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault: beams change places, their keys and values stay."""
    monkeypatch.setattr(Cache, "reorder", lambda self, parents: None)


def scores_over_the_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault: probabilities are spread over what the grammar allows only."""
    from florence2.generation import rows

    restrict = rows._restrict
    monkeypatch.setattr(rows, "_restrict", lambda *given: restrict(*given).log_softmax(-1))


@pytest.mark.parametrize("fault", [beams_keep_their_caches, scores_over_the_allowed])
def test_logprobs_notice_a_fault(
    monkeypatch: pytest.MonkeyPatch,
    model: Florence2Model,
    memory: Memory,
    automaton: Automaton,
    fault: Callable[[pytest.MonkeyPatch], None],
) -> None:
    fault(monkeypatch)
    assert worst_logprob(model, memory, POLICIES["beams"], automaton) > 10 * TOLERANCE


@each_policy
def test_a_batch_gives_what_single_photos_give(
    model: Florence2Model,
    inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    memory: Memory,
    automaton: Automaton,
    policy: DecodingPolicy,
) -> None:
    """Each photo alone, its prompt without padding, against the padded batch; and in another company."""
    together = generate(model, memory, policy, automaton)
    assert len({answer.ids for answer in together}) > 1
    reversed_rows = generate(model, memory.select(torch.arange(PHOTOS).flip(0)), policy, automaton)[::-1]
    image_tokens, prompts, mask = inputs
    for i, answer in enumerate(together):
        with torch.inference_mode():
            alone_memory = model.encode(image_tokens[i : i + 1], prompts[i : i + 1, : int(mask[i].sum())])
        alone = generate(model, alone_memory, policy, automaton)[0]
        for other in (alone, reversed_rows[i]):
            assert other.ids == answer.ids
            assert other.truncated == answer.truncated
            assert other.logprobs == pytest.approx(answer.logprobs, abs=TOLERANCE)


def test_unmasked_padding_would_change_answers(
    model: Florence2Model,
    inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    memory: Memory,
    automaton: Automaton,
) -> None:
    """The planted fault of the test above."""
    with torch.inference_mode():
        unmasked = model.encode(inputs[0], inputs[1])
    policy = POLICIES["greedy"]
    assert generate(model, memory, policy, automaton) != generate(model, unmasked, policy, automaton)


class Uncached(Cache):
    """Remembers ids instead of keys and values: every step reads the whole answer again."""

    def __init__(self, rows: int) -> None:
        self.ids = torch.empty(rows, 0, dtype=torch.long)

    @property
    def length(self) -> int:  # type: ignore[override]
        return self.ids.shape[1]

    def reorder(self, parents: torch.Tensor) -> None:
        self.ids = self.ids[parents]

    select = reorder


@each_policy
def test_the_cache_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
    model: Florence2Model,
    memory: Memory,
    automaton: Automaton,
    policy: DecodingPolicy,
) -> None:
    cached = generate(model, memory, policy, automaton)
    decode = model.decode

    def from_the_beginning(ids: torch.Tensor, memory: Memory, cache: Uncached, *words: slice) -> torch.Tensor:
        cache.ids = torch.cat([cache.ids, ids], dim=1)
        return decode(cache.ids, memory, None, *words)

    monkeypatch.setattr(model, "new_cache", lambda rows, max_length: Uncached(rows))
    monkeypatch.setattr(model, "decode", from_the_beginning)
    uncached = generate(model, memory, policy, automaton)
    assert [answer.ids for answer in uncached] == [answer.ids for answer in cached]
    for a, b in zip(uncached, cached, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=TOLERANCE)


def test_beams_read_one_memory_row(
    monkeypatch: pytest.MonkeyPatch, model: Florence2Model, memory: Memory, automaton: Automaton
) -> None:
    """Nothing of the memory is copied per beam: the decoder gets the rows it was given, or fewer."""
    seen = []
    decode = model.decode

    def watched(ids: torch.Tensor, memory: Memory, cache: Cache) -> torch.Tensor:
        seen.append((ids.shape[0], memory.rows, memory.keys[0].shape[0]))
        return decode(ids, memory, cache)

    monkeypatch.setattr(model, "decode", watched)
    generate(model, memory, POLICIES["beams"], automaton)
    assert seen[0] == (3 * PHOTOS, PHOTOS, PHOTOS)
    assert all(rows == 3 * photos == 3 * keys for rows, photos, keys in seen)


def test_brain_floats_give_finite_scores(model: Florence2Model, memory: Memory, automaton: Automaton) -> None:
    half = Florence2Model(model.config).eval()
    half.load_state_dict(model.state_dict())
    half = half.bfloat16()
    generator = torch.Generator().manual_seed(1)
    with torch.inference_mode():
        image_tokens = half.encode_image(torch.randn(2, 3, 64, 64, generator=generator).bfloat16())
        short = half.encode(image_tokens, torch.full((2, 4), 40))
    for answer in generate(half, short, POLICIES["beams"], automaton):
        assert automaton.accepts(answer.ids)
        assert all(-100 < value <= 0 for value in answer.logprobs)


def test_where_only_locations_may_stand_only_they_are_projected(
    monkeypatch: pytest.MonkeyPatch, model: Florence2Model, memory: Memory, automaton: Automaton
) -> None:
    """Three of a box's four coordinates at least; without a grammar, and for beams, never."""
    seen: list[int] = []
    decode = model.decode

    def watched(*arguments: Any) -> torch.Tensor:
        logits = decode(*arguments)
        seen.append(logits.shape[-1])
        return logits

    monkeypatch.setattr(model, "decode", watched)
    one = memory.select(torch.tensor([0]))
    (answer,) = generate(model, one, POLICIES["greedy"], automaton)
    coordinates = sum(automaton.class_of[id] == LOCATION for id in answer.ids)
    assert seen.count(1000) >= 3 * coordinates // 4 > 0
    for name in ("beams", "reference"):
        seen.clear()
        generate(model, one, POLICIES[name], automaton)
        assert 1000 not in seen
