"""Scenes: numbers become pictures and records."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from florence2.data.records import Record, Thing
from florence2.data.scenes import cutouts, figures, fonts, grounds, texts, vocabulary
from florence2.data.scenes.captions import captions
from florence2.data.scenes.colours import RGB
from florence2.data.scenes.cutouts import Cutout, Cutting
from florence2.data.scenes.facts import Facts, Item
from florence2.data.scenes.figures import Figure
from florence2.data.scenes.questions import questions
from florence2.data.scenes.references import references
from florence2.data.scenes.settings import SceneSettings
from florence2.data.scenes.shapes import LABELS
from florence2.data.scenes.sprites import Seen, Sprite, visible
from florence2.data.scenes.texts import Piece
from florence2.errors import DataError
from florence2.results import Box

SOURCE = "scenes"
OVERLAP = 0.3
"""Share of the smaller of two boxes that may lie in the other, in scenes where things may overlap."""
OVERLAPPING = 0.4
"""Share of such scenes. In some of them an object also reaches out of the picture."""
SMALLEST = 0.08
"""Of the shorter side of the picture: objects shrink to this before they are left out."""
TRIES = 12


class Scenes:
    """A sequence of (record, picture): ``scenes[i]`` is the same in every process. ``len`` is ``settings.count``."""

    def __init__(self, settings: SceneSettings, root: Path | None = None) -> None:
        """``root``: where relative paths of the settings start; the working folder if None.

        Raises DataError for labels that nobody can draw. What the settings name is read when the first scene is made,
        once in every process.
        """
        unknown = [label for label in settings.labels if label not in LABELS] if not settings.cutouts else []
        if unknown:
            raise DataError(f"nobody can draw {', '.join(map(repr, unknown))}; known are {', '.join(LABELS)}")
        self.settings = settings
        self.root = root

    def __len__(self) -> int:
        return self.settings.count

    def __iter__(self) -> Iterator[tuple[Record, Image.Image]]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> tuple[Record, Image.Image]:
        """The record's ``image`` is None: the picture stands beside it."""
        if not 0 <= number < len(self):
            raise IndexError(f"there is no scene {number}, they are numbered from 0 to {len(self) - 1}")
        rng = random.Random(f"{self.settings.seed} scene {number}")
        return _scene(self.settings, self._supplies, rng, f"{self.settings.seed}-{number:06d}")

    def __getstate__(self) -> dict[str, object]:
        """What was read stays in its process: others read it themselves."""
        return {"settings": self.settings, "root": self.root}

    @property
    def labels(self) -> tuple[str, ...]:
        """Of all objects that scenes may show."""
        return self._supplies.labels

    @functools.cached_property
    def _supplies(self) -> _Supplies:
        chosen, root = self.settings, self.root or Path()
        cut = (
            cutouts.gather([root / name for name in chosen.cutouts], chosen.labels, chosen.seed)
            if chosen.cutouts
            else ()
        )
        by_label: dict[str, list[Cutout]] = {}
        for one in cut:
            by_label.setdefault(one.label, []).append(one)
        return _Supplies(
            labels=tuple(sorted(by_label)) if cut else chosen.labels or LABELS,
            cutouts={label: tuple(found) for label, found in by_label.items()},
            photos=grounds.photos([root / name for name in chosen.backgrounds]),
            lines=vocabulary.read(root / chosen.vocabulary) if chosen.vocabulary else (),
            fonts=fonts.find([root / name for name in chosen.fonts]),
        )


@dataclass(frozen=True)
class _Supplies:
    """What scenes are made from."""

    labels: tuple[str, ...]
    cutouts: dict[str, tuple[Cutout, ...]]
    """By label; none where figures are drawn."""
    photos: tuple[Path, ...]
    lines: tuple[str, ...]
    """To print; none where they are made up."""
    fonts: tuple[str, ...]


def _scene(settings: SceneSettings, supplies: _Supplies, rng: random.Random, id: str) -> tuple[Record, Image.Image]:
    size = settings.size
    ground = grounds.photo(supplies.photos, size, rng) if supplies.photos else grounds.drawn(size, rng)
    canvas = ground.picture
    pieces = _texts(canvas, rng.randint(*settings.words), supplies, rng)
    sprites, known = _objects(canvas, rng.randint(*settings.objects), [piece.box for piece in pieces], supplies, rng)
    seen = visible(sprites, size)
    for one in seen:
        one.sprite.paint(canvas)
    certain = known if ground.known else frozenset()
    facts = Facts(
        size=size,
        items=tuple(_item(one) for one in seen),
        pieces=tuple(pieces),
        ground=ground.words,
        certain=certain,
        complete=ground.known and not supplies.cutouts,
    )
    return _record(facts, rng, id, supplies.labels), canvas


def _item(seen: Seen) -> Item:
    sprite = seen.sprite
    return Item(sprite.label, sprite.colour, seen.box, seen.polygons, seen.area, seen.hidden_by)


