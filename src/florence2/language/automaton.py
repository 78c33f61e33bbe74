"""The automaton of an answer: tables that constrain decoding, check targets and cut ids into segments.

One state per place where a token was read; tokens matter only by their class. ``grammar.compile`` builds it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from florence2.language.quantizer import BINS

if TYPE_CHECKING:
    import torch

TEXT, LOCATION, POLY, END_POLY, SEP, BOS, EOS, OTHER = range(8)
"""Token classes. OTHER (pad, unk, mask, further special tokens) is allowed nowhere."""

CLASS_NAMES = ("text", "location", "<poly>", "</poly>", "<sep>", "<s>", "</s>", "other")


def class_name(token_class: int) -> str:
    """How messages call a class; those behind OTHER are the tokens of closed labels."""
    return CLASS_NAMES[token_class] if token_class < len(CLASS_NAMES) else "label"


@dataclass(frozen=True)
class Segment:
    """A captured part of an answer: its kind and the positions of its tokens in the ids."""

    kind: str
    positions: tuple[int, ...]


@dataclass(frozen=True)
class Dropped:
    """Tokens that fit nowhere, and why."""

    positions: tuple[int, ...]
    reason: str


@dataclass(frozen=True, eq=False)
class Automaton:
    """A compiled grammar: S states, C token classes, V ids. State ``start`` is behind the forced ``<s>``.

    ``edges[s]`` maps a class to (next state, does a segment begin here). All other per-state lists are described
    in :class:`TensorAutomaton`.
    """

    edges: tuple[dict[int, tuple[int, bool]], ...]
    kind: tuple[str, ...]
    """Kind of the segment whose token led to the state; empty for none."""
    accepting: tuple[bool, ...]
    boundary: tuple[bool, ...]
    store: tuple[int, ...]
    floor: tuple[int, ...]
    distance: tuple[int, ...]
    classes: int
    class_of: tuple[int, ...]
    labels: dict[tuple[int, ...], str] | None
    """Token ids -> the label as its owner wrote it, where the labels are a closed list."""
    bos_id: int
    pad_id: int
    eos_id: int
    first_location_id: int
    start: int = 0

    def to(self, device: torch.device | str = "cpu", vocab_size: int | None = None) -> TensorAutomaton:
        """The tables as tensors. ``vocab_size`` is the model's, where it has more rows than the tokenizer has ids."""
        return _tensors(self, str(device), max(vocab_size or 0, len(self.class_of)))

    def body(self, ids: Sequence[int]) -> range:
        """Positions of the answer itself: behind the start token and the forced ``<s>``, before the padding."""
        begin, end = 0, len(ids)
        while end and ids[end - 1] == self.pad_id:
            end -= 1
        if end > 1 and ids[0] == self.eos_id:
            begin = 1
        if begin < end and ids[begin] == self.bos_id:
            begin += 1
        return range(begin, end)

    def accepts(self, ids: Sequence[int]) -> bool:
        """Is this a whole, well-formed answer, ``</s>`` included? Start token, ``<s>`` and padding may be there."""
        return self.rejection(ids) is None

    def rejection(self, ids: Sequence[int]) -> str | None:
        """Why ``accepts`` says no: the first token that may not stand where it stands; None for a good answer."""
        state, registers = self.start, [0, 0]
        for i in self.body(ids):
            token_class = self._class_of(ids[i])
            edge = self.edges[state].get(token_class)
            if edge is None:
                expected = " or ".join(dict.fromkeys(map(class_name, self.edges[state]))) or "nothing more"
                return f"token {i} ({class_name(token_class)}, id {ids[i]}) does not fit; expected {expected}"
            if token_class == LOCATION:
                n = ids[i] - self.first_location_id
                if self.floor[state] >= 0 and n < registers[self.floor[state]]:
                    return f"token {i} (<loc_{n}>) ends the box before its beginning; write the smaller one first"
                if self.store[state] >= 0:
                    registers[self.store[state]] = n
            state = edge[0]
        return None if self.accepting[state] else f"the answer ends without </s> after {len(ids)} tokens"

    def segments(self, ids: Sequence[int]) -> tuple[list[Segment], list[Dropped]]:
        """Cuts any ids into segments, and names what was left out. Whatever is accepted is kept whole.

        A token that does not fit takes back everything since the last complete part; it is then read behind that
        part, or as the beginning of a new object, or dropped. Stray special tokens are stepped over.
        """
        kept: list[tuple[int, int, bool]] = []  # (position, state behind it, does a segment begin)
        dropped: list[Dropped] = []
        state, whole, whole_state = self.start, 0, self.start  # kept[:whole] is complete and ends in whole_state

        def take_back() -> None:
            if len(kept) > whole:
                positions = tuple(position for position, _, _ in kept[whole:])
                dropped.append(Dropped(positions, self._why_incomplete(kept[whole:])))
                del kept[whole:]

        for i in self.body(ids):
            token_class = self._class_of(ids[i])
            if token_class == EOS:
                break
            edge = self.edges[state].get(token_class)
            if edge is None:
                if token_class in (OTHER, BOS):
                    dropped.append(Dropped((i,), "stray token"))
                    continue
                take_back()
                edge = self.edges[whole_state].get(token_class)
                if edge is None:
                    state = whole_state = self.start
                    edge = self.edges[state].get(token_class)
                if edge is None:
                    dropped.append(Dropped((i,), "does not fit"))
                    continue
            state, begins = edge
            kept.append((i, state, begins))
            if self.boundary[state] or EOS in self.edges[state]:
                whole, whole_state = len(kept), state
        if EOS not in self.edges[state]:
            take_back()
        return self._grouped(kept), _merged(dropped)

    def _grouped(self, kept: list[tuple[int, int, bool]]) -> list[Segment]:
        groups: list[tuple[str, list[int]]] = []
        for position, state, begins in kept:
            if not self.kind[state]:
                continue
            if begins:
                groups.append((self.kind[state], []))
            groups[-1][1].append(position)
        return [Segment(kind, tuple(positions)) for kind, positions in groups]

    def _why_incomplete(self, pending: list[tuple[int, int, bool]]) -> str:
        kind = self.kind[pending[-1][1]]
        if kind == "label":
            return "text without coordinates"
        if kind == "polygon":
            begun = any(begins and self.kind[state] == kind for _, state, begins in pending)
            return "polygon of fewer than 3 points" if begun else "odd coordinate"
        return f"incomplete {kind}"

    def _class_of(self, id: int) -> int:
        return self.class_of[id] if 0 <= id < len(self.class_of) else OTHER


