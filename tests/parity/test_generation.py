"""Tokens against transformers' native port: greedy and 3 beams under the shipped settings, on random weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from florence2.config import BASE, SHIPPED_POLICY, Florence2Config
from florence2.generation import generate
from florence2.model import Cache, Florence2Model
from tests.parity.native import SMALL, native_inputs, random_pair, with_vision

WEIGHTS = 20
ROWS = 10
SIZES = [(64, 64), (96, 128), (50, 131), (33, 200)]  # square, non-square, and padded windows in every stage
WINDOWS = [4, 7, 12]
BUDGET = 20
SEARCHES = {"greedy": {"num_beams": 1}, "beams": {"num_beams": 3}}


def batch(config: Florence2Config, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Photos (B, 3, H, W), prompts of unequal lengths (B, 9) and their mask."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(ROWS, 3, *SIZES[seed % len(SIZES)], generator=generator)
    prompts = torch.randint(4, config.text.vocab_size - 1, (ROWS, 9), generator=generator)
    mask = torch.arange(9) < torch.randint(2, 10, (ROWS, 1), generator=generator)
    return pixels, prompts.masked_fill(~mask, config.text.pad_id), mask


def ours_says(
    model: Florence2Model, pixels: Tensor, prompts: Tensor, mask: Tensor | None, settings: dict[str, Any]
) -> list[tuple[int, ...]]:
    policy = dataclasses.replace(SHIPPED_POLICY, max_new_tokens=BUDGET, **settings)
    with torch.inference_mode():
        memory = model.encode(model.encode_image(pixels), prompts, mask)
    return [answer.ids for answer in generate(model, memory, policy)]


def native_says(
    native: Any,
    config: Florence2Config,
    image_tokens: int,
    given: tuple[Tensor, Tensor, Tensor],
    settings: dict[str, Any],
) -> list[tuple[int, ...]]:
    pixels, prompts, mask = given
    with torch.inference_mode():
        sequences = native.generate(
            pixel_values=pixels,
            **native_inputs(config, image_tokens, prompts, mask),
            max_new_tokens=BUDGET,
            no_repeat_ngram_size=3,
            early_stopping=settings["num_beams"] > 1,
            do_sample=False,
            forced_bos_token_id=config.text.bos_id,
            forced_eos_token_id=config.text.eos_id,
            decoder_start_token_id=config.text.decoder_start_id,
            **settings,
        )
    ends = [row.index(config.text.eos_id, 1) + 1 for row in sequences.tolist()]
    return [tuple(row[:end]) for row, end in zip(sequences.tolist(), ends, strict=True)]


def talkative_pair(config: Florence2Config, seed: int) -> tuple[Any, Florence2Model]:
    """Equal random weights under which answers differ from photo to photo and end at different lengths."""
    native, ours = random_pair(config, seed=seed, gain=12.0)
    for embedding in (native.model.language_model.shared, ours.text.shared):
        embedding.weight.data[config.text.eos_id] *= 2.5
    return native, ours


def differing(
    seed: int, search: str, alter: Callable[[dict[str, Any]], None] = lambda given: None
) -> tuple[int, set[Any]]:
    """(rows whose tokens differ, all answers of the port). ``alter`` plants a fault in what our side is given."""
    config = with_vision(SMALL, window=WINDOWS[seed % len(WINDOWS)])
    native, ours = talkative_pair(config, seed)
    pixels, prompts, mask = batch(config, seed)
    with torch.inference_mode():
        image_tokens = ours.encode_image(pixels).shape[1]
    theirs = native_says(native, config, image_tokens, (pixels, prompts, mask), SEARCHES[search])
    given = {"model": ours, "pixels": pixels, "prompts": prompts, "mask": mask, "settings": dict(SEARCHES[search])}
    alter(given)
    mine = ours_says(**given)
    return sum(a != b for a, b in zip(mine, theirs, strict=True)), set(theirs)


@pytest.mark.slow
@pytest.mark.parametrize("search", SEARCHES)
def test_tokens_are_identical(search: str) -> None:
    """200 (weights, photo, prompt) cases: 20 sets of weights, batches of 10 unequal prompts with their mask."""
    answers: set[Any] = set()
    for seed in range(WEIGHTS):
        different, said = differing(seed, search)
        assert different == 0, f"weights {seed}: {different} of {ROWS} rows differ"
        answers |= said
    assert len(answers) > WEIGHTS * ROWS // 2
    assert len({len(answer) for answer in answers}) > BUDGET // 2


@pytest.mark.slow
def test_tokens_are_identical_once_at_full_base_size() -> None:
    """231 M parameters and the real vocabulary: two photos of 768 px, unequal prompts, both searches."""
    native, ours = random_pair(BASE, seed=3, gain=2.0)
    pixels, prompts, mask = (part[:2] for part in batch(BASE, seed=0))
    pixels = torch.nn.functional.interpolate(pixels, (768, 768))
    assert not mask.all()
    for settings in SEARCHES.values():
        theirs = native_says(native, BASE, 577, (pixels, prompts, mask), settings)
        assert ours_says(ours, pixels, prompts, mask, settings) == theirs
        assert theirs[0] != theirs[1]
        assert ours_says(ours, pixels.flip(0), prompts, mask, settings) != theirs  # the planted fault


def attend_to_padding(given: dict[str, Any]) -> None:
    given["mask"] = None


def lift_the_ban(given: dict[str, Any]) -> None:
    given["settings"]["no_repeat_ngram_size"] = 0


def do_not_force_the_opening(given: dict[str, Any]) -> None:
    given["settings"]["forced_bos_id"] = None


def shift_a_photo(given: dict[str, Any]) -> None:
    given["pixels"] = given["pixels"].roll(1, dims=0)


@pytest.mark.parametrize("fault", [attend_to_padding, lift_the_ban, do_not_force_the_opening, shift_a_photo])
@pytest.mark.parametrize("search", SEARCHES)
def test_a_fault_changes_tokens(search: str, fault: Callable[[dict[str, Any]], None]) -> None:
    assert differing(1, search, fault)[0] > 0


def test_beams_that_keep_their_caches_change_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cache, "reorder", lambda self, parents: None)
    assert differing(1, "beams")[0] > 0
