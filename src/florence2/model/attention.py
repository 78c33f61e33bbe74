"""Scaled dot-product attention, one door for the image encoder and the language model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from florence2.model.dropout import dropout as drop


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False, dropout: float = 0.0
) -> Tensor:
    """softmax(q kᵀ / √d + mask) v.

    ``q`` (..., n, d), ``k`` and ``v`` (..., m, d) → (..., n, d). ``mask`` is additive and broadcasts to
    (..., n, m). ``causal`` lets row i see the columns 0..i; it excludes ``mask``. ``dropout`` is a probability,
    applied to the attention weights: pass 0 outside of training.

    On a CPU this is two matrix products and a softmax instead of the fused kernel in two cases. Under autograd: the
    backward pass of the CPU's flash kernel took a third of a whole training step in bf16. And in bfloat16 for a few
    queries of many keys, as where a decoder step looks at the image: one query takes the flash kernel three times as
    long. The softmax is still computed in float32; that its scores are rounded adds 2 % to the distance of an answer's
    logits from those in float32.
    """
    if q.device.type == "cpu" and (torch.is_grad_enabled() or _slow_in_flash(q, k)):
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # (..., n, m)
        if causal:
            future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
            scores = scores.masked_fill(future, float("-inf"))
        elif mask is not None:
            scores = scores + mask
        weights = scores.softmax(-1) if torch.is_grad_enabled() else scores.softmax(-1, torch.float32).to(v.dtype)
        return drop(weights, dropout) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal)


FEW, MANY = 8, 128
"""Queries up to which and keys from which on the CPU's flash kernel is the slower one in bfloat16."""


def _slow_in_flash(q: Tensor, k: Tensor) -> bool:
    if q.dtype != torch.bfloat16 or torch.compiler.is_compiling():  # a compiler would tie itself to the lengths
        return False
    return q.shape[-2] <= FEW and k.shape[-2] >= MANY
