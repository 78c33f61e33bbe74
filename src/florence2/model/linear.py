"""Products with weights: one door for all linear layers of the model.

In float32 PyTorch gives them to MKL, which uses half of the vector width of AVX-512 processors that are not Intel's.
oneDNN, which PyTorch carries for convolutions and for bf16, uses all of it: twice the speed, forward and backward, in
the same float32 arithmetic. So on such processors the products go there. ``torch.backends.mkldnn.flags(enabled=False)``
turns it off.
"""

from __future__ import annotations

import functools
import platform
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Linear(nn.Linear):
    """``nn.Linear`` through this door."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b: (..., K), (N, K), (N,) → (..., N)."""
    if not _faster_by_onednn(x, weight):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled():
        made: Tensor = _Product.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return made
    return _onednn(x, weight, bias)


class _Product(torch.autograd.Function):
    """The same with its gradients, which the operator itself has not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _onednn(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        to_x, to_weight, to_bias = ctx.needs_input_grad
        g = gradient.reshape(-1, weight.shape[0])  # (M, N)
        return (
            _onednn(g, weight.t()).view(x.shape) if to_x else None,
            _gradient_of_weight(g, x.reshape(-1, weight.shape[1])) if to_weight else None,
            g.sum(0) if to_bias else None,
        )


def _gradient_of_weight(g: Tensor, x: Tensor) -> Tensor:
    """gᵀ x: (M, N), (M, K) → (N, K). The operator copies a transposed first factor: choose what copies less."""
    (M, N), K = g.shape, x.shape[1]
    if K * (M + N) < M * N:
        return _onednn(x.t(), g.t()).t()  # copies x, and autograd the result
    return _onednn(g.t(), x.t())  # copies g


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    made: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return made


def _faster_by_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() > 0
        and type(weight) in (Tensor, nn.Parameter)  # sharded or quantised weights have products of their own
        and _mkl_is_slow()
        and bool(torch.backends.mkldnn.enabled)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


@functools.cache
def _mkl_is_slow() -> bool:
    """On this processor; and oneDNN can be called."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    information = Path("/proc/cpuinfo")
    named = information.read_text() if information.exists() else platform.processor()
    return "GenuineIntel" not in named
