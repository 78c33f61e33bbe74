"""Composed scenes: pictures made on the spot whose boxes, outlines, texts, counts and relations are known exactly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from florence2.data.records import Record


@dataclass(frozen=True, kw_only=True)
class SceneSettings:
    """What is put into the pictures. The strings are folders or data sets; relative paths start at the recipe."""

    count: int = 1000
    """Pictures; each is decided by ``seed`` and its number alone."""
    seed: int = 0
    size: tuple[int, int] = (320, 320)
    """(width, height) in pixels."""
    objects: tuple[int, int] = (1, 5)
    """Fewest and most objects."""
    words: tuple[int, int] = (0, 2)
    """Fewest and most pieces of text."""
    cutouts: tuple[str, ...] = ()
    """Data sets with outlines whose objects are cut out; none: drawn figures."""
    backgrounds: tuple[str, ...] = ()
    """Folders of photos; none: drawn grounds."""
    vocabulary: str = ""
    """A text file whose lines are printed; none: made-up words, numbers, dates and prices."""
    fonts: tuple[str, ...] = ()
    """Folders of TrueType fonts; none: those of the system, and the one that Pillow brings."""


class Scenes:
    """A sequence of (record, picture): ``scenes[i]`` is the same in every process. ``len`` is ``settings.count``."""

    def __init__(self, settings: SceneSettings, root: Path | None = None) -> None:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, number: int) -> tuple[Record, Image.Image]:
        """The record's ``image`` is None: the picture stands beside it."""
        raise NotImplementedError
