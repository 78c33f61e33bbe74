"""What the readers of the published benchmarks share: where files lie, which entry is broken, the paper's numbers.

The folder that a user names may be one for all benchmarks (``coco/``, ``nocaps/``, ``refcoco/`` ... side by side) or
that of one data set. A file that is broken ends the reading: a benchmark without some of its samples is another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from florence2.data import fields
from florence2.data.records import Place, Record
from florence2.errors import DataError, ImageError
from florence2.evaluation.benchmarks.records import Needed, Published
from florence2.evaluation.samples import Sample
from florence2.images import measure
from florence2.results import Box, Text

# Files


def located(folder: Path, need: Needed) -> Path:
    """The first place of what is needed that exists; the first of all where none does, so that errors name it."""
    places = [folder / path for path in need.path.split(" | ")]
    return next((place for place in places if place.exists()), places[0])


def document(path: Path) -> dict[str, Any]:
    """A JSON file that is an object."""
    return fields.mapping(fields.parse_json(fields.read_text(path), str(path)), str(path))


def listed(values: dict[str, Any], name: str, path: Path) -> list[Any]:
    """The list ``name`` of a document."""
    return fields.items(fields.field(values, name, str(path)), f"{name} of {path}")


@contextmanager
def entry(path: Path, what: str) -> Iterator[None]:
    """Whatever is wrong inside is said with the file and the entry."""
    try:
        yield
    except (DataError, ImageError) as error:
        raise DataError(f"{path} ({what}): {error}") from error


def checked(folder: Path, read: Callable[[Path], Iterator[Sample]], file: Needed) -> Iterator[Sample]:
    """What ``read`` finds: at least one sample, and no two with one id. ``file`` is where the samples are listed."""
    path = located(folder, file)
    seen: set[str] = set()
    for sample in read(folder):
        if sample.id in seen:
            raise DataError(f"{path}: the sample {sample.id} occurs twice; copy the file again")
        seen.add(sample.id)
        yield sample
    if not seen:
        raise DataError(f"{path} holds no sample of this benchmark; it may be the file of another split")


# Entries


def photo(path: Path, id: str, source: str, split: str, size: tuple[int, int] | None = None) -> Record:
    """A photo of ``size`` (width, height); where the annotations do not tell it, the head of the file does."""
    width, height = size or measure(path)
    return Record(image=path, id=id, width=width, height=height, source=source, split=split, place=Place(str(path)))


def size_of(values: dict[str, Any], width: str = "width", height: str = "height") -> tuple[int, int] | None:
    """(width, height), where the entry of a photo has them."""
    if values.get(width) is None or values.get(height) is None:
        return None
    found = fields.whole(values[width], width), fields.whole(values[height], height)
    if min(found) < 1:
        raise DataError(f"the photo is {found[0]} x {found[1]}, expected pixels")
    return found


def name_of(values: dict[str, Any], name: str, what: str) -> str:
    """An id, which files write as a number or a text."""
    value = fields.field(values, name, what)
    return value if isinstance(value, str) else str(fields.whole(value, name))


def box_of(annotation: dict[str, Any], size: tuple[int, int]) -> Box:
    """COCO's (x, y, width, height) → (x0, y0, x1, y1), as exact as they are written."""
    x, y, width, height = fields.box(fields.field(annotation, "bbox", "it"), "bbox")
    if width < 0 or height < 0:
        raise DataError(f"bbox is {width} x {height}, expected sides of 0 or more")
    if x > size[0] or y > size[1] or x + width < 0 or y + height < 0:
        raise DataError(f"bbox ({x}, {y}, {width}, {height}) lies outside its photo of {size[0]} x {size[1]}")
    return (x, y, x + width, y + height)


def texts(record: Record, task: str, found: Iterable[str], what: str) -> tuple[Text, ...]:
    """All right answers; there must be one."""
    right = tuple(Text(task=task, width=record.width, height=record.height, text=text) for text in found)
    if not right:
        raise DataError(f"it has no {what}")
    return right


# The paper

PAPER = "Florence-2 (arXiv 2311.06242)"


def zero_shot(figure: str, base: float, large: float) -> tuple[Published, ...]:
    """Two of table 4, in percent as they are printed."""
    return tuple(
        Published(model, figure, round(percent / 100, 4), f"{PAPER}, table 4")
        for model, percent in (("Florence-2-B", base), ("Florence-2-L", large))
    )


def tuned(figure: str, base: float, large: float, source: str, doubt: str = "") -> tuple[Published, ...]:
    """Two of the generalists that were fine-tuned; ``doubt`` is about the first."""
    return (
        Published("Florence-2-B-ft", figure, round(base / 100, 4), f"{PAPER}, {source}{doubt}"),
        Published("Florence-2-L-ft", figure, round(large / 100, 4), f"{PAPER}, {source}"),
    )
