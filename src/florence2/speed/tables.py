"""Figures as a table in the terminal, as Markdown, and as JSON."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from florence2.speed.cold import Cold
from florence2.speed.timing import Measured

OURS, PEER = "ours", "transformers"


@dataclass(frozen=True)
class Row:
    """One line: medians of both sides in ``unit``, the floor in the same, and the spread (least, most) of ours."""

    name: str
    unit: str
    ours: float
    peer: float | None = None
    floor: float | None = None
    spread: tuple[float, float] | None = None
    peer_spread: tuple[float, float] | None = None

    @property
    def ratio(self) -> float | None:
        """How many times less ours takes."""
        return None if self.peer is None else self.peer / self.ours

    @property
    def share(self) -> float | None:
        """Of the floor, 1 where nothing can be faster."""
        return None if self.floor is None else self.floor / self.ours

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "ratio": self.ratio, "share_of_floor": self.share}


def row(measured: Measured, floors: Mapping[str, float]) -> Row:
    """Milliseconds of a stage."""
    milliseconds = {side: [1000 * s for s in seconds] for side, seconds in measured.seconds.items()}
    spreads = {side: (min(values), max(values)) for side, values in milliseconds.items()}
    ours, peer = measured.median(OURS), measured.median(PEER)
    assert ours is not None
    floor = floors.get(measured.name)
    return Row(
        name=measured.name,
        unit="ms",
        ours=1000 * ours,
        peer=None if peer is None else 1000 * peer,
        floor=None if floor is None else 1000 * floor,
        spread=spreads[OURS],
        peer_spread=spreads.get(PEER),
    )


def cold_rows(found: Mapping[str, Sequence[Cold]]) -> list[Row]:
    """Fresh processes: until the first answer, loading alone, memory."""

    def of(name: str, unit: str, read: Callable[[Cold], float]) -> Row:
        values = {side: [read(one) for one in runs] for side, runs in found.items()}
        medians = {side: statistics.median(numbers) for side, numbers in values.items()}
        spreads = {side: (min(numbers), max(numbers)) for side, numbers in values.items()}
        return Row(name, unit, medians[OURS], medians.get(PEER), None, spreads[OURS], spreads.get(PEER))

    return [
        of("fresh process to first answer", "s", lambda one: one.seconds),
        of("importing", "s", lambda one: one.imported),
        of("loading", "s", lambda one: one.loaded),
        of("peak memory", "MB", lambda one: one.peak / 2**20),
    ]


HEAD = ("", "ours", "transformers", "floor", "times faster", "share of floor")


def cells(one: Row) -> tuple[str, ...]:
    def number(value: float | None) -> str:
        if value is None:
            return ""
        return f"{value:,.0f} {one.unit}" if value >= 100 else f"{value:.3g} {one.unit}"

    times = "" if one.ratio is None else f"{one.ratio:.2f}"
    share = "" if one.share is None else f"{one.share:.0%}"
    return (one.name, number(one.ours), number(one.peer), number(one.floor), times, share)


def plain(rows: Sequence[Row]) -> str:
    """Columns for a terminal; those that say nothing are left out."""
    return columns([HEAD, *(cells(one) for one in rows)])


def columns(table: Sequence[tuple[str, ...]]) -> str:
    kept = [column for column in zip(*table, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in kept]
    lines = zip(*kept, strict=True)
    return "\n".join(
        "  ".join(text.rjust(w) if i else text.ljust(w) for i, (text, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    )


def markdown(rows: Sequence[Row]) -> str:
    return grid([HEAD, *(cells(one) for one in rows)])


def grid(table: Sequence[tuple[str, ...]]) -> str:
    """The same as Markdown."""
    head, *lines = ("| " + " | ".join(line) + " |" for line in table)
    return "\n".join([head, "|" + "---|" * len(table[0]), *lines]) + "\n"


def machine(device: torch.device) -> dict[str, Any]:
    return {
        "processor": processor(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
