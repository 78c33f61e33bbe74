"""What stands where, cell by cell: the targets follow the boxes, and the head can learn them."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "nano"))

from places import NAMES, Places, Seen, targets

DOG, CAR = NAMES["dog"], NAMES["car"]
PICTURES = [
    Seen([("dog", (0.0, 0.0, 0.5, 0.5)), ("car", (0.2, 0.2, 0.3, 0.3)), ("jeans", (0.5, 0.5, 1, 1))], ("dog", "cat")),
    Seen(),
]


def test_a_cell_has_the_classes_and_the_largest_box_whose_centres_are_in_it() -> None:
    there, counts, where, box = targets(PICTURES, 7)
    assert sorted(there.nonzero().tolist()) == sorted([[0, 1, 1, DOG], [0, 1, 1, CAR]])
    assert where.nonzero().tolist() == [[0, 1, 1]]
    assert torch.allclose(box[0], torch.tensor([0.25, 0.25, 0.5, 0.5]).log().where(torch.arange(4) > 1, 0.25))
    assert counts[0, [DOG, NAMES["cat"], CAR]].tolist() == [1, 1, 1]
    assert counts.sum() == 3  # nothing is known of all others, nor of the second picture


def test_the_head_learns_them() -> None:
    """Twin: other maps for the same pictures can not tell them apart."""
    torch.manual_seed(0)
    maps, head = torch.randn(2, 7, 7, 32), Places(32)
    steps = torch.optim.AdamW(head.parameters(), lr=1e-2)
    for _ in range(400):
        steps.zero_grad()
        head.loss(maps, PICTURES).backward()
        steps.step()
    assert head.loss(maps, PICTURES) < 0.3
    assert head.loss(maps.roll(1, 1), PICTURES) > 1
