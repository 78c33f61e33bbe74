"""The constraint of a single answer: where it stands is kept in plain numbers.

A tensor of one number costs a few microseconds for each thing that is done with it, and a token is some forty things.
For several answers those forty are done once for all of them, which is what the tensors are for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from florence2.config import DecodingPolicy
from florence2.generation.constraints import Constraint
from florence2.generation.guard import SingleGuard
from florence2.language.automaton import LOCATION, OTHER, TEXT

if TYPE_CHECKING:
    from florence2.language.grammar import Automaton


class SingleConstraint(Constraint):
    """The grammar of one photo, without beams, on a CPU."""

    def __init__(
        self, automata: Sequence[Automaton | None], policy: DecodingPolicy, vocab_size: int, device: torch.device
    ) -> None:
        super().__init__(automata, policy, vocab_size, device)
        self.at = int(self.state)
        self.register = self.registers[0].tolist()
        self.states = torch.arange(len(self.next))
        # The same memory, number by number.
        self.moves, self.stores, self.floors = self.next.numpy(), self.store.numpy(), self.floor.numpy()
        self.is_alone = self.alone.numpy()
        self.kind_of, self.bin_of = self.token_class[0].numpy(), self.bins.numpy()
        self.watch = None if self.guard is None else SingleGuard()
        self.masks: dict[tuple[bool, ...], Tensor] = {}
        """Which tokens (1, V) belong to a set of classes; an answer meets the same few sets again and again."""
        self.mask_at: dict[tuple[int, bool], Tensor] = {}
        """The one of a state, by whether the guard has closed it."""

    def allowed(self) -> Tensor:
        closed = self.watch is not None and self.watch.closed
        mask = self.mask_at.get((self.at, closed))
        if mask is None:
            classes = self.allows[self.at] & self.closing[self.at] if closed else self.allows[self.at]
            key = tuple(classes.tolist())
            if key not in self.masks:
                self.masks[key] = classes[self.token_class]
            mask = self.mask_at[self.at, closed] = self.masks[key]
        floor = self.register[self.floors[self.at]]
        return mask if floor < 0 else mask & (self.bins >= floor)

    def leaves_a_choice(self, finished: Tensor) -> bool:
        return not self.is_alone[self.at]

    def advance(self, tokens: Tensor) -> None:
        token = int(tokens)
        kind = int(self.kind_of[token])
        self.register[self.stores[self.at]] = int(self.bin_of[token])
        self.at = int(self.moves[self.at, kind])
        self.state = self.states[self.at : self.at + 1]
        if self.watch is not None:
            word = kind == TEXT or kind > OTHER
            self.watch.advance(token, word, kind == LOCATION, bool(self.boundary[self.at]))

    def reorder(self, parents: Tensor) -> None:
        raise NotImplementedError("a single answer has no other parent")
