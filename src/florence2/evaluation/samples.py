"""One question to a model about one photo, and what is right: what a benchmark is made of."""

from __future__ import annotations

from dataclasses import dataclass

from florence2.data.records import Record
from florence2.results import Answer, Box, Object, Quad

Given = str | Box | tuple[str, ...] | None
"""What a task takes: a text, a box in pixels of the photo, closed labels, or nothing."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    id: str
    """Unique in its benchmark; the same in every run."""
    record: Record
    """The photo; what else the record knows is not looked at."""
    task: str
    """The task token, e.g. "<OD>"."""
    given: Given = None
    truth: tuple[Answer, ...]
    """All right answers, of one kind, in pixels of the photo: several captions, the answers of several people."""
    ignored: tuple[Object, ...] = ()
    """Crowds: what is found there counts neither for nor against."""
    areas: tuple[float, ...] = ()
    """Square pixels of each true object, where they are not those of its box: COCO's small, medium and large go by the
    area of the mask."""
    classes: tuple[str, ...] = ()
    """The classes that were looked for in this photo, where not all: what is found of others counts neither for nor
    against."""
    illegible: tuple[Quad, ...] = ()
    """Text that nobody can read; what is read there does not count."""

    @property
    def photo(self) -> str:
        """Which photo: samples of one photo are not independent."""
        return self.record.id
