"""What a composed scene is made of."""

from __future__ import annotations

from dataclasses import dataclass

from florence2.errors import DataError

SMALLEST = 64
"""Pixels of the shorter side below which nothing can be recognised or read."""


@dataclass(frozen=True, kw_only=True)
class SceneSettings:
    """What is put into the pictures. The strings are folders or data sets; relative paths start at the recipe."""

    count: int = 1000
    """Pictures; each is decided by ``seed`` and its number alone."""
    seed: int = 0
    size: tuple[int, int] = (320, 320)
    """(width, height) in pixels."""
    objects: tuple[int, int] = (1, 5)
    """Fewest and most objects, as far as there is room for them."""
    words: tuple[int, int] = (0, 2)
    """Fewest and most pieces of text, as far as there is room for them."""
    labels: tuple[str, ...] = ()
    """Only objects of these labels; none: all. A model that learns from the others has never seen these."""
    cutouts: tuple[str, ...] = ()
    """Data sets with outlines whose objects are cut out; none: drawn figures."""
    backgrounds: tuple[str, ...] = ()
    """Folders of photos; none: drawn grounds. Nothing is known of what a photo shows, so no record then says that
    something is absent; best are photos without print and without the things that are put on them."""
    vocabulary: str = ""
    """A text file whose lines are printed; none: made-up words, numbers, dates and prices."""
    fonts: tuple[str, ...] = ()
    """Folders of TrueType fonts; none: those of the system, and the one that Pillow brings."""

    def __post_init__(self) -> None:
        if self.count < 0:
            raise DataError(f"the count of scenes is {self.count}, expected 0 or more")
        if min(self.size) < SMALLEST:
            raise DataError(f"scenes of {self.size[0]} x {self.size[1]} pixels are too small; give {SMALLEST} or more")
        for name, (fewest, most) in (("objects", self.objects), ("words", self.words)):
            if not 0 <= fewest <= most:
                raise DataError(f"{name} are from {fewest} to {most}, expected two numbers, the smaller first")
