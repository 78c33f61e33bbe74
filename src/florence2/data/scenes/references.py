"""Referring expressions: words that mean one object of the scene and no other."""

from __future__ import annotations

import random
from collections.abc import Iterator

from florence2.data.records import Reference
from florence2.data.scenes.english import BESIDE, PLACES, number_word, printed
from florence2.data.scenes.facts import (
    DIRECTIONS,
    REGIONS,
    Facts,
    Noun,
    beside,
    farthest,
    in_order,
    largest,
    lies,
    named,
    nearest,
    nouns,
    only,
)

ORIGIN = "scene"
MOST = 8
"""Expressions of a scene; an answer must hold them all with their boxes."""

_FARTHEST = {
    "left": ("the leftmost {}", "the {} furthest to the left", "the {} on the far left"),
    "right": ("the rightmost {}", "the {} furthest to the right", "the {} on the far right"),
    "above": ("the topmost {}", "the highest {}", "the {} nearest to the top"),
    "below": ("the lowest {}", "the bottommost {}", "the {} nearest to the bottom"),
}
_OF_TWO = {"left": "the left {}", "right": "the right {}", "above": "the upper {}", "below": "the lower {}"}
_RANKS = ("first", "second", "third", "fourth", "fifth", "sixth")


def references(facts: Facts, rng: random.Random) -> tuple[Reference, ...]:
    """One or two expressions of each object and text, of different kinds, ``MOST`` in all."""
    found: list[Reference] = []
    names = named(facts)
    for number, item in enumerate(facts.items):
        kinds: dict[str, list[str]] = {}
        for kind, text in _expressions(facts, number, names):
            kinds.setdefault(kind, []).append(text)
        chosen = rng.sample(sorted(kinds), min(len(kinds), rng.choice((1, 2, 2))))
        texts = [rng.choice(kinds[kind]) for kind in chosen]
        found += [Reference(text=t, box=item.box, polygons=item.polygons, origin=ORIGIN) for t in texts]
    for number in range(len(facts.pieces)):
        found += _to_text(facts, number, rng)
    rng.shuffle(found)
    return tuple(found[:MOST])


def _expressions(facts: Facts, number: int, names: dict[int, str]) -> Iterator[tuple[str, str]]:
    """(kind, words) of all expressions that mean this item alone."""
    for noun in nouns(facts, number):
        if noun.fits == {number}:
            yield "name", f"the {noun.words}"
        yield from _by_place(facts, number, noun)
        yield from _by_others(facts, number, noun, names)


def _by_place(facts: Facts, number: int, noun: Noun) -> Iterator[tuple[str, str]]:
    """Where it is in the picture, which of several it is, how large it is."""
    for region in REGIONS:
        if only(number, {n: lies(facts.items[n].box, region, facts.size) for n in noun.fits}):
            yield from (("region", f"the {noun.words} {place}") for place in PLACES[region])
            break  # the corner says more than the side
    if len(noun.fits) < 2:
        return
    for direction in DIRECTIONS:
        if farthest(facts, number, noun.fits, direction):
            yield from (("farthest", form.format(noun.words)) for form in _FARTHEST[direction])
            if len(noun.fits) == 2:
                yield "farthest", _OF_TWO[direction].format(noun.words)
    for sign, words in ((1, ("largest", "biggest")), (-1, ("smallest",))):
        if largest(facts, number, noun.fits, sign):
            yield from (("size", f"the {word} {noun.words}") for word in words)
            if len(noun.fits) == 2:
                word = "larger" if sign > 0 else "smaller"
                yield "size", f"the {word} of the {number_word(2)} {noun.several}"
    order = in_order(facts, noun.fits) if 3 <= len(noun.fits) <= len(_RANKS) else None
    if order:
        for place, side in ((order.index(number), "left"), (len(order) - 1 - order.index(number), "right")):
            if place:  # the first is the leftmost
                yield "rank", f"the {_RANKS[place]} {noun.words} from the {side}"


def _by_others(facts: Facts, number: int, noun: Noun, names: dict[int, str]) -> Iterator[tuple[str, str]]:
    """How it stands to another object that has a name of its own."""
    items = facts.items
    for anchor, words in names.items():
        among = noun.fits - {anchor}
        if anchor == number:
            continue
        for direction in DIRECTIONS:
            if only(number, {n: beside(items[n].box, items[anchor].box, direction) for n in among}):
                yield from (("beside", f"the {noun.words} {place} the {words}") for place in BESIDE[direction])
        if len(among) > 1 and nearest(facts, number, among, anchor):
            yield "nearest", f"the {noun.words} closest to the {words}"
            yield "nearest", f"the {noun.words} nearest to the {words}"
        if only(number, {n: anchor in items[n].hidden_by for n in among}):
            yield from (("hidden", f"the {noun.words} {how} the {words}") for how in ("behind", "partly hidden by"))
        if only(number, {n: n in items[anchor].hidden_by for n in among}):
            yield "hidden", f"the {noun.words} in front of the {words}"


def _to_text(facts: Facts, number: int, rng: random.Random) -> list[Reference]:
    """What is printed singles a text out, unless it is printed twice."""
    piece = facts.pieces[number]
    if sum(other.text == piece.text for other in facts.pieces) > 1:
        return []
    if piece.plate:
        signs = [other for other in facts.pieces if other.plate]
        words = [f'the sign that says "{piece.text}"', f'the sign with the text "{piece.text}"']
        words += [f"the {piece.plate} sign"] * (sum(other.plate == piece.plate for other in signs) == 1)
        words += ["the sign"] * (len(signs) == 1 and facts.complete)
        return [Reference(text=rng.choice(words), box=piece.box, origin=ORIGIN)]
    words = [f'the {printed(piece)} "{piece.text}"', f'the text "{piece.text}"', f'the text that reads "{piece.text}"']
    if len(facts.pieces) == 1 and facts.complete:
        words += ["the text", f"the {piece.colour} text"]
    outlines = tuple(line.quad for line in piece.words)
    return [Reference(text=rng.choice(words), box=piece.box, polygons=outlines, origin=ORIGIN)]
