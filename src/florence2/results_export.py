"""Answers in the forms that other programs read: JSON, COCO results, ``supervision.Detections``.

Call these through the methods of ``results.Answer``; the code lives here to keep that page a page.
Sources: COCO's results format (cocodataset.org, "Format results"), supervision's ``Detections``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from florence2.errors import AnswerError, MissingDependencyError
from florence2.results import (
    Answer,
    Box,
    Detections,
    Instance,
    Object,
    Polygon,
    Raw,
    Segments,
    Text,
    TextRegion,
    TextRegions,
)

if TYPE_CHECKING:
    import numpy
    import supervision

KINDS: dict[str, type[Answer]] = {kind.kind: kind for kind in (Text, Detections, Segments, TextRegions)}

A = TypeVar("A", bound=Answer)


@dataclass(frozen=True)
class Shape:
    """What objects, instances and text regions have in common, for those who draw, count or export them."""

    label: str
    score: float
    box: Box
    outlines: tuple[Polygon, ...]
    """Polygons or the quad; empty where the box is all there is."""


def shapes(answer: Answer) -> list[Shape]:
    """The shapes of any answer; a Text has none."""
    if isinstance(answer, Detections):
        return [Shape(item.label, item.score, item.box, item.polygons) for item in answer.objects]
    if isinstance(answer, Segments):
        return [Shape(item.label, item.score, item.box, item.polygons) for item in answer.instances]
    if isinstance(answer, TextRegions):
        return [Shape(item.text, item.score, item.box, (item.quad,)) for item in answer.regions]
    return []


# JSON


def to_dict(answer: Answer) -> dict[str, Any]:
    return {"type": answer.kind, **_plain(answer)}


def from_dict(values: Mapping[str, Any]) -> Answer:
    if not isinstance(values, Mapping):
        raise AnswerError(f"a stored answer is a dict with the key 'type'; found a {type(values).__name__}")
    kind = KINDS.get(values.get("type", ""))
    if kind is None:
        raise AnswerError(f"a stored answer has a 'type' out of {', '.join(KINDS)}; found {values.get('type')!r}")
    answer = _build(kind, {name: value for name, value in values.items() if name != "type"}, kind.kind)
    return answer


_UNLESS_EMPTY = ("raw", "polygons")
"""Fields that most answers have no use for: written only where there is something in them."""


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if not field.name.startswith("_") and (getattr(value, field.name) or field.name not in _UNLESS_EMPTY)
        }
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


T = TypeVar("T")


def _build(kind: Callable[..., T], values: Any, where: str) -> T:
    """A dataclass from its dict, every field read by the reader of its name."""
    if not isinstance(values, Mapping):
        raise AnswerError(f"{where} must be a dict; found {values!r}")
    known = {field.name: field for field in dataclasses.fields(kind) if not field.name.startswith("_")}  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise AnswerError(f"{where} has an unknown field {name!r}; known: {', '.join(known)}")
    for name, field in known.items():
        if name not in values and field.default is dataclasses.MISSING:
            raise AnswerError(f"{where} misses the field {name!r}")
    return kind(**{name: _READERS[name](value, f"{where}.{name}") for name, value in values.items()})


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise AnswerError(f"{where} must be a string; found {value!r}")
    return value


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise AnswerError(f"{where} must be a number; found {value!r}")
    return float(value)


def _integer(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise AnswerError(f"{where} must be an integer; found {value!r}")
    return value


def _truth(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise AnswerError(f"{where} must be true or false; found {value!r}")
    return value


def _many(read: Callable[[Any, str], T]) -> Callable[[Any, str], tuple[T, ...]]:
    def read_all(value: Any, where: str) -> tuple[T, ...]:
        if not isinstance(value, (list, tuple)):
            raise AnswerError(f"{where} must be a list; found {value!r}")
        return tuple(read(item, f"{where}[{number}]") for number, item in enumerate(value))

    return read_all


def _coordinates(count: int | None) -> Callable[[Any, str], tuple[float, ...]]:
    """Numbers in pairs; ``count`` of them, or any even count of at least two where it is None."""

    def read(value: Any, where: str) -> tuple[float, ...]:
        numbers = _many(_number)(value, where)
        if len(numbers) != count if count else len(numbers) < 2 or len(numbers) % 2:
            raise AnswerError(f"{where} must be {count or 'an even count of'} numbers; found {len(numbers)}")
        return numbers

    return read


def _raw(value: Any, where: str) -> Raw | None:
    return None if value is None else _build(Raw, value, where)


_READERS: dict[str, Callable[[Any, str], Any]] = {
    "task": _string,
    "width": _integer,
    "height": _integer,
    "confidence": _number,
    "truncated": _truth,
    "dropped": _many(_string),
    "raw": _raw,
    "text": _string,
    "label": _string,
    "score": _number,
    "label_score": _number,
    "box_score": _number,
    "box": _coordinates(4),
    "quad": _coordinates(8),
    "polygons": _many(_coordinates(None)),
    "objects": _many(lambda value, where: _build(Object, value, where)),
    "instances": _many(lambda value, where: _build(Instance, value, where)),
    "regions": _many(lambda value, where: _build(TextRegion, value, where)),
    "token_ids": _many(_integer),
    "logprobs": _many(_number),
}


# Other sizes


def resized(answer: A, width: int, height: int) -> A:
    across, down = width / answer.width, height / answer.height

    def scale(values: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(value * (down if place % 2 else across) for place, value in enumerate(values))

    changes: dict[str, Any] = {}
    if answer.items_field is not None:
        changes[answer.items_field] = tuple(
            dataclasses.replace(
                item,
                **{name: scale(getattr(item, name)) for name in ("box", "quad") if name in item.__dict__},
                **({"polygons": tuple(map(scale, item.polygons))} if "polygons" in item.__dict__ else {}),
            )
            for item in getattr(answer, answer.items_field)
        )
    return dataclasses.replace(answer, width=width, height=height, **changes)


# COCO


def to_coco(answer: Answer, image_id: int | str, category_ids: Mapping[str, int] | None) -> list[dict[str, Any]]:
    is_text = isinstance(answer, TextRegions)
    results = []
    for shape in shapes(answer):
        name = "text" if is_text else shape.label
        x0, y0, x1, y1 = shape.box
        result: dict[str, Any] = {
            "image_id": image_id,
            "category_name": name,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "score": shape.score,
        }
        if category_ids is not None:
            if name not in category_ids:
                known = ", ".join(repr(label) for label in list(category_ids)[:10])
                raise AnswerError(
                    f"the label {name!r} has no category id (there are ids for {known}); give it one, or ask only for "
                    "your labels with detect(photo, labels=[...])"
                )
            result["category_id"] = category_ids[name]
        outlines = [list(outline) for outline in shape.outlines if len(outline) >= 6]  # fewer points have no inside
        if outlines:
            result["segmentation"] = outlines
        if is_text:
            result["text"] = shape.label
        results.append(result)
    return results


# supervision


def to_supervision(answer: Answer, classes: Sequence[str] | None) -> supervision.Detections:
    try:
        import supervision
    except ModuleNotFoundError as error:
        if error.name != "supervision":  # it is there but broken: its own message says more
            raise
        raise MissingDependencyError("to_supervision needs supervision: pip install florence2[supervision]") from error
    import numpy

    found = shapes(answer)
    is_text = isinstance(answer, TextRegions)
    names = ["text" if is_text else shape.label for shape in found]
    order = list(dict.fromkeys(names)) if classes is None else list(classes)
    for name in names:
        if name not in order:
            raise AnswerError(f"the label {name!r} is not one of the classes {', '.join(order[:10])}; add it to them")
    data: dict[str, Any] = {"class_name": numpy.array(names, dtype=str)}
    masks = None
    if is_text:
        data["text"] = numpy.array([shape.label for shape in found], dtype=str)
        quads = numpy.array([shape.outlines[0] for shape in found], dtype=numpy.float32)
        data[supervision.config.ORIENTED_BOX_COORDINATES] = quads.reshape(-1, 4, 2)
    elif isinstance(answer, Segments) or (found and all(shape.outlines for shape in found)):
        masks = numpy.zeros((len(found), answer.height, answer.width), dtype=bool)
        for mask, shape in zip(masks, found, strict=True):
            mask[:] = _mask(shape.outlines, answer.width, answer.height)
    return supervision.Detections(
        xyxy=numpy.array([shape.box for shape in found], dtype=numpy.float32).reshape(-1, 4),
        confidence=numpy.array([shape.score for shape in found], dtype=numpy.float32),
        class_id=numpy.array([order.index(name) for name in names], dtype=int),
        mask=masks,
        data=data,
    )


def _mask(outlines: Sequence[Polygon], width: int, height: int) -> numpy.ndarray[Any, Any]:
    """The union of polygons, (height, width) bool: a pixel belongs to it where its centre lies inside (even-odd rule).

    Along a row of pixel centres the inside begins and ends where an edge crosses the row. (Pillow's polygons and
    OpenCV's are drawn on whole pixels, borders included: up to a tenth too large at the sizes of this model's input.)
    """
    import numpy

    mask = numpy.zeros((height, width), dtype=bool)
    rows = numpy.arange(height)[:, None] + 0.5  # (H, 1)
    for outline in outlines:
        x0, y0 = numpy.array(outline, dtype=float).reshape(-1, 2).T  # (n,) each
        x1, y1 = numpy.roll(x0, -1), numpy.roll(y0, -1)
        row, edge = numpy.nonzero((y0 <= rows) != (y1 <= rows))
        crossing = x0[edge] + (rows[row, 0] - y0[edge]) / (y1[edge] - y0[edge]) * (x1[edge] - x0[edge])
        column = numpy.clip(numpy.ceil(crossing - 0.5), 0, width).astype(int)
        borders = numpy.zeros((height, width + 1), dtype=numpy.uint8)
        numpy.add.at(borders, (row, column), 1)
        mask |= (numpy.cumsum(borders, axis=1, dtype=numpy.uint8)[:, :width] % 2).astype(bool)
    return mask
