"""Images beside annotations: where readers find them, and how writers put them there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from florence2.data.records import Record
from florence2.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_HEADS = (
    (b"\xff\xd8", ".jpg"),
    (b"\x89PNG", ".png"),
    (b"RIFF", ".webp"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
)


def find_image(name: str, roots: Iterable[Path]) -> Path:
    """The file called ``name`` in the first folder that has it; in the first folder, where it is missing, if none."""
    candidates = [root / name.replace("\\", "/") for root in roots]
    return next((path for path in candidates if path.is_file()), candidates[0])


def images_in(folder: Path) -> Iterator[Path]:
    """All images below a folder, in order."""
    yield from sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def suffix_of(record: Record) -> str:
    """Of the image's file; from its first bytes where there is no name."""
    if isinstance(record.image, Path):
        return record.image.suffix
    head = (record.image or b"")[:4]
    return next((suffix for start, suffix in _HEADS if head.startswith(start)), ".img")


class ImageFolder:
    """A folder that images are copied to, each under the id of its record."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._taken: set[str] = set()
        make_folder(folder)

    def add(self, record: Record) -> str:
        """Copies the image; returns its file name. Ids that are no file names, or taken, are changed a little."""
        stem = name = re.sub(r'[\x00-\x1f<>:"/\\|?*]', "_", record.id).strip(". ") or "image"
        number = 1
        while name.lower() in self._taken:
            number += 1
            name = f"{stem}_{number}"
        self._taken.add(name.lower())
        path = self.folder / (name + suffix_of(record))
        path.write_bytes(record.image_bytes())
        return path.name


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be made ({error.strerror}); choose another target") from error


def write_lines(path: Path, lines: Iterable[str]) -> None:
    make_folder(path.parent)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def numbered_ids(records: list[Record]) -> list[int]:
    """Whole numbers for formats that know no other ids: the records' own where they are such, else 1, 2, ..."""
    own = [record.id for record in records]
    if len(set(own)) == len(own) and all(re.fullmatch(r"0|[1-9]\d{0,17}", id) for id in own):
        return [int(id) for id in own]
    return list(range(1, len(records) + 1))


def shared_classes(records: Iterable[Record]) -> tuple[str, ...]:
    """The class list that all records share; none where they differ, so that nothing is claimed of any."""
    lists = {record.exhaustive or () for record in records}
    return lists.pop() if len(lists) == 1 else ()


def class_names(records: Iterable[Record]) -> list[str]:
    """All classes that records name, in the order in which they appear."""
    names: dict[str, None] = {}
    for record in records:
        names.update(dict.fromkeys(record.exhaustive or ()))
        names.update(dict.fromkeys(thing.label for thing in record.objects or ()))
    return list(names)
