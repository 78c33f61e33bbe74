"""Channel attention as a model that is packed for answering computes it: fewer operations, the same result.

All of it is linear but the softmax, and there are more tokens than channels. Behind the attention weights A, values and
output are (x Wv + bv) A Wp + bp = x (Wv A Wp) + (bv A Wp + bp), where the matrix in brackets is made first. And of all
tokens the scores need only the sums G = xᵀx and s = Σx:
(x Wq + bq)ᵀ (x Wk + bk) = Wqᵀ G Wk + Wqᵀ s bkᵀ + bq (sᵀ Wk + N bkᵀ).
So two products over all tokens take the place of four. In half precision it is three: sums that lose nothing would
take as long there as queries and keys.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from florence2.model.davit import parts
from florence2.model.linear import Linear, linear
from florence2.model.rounded import symmetric_bytes, weight_in_bytes


class Folded(nn.Module):
    """The rest of a channel attention when its output projection stays what it is."""

    def __init__(
        self,
        queries_keys: Callable[[Tensor], Tensor],
        v_weight: Tensor,
        v_bias: Tensor,
        for_sums: tuple[Tensor, Tensor] | None = None,
        tokens: type[Tokens] | None = None,
    ) -> None:
        """``queries_keys`` is their product, (..., C) → (..., 2C), and ``for_sums`` weight and bias of it, where sums
        over tokens give the scores. ``tokens`` is the form in which these are computed with."""
        super().__init__()
        self.queries_keys, self.v_weight, self.v_bias = queries_keys, v_weight, v_bias
        self.for_sums = for_sums
        self.tokens: type[Tokens] = tokens or Tokens

    @classmethod
    def of(cls, qkv: Linear, rounds: bool = False) -> Folded:
        """Of a plain layer, whose memory it shares. With ``rounds`` the tokens are rounded to 8 bits."""
        last = 2 * qkv.out_features // 3
        (weight, v_weight), (bias, v_bias) = qkv.weight.tensor_split([last]), qkv.bias.tensor_split([last])
        by_sums = rounds or weight.dtype == torch.float32
        queries_keys = functools.partial(linear, weight=weight, bias=bias)
        return cls(
            queries_keys, v_weight, v_bias, (weight, bias) if by_sums else None, TokensInBytes if rounds else Tokens
        )

    def forward(self, x: Tensor, onto: Tensor, groups: int, proj: nn.Linear) -> None:
        """(B, N, C) both; the result is added to the second, in its place."""
        B, N, C = x.shape
        c = C // groups
        folds = N >= 2 * C  # else the products of matrices cost more than they save
        photos = [self.tokens(photo) if folds else Tokens(linear(photo, self.v_weight)) for photo in x]
        if folds and self.for_sums is not None:
            weight, q_k_bias = (tensor.float() for tensor in self.for_sums)
            scores = torch.stack([_scores_by_sums(photo, weight, q_k_bias, groups) for photo in photos])
        else:
            scores = self._scores(x, groups)
        weights = scores.softmax(-1).transpose(-2, -1).to(x.dtype)  # (B, groups, c, c)
        out = (weights @ proj.weight.t().view(groups, c, C)).view(B, C, C)  # A Wp
        bias = self.v_bias @ out + proj.bias  # (B, C)
        out = out.transpose(1, 2)
        if folds:
            out = linear(out, self.v_weight.t())  # Wv A Wp
        for photo, place, matrix, own_bias in zip(photos, onto, out, bias, strict=True):
            photo.add_product(matrix, own_bias, place)

    def _scores(self, x: Tensor, groups: int) -> Tensor:
        """(B, N, C) → (B, groups, c, c), from queries and keys."""
        B, N, C = x.shape
        scores = x.new_zeros(1, 1, 1)
        for part in x.chunk(parts(x, 4), 1):
            both = self.queries_keys(part).view(B, part.shape[1], 2, groups, C // groups)
            q, k = both.permute(2, 0, 3, 1, 4).contiguous().flatten(1, 2)  # (B*groups, n, c) each
            # The scale is applied within the product, to the sums: half precision has room.
            scores = torch.baddbmm(scores, q.transpose(1, 2), k, alpha=N**-0.5)
        return scores.view(B, groups, C // groups, C // groups)


class Tokens:
    """Tokens (N, C) of one photo: the two products over all of them."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def sums(self) -> Tensor:
        """Σx: (C,) float32"""
        return self.x.sum(0, dtype=torch.float32)

    def squares(self) -> Tensor:
        """xᵀx: (C, C), symmetric: what lies left of the diagonal is copied from the other side of it."""
        C = self.x.shape[1]
        made = self.x.new_empty(C, C, dtype=torch.promote_types(self.x.dtype, torch.float32))
        for start in range(0, C, STRIP):
            here = slice(start, start + STRIP)
            self._sum_up(here, start, made[here, start:])
            made[here, :start] = made[:start, here].t()
        return made

    def _sum_up(self, columns: slice, start: int, onto: Tensor) -> None:
        """Writes the products of some columns with all from ``start`` on."""
        torch.mm(self.x[:, columns].t(), self.x[:, start:], out=onto)

    def add_product(self, weight: Tensor, bias: Tensor, onto: Tensor) -> None:
        """onto += x Wᵀ + b, for a weight (C, C)."""
        count = parts(self.x, 2)
        for part, place in zip(self.x.chunk(count), onto.chunk(count), strict=True):
            place.add_(linear(part, weight, bias))


class TokensInBytes(Tokens):
    """Rounded to 8 bits, x ≈ scale · bytes; products are sums of integers, which are exact."""

    def __init__(self, x: Tensor) -> None:
        super().__init__(x)
        self.bytes, self.scale = symmetric_bytes(x)

    def squares(self) -> Tensor:
        return super().squares().mul_(self.scale**2)

    def _sum_up(self, columns: slice, start: int, onto: Tensor) -> None:
        onto.zero_()
        for row in range(0, len(self.bytes), ROWS):
            some = self.bytes[row : row + ROWS]
            onto += torch._int_mm(some[:, columns].t(), some[:, start:])

    def add_product(self, weight: Tensor, bias: Tensor, onto: Tensor) -> None:
        rounded, scales = weight_in_bytes(weight)
        scales, bias = scales * self.scale, bias.float()
        count = parts(self.x, 4)
        for part, place in zip(self.bytes.chunk(count), onto.chunk(count), strict=True):
            made = torch._int_mm(part, rounded.t()).float()
            place.add_(torch.addcmul(bias, made, scales, out=made))


STRIP = 128
"""Columns of one product: of fewer the processor's arithmetic is not kept busy."""
ROWS = 2**17
"""Of numbers up to 127 so many squares fit a sum of 32 bits."""


def _scores_by_sums(photo: Tokens, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """Tokens (N, C), and (2C, C) and (2C,) of queries and keys → (groups, c, c)."""
    N, C = photo.x.shape
    (q, k), (q_bias, k_bias) = weight.chunk(2), bias.chunk(2)
    sums = photo.sums()
    half = torch.addr(linear(q, photo.squares()), q_bias, sums)  # Wqᵀ G + bq sᵀ; G is symmetric
    rest = (q @ sums + N * q_bias).view(groups, -1, 1) * k_bias.view(groups, 1, -1)
    half, k = (matrix.view(groups, -1, C) for matrix in (half, k))
    return torch.baddbmm(rest, half, k.transpose(1, 2)) * N**-0.5
