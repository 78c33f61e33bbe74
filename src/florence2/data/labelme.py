"""LabelMe: one JSON file per image, with ``shapes``.

Read: a folder with such files, or one of them. Rectangles are boxes, polygons outlines; polygons of one ``group_id``
are one object. Circles, lines and points are no objects and become error records. ``labels.txt`` in the folder, as
LabelMe itself takes it, names the classes that were looked for.

Written: a JSON file beside each image, ``labels.txt``; marks (crowd, difficult) go into the flags of a shape. The box
of an outline is the box around it.

Source: github.com/wkentaro/labelme.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from florence2.data import fields
from florence2.data.files import ImageFolder, shared_classes, write_lines
from florence2.data.records import Place, Record, Thing, broken
from florence2.errors import DataError, ImageError
from florence2.images import measure

NO_CLASSES = ("__ignore__", "_background_")


def recognise(source: Path) -> str | None:
    found = _files(source)
    return f"LabelMe, {len(found)} JSON files" if found else None


def read(source: Path) -> Iterator[Record]:
    folder = source if source.is_dir() else source.parent
    labels = folder / "labels.txt"
    lines = fields.read_text(labels).splitlines() if labels.is_file() else []
    names = tuple(line.strip() for line in lines if line.strip() and line.strip() not in NO_CLASSES)
    for path in _files(source):
        yield from _record(path, names or None)


def _files(source: Path) -> list[Path]:
    found = [source] if source.is_file() and source.suffix == ".json" else sorted(source.glob("**/*.json"))
    return [path for path in found if b'"shapes"' in path.read_bytes()]


def _record(path: Path, names: tuple[str, ...] | None) -> Iterator[Record]:
    place = Place(str(path))
    try:
        document = fields.mapping(fields.parse_json(fields.read_text(path), str(path)), "the file")
        image = _image(document, path)
        if document.get("imageWidth") and document.get("imageHeight"):
            size = (
                fields.whole(document["imageWidth"], "imageWidth"),
                fields.whole(document["imageHeight"], "imageHeight"),
            )
        else:
            size = measure(image)
        shapes = fields.items(fields.field(document, "shapes", "the file"), "shapes")
    except (DataError, ImageError) as error:
        yield broken(place, error, path.stem)
        return
    things: dict[Any, Thing] = {}
    for number, value in enumerate(shapes):
        try:
            shape = fields.mapping(value, "a shape")
            group = shape.get("group_id")
            thing = _thing(shape)
            key = ("shape", number) if group is None or not thing.polygons else ("group", group, thing.label)
            things[key] = _joined(things[key], thing) if key in things else thing
        except DataError as error:
            yield broken(place, f"shape {number + 1}: {error}", path.stem)
    yield Record(
        image=image,
        id=path.stem,
        width=size[0],
        height=size[1],
        objects=tuple(things.values()),
        exhaustive=names,
        place=place,
    )


def _image(document: dict[str, Any], path: Path) -> Path | bytes:
    name = document.get("imagePath")
    if isinstance(name, str) and (path.parent / name.replace("\\", "/")).is_file():
        return path.parent / name.replace("\\", "/")
    if document.get("imageData"):
        try:
            return base64.b64decode(fields.string(document["imageData"], "imageData"), validate=True)
        except binascii.Error as error:
            raise DataError(f"imageData is no base64 ({error})") from error
    return path.parent / fields.string(name or "", "imagePath").replace("\\", "/")


def _thing(shape: dict[str, Any]) -> Thing:
    label = fields.string(fields.field(shape, "label", "a shape"), "label")
    kind = shape.get("shape_type", "polygon")
    corners = fields.items(fields.field(shape, "points", "a shape"), "points")
    points = tuple(value for corner in corners for value in fields.points(corner, "a point"))
    flags = shape.get("flags") or {}
    crowd, difficult = bool(flags.get("crowd")), bool(flags.get("difficult"))
    if kind == "rectangle":
        if len(points) not in (4, 8):
            raise DataError(f"the rectangle has {len(points) // 2} points, expected 2")
        return Thing(label=label, box=fields.hull((points,)), crowd=crowd, difficult=difficult)
    if kind != "polygon":
        raise DataError(f"a {kind} is neither box nor outline; draw a rectangle or a polygon")
    return Thing(label=label, box=fields.hull((points,)), polygons=(points,), crowd=crowd, difficult=difficult)


def _joined(a: Thing, b: Thing) -> Thing:
    polygons = a.polygons + b.polygons
    return Thing(
        label=a.label, box=fields.hull(polygons), polygons=polygons, crowd=a.crowd or b.crowd, difficult=a.difficult
    )


def write(records: Iterable[Record], target: Path) -> None:
    kept = list(records)
    images = ImageFolder(target)
    names = shared_classes(kept)
    if names:
        write_lines(target / "labels.txt", names)
    for record in kept:
        name = images.add(record)
        shapes = [shape for number, thing in enumerate(record.objects or ()) for shape in _shapes(thing, number)]
        document: dict[str, Any] = {
            "version": "5.5.0",
            "flags": {},
            "shapes": shapes,
            "imagePath": name,
            "imageData": None,
            "imageHeight": record.height,
            "imageWidth": record.width,
        }
        text = json.dumps(document, ensure_ascii=False, indent=2)
        (target / name).with_suffix(".json").write_text(text, encoding="utf-8")


def _shapes(thing: Thing, number: int) -> Iterator[dict[str, Any]]:
    flags = {key: True for key, value in (("crowd", thing.crowd), ("difficult", thing.difficult)) if value}
    group = number if len(thing.polygons) > 1 else None
    common = {"label": thing.label, "group_id": group, "description": "", "flags": flags}
    for polygon in thing.polygons:
        corners = [list(polygon[i : i + 2]) for i in range(0, len(polygon), 2)]
        yield {**common, "points": corners, "shape_type": "polygon"}
    if not thing.polygons:
        x0, y0, x1, y1 = thing.box
        yield {**common, "points": [[x0, y0], [x1, y1]], "shape_type": "rectangle"}
