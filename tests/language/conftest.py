from __future__ import annotations

import pytest

from florence2.language.tokenizer import Tokenizer

CORPUS = [
    "a man riding a red bicycle down the street, two dogs are running behind the car",
    "the text in the image says STOP, with regions; a woman holding an umbrella",
    "wheel door handle car truck person traffic light fire hydrant potted plant",
    "中文 日本語 Привет мир über café naïve emoji 🚗🚦",
] * 3


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """A small trained tokenizer with all special tokens."""
    return Tokenizer.train(CORPUS, 1420)
