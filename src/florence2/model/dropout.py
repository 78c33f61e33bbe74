"""Dropout whose random numbers do not cost more than the layer it stands behind."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 2**16


def dropout(x: Tensor, rate: float) -> Tensor:
    """Zeros with probability ``rate``, the rest scaled by 1 / (1 - rate); rate 0 outside of training.

    PyTorch's own on a CPU draws every number of its mask apart, which takes longer than the product before it. There
    one random word of 64 bits serves four numbers: the rate is then rounded to a multiple of 1 / 65536.
    """
    if rate == 0.0:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, rate)
    dropped = round(rate * LEVELS)
    if dropped == LEVELS:
        return x * 0.0
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    levels = words.view(torch.int16)[: x.numel()].view(x.shape)  # each from -LEVELS / 2 to LEVELS / 2 - 1
    kept = (levels >= dropped - LEVELS // 2).to(x.dtype)
    return x * kept.mul_(LEVELS / (LEVELS - dropped))
