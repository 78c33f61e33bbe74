"""One tiny checkpoint with a tokenizer of its own, and folders of it in every layout."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from florence2.checkpoints import Checkpoint, save
from florence2.language.tokenizer import Tokenizer
from tests.model.tiny import TINY, tiny_model

TEXTS = ["a dog and a cat on the mat", "What does the image describe?", "the red car"] * 20
WORDS = 1295


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, WORDS)


@pytest.fixture(scope="session")
def tiny(tokenizer: Tokenizer) -> Checkpoint:
    """Random weights, a bias that is not zero, and C = D, so that a forgotten transpose has no wrong shape."""
    config = dataclasses.replace(TINY, text=dataclasses.replace(TINY.text, vocab_size=WORDS))
    return Checkpoint(tiny_model(3, config), tokenizer, config)


@pytest.fixture(scope="session")
def biased(tiny: Checkpoint) -> Checkpoint:
    """The same with a logits bias, which the native layout cannot hold."""
    model = tiny_model(3, tiny.config)
    model.text.logits_bias.copy_(torch.linspace(-1, 1, WORDS))
    return dataclasses.replace(tiny, model=model)


@pytest.fixture
def microsoft(tiny: Checkpoint, tmp_path: Path) -> Path:
    return save(tiny, tmp_path / "microsoft", "microsoft")


def assert_same_weights(left: Checkpoint, right: Checkpoint) -> None:
    ours, theirs = left.model.state_dict(), right.model.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name].to(tensor.dtype)), name
