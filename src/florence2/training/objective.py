"""The loss: one cross-entropy over the tokens of all answers, whatever the task (Florence-2, section 3.2).

The model is called through this module, so that the wrappers of PyTorch (DDP, FSDP2, compile) see one forward pass.
Sums are returned, not means: only whoever knows all processes and all accumulated parts knows what to divide by.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from florence2.config import ImageConfig
from florence2.language.quantizer import BINS
from florence2.model import Florence2Model
from florence2.model.florence2 import IGNORE
from florence2.training.batch import Batch
from florence2.training.recipe import LossChoice


class Losses(NamedTuple):
    """Sums over the answer tokens of a batch of T tasks."""

    total: Tensor
    """What is minimised, with its graph"""
    per_task: Tensor
    """(T,) exact negative log-likelihood"""
    tokens: Tensor
    """(T,) tokens that counted"""
    right: Tensor
    """(T,) tokens that were the most likely ones"""


@dataclass(frozen=True)
class Pixels:
    """uint8 → what the model reads, on the device: scaled and normalised."""

    image: ImageConfig

    def __call__(self, pixels: Tensor) -> Tensor:
        """(P, 3, H, W) uint8 → (P, 1, 3, H, W) float32"""
        mean = torch.tensor(self.image.mean, device=pixels.device).view(3, 1, 1)
        std = torch.tensor(self.image.std, device=pixels.device).view(3, 1, 1)
        return ((pixels.float() / 255 - mean) / std)[:, None]


class Objective(nn.Module):
    """A model and its loss."""

    def __init__(self, model: Florence2Model, first_location: int, choice: LossChoice | None = None) -> None:
        super().__init__()
        self.model = model
        self.first_location = first_location
        self.choice = choice or LossChoice()
        self.pixels = Pixels(model.config.image)

    def forward(self, batch: Batch) -> Losses:
        model, text = self.model, self.model.text
        image_tokens = model.encode_image(self.pixels(batch.pixels))  # (P, M, D)
        memory = model.encode(image_tokens[batch.photo_of], batch.prompts, batch.prompt_mask)  # U rows
        total = image_tokens.new_zeros((), dtype=torch.float32)
        sums = [total.new_zeros(len(batch.tasks)) for _ in range(3)]
        for part in batch.answers:
            hidden = text.decode(model.shift_right(part.labels), memory.select(part.prompt_of))  # (R, L, D)
            counted = part.labels != IGNORE  # (R, L)
            truth = part.labels[counted]  # (T,)
            logits = text.project(hidden[counted]).float()  # (T, V)
            exact = F.cross_entropy(logits, truth, reduction="none")
            total = total + self._loss(logits, truth, exact).sum()
            with torch.no_grad():
                task = part.task_of[:, None].expand_as(part.labels)[counted]
                right = (logits.argmax(-1) == truth).float()
                for sum_, values in zip(sums, (exact, torch.ones_like(exact), right), strict=True):
                    sum_.index_add_(0, task, values.detach())
        return Losses(total, *sums)

    def _loss(self, logits: Tensor, truth: Tensor, exact: Tensor) -> Tensor:
        """(T,) loss of each token."""
        loss = exact
        if self.choice.label_smoothing:
            loss = F.cross_entropy(logits, truth, reduction="none", label_smoothing=self.choice.label_smoothing)
        bins = truth - self.first_location
        place = (bins >= 0) & (bins < BINS)
        if not self.choice.location_spread or not place.any():
            return loss
        near, weights = neighbours(bins[place], self.choice.location_spread)
        logprobs = logits[place].log_softmax(-1)
        spread = -(logprobs.gather(1, near + self.first_location) * weights).sum(1)
        return loss.masked_scatter(place, spread)


def neighbours(bins: Tensor, spread: float, most: int = 21) -> tuple[Tensor, Tensor]:
    """(T,) bins → (T, n) bins around each, and (n,) weights of a Gaussian of that standard deviation in bins.

    Beyond the border it is mirrored: else the first and last bin, where many boxes begin and end, would win every
    doubtful case. At most ``most`` neighbours are looked at, evenly spaced over three standard deviations.
    """
    reach = max(1, round(3 * spread))
    step = max(1, -(-2 * reach // (most - 1)))
    offsets = torch.arange(-(reach // step) * step, reach + 1, step, device=bins.device)
    weights = (-0.5 * (offsets / spread) ** 2).softmax(0)
    near = (bins[:, None] + offsets).abs()
    return torch.where(near > BINS - 1, 2 * (BINS - 1) - near, near), weights
