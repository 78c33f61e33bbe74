"""The model that is timed as a file, for those who load it anew."""

from __future__ import annotations

import torch
from torch import nn

from florence2.model.packed import Halves


def file_type(module: nn.Module) -> str:
    """The number format of a file of these weights: float16, as published, where it holds them exactly."""
    weights = list(module.parameters())
    if weights[0].dtype == torch.float32 and all(Halves.fits(weight.detach()) for weight in weights):
        return "float16"
    return str(weights[0].dtype).removeprefix("torch.")
