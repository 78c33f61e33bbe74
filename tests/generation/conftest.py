"""A small vocabulary with every special token."""

from __future__ import annotations

import pytest

from florence2.language.tokenizer import Tokenizer

SENTENCES = [
    "a dog and a cat",
    "two men hold a red guitar",
    "the car behind the traffic light",
    "STOP",
    "dog",
    "hot dog",
]


@pytest.fixture(scope="package")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(SENTENCES * 20, vocab_size=1320)
