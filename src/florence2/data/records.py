"""What is known about one photo, whatever format it came from.

    Record      the photo and all its annotations, boxes and outlines in pixels of the photo as ``images.load`` shows it
    Thing       an object: label, box, outlines        Phrase      words of a caption and where they are
    Reference   words that mean one box                Words       a printed text and its quad
    Question    a question and its answers             Pair        a prompt and its answer, as other trainers write them

``None`` means that nobody looked, the empty tuple that there is nothing: a photo with ``objects=()`` is an explicit
negative. ``exhaustive`` names the classes of which every instance is in ``objects``; all others are unknown, not
absent.

The JSON form of a record is in ``records_json.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from florence2 import images
from florence2.data import fields
from florence2.errors import DataError, ImageError
from florence2.results import Box, Polygon, Quad

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Place:
    """Where an annotation stands, for messages."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


@dataclass(frozen=True, kw_only=True)
class Thing:
    label: str
    box: Box
    polygons: tuple[Polygon, ...] = ()
    crowd: bool = False
    """A group that was not told apart; no training target."""
    difficult: bool = False
    """PASCAL VOC's mark: not counted in evaluation."""


@dataclass(frozen=True, kw_only=True)
class Phrase:
    text: str
    boxes: tuple[Box, ...]
    caption: int | None = None
    """Which of the record's captions the words are from."""
    start: int | None = None
    """Where in that caption, in characters."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    text: str
    box: Box
    polygons: tuple[Polygon, ...] = ()
    origin: str = ""


@dataclass(frozen=True, kw_only=True)
class Words:
    text: str
    quad: Quad


@dataclass(frozen=True, kw_only=True)
class Question:
    question: str
    answers: tuple[str, ...]
    """The best first; none where they are kept secret."""
    origin: str = ""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """``prompt`` and ``answer`` as texts, location tokens written ``<loc_12>``."""

    prompt: str
    answer: str
    place: Place | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True)
class Record:
    image: Path | bytes | None
    """The file, or what is in it; None where the format should name one and does not."""
    id: str
    width: int
    height: int
    captions: tuple[str, ...] = ()
    objects: tuple[Thing, ...] | None = None
    exhaustive: tuple[str, ...] | None = None
    phrases: tuple[Phrase, ...] = ()
    refs: tuple[Reference, ...] = ()
    text: tuple[Words, ...] | None = None
    illegible: tuple[Quad, ...] = ()
    """Where there is text that nobody can read."""
    qa: tuple[Question, ...] = ()
    pairs: tuple[Pair, ...] = ()
    source: str = ""
    """Name of the data set."""
    split: str = ""
    """train, val, test"""
    extra: dict[str, Any] = field(default_factory=dict)
    """What the file says beyond this, as JSON."""
    place: Place | None = field(default=None, compare=False)
    error: str = ""
    """Why this entry could not be read. Such a record stands in the stream so that nothing is passed over."""

    def load(self) -> Image.Image:
        """The photo, upright, RGB. Raises ImageError where it cannot be read, DataError for an error record."""
        self.require()
        if self.image is None:
            raise ImageError(f"{self.where}: the record names no image")
        return images.load(self.image)

    def image_bytes(self) -> bytes:
        """The file as it is. Raises ImageError where it cannot be read."""
        if isinstance(self.image, bytes):
            return self.image
        if self.image is None:
            raise ImageError(f"{self.where}: the record names no image")
        try:
            return self.image.read_bytes()
        except OSError as error:
            raise ImageError(f"{self.image} cannot be read ({error.strerror}); check the path") from error

    def require(self) -> None:
        """Raises DataError for an error record."""
        if self.error:
            raise DataError(f"{self.where}: {self.error}")

    @property
    def where(self) -> str:
        return str(self.place) if self.place else self.id


def broken(place: Place, problem: object, id: str = "") -> Record:
    """The error record of an entry that cannot be read."""
    return Record(image=None, id=id, width=0, height=0, place=place, error=str(problem))


def entry(place: Place, build: Callable[[], Record]) -> Record:
    """What ``build`` makes of an entry, or its error record."""
    try:
        return build()
    except (DataError, ImageError) as error:
        return broken(place, error)


# What a record says, for those who must say what a format cannot hold


def aspects(record: Record) -> Iterator[str]:
    """One name per thing that the record says."""
    yield from ["captions"] * len(record.captions)
    for thing in record.objects or ():
        yield "objects"
        yield from ["polygons"] * len(thing.polygons)
        if len(thing.polygons) > 1:
            yield "outlines of several parts"
        if any(thing.polygons) and not _same(thing.box, fields.hull(thing.polygons)):
            yield "boxes that differ from their outline"
        if thing.crowd:
            yield "crowd marks"
        if thing.difficult:
            yield "difficult marks"
    if record.objects == ():
        yield "photos without objects"
    if record.exhaustive:
        yield "class lists"
    yield from ["phrases"] * len(record.phrases)
    yield from ["referring expressions"] * len(record.refs)
    yield from ["texts with quads"] * len(record.text or ())
    if record.text == ():
        yield "photos without text"
    yield from ["illegible texts"] * len(record.illegible)
    for question in record.qa:
        yield "questions"
        if question.origin:
            yield "origins"
    yield from ["pairs"] * len(record.pairs)
    if record.source:
        yield "sources"
    if record.split:
        yield "splits"
    yield from ["further fields"] * len(record.extra)


def _same(a: Box, b: Box) -> bool:
    return all(abs(x - y) < 0.01 for x, y in zip(a, b, strict=True))
