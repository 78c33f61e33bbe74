"""60 decodings of Microsoft's code, token for token, with their scores (golden/README.md)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from florence2.config import SHIPPED_POLICY, DecodingPolicy
from florence2.generation import Generated, beam, rows
from florence2.generation.rows import repeats_ngram
from florence2.generation.search import alternatives
from florence2.model import Cache, Florence2Model
from tests.golden.reference import load_reference

VARIANTS = ["greedy", "greedy_ngram3", "beam3", "beam3_default", "beam3_ngram3_no_early_stop", "beam4_lp2_ret2"]
CASES = [*(f"case{i}" for i in range(8)), "batch_padded", "batch_equal"]
TOLERANCE = 1e-4
CHANGES: dict[str, Any] = {}
"""Settings that the planted faults change."""
read = beam.Hypotheses.read


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "packed"])
def model(golden: Path, request: pytest.FixtureRequest) -> Florence2Model:
    return load_reference(golden, packed=request.param)


@pytest.fixture(scope="module")
def recorded(golden: Path) -> dict[str, Any]:
    return json.loads((golden / "generate.json").read_text())


@pytest.fixture(scope="module")
def pixels(golden: Path) -> dict[str, Tensor]:
    values = load_file(golden / "generate.safetensors")
    values["batch_equal.pixel_values"] = values["batch_padded.pixel_values"][:3]
    return values


def policy_of(settings: dict[str, Any], max_new_tokens: int) -> DecodingPolicy:
    """The recorded arguments of the reference's ``generate`` on top of the shipped settings."""
    known = {name: settings[name] for name in settings.keys() - {"do_sample", "num_return_sequences"}}
    return dataclasses.replace(SHIPPED_POLICY, max_new_tokens=max_new_tokens, **{**known, **CHANGES})


def decode(
    model: Florence2Model, recorded: dict[str, Any], pixels: dict[str, Tensor], case: str, variant: str
) -> tuple[list[Generated], dict[str, Any]]:
    """(ours, recorded). The reference attends to the padding of its prompts: no prompt mask."""
    given = next(entry for entry in recorded["cases"] if entry["case"] == case)
    settings = recorded["variants"][variant]
    returned = settings.get("num_return_sequences", 1)
    with torch.inference_mode():
        image_tokens = model.encode_image(pixels[f"{case}.pixel_values"].float())
        memory = model.encode(image_tokens, torch.tensor(given["input_ids"]))
    found = alternatives(model, memory, policy_of(settings, given["max_new_tokens"]))
    return [answer for photo in found for answer in photo[:returned]], given["outputs"][variant]


def mismatches(ours: list[Generated], theirs: dict[str, Any]) -> list[str]:
    """In what the two differ; the reference's sequences are padded behind their end."""
    wrong = []
    assert len(ours) == len(theirs["sequences"])
    for i, (answer, sequence) in enumerate(zip(ours, theirs["sequences"], strict=True)):
        n = len(answer.ids)
        if list(answer.ids) != sequence[:n] or any(id != 1 for id in sequence[n:]):
            wrong.append(f"row {i}: tokens {answer.ids} instead of {sequence}")
            continue
        if "sequences_scores" in theirs and abs(answer.score - theirs["sequences_scores"][i]) > TOLERANCE:
            wrong.append(f"row {i}: score {answer.score} instead of {theirs['sequences_scores'][i]}")
        if "transition_scores" in theirs:
            expected = theirs["transition_scores"][i][: n - 1]
            if max(abs(a - b) for a, b in zip(answer.logprobs, expected, strict=True)) > TOLERANCE:
                wrong.append(f"row {i}: log-probabilities")
    return wrong


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("case", CASES)
def test_decoding(
    model: Florence2Model, recorded: dict[str, Any], pixels: dict[str, Tensor], case: str, variant: str
) -> None:
    assert mismatches(*decode(model, recorded, pixels, case, variant)) == []


def test_all_recorded_decodings_are_covered(recorded: dict[str, Any]) -> None:
    assert [entry["case"] for entry in recorded["cases"]] == CASES
    assert list(recorded["variants"]) == VARIANTS
    assert sum(len(entry["outputs"]) for entry in recorded["cases"]) == len(CASES) * len(VARIANTS) == 60


def ban_is_too_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault: the n-gram ban notices a run of one id more than it should."""
    monkeypatch.setattr(rows, "repeats_ngram", lambda ids, size, V: repeats_ngram(ids, size + 1, V))


def cache_keeps_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault: beams change places, their keys and values stay."""
    monkeypatch.setattr(Cache, "reorder", lambda self, parents: None)


def worst_answer_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault: finished answers are ranked the wrong way round."""
    monkeypatch.setattr(beam.Hypotheses, "read", lambda self: [photo[::-1] for photo in read(self)])


def length_counts_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault: another length penalty than the policy's."""
    monkeypatch.setitem(CHANGES, "length_penalty", 1.1)


def nothing_is_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault: the model chooses its first token itself."""
    monkeypatch.setitem(CHANGES, "forced_bos_id", None)


@pytest.mark.parametrize(
    "fault", [ban_is_too_narrow, cache_keeps_its_order, worst_answer_wins, length_counts_twice, nothing_is_forced]
)
def test_decoding_notices_a_fault(
    monkeypatch: pytest.MonkeyPatch,
    model: Florence2Model,
    recorded: dict[str, Any],
    pixels: dict[str, Tensor],
    fault: Callable[[pytest.MonkeyPatch], None],
) -> None:
    fault(monkeypatch)
    assert any(mismatches(*decode(model, recorded, pixels, case, "beam3_default")) for case in ("case4", "batch_equal"))
