"""From what the decoder reads to answers: one door for greedy search, beams and sampling.

A photo that is finished stops costing: when half of the photos of a batch are done, the others go on without them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from florence2.config import DecodingPolicy
from florence2.errors import ConfigError, Florence2Error
from florence2.generation.beam import Beams
from florence2.generation.constraints import Constraint
from florence2.generation.drafts import Draft
from florence2.generation.greedy import Greedy
from florence2.generation.rows import Generated, Rows
from florence2.generation.single import SingleConstraint
from florence2.model.runtime import EncodedRows, Runtime

if TYPE_CHECKING:
    from florence2.language.grammar import Automaton


def generate(
    model: Runtime,
    memory: EncodedRows,
    policy: DecodingPolicy,
    automaton: Automaton | Sequence[Automaton | None] | None = None,
    draft: Draft | None = None,
) -> list[Generated]:
    """The best answer for each row of the memory.

    ``automaton`` is the grammar of the answers: one for all rows, or one per row (None: anything goes). It is
    used where ``policy.constrained``; then every answer is well-formed, however small ``max_new_tokens`` is.
    ``draft`` guesses ahead where a single row is decoded: fewer steps, the same answer.

    Raises :class:`ConfigError` where the budget exceeds the position table or is too small for any answer, and
    :class:`Florence2Error` where the model computes NaN.
    """
    return [best for best, *_ in alternatives(model, memory, policy, automaton, draft)]


@torch.inference_mode()
def alternatives(
    model: Runtime,
    memory: EncodedRows,
    policy: DecodingPolicy,
    automaton: Automaton | Sequence[Automaton | None] | None = None,
    draft: Draft | None = None,
) -> list[list[Generated]]:
    """As :func:`generate`, with all answers that the search ends with, best first: up to ``num_beams`` per row."""
    longest = model.config.text.max_positions
    if policy.max_new_tokens > longest:
        raise ConfigError(
            f"max_new_tokens is {policy.max_new_tokens}, the position table of the model ends at {longest}; "
            f"ask for at most {longest}"
        )
    automata = automaton if isinstance(automaton, Sequence) else [automaton] * memory.rows
    if len(automata) != memory.rows:
        raise ConfigError(f"{len(automata)} automata were given for {memory.rows} rows; give one per row, or one")
    constraint = None
    if policy.constrained and any(automata):
        device = memory.states.device
        kind = SingleConstraint if len(automata) == policy.num_beams == 1 and device.type == "cpu" else Constraint
        constraint = kind(automata, policy, model.config.text.vocab_size, device)
    rows = Rows(model, memory, policy, constraint, draft)
    search = Greedy(rows) if policy.num_beams == 1 else Beams(rows)

    answers: dict[int, list[Generated]] = {}
    photos = list(range(memory.rows))
    while not rows.full:
        running = (~search.step()).nonzero()[:, 0]
        if len(running) == 0:
            break
        if 2 * len(running) <= len(photos):
            answers.update(zip(photos, search.answers(), strict=True))
            search.keep(running)
            photos = [photos[i] for i in running.tolist()]
    answers.update(zip(photos, search.answers(), strict=True))
    for photo, found in answers.items():
        if not found or any(math.isnan(answer.score) for answer in found):
            raise Florence2Error(
                f"the decoder gave no numbers (NaN) for row {photo} in {memory.states.dtype}; the weights are damaged, "
                'or this type overflows: load the model with dtype="float32" or "bfloat16"'
            )
    return [answers[photo] for photo in range(memory.rows)]
