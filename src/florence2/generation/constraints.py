"""Only what the grammar allows: the automata of a batch as one table, and where each row stands in it.

Several grammars may meet in a batch. Their states are numbered through in one table, so that a step is the same
few gathers whatever the mixture; only the classes of the tokens differ per grammar (closed labels split them).
A row without a grammar stands in a table of one state that allows everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from florence2.config import DecodingPolicy
from florence2.errors import ConfigError
from florence2.generation.guard import RepeatGuard
from florence2.language.automaton import LOCATION, OTHER, TEXT, TensorAutomaton
from florence2.language.quantizer import BINS

if TYPE_CHECKING:
    from florence2.language.grammar import Automaton

SPARE, OPEN = 2, 3
"""Registers behind the two of a box: one that is written where nothing need be kept, one below every location."""


class Constraint:
    """The grammar of each photo, applied to its ``policy.num_beams`` rows."""

    def __init__(
        self, automata: Sequence[Automaton | None], policy: DecodingPolicy, vocab_size: int, device: torch.device
    ) -> None:
        different = list(dict.fromkeys(automata))
        tables = [free(vocab_size, device) if a is None else a.to(device, vocab_size) for a in different]
        self._check_budget(tables, policy)
        self._join(tables)
        place = {automaton: i for i, automaton in enumerate(different)}
        photos = torch.tensor([place[automaton] for automaton in automata], device=device)
        rows = photos.repeat_interleave(policy.num_beams)  # (R,) which grammar
        starts = torch.tensor([table.start for table in tables], device=device)
        self.state = (starts + self.offsets)[rows]
        # One grammar for all, the usual case, needs no copy of its classes per row.
        self.token_class = self.class_of.expand(len(rows), -1) if len(tables) == 1 else self.class_of[rows]  # (R, V)
        self.registers = torch.full((len(rows), 4), -1, device=device)
        self.guard = RepeatGuard(len(rows), policy.max_new_tokens, device) if policy.repeat_guard else None

    def allowed(self) -> Tensor:
        """(R, V) True for what the grammar allows next; where the guard says so, only for what leads to the end."""
        classes = self.allows[self.state]  # (R, C)
        if self.guard is not None:
            classes = classes & (self.closing[self.state] | ~self.guard.closed[:, None])
        floor = self.registers.gather(1, self.floor[self.state][:, None])  # (R, 1)
        return classes.gather(1, self.token_class) & (self.bins >= floor)

    def only_locations(self) -> tuple[Tensor, slice]:
        """((R,) True for rows that may write nothing but a location next, the ids of the location tokens)."""
        return self.only_location[self.state], self.locations

    def forced(self) -> Tensor:
        """(R,) True for rows that may write one token and no other next."""
        return self.alone[self.state]

    def leaves_a_choice(self, finished: Tensor) -> bool:
        """Whether any row that is not ``finished`` may write more than one token next."""
        return not bool((self.forced() | finished).all())

    def within(self, left: int) -> Tensor:
        """(R, V) True for the tokens behind which the answer can still be ended, ``left`` tokens in all."""
        return (self.needs[self.state] <= left).gather(1, self.token_class)

    def advance(self, tokens: Tensor) -> None:
        """Every row reads its token (R,)."""
        read = self.token_class.gather(1, tokens[:, None])  # (R, 1)
        self.registers.scatter_(1, self.store[self.state][:, None], self.bins[tokens][:, None])
        self.state = self.next[self.state].gather(1, read)[:, 0]
        if self.guard is not None:
            read = read[:, 0]
            word = (read == TEXT) | (read > OTHER)  # closed labels have classes of their own
            self.guard.advance(tokens, word, read == LOCATION, self.boundary[self.state])

    def reorder(self, parents: Tensor) -> None:
        """Row i goes on from where row ``parents[i]`` of the same photo stands."""
        self.state, self.registers = self.state[parents], self.registers[parents]
        if self.guard is not None:
            self.guard.select(parents)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        self.reorder(rows)
        one = len(self.offsets) == 1
        self.token_class = self.token_class[: len(rows)] if one else self.token_class[rows]

    def _join(self, tables: list[TensorAutomaton]) -> None:
        sizes = torch.tensor([0] + [table.next.shape[0] for table in tables[:-1]])
        self.offsets = sizes.cumsum(0).to(tables[0].next.device)
        C = max(table.next.shape[1] for table in tables)

        def wide(name: str) -> list[Tensor]:
            """(S, C) tables of equal width; what is added is never allowed."""
            return [F.pad(getattr(table, name), (0, C - table.next.shape[1])) for table in tables]

        distance = torch.cat([table.distance for table in tables])
        self.next = torch.cat([table + offset for table, offset in zip(wide("next"), self.offsets, strict=True)])
        self.allows = torch.cat(wide("allows"))
        self.closing = torch.cat(wide("closing"))
        self.class_of = torch.stack([table.class_of for table in tables])  # (grammars, V)
        self.boundary = torch.cat([table.boundary for table in tables])
        store, floor = (torch.cat([getattr(table, name) for table in tables]) for name in ("store", "floor"))
        self.store = store.masked_fill(store < 0, SPARE)
        self.floor = floor.masked_fill(floor < 0, OPEN)
        counts = [
            table.allows.float() @ table.class_of.bincount(minlength=table.allows.shape[1]).float() for table in tables
        ]
        self.alone = torch.cat(counts) == 1
        others = torch.arange(C, device=self.allows.device) != LOCATION
        self.only_location = self.allows[:, LOCATION] & ~(self.allows & others).any(-1)
        # Tokens that are no locations pass every floor.
        location = torch.stack([table.location for table in tables]).amax(0)  # (V,)
        first = int(location.eq(0).int().argmax())
        self.locations = slice(first, first + BINS)
        self.no_location = location < 0
        self.bins = location.masked_fill(location < 0, BINS)
        self.needs = 1 + distance[self.next]  # (S, C) tokens to the end if this class is read now
        self.patience = int(self.needs[self.allows].max())
        """With so many tokens left or more the budget forbids nothing."""

    def _check_budget(self, tables: list[TensorAutomaton], policy: DecodingPolicy) -> None:
        forced = policy.forced_bos_id is not None
        shortest = max(int(table.distance[table.start]) for table in tables) + forced
        if policy.max_new_tokens < shortest:
            raise ConfigError(
                f"max_new_tokens is {policy.max_new_tokens}; the shortest answer that the grammar allows has "
                f"{shortest} tokens, the forced ones included; ask for at least that many"
            )


def free(vocab_size: int, device: torch.device) -> TensorAutomaton:
    """One state that allows every token and may end any time."""
    nowhere = torch.full((1,), -1, device=device)
    return TensorAutomaton(
        next=torch.zeros(1, 1, dtype=torch.long, device=device),
        allows=torch.ones(1, 1, dtype=torch.bool, device=device),
        closing=torch.ones(1, 1, dtype=torch.bool, device=device),
        class_of=torch.zeros(vocab_size, dtype=torch.long, device=device),
        location=nowhere.expand(vocab_size),
        accepting=torch.ones(1, dtype=torch.bool, device=device),
        boundary=torch.zeros(1, dtype=torch.bool, device=device),
        distance=torch.zeros(1, dtype=torch.long, device=device),
        store=nowhere,
        floor=nowhere,
        start=0,
    )
