"""Which letter stands where: the printer knows where its letters are, the targets follow, the head can learn them."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "nano"))

import data
from letters import ACROSS, ALPHABET, Letters, targets

AB = [("a", 0.1, 0.5), ("b", 0.9, 0.5), ("é", 0.5, 0.5), ("c", 1.2, 0.5)]


def number(letter: str) -> int:
    return 1 + ALPHABET.index(letter)


def test_a_strip_has_the_letter_whose_centre_is_in_it() -> None:
    truth = targets([AB, []], 7)
    assert truth.shape == (2, 7, 7 * ACROSS)
    # a sign that is not asked for and a letter outside the picture are passed over
    assert truth.nonzero().tolist() == [[0, 3, 2], [0, 3, 25]]
    assert [truth[0, 3, 2], truth[0, 3, 25]] == [number("a"), number("b")]


def test_the_head_learns_them_and_pictures_of_which_nothing_is_known_do_not_count() -> None:
    """Twin: the same letters in other places are a loss."""
    torch.manual_seed(0)
    maps, head = torch.randn(3, 7, 7, 32), Letters(32)
    steps = torch.optim.AdamW(head.parameters(), lr=1e-2)
    for _ in range(200):
        steps.zero_grad()
        head.loss(maps, [AB, None, []]).backward()
        steps.step()
    learned = head.loss(maps, [AB, None, []])
    assert learned < 0.1
    assert head.loss(maps.index_fill(0, torch.tensor([1]), 7.0), [AB, None, []]) == learned
    assert head.loss(maps.roll(1, 2), [AB, None, []]) > 1
    assert head.loss(maps, [None, None, None]) == 0


def test_letters_stand_where_they_were_printed() -> None:
    """There is ink around each centre of wide letters; twin: there is none where the centres are moved off the line."""
    rng, found, beside = random.Random(1), [], []
    for _ in range(20):
        black = np.zeros((data.SIDE, data.SIDE, 3), np.uint8)
        picture, texts = data.render(["EHBMW"], black, rng)
        shown = picture.astype(float).mean(2)
        ground = np.median(shown)
        letters = texts[0]["letters"]
        assert [letter for letter, _, _ in letters] == list("EHBMW")
        assert [x for _, x, _ in letters] == sorted(x for _, x, _ in letters)
        height = max(texts[0]["quad"][1::2]) - min(texts[0]["quad"][1::2])
        for _, x, y in letters:
            found.append(ink(shown, ground, x, y))
            beside.append(ink(shown, ground, x, y + 0.8 * height) or ink(shown, ground, x, y - 0.8 * height))
    assert np.mean(found) > 0.9
    assert np.mean(beside) < 0.5


def test_a_long_line_fills_the_picture_and_none_of_it_is_cut_off() -> None:
    """Turned and slanted as much as it may be, a line keeps what its narrow ends say."""
    rng, heights = random.Random(2), []
    for _ in range(40):
        black = np.zeros((data.SIDE, data.SIDE, 3), np.uint8)
        _, texts = data.render(["IMPRESSIONISM I"], black, rng)
        quad, letters = np.array(texts[0]["quad"]).reshape(4, 2), texts[0]["letters"]
        assert quad.min() > 0.0099
        assert quad.max() < 0.9901
        assert all(quad.min(0)[0] < x < quad.max(0)[0] for _, x, _ in letters)
        heights.append(np.ptp(quad[:, 1]))
    assert 0.4 < np.mean(np.array(heights) > 0.5) < 0.9  # stretched to the picture, or as the font has it


def ink(shown: np.ndarray, ground: float, x: float, y: float) -> bool:
    """Whether something as dark or light as print is within five pixels."""
    column, row = round(x * data.SIDE), round(y * data.SIDE)
    around = shown[max(0, row - 5) : max(0, row + 6), max(0, column - 5) : max(0, column + 6)]
    return bool(around.size and np.abs(around - ground).max() > 40)
