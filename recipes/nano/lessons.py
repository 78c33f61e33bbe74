"""Lessons for the image encoder beside the answers: heads on its map that are thrown away when the training is over."""

from __future__ import annotations

import argparse

import torch
from course import Drawn
from letters import Letters
from places import Places
from torch import Tensor, nn


class Lessons(nn.Module):
    """What stands where (``places.py``) and which letter (``letters.py``), each where its weight is not 0."""

    def __init__(self, channels: int, places: float = 0.0, letters: float = 0.0) -> None:
        super().__init__()
        self.weights = {"places": places, "letters": letters}
        self.places = Places(channels) if places else None
        self.letters = Letters(channels) if letters else None

    def loss(self, maps: Tensor, drawn: Drawn) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum for (B, h, w, C) maps of what was drawn, and each lesson's own loss."""
        own = {}
        if self.places:
            own["places"] = self.places.loss(maps, drawn.places)
        if self.letters:
            own["letters"] = self.letters.loss(maps, drawn.letters)
        total = torch.zeros((), device=maps.device)
        for name, loss in own.items():
            total = total + self.weights[name] * loss
        return total, {f"lesson_{name}": loss for name, loss in own.items()}

    @staticmethod
    def options(parser: argparse.ArgumentParser) -> None:
        """--places and --letters."""
        for name in ("places", "letters"):
            parser.add_argument(f"--{name}", type=float, default=0.0, help=f"weight of the lesson of {name}.py")
