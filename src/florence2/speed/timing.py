"""Takes times: sides in turn, medians of rounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Stage:
    """A piece of work. ``units``: what one call's seconds are divided by, tokens or photos."""

    name: str
    call: Callable[[], object]
    units: int = 1


@dataclass(frozen=True)
class Measured:
    """Seconds per unit of one stage, round by round, for each side; what a side cannot do is missing."""

    name: str
    seconds: Mapping[str, tuple[float, ...]]

    def median(self, side: str) -> float | None:
        return statistics.median(self.seconds[side]) if side in self.seconds else None


def take_turns(
    sides: Mapping[str, Sequence[Stage]], rounds: int, device: torch.device, warm: int = 1
) -> Iterator[Measured]:
    """Times stage after stage. Within a stage the sides take turns: a, b, a, b; the first ``warm`` rounds do not count.

    Stages come in the order of the first side; one that another side lacks is timed without it.
    """
    first = next(iter(sides.values()))
    by_name = {side: {stage.name: stage for stage in stages} for side, stages in sides.items()}
    for stage in first:
        here = {side: found[stage.name] for side, found in by_name.items() if stage.name in found}
        times: dict[str, list[float]] = {side: [] for side in here}
        with torch.inference_mode():
            for number in range(warm + rounds):
                for side, one in here.items():
                    seconds = timed(one.call, device) / one.units
                    if number >= warm:
                        times[side].append(seconds)
        yield Measured(stage.name, {side: tuple(values) for side, values in times.items()})


def timed(call: Callable[[], object], device: torch.device | None = None) -> float:
    """Seconds of one call, all work of the device included."""
    wait = torch.cuda.synchronize if device is not None and device.type == "cuda" else _nothing
    wait()
    start = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - start


def _nothing() -> None:
    """A processor has done its work when a call returns."""
