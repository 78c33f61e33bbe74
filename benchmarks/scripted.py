"""A model of true size that computes every step and then says what a script says.

No checkpoint is at hand that answers as the published ones do. Random weights write words and hardly a location, so the
steps that take longest; which steps an answer has is up to the script.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from florence2.language.tokenizer import Tokenizer
from florence2.model import Cache, Florence2Model, Memory


class Scripted:
    """Counts its steps. The words of the script are put on top of the logits: the grammar of a task is at work as it is
    in a call, and a step that can only say a location projects to the locations only."""

    def __init__(self, model: Florence2Model, script: list[int]) -> None:
        self.model, self.script, self.steps = model, script, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def decode(self, ids: Tensor, memory: Memory, cache: Cache, words: slice | None = None) -> Tensor:
        self.steps += 1
        first = cache.length + 1
        logits = self.model.decode(ids, memory, cache, words)
        for column in range(ids.shape[1]):
            said = self.script[min(first + column, len(self.script) - 1)]
            logits[:, column, said - (words.start if words else 0)] += 100
        return logits


def script(tokenizer: Tokenizer, names: Iterable[str], apart: int) -> list[int]:
    """The ids of an answer: each name and a box, the boxes so many bins apart."""
    said = [tokenizer.eos_id, tokenizer.bos_id]
    for number, name in enumerate(names):
        corners = (tokenizer.location_id(apart * number + corner) for corner in (1, 2, 301, 402))
        said += [*tokenizer.encode_plain(name), *corners]
    return [*said, tokenizer.eos_id]


def report(result: dict[str, Any], output: Path | None) -> None:
    """Prints a result, and keeps it in ``output``.json."""
    text = json.dumps(result, indent=1)
    print(text)
    if output:
        output.with_suffix(".json").write_text(text + "\n")
