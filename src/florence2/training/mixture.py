"""Which photo stands at which place of the run, and what is asked about it: a pure function of the seed and the place.

The places of a run are numbered: step s of a batch of n photos takes the slots s*n ... s*n + n - 1. What stands in a
slot depends on nothing but the recipe and its number, so any number of processes and workers, stopped and started at
will, train on the same photos with the same crops and questions.

Slots come in rounds. In each round every source has its share of slots, in random order; a source goes through its
records in an order that changes with every pass.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from PIL import Image

from florence2.data.augment import Augment, augment
from florence2.data.records import Record
from florence2.data.targets import Choices, Target, pairs
from florence2.errors import ConfigError, Florence2Error

WEIGHED_ROUND = 1000
"""Slots of a round where sources are weighed: a share is exact to a thousandth."""
LONGEST_ROUND = 1_000_000
"""Without weights a round is one pass over all records, up to this many."""
TRIES = 8
"""Records that are tried in one slot before the run stops: a file may have vanished since the check."""


class Photos(Protocol):
    """Records with their photos by number."""

    def __len__(self) -> int: ...
    def __getitem__(self, number: int) -> tuple[Record, Image.Image]: ...


@dataclass(frozen=True)
class Source:
    """Photos, what they teach, and how."""

    name: str
    photos: Photos
    tasks: Mapping[str, float] = field(default_factory=dict)
    """Weight per task; empty: all that the records can teach, alike."""
    weight: float | None = None
    augment: Augment = field(default_factory=Augment)
    choices: Choices = field(default_factory=Choices)


@dataclass(frozen=True)
class Drawn:
    """What stands in a slot."""

    source: str
    record: Record
    photo: Image.Image
    targets: list[Target]
    skipped: tuple[str, ...] = ()
    """Records that could not be used in this slot, and why."""


class Mixture:
    """Sources → what is drawn in slot 0, 1, 2, ..."""

    def __init__(self, sources: Sequence[Source], seed: int, targets: int = 0) -> None:
        """``targets`` per photo; 0: all. Raises ConfigError for a source that is empty or has too small a weight."""
        self.sources, self.seed, self.targets = tuple(sources), seed, targets
        for source in sources:
            if len(source.photos) == 0:
                raise ConfigError(f"data.{source.name} has no record that teaches anything; look at its tasks")
        if all(source.weight is None for source in sources):
            self.shares = shares([len(source.photos) for source in sources], LONGEST_ROUND)
        else:
            self.shares = shares([source.weight or 0.0 for source in sources], WEIGHED_ROUND)
        for source, share in zip(sources, self.shares, strict=True):
            if share == 0:
                raise ConfigError(
                    f"data.{source.name}: its share of all photos is too small to be drawn; raise its weight"
                )

    def __len__(self) -> int:
        """Records of all sources."""
        return sum(len(source.photos) for source in self.sources)

    def locate(self, slot: int) -> tuple[int, int]:
        """(number of the source, number of the record) of a slot."""
        turn, offset = divmod(slot, sum(self.shares))
        order, rank = _round(self.shares, self.seed, turn)
        source = int(order[offset])
        passed, position = divmod(turn * self.shares[source] + int(rank[offset]), len(self.sources[source].photos))
        return source, int(_shuffled(len(self.sources[source].photos), self.seed, source, passed)[position])

    def draw(self, slot: int) -> Drawn:
        """Raises Florence2Error where not one of several records can be used."""
        rng = random.Random(f"{self.seed} {slot}")
        number, index = self.locate(slot)
        source = self.sources[number]
        skipped: list[str] = []
        for _ in range(TRIES):
            try:
                record, photo = source.photos[index]
                changed, seen = augment(record, photo, source.augment, rng)
                targets = self._choose(source, changed, rng)
                if not targets:  # a crop can leave nothing to say
                    changed, seen, targets = record, photo, self._choose(source, record, rng)
                if targets:
                    return Drawn(source.name, changed, seen, targets, tuple(skipped))
                skipped.append(f"{record.where}: nothing to teach")
            except Florence2Error as error:
                skipped.append(str(error))
            index = rng.randrange(len(source.photos))
        raise Florence2Error(
            f"data.{source.name}: {TRIES} records in a row cannot be used, the last: {skipped[-1]}; "
            "`florence2 data check` looks at all of them"
        )

    def _choose(self, source: Source, record: Record, rng: random.Random) -> list[Target]:
        choices = Choices(
            source.choices.order, rng.randrange(1 << 32), source.choices.negatives, source.choices.max_points
        )
        found = pairs(record, tuple(source.tasks) or None, choices)
        return choose(found, source.tasks, self.targets, rng)


def choose(targets: list[Target], weights: Mapping[str, float], count: int, rng: random.Random) -> list[Target]:
    """``count`` of them (0: all), drawn without putting back: a task by its weight, whatever number of targets it has.

    Source: Efraimidis and Spirakis (2006), "Weighted random sampling with a reservoir".
    """
    if not count or len(targets) <= count:
        return targets
    many: dict[str, int] = {}
    for target in targets:
        many[target.task] = many.get(target.task, 0) + 1
    keys = [rng.random() ** (many[t.task] / weights.get(t.task, 1.0)) for t in targets]
    best = sorted(range(len(targets)), key=keys.__getitem__, reverse=True)[:count]
    return [targets[i] for i in sorted(best)]


def shares(weights: Sequence[float], most: int) -> tuple[int, ...]:
    """Whole numbers in proportion to the weights, at most ``most`` together: the largest remainders are rounded up.

    Weights that are whole numbers and few enough are taken as they are.
    """
    total = sum(weights)
    if all(float(w).is_integer() for w in weights) and total <= most:
        return tuple(int(w) for w in weights)
    exact = [w / total * most for w in weights]
    whole = [int(e) for e in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (whole[i] - exact[i], i))
    for i in by_remainder[: most - sum(whole)]:
        whole[i] += 1
    return tuple(whole)


@functools.lru_cache(maxsize=4)
def _round(shares: tuple[int, ...], seed: int, turn: int) -> tuple[np.ndarray, np.ndarray]:
    """(source of each slot of a round, how many slots of the same source came before it)."""
    order = np.repeat(np.arange(len(shares)), shares)
    np.random.default_rng([seed, turn]).shuffle(order)
    rank = np.empty_like(order)
    for source, share in enumerate(shares):
        rank[order == source] = np.arange(share)
    return order, rank


@functools.lru_cache(maxsize=64)
def _shuffled(count: int, seed: int, source: int, passed: int) -> np.ndarray:
    return np.random.default_rng([seed, source, passed]).permutation(count)
