"""COCO detection, val2017: one sample per photo, photos without objects among them.

``data.coco`` reads the same file for training; here the areas of the masks are needed, by which COCO calls objects
small, medium and large, and the outlines are not.

Source: Lin et al. (2014), "Microsoft COCO"; cocodataset.org, "Detection evaluation".
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from florence2.data import fields
from florence2.errors import DataError
from florence2.evaluation.benchmarks.records import Benchmark, Needed
from florence2.evaluation.benchmarks.sources import (
    box_of,
    checked,
    document,
    entry,
    listed,
    located,
    photo,
    size_of,
    tuned,
    zero_shot,
)
from florence2.evaluation.samples import Sample
from florence2.results import Detections, Object

TASK = "<OD>"

INSTANCES = Needed(
    "coco/annotations/instances_val2017.json | annotations/instances_val2017.json",
    "the objects of COCO val2017: instances_val2017.json out of annotations_trainval2017.zip (cocodataset.org)",
)
VAL2017 = Needed("coco/val2017 | val2017", "the photos of COCO val2017: val2017.zip, unpacked (cocodataset.org)")


def _read(folder: Path) -> Iterator[Sample]:
    path, photos = located(folder, INSTANCES), located(folder, VAL2017)
    values = document(path)
    names: dict[int, str] = {}
    for number, value in enumerate(listed(values, "categories", path)):
        with entry(path, f"category {number}"):
            d = fields.mapping(value, "it")
            names[fields.whole(fields.field(d, "id", "it"), "id")] = fields.string(d.get("name"), "name")
    of_image: dict[int, list[dict[str, Any]]] = {}
    for number, value in enumerate(listed(values, "annotations", path)):
        with entry(path, f"annotation {number}"):
            d = fields.mapping(value, "it")
            of_image.setdefault(fields.whole(fields.field(d, "image_id", "it"), "image_id"), []).append(d)
    for number, value in enumerate(listed(values, "images", path)):
        with entry(path, f"image {number}"):
            d = fields.mapping(value, "it")
            id = fields.whole(fields.field(d, "id", "it"), "id")
            name = fields.string(fields.field(d, "file_name", "it"), "file_name")
            record = photo(photos / name, str(id), "COCO", "val", size_of(d))
        objects, crowds, areas = [], [], []
        for annotation in of_image.pop(id, []):
            with entry(path, f"annotation {annotation.get('id')} of image {id}"):
                found = _object(annotation, names, (record.width, record.height))
                if annotation.get("iscrowd"):
                    crowds.append(found)
                else:
                    objects.append(found)
                    areas.append(fields.number(fields.field(annotation, "area", "it"), "area"))
        truth = Detections(task=TASK, width=record.width, height=record.height, objects=tuple(objects))
        yield Sample(id=record.id, record=record, task=TASK, truth=(truth,), ignored=tuple(crowds), areas=tuple(areas))
    for id, homeless in of_image.items():
        raise DataError(f"{path}: {len(homeless)} annotations are of image {id}, which is not listed")


def _object(annotation: dict[str, Any], names: dict[int, str], size: tuple[int, int]) -> Object:
    category = fields.whole(fields.field(annotation, "category_id", "it"), "category_id")
    if category not in names:
        raise DataError(f"category_id {category} is not among the categories")
    return Object(label=names[category], box=box_of(annotation, size))


BENCHMARKS: tuple[Benchmark, ...] = (
    Benchmark(
        name="coco-detection",
        title="COCO detection, val2017",
        task=TASK,
        measure="detection",
        main="AP",
        protocol="AP by COCO's rules: IoU 0.5 to 0.95, the 100 best objects of a photo, crowds count neither for nor "
        "against, small to large by the area of the mask. An object is right under the name that COCO has for its "
        "class; other names are wrong, also where they mean the same. Objects are ranked by the scores that they come "
        "with. How the paper ranked Florence-2's, which are written without scores, is not known here.",
        read=partial(checked, read=_read, file=INSTANCES),
        needs=(INSTANCES, VAL2017),
        paper=zero_shot("AP", 34.7, 37.5) + tuned("AP", 41.4, 43.4, "table 6"),
    ),
)
