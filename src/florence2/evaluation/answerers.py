"""Who answers the questions of a benchmark: our model, a peer, the truth itself.

Everything behind an ``Answerer`` is the same for all, so what two of them are measured by differs in nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from PIL import Image

from florence2.errors import Florence2Error
from florence2.evaluation.samples import Sample
from florence2.results import Answer


class Answerer(Protocol):
    name: str
    """For reports."""

    def describe(self) -> dict[str, object]:
        """What decides the answers, as JSON: model, options. A run is only resumed by an answerer of equal description."""
        ...

    def answer(self, samples: Sequence[Sample], photos: Sequence[Image.Image]) -> list[Answer | Florence2Error]:
        """One answer per sample, asked about ``photos[i]``, which is the sample's photo or, in a blind run, another
        of the same size. What cannot be answered gives its error; nothing is raised for a single sample."""
        ...
