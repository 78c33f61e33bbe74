"""JSON lines: pairs as other Florence-2 trainers write them, and our own records.

    {"image": "a.jpg", "prefix": "<OD>", "suffix": "car<loc_52><loc_332><loc_932><loc_774>"}       format "jsonl"
    {"image": "a.jpg", "id": "a", "width": 640, "height": 480, "objects": [...], ...}              format "records"

Pairs (maestro, Roboflow: ``train/annotations.jsonl``): the images lie beside the file; neighbouring lines of one image
become one record, so that it is encoded once. A suffix is kept letter by letter: what is wrong in it, ``check`` finds.
Written are the explicit pairs, and for annotations the targets of every task that they can teach (``targets.py``).

Records: all that a record says, without loss.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from florence2.data import fields, targets
from florence2.data.files import ImageFolder
from florence2.data.records import Pair, Place, Record, entry
from florence2.data.records_json import from_dict, to_dict
from florence2.errors import DataError
from florence2.images import measure

if TYPE_CHECKING:
    from florence2.language.tokenizer import Tokenizer

LETTERS_AND_MARKS = 1285
"""Entries of a vocabulary without words: 256 bytes, the 1,000 locations and the marks of the tasks."""


def recognise_pairs(source: Path) -> str | None:
    found = [path for path in _files(source) if _holds(path, ("image", "prefix", "suffix"))]
    return f"prefix-suffix pairs in {', '.join(map(str, found))}" if found else None


def recognise_records(source: Path) -> str | None:
    found = [path for path in _files(source) if _holds(path, ("image", "id", "width", "height"))]
    return f"records in {', '.join(map(str, found))}" if found else None


def _files(source: Path) -> list[Path]:
    if source.is_file():
        return [source] if source.suffix in (".jsonl", ".ndjson") else []
    return sorted([*source.glob("*.jsonl"), *source.glob("*/*.jsonl")])


def _holds(path: Path, names: tuple[str, ...]) -> bool:
    """By the first lines; one that is broken decides nothing."""
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        for _, line in zip(range(20), stream, strict=False):
            try:
                document = json.loads(line)
            except ValueError:
                continue
            if isinstance(document, dict):
                return all(name in document for name in names)
    return False


def _lines(path: Path) -> Iterator[tuple[Place, str]]:
    """Line by line, so that files larger than the memory can be read."""
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield Place(str(path), number), line.decode("utf-8-sig" if number == 1 else "utf-8", "replace")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the path") from error


# Pairs


def read_pairs(source: Path) -> Iterator[Record]:
    for path in _files(source):
        split = {"valid": "val"}.get(path.parent.name, path.parent.name)
        pending: Record | None = None
        for place, line in _lines(path):
            record = entry(place, functools.partial(_pair_record, line, place, split))
            if pending and not record.error and record.image == pending.image:
                pending = replace(pending, pairs=pending.pairs + record.pairs)
                continue
            if pending:
                yield pending
            pending = None if record.error else record
            if record.error:
                yield record
        if pending:
            yield pending


def _pair_record(line: str, place: Place, split: str) -> Record:
    document = fields.mapping(fields.parse_json(line, "the line"), "the line")
    fields.only(document, frozenset(("image", "prefix", "suffix")), "the line")
    image = _image(document, place)
    prompt = fields.string(fields.field(document, "prefix", "the line"), "prefix")
    answer = fields.string(fields.field(document, "suffix", "the line"), "suffix")
    width, height = measure(image)
    return Record(
        image=image,
        id=image.stem,
        width=width,
        height=height,
        pairs=(Pair(prompt=prompt, answer=answer, place=place),),
        split=split if split in ("train", "val", "test") else "",
        place=place,
    )


def _image(document: dict[str, Any], place: Place) -> Path:
    return Path(place.file).parent / fields.string(fields.field(document, "image", "the line"), "image")


def takes(record: Record) -> bool:
    """Is there anything to be learnt from the record?"""
    return bool(targets.pairs(record))


def write_pairs(records: Iterable[Record], target: Path) -> None:
    tokenizer = spelling()
    images = ImageFolder(target)
    with (target / "annotations.jsonl").open("w", encoding="utf-8") as stream:
        for record in records:
            name = images.add(record)
            for lesson in targets.pairs(record):
                line = {"image": name, "prefix": lesson.prefix, "suffix": lesson.suffix(tokenizer)}
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")


@functools.cache
def spelling() -> Tokenizer:
    """A tokenizer without words: enough to spell answers, which read the same in every vocabulary."""
    from florence2.language.tokenizer import Tokenizer

    return Tokenizer.train([], LETTERS_AND_MARKS)


# Records


def read_records(source: Path) -> Iterator[Record]:
    for path in _files(source):
        for place, line in _lines(path):
            yield entry(place, functools.partial(_record, line, place))


def _record(line: str, place: Place) -> Record:
    document = fields.mapping(fields.parse_json(line, "the line"), "the line")
    image = _image(document, place) if document.get("image") is not None else None
    return from_dict(document, image, place, image.stem if image else "")


def write_records(records: Iterable[Record], target: Path) -> None:
    images = ImageFolder(target / "images")
    with (target / "records.jsonl").open("w", encoding="utf-8") as stream:
        for record in records:
            line = {"image": f"images/{images.add(record)}", **to_dict(record)}
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")
