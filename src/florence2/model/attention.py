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
    backward pass of the CPU's flash kernel took a third of a whole training step in bf16. And for a few queries of many
    keys, as where a decoder step looks at the image: there the flash kernel takes a third longer in float32 and three
    times as long in bfloat16. The softmax is still computed in float32; that bfloat16 scores are rounded adds 2 % to
    the distance of an answer's logits from those in float32.
    """
    if q.device.type == "cpu" and (torch.is_grad_enabled() or _slow_in_flash(q, k)):
        scores = _scores(q * q.shape[-1] ** -0.5, k)  # (..., n, m)
        if causal:
            future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
            scores = scores.masked_fill(future, float("-inf"))
        elif mask is not None:
            scores = scores + mask
        weights = scores.softmax(-1) if torch.is_grad_enabled() else scores.softmax(-1, torch.float32).to(v.dtype)
        return _mixed(drop(weights, dropout), v)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal)


FEW, MANY = {torch.float32: 4, torch.bfloat16: 8}, 128
"""Queries up to which and keys from which on the CPU's flash kernel is the slower one."""


def in_columns(v: Tensor) -> Tensor:
    """Values (..., m, d) as a few queries read them fastest, if they are read more than once: in float32 on a CPU each
    of the d columns in one run."""
    if v.device.type != "cpu" or v.dtype != torch.float32:
        return v.contiguous()
    return v.transpose(-2, -1).contiguous().transpose(-2, -1)


def _scores(q: Tensor, k: Tensor) -> Tensor:
    """q kᵀ. In float32 a single query is the second factor: the library then reads the keys at the rate of memory."""
    if q.shape[-2] == 1 and q.dtype == torch.float32:
        return (k @ q.transpose(-2, -1)).transpose(-2, -1)
    return q @ k.transpose(-2, -1)


def _mixed(weights: Tensor, v: Tensor) -> Tensor:
    """weights v, the values as the first factor where their columns lie in runs."""
    if v.stride(-2) == 1:
        return (v.transpose(-2, -1) @ weights.transpose(-2, -1)).transpose(-2, -1)
    return weights @ v


def _slow_in_flash(q: Tensor, k: Tensor) -> bool:
    if torch.compiler.is_compiling():  # a compiler would tie itself to the lengths
        return False
    return q.shape[-2] <= FEW.get(q.dtype, 0) and k.shape[-2] >= MANY
