"""Augmentation that keeps words and places true: boxes, outlines, quads and texts move with the photo.

A photo is mirrored, cropped, put smaller on a plain ground and coloured anew, in this order, each by chance. What a
change would make untrue is left out; where that cannot be told the change is not made.

                             mirrored           cropped                                         put smaller
    objects, refs, phrases   moved              clipped; gone where less than ``visible`` shows  moved
    labels and other texts   left <-> right     as they are, or gone                            as they are, or gone
    exhaustive classes       left <-> right     without those of which only a sliver shows      as they are
    a caption with phrases   left <-> right     if each phrase keeps a box (all, if it counts)  kept
    another caption          left <-> right     if nothing known is lost; where nothing is      kept
                                                known, if 0.7 of the photo is left
    qa                       left <-> right     if something is known and nothing is lost       kept
    captions and qa with     left <-> right     gone                                            gone
      "left", "top", "corner"
    refs and phrases alone   left <-> right     if nothing is lost and the box stays in its     as cropped
      with such a word                          part of the picture
    refs and phrases alone   left <-> right     if nothing is lost or cut                       kept
      with "largest", "first"
    text                     (never mirrored)   illegible where less than 0.9 of a word shows   illegible below 8 pixels
    illegible                (never mirrored)   what shows of it                                moved
    pairs                    left <-> right,    by the same rules; where a pair would have to   as cropped
                             moved              go, the photo is not cropped

"Known" are all boxes and quads of the record, "lost" is one that shows less than ``visible``. A crop that takes all
objects or all words of a photo that has some, or leaves nothing to learn, is drawn anew, TRIES times.

A photo is never mirrored where it shows text (``text``, ``illegible``), where a text quotes or speaks of something
printed ("the sign says", "what number"), and where "left" or "right" is likely to be no side ("has left", "right next
to"). Words for sides are known in English, 左 and 右; for texts in other languages keep ``flip`` at 0, and also where
classes are letters or digits. Everywhere else each "left" and "right" is swapped.

Explicit pairs move where their prompt belongs to a known task and their answer is a plain list of what the task
answers with (``pair_texts``). Otherwise, and where a place in them would be lost, or a text could become untrue by the
rules above, the photo is not mirrored, cropped or put smaller: only its colours change. Hues are never changed, because
texts name colours.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, fields

from PIL import Image, ImageStat

from florence2.data import views
from florence2.data.records import Record
from florence2.data.records_moved import first_seen, mirror
from florence2.data.views import View
from florence2.errors import ConfigError, DataError

TRIES = 10
"""Crops, or places for a smaller photo, that are drawn before the photo stays as it is."""
ASPECT = 4 / 3
"""A crop is at most this much wider, or narrower, than the photo."""
SMALLEST = 0.5
"""Sides of a photo that was put smaller, at least, of the whole."""
SWING = 0.6
"""Brightness, contrast and saturation lie within 1 ± SWING · colour."""


@dataclass(frozen=True, kw_only=True)
class Augment:
    """How much a photo may be changed. Nothing by default. Raises ConfigError for values outside 0 to 1."""

    flip: float = 0.0
    """Probability of a mirror image; left and right are swapped in all texts."""
    crop: float = 0.0
    """Probability of a random crop."""
    min_area: float = 0.35
    """Share of the photo that a crop keeps at least."""
    visible: float = 0.35
    """What shows less than this share of its outlines, or of its box where it has none, is dropped after a crop."""
    shrink: float = 0.0
    """Probability that the photo is put smaller on a plain ground (scale)."""
    colour: float = 0.0
    """Strength of random brightness, contrast and saturation, 0 to 1."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value <= 1:
                raise ConfigError(f"augmentation: {field.name} is {value}, expected a number from 0 to 1")
        if self.min_area == 0:
            raise ConfigError("augmentation: min_area is 0, expected a share above 0, such as 0.35")


def augment(record: Record, photo: Image.Image, how: Augment, rng: random.Random) -> tuple[Record, Image.Image]:
    """The record and its photo, changed together; the same ``rng`` state gives the same result.

    ``photo`` is what ``record.load()`` gives; the new record has the size of the new picture, and names the old file.
    What is not changed is handed back as it is. Raises DataError for an error record or a photo of another size.
    """
    if not (how.flip or how.crop or how.shrink or how.colour):
        return record, photo
    record.require()
    if photo.mode != "RGB" or photo.size != (record.width, record.height):
        found, expected = f"{photo.width} x {photo.height} ({photo.mode})", f"{record.width} x {record.height} (RGB)"
        raise DataError(f"{record.where}: the photo is {found}, the record is for {expected}")
    if rng.random() < how.flip and (mirrored := mirror(record)) is not None:
        record, photo = mirrored, photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < how.crop:
        cutouts = (_some_cutout(photo.size, how.min_area, rng) for _ in range(TRIES))
        if cropped := first_seen(record, cutouts, how.visible):
            record, view = cropped
            photo = _cut(photo, view)
    if rng.random() < how.shrink:
        places = (_some_place(photo.size, rng) for _ in range(TRIES))
        if shrunk := first_seen(record, places, how.visible):
            record, view = shrunk
            photo = _put(photo, view, rng)
    if how.colour:
        factors = [1 + SWING * how.colour * rng.uniform(-1, 1) for _ in range(3)]
        photo = _coloured(photo, *factors)
    return record, photo


# The photo


def _some_cutout(size: tuple[int, int], min_area: float, rng: random.Random) -> View:
    area = rng.uniform(min_area, 1)
    widest = math.log(min(ASPECT, 1 / area))  # neither side longer than the photo's
    ratio = math.exp(rng.uniform(-widest, widest))
    width = min(size[0], math.ceil(size[0] * math.sqrt(area * ratio)))
    height = min(size[1], math.ceil(size[1] * math.sqrt(area / ratio)))
    return views.cutout(rng.randint(0, size[0] - width), rng.randint(0, size[1] - height), width, height)


def _some_place(size: tuple[int, int], rng: random.Random) -> View:
    scale = rng.uniform(SMALLEST, 1)
    width, height = (max(1, round(side * scale)) for side in size)
    return views.smaller(size, rng.randint(0, size[0] - width), rng.randint(0, size[1] - height), width, height)


def _cut(photo: Image.Image, view: View) -> Image.Image:
    left, top = -round(view.shift[0]), -round(view.shift[1])
    return photo.crop((left, top, left + view.width, top + view.height))


def _put(photo: Image.Image, view: View, rng: random.Random) -> Image.Image:
    size = round(photo.width * view.scale[0]), round(photo.height * view.scale[1])
    ground = Image.new("RGB", photo.size, (rng.randrange(256), rng.randrange(256), rng.randrange(256)))
    ground.paste(photo.resize(size, Image.Resampling.BILINEAR), (round(view.shift[0]), round(view.shift[1])))
    return ground


def _coloured(photo: Image.Image, brightness: float, contrast: float, saturation: float) -> Image.Image:
    """One after the other, as Pillow's ImageEnhance does it; all three are linear, so one matrix does them at once."""
    grey = 0.299, 0.587, 0.114
    mean = brightness * ImageStat.Stat(photo.convert("L")).mean[0]
    gain, shift = brightness * contrast, mean * (1 - contrast)
    matrix: list[float] = []
    for channel in range(3):
        own = [saturation if other == channel else 0.0 for other in range(3)]
        matrix += [gain * ((1 - saturation) * w + s) for w, s in zip(grey, own, strict=True)] + [shift]
    return photo.convert("RGB", tuple(matrix))
