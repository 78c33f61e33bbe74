"""What is said about a benchmark, and what it needs on the disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from florence2.errors import DataError
from florence2.evaluation.samples import Sample


@dataclass(frozen=True)
class Published:
    """A number that somebody printed. ``value`` is in our units: CIDEr from 0 to 10, parts of 1."""

    model: str
    """ "Florence-2-B", "Florence-2-L-ft" """
    figure: str
    """The name of the figure here, e.g. "CIDEr", "AP"."""
    value: float
    source: str
    """ "Florence-2 (arXiv 2311.06242), table 4" """


@dataclass(frozen=True)
class Needed:
    """A file or folder that must be in the data folder."""

    path: str
    """Below the folder that the user names; the first that exists of several joined by " | "."""
    what: str
    """What it is and where it can be had, in words that a person can search for."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    name: str
    """What ``--benchmark`` takes: "coco-detection", "packs/caption"."""
    title: str
    """For tables: "COCO captions, Karpathy test"."""
    task: str
    """The task token; it is the prompt too, filled with what the samples give."""
    measure: str
    """The name of the metric, a key of ``measures.MEASURES``."""
    main: str
    """The figure that the benchmark is known by, e.g. "CIDEr"."""
    protocol: str
    """In words: what counts as right, and where this differs from the usual."""
    read: Callable[[Path], Iterator[Sample]]
    """Samples of the folder that the user names, in an order of their own; the samples of a photo stand together."""
    needs: tuple[Needed, ...] = ()
    paper: tuple[Published, ...] = ()
    templated: bool = False
    """Questions or expressions that a program wrote; never mixed with what people wrote."""

    def samples(self, folder: Path) -> Iterator[Sample]:
        """``read``, once everything that is needed is there. Raises DataError that says what to put where."""
        missing = [need for need in self.needs if not any((folder / p).exists() for p in need.path.split(" | "))]
        if missing:
            lines = "".join(f"\n  {folder / need.path.split(' | ')[0]}: {need.what}" for need in missing)
            raise DataError(f"{self.name} needs data that is not in {folder}; put there:{lines}")
        return self.read(folder)
