"""COCO: ``instances`` (boxes, polygons, run-length masks) and ``captions`` JSON.

Read: a JSON file, or a folder with such files (``annotations/instances_val2017.json``, Roboflow's
``train/_annotations.coco.json``). Instances and captions of one image become one record. Masks become polygons of
exactly the same pixels (``masks.py``). All categories of a file count as exhaustively annotated, as in COCO; where
images carry ``neg_category_ids`` and ``not_exhaustive_category_ids`` (LVIS), these say it instead.

Written: ``instances.json``, ``captions.json`` and ``images/``. LVIS's two fields are added where a record's classes
are not all of the file's. Ids of records that are no numbers stay in ``record_id``.

Source: cocodataset.org, "Data format"; Gupta et al. (2019), "LVIS", section 3.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from florence2.data import fields, masks
from florence2.data.files import ImageFolder, class_names, find_image, numbered_ids
from florence2.data.records import Place, Record, Thing, broken
from florence2.errors import DataError, ImageError
from florence2.images import measure
from florence2.results import Polygon


def recognise(source: Path) -> str | None:
    found = _files(source)
    if not found:
        return None
    return f"COCO annotations in {', '.join(map(str, found))}"


def read(source: Path) -> Iterator[Record]:
    merged: dict[tuple[str, str], Record] = {}
    problems: list[Record] = []
    for path in _files(source):
        try:
            file = _File(path, fields.mapping(fields.parse_json(fields.read_text(path), str(path)), str(path)))
        except DataError as error:
            problems.append(broken(Place(str(path)), error))
            continue
        for record in file.records():
            if record.error:
                problems.append(record)
                continue
            key = (str(record.image), record.id)
            merged[key] = _joined(merged[key], record) if key in merged else record
    yield from problems
    yield from merged.values()


def _files(source: Path) -> list[Path]:
    if source.is_file():
        return [source] if source.suffix == ".json" and _looks_right(source) else []
    inside = sorted(
        [*source.glob("*.json"), *source.glob("annotations/*.json"), *source.glob("*/_annotations.coco.json")]
    )
    return [path for path in dict.fromkeys(inside) if _looks_right(path)]


def _looks_right(path: Path) -> bool:
    """Without reading a file of a gigabyte: its keys are named at the beginning or the end."""
    with path.open("rb") as stream:
        head = stream.read(1 << 16)
        stream.seek(max(0, path.stat().st_size - (1 << 16)))
        ends = head + stream.read()
    if not head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"{"):
        return False
    if b'"images"' in ends and b'"annotations"' in ends and b'"questions"' not in ends:
        return b'"shapes"' not in ends
    keys: object = None
    if path.stat().st_size < (1 << 28) and (b'"images"' in ends or b'"annotations"' in ends):
        try:
            keys = json.loads(path.read_bytes())
        except ValueError:
            return False
    return isinstance(keys, dict) and {"images", "annotations"} <= keys.keys() and "questions" not in keys


@dataclass
class _File:
    path: Path
    document: dict[str, Any]
    seen: set[Any] = field(default_factory=set)

    def records(self) -> Iterator[Record]:
        names: dict[Any, str] = {}
        for value in fields.items(self.document.get("categories", []), "categories"):
            try:
                category = fields.mapping(value, "a category")
                id, name = fields.field(category, "id", "a category"), fields.field(category, "name", "a category")
                names[id] = fields.string(name, "the name of a category")
            except DataError as error:
                yield self._broken(error)
        objects = "categories" in self.document
        by_image: dict[Any, list[Any]] = {}
        for value in fields.items(self.document.get("annotations", []), "annotations"):
            if isinstance(value, dict) and isinstance(value.get("image_id"), (int, str)):
                by_image.setdefault(value["image_id"], []).append(value)
            else:
                yield self._broken(f"an annotation without an image_id: {str(value)[:80]}")
        for value in fields.items(self.document.get("images", []), "images"):
            try:
                image = fields.mapping(value, "an image")
                id = fields.field(image, "id", "an image")
                annotations = by_image.pop(id, [])
                record = self._image(image, id)
            except (DataError, ImageError) as error:
                yield self._broken(error)
                continue
            things, captions = [], []
            for annotation in annotations:
                try:
                    if "caption" in annotation:
                        captions.append(fields.string(annotation["caption"], "a caption"))
                    else:
                        things.append(self._thing(annotation, names, record))
                except DataError as error:
                    yield self._broken(f"annotation {annotation.get('id')} of image {id}: {error}", record.id)
            if objects:
                record = replace(record, objects=tuple(things), exhaustive=_exhaustive(image, names, things))
            yield replace(record, captions=tuple(captions))
        for id, annotations in by_image.items():
            yield self._broken(f"{len(annotations)} annotations are of image {id!r}, which is not listed", str(id))

    def _broken(self, problem: object, id: str = "") -> Record:
        return broken(Place(str(self.path)), problem, id)

    def _image(self, image: dict[str, Any], id: Any) -> Record:
        name = fields.string(fields.field(image, "file_name", f"image {id}"), "file_name")
        path = find_image(name, self._roots())
        if "width" in image and "height" in image:
            width, height = fields.whole(image["width"], "width"), fields.whole(image["height"], "height")
        else:
            width, height = measure(path)
        return Record(
            image=path,
            id=str(image.get("record_id", id)),
            width=width,
            height=height,
            place=Place(f"{self.path} (image {id})"),
        )

    def _roots(self) -> list[Path]:
        here, split = self.path.parent, self.path.stem.rsplit("_", 1)[-1]  # instances_val2017 -> val2017
        roots = [here / "images", here, here.parent / "images", here.parent, here.parent / split, here / split]
        return [*roots, here.parent / "images" / split]

    def _thing(self, annotation: dict[str, Any], names: dict[Any, str], record: Record) -> Thing:
        category = fields.field(annotation, "category_id", "it")
        if category not in names:
            raise DataError(f"category_id {category!r} is not among the categories")
        polygons = _polygons(annotation.get("segmentation"), (record.width, record.height))
        if "bbox" in annotation:
            x, y, width, height = fields.box(annotation["bbox"], "bbox")
            box = (x, y, x + width, y + height)
        elif polygons:
            box = fields.hull(polygons)
        else:
            raise DataError("it has neither bbox nor segmentation")
        return Thing(label=names[category], box=box, polygons=polygons, crowd=bool(annotation.get("iscrowd", 0)))


def _polygons(segmentation: Any, size: tuple[int, int]) -> tuple[Polygon, ...]:
    if segmentation is None:
        return ()
    if isinstance(segmentation, dict):
        mask = masks.decode(segmentation, "the segmentation")
        if mask.shape != (size[1], size[0]):
            raise DataError(f"the mask is {mask.shape[1]} x {mask.shape[0]}, the image {size[0]} x {size[1]}")
        return masks.outlines(mask)
    return tuple(fields.points(polygon, "a polygon") for polygon in fields.items(segmentation, "segmentation"))


def _exhaustive(image: dict[str, Any], names: dict[Any, str], things: list[Thing]) -> tuple[str, ...] | None:
    """In LVIS, the classes that an image was checked for: those named absent, and those found and finished."""
    if "neg_category_ids" not in image:
        return tuple(names.values()) or None
    absent = fields.items(image["neg_category_ids"], "neg_category_ids")
    unfinished = fields.items(image.get("not_exhaustive_category_ids", []), "not_exhaustive_category_ids")
    present = {thing.label for thing in things}
    return (
        tuple(name for id, name in names.items() if id in absent or (name in present and id not in unfinished)) or None
    )


def _joined(a: Record, b: Record) -> Record:
    """Instances and captions of one image."""
    if a.objects is None:
        a, b = b, a
    both = (*(a.objects or ()), *(thing for thing in b.objects or () if thing not in (a.objects or ())))
    return replace(
        a,
        captions=a.captions + tuple(caption for caption in b.captions if caption not in a.captions),
        objects=None if a.objects is None else both,
        exhaustive=a.exhaustive or b.exhaustive,
    )


def write(records: Iterable[Record], target: Path) -> None:
    kept = list(records)
    folder = ImageFolder(target / "images")
    names = [folder.add(record) for record in kept]
    ids = numbered_ids(kept)
    classes = {name: number for number, name in enumerate(class_names(kept), start=1)}
    instances: list[dict[str, Any]] = []
    captions: list[dict[str, Any]] = []
    entries = [_entry(record, id, name, classes) for record, id, name in zip(kept, ids, names, strict=True)]
    for record, id in zip(kept, ids, strict=True):
        for thing in record.objects or ():
            instances.append({"id": len(instances) + 1, "image_id": id, **_annotation(thing, classes)})
        for caption in record.captions:
            captions.append({"id": len(captions) + 1, "image_id": id, "caption": caption})
    looked_at = [entry for entry, record in zip(entries, kept, strict=True) if record.objects is not None]
    told = [entry for entry, record in zip(entries, kept, strict=True) if record.captions or record.objects is None]
    if looked_at:
        categories = [{"id": number, "name": name, "supercategory": ""} for name, number in classes.items()]
        document = {"info": {}, "images": looked_at, "annotations": instances, "categories": categories}
        _dump(document, target / "instances.json")
    if told or not looked_at:
        _dump({"info": {}, "images": told, "annotations": captions}, target / "captions.json")


def _entry(record: Record, id: int, name: str, classes: dict[str, int]) -> dict[str, Any]:
    entry: dict[str, Any] = {"id": id, "file_name": name, "width": record.width, "height": record.height}
    if str(id) != record.id:
        entry["record_id"] = record.id
    if record.objects is not None and set(record.exhaustive or ()) != set(classes):
        present = {thing.label for thing in record.objects}
        checked = set(record.exhaustive or ())
        entry["neg_category_ids"] = [classes[name] for name in classes if name in checked - present]
        entry["not_exhaustive_category_ids"] = [classes[name] for name in classes if name in present - checked]
    return entry


def _annotation(thing: Thing, classes: dict[str, int]) -> dict[str, Any]:
    x0, y0, x1, y1 = thing.box
    area = sum(map(_area, thing.polygons)) if thing.polygons else (x1 - x0) * (y1 - y0)
    return {
        "category_id": classes[thing.label],
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": area,
        "segmentation": [list(polygon) for polygon in thing.polygons],
        "iscrowd": int(thing.crowd),
    }


def _area(polygon: Polygon) -> float:
    points = list(zip(polygon[0::2], polygon[1::2], strict=False))
    turned = zip(points, [*points[1:], *points[:1]], strict=True)
    return abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in turned)) / 2


def _dump(document: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
