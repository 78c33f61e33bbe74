"""How sure is a figure? Samples are drawn again, photo by photo, and the figure computed anew.

Photos are drawn, not samples: the questions about one photo are right and wrong together. Of two models on the same
samples the same photos are drawn, so that what is common to both drops out of their difference.

Source: Efron and Tibshirani (1993), "An introduction to the bootstrap", chapters 13 and 16.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy

from florence2.evaluation.outcomes import Statistic, Weights

DRAWS = 1000
LEVEL = 0.95


def interval(
    statistic: Statistic, photos: Sequence[str], draws: int | None = None, seed: int = 0
) -> tuple[float, float] | None:
    """The percentile interval (95 %) of a figure; ``photos[i]`` is the photo of sample i.

    None where there are fewer than two photos, or the figure does not exist in most draws.
    """
    draws = DRAWS if draws is None else draws
    values = [value for w in weights(photos, draws, seed) if (value := statistic(w)) is not None]
    if len(values) < max(draws / 2, 1):
        return None
    tail = (1 - LEVEL) / 2
    low, high = numpy.quantile(values, (tail, 1 - tail)).tolist()
    return low, high


@dataclass(frozen=True)
class Difference:
    """Of a figure of two models on the same samples, second minus first."""

    value: float
    interval: tuple[float, float]
    p: float
    """Two-sided: how often a difference of at least this size has the other sign among the draws, twice; an estimate of
    how likely it is that the sign is chance."""


def difference(
    first: Statistic, second: Statistic, photos: Sequence[str], draws: int | None = None, seed: int = 0
) -> Difference | None:
    """None where the figure does not exist, or there are fewer than two photos."""
    draws = DRAWS if draws is None else draws
    ones = numpy.ones(len(photos))
    a, b = first(ones), second(ones)
    if a is None or b is None:
        return None
    found = []
    for w in weights(photos, draws, seed):
        before, after = first(w), second(w)
        if before is not None and after is not None:
            found.append(after - before)
    if len(found) < max(draws / 2, 1):
        return None
    values = numpy.array(found)
    tail = (1 - LEVEL) / 2
    low, high = numpy.quantile(values, (tail, 1 - tail)).tolist()
    below, above = int((values <= 0).sum()), int((values >= 0).sum())
    return Difference(b - a, (low, high), min(1.0, 2 * (min(below, above) + 1) / (len(values) + 1)))


def weights(photos: Sequence[str], draws: int, seed: int) -> Iterator[Weights]:
    """How often each sample counts, draw by draw; nothing where there are fewer than two photos."""
    names = {name: number for number, name in enumerate(sorted(set(photos)))}
    if len(names) < 2:
        return
    owners = numpy.array([names[photo] for photo in photos])
    generator = numpy.random.default_rng(seed)
    for _ in range(draws):
        drawn = numpy.bincount(generator.integers(len(names), size=len(names)), minlength=len(names))
        yield drawn[owners].astype(float)
