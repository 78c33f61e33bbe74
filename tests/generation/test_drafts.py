"""Guesses: the answer of the search without them, in fewer steps."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from florence2.config import SHIPPED_POLICY, DecodingPolicy
from florence2.generation import Generated, drafts, generate
from florence2.generation.drafts import Draft, FromAnswer, FromText
from florence2.generation.single import SingleConstraint
from florence2.language import grammar
from florence2.language.tasks import get
from florence2.language.tokenizer import Tokenizer
from florence2.model import Florence2Model, Memory
from tests.tiny_checkpoint import tiny_checkpoint


class Counting:
    """Counts the steps of a model, and gives it clear preferences: rounding decides the near ties of random weights."""

    def __init__(self, model: Florence2Model) -> None:
        self.model, self.steps = model, 0
        V = model.config.text.vocab_size
        self.taste = torch.randn(V, V, generator=torch.Generator().manual_seed(5))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def decode(self, *arguments: Any) -> Any:
        self.steps += 1
        taste = self.taste[arguments[0]]
        return 20 * self.model.decode(*arguments) + (taste[..., arguments[3]] if len(arguments) > 3 else taste)


class Guess:
    """What a test wants to be guessed: right tokens, of which some are spoiled."""

    def __init__(self, answer: Sequence[int], spoiled: set[int]) -> None:
        self.answer, self.spoiled = answer, spoiled

    def propose(self, written: Sequence[int]) -> list[int]:
        places = range(len(written), min(len(written) + 4, len(self.answer)))
        return [self.answer[i] + (i in self.spoiled) for i in places]


@pytest.fixture(scope="module")
def model() -> Counting:
    return Counting(tiny_checkpoint().model)


def memory_of(model: Any, seed: int) -> Memory:
    generator = torch.Generator().manual_seed(seed)
    prompt = torch.randint(4, 100, (1, 6), generator=generator)
    with torch.inference_mode():
        return model.encode(torch.randn(1, 5, model.config.text.d_model, generator=generator), prompt)


def decode(model: Any, memory: Memory, policy: DecodingPolicy, draft: Draft | None, automaton: Any = None) -> Generated:
    return generate(model, memory, policy, automaton, draft)[0]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), spoiled=st.sets(st.integers(2, 30)), temperature=st.sampled_from([0.0, 1.0]))
def test_guesses_never_change_the_answer(seed: int, spoiled: set[int], temperature: float) -> None:
    model = Counting(tiny_checkpoint().model)
    memory = memory_of(model, seed)
    policy = dataclasses.replace(
        SHIPPED_POLICY, num_beams=1, max_new_tokens=24, temperature=temperature, seed=3, constrained=False
    )
    plain, counted = (Counting(model.model) for _ in range(2))
    alone = decode(plain, memory, policy, None)
    drafted = decode(counted, memory, policy, Guess(alone.ids, spoiled))
    assert drafted.ids == alone.ids
    assert drafted.logprobs == pytest.approx(alone.logprobs, abs=1e-4)
    assert drafted.truncated == alone.truncated
    wrong = {i for i in spoiled if 2 <= i < len(alone.ids)}
    if len(wrong) < (len(alone.ids) - 2) // 8:
        assert counted.steps < plain.steps


def test_right_guesses_save_all_but_one_step_in_five(model: Counting) -> None:
    memory = memory_of(model, 1)
    policy = dataclasses.replace(SHIPPED_POLICY, num_beams=1, max_new_tokens=41, constrained=False)
    plain, counted = (Counting(model.model) for _ in range(2))
    alone = decode(plain, memory, policy, None)
    decode(counted, memory, policy, Guess(alone.ids, set()))
    assert (plain.steps, counted.steps) == (len(alone.ids) - 2, -(-(len(alone.ids) - 2) // 5))


def test_a_forgetful_check_would_be_noticed(model: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: wrong guesses stay in the cache."""
    from florence2.generation.rows import Rows

    def forgetful(self: Rows, tokens: torch.Tensor) -> None:
        if self.guessed:
            self.guessed.pop(0)

    different = 0
    for seed in range(8):
        memory = memory_of(model, seed)
        policy = dataclasses.replace(SHIPPED_POLICY, num_beams=1, max_new_tokens=24, constrained=False)
        alone = decode(model, memory, policy, None)
        with monkeypatch.context() as patched:
            patched.setattr(Rows, "_check_guess", forgetful)
            different += decode(model, memory, policy, Guess(alone.ids, set(range(2, 30, 3)))).ids != alone.ids
    assert different


