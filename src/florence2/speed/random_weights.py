"""Checkpoints of a true size that have learned nothing: times do not depend on what a model says.

The vocabulary has the true size and build as well (byte-level BPE with its merges, then the marks of Florence-2): how
long a tokenizer takes to load depends on both.
"""

from __future__ import annotations

import itertools
import json
import string
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel

from florence2 import checkpoints
from florence2.config import PRESETS
from florence2.errors import ConfigError
from florence2.language.tokenizer import BASE_TOKENS, FLORENCE_TOKENS, Tokenizer
from florence2.model import Florence2Model, initialise

SPACE = "\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}"
"""How byte-level BPE writes the space before a word."""


def write(preset: str, folder: Path) -> Path:
    """Writes a checkpoint of this size with random weights, in float16 as the published ones; returns its folder."""
    if preset not in PRESETS:
        raise ConfigError(f"--random {preset}: the sizes are {', '.join(PRESETS)}")
    torch.manual_seed(0)
    chosen = PRESETS[preset]
    made = initialise(Florence2Model(chosen))
    checkpoint = checkpoints.Checkpoint(made, vocabulary(chosen.text.vocab_size), chosen)
    return checkpoints.save(checkpoint, folder, dtype="float16")


def vocabulary(size: int) -> Tokenizer:
    """A tokenizer of ``size`` tokens whose words are letters in all orders, short ones first."""
    letters = sorted(ByteLevel.alphabet())
    words = list(itertools.islice(_words(), size - len(BASE_TOKENS) - len(letters) - 1 - len(FLORENCE_TOKENS)))
    tokens = [*BASE_TOKENS, *letters, *words, "<mask>"]
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder)
        (files / "vocab.json").write_text(json.dumps({token: id for id, token in enumerate(tokens)}), "utf-8")
        merges = "".join(f"{word[:-1]} {word[-1]}\n" for word in words)
        (files / "merges.txt").write_text(merges, "utf-8")
        return Tokenizer.load(files)


def _words() -> Iterator[str]:
    """Each is one of those before it, or a letter, and one letter more."""
    for length in itertools.count(2):
        for begin in (SPACE, *string.ascii_lowercase):
            for rest in itertools.product(string.ascii_lowercase, repeat=length - 1):
                yield begin + "".join(rest)
