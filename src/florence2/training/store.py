"""Records by number: any data set, written once into one flat file that all processes of a run read from.

Readers give streams; training draws records in any order, in several processes, and again after a restart. Memory does
not grow with the data: the operating system keeps what is read often.

    DATA.records    one record behind the other: JSON, then the image where the data set holds it (packs, Parquet)
    DATA.index      where each begins
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from florence2.data.records import Place, Record
from florence2.data.records_json import from_dict, to_dict
from florence2.errors import DataError


class RecordStore:
    """A sequence of records in a file that :func:`write` made. Pickles as its path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._index = np.load(_index_of(path))
        except (OSError, ValueError) as error:
            raise DataError(f"{_index_of(path)} cannot be read ({error}); delete the folder {path.parent}") from error
        self._file: BinaryIO | None = None

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, number: int) -> Record:
        start, middle, end = (int(v) for v in self._index[number])
        if self._file is None:
            self._file = self.path.open("rb")
        raw = os.pread(self._file.fileno(), end - start, start)
        head = json.loads(raw[: middle - start])
        image = raw[middle - start :] or (None if head["image"] is None else Path(head["image"]))
        return from_dict(head["record"], image, Place(*head["place"]))

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_index": self._index, "_file": None}


def write(records: Iterable[Record], path: Path) -> RecordStore:
    """Writes records to a new file and its index; both appear whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part, index = path.with_suffix(".part"), []
    with part.open("wb") as file:
        for record in records:
            held = isinstance(record.image, bytes)
            place = record.place or Place(record.id)
            head = {
                "record": to_dict(record),
                "image": None if held or record.image is None else os.path.abspath(str(record.image)),
                "place": [place.file, place.line],
            }
            start = file.tell()
            file.write(json.dumps(head, ensure_ascii=False).encode("utf-8"))
            middle = file.tell()
            if isinstance(record.image, bytes):
                file.write(record.image)
            index.append((start, middle, file.tell()))
    with _index_of(path).with_suffix(".index.part").open("wb") as file:
        np.save(file, np.array(index, dtype=np.int64).reshape(-1, 3))
    os.replace(_index_of(path).with_suffix(".index.part"), _index_of(path))
    os.replace(part, path)
    return RecordStore(path)


def _index_of(path: Path) -> Path:
    return path.with_suffix(".index")
