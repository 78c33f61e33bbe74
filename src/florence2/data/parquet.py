"""Parquet, as the ``datasets`` library keeps it: an ``image`` column of {"bytes", "path"}, bytes, or a path.

Read besides: ``record`` (JSON, ours), ``caption`` / ``captions`` / ``text`` (one or a list), ``question`` with
``answer`` / ``answers``, ``prefix`` with ``suffix``, ``id``. Other columns are kept in ``extra``.

Written: ``image``, ``id``, ``width``, ``height``, ``captions`` and ``record``, which holds everything; one file for a
target that ends in ``.parquet``, else ``data.parquet`` in a folder.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from florence2.data import fields
from florence2.data.files import make_folder, suffix_of
from florence2.data.records import Place, Record, broken, entry
from florence2.data.records_json import from_dict, to_dict
from florence2.errors import DataError, MissingDependencyError

BATCH = 64
"""Rows in memory at a time: images are large."""
CAPTIONS = ("captions", "caption", "text")
ANSWERS = ("answers", "answer")


def recognise(source: Path) -> str | None:
    found = _files(source)
    return f"Parquet, {len(found)} files" if found else None


def read(source: Path) -> Iterator[Record]:
    arrow = _pyarrow()
    for path in _files(source):
        try:
            with arrow.parquet.ParquetFile(path) as file:
                numbers = itertools.count()
                for batch in file.iter_batches(batch_size=BATCH):
                    for row in batch.to_pylist():
                        place = Place(f"{path} (row {next(numbers)})")
                        yield entry(place, functools.partial(_record, row, place))
        except arrow.ArrowException as error:
            yield broken(Place(str(path)), f"it is no Parquet file that can be read ({error})")


def _files(source: Path) -> list[Path]:
    inside = [source] if source.is_file() else sorted([*source.glob("*.parquet"), *source.glob("data/*.parquet")])
    return [path for path in inside if path.suffix == ".parquet"]


def _record(row: dict[str, Any], place: Place) -> Record:
    image, name = _image(row, place)
    if isinstance(row.get("record"), str):
        return from_dict(fields.parse_json(row["record"], "the record"), image, place, name)
    known = {"image", "id", *CAPTIONS, "question", *ANSWERS, "prefix", "suffix"}
    document = {key: value for key, value in row.items() if key not in known and value is not None}
    try:
        json.dumps(document)
    except TypeError as error:
        raise DataError(f"a column cannot be kept as JSON ({error}); leave it out") from error
    document["id"] = str(row.get("id") or name)
    document["captions"] = [caption for column in CAPTIONS for caption in _texts(row, column)]
    if row.get("question") is not None:
        answers = [answer for column in ANSWERS for answer in _texts(row, column)]
        document["qa"] = [{"question": row["question"], "answers": answers}]
    if row.get("prefix") is not None:
        document["pairs"] = [{"prompt": row["prefix"], "answer": fields.field(row, "suffix", "the row")}]
    return from_dict(document, image, place)


def _image(row: dict[str, Any], place: Place) -> tuple[Path | bytes, str]:
    """The image and a name for it."""
    value = row.get("image")
    path = value.get("path") if isinstance(value, dict) else value if isinstance(value, str) else None
    name = Path(path).stem if path else str(place)
    content = value.get("bytes") if isinstance(value, dict) else value if isinstance(value, bytes) else None
    if content:
        return content, name
    if path:
        return Path(place.file.rsplit(" (row", 1)[0]).parent / path, name
    raise DataError(f"the row has no image; its columns are {', '.join(row)}")


def _texts(row: dict[str, Any], column: str) -> list[str]:
    value = row.get(column)
    return [] if value is None else [value] if isinstance(value, str) else fields.items(value, column)


def write(records: Iterable[Record], target: Path) -> None:
    arrow = _pyarrow()
    path = target if target.suffix == ".parquet" else target / "data.parquet"
    make_folder(path.parent)
    schema = arrow.schema(
        [
            ("image", arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])),
            ("id", arrow.string()),
            ("width", arrow.int32()),
            ("height", arrow.int32()),
            ("captions", arrow.list_(arrow.string())),
            ("record", arrow.string()),
        ]
    )
    rest = iter(records)
    with arrow.parquet.ParquetWriter(path, schema) as file:
        while rows := [_row(record) for record in itertools.islice(rest, BATCH)]:
            file.write_table(arrow.Table.from_pylist(rows, schema=schema))


def _row(record: Record) -> dict[str, Any]:
    return {
        "image": {"bytes": record.image_bytes(), "path": record.id + suffix_of(record)},
        "id": record.id,
        "width": record.width,
        "height": record.height,
        "captions": list(record.captions),
        "record": json.dumps(to_dict(record), ensure_ascii=False),
    }


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError("Parquet needs pyarrow; pip install 'florence2[train]'") from error
    return pyarrow
