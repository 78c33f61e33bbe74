"""What every task returns: frozen dataclasses of plain Python numbers and strings.

Four kinds of answer cover all tasks:

    Text          a caption, the text of a photo, an answer to a question, the name of a region
    Detections    objects with boxes: detection, grounding, proposals, dense captions
    Segments      objects with polygons
    TextRegions   words or lines with quads

Coordinates are pixels of the photo as it was given, x to the right, y down. Every answer has a ``confidence``
and every object a ``score``, both in [0, 1]: as the model gives them they rank, and where the checkpoint holds a
calibration of the task, scores and the confidence of a Text are probabilities of being right. ``truncated`` says that
the token budget ended the answer; ``dropped`` lists the parts of the model's output that made no sense and were left
out.

Every answer turns into JSON and back, into COCO results, into ``supervision.Detections`` and into a picture; that
is written in ``results_export.py`` and ``drawing.py``.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from florence2.errors import AnswerError

if TYPE_CHECKING:
    import os

    import supervision
    from PIL import Image
    from typing_extensions import Self

    from florence2.images import Photo

Box = tuple[float, float, float, float]
"""(x0, y0, x1, y1) with x0 <= x1 and y0 <= y1, pixels."""
Polygon = tuple[float, ...]
"""(x0, y0, x1, y1, ...), pixels; closed without repeating the first point."""
Quad = tuple[float, float, float, float, float, float, float, float]
"""Four corners, clockwise from the top left of the text, pixels."""


@dataclass(frozen=True, kw_only=True)
class Object:
    """Something with a box."""

    label: str
    box: Box
    score: float = 1.0
    """The geometric mean of ``label_score`` and ``box_score``; calibrated, the probability of being right."""
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
    """As that of an Object, over the tokens of label and outlines; calibrated, the probability of being right."""

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
    """As that of an Object, over the tokens of text and quad; calibrated, the probability of being right."""

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

    kind: ClassVar[str]
    """The "type" of ``to_dict``: text, detections, segments or text_regions."""
    items_field: ClassVar[str | None] = None
    """The field that holds the objects, instances or regions; None where there are none."""

    task: str
    """The task token, e.g. "<OD>"."""
    width: int
    height: int
    confidence: float = 1.0
    """exp of the mean log-probability of all tokens of the answer; of a Text, calibrated, the probability of being
    right."""
    truncated: bool = False
    dropped: tuple[str, ...] = ()
    raw: Raw | None = None
    _photo: Any = field(default=None, repr=False, compare=False)
    """What ``draw`` falls back on. Not part of the answer: not compared, shown, stored or pickled."""

    def to_dict(self) -> dict[str, Any]:
        """The answer as JSON knows it: dicts, lists, strings, numbers; ``raw`` and ``polygons`` only if not empty."""
        from florence2 import results_export

        return results_export.to_dict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of ``to_dict``, also through JSON. The key "type" says which kind it is.

        Raises AnswerError where a field is missing, unknown or of the wrong form, or it is another kind than ``cls``.
        """
        from florence2 import results_export

        answer = results_export.from_dict(values)
        if not isinstance(answer, cls):
            raise AnswerError(f"the stored answer is of type {answer.kind!r}; read it with Answer.from_dict")
        return answer

    def to_coco(self, *, image_id: int | str, category_ids: Mapping[str, int] | None = None) -> list[dict[str, Any]]:
        """COCO results: one dict per object, ``bbox`` as (x, y, width, height), outlines as ``segmentation``.

        ``category_ids`` (label -> id) adds ``category_id``, which pycocotools needs; ``category_name`` is always
        there. Words and lines of text have the category "text" and keep what they say in ``text``. A Text gives [].

        Raises AnswerError for a label without an id.
        """
        from florence2 import results_export

        return results_export.to_coco(self, image_id, category_ids)

    def to_supervision(self, *, classes: Sequence[str] | None = None) -> supervision.Detections:
        """``supervision.Detections`` with ``confidence``, ``class_id`` and ``data["class_name"]``.

        ``class_id`` counts the labels in order of appearance, or is the place in ``classes``. Outlines become
        masks; quads of text become ``data["xyxyxyxy"]``, and what they say ``data["text"]``.

        Raises AnswerError for a label that is not in ``classes``, MissingDependencyError without supervision.
        """
        from florence2 import results_export

        return results_export.to_supervision(self, classes)

    def keep(self, min_score: float) -> Self:
        """Only the objects with at least this score; a Text has none and stays as it is."""
        if self.items_field is None:
            return self
        items = tuple(item for item in getattr(self, self.items_field) if item.score >= min_score)
        changes: dict[str, Any] = {self.items_field: items}
        return dataclasses.replace(self, **changes)

    def resized(self, width: int, height: int) -> Self:
        """The same answer in the pixels of the photo at another size."""
        from florence2 import results_export

        return results_export.resized(self, width, height)

    def draw(
        self, photo: Photo | None = None, *, font: str | os.PathLike[str] | None = None, min_score: float = 0.0
    ) -> Image.Image:
        """A picture of the answer on its photo (``drawing.draw``), by default on the photo that was asked about."""
        from florence2 import drawing

        shown = self._photo if photo is None else photo
        if shown is None:
            raise AnswerError("this answer does not carry its photo (it was stored or sent); call draw(photo)")
        return drawing.draw(self.keep(min_score), shown, font=font)

    def with_photo(self, photo: Photo) -> Self:
        """The same answer carrying its photo, so that ``draw()`` and notebooks need no argument."""
        return dataclasses.replace(self, _photo=photo)

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows; None (then it shows the repr) where the photo is not at hand."""
        if self._photo is None:
            return None
        from florence2 import images

        photo = images.load(self._photo)
        if max(photo.size) > 1024:
            photo = photo.copy()
            photo.thumbnail((1024, 1024))
        stream = io.BytesIO()
        self.draw(photo).save(stream, "PNG")
        return stream.getvalue()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_photo": None}


@dataclass(frozen=True, kw_only=True)
class Text(Answer):
    kind = "text"

    text: str = ""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, kw_only=True)
class Detections(Answer):
    kind = "detections"
    items_field = "objects"

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

    def __str__(self) -> str:
        return "\n".join(f"{item.label or 'object'} {item.score:.2f} at {_corners(item.box)}" for item in self.objects)


@dataclass(frozen=True, kw_only=True)
class Segments(Answer):
    kind = "segments"
    items_field = "instances"

    instances: tuple[Instance, ...] = ()

    def __len__(self) -> int:
        return len(self.instances)

    def __str__(self) -> str:
        return "\n".join(
            f"{item.label or 'object'} {item.score:.2f} within {_corners(item.box)}" for item in self.instances
        )


@dataclass(frozen=True, kw_only=True)
class TextRegions(Answer):
    kind = "text_regions"
    items_field = "regions"

    regions: tuple[TextRegion, ...] = ()

    def __len__(self) -> int:
        return len(self.regions)

    def __str__(self) -> str:
        return "\n".join(item.text for item in self.regions)


def _corners(box: Box) -> str:
    x0, y0, x1, y1 = box
    return f"({x0:.0f}, {y0:.0f}, {x1:.0f}, {y1:.0f})"
