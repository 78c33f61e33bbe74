"""Greedy search, beams and sampling on decoders without weights."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from florence2.config import SHIPPED_POLICY, DecodingPolicy
from florence2.errors import ConfigError, Florence2Error
from florence2.generation import Generated, generate
from florence2.generation.search import alternatives
from tests.generation.mock import MockModel, photos, random_table

BOS, PAD, EOS = 0, 1, 2
FREE = dataclasses.replace(SHIPPED_POLICY, no_repeat_ngram_size=0)


def policy(**changes: Any) -> DecodingPolicy:
    return dataclasses.replace(FREE, **{"max_new_tokens": 8, **changes})


def log_probability(model: MockModel, ids: tuple[int, ...], photo: int = 0) -> list[float]:
    """Per id behind the start token; forced ones count 0."""
    steps = (model.table + model.photos[photo]).log_softmax(-1)
    return [0.0] + [float(steps[a, b]) for a, b in itertools.pairwise(ids[1:])]


def test_greedy_follows_the_best_token() -> None:
    model = MockModel(random_table(12, seed=3))
    answer = generate(model, photos(1), policy(num_beams=1))[0]
    ids = [EOS, BOS]
    while ids[-1] != EOS or len(ids) == 1:
        ids.append(int(model.table[ids[-1]].argmax()) if len(ids) < 8 else EOS)
    assert answer.ids == tuple(ids)


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), budget=st.integers(2, 5), penalty=st.sampled_from([0.5, 1.0, 2.0]))
def test_wide_beams_find_the_best_of_all_answers(seed: int, budget: int, penalty: float) -> None:
    """With as many beams as there are answers nothing is cut: the search must equal full enumeration."""
    V = 5
    model = MockModel(random_table(V, seed))
    words = [id for id in range(V) if id != EOS]
    everything = {}
    for n in range(budget - 1):
        for middle in itertools.product(words, repeat=n):
            ids = (EOS, BOS, *middle, EOS)
            logprobs = log_probability(model, ids)
            if len(ids) == budget + 1:
                logprobs[-1] = 0.0  # forced
            everything[ids] = sum(logprobs) / (len(ids) - 1) ** penalty
    best = max(everything, key=everything.__getitem__)
    wide = policy(num_beams=V ** (budget - 1), max_new_tokens=budget, length_penalty=penalty, early_stopping=False)
    answer = generate(model, photos(1), wide)[0]
    assert answer.ids == best
    assert answer.score == pytest.approx(everything[best], abs=1e-5)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("early_stopping", [True, False])
def test_answers_do_not_depend_on_their_neighbours(beams: int, early_stopping: bool) -> None:
    model = MockModel(random_table(30, seed=1), photos=random_table(30, seed=8, spread=3.0)[:16])
    chosen = policy(num_beams=beams, early_stopping=early_stopping, max_new_tokens=20)
    together = alternatives(model, photos(16), chosen)
    alone = [alternatives(model, photos(1, first=i), chosen)[0] for i in range(16)]
    assert len({answer.ids for (answer, *_) in together}) > 4
    for a, b in zip(together, alone, strict=True):
        assert [answer.ids for answer in a] == [answer.ids for answer in b]
        assert [answer.score for answer in a] == pytest.approx([answer.score for answer in b], abs=1e-5)


@pytest.mark.parametrize("beams", [1, 2, 4])
def test_scores_are_those_of_the_tokens(beams: int) -> None:
    model = MockModel(random_table(20, seed=5))
    for answer in alternatives(model, photos(1), policy(num_beams=beams, length_penalty=1.3))[0]:
        expected = log_probability(model, answer.ids)
        if len(answer.ids) == 9:
            expected[-1] = 0.0
        assert answer.logprobs == pytest.approx(expected, abs=1e-5)
        assert answer.score == pytest.approx(sum(expected) / len(expected) ** 1.3, abs=1e-5)


def test_alternatives_are_different_and_best_first() -> None:
    found = alternatives(MockModel(random_table(20, seed=5)), photos(2), policy(num_beams=4))
    for answers in found:
        assert len({answer.ids for answer in answers}) == len(answers) > 1
        assert [a.score for a in answers] == sorted((a.score for a in answers), reverse=True)


def test_opening_and_end() -> None:
    table = torch.zeros(6, 6)
    table[:, 4] = 5.0
    model = MockModel(table)
    for beams in (1, 3):
        assert generate(model, photos(1), policy(num_beams=beams))[0].ids == (2, 0, 4, 4, 4, 4, 4, 4, 2)
        assert generate(model, photos(1), policy(num_beams=beams, max_new_tokens=1))[0].ids == (2, 2)
        assert generate(model, photos(1), policy(num_beams=beams, max_new_tokens=2))[0].ids == (2, 0, 2)
        unforced = policy(num_beams=beams, forced_bos_id=None, forced_eos_id=None, max_new_tokens=3)
        assert generate(model, photos(1), unforced)[0].ids == (2, 4, 4, 4)


def test_truncated_says_whether_the_budget_ended_the_answer() -> None:
    table = torch.zeros(6, 6)
    table[0, 3] = table[3, 4] = table[4, 2] = 5.0  # <s> 3 4 </s>

    def answer(budget: int, beams: int) -> Generated:
        return generate(MockModel(table), photos(1), policy(num_beams=beams, max_new_tokens=budget))[0]

    for beams in (1, 3):
        assert (answer(3, beams).ids[-1], answer(3, beams).truncated) == (2, True)
        assert (answer(4, beams).ids, answer(4, beams).truncated) == ((2, 0, 3, 4, 2), False)
        assert not answer(9, beams).truncated


def test_padding_that_the_model_says_itself_is_kept() -> None:
    table = torch.zeros(6, 6)
    table[0, PAD] = table[PAD, 4] = table[4, EOS] = 9.0
    assert generate(MockModel(table), photos(1), policy(num_beams=1))[0].ids == (2, 0, PAD, 4, EOS)


def test_ngram_ban_holds_over_the_whole_sequence() -> None:
    table = torch.zeros(7, 7)
    table[:, 4] = 9.0
    table[4, 4] = 8.0
    for beams in (1, 3):
        ids = generate(MockModel(table), photos(1), policy(num_beams=beams, no_repeat_ngram_size=2, max_new_tokens=24))[
            0
        ].ids
        pairs = list(itertools.pairwise(ids[:-1]))
        assert len(set(pairs)) == len(pairs)


def test_finished_photos_stop_costing() -> None:
    """Photo 0 talks to the end, the others say nothing: they leave the batch."""
    table = torch.zeros(5, 5)
    voices = torch.zeros(8, 5)
    voices[0, 3], voices[1:, EOS] = 50.0, 50.0
    for beams in (1, 3):
        model = MockModel(table, voices)
        answers = generate(model, photos(8), policy(num_beams=beams, max_new_tokens=40))
        assert [len(answer.ids) for answer in answers] == [41] + [3] * 7
        assert model.rows_decoded <= beams * (2 * 8 + 40)
    silent = MockModel(table, voices)
    generate(silent, photos(7, first=1), policy(num_beams=1, max_new_tokens=40))
    assert silent.rows_decoded == 7


def test_sampling_is_reproducible_and_free_of_its_neighbours() -> None:
    model = MockModel(random_table(40, seed=2, spread=1.0), photos=random_table(40, seed=9, spread=1.0)[:8])
    warm = policy(num_beams=1, temperature=1.0, seed=7, max_new_tokens=12)
    together = generate(model, photos(8), warm)
    assert together == generate(model, photos(8), warm)
    for i, answer in enumerate(together):
        assert generate(model, photos(1, first=i), warm)[0].ids == answer.ids
    others = [generate(model, photos(1), dataclasses.replace(warm, seed=seed))[0].ids for seed in range(20)]
    assert len(set(others)) > 15
    unseeded = generate(MockModel(torch.zeros(40, 40)), photos(8), dataclasses.replace(warm, seed=None))
    assert len({answer.ids for answer in unseeded}) > 4


def test_sampling_draws_from_the_distribution() -> None:
    table = torch.tensor([[0.5, 0.2, 0.15, 0.1, 0.05]]).log().expand(5, 5)
    model = MockModel(table.contiguous())
    warm = policy(num_beams=1, temperature=1.0, max_new_tokens=3, forced_eos_id=None)

    def frequencies(**changes: Any) -> torch.Tensor:
        drawn = [
            generate(model, photos(1), dataclasses.replace(warm, seed=seed, **changes))[0].ids[2] for seed in range(600)
        ]
        return torch.tensor([drawn.count(id) / 600 for id in range(5)])

    assert (frequencies() - torch.tensor([0.5, 0.2, 0.15, 0.1, 0.05])).abs().max() < 0.06
    assert (frequencies(top_k=2) - torch.tensor([0.714, 0.286, 0, 0, 0])).abs().max() < 0.06
    assert (frequencies(top_p=0.6) - torch.tensor([0.714, 0.286, 0, 0, 0])).abs().max() < 0.06
    assert (frequencies(temperature=0.5) - torch.tensor([0.769, 0.123, 0.069, 0.031, 0.008])).abs().max() < 0.06


def test_sampling_keeps_the_log_probabilities_of_the_model() -> None:
    model = MockModel(random_table(20, seed=4))
    answer = generate(model, photos(1), policy(num_beams=1, temperature=3.0, top_k=5, seed=1, forced_eos_id=None))[0]
    assert answer.logprobs == pytest.approx(log_probability(model, answer.ids), abs=1e-5)


def test_half_precision_is_scored_in_single() -> None:
    model = MockModel(random_table(50, seed=6).half())
    answer = generate(model, photos(1), policy(num_beams=3))[0]
    exact = MockModel(model.table.float())
    assert answer == generate(exact, photos(1), policy(num_beams=3))[0]


def test_a_budget_beyond_the_position_table_is_refused() -> None:
    model = MockModel(torch.zeros(5, 5), max_positions=16)
    with pytest.raises(ConfigError, match="max_new_tokens is 17, the position table of the model ends at 16"):
        generate(model, photos(1), policy(max_new_tokens=17))


def test_one_automaton_per_row_is_expected() -> None:
    with pytest.raises(ConfigError, match="2 automata were given for 3 rows"):
        generate(MockModel(torch.zeros(5, 5)), photos(3), policy(), [None, None])


@pytest.mark.parametrize("beams", [1, 3])
def test_a_model_that_computes_no_numbers_is_named(beams: int) -> None:
    with pytest.raises(Florence2Error, match=r"no numbers \(NaN\) for row 0 in torch.float32"):
        generate(MockModel(torch.full((9, 9), torch.nan)), photos(2), policy(num_beams=beams))
