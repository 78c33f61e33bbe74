"""Captions of a scene, with the boxes of what they mention.

A template is a function that says something true or nothing. What it mentions knows its boxes, so that the phrases of
a caption come with their places in it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from florence2.data.records import Phrase
from florence2.data.scenes.english import BESIDE, PLACES, counted, plural, printed, with_article
from florence2.data.scenes.facts import DIRECTIONS, REGIONS, Facts, beside, lies, named
from florence2.data.scenes.texts import Piece
from florence2.results import Box

MOST = 4
"""Groups of objects that one sentence names."""


@dataclass(frozen=True)
class Mention:
    """Words that mean something in the picture."""

    text: str
    boxes: tuple[Box, ...]


Words = list[str | Mention]
Template = Callable[[Facts, random.Random], Words]


def captions(facts: Facts, rng: random.Random) -> tuple[tuple[str, ...], tuple[Phrase, ...]]:
    """(one to three captions of different kinds, their phrases); none where there is nothing to say."""
    said = [words for template in _TEMPLATES if (words := template(facts, rng))]
    rng.shuffle(said)
    texts: list[str] = []
    phrases: list[Phrase] = []
    for words in said[: rng.choices((1, 2, 3), (3, 4, 2))[0]]:
        text, found = _written(words, len(texts), ends=rng.random() < 0.8)
        texts.append(text)
        phrases += found
    return tuple(texts), tuple(phrases)


def _written(words: Words, number: int, ends: bool) -> tuple[str, list[Phrase]]:
    """The caption, with a capital and perhaps a full stop, and its phrases with their places."""
    text = ""
    phrases: list[Phrase] = []
    for part in words:
        added = part if isinstance(part, str) else part.text
        if not text or text.endswith(". "):
            added = added[:1].upper() + added[1:]
        if isinstance(part, Mention):
            phrases.append(Phrase(text=added, boxes=part.boxes, caption=number, start=len(text)))
        text += added
    return text + "." * (ends and not text.endswith(".")), phrases


# Templates


def _listing(facts: Facts, rng: random.Random) -> Words:
    """ "A red car, two blue stars and a sign that says ..."."""
    mentions = _groups(facts, rng, by_colour=rng.random() < 0.8)
    if not mentions:
        return []
    rest = [_text(rng.choice(facts.pieces), rng)] if facts.pieces and rng.random() < 0.6 else []
    opening = rng.choice(("", "", "a picture of ", "an image of ", "this picture shows ", "a scene with ", "we see "))
    return [opening, *_joined([*mentions, *rest]), *_on_ground(facts, rng)]


def _counting(facts: Facts, rng: random.Random) -> Words:
    """ "There are three stars and one car in the picture"."""
    mentions = _groups(facts, rng, by_colour=False, count_ones=True)
    if not mentions or not facts.complete:
        return []
    first = "there are " if len(mentions[0].boxes) > 1 else "there is "
    return [first, *_joined(mentions), rng.choice((" in the picture", "", " here", " in this image"))]


def _relation(facts: Facts, rng: random.Random) -> Words:
    """ "A red car to the left of a blue star"."""
    names = named(facts)
    found = [
        (a, b, direction)
        for a in names
        for b in names
        for direction in DIRECTIONS
        if a != b and beside(facts.items[a].box, facts.items[b].box, direction)
    ]
    if not found:
        return []
    a, b, direction = rng.choice(found)
    verb = rng.choice((" is ", " ", " "))
    return [_one(facts, a, names), f"{verb}{rng.choice(BESIDE[direction])} ", _one(facts, b, names)]


def _covering(facts: Facts, rng: random.Random) -> Words:
    """ "A red car partly hidden by a blue star"."""
    names = named(facts)
    found = [(a, b) for a in names for b in facts.items[a].hidden_by if b in names]
    if not found:
        return []
    a, b = rng.choice(found)
    if rng.random() < 0.5:
        return [_one(facts, b, names), " in front of ", _one(facts, a, names)]
    return [_one(facts, a, names), rng.choice((" partly hidden by ", " behind ")), _one(facts, b, names)]


def _placing(facts: Facts, rng: random.Random) -> Words:
    """ "A red car in the top left corner and a tree on the right"."""
    names = named(facts)
    placed: list[Words] = [
        [_one(facts, number, names), f" {rng.choice(PLACES[region])}"]
        for number in rng.sample(sorted(names), len(names))
        if (region := _region(facts.items[number].box, facts))
    ]
    placed += [
        [_text(piece, rng), f" {rng.choice(PLACES[region])}"]
        for piece in facts.pieces
        if (region := _region(piece.box, facts))
    ]
    return _chain(placed[: rng.randint(1, 3)]) if placed else []


def _reading(facts: Facts, rng: random.Random) -> Words:
    """ "A sign that says ..."."""
    if not facts.pieces:
        return []
    texts: Words = _joined([_text(piece, rng) for piece in facts.pieces[:MOST]])
    return [*texts, *_on_ground(facts, rng)]


def _detailed(facts: Facts, rng: random.Random) -> Words:
    """Several sentences: what there is, where it is, what is written, on which ground."""
    names = named(facts)
    mentions = _groups(facts, rng, by_colour=True)
    if not mentions:
        return []
    words: Words = [rng.choice(("the picture shows ", "the image shows ", "we see ")), *_joined(mentions), "."]
    for number in rng.sample(sorted(names), min(len(names), 3)):
        region = _region(facts.items[number].box, facts)
        if region:
            the = Mention(f"the {names[number]}", (facts.items[number].box,))
            words += [" ", the, f" is {rng.choice(PLACES[region])}."]
    for piece in facts.pieces[:2]:
        words += [" ", _text(piece, rng), f" {_where(piece.box, facts, rng)}."]
    if facts.ground and rng.random() < 0.7:
        words += [f" All of this is on {facts.ground}." if facts.complete else ""]
    return words


def _nothing(facts: Facts, rng: random.Random) -> Words:
    """ "A striped background"."""
    if facts.items or facts.pieces or not facts.ground:
        return []
    return [rng.choice((facts.ground, f"{facts.ground} and nothing else", f"only {facts.ground}"))]


_TEMPLATES: tuple[Template, ...] = (
    *(_listing, _counting, _relation, _covering, _placing, _reading, _detailed, _nothing),
)


# Mentions


def _groups(facts: Facts, rng: random.Random, by_colour: bool, count_ones: bool = False) -> list[Mention]:
    """Objects of one label (and colour) together, at most ``MOST`` groups."""
    groups: dict[tuple[str, str], list[int]] = {}
    for number, item in enumerate(facts.items):
        groups.setdefault((item.label, item.colour if by_colour else ""), []).append(number)
    if len(groups) > MOST and count_ones:
        return []  # a count of some of them would sound as if it were of all
    keys = rng.sample(sorted(groups), min(MOST, len(groups)))
    mentions = []
    for label, colour in keys:
        numbers = groups[label, colour]
        words = f"{colour} {label}".strip()
        boxes = tuple(facts.items[number].box for number in numbers)
        alone = with_article(words) if not count_ones else counted(1, words, words)
        text = alone if len(numbers) == 1 else counted(len(numbers), words, f"{colour} {plural(label)}".strip())
        mentions.append(Mention(text, boxes))
    return mentions


def _one(facts: Facts, number: int, names: dict[int, str]) -> Mention:
    return Mention(with_article(names[number]), (facts.items[number].box,))


def _text(piece: Piece, rng: random.Random) -> Mention:
    """'a sign that says "STOP"', 'the word "STOP" in red letters'."""
    if piece.plate:
        sign = rng.choice(("a sign", f"{with_article(piece.plate)} sign", "a label"))
        text = f'{sign} {rng.choice(("that says", "with the text", "that reads", "saying"))} "{piece.text}"'
    else:
        letters = f" in {piece.colour} letters" if rng.random() < 0.3 and printed(piece) != "number" else ""
        text = f'the {rng.choice((printed(piece), "text"))} "{piece.text}"{letters}'
    return Mention(text, (piece.box,))


def _region(box: Box, facts: Facts) -> str | None:
    return next((region for region in REGIONS if lies(box, region, facts.size)), None)


def _where(box: Box, facts: Facts, rng: random.Random) -> str:
    region = _region(box, facts)
    return f"is {rng.choice(PLACES[region])}" if region else "can be read"


def _on_ground(facts: Facts, rng: random.Random) -> Words:
    return [f" on {facts.ground}"] if facts.ground and rng.random() < 0.4 else []


def _joined(mentions: Sequence[Mention]) -> Words:
    parts: list[Words] = [[mention] for mention in mentions]
    return _chain(parts)


def _chain(parts: Iterable[Words]) -> Words:
    """ "a", "a and b", "a, b and c"."""
    listed = list(parts)
    words: Words = []
    for number, part in enumerate(listed):
        words += ["" if number == 0 else " and " if number == len(listed) - 1 else ", ", *part]
    return words
