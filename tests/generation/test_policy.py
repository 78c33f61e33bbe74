"""Which settings a task is decoded with."""

from __future__ import annotations

import dataclasses

import pytest

from florence2.config import BASE, NANO, SHIPPED_POLICY
from florence2.errors import ConfigError
from florence2.generation import policy_for
from florence2.language import tasks


def test_text_tasks_are_searched_as_shipped_under_their_grammar() -> None:
    policy = policy_for(tasks.get("<CAPTION>"), BASE)
    assert policy == dataclasses.replace(SHIPPED_POLICY, constrained=True)


@pytest.mark.parametrize("name", ["<OCR>", "<REGION_TO_OCR>"])
def test_what_is_read_may_repeat_itself(name: str) -> None:
    """ "banana" has the letters "ana" twice; a checkpoint that bans nothing bans nothing here."""
    policy = policy_for(tasks.get(name), BASE)
    assert policy == dataclasses.replace(SHIPPED_POLICY, constrained=True, no_repeat_ngram_size=10)
    free = dataclasses.replace(BASE, generation=dataclasses.replace(SHIPPED_POLICY, no_repeat_ngram_size=0))
    assert policy_for(tasks.get(name), free).no_repeat_ngram_size == 0
    assert policy_for(tasks.get(name), BASE, reference=True) == SHIPPED_POLICY


def test_structured_tasks_are_greedy_drop_the_ban_and_are_guarded() -> None:
    policy = policy_for(tasks.get("<OD>"), BASE)
    guarded = dataclasses.replace(SHIPPED_POLICY, no_repeat_ngram_size=0, constrained=True, repeat_guard=True)
    assert policy == dataclasses.replace(guarded, num_beams=1)
    assert policy_for(tasks.get("<OD>"), BASE, closed=True) == guarded
    assert policy_for(tasks.get("<OD>"), BASE, num_beams=3) == guarded


@pytest.mark.parametrize("name", ["<CAPTION>", "<OD>"])
def test_reference_is_what_the_checkpoint_ships(name: str) -> None:
    assert policy_for(tasks.get(name), BASE, reference=True) == SHIPPED_POLICY
    guarded = dataclasses.replace(BASE, generation=dataclasses.replace(SHIPPED_POLICY, constrained=True, num_beams=5))
    assert policy_for(tasks.get(name), guarded, reference=True) == dataclasses.replace(SHIPPED_POLICY, num_beams=5)


def test_overrides() -> None:
    task = tasks.get("<OD>")
    assert policy_for(task, BASE, num_beams=1, max_new_tokens=None).num_beams == 1
    assert policy_for(task, BASE, max_new_tokens=None).max_new_tokens == 1024
    assert policy_for(task, BASE, reference=True, no_repeat_ngram_size=0).no_repeat_ngram_size == 0
    with pytest.raises(ConfigError, match="unknown decoding option 'beams'; known: num_beams"):
        policy_for(task, BASE, beams=3)
    with pytest.raises(ConfigError, match="num_beams is 0"):
        policy_for(task, BASE, num_beams=0)


def test_the_budget_ends_with_the_position_table() -> None:
    task = tasks.get("<OD>")
    assert policy_for(task, NANO).max_new_tokens == 256
    assert policy_for(task, NANO, max_new_tokens=4096).max_new_tokens == NANO.text.max_positions
    assert policy_for(task, NANO, max_new_tokens=7).max_new_tokens == 7


def test_sampling_implies_one_beam() -> None:
    assert policy_for(tasks.get("<CAPTION>"), BASE, temperature=0.7).num_beams == 1
    assert policy_for(tasks.get("<CAPTION>"), BASE, temperature=0.0).num_beams == 3
    with pytest.raises(ConfigError, match="num_beams=1"):
        policy_for(tasks.get("<CAPTION>"), BASE, temperature=0.7, num_beams=2)