def test_under_a_grammar(model: Counting) -> None:
    """Phrases and boxes; the guard and the budget see every token once."""
    tokenizer = tiny_checkpoint().tokenizer
    assert tokenizer is not None
    automaton = grammar.compile(get("<CAPTION_TO_PHRASE_GROUNDING>").grammar, tokenizer)
    policy = dataclasses.replace(
        SHIPPED_POLICY, num_beams=1, max_new_tokens=30, no_repeat_ngram_size=0, constrained=True
    )
    for seed in range(6):
        memory = memory_of(model, seed)
        alone = decode(model, memory, policy, None, automaton)
        drafted = decode(model, memory, policy, Guess(alone.ids, {5, 9}), automaton)
        assert (drafted.ids, drafted.truncated) == (alone.ids, alone.truncated)


def guessed(draft: Draft, tokenizer: Tokenizer, *phrases: str) -> str:
    """What a draft guesses behind these phrases; an empty one stands for a box."""
    written = [tokenizer.eos_id, tokenizer.bos_id]
    for phrase in phrases:
        written += tokenizer.encode_plain(phrase) if phrase else [tokenizer.location_id(n) for n in (1, 2, 3, 4)]
    return tokenizer.decode(draft.propose(written))


def test_words_of_the_caption_are_guessed_in_its_order() -> None:
    tokenizer = tiny_checkpoint().tokenizer
    assert tokenizer is not None
    caption = "a man holding a red guitar on the mat"
    draft = FromText(caption, tokenizer.encode_plain, tokenizer.decode, lambda id: tokenizer.location_of(id) is None)
    guess = functools.partial(guessed, draft, tokenizer)
    assert guess()
    assert caption.startswith(guess())
    assert guess("a").startswith(" man")
    assert guess("a man").startswith(" holding")
    assert guess("a man", "").startswith("a red")  # the next phrase, as it begins an answer
    assert guess("a man", "", "").startswith("a red")  # two men
    assert guess("a man", "", "a").startswith(" red")  # the second "a", behind the man
    assert guess("a man", "", "a red guitar", "").startswith("the mat")
    assert guess("a man", "", "the mat") == guess("a man", "", "the mat", "") == ""
    assert guess("a man", "", "a cat") == ""  # not in the caption
    three = [tokenizer.location_id(n) for n in (1, 2, 3)]
    written = [tokenizer.eos_id, tokenizer.bos_id, *tokenizer.encode_plain("a man"), *three]
    assert tokenizer.decode(draft.propose(written)) == ""


def test_a_guess_ends_where_a_phrase_is_likely_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is guessed behind it is read for nothing; a phrase that goes on is guessed again from there."""
    tokenizer = tiny_checkpoint().tokenizer
    assert tokenizer is not None
    monkeypatch.setattr(drafts, "AHEAD", 100)  # the tiny tokenizer writes a token for each letter or two
    caption = "a man in a suit, and a dog sitting on the Main building"
    draft = FromText(caption, tokenizer.encode_plain, tokenizer.decode, lambda id: tokenizer.location_of(id) is None)
    guess = functools.partial(guessed, draft, tokenizer)
    assert guess() == "a man"
    assert guess("a man") == " in a suit"
    assert guess("a man", "") == "a suit"
    assert guess("a man", "", "a suit", "") == "a dog"
    assert guess("a man", "", "a suit", "", "a dog", "") == "the Main building"  # "in" only as a word


def steps_of(draft: Draft, answer: Sequence[int]) -> int:
    """Looks at a model that gives this answer."""
    written, steps = list(answer[:2]), 0
    while len(written) < len(answer):
        steps += 1
        for guess in draft.propose(written):
            if len(written) < len(answer) - 1 and answer[len(written)] == guess:
                written.append(guess)
            else:
                break
        written.append(answer[len(written)])
    return steps


def test_a_grounded_caption_in_half_of_its_tokens() -> None:
    """Where the phrases are the caption's own, as in the answers of the published models; four steps for each box."""
    tokenizer = tiny_checkpoint().tokenizer
    assert tokenizer is not None
    box = [tokenizer.location_id(n) for n in (1, 2, 3, 4)]
    for caption, phrases in (
        (
            "A young girl in a pink dress is holding a small brown teddy bear while an old woman with white hair sits "
            "on a wooden chair",
            (
                "A young girl",
                "a pink dress",
                "a small brown teddy bear",
                "an old woman",
                "white hair",
                "a wooden chair",
            ),
        ),
        (
            "The image shows a vintage Volkswagen Beetle car parked on a cobblestone street in front of a yellow "
            "building with two wooden doors and a blue sky",
            ("a vintage Volkswagen Beetle car", "a cobblestone street", "a yellow building", "two wooden doors"),
        ),
    ):
        written = [i for phrase in phrases for i in (*tokenizer.encode_plain(phrase), *box)]
        answer = [tokenizer.eos_id, tokenizer.bos_id, *written, tokenizer.eos_id]
        draft = FromText(
            caption, tokenizer.encode_plain, tokenizer.decode, lambda id: tokenizer.location_of(id) is None
        )
        assert steps_of(draft, answer) <= 0.55 * (len(answer) - 2)


