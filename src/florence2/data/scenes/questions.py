"""Questions about a scene that have one true answer."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from florence2.data.records import Question
from florence2.data.scenes.colours import COLOURS
from florence2.data.scenes.english import BESIDE, PLACES, number_word, plural, printed, with_article
from florence2.data.scenes.facts import DIRECTIONS, REGIONS, Facts, beside, farthest, largest, lies, named, nouns, only

ORIGIN = "scene"
MOST = 5
Asked = tuple[str, tuple[str, ...]]
"""A question and its answers, the best first."""


def questions(facts: Facts, rng: random.Random) -> tuple[Question, ...]:
    """Up to ``MOST`` questions, of as many kinds as there are."""
    kinds = [asked for kind in _KINDS if (asked := list(kind(facts, rng)))]
    rng.shuffle(kinds)
    chosen: dict[str, tuple[str, ...]] = {}
    while len(chosen) < MOST and kinds:
        for asked in kinds:
            question, answers = asked.pop(rng.randrange(len(asked)))
            if len(chosen) < MOST:
                chosen.setdefault(question, answers)
        kinds = [asked for asked in kinds if asked]
    return tuple(Question(question=q, answers=answers, origin=ORIGIN) for q, answers in chosen.items())


def _how_many(facts: Facts, rng: random.Random) -> Iterator[Asked]:
    labels = {item.label for item in facts.items} & facts.certain
    for label in sorted(labels):
        count = sum(item.label == label for item in facts.items)
        yield f"How many {plural(label)} are {rng.choice(('there', 'in the picture', 'in the image'))}?", _number(count)
    absent = sorted(facts.certain - labels)
    if absent and rng.random() < 0.3:
        yield f"How many {plural(rng.choice(absent))} are there?", ("0", "zero", "none")
    if facts.only_objects and facts.items:
        colours = sorted({item.colour for item in facts.items if item.colour})
        if colours:
            colour = rng.choice(colours)
            count = sum(item.colour == colour for item in facts.items)
            yield f"How many {colour} objects are there?", _number(count)
        yield "How many objects are there?", _number(len(facts.items))


def _what_colour(facts: Facts, rng: random.Random) -> Iterator[Asked]:
    for number, item in enumerate(facts.items):
        among = nouns(facts, number)[0].fits
        if not item.colour:
            continue
        if among == {number}:
            yield (
                rng.choice(("What color is the {}?", "What is the color of the {}?")).format(item.label),
                (item.colour,),
            )
            continue
        if largest(facts, number, among):
            yield f"What color is the largest {item.label}?", (item.colour,)
        for direction, word in (
            ("left", "leftmost"),
            ("right", "rightmost"),
            ("above", "topmost"),
            ("below", "lowest"),
        ):
            if farthest(facts, number, among, direction):
                yield f"What color is the {word} {item.label}?", (item.colour,)


def _is_there(facts: Facts, rng: random.Random) -> Iterator[Asked]:
    """As often yes as no; no for a label that is absent, or for one that has another colour."""
    where = rng.choice(("in the picture", "in this image", "here"))
    if facts.items and rng.random() < 0.5:
        item = rng.choice(facts.items)
        words = f"{item.colour} {item.label}".strip() if rng.random() < 0.5 else item.label
        yield f"Is there {with_article(words)} {where}?", ("yes",)
        return
    coloured = sorted({item.label for item in facts.items if item.colour and item.label in facts.certain})
    absent = sorted(facts.certain - {item.label for item in facts.items})
    if coloured and rng.random() < 0.5:
        label = rng.choice(coloured)
        wrong = sorted(set(COLOURS) - {item.colour for item in facts.items if item.label == label})
        yield f"Is there {with_article(f'{rng.choice(wrong)} {label}')} {where}?", ("no",)
    elif absent:
        yield f"Is there {with_article(rng.choice(absent))} {where}?", ("no",)


def _what_is(facts: Facts, rng: random.Random) -> Iterator[Asked]:
    """What is left of something, what is in a corner: where just one thing is, and nothing that might count."""
    if not facts.complete:
        return
    everything = [item.box for item in facts.items] + [piece.box for piece in facts.pieces]
    for anchor, words in named(facts).items():
        for direction in DIRECTIONS:
            truths = {n: beside(box, everything[anchor], direction) for n, box in enumerate(everything) if n != anchor}
            for number in range(len(facts.items)):
                if number != anchor and only(number, truths):
                    yield f"What is {BESIDE[direction][0]} the {words}?", _called(facts, number)
    for region in REGIONS[:4]:
        truths = {n: lies(box, region, facts.size) for n, box in enumerate(everything)}
        for number in range(len(facts.items)):
            if only(number, truths):
                yield f"What is {rng.choice(PLACES[region])}?", _called(facts, number)


def _which(facts: Facts, rng: random.Random) -> Iterator[Asked]:
    """Comparisons of two objects, or of all."""
    names = named(facts)
    if len(names) >= 2:
        (a, first), (b, second) = rng.sample(sorted(names.items()), 2)
        for sign, word in ((1, "larger"), (-1, "smaller")):
            for number, winner in ((a, first), (b, second)):
                if largest(facts, number, (a, b), sign):
                    yield f"Which is {word}, the {first} or the {second}?", (f"the {winner}", winner)
        ways = [d for d in DIRECTIONS if beside(facts.items[a].box, facts.items[b].box, d) is not None]
        if ways:
            direction = rng.choice(ways)
            truth = beside(facts.items[a].box, facts.items[b].box, direction)
            yield f"Is the {first} {BESIDE[direction][0]} the {second}?", ("yes" if truth else "no",)
    if facts.only_objects and len(facts.items) >= 2:
        numbers = range(len(facts.items))
        for sign, word in ((1, "largest"), (-1, "smallest")):
            for number in numbers:
                if largest(facts, number, numbers, sign):
                    yield f"What is the {word} object?", _called(facts, number)


def _what_is_written(facts: Facts, rng: random.Random) -> Iterator[Asked]:
    if not facts.complete:
        return
    signs = [piece for piece in facts.pieces if piece.plate]
    if len(facts.pieces) == 1:
        piece = facts.pieces[0]
        yield (
            rng.choice(("What is written in the picture?", "What does the text say?", "What can be read here?")),
            (piece.text,),
        )
        if printed(piece) in ("number", "word"):
            yield f"What {printed(piece)} is in the picture?", (piece.text,)
    for piece in signs:
        if len(signs) == 1:
            yield rng.choice(("What does the sign say?", "What is written on the sign?")), (piece.text,)
        if sum(other.plate == piece.plate for other in signs) == 1:
            yield f"What does the {piece.plate} sign say?", (piece.text,)
            if sum(other.text == piece.text for other in signs) == 1:
                yield f'What color is the sign that says "{piece.text}"?', (piece.plate,)
    if not facts.pieces:
        yield "Is there any text in the picture?", ("no",)
    elif rng.random() < 0.3:
        yield "Is there any text in the picture?", ("yes",)


_KINDS: tuple[Callable[[Facts, random.Random], Iterator[Asked]], ...] = (
    *(_how_many, _what_colour, _is_there, _what_is, _which, _what_is_written),
)


def _number(count: int) -> tuple[str, ...]:
    return str(count), number_word(count)


def _called(facts: Facts, number: int) -> tuple[str, ...]:
    """An object as an answer: what it is, and with its colour."""
    item = facts.items[number]
    short, full = item.label, f"{item.colour} {item.label}".strip()
    return tuple(dict.fromkeys((short, with_article(short), full, with_article(full))))
