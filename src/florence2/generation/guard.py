"""The end of endless repeats: a structured answer may close only, once it has said the same thing twice.

A thing is what lies between two boundaries of the grammar: a box, a quad, the first three points of a polygon,
a further point. It is known by the words before it and its coordinates, hashed as they are written (64 bits), so
the same box under another label is another thing. A polygon may come back to a few of its points.
"""

from __future__ import annotations

import torch
from torch import Tensor

POINT_REVISITS = 8
"""Points of an answer that may repeat earlier ones before it counts as going round in circles."""
POINT = 2
"""Coordinates of a point."""

_BASE = 6364136223846793005
"""Odd, so that no bit is lost when it multiplies modulo 2**64 (Knuth's MMIX generator)."""
_APART = -7046029254386353131
"""Another one (2**64 divided by the golden ratio): with the same, a word of the next id at one coordinate less would be
the same thing."""


class RepeatGuard:
    """One per batch; ``closed`` (R,) says which rows may only end."""

    def __init__(self, rows: int, budget: int, device: torch.device) -> None:
        zeros = torch.zeros(rows, dtype=torch.long, device=device)
        self.words = zeros
        """Hash of the latest words."""
        self.in_words = zeros.bool()
        self.coordinates = zeros
        """Hash of the coordinates since the last boundary."""
        self.count = zeros
        """How many they are."""
        self.things = torch.zeros(rows, budget // POINT + 1, dtype=torch.long, device=device)
        """Hashes of what was said already; 0 where nothing is."""
        self.said = zeros
        self.revisits = zeros
        self.closed = zeros.bool()

    def advance(self, tokens: Tensor, word: Tensor, location: Tensor, boundary: Tensor) -> None:
        """Every row reads its token (R,): is it of a word, is it a location, does a boundary lie behind it."""
        begins = word & ~self.in_words
        self.words = torch.where(word, _mix(self.words.masked_fill(begins, 0), tokens), self.words)
        self.in_words = word
        self.coordinates = _mix(self.coordinates, tokens).masked_fill(~location, 0)
        self.count = (self.count + 1).masked_fill(~location, 0)

        thing = self.words * _APART + self.coordinates
        complete = boundary & (self.count > 0)
        again = complete & (self.things == thing[:, None]).any(-1)
        self.revisits = self.revisits + (again & (self.count == POINT))
        self.closed = self.closed | (again & (self.count > POINT)) | (self.revisits > POINT_REVISITS)
        # Rows without a complete thing write 0 into their next free place.
        self.things.scatter_(1, self.said[:, None], thing.masked_fill(~complete, 0)[:, None])
        self.said = self.said + complete
        self.coordinates = self.coordinates.masked_fill(boundary, 0)
        self.count = self.count.masked_fill(boundary, 0)

    def select(self, rows: Tensor) -> None:
        """Row i goes on from where row ``rows[i]`` stands."""
        for name, value in vars(self).items():
            setattr(self, name, value[rows])


class SingleGuard:
    """The same for a single answer, in plain numbers and without hashes."""

    def __init__(self) -> None:
        self.words: tuple[int, ...] = ()
        self.in_words = False
        self.coordinates: tuple[int, ...] = ()
        self.said: set[tuple[tuple[int, ...], tuple[int, ...]]] = set()
        self.revisits = 0
        self.closed = False

    def advance(self, token: int, word: bool, location: bool, boundary: bool) -> None:
        if word:
            self.words = (*self.words, token) if self.in_words else (token,)
        self.in_words = word
        self.coordinates = (*self.coordinates, token) if location else ()
        if not boundary:
            return
        if self.coordinates:
            thing = self.words, self.coordinates
            if thing in self.said:
                self.revisits += len(self.coordinates) == POINT
                self.closed |= len(self.coordinates) > POINT or self.revisits > POINT_REVISITS
            self.said.add(thing)
        self.coordinates = ()


def _mix(before: Tensor, value: Tensor) -> Tensor:
    return before * _BASE + value + 1