def test_an_earlier_answer_is_guessed_place_by_place() -> None:
    draft = FromAnswer([2, 0, 20, 1001, 1002, 1003, 1004, 21, 2])
    assert draft.propose([2, 0]) == [20, 1001, 1002, 1003, 1004, 21]
    assert draft.propose([2, 0, 20, 1001, 1007]) == []  # another place: wait until they agree again
    assert draft.propose([2, 0, 20, 1001, 1007, 1003]) == [1004, 21, 2]
    assert draft.propose([2, 0, 20, 1001, 1002, 1003, 1004, 21, 2, 30]) == []


def test_several_rows_are_decoded_without_guesses(model: Counting) -> None:
    class Never:
        def propose(self, written: Sequence[int]) -> list[int]:
            raise AssertionError("asked")

    one = memory_of(model, 1)
    two = Memory(
        one.states.repeat(2, 1, 1), None, tuple(k.repeat(2, 1, 1, 1) for k in one.keys),
        tuple(v.repeat(2, 1, 1, 1) for v in one.values),
    )  # fmt: skip
    policy = dataclasses.replace(SHIPPED_POLICY, num_beams=1, max_new_tokens=6, constrained=False)
    first, second = generate(model, two, policy, None, Never())
    assert first.ids == second.ids
    beams = dataclasses.replace(policy, num_beams=3)
    generate(model, one, beams, None, Never())


@pytest.mark.parametrize("guessing", [False, True])
def test_what_the_grammar_forces_is_not_looked_up(
    model: Counting, monkeypatch: pytest.MonkeyPatch, guessing: bool
) -> None:
    """A closed label whose first token is chosen has no choice behind it; the answer is the same."""
    tokenizer = tiny_checkpoint().tokenizer
    assert tokenizer is not None
    labels = ("hippopotamus", "wheelbarrow")
    automaton = grammar.compile(get("<OPEN_VOCABULARY_DETECTION>").grammar, tokenizer, labels)
    policy = dataclasses.replace(
        SHIPPED_POLICY, num_beams=1, max_new_tokens=60, no_repeat_ngram_size=0, constrained=True
    )
    saved = 0
    for seed in range(8):
        memory = memory_of(model, seed)
        counted = Counting(model.model)
        counted.taste = torch.zeros_like(counted.taste)
        counted.taste[:, [tokenizer.encode_plain(label)[0] for label in labels]] = 60 + seed % 2
        with monkeypatch.context() as patched:
            patched.setattr(SingleConstraint, "leaves_a_choice", lambda self, finished: True)
            plain = decode(counted, memory, policy, None, automaton)
            many, counted.steps = counted.steps, 0
        found = decode(counted, memory, policy, Guess(plain.ids, {7}) if guessing else None, automaton)
        assert found.ids == plain.ids
        said = tokenizer.decode(list(found.ids))
        written = sum(said.count(label) * (len(tokenizer.encode_plain(label)) - 1) for label in labels)
        free = [a for a, b in zip(found.logprobs, plain.logprobs, strict=True) if a == 0 and b != 0]
        assert len(free) == written
        if not guessing:
            assert many - counted.steps == written
        saved += written
    assert saved
