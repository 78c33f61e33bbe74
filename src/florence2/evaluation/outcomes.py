"""What came out of a benchmark: figures with their uncertainty, and what they are made of.

``measures.measure`` makes the Measured of samples and answers, ``runner`` the Outcome, ``report`` shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy
from numpy.typing import NDArray

from florence2.evaluation.benchmarks.records import Benchmark
from florence2.evaluation.samples import Sample
from florence2.results import Answer

Figures = dict[str, "float | None"]
"""Names of the field → values; None where a figure does not exist."""
Weights = NDArray[numpy.float64]
"""(N,) how often each sample counts."""
Statistic = Callable[[Weights], "float | None"]
"""A figure as a function of how often each sample counts: what the bootstrap draws from."""


@dataclass(frozen=True)
class Curve:
    """Precision at rising recall, IoU 0.5: all classes together, or one."""

    name: str
    recall: tuple[float, ...]
    precision: tuple[float, ...]


@dataclass(frozen=True)
class Judged:
    """One thing that was said with a score: was it right?"""

    sample: int
    score: float
    right: bool


@dataclass(frozen=True, kw_only=True)
class Measured:
    figures: Figures
    statistics: Mapping[str, Statistic] = field(default_factory=dict, repr=False)
    """Of the figures that have one."""
    cases: tuple[float | None, ...]
    """How right each sample is, from 0 to 1 (CIDEr: to 10); None where there was nothing to be right about."""
    case: str
    """What ``cases`` are: "IoU", "CIDEr", "accuracy"."""
    judged: tuple[Judged, ...] = ()
    """Objects, phrases, texts with their scores: calibration and reliability are of these."""
    curves: tuple[Curve, ...] = ()
    """The first is over all classes."""
    classes: Mapping[str, Figures] = field(default_factory=dict)
    """Per class: figures, and "count", the number of true things."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One benchmark, answered and measured."""

    benchmark: Benchmark
    samples: tuple[Sample, ...]
    answers: tuple[Answer, ...]
    """One per sample; the empty answer where there is an error."""
    errors: Mapping[int, str]
    """Number of the sample → what went wrong."""
    measured: Measured
    intervals: Mapping[str, tuple[float, float]]
    """95 % bootstrap over photos, by figure."""
    blind: Figures | None = None
    """The same figures where every photo was another one: what knowing the data without looking gives."""
    uncalibrated: tuple[Judged, ...] | None = None
    """``measured.judged`` before calibration, where scores were calibrated."""
