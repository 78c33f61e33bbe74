"""A whole checkpoint with random weights and a tokenizer of its own: every task answers, in milliseconds, nonsense."""

from __future__ import annotations

import dataclasses
import functools

from PIL import Image, ImageDraw

from florence2.checkpoints import Checkpoint
from florence2.language.tasks import TASKS
from florence2.language.tokenizer import Tokenizer
from tests.model.tiny import TINY, tiny_model

WORDS = 1400
SENTENCES = (
    "a man holding a red guitar",
    "a dog and a cat on the mat",
    "how many people are there?",
    "car wheel person",
)


@functools.cache
def tiny_checkpoint() -> Checkpoint:
    tokenizer = Tokenizer.train([*(task.prompt for task in TASKS.values()), *SENTENCES] * 20, WORDS)
    config = dataclasses.replace(
        TINY,
        text=dataclasses.replace(TINY.text, vocab_size=WORDS, max_positions=160),
        generation=dataclasses.replace(TINY.generation, max_new_tokens=24),
    )
    return Checkpoint(tiny_model(1, config), tokenizer, config, source="tiny")


def picture(seed: int = 0, size: tuple[int, int] = (90, 60)) -> Image.Image:
    """Another picture for each seed."""
    image = Image.new("RGB", size, (40 * seed % 256, 90, 200 - 30 * seed % 200))
    brush = ImageDraw.Draw(image)
    brush.ellipse((5 + 7 * seed, 5, 45 + 7 * seed, 50), fill=(250, 60 * seed % 256, 30))
    return image
