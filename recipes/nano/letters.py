"""Which letter stands where, said by every cell of the encoder's map: a lesson in reading, thrown away later.

An answer tells the letters of a word one after the other, and the model has to find out by itself which part of the
picture each of them came from. Where the print was made on the spot the place of every letter is known, so each cell
of the map is asked directly: it is cut into ``ACROSS`` upright strips, and a strip says which letter has its centre in
it. That is what a text recogniser's map says before it is read off (CRNN, arXiv 1507.05717), without the alignment.
"""

from __future__ import annotations

import string
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ALPHABET = string.digits + string.ascii_letters + ".,:;-/$%&'!?#@()"
"""What is asked for; other signs are passed over."""
ACROSS = 4
"""Strips of a cell: 8 pixels of 224 wide, narrower than the letters of a readable line."""
EMPTY = 0.05
"""How much a strip without a letter counts; there are far more of them."""
Letter = tuple[str, float, float]
"""A letter and its centre (x, y), 0..1."""


class Letters(nn.Module):
    """(B, h, w, C) maps → (B, h, w · ACROSS, 1 + letters) logits; the first is "no letter"."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(channels, 256)
        self.letters = nn.Linear(256, ACROSS * (1 + len(ALPHABET)))

    def forward(self, maps: Tensor) -> Tensor:
        batch, height, width, _ = maps.shape
        return self.letters(F.gelu(self.hidden(maps))).float().view(batch, height, width * ACROSS, -1)

    def loss(self, maps: Tensor, prints: Sequence[Sequence[Letter] | None]) -> Tensor:
        """Cross-entropy per letter of the pictures whose letters are known; 0 where there is none."""
        known = [i for i, letters in enumerate(prints) if letters is not None]
        if not known:
            return self(maps[:1]).sum() * 0  # every weight of the head has a gradient at every step
        truth = targets([prints[i] or () for i in known], maps.shape[1]).to(maps.device)
        nll = F.cross_entropy(self(maps[known]).movedim(-1, 1), truth, reduction="none")
        return (nll * torch.where(truth > 0, 1.0, EMPTY)).sum() / (truth > 0).sum().clamp_min(1)


def targets(prints: Sequence[Sequence[Letter]], side: int) -> Tensor:
    """(B, side, side · ACROSS) the number of the letter whose centre is in each strip, 0 for none."""
    truth = torch.zeros(len(prints), side, side * ACROSS, dtype=torch.long)
    for b, letters in enumerate(prints):
        for letter, x, y in letters:
            if letter in ALPHABET and 0 <= x < 1 and 0 <= y < 1:
                truth[b, int(y * side), int(x * side * ACROSS)] = 1 + ALPHABET.index(letter)
    return truth
