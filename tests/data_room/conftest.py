from __future__ import annotations

import pytest

from florence2.language.tasks import TASKS
from florence2.language.tokenizer import Tokenizer
from tests.tiny_checkpoint import SENTENCES


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """A small trained tokenizer with all special tokens."""
    return Tokenizer.train([*(task.prompt for task in TASKS.values()), *SENTENCES] * 20, 1420)
