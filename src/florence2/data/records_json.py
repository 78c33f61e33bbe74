"""The JSON form of records, which the packs, our JSON lines and Parquet share.

``from_dict`` undoes ``to_dict``. Only the form of a field is checked; whether a box lies in its photo is the
pre-flight's question.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from florence2 import images
from florence2.data import fields
from florence2.data.classes import CLASS_LISTS
from florence2.data.records import Pair, Phrase, Place, Question, Record, Reference, Thing, Words
from florence2.errors import DataError
from florence2.results import Polygon


def to_dict(record: Record) -> dict[str, Any]:
    """The record without its image. Fields without content are left out."""
    objects = record.objects
    document: dict[str, Any] = {
        **record.extra,
        "id": record.id,
        "source": record.source,
        "split": record.split,
        "width": record.width,
        "height": record.height,
        "captions": list(record.captions),
        "objects": None if objects is None else [_thing_dict(thing) for thing in objects],
        "exhaustive_classes": _class_list(record.exhaustive),
        "phrases": [
            {**_filled({"caption": p.caption, "phrase": p.text, "start": p.start}), "boxes": _shapes(p.boxes)}
            for p in record.phrases
        ],
        "refs": [
            _filled({"text": r.text, "bbox": _shape(r.box), "polygons": _shapes(r.polygons), "origin": r.origin})
            for r in record.refs
        ],
        "text": None if record.text is None else [{"text": w.text, "quad": _shape(w.quad)} for w in record.text],
        "illegible": _shapes(record.illegible),
        "qa": [
            {"question": q.question, "answers": list(q.answers), **_filled({"origin": q.origin})} for q in record.qa
        ],
        "pairs": [{"prompt": pair.prompt, "answer": pair.answer} for pair in record.pairs],
    }
    stays = {"id", "source", *record.extra, *(["objects"] if objects == () and not record.exhaustive else [])}
    if record.text == ():
        stays.add("text")
    return {key: value for key, value in document.items() if key in stays or value not in (None, "", [])}


def from_dict(values: Any, image: Path | bytes | None, place: Place, name: str = "") -> Record:
    """Inverse of ``to_dict``; unknown fields go to ``extra``. ``name`` is the id where the record has none.

    Raises DataError where a field has the wrong form.
    """
    d = fields.mapping(values, "the record")
    if "width" in d and "height" in d:
        width, height = fields.whole(d["width"], "width"), fields.whole(d["height"], "height")
    elif image is not None:
        width, height = images.measure(image)
    else:
        raise DataError("the record has no width and height, and no image to take them from")
    listed, named = _exhaustive(d.get("exhaustive_classes"))
    extra = {key: value for key, value in d.items() if key not in _KNOWN}
    objects = _list(d, "objects", _thing) if "objects" in d or listed else None
    return Record(
        image=image,
        id=str(d.get("id", name)),
        width=width,
        height=height,
        captions=_list(d, "captions", lambda v: fields.string(v, "a caption")),
        objects=objects,
        exhaustive=listed,
        phrases=_list(d, "phrases", _phrase),
        refs=_list(d, "refs", _reference),
        text=_list(d, "text", _words) if "text" in d else None,
        illegible=_list(d, "illegible", lambda v: fields.quad(v, "an illegible quad")),
        qa=_list(d, "qa", _question),
        pairs=_list(d, "pairs", lambda v: _pair(v, place)),
        source=fields.string(d.get("source", ""), "source"),
        split=fields.string(d.get("split", ""), "split"),
        extra=extra if named is None else {**extra, "exhaustive_classes": named},
        place=place,
    )


_KNOWN = frozenset(
    [
        *("id", "source", "split", "width", "height", "captions", "objects", "exhaustive_classes", "phrases"),
        *("refs", "text", "illegible", "qa", "pairs", "image"),
    ]
)


def _list(d: dict[str, Any], name: str, build: Callable[[Any], Any]) -> tuple[Any, ...]:
    return tuple(build(value) for value in fields.items(d.get(name, []), name))


def _thing_dict(thing: Thing) -> dict[str, Any]:
    document = {"label": thing.label, "bbox": _shape(thing.box), "polygons": _shapes(thing.polygons)}
    flags = {"iscrowd": int(thing.crowd) or None, "difficult": int(thing.difficult) or None}
    return {"label": thing.label, **_filled({**document, **flags})}


def _thing(value: Any) -> Thing:
    d = fields.mapping(value, "an object")
    fields.only(d, frozenset(("label", "bbox", "polygons", "iscrowd", "difficult")), "an object")
    return Thing(
        label=fields.string(fields.field(d, "label", "an object"), "label"),
        box=fields.box(fields.field(d, "bbox", "an object"), "bbox"),
        polygons=_polygons(d),
        crowd=bool(d.get("iscrowd", 0)),
        difficult=bool(d.get("difficult", 0)),
    )


def _polygons(d: dict[str, Any]) -> tuple[Polygon, ...]:
    return tuple(fields.points(p, "a polygon") for p in fields.items(d.get("polygons", []), "polygons"))


def _phrase(value: Any) -> Phrase:
    d = fields.mapping(value, "a phrase")
    fields.only(d, frozenset(("caption", "phrase", "start", "boxes")), "a phrase")
    boxes = fields.items(fields.field(d, "boxes", "a phrase"), "boxes")
    return Phrase(
        text=fields.string(fields.field(d, "phrase", "a phrase"), "phrase"),
        boxes=tuple(fields.box(b, "a box of a phrase") for b in boxes),
        caption=fields.whole(d["caption"], "caption") if "caption" in d else None,
        start=fields.whole(d["start"], "start") if "start" in d else None,
    )


def _reference(value: Any) -> Reference:
    d = fields.mapping(value, "a referring expression")
    fields.only(d, frozenset(("text", "bbox", "polygons", "origin")), "a referring expression")
    return Reference(
        text=fields.string(fields.field(d, "text", "a referring expression"), "text"),
        box=fields.box(fields.field(d, "bbox", "a referring expression"), "bbox"),
        polygons=_polygons(d),
        origin=fields.string(d.get("origin", ""), "origin"),
    )


def _words(value: Any) -> Words:
    d = fields.mapping(value, "a text")
    fields.only(d, frozenset(("text", "quad")), "a text")
    return Words(
        text=fields.string(fields.field(d, "text", "a text"), "text"),
        quad=fields.quad(fields.field(d, "quad", "a text"), "quad"),
    )


def _question(value: Any) -> Question:
    d = fields.mapping(value, "a question")
    fields.only(d, frozenset(("question", "answers", "origin")), "a question")
    answers = fields.items(fields.field(d, "answers", "a question"), "answers")
    return Question(
        question=fields.string(fields.field(d, "question", "a question"), "question"),
        answers=tuple(fields.string(a, "an answer") for a in answers),
        origin=fields.string(d.get("origin", ""), "origin"),
    )


def _pair(value: Any, place: Place) -> Pair:
    d = fields.mapping(value, "a pair")
    fields.only(d, frozenset(("prompt", "answer")), "a pair")
    prompt, answer = fields.field(d, "prompt", "a pair"), fields.field(d, "answer", "a pair")
    return Pair(prompt=fields.string(prompt, "prompt"), answer=fields.string(answer, "answer"), place=place)


def _class_list(names: tuple[str, ...] | None) -> str | list[str] | None:
    known = [key for key, listed in CLASS_LISTS.items() if listed == names]
    return known[0] if known else list(names or ()) or None


def _exhaustive(value: Any) -> tuple[tuple[str, ...] | None, str | None]:
    """(class names, None), or (None, the name of a list that is not known here)."""
    if value is None:
        return None, None
    if isinstance(value, str):
        return (CLASS_LISTS[value], None) if value in CLASS_LISTS else (None, value)
    names = tuple(fields.string(v, "a class name") for v in fields.items(value, "exhaustive_classes"))
    return names or None, None


def _filled(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if value not in (None, "", [])}


def _shape(values: tuple[float, ...]) -> list[float]:
    """Whole numbers without their ".0"."""
    return [int(v) if float(v).is_integer() else v for v in values]


def _shapes(shapes: tuple[tuple[float, ...], ...]) -> list[list[float]]:
    return [_shape(shape) for shape in shapes]
