"""Any data set -> records -> any data set.

    read(source) -> DataSet           recognises the format and says how; iterating gives records
    write(records, target, format)    writes them, and counts what the format cannot hold

What each format holds (o: yes; -: no, ``write`` counts it):

    | format        | captions | boxes | outlines | negatives | classes | phrases, refs | text | questions | pairs |
    | records       | o        | o     | o        | o         | o       | o             | o    | o         | o     |
    | packs         | o        | o     | o        | o         | o       | o             | o    | o         | o     |
    | parquet       | o        | o     | o        | o         | o       | o             | o    | o         | o     |
    | coco          | o        | o     | o        | o         | o       | -             | -    | -         | -     |
    | yolo          | -        | o     | one part | o         | o       | -             | -    | -         | -     |
    | voc           | -        | o     | o        | o         | o       | -             | -    | -         | -     |
    | labelme       | -        | o     | o        | o         | o       | -             | -    | -         | -     |
    | captions, txt | o        | -     | -        | -         | -       | -             | -    | -         | -     |
    | vqa, docvqa   | -        | -     | -        | -         | -       | -             | -    | o         | -     |
    | jsonl         | written  | as    | pairs    |           |         |               |      |           | o     |

Writers copy the images beside the annotations, so that what they write can be moved as one folder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from florence2.data import captions, coco, jsonl, labelme, packs, parquet, voc, vqa, yolo
from florence2.data.records import Record, aspects
from florence2.errors import DataError


@dataclass(frozen=True)
class Format:
    name: str
    holds: frozenset[str]
    """Names of what it keeps (``records.aspects``)."""
    recognise: Callable[[Path], str | None]
    """What a file or folder is, in words; None where it is something else."""
    read: Callable[[Path], Iterator[Record]]
    write: Callable[[Iterable[Record], Path], None]
    takes: Callable[[Record], bool] = lambda record: True
    """Whether the format can say anything about a photo. An object format would make "nobody looked" a negative."""
    lists: Literal["each", "one", "always"] = "each"
    """Class lists are kept per photo; one for all photos or none; or one for all, which is there in any case."""


_OBJECTS = frozenset(("objects", "polygons", "photos without objects", "class lists"))
_EVERYTHING = frozenset(
    (
        *("captions", "outlines of several parts", "boxes that differ from their outline", "crowd marks"),
        *("difficult marks", "phrases", "referring expressions", "texts with quads", "photos without text"),
        *("illegible texts", "questions", "origins", "pairs", "sources", "splits", "further fields"),
        *_OBJECTS,
    )
)
_PAIRS, _QUESTIONS = frozenset(("pairs",)), frozenset(("questions",))
_COCO = {*_OBJECTS, "captions", "crowd marks", "outlines of several parts", "boxes that differ from their outline"}
_VOC = {*_OBJECTS, "difficult marks", "outlines of several parts", "boxes that differ from their outline"}
_LABELME = _OBJECTS | {"difficult marks", "crowd marks", "outlines of several parts"}


def _looked_at(record: Record) -> bool:
    return record.objects is not None


def _asked(record: Record) -> bool:
    return bool(record.qa)


FORMATS: dict[str, Format] = {
    kind.name: kind
    for kind in (
        Format("packs", _EVERYTHING, packs.recognise, packs.read, packs.write),
        Format("parquet", _EVERYTHING, parquet.recognise, parquet.read, parquet.write),
        Format("records", _EVERYTHING, jsonl.recognise_records, jsonl.read_records, jsonl.write_records),
        Format("jsonl", _PAIRS, jsonl.recognise_pairs, jsonl.read_pairs, jsonl.write_pairs, jsonl.takes),
        Format("yolo", _OBJECTS | {"splits"}, yolo.recognise, yolo.read, yolo.write, _looked_at, "always"),
        Format("docvqa", _QUESTIONS, vqa.recognise_docvqa, vqa.read_docvqa, vqa.write_docvqa, _asked),
        Format("vqa", _QUESTIONS, vqa.recognise, vqa.read, vqa.write),
        Format("coco", frozenset(_COCO), coco.recognise, coco.read, coco.write),
        Format("labelme", _LABELME, labelme.recognise, labelme.read, labelme.write, _looked_at, "one"),
        Format("voc", frozenset(_VOC), voc.recognise, voc.read, voc.write, _looked_at, "one"),
        Format("captions", frozenset(("captions",)), captions.recognise, captions.read, captions.write),
        Format("txt", frozenset(("captions",)), captions.recognise_txt, captions.read_txt, captions.write_txt),
    )
}
"""By name, in the order in which they are tried: those that can be told apart surely come first."""


@dataclass(frozen=True)
class DataSet:
    """Records of a file or folder, read anew by every iteration; entries that are broken are error records."""

    source: Path
    format: str
    recognised: str
    """What the source is, in words."""

    def __iter__(self) -> Iterator[Record]:
        return FORMATS[self.format].read(self.source)


@dataclass
class Written:
    """What came of ``write``."""

    format: str
    records: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    """What the format cannot hold, counted."""
    skipped: list[str] = field(default_factory=list)
    """Records that could not be written at all, each with its place and reason."""

    def __str__(self) -> str:
        lines = [f"{self.records} records written as {self.format}"]
        lines += [f"  not held by {self.format}: {count} {name}" for name, count in sorted(self.lost.items())]
        return "\n".join([*lines, *(f"  skipped: {reason}" for reason in self.skipped)])


def read(source: str | Path, format: str | None = None) -> DataSet:
    """The data set at a file or folder. Raises DataError where there is nothing, or nothing that is recognised."""
    path = Path(source)
    if not path.exists():
        raise DataError(f"{path} does not exist; give the file or folder of a data set")
    for kind in FORMATS.values() if format is None else [_get(format)]:
        if found := kind.recognise(path):
            return DataSet(path, kind.name, found)
    raise DataError(
        f"{path} is no data set of the format {format}"
        if format
        else f"the format of {path} is not recognised; known are {', '.join(FORMATS)}, see the guide docs/data.md"
    )


def write(records: Iterable[Record], target: str | Path, format: str) -> Written:
    """Writes records and their images to a new folder (or, for packs and parquet, a file).

    Error records and records without an image are left out and named. Raises DataError where the target is taken.
    """
    kind, path = _get(format), Path(target)
    if path.exists() and (path.is_file() or any(path.iterdir())):
        raise DataError(f"{path} is already there; give a folder that does not exist or is empty")
    written = Written(kind.name)
    lists: Counter[frozenset[str] | None] = Counter()
    kind.write(_counted(records, kind, written, lists), path)
    if kind.lists != "each":
        kept = next(iter(lists)) if len(lists) == 1 else None
        changed = lists.total() - lists[kept] if kind.lists == "one" else lists.total() if kept is None else 0
        written.lost.update({"class lists that differ between photos": changed} if changed else {})
    return written


def _counted(
    records: Iterable[Record], kind: Format, written: Written, lists: Counter[frozenset[str] | None]
) -> Iterator[Record]:
    for record in records:
        if record.error:
            written.skipped.append(f"{record.where}: {record.error}")
        elif record.image is None or (isinstance(record.image, Path) and not record.image.is_file()):
            written.skipped.append(f"{record.where}: there is no image {record.image or ''}".rstrip())
        else:
            said = Counter(aspects(record))
            written.lost.update({name: count for name, count in said.items() if name not in kind.holds})
            if kind.takes(record):
                written.records += 1
                lists[None if record.exhaustive is None else frozenset(record.exhaustive)] += 1
                yield record
            else:
                written.lost["photos that it says nothing about"] += 1


def _get(name: str) -> Format:
    if name not in FORMATS:
        raise DataError(f"there is no format {name!r}; known are {', '.join(FORMATS)}")
    return FORMATS[name]
