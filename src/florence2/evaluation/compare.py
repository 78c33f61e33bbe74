"""Two runs on the same samples: which is better, how sure that is, and what got better and worse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from florence2.errors import DataError
from florence2.evaluation import bootstrap, runner
from florence2.evaluation.benchmarks.records import Benchmark
from florence2.evaluation.bootstrap import Difference
from florence2.evaluation.outcomes import Outcome
from florence2.evaluation.samples import Sample

SHOWN = 5
"""Samples that got better, and worse, of each benchmark."""


@dataclass(frozen=True)
class Moved:
    """A sample that is answered better or worse."""

    id: str
    before: float
    after: float
    said: tuple[str, str]


@dataclass(frozen=True)
class Compared:
    """One benchmark in both runs; the second is measured against the first."""

    benchmark: Benchmark
    photos: int
    samples: int
    figures: dict[str, tuple[float, float]]
    """Those that exist in both."""
    differences: dict[str, Difference]
    """Second minus first; paired bootstrap over photos."""
    better: tuple[Moved, ...]
    worse: tuple[Moved, ...]
    counts: tuple[int, int, int]
    """Samples that are better, equal, worse."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "title": self.benchmark.title,
            "samples": self.samples,
            "photos": self.photos,
            "better": self.counts[0],
            "equal": self.counts[1],
            "worse": self.counts[2],
            "figures": {
                name: {"first": a, "second": b}
                | (
                    {"difference": d.value, "interval": list(d.interval), "p": d.p}
                    if (d := self.differences.get(name))
                    else {}
                )
                for name, (a, b) in self.figures.items()
            },
            "most_improved": [vars(moved) for moved in self.better],
            "most_worsened": [vars(moved) for moved in self.worse],
        }


def compare(
    first: Path, second: Path, find: Callable[[str], list[Benchmark]], data: Path | None = None
) -> list[Compared]:
    """The benchmarks that both runs have. ``data`` is where the data is now, if it is not where the runs found it.

    Raises DataError where a folder holds no finished run, or the two have nothing in common.
    """
    runs = [runner.read_notes(folder) for folder in (first, second)]
    common = [name for name in runs[0]["benchmarks"] if name in runs[1]["benchmarks"]]
    if not common:
        raise DataError(
            f"{first} has {', '.join(runs[0]['benchmarks'])} and {second} has {', '.join(runs[1]['benchmarks'])}; "
            "they have no benchmark in common"
        )
    if runs[0]["limit"] != runs[1]["limit"]:
        raise DataError(
            f"{first} was limited to {runs[0]['limit']} samples and {second} to {runs[1]['limit']}; "
            "the same must be asked"
        )
    pairs = zip(*(runner.stored(run, find, data, common, intervals=False) for run in (first, second)), strict=True)
    return [of_outcomes(a, b) for a, b in pairs]


def _asked(sample: Sample) -> tuple[object, ...]:
    """What is asked, and what counts as right; the photo itself may lie elsewhere."""
    return sample.id, sample.task, sample.given, sample.truth, sample.ignored, sample.areas, sample.illegible


def of_outcomes(a: Outcome, b: Outcome) -> Compared:
    """Raises DataError where the two were asked different things."""
    if [_asked(s) for s in a.samples] != [_asked(s) for s in b.samples]:
        raise DataError(f"the two runs were asked different questions of {a.benchmark.name}; run one of them again")
    photos = [sample.photo for sample in a.samples]
    figures = {
        name: (before, after)
        for name, before in a.measured.figures.items()
        if before is not None and (after := b.measured.figures.get(name)) is not None
    }
    differences = {}
    for name, statistic in a.measured.statistics.items():
        other = b.measured.statistics.get(name)
        found = bootstrap.difference(statistic, other, photos) if other is not None else None
        if found is not None:
            differences[name] = found
    moved = []
    equal = 0
    for number, (before, after) in enumerate(zip(a.measured.cases, b.measured.cases, strict=True)):
        if before is None or after is None or before == after:
            equal += 1
        else:
            said = (str(a.answers[number]), str(b.answers[number]))
            moved.append(Moved(a.samples[number].id, before, after, said))
    better = sorted((m for m in moved if m.after > m.before), key=lambda m: (m.before - m.after, m.id))
    worse = sorted((m for m in moved if m.after < m.before), key=lambda m: (m.after - m.before, m.id))
    return Compared(
        benchmark=a.benchmark,
        photos=len(set(photos)),
        samples=len(photos),
        figures=figures,
        differences=differences,
        better=tuple(better[:SHOWN]),
        worse=tuple(worse[:SHOWN]),
        counts=(len(better), equal, len(worse)),
    )
