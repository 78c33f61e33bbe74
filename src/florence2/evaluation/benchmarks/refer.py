"""RefCOCO, RefCOCO+ and RefCOCOg in the files of lichengunc/refer: expressions, and what each means.

``refs(unc).p`` and ``refs(umd).p`` are pickles that Python 2 wrote. A pickle may name any function and have it called
while it is read, so these are read by an unpickler that knows no names at all: lists, dicts, texts and numbers only.

Sources: Kazemzadeh et al. (2014), "ReferItGame"; Yu et al. (2016); Mao et al. (2016); Nagaraja et al. (2016).
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from florence2.data import fields
from florence2.data.records import Record
from florence2.errors import DataError
from florence2.evaluation.benchmarks.records import Needed
from florence2.evaluation.benchmarks.sources import document, entry, listed, located, name_of, photo, size_of

TRAIN2014 = Needed(
    "coco/train2014 | train2014 | images/mscoco/images/train2014",
    "the photos of COCO train2014: train2014.zip, unpacked (cocodataset.org)",
)
TITLES = {"refcoco": "RefCOCO", "refcoco+": "RefCOCO+", "refcocog": "RefCOCOg"}
PARTITIONS = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd"}
"""By whose splits. RefCOCOg of Google has no public test split; the test split that is reported is that of UMD."""


@dataclass(frozen=True)
class Expression:
    id: str
    text: str
    record: Record
    annotation: dict[str, Any]
    """The object that is meant, as instances.json has it."""
    path: Path
    where: str
    """For messages."""


def refs_of(dataset: str) -> Needed:
    name = f"refs({PARTITIONS[dataset]}).p"
    return Needed(
        f"{dataset}/{name}",
        f"the expressions of {TITLES[dataset]}: {name} out of {dataset}.zip (lichengunc/refer on GitHub)",
    )


def instances_of(dataset: str) -> Needed:
    return Needed(
        f"{dataset}/instances.json",
        f"the objects of {TITLES[dataset]}: instances.json out of {dataset}.zip (lichengunc/refer on GitHub)",
    )


def needs(dataset: str) -> tuple[Needed, ...]:
    return (refs_of(dataset), instances_of(dataset), TRAIN2014)


def read(folder: Path, dataset: str, split: str) -> Iterator[Expression]:
    """All expressions of a split, those of a photo together. Raises DataError that says what is broken."""
    path, instances = located(folder, refs_of(dataset)), located(folder, instances_of(dataset))
    of_image: dict[str, list[dict[str, Any]]] = {}
    splits: set[str] = set()
    for number, value in enumerate(fields.items(unpickled(path), str(path))):
        with entry(path, f"entry {number}"):
            ref = fields.mapping(value, "it")
            splits.add(fields.string(fields.field(ref, "split", "it"), "split"))
            if ref["split"] == split:
                of_image.setdefault(name_of(ref, "image_id", "it"), []).append(ref)
    if not of_image:
        raise DataError(f"{path} has no expressions of {split}; it has those of {', '.join(sorted(splits))}")
    values = document(instances)
    images, annotations = _by_id(values, "images", instances), _by_id(values, "annotations", instances)
    photos = located(folder, TRAIN2014)
    for image, refs in of_image.items():
        if image not in images:
            raise DataError(f"{instances} has no image {image}, which {path} speaks of")
        with entry(instances, f"image {image}"):
            name = fields.string(fields.field(images[image], "file_name", "it"), "file_name")
            record = photo(photos / name, image, TITLES[dataset], split, size_of(images[image]))
        for ref in refs:
            with entry(path, f"ref {ref.get('ref_id')}"):
                annotation = _meant(ref, annotations, instances, image)
                sentences = [fields.mapping(s, "a sentence") for s in fields.items(ref.get("sentences"), "sentences")]
                told = [
                    (name_of(s, "sent_id", "a sentence"), fields.string(fields.field(s, "sent", "a sentence"), "sent"))
                    for s in sentences
                ]
            where = f"annotation {annotation['id']}"
            for id, text in told:
                yield Expression(id, text, record, annotation, instances, where)


def _by_id(values: dict[str, Any], name: str, path: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for number, value in enumerate(listed(values, name, path)):
        with entry(path, f"{number} of {name}"):
            d = fields.mapping(value, "it")
            found[name_of(d, "id", "it")] = d
    return found


def _meant(ref: dict[str, Any], annotations: dict[str, dict[str, Any]], path: Path, image: str) -> dict[str, Any]:
    id = name_of(ref, "ann_id", "it")
    if id not in annotations:
        raise DataError(f"it means annotation {id}, which {path} does not have")
    if name_of(annotations[id], "image_id", f"annotation {id}") != image:
        raise DataError(f"it is of image {image}, and its annotation {id} of another")
    return annotations[id]


def unpickled(path: Path) -> Any:
    """What a pickle of plain values holds; DataError where it would call anything, or is cut off."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the path") from error
    try:
        return _PlainValues(content, path, "utf-8").load()
    except UnicodeDecodeError:
        return _PlainValues(content, path, "latin1").load()


class _PlainValues(pickle.Unpickler):
    """Reads what needs no name. ``encoding`` is that of Python 2's byte strings."""

    def __init__(self, content: bytes, path: Path, encoding: str) -> None:
        super().__init__(io.BytesIO(content), encoding=encoding)
        self._path = path

    def find_class(self, module_name: str, global_name: str) -> NoReturn:
        raise DataError(
            f"{self._path} holds code: reading it would call {module_name}.{global_name}. The official file holds "
            "plain values only; do not use this one"
        )

    def load(self) -> Any:
        try:
            return super().load()
        except (DataError, UnicodeDecodeError):
            raise
        except (pickle.UnpicklingError, EOFError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise DataError(f"{self._path} is no pickle, or one that was cut off ({error}); copy it again") from error
