"""What is said of a scene: a second, simpler reader of the same English finds the one object that is meant."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from florence2.data.scenes.captions import captions
from florence2.data.scenes.colours import COLOURS
from florence2.data.scenes.english import PLACES, counted, plural, with_article
from florence2.data.scenes.facts import Facts, Item, beside, lies, named
from florence2.data.scenes.questions import questions
from florence2.data.scenes.references import _expressions, references

SIZE = (300, 200)
LABELS = ("car", "star", "ice cream")


@st.composite
def items(draw: st.DrawFn) -> Item:
    width, height = draw(st.integers(10, 90)), draw(st.integers(10, 90))
    x, y = draw(st.integers(0, SIZE[0] - width)), draw(st.integers(0, SIZE[1] - height))
    box = (float(x), float(y), float(x + width), float(y + height))
    return Item(draw(st.sampled_from(LABELS)), draw(st.sampled_from(["red", "blue"])), box, (), width * height)


@st.composite
def scenes(draw: st.DrawFn) -> Facts:
    found = draw(st.lists(items(), min_size=1, max_size=6))
    return Facts(SIZE, tuple(found), (), "a striped background", frozenset(LABELS), True)


# A reader of its own: it takes an expression apart and asks, by centres and areas alone, what may be meant

RANKS = ("first", "second", "third", "fourth", "fifth", "sixth")


def meant(text: str, facts: Facts) -> list[int]:
    """The objects that an expression may mean; several where it is not clear."""
    words = text.removeprefix("the ")
    if match := re.fullmatch(r"(larger|smaller) of the two (.+)s", words):
        return best(fits(match[2], facts), facts, area, most=match[1] == "larger")
    if match := re.fullmatch(rf"({'|'.join(RANKS)}) (.+) from the (left|right)", words):
        order = sorted(fits(match[2], facts), key=lambda n: across(facts, n), reverse=match[3] == "right")
        return [order[RANKS.index(match[1])]]
    for form, value, most in SUPERLATIVES:
        if match := re.fullmatch(form, words):
            return best(fits(match[1], facts), facts, value, most)
    if match := re.fullmatch(r"(.+) (?:closest|nearest) to the (.+)", words):
        (anchor,) = fits(match[2], facts)

        def far(_: Facts, number: int) -> float:
            return math.dist(facts.items[number].centre, facts.items[anchor].centre)

        return best([n for n in fits(match[1], facts) if n != anchor], facts, far, most=False)
    for form, holds in RELATIONS:
        if match := re.fullmatch(form, words):
            (anchor,) = fits(match[2], facts)
            others = [n for n in fits(match[1], facts) if n != anchor]
            return [n for n in others if holds(*facts.items[n].centre, *facts.items[anchor].centre)]
    for form, where in REGIONS:
        if match := re.fullmatch(form, words):
            return [n for n in fits(match[1], facts) if where(across(facts, n) / SIZE[0], down(facts, n) / SIZE[1])]
    return fits(words, facts)


def fits(noun: str, facts: Facts) -> list[int]:
    colour, _, label = noun.partition(" ")
    if colour not in COLOURS:
        colour, label = "", noun
    assert label in (*LABELS, "object"), noun
    return [n for n, i in enumerate(facts.items) if colour in ("", i.colour) and label in ("object", i.label)]


def across(facts: Facts, number: int) -> float:
    return facts.items[number].centre[0]


def down(facts: Facts, number: int) -> float:
    return facts.items[number].centre[1]


def area(facts: Facts, number: int) -> float:
    return facts.items[number].area


def best(numbers: list[int], facts: Facts, value: Callable[[Facts, int], float], most: bool) -> list[int]:
    top = (max if most else min)(value(facts, n) for n in numbers)
    return [n for n in numbers if value(facts, n) == top]


SUPERLATIVES = (
    (r"(?:leftmost|left) (.+)", across, False),
    (r"(.+) (?:furthest to the|on the far) left", across, False),
    (r"(?:rightmost|right) (.+)", across, True),
    (r"(.+) (?:furthest to the|on the far) right", across, True),
    (r"(?:topmost|highest|upper) (.+)", down, False),
    (r"(.+) nearest to the top", down, False),
    (r"(?:lowest|bottommost|lower) (.+)", down, True),
    (r"(.+) nearest to the bottom", down, True),
    (r"(?:largest|biggest) (.+)", area, True),
    (r"smallest (.+)", area, False),
)
RELATIONS: tuple[tuple[str, Callable[[float, float, float, float], bool]], ...] = (
    (r"(.+?) (?:to the |on the )?left of the (.+)", lambda x, y, ax, ay: x < ax),
    (r"(.+?) (?:to the |on the )?right of the (.+)", lambda x, y, ax, ay: x > ax),
    (r"(.+?) (?:above|over) the (.+)", lambda x, y, ax, ay: y < ay),
    (r"(.+?) (?:below|under|beneath) the (.+)", lambda x, y, ax, ay: y > ay),
)
REGIONS: tuple[tuple[str, Callable[[float, float], bool]], ...] = (
    (r"(.+) (?:in|at) the (?:top|upper) left(?: corner)?", lambda x, y: x <= 0.5 and y <= 0.5),
    (r"(.+) (?:in|at) the (?:top|upper) right(?: corner)?", lambda x, y: x >= 0.5 and y <= 0.5),
    (r"(.+) (?:in|at) the (?:bottom|lower) left(?: corner)?", lambda x, y: x <= 0.5 and y >= 0.5),
    (r"(.+) (?:in|at) the (?:bottom|lower) right(?: corner)?", lambda x, y: x >= 0.5 and y >= 0.5),
    (r"(.+) (?:on|at) the left(?: side)?", lambda x, y: x <= 0.5),
    (r"(.+) (?:on|at) the right(?: side)?", lambda x, y: x >= 0.5),
    (r"(.+) (?:(?:at|near) the top|in the upper part)", lambda x, y: y <= 0.5),
    (r"(.+) (?:(?:at|near) the bottom|in the lower part)", lambda x, y: y >= 0.5),
    (r"(.+) in the (?:middle|center)", lambda x, y: abs(x - 0.5) <= 0.25 and abs(y - 0.5) <= 0.25),
)


@given(facts=scenes())
@settings(max_examples=300)
def test_expressions_mean_one_object(facts: Facts) -> None:
    names = named(facts)
    for number in range(len(facts.items)):
        for kind, text in _expressions(facts, number, names):
            if kind != "hidden":
                assert meant(text, facts) == [number], text


def test_a_wrong_expression_is_noticed() -> None:
    """The same reader on the mirror image of what was described."""
    rng = random.Random(0)
    wrong = total = 0
    for _ in range(200):
        found = tuple(
            Item(
                rng.choice(LABELS),
                "red",
                (x := rng.randint(0, 250), y := rng.randint(0, 150), x + 50, y + 50),
                (),
                2500,
            )
            for _ in range(4)
        )
        facts = Facts(SIZE, found, (), "", frozenset(), True)
        turned = tuple(replace(i, box=(300 - i.box[2], i.box[1], 300 - i.box[0], i.box[3])) for i in found)
        mirror = replace(facts, items=turned)
        for number in range(4):
            for _, text in _expressions(facts, number, named(facts)):
                if "left" in text or "right" in text:
                    total += 1
                    wrong += meant(text, mirror) != [number]
    assert total > 500
    assert wrong > 0.9 * total


@given(facts=scenes(), seed=st.integers(0, 99))
def test_references_have_the_boxes_of_what_they_mean(facts: Facts, seed: int) -> None:
    found = references(facts, random.Random(seed))
    assert len(found) <= 8
    for ref in found:
        assert ref.origin == "scene"
        assert [facts.items[n].box for n in meant(ref.text, facts)] == [ref.box]


@given(facts=scenes(), seed=st.integers(0, 99))
def test_questions_about_places_are_answered_right(facts: Facts, seed: int) -> None:
    for asked in questions(facts, random.Random(seed)):
        answer = asked.answers[0]
        if match := re.fullmatch(r"What is ((?:to the (?:left|right) of|above|below) the .+)\?", asked.question):
            (number,) = meant(f"the object {match[1]}", facts)
            assert facts.items[number].label == answer
        elif match := re.fullmatch(r"What is the (largest|smallest) object\?", asked.question):
            (number,) = meant(f"the {match[1]} object", facts)
            assert facts.items[number].label == answer
        elif match := re.fullmatch(r"What color is (the .+)\?", asked.question):
            (number,) = meant(match[1], facts)
            assert facts.items[number].colour == answer
        elif match := re.fullmatch(r"Which is (larger|smaller), the (.+) or the (.+)\?", asked.question):
            (a,), (b,) = fits(match[2], facts), fits(match[3], facts)
            large, small = sorted((a, b), key=lambda n: -facts.items[n].area)
            winner = large if match[1] == "larger" else small
            assert answer == f"the {match[2] if winner == a else match[3]}"
        elif match := re.fullmatch(r"Is the (.+?) ((?:to the (?:left|right) of|above|below) the .+)\?", asked.question):
            (asked_of,) = fits(match[1], facts)
            assert answer == ("yes" if asked_of in meant(f"the object {match[2]}", facts) else "no")


@given(facts=scenes(), seed=st.integers(0, 99))
def test_captions_place_things_where_they_are(facts: Facts, seed: int) -> None:
    """A phrase with a place behind it has its boxes there."""
    texts, phrases = captions(facts, random.Random(seed))
    assert 1 <= len(texts) <= 3
    for phrase in phrases:
        caption = texts[phrase.caption or 0]
        start = phrase.start or 0
        assert caption[start : start + len(phrase.text)] == phrase.text
        boxes = [item.box for item in facts.items]
        assert all(box in boxes for box in phrase.boxes)
        behind = caption[start + len(phrase.text) :]
        for region, words in PLACES.items():
            for place in words:
                if re.match(rf" (is )?{place}($|[.,]| and )", behind):
                    assert [lies(box, region, facts.size) for box in phrase.boxes] == [True]


# Relations


def test_only_what_is_clear_is_true() -> None:
    here = (100.0, 100.0, 140.0, 140.0)
    assert beside((20, 105, 60, 145), here, "left") is True
    assert beside((20, 105, 60, 145), here, "right") is False
    assert beside((60, 10, 100, 50), here, "left") is None  # more above than left
    assert beside((80, 100, 120, 140), here, "left") is None  # they overlap
    assert beside((105, 30, 145, 70), here, "above") is True
    assert beside(here, (105, 30, 145, 70), "below") is True
    assert lies((0, 0, 60, 40), "top left", SIZE) is True
    assert lies((100, 0, 160, 40), "top left", SIZE) is None
    assert lies((200, 0, 260, 40), "top left", SIZE) is False
    assert lies((140, 90, 160, 110), "middle", SIZE) is True


def test_what_lies_behind_what() -> None:
    car = Item("car", "red", (100, 80, 160, 120), (), 2000, hidden_by=(1,))
    star = Item("star", "blue", (140, 90, 200, 150), (), 3000)
    facts = Facts(SIZE, (car, star), (), "", frozenset(), True)
    said = {
        number: {text for kind, text in _expressions(facts, number, named(facts)) if kind == "hidden"}
        for number in (0, 1)
    }
    assert "the car behind the star" in said[0]
    assert "the red car partly hidden by the star" in said[0]
    assert "the star in front of the car" in said[1]
    assert not any("in front" in text for text in said[0])


def test_uncertain_scenes_say_nothing_of_absence() -> None:
    items = (Item("dog", "", (10, 10, 90, 90), (), 5000), Item("person", "", (150, 10, 250, 190), (), 9000))
    facts = Facts(SIZE, items, (), "", frozenset(("dog",)), False)
    asked = [q for seed in range(60) for q in questions(facts, random.Random(seed))]
    assert {q.answers[0] for q in asked if q.question.startswith("How many dogs")} == {"1"}
    assert not [q for q in asked if q.question.startswith("How many") and "dogs" not in q.question]
    assert not [q for q in asked if re.match("What is (to|above|below|in|at)|What color", q.question)]
    certain = replace(facts, certain=frozenset(("dog", "cat")))
    asked = [q for seed in range(60) for q in questions(certain, random.Random(seed))]
    assert {q.answers[0] for q in asked if "cat" in q.question} <= {"no", "0"}


# English


@pytest.mark.parametrize(
    ("one", "several"),
    [
        *(("car", "cars"), ("bus", "buses"), ("leaf", "leaves"), ("fish", "fish"), ("butterfly", "butterflies")),
        *(("person", "people"), ("toothbrush", "toothbrushes"), ("teddy bear", "teddy bears"), ("key", "keys")),
        *(("scissors", "scissors"), ("ice cream", "ice creams"), ("couch", "couches"), ("sheep", "sheep")),
        *(("wine glass", "wine glasses"), ("computer mouse", "computer mice"), ("cross", "crosses"), ("box", "boxes")),
    ],
)
def test_plurals(one: str, several: str) -> None:
    assert plural(one) == several


def test_small_words() -> None:
    assert [with_article(w) for w in ("umbrella", "car", "orange car")] == ["an umbrella", "a car", "an orange car"]
    assert [counted(n, "car", "cars") for n in (1, 2, 14)] == ["one car", "two cars", "14 cars"]
