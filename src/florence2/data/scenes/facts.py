"""What is known of a scene, and what may be said of it: every relation is clearly so, clearly not so, or neither.

Only what is clear is told. "The star left of the car" needs one star that everybody would call left of it, and no other
star of which anybody might.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from florence2.data.scenes.english import plural
from florence2.data.scenes.texts import Piece
from florence2.results import Box, Polygon

Truth = bool | None
"""None: people might disagree."""
DIRECTIONS = ("left", "right", "above", "below")
REGIONS = ("top left", "top right", "bottom left", "bottom right", "left", "right", "top", "bottom", "middle")


@dataclass(frozen=True)
class Item:
    """An object in the scene."""

    label: str
    colour: str
    """Empty where nobody knows."""
    box: Box
    polygons: tuple[Polygon, ...]
    area: float
    """Pixels that are seen."""
    hidden_by: tuple[int, ...] = ()
    """Numbers of the items that lie on it."""

    @property
    def centre(self) -> tuple[float, float]:
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


@dataclass(frozen=True)
class Facts:
    size: tuple[int, int]
    items: tuple[Item, ...]
    pieces: tuple[Piece, ...]
    ground: str
    """What it is in words; empty where it has no name."""
    certain: frozenset[str]
    """Labels of which there is surely no other object than ``items``."""
    complete: bool
    """Whether there is surely nothing but ``items`` and ``pieces``."""

    @property
    def only_objects(self) -> bool:
        """Whether "object" means the items alone: a sign might count as one."""
        return self.complete and not self.pieces


@dataclass(frozen=True)
class Noun:
    """Words for a kind of objects, and the numbers of those that they fit."""

    words: str
    several: str
    fits: frozenset[int]


def nouns(facts: Facts, number: int) -> list[Noun]:
    """What an item may be called: "car", "red car", "red object"."""
    item = facts.items[number]
    found = [Noun(item.label, plural(item.label), _which(facts, lambda other: other.label == item.label))]
    if item.colour:
        same = _which(facts, lambda other: (other.label, other.colour) == (item.label, item.colour))
        found.append(Noun(f"{item.colour} {item.label}", f"{item.colour} {plural(item.label)}", same))
    if item.colour and facts.only_objects:
        alike = _which(facts, lambda other: other.colour == item.colour)
        found.append(Noun(f"{item.colour} object", f"{item.colour} objects", alike))
    return found


def named(facts: Facts) -> dict[int, str]:
    """Items that a few words single out -> the shortest such words."""
    found = {}
    for number in range(len(facts.items)):
        words = next((noun.words for noun in nouns(facts, number)[:2] if noun.fits == {number}), None)
        if words:
            found[number] = words
    return found


def _which(facts: Facts, fits: Callable[[Item], bool]) -> frozenset[int]:
    return frozenset(number for number, item in enumerate(facts.items) if fits(item))


def only(number: int, truths: Mapping[int, Truth]) -> bool:
    """Whether something is clearly so of one item, and clearly not so of the others."""
    return truths[number] is True and all(truth is False for other, truth in truths.items() if other != number)


# Relations


def beside(a: Box, b: Box, direction: str) -> Truth:
    """Whether a is left of, right of, above or below b."""
    if direction in ("right", "below"):
        return beside(b, a, "left" if direction == "right" else "above")
    axis = 0 if direction == "left" else 1
    along = (b[axis] + b[axis + 2] - a[axis] - a[axis + 2]) / 2
    across = abs(b[1 - axis] + b[3 - axis] - a[1 - axis] - a[3 - axis]) / 2
    apart = b[axis] - a[axis + 2]
    narrow = min(a[axis + 2] - a[axis], b[axis + 2] - b[axis])
    if apart >= -0.15 * narrow and along > 1.15 * across:
        return True
    return False if along <= 0 else None


def lies(box: Box, region: str, size: tuple[int, int]) -> Truth:
    """Whether something is in a part of the picture."""
    x, y = (box[0] + box[2]) / 2 / size[0], (box[1] + box[3]) / 2 / size[1]
    if region == "middle":
        off = max(abs(x - 0.5), abs(y - 0.5))
        return True if off < 0.1 else False if off > 0.25 else None
    inner, outer = (0.36, 0.5) if " " in region else (0.33, 0.5)
    values = {"left": x, "right": 1 - x, "top": y, "bottom": 1 - y}
    parts = [values[part] for part in region.split()]
    if all(value < inner for value in parts):
        return True
    return False if any(value > outer for value in parts) else None


def farthest(facts: Facts, number: int, among: Iterable[int], direction: str) -> bool:
    """Whether an item is clearly the leftmost, rightmost, topmost (above) or lowest (below) of some."""
    axis = 0 if direction in ("left", "right") else 1
    sign = 1 if direction in ("left", "above") else -1
    least = 0.06 * facts.size[axis]
    edge = axis if sign > 0 else axis + 2
    own = facts.items[number]
    others = [facts.items[other] for other in among if other != number]
    return all(
        sign * (other.centre[axis] - own.centre[axis]) >= least and sign * (other.box[edge] - own.box[edge]) > 0
        for other in others
    )


def largest(facts: Facts, number: int, among: Iterable[int], sign: int = 1) -> bool:
    """Whether an item is clearly the largest (sign 1) or the smallest (-1) of some, to the eye and by its box."""
    own = facts.items[number]
    others = [facts.items[other] for other in among if other != number]
    return all(
        (other.area / own.area) ** sign < 0.7 and (_area(other.box) / _area(own.box)) ** sign < 0.75 for other in others
    )


def nearest(facts: Facts, number: int, among: Iterable[int], anchor: int) -> bool:
    """Whether an item is clearly nearer to the anchor than the others, by centres and by gaps."""
    here = facts.items[anchor]

    def far(other: int) -> tuple[float, float]:
        item = facts.items[other]
        return math.dist(item.centre, here.centre), gap(item.box, here.box)

    middle, rim = far(number)
    rest = [far(other) for other in among if other not in (number, anchor)]
    return all(middle < 0.7 * other and rim < 0.7 * other_rim for other, other_rim in rest)


def gap(a: Box, b: Box) -> float:
    """Pixels between two boxes; 0 where they touch."""
    across, down = max(a[0] - b[2], b[0] - a[2], 0), max(a[1] - b[3], b[1] - a[3], 0)
    return math.hypot(across, down)


def in_order(facts: Facts, among: Iterable[int]) -> list[int] | None:
    """The items from left to right; None where two are about above each other."""
    order = sorted(among, key=lambda number: facts.items[number].centre[0])
    places = [facts.items[number].centre[0] for number in order]
    close = any(b - a < 0.06 * facts.size[0] for a, b in pairwise(places))
    return None if close else order


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
