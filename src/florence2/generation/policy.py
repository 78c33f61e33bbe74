"""Which search a task gets: the settings of the checkpoint, of the task, and of the caller, in this order."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, Protocol

from florence2.config import DecodingPolicy, Florence2Config
from florence2.errors import ConfigError


class HasPolicy(Protocol):
    """A task, as far as decoding is concerned."""

    @property
    def policy(self) -> Literal["text", "reading", "structured"]: ...


READING_NGRAM_SIZE = 10
"""Tokens that may not come twice in a text that is read: enough to end a loop, too many for what people print."""


def policy_for(
    task: HasPolicy, config: Florence2Config, reference: bool = False, closed: bool = False, **overrides: Any
) -> DecodingPolicy:
    """The policy under which ``task`` is decoded.

    A text task is searched as the checkpoint ships (3 beams, no repeated 3-grams, early stopping), with its
    grammar on top. A text that is read off the photo may say three tokens twice ("banana" letter by letter,
    "1,000,000", lines of a form): there the ban begins at ten. A structured task (boxes, quads, polygons) is
    constrained by its grammar and guarded against repeats, and the n-gram ban is off: it would forbid two boxes that
    share three consecutive coordinates. It is decoded greedily: beams compare means of log-probabilities and favour
    short lists, so they find fewer objects, in more time (docs/log.md has the figures). Where a list of labels closes
    the answers (``closed``) the beams stay: there the short answer, nothing, must be able to win.
    ``reference`` gives the checkpoint's settings and nothing else, for people who want the reference's tokens.

    ``overrides`` are fields of :class:`DecodingPolicy`; None leaves a field alone. ``temperature`` above 0
    implies one beam unless ``num_beams`` is given. ``max_new_tokens`` never exceeds the position table.

    Raises :class:`ConfigError` for an unknown field, or values that contradict each other.
    """
    shipped = config.generation
    if reference:
        policy = dataclasses.replace(shipped, constrained=False, repeat_guard=False)
    elif task.policy == "text":
        policy = dataclasses.replace(shipped, constrained=True, repeat_guard=False)
    elif task.policy == "reading":
        longer = max(shipped.no_repeat_ngram_size, READING_NGRAM_SIZE) if shipped.no_repeat_ngram_size else 0
        policy = dataclasses.replace(shipped, constrained=True, repeat_guard=False, no_repeat_ngram_size=longer)
    else:
        beams = shipped.num_beams if closed else 1
        policy = dataclasses.replace(
            shipped, constrained=True, repeat_guard=True, no_repeat_ngram_size=0, num_beams=beams
        )

    known = [field.name for field in dataclasses.fields(DecodingPolicy)]
    for name in overrides:
        if name not in known:
            raise ConfigError(f"unknown decoding option {name!r}; known: {', '.join(known)}")
    chosen = {name: value for name, value in overrides.items() if value is not None}
    if chosen.get("temperature", 0.0) > 0:
        chosen.setdefault("num_beams", 1)
    budget = chosen.get("max_new_tokens", policy.max_new_tokens)
    return dataclasses.replace(policy, **{**chosen, "max_new_tokens": min(budget, config.text.max_positions)})
