"""Augmentation that keeps words and places true: boxes, outlines, quads and texts move with the photo."""

from __future__ import annotations

import random
from dataclasses import dataclass

from PIL import Image

from florence2.data.records import Record


@dataclass(frozen=True, kw_only=True)
class Augment:
    """How much a photo may be changed. Nothing by default."""

    flip: float = 0.0
    """Probability of a mirror image; left and right are swapped in all texts."""
    crop: float = 0.0
    """Probability of a random crop."""
    min_area: float = 0.35
    """Share of the photo that a crop keeps at least."""
    visible: float = 0.35
    """What shows less than this share of its box after a crop is dropped."""
    shrink: float = 0.0
    """Probability that the photo is put smaller on a plain ground (scale)."""
    colour: float = 0.0
    """Strength of random brightness, contrast and saturation, 0 to 1."""


def augment(record: Record, photo: Image.Image, how: Augment, rng: random.Random) -> tuple[Record, Image.Image]:
    """The record and its photo, changed together; the same ``rng`` state gives the same result."""
    raise NotImplementedError