@dataclass(frozen=True, eq=False)
class TensorAutomaton:
    """The tables of an automaton on a device.

    A step of constrained decoding, for rows in the states ``state`` (R,):

        allowed = allows[state][:, class_of]                               # (R, V)
        state   = next[state, class_of[token]]                             # (R,)

    A location n is allowed only if ``n >= register[floor[state]]`` (floor -1: no condition), and is written to
    ``register[store[state]]`` (store -1: nowhere).
    """

    next: torch.Tensor  # (S, C) long; a state leads to itself where the class is not allowed
    allows: torch.Tensor  # (S, C) bool
    closing: torch.Tensor  # (S, C) bool: classes on a shortest way to the end
    class_of: torch.Tensor  # (V,) long
    location: torch.Tensor  # (V,) long: the bin of a location token, else -1
    accepting: torch.Tensor  # (S,) bool: behind </s>
    boundary: torch.Tensor  # (S,) bool: an object, box, quad or point was just completed
    distance: torch.Tensor  # (S,) long: tokens to the end by the shortest way, </s> included
    store: torch.Tensor  # (S,) long
    floor: torch.Tensor  # (S,) long
    start: int


@functools.lru_cache(maxsize=32)
def _tensors(automaton: Automaton, device: str, vocab_size: int) -> TensorAutomaton:
    import torch

    states, classes = len(automaton.edges), automaton.classes
    ways = [(s, c, target) for s, edges in enumerate(automaton.edges) for c, (target, _) in edges.items()]
    source, token_class, target = torch.tensor(ways, dtype=torch.long).T
    distance = torch.tensor(automaton.distance)
    next_state = torch.arange(states)[:, None].repeat(1, classes)
    next_state[source, token_class] = target
    allows = torch.zeros(states, classes, dtype=torch.bool)
    allows[source, token_class] = True
    closing = torch.zeros(states, classes, dtype=torch.bool)
    closing[source, token_class] = distance[target] < distance[source]
    class_of = torch.full((vocab_size,), OTHER)
    class_of[: len(automaton.class_of)] = torch.tensor(automaton.class_of)
    location = torch.full((vocab_size,), -1)
    location[automaton.first_location_id : automaton.first_location_id + BINS] = torch.arange(BINS)
    return TensorAutomaton(
        next=next_state.to(device),
        allows=allows.to(device),
        closing=closing.to(device),
        class_of=class_of.to(device),
        location=location.to(device),
        accepting=torch.tensor(automaton.accepting, device=device),
        boundary=torch.tensor(automaton.boundary, device=device),
        distance=distance.to(device),
        store=torch.tensor(automaton.store, device=device),
        floor=torch.tensor(automaton.floor, device=device),
        start=automaton.start,
    )


def _merged(dropped: list[Dropped]) -> list[Dropped]:
    """Neighbours that were dropped for the same reason, as one."""
    merged: list[Dropped] = []
    for item in dropped:
        if merged and merged[-1].reason == item.reason and merged[-1].positions[-1] + 1 == item.positions[0]:
            merged[-1] = Dropped(merged[-1].positions + item.positions, item.reason)
        else:
            merged.append(item)
    return merged
