"""Scaled dot-product attention, one door for the image encoder and the language model."""

from __future__ import annotations

import functools

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

    On a CPU it is two matrix products and a softmax instead of the fused kernel where they take less time: under
    autograd, since the backward pass of the CPU's flash kernel took a third of a whole training step in bf16; and where
    :func:`_slow_in_flash` says so. The softmax is still computed in float32; that bfloat16 scores are rounded adds 2 %
    to the distance of an answer's logits from those in float32, and nothing to that of the image tokens.
    """
    if q.device.type == "cpu" and torch.is_grad_enabled():
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # (..., n, m)
        if causal:
            future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
            scores = scores.masked_fill(future, float("-inf"))
        elif mask is not None:
            scores = scores + mask
        return drop(scores.softmax(-1), dropout) @ v
    if q.device.type == "cpu" and not causal and dropout == 0.0 and _slow_in_flash(q, k, v):
        return _by_products(q, k, v, mask)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal)


def in_columns(v: Tensor) -> Tensor:
    """Values (..., m, d) as a few queries read them fastest, if they are read more than once: in float32 on a CPU each
    of the d columns in one run."""
    if v.device.type != "cpu" or v.dtype != torch.float32:
        return v.contiguous()
    return v.transpose(-2, -1).contiguous().transpose(-2, -1)


FEW, MANY = {torch.float32: 4, torch.bfloat16: 8}, 128
"""Queries up to which and keys from which on it is the slower one: it takes a third longer in float32, three times as
long in bfloat16. A decoder step looks at the image so."""
WINDOW = 256
"""Keys up to which it is the slower one for more queries, in bfloat16: by 40 % in the windows of the image encoder."""


def _slow_in_flash(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether the fused kernel of a CPU takes longer than two products, or cannot read the values as they lie."""
    if torch.compiler.is_compiling():  # a compiler would tie itself to the lengths
        return False
    queries, keys = q.shape[-2], k.shape[-2]
    if queries <= FEW.get(q.dtype, 0):
        return keys >= MANY
    return v.stride(-1) != 1 or (q.dtype == torch.bfloat16 and keys <= WINDOW)


def _by_products(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """A single query is the second factor in float32: the library then reads the keys at the rate of memory."""
    (n, d), m = q.shape[-2:], k.shape[-2]
    q_, k_, v_ = q.reshape(-1, n, d), k.reshape(-1, m, d), v.flatten(0, -3)
    nothing, scale = q.new_empty(1), d**-0.5
    if n == 1 and q.dtype == torch.float32:
        scores = torch.baddbmm(nothing, k_, q_.transpose(1, 2), beta=0, alpha=scale).transpose(1, 2)
    else:
        scores = torch.baddbmm(nothing, q_, k_.transpose(1, 2), beta=0, alpha=scale)
    scores = scores.view(*q.shape[:-1], m) if mask is None else scores.view(*q.shape[:-1], m) + mask
    weights = (_softmax(scores) if n > FEW.get(q.dtype, 0) else scores.softmax(-1)).view(-1, n, m)
    if v.stride(-2) == 1:
        mixed = torch.bmm(v_.transpose(1, 2), weights.transpose(1, 2)).transpose(1, 2)
    else:
        mixed = torch.bmm(weights, v_)
    return mixed.view(q.shape)


def _softmax(scores: Tensor) -> Tensor:
    """Over the last dimension; computed in float32. oneDNN's takes half the time in bfloat16, for many rows, although
    the scores are copied into a tensor of its own kind and back."""
    if scores.dtype != torch.bfloat16 or not torch.backends.mkldnn.enabled or not _onednn_has_bfloat16():
        return scores.softmax(-1)
    made: Tensor = scores.to_mkldnn().softmax(-1).to_dense()
    return made


@functools.cache
def _onednn_has_bfloat16() -> bool:
    """Whether oneDNN is there, and computes in bfloat16 on this processor."""
    return torch._C._has_mkldnn and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
