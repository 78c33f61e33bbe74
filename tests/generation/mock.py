"""A decoder without weights: what comes next depends on the last token and the photo alone, by a table."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from florence2.config import Florence2Config, TextConfig
from florence2.model import Memory


class MockModel:
    """Logits of the next token = ``table[last token]`` + what the photo adds. Counts the rows that it decodes."""

    def __init__(self, table: Tensor, photos: Tensor | None = None, max_positions: int = 512) -> None:
        V = table.shape[0]
        self.config = Florence2Config(text=TextConfig(vocab_size=V, max_positions=max_positions))
        self.table = table
        self.photos = torch.zeros(64, V) if photos is None else photos
        self.rows_decoded = 0

    def new_cache(self, rows: int, max_length: int) -> MockCache:
        return MockCache(rows)

    def decode(self, ids: Tensor, memory: Memory, cache: MockCache, words: slice | None = None) -> Tensor:
        assert cache.rows == ids.shape[0]
        cache.length += ids.shape[1]
        self.rows_decoded += ids.shape[0]
        photo = memory.states[:, 0, 0].long().repeat_interleave(ids.shape[0] // memory.rows)
        logits = self.table[ids] + self.photos[photo][:, None]
        return logits if words is None else logits[..., words]


class MockCache:
    def __init__(self, rows: int) -> None:
        self.rows, self.length = rows, 0

    def reorder(self, parents: Tensor) -> None:
        assert len(parents) == self.rows

    def select(self, rows: Tensor) -> None:
        self.rows = len(rows)


class ScriptModel(MockModel):
    """Says the ids of a script, one per step, whatever stands before; behind its end it begins again."""

    def __init__(self, script: Sequence[int], vocab_size: int, sure: float = 20.0) -> None:
        super().__init__(torch.zeros(vocab_size, 1))
        self.script, self.sure = list(script), sure

    def decode(self, ids: Tensor, memory: Memory, cache: MockCache, words: slice | None = None) -> Tensor:
        logits = torch.zeros(ids.shape[0], ids.shape[1], self.config.text.vocab_size)
        cache.length += ids.shape[1]
        logits[:, -1, self.script[(cache.length - 2) % len(self.script)]] = self.sure
        return logits if words is None else logits[..., words]


def photos(n: int, first: int = 0) -> Memory:
    """A memory of n rows that mock models tell apart."""
    states = torch.arange(first, first + n, dtype=torch.float32)[:, None, None]
    return Memory(states, None, (), ())


def random_table(vocab_size: int, seed: int, spread: float = 2.0) -> Tensor:
    return spread * torch.randn(vocab_size, vocab_size, generator=torch.Generator().manual_seed(seed))
