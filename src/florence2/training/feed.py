"""From slots to batches, in the training process or in workers beside it: the way changes nothing in the batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, Dataset

from florence2.errors import Florence2Error
from florence2.language.tokenizer import Tokenizer
from florence2.training.batch import Batch, Limits, Sample, collate, sample
from florence2.training.mixture import Mixture

TRIES = 3
"""Slots that are tried for one photo, the further ones far beyond the run's own."""
_FAR = 1 << 40


@dataclass(frozen=True)
class Feed:
    """The batches of one process: ``steps`` of them, each a list of parts of at most ``micro`` photos."""

    mixture: Mixture
    tokenizer: Tokenizer
    limits: Limits
    tasks: tuple[str, ...]
    size_at: Callable[[int], tuple[int, int]]
    """(height, width) of a step"""
    images: int
    """Photos of a step over all processes"""
    rank: int
    processes: int
    micro: int
    grouped: bool = True
    """See ``batch.collate``."""

    def slots(self, step: int) -> list[list[int]]:
        """Of this process, in parts."""
        mine = list(range(step * self.images + self.rank, (step + 1) * self.images, self.processes))
        micro = self.micro or len(mine)
        return [mine[i : i + micro] for i in range(0, len(mine), micro)]

    def batch(self, step: int, slots: Sequence[int]) -> Batch:
        samples = [self._sample(slot, self.size_at(step)) for slot in slots]
        return collate(samples, self.tasks, self.tokenizer.pad_id, self.grouped)

    def steps(self, start: int, stop: int, workers: int) -> Iterator[list[Batch]]:
        """The parts of step ``start``, of the next one, and so on up to ``stop``."""
        per_step = len(self.slots(0))
        ahead: dict[str, Any] = {"prefetch_factor": 4} if workers else {}
        loader = DataLoader(_Parts(self, start, stop), batch_size=None, num_workers=workers, **ahead)
        waiting: list[Batch] = []
        for batch in loader:
            waiting.append(batch)
            if len(waiting) == per_step:
                yield waiting
                waiting = []

    def _sample(self, slot: int, size: tuple[int, int]) -> Sample:
        problems: list[str] = []
        for attempt in range(TRIES):
            try:
                drawn = self.mixture.draw(slot + attempt * _FAR)
                made = sample(slot, drawn, size, self.tokenizer, self.limits)
                return Sample(slot, made.where, made.pixels, made.lessons, (*problems, *made.skipped))
            except Florence2Error as error:
                problems.append(str(error))
        raise Florence2Error(problems[-1])


class _Parts(Dataset[Batch]):
    """Part by part, as the loader of PyTorch wants it."""

    def __init__(self, feed: Feed, start: int, stop: int) -> None:
        self.feed, self.start, self.stop = feed, start, stop
        self.per_step = len(feed.slots(0))

    def __len__(self) -> int:
        return (self.stop - self.start) * self.per_step

    def __getitem__(self, index: int) -> Batch:
        steps, part = divmod(index, self.per_step)
        step = self.start + steps
        return self.feed.batch(step, self.feed.slots(step)[part])
