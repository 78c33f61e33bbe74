"""Products with weights: one door for all linear layers of the model.

A model that only answers has packed weights (``packing``); this is about plain ones. In float32 PyTorch gives them to
MKL. oneDNN, which PyTorch carries for convolutions and for bf16, does the same float32 arithmetic in less time: twice
as fast on AVX-512 processors that are not Intel's, where MKL uses half of the vector width; on Intel's a third less for
the 8 to 16 rows of a batch's step, and the same for the thousands of an image encoder. So there the products go to
oneDNN, and a GELU that follows is applied to the results while they are in the cache.
``torch.backends.mkldnn.flags(enabled=False)`` turns it off.
"""

from __future__ import annotations

import functools
import math
import platform
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from florence2.model import rounded
from florence2.model.packed import Packed, onednn


class Linear(nn.Linear):
    """``nn.Linear`` through this door."""

    packed: Packed | None = None
    """What multiplies instead, while the model is packed for answering (``packing``); the weight is not there then."""

    def forward(self, input: Tensor) -> Tensor:
        if self.packed is not None:
            return self.packed(input)
        return linear(input, self.weight, self.bias)


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer is one of these as it was made: no adapter around it, and its weight there."""
    return type(layer) is Linear and layer.packed is None and not layer.weight.is_meta


def linear_gelu(layer: nn.Module, x: Tensor) -> Tensor:
    """gelu(layer(x)), the exact one (by the error function); ``layer`` is a linear layer of whatever kind."""
    if type(layer) is Linear and layer.packed is not None:
        return layer.packed(x, gelu=True)
    if type(layer) is Linear and not torch.is_grad_enabled() and _faster_by_onednn(x, layer.weight):
        return onednn(x, layer.weight, layer.bias, "gelu")
    return F.gelu(layer(x))


def feed_forward(first: Linear, second: Linear, x: Tensor) -> Tensor:
    """second(gelu(first(x)))"""
    if type(first) is type(second) is Linear:
        packed = first.packed, second.packed
        if isinstance(packed[0], rounded.RoundedForMany) and isinstance(packed[1], rounded.RoundedForMany):
            return rounded.feed_forward(packed[0], packed[1], x)
    made: Tensor = second(linear_gelu(first, x))
    return made


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b: (..., K), (N, K), (N,) → (..., N)."""
    if not _faster_by_onednn(x, weight):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled():
        made: Tensor = _Product.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return made
    if _fewest_rows() == 1 and weight.shape[0] >= TALL and x.numel() <= x.shape[-1] * ROWS_OF_TALL and bias is not None:
        return _tall(x, weight, bias)
    return onednn(x, weight, bias)


def _tall(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The vocabulary projection of a few rows, the weight as the first factor: W xᵀ, which reads W as it lies."""
    rows = x.reshape(-1, x.shape[-1])
    several = rows.repeat(2, 1) if len(rows) == 1 else rows  # of one row MKL makes something else, and slower
    made = torch.addmm(bias[:, None], weight, several.t()).t()[: len(rows)]
    return made.reshape(*x.shape[:-1], -1)


class _Product(torch.autograd.Function):
    """The same with its gradients, which the operator itself has not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return onednn(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        to_x, to_weight, to_bias = ctx.needs_input_grad
        g = gradient.reshape(-1, weight.shape[0])  # (M, N)
        return (
            onednn(g, weight.t()).view(x.shape) if to_x else None,
            _gradient_of_weight(g, x.reshape(-1, weight.shape[1])) if to_weight else None,
            g.sum(0) if to_bias else None,
        )


def _gradient_of_weight(g: Tensor, x: Tensor) -> Tensor:
    """gᵀ x: (M, N), (M, K) → (N, K). The operator copies a transposed first factor: choose what copies less."""
    (M, N), K = g.shape, x.shape[1]
    if K * (M + N) < M * N:
        return onednn(x.t(), g.t()).t()  # copies x, and autograd the result
    return onednn(g.t(), x.t())  # copies g


def _faster_by_onednn(x: Tensor, weight: Tensor) -> bool:
    if torch.compiler.is_compiling():
        return False  # a compiler chooses its products itself, and cannot ask the processor
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() >= x.shape[-1] * _fewest_rows()
        and type(weight) in (Tensor, nn.Parameter)  # sharded or quantised weights have products of their own
        and bool(torch.backends.mkldnn.enabled)
        and not torch.is_autocast_enabled("cpu")
    )


TALL, ROWS_OF_TALL = 8192, 5
"""Outputs from which on a matrix is better taken as the first factor, and up to how many rows."""
FEW = 4
"""Rows below which Intel's own library is faster on its processors: it does not rearrange the weights first."""


def packs_weights(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether products with packed weights of this type are faster on this processor."""
    if device.type != "cpu" or not torch.backends.mkldnn.enabled or _fewest_rows() != 1:
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.cpu._is_avx512_bf16_supported())


@functools.cache
def _fewest_rows() -> float:
    """Rows from which on oneDNN is faster on this processor; infinity where it is not, or cannot be called."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return math.inf
    information = Path("/proc/cpuinfo")
    named = information.read_text() if information.exists() else platform.processor()
    return FEW if "GenuineIntel" in named else 1
