"""Sides in texts: what is swapped, what forbids a mirror image, what names a place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence2.data.wording import counts, may_be_mirrored, mirrored, mirrored_start, ranks, says_where

SWAPPED = {
    "the left cup": "the right cup",
    "Left": "Right",
    "EXIT LEFT": "EXIT RIGHT",
    "the leftmost dog, the Right-hand one": "the rightmost dog, the Left-hand one",
    "a left-handed batter on the righthand side": "a right-handed batter on the lefthand side",
    "left_shoe": "right_shoe",
    "is it left or right?": "is it right or left?",
    "左边的猫": "右边的猫",
}


@pytest.mark.parametrize("text", SWAPPED)
def test_sides_are_swapped(text: str) -> None:
    assert mirrored(text) == SWAPPED[text]
    assert mirrored(SWAPPED[text]) == text


@pytest.mark.parametrize("text", ["bright", "upright", "human rights", "copyright", "leftovers", "cleft", "righteous"])
def test_other_words_are_not(text: str) -> None:
    assert mirrored(text) == text
    assert not says_where(text)


UNSAFE = (
    *("a boat right next to a ship", "left over pizza", "a racer that has left a trail", "an umbrella is left open"),
    *("skis , left alone on the hill", "she stares right in the camera", "all right", "It is a dog, right?"),
    *(
        'a sign with "STOP"',
        "the sign says stop",
        "What number is on the bus?",
        "What time is it?",
        "the letters A and B",
    ),
    *("which way does it turn, clockwise?", "左右"),
)
SAFE = (
    *("the man on the left in red", "to the right next to a tree", "his left arm", "left", "a racer makes a left turn"),
    *("tree at top left of frame", "woman left of the dog", "looks to the right and smiles", "rightmost in the row"),
    *("a wordless essay in numbness", "left guy"),
)


@pytest.mark.parametrize("text", UNSAFE)
def test_texts_that_forbid_a_mirror_image(text: str) -> None:
    assert not may_be_mirrored(["a cat", text])
    assert not may_be_mirrored([mirrored(text)])


@pytest.mark.parametrize("text", SAFE)
def test_texts_that_allow_it(text: str) -> None:
    assert may_be_mirrored([text, mirrored(text)])


def test_words_of_two_texts_do_not_meet() -> None:
    assert may_be_mirrored(["it is", "left", "on the table"])


PIECES = (
    "left",
    "Right",
    "LEFT",
    "leftmost",
    "right-hand",
    "bright",
    "the",
    "has",
    "over",
    "dog",
    ",",
    "左",
    "left_arm",
)
texts = st.lists(st.sampled_from(PIECES), max_size=8).map(" ".join)


@given(texts, st.data())
def test_a_mirror_in_a_mirror(text: str, data: st.DataObject) -> None:
    assert mirrored(mirrored(text)) == text
    assert may_be_mirrored([text]) == may_be_mirrored([mirrored(text)])
    words = [n for n in range(len(text)) if n == 0 or text[n - 1] == " "]
    if words:
        start = data.draw(st.sampled_from(words))
        there = mirrored_start(text, start)
        assert mirrored(text)[there:] == mirrored(text[start:])
        assert mirrored_start(mirrored(text), there) == start


def test_claims() -> None:
    assert all(map(says_where, ("the LEFT one", "at the top", "in the upper right", "corner", "the center", "左边")))
    assert not any(map(says_where, ("a stop sign", "a leftover", "topping", "a cornered cat", "centered")))
    assert all(map(ranks, ("the second dog", "the leftmost car", "the Largest", "2nd", "the other", "bigger than")))
    assert not any(map(ranks, ("a dog in a vest", "seconds", "a guest", "a forest")))
    assert all(map(counts, ("Two dogs", "both", "3 cups", "a pair of shoes")))
    assert not any(map(counts, ("a dog", "someone", "tent", "people")))