def _record(facts: Facts, rng: random.Random, id: str, labels: Sequence[str]) -> Record:
    said, phrases = captions(facts, rng)
    listed = tuple(label for label in labels if label in facts.certain)
    objects = tuple(Thing(label=item.label, box=item.box, polygons=item.polygons) for item in facts.items)
    words = tuple(words for piece in facts.pieces for words in piece.words)
    return Record(
        image=None,
        id=id,
        width=facts.size[0],
        height=facts.size[1],
        captions=said,
        objects=objects if objects or listed else None,
        exhaustive=listed or None,
        phrases=phrases,
        refs=references(facts, rng),
        text=words if words or facts.complete else None,
        qa=questions(facts, rng),
        source=SOURCE,
    )


# What lies where


def _texts(canvas: Image.Image, count: int, supplies: _Supplies, rng: random.Random) -> list[Piece]:
    pieces: list[Piece] = []
    taken: list[Box] = []
    for _ in range(count):
        text = texts.compose(supplies.lines, supplies.fonts, canvas.size, rng)
        place = text and _room(text.extent, taken, [], canvas.size, rng, whole=True)
        if text and place:
            left, top = round(place[0]), round(place[1])
            taken.append((left, top, left + text.extent[0], top + text.extent[1]))
            pieces.append(texts.paint(canvas, text, left, top, rng))
    return pieces


def _objects(
    canvas: Image.Image, count: int, free: list[Box], supplies: _Supplies, rng: random.Random
) -> tuple[list[Sprite], frozenset[str]]:
    """(things from the bottom to the top, labels of which there surely is no other object)."""
    sprites: list[Sprite] = []
    known = frozenset(supplies.labels)
    overlapping = rng.random() < OVERLAPPING
    for form, side in _wished(count, canvas.size, supplies, rng):
        place, side = _shrunk(form, side, free, [sprite.box for sprite in sprites], canvas.size, overlapping, rng)
        if place is None:
            continue
        if isinstance(form, Cutting):
            known &= form.cutout.known
            sprites.append(form.sprite(side, *place, rng))
        else:
            box = (*place, place[0] + form.extent[0] * side, place[1] + form.extent[1] * side)
            under = {sprite.colour for sprite in sprites if _shared(box, sprite.box, 0.0)}
            sprites.append(form.sprite(side, *place, _mean(canvas, box), under, rng))
    return sprites, known


def _wished(
    count: int, size: tuple[int, int], supplies: _Supplies, rng: random.Random
) -> list[tuple[Figure | Cutting, float]]:
    """Things with their sizes, the larger first, so that they find room. Some labels come more than once."""
    smaller = min(size)
    largest = min(0.62, 1.1 / max(count, 1) ** 0.5)
    wished: list[tuple[Figure | Cutting, float]] = []
    labels: list[str] = []
    for _ in range(count):
        again = labels and rng.random() < 0.35
        labels.append(rng.choice(labels if again else supplies.labels))
        side = smaller * 0.13 * (max(largest, 0.14) / 0.13) ** rng.random() ** 0.8
        found = supplies.cutouts.get(labels[-1])
        form = cutouts.cutting(rng.choice(found), rng) if found else figures.figure(labels[-1], rng)
        wished.append((form, min(side, form.largest) if isinstance(form, Cutting) else side))
    return sorted(wished, key=lambda pair: -pair[1])


def _shrunk(
    form: Figure | Cutting,
    side: float,
    free: list[Box],
    taken: list[Box],
    size: tuple[int, int],
    overlapping: bool,
    rng: random.Random,
) -> tuple[tuple[float, float] | None, float]:
    """(a place for a thing, its size there): as large as wished, or smaller until there is room."""
    whole = not (overlapping and rng.random() < 0.15)
    while side >= SMALLEST * min(size):
        extent = form.extent[0] * side, form.extent[1] * side
        place = _room(extent, free, taken, size, rng, whole, OVERLAP if overlapping else 0.0)
        if place is not None:
            return place, side
        side *= 0.8
    return None, side


def _room(
    extent: tuple[float, float],
    free: list[Box],
    taken: list[Box],
    size: tuple[int, int],
    rng: random.Random,
    whole: bool,
    overlap: float = 0.0,
) -> tuple[float, float] | None:
    """Left and top of a box of this extent that leaves ``free`` alone and lies on ``taken`` no more than it may."""
    width, height = extent
    margin = 2.0 if whole else -0.25 * min(extent)
    if width > size[0] - 2 * margin or height > size[1] - 2 * margin:
        return None
    for _ in range(TRIES):
        left = rng.uniform(margin, size[0] - width - margin)
        top = rng.uniform(margin, size[1] - height - margin)
        box = (left, top, left + width, top + height)
        if any(_shared(box, other, 3.0) for other in free):
            continue
        if all(_shared(box, other, 0.0 if overlap else 3.0) <= overlap for other in taken):
            return left, top
    return None


def _shared(a: Box, b: Box, rim: float) -> float:
    """Share of the smaller box that lies in the other, each with a rim around it."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 2 * rim
    height = min(a[3], b[3]) - max(a[1], b[1]) + 2 * rim
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))


def _mean(canvas: Image.Image, box: Box) -> RGB:
    """The colour of the ground in a box."""
    x0, y0 = max(0, round(box[0])), max(0, round(box[1]))
    x1, y1 = max(x0 + 1, min(canvas.width, round(box[2]))), max(y0 + 1, min(canvas.height, round(box[3])))
    pixel = canvas.resize((1, 1), Image.Resampling.BOX, (x0, y0, x1, y1)).getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return int(pixel[0]), int(pixel[1]), int(pixel[2])
