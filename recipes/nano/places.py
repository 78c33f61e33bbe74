"""What stands where, said by every cell of the encoder's map: a second lesson for the image encoder, thrown away later.

An answer names a box once, in some order, and two of eight boxes on average: few and late words about what the encoder
should see. Here each of the 49 cells says which classes have a centre in it and what box the largest of them has, so
that every object of every photo teaches at every step, as in one-stage detectors (FCOS, arXiv 1904.01355; the focal
loss of RetinaNet, arXiv 1708.02002).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from florence2.data.classes import CLASS_LISTS

NAMES = {name: i for i, name in enumerate(CLASS_LISTS["coco80"])}
"""The classes of PASCAL VOC are among them, under the same names."""
SMALLEST = 0.001
"""Part of the photo that a box must cover to be taught."""


@dataclass
class Seen:
    """The objects of one picture, boxes [x0, y0, x1, y1] in 0..1, and the classes of which none is missing."""

    objects: Sequence[tuple[str, Sequence[float]]] = ()
    known: Sequence[str] = ()


UNKNOWN = Seen()
"""A picture of which nothing is known."""


class Places(nn.Module):
    """(B, h, w, C) maps → per cell a logit for each class and a box (centre within the cell, log width, log height)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(channels, 256)
        self.classes = nn.Linear(256, len(NAMES))
        self.box = nn.Linear(256, 4)
        nn.init.constant_(self.classes.bias, -4.0)  # most cells hold nothing of most classes

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        x = F.gelu(self.hidden(maps))
        return self.classes(x).float(), self.box(x).float()

    def loss(self, maps: Tensor, pictures: Sequence[Seen]) -> Tensor:
        """Focal loss of the classes and L1 of the boxes, both per object."""
        logits, boxes = self(maps)
        there, counts, where, box = (x.to(maps.device) for x in targets(pictures, maps.shape[1]))
        objects = there.sum().clamp_min(1)
        nll = F.binary_cross_entropy_with_logits(logits, there, reduction="none")
        surprise = (there - logits.sigmoid()).abs().square()
        focal = (nll * surprise * torch.where(there > 0, 1.0, 0.35) * counts[:, None, None]).sum() / objects
        apart = (boxes[where] - box).abs().sum() / max(1, len(box))
        return focal + 0.5 * apart


def targets(pictures: Sequence[Seen], side: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Classes per cell (B, side, side, 80), classes that count (B, 80), cells with an object (B, side, side) bool and
    the boxes of these cells (n, 4)."""
    there = torch.zeros(len(pictures), side, side, len(NAMES))
    counts = torch.zeros(len(pictures), len(NAMES))
    where = torch.zeros(len(pictures), side, side, dtype=torch.bool)
    box = torch.zeros(len(pictures), side, side, 4)
    for b, seen in enumerate(pictures):
        counts[b, [NAMES[name] for name in seen.known if name in NAMES]] = 1.0
        for label, (x0, y0, x1, y1) in sorted(seen.objects, key=lambda o: (o[1][2] - o[1][0]) * (o[1][3] - o[1][1])):
            width, height = x1 - x0, y1 - y0
            if label not in NAMES or width * height < SMALLEST:
                continue
            x, y = (x0 + x1) / 2 * side, (y0 + y1) / 2 * side
            column, row = min(int(x), side - 1), min(int(y), side - 1)
            there[b, row, column, NAMES[label]] = 1.0
            counts[b, NAMES[label]] = 1.0
            where[b, row, column] = True  # the largest comes last and stays
            place = (x - column - 0.5, y - row - 0.5)
            box[b, row, column] = torch.tensor([*place, *torch.tensor([width, height]).log()])
    return there, counts, where, box[where]
