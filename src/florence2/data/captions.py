"""Captions: a table, or a text file beside each image.

Table ("captions"): CSV, TSV or ``|``, with a header that names the image (image, file_name, path ...) and
the caption (caption, text, comment ...), or without one, the image first (Flickr8k's ``1000.jpg#0<TAB>A child``).
Several rows of an image are several captions; an empty caption is a photo without any. Further columns are not read.

Text files ("txt"): ``a.txt`` beside ``a.jpg``, one caption per line.

Written: ``captions.csv`` and ``images/``; or images and text files in one folder, line breaks in a caption as blanks.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from florence2.data import fields
from florence2.data.files import SUFFIXES, ImageFolder, find_image, images_in, write_lines
from florence2.data.records import Place, Record, broken, entry
from florence2.errors import DataError
from florence2.images import measure

IMAGE_NAMES = ("image", "file_name", "filename", "filepath", "file", "path", "image_path", "image_name", "img")
CAPTION_NAMES = ("caption", "text", "comment", "description", "captions", "sentence")
Row = tuple[int, list[str]]


def recognise(source: Path) -> str | None:
    found = _table(source)
    return f"captions in {found}" if found else None


def read(source: Path) -> Iterator[Record]:
    table = _table(source)
    if table is None:
        raise DataError(f"{source} holds no table of captions")
    rows = _rows(table)
    image_column, caption_column = _columns(rows[0][1]) or (0, 1)
    records: dict[str, Record] = {}
    for line, cells in rows[1 if _columns(rows[0][1]) else 0 :]:
        place = Place(str(table), line)
        if len(cells) <= max(image_column, caption_column):
            yield broken(place, f"found {len(cells)} cells, expected an image and a caption")
            continue
        name = re.sub(r"#\d+$", "", cells[image_column].strip())
        caption = cells[caption_column].strip()
        if name not in records:
            record = _record(name, table, place)
            if record.error:
                yield record
                continue
            records[name] = record
        if caption:
            records[name] = replace(records[name], captions=(*records[name].captions, caption))
    yield from records.values()


def _record(name: str, table: Path, place: Place) -> Record:
    def build() -> Record:
        if not name:
            raise DataError("the row names no image")
        here = table.parent
        image = find_image(name, [here, here / "images", here / "Images", here.parent / "images"])
        width, height = measure(image)
        return Record(image=image, id=image.stem, width=width, height=height, place=place)

    return entry(place, build)


def _table(source: Path) -> Path | None:
    files = (
        [source] if source.is_file() else sorted([*source.glob("*.csv"), *source.glob("*.tsv"), *source.glob("*.txt")])
    )
    return next((path for path in files if path.suffix in (".csv", ".tsv", ".txt") and _looks_right(path)), None)


def _looks_right(path: Path) -> bool:
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        head = [stream.readline() for _ in range(2)]
    cells = next(iter(_split(head[:1], path)), (0, []))[1]
    named_first = bool(cells) and re.sub(r"#\d+$", "", cells[0].strip()).lower().endswith(SUFFIXES)
    return len(cells) >= 2 and (_columns(cells) is not None or named_first)


def _rows(path: Path) -> list[Row]:
    rows = list(_split(fields.read_text(path).splitlines(keepends=True), path))
    if not rows:
        raise DataError(f"{path} is empty")
    return rows


def _split(lines: list[str], path: Path) -> Iterator[Row]:
    first = lines[0] if lines else ""
    delimiter = next((sign for sign in ("\t", "|", ",", ";") if sign in first), ",")
    quoted = delimiter in ",;"
    reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{path}:{line} is no row of a table ({error})") from error
        if any(cell.strip() for cell in cells):
            yield line, cells


def _columns(header: list[str]) -> tuple[int, int] | None:
    names = [cell.strip().strip('"').lower() for cell in header]
    image = next((names.index(name) for name in IMAGE_NAMES if name in names), None)
    caption = next((names.index(name) for name in CAPTION_NAMES if name in names), None)
    return None if image is None or caption is None else (image, caption)


def write(records: Iterable[Record], target: Path) -> None:
    images = ImageFolder(target / "images")
    with (target / "captions.csv").open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["file_name", "caption"])
        for record in records:
            name = f"images/{images.add(record)}"
            table.writerows([name, caption] for caption in record.captions or ("",))


# One text file per image


def recognise_txt(source: Path) -> str | None:
    if not source.is_dir():
        return None
    told = sum(image.with_suffix(".txt").is_file() for image in images_in(source))
    return f"images with text files, {told} of them" if told else None


def read_txt(source: Path) -> Iterator[Record]:
    for image in images_in(source):
        yield entry(Place(str(image.with_suffix(".txt"))), lambda image=image: _told(image))  # type: ignore[misc]


def _told(image: Path) -> Record:
    words = image.with_suffix(".txt")
    width, height = measure(image)
    lines = fields.read_text(words).splitlines() if words.is_file() else []
    captions = tuple(line.strip() for line in lines if line.strip())
    place = Place(str(words if words.is_file() else image))
    return Record(image=image, id=image.stem, width=width, height=height, captions=captions, place=place)


def write_txt(records: Iterable[Record], target: Path) -> None:
    images = ImageFolder(target)
    for record in records:
        name = images.add(record)
        write_lines(
            (target / name).with_suffix(".txt"), (" ".join(caption.splitlines()) for caption in record.captions)
        )
