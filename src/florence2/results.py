"""What every task returns: frozen dataclasses of plain Python numbers and strings.

Four kinds of answer cover all tasks:

    Text          a caption, the text of a photo, an answer to a question, the name of a region
    Detections    objects with boxes: detection, grounding, proposals, dense captions
    Segments      objects with polygons
    TextRegions   words or lines with quads

Coordinates are pixels of the photo as it was given, x to the right, y down. Every answer has a ``confidence``
and every object a ``score``, both in [0, 1]; ``truncated`` says that the token budget ended the answer;
``dropped`` lists the parts of the model's output that made no sense and were left out.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from florence2.errors import Florence2Error

Box = tuple[float, float, float, float]
"""(x0, y0, x1, y1) with x0 <= x1 and y0 <= y1, pixels."""
Polygon = tuple[float, ...]
"""(x0, y0, x1, y1, ...), pixels; closed without repeating the first point."""
Quad = tuple[float, float, float, float, float, float, float, float]
"""Four corners, clockwise from the top left of the text, pixels."""


@dataclass(frozen=True, kw_only=True)
class Object:
    """Something with a box. ``score`` is the geometric mean of ``label_score`` and ``box_score``."""

    label: str
    box: Box
    score: float = 1.0
    label_score: float = 1.0
    """exp of the mean log-probability of the label's tokens; 1 where the task has no labels."""
    box_score: float = 1.0
    """exp of the mean log-probability of the location tokens."""
    polygons: tuple[Polygon, ...] = ()
    """Filled where an open-vocabulary answer gave an outline instead of a box; the box is then its hull."""


@dataclass(frozen=True, kw_only=True)
class Instance:
    """Something with an outline of one or more polygons."""

    label: str
    polygons: tuple[Polygon, ...]
    score: float = 1.0

    @property
    def box(self) -> Box:
        """The smallest box around all polygons."""
        xs = [x for polygon in self.polygons for x in polygon[0::2]]
        ys = [y for polygon in self.polygons for y in polygon[1::2]]
        return (min(xs), min(ys), max(xs), max(ys))


@dataclass(frozen=True, kw_only=True)
class TextRegion:
    """A word or a line and where it stands."""

    text: str
    quad: Quad
    score: float = 1.0

    @property
    def box(self) -> Box:
        """The smallest upright box around the quad."""
        return (min(self.quad[0::2]), min(self.quad[1::2]), max(self.quad[0::2]), max(self.quad[1::2]))


@dataclass(frozen=True, kw_only=True)
class Raw:
    """The answer as the decoder produced it, the start token first."""

    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[float, ...] = ()
    """One per id after the start token; 0 where the token was forced."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What all answers share. Use one of the four kinds; ``Answer.from_dict`` finds out which."""

    task: str
    """The task token, e.g. "<OD>"."""
    width: int
    height: int
    confidence: float = 1.0
    """exp of the mean log-probability of all tokens of the answer."""
    truncated: bool = False
    dropped: tuple[str, ...] = ()
    raw: Raw | None = None


@dataclass(frozen=True, kw_only=True)
class Text(Answer):
    text: str = ""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, kw_only=True)
class Detections(Answer):
    objects: tuple[Object, ...] = ()

    @property
    def boxes(self) -> list[Box]:
        return [item.box for item in self.objects]

    @property
    def labels(self) -> list[str]:
        return [item.label for item in self.objects]

    @property
    def scores(self) -> list[float]:
        return [item.score for item in self.objects]

    def __len__(self) -> int:
        return len(self.objects)


@dataclass(frozen=True, kw_only=True)
class Segments(Answer):
    instances: tuple[Instance, ...] = ()

    def __len__(self) -> int:
        return len(self.instances)


@dataclass(frozen=True, kw_only=True)
class TextRegions(Answer):
    regions: tuple[TextRegion, ...] = ()

    def __len__(self) -> int:
        return len(self.regions)
