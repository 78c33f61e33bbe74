"""Weights of 8 bits, for answering on a CPU: answers differ.

=============  =======================  ==================================================================
kind           kept as                  product
=============  =======================  ==================================================================
Rounded        8-bit integers           FBGEMM's, for the few rows of a step, inputs rounded call by call
RoundedForMany the same, in blocks      oneDNN's, for the many rows of an encoder; results of the inputs' type
=============  =======================  ==================================================================
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from florence2.errors import ConfigError, Florence2Error
from florence2.model.packed import Matrix, Packed, gelu_of_few, quantized_engine


class Bytes(Packed):
    """Each output channel has its own scale, W ≈ s · Q with Q in -127..127 (symmetric); the inputs are rounded to 8
    bits with one scale per call."""

    rounds = True
    made_of = torch.float32
    bytes_per_weight = 1

    def plain(self) -> Tensor:
        raise ConfigError('weights of 8 bits cannot be made float again; load the model with dtype="float32"')


class Rounded(Bytes):
    """For few rows."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        scales = scales_of(weight).double()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that such tensors will go; the kernels have no other door yet
            rounded = torch.quantize_per_channel(
                weight.float(), scales, torch.zeros(len(weight)).long(), 0, torch.qint8
            )
            with quantized_engine(engine()):
                self.weight = torch.ops.quantized.linear_prepack(rounded, None if bias is None else bias.float())

    def __call__(self, x: Tensor, gelu: bool = False) -> Tensor:
        made: Tensor = torch.ops.quantized.linear_dynamic(x.float(), self.weight, reduce_range())
        return (gelu_of_few(made) if gelu else made).to(x.dtype)

    def rows(self) -> Matrix:
        weight, bias = torch.ops.quantized.linear_unpack(self.weight)
        return Matrix(weight.int_repr(), weight.q_per_channel_scales().float(), None if bias is None else bias.clone())


class RoundedForMany(Bytes):
    """Of many rows a GELU is taken while the results are in the cache, and they are written in half precision where the
    inputs are."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._keep(*weight_in_bytes(weight), bias)

    def _keep(self, rounded: Tensor, scales: Tensor, bias: Tensor | None) -> None:
        self.weight: Tensor = torch.ops.onednn.qlinear_prepack(rounded, None)
        self.scales, self.zeros = scales, torch.zeros(len(scales), dtype=torch.int32)
        self.bias = None if bias is None else bias.float()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # see Rounded; it is said once
            as_bytes(torch.zeros(1, 1))

    def __call__(self, x: Tensor, gelu: bool = False) -> Tensor:
        made = self.product(as_bytes(x.reshape(-1, x.shape[-1])), x.dtype, gelu)
        return made.view(*x.shape[:-1], -1)

    def product(self, x: InBytes, dtype: torch.dtype, gelu: bool = False, scale: float = 1.0, zero: int = 0) -> Tensor:
        """(n, K) → (n, N) floats, or bytes of this scale and zero; larger numbers become the largest byte."""
        name, algorithm = ("gelu", "none") if gelu else ("none", "")
        made: Tensor = torch.ops.onednn.qlinear_pointwise(
            x.numbers, x.scale, x.zero, self.weight, self.scales, self.zeros, self.bias, scale, zero, dtype, name, [],
            algorithm,
        )  # fmt: skip
        return made

    def rows(self) -> Matrix:
        return Matrix(self.weight.to_dense().t().contiguous(), self.scales, self.bias)

    def __reduce__(self) -> tuple[Callable[..., RoundedForMany], Matrix]:
        return _as_it_was, self.rows()


def _as_it_was(rounded: Tensor, scales: Tensor, bias: Tensor | None) -> RoundedForMany:
    made = RoundedForMany.__new__(RoundedForMany)
    made._keep(rounded, scales, bias)
    return made


def feed_forward(first: RoundedForMany, second: RoundedForMany, x: Tensor) -> Tensor:
    """second(gelu(first(x))): (..., K) → (..., N). What lies between is written as bytes by the first product itself.

    For that their range has to be known before. A sample of the rows gives it; the few that go beyond it, as many
    as one of the sample stands for, whatever the numbers are, are computed again by themselves: none is cut off.
    """
    rows = x.reshape(-1, x.shape[-1])
    if len(rows) < FEWEST or reduce_range():
        return second(first(x, gelu=True))
    inputs = as_bytes(rows)
    sample = inputs._replace(numbers=inputs.numbers[::EVERY].contiguous())
    largest = max(0.0, MARGIN * first.product(sample, x.dtype, gelu=True).amax().item())
    scale = (largest + LEAST) / (BEYOND - 1)
    zero = round(LEAST / scale)
    between = first.product(inputs, torch.uint8, True, scale, zero)
    made = second.product(InBytes(between, scale, zero), x.dtype)
    if between.max() == BEYOND:
        over = (between.amax(1) == BEYOND).nonzero()[:, 0]
        again = first.product(inputs._replace(numbers=inputs.numbers[over]), x.dtype, gelu=True)
        made[over] = second.product(as_bytes(again), x.dtype)
    return made.view(*x.shape[:-1], -1)


FEWEST, EVERY, MARGIN = 512, 32, 1.1
"""Rows from which on it takes less time; one row in so many is in the sample; how much farther than it bytes reach."""
LEAST, BEYOND = 0.17, 255
"""No GELU is less than minus that. The largest byte stands for all that is beyond the others."""


def scales_of(weight: Tensor) -> Tensor:
    """(N, K) → (N,) float32, what one step of each row's 8-bit numbers stands for."""
    return (weight.abs().amax(1).float() / 127).clamp_min(torch.finfo(torch.float32).tiny)


def weight_in_bytes(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K) → the same int8, and (N,) scales: weight ≈ scales · bytes, row by row."""
    scales = scales_of(weight)
    return (weight.float() / scales[:, None]).round_().to(torch.int8), scales


class InBytes(NamedTuple):
    """x ≈ scale · (numbers - zero)"""

    numbers: Tensor
    """(n, K) uint8"""
    scale: float
    zero: int


def as_bytes(x: Tensor) -> InBytes:
    """From the least to the largest of it."""
    steps = 127 if reduce_range() else 255
    least, largest = _reach(x)
    scale = max((largest - least) / steps, torch.finfo(torch.float32).tiny)
    zero = round(-least / scale)
    rounded = torch.quantize_per_tensor(x.float(), scale, zero, torch.quint8)
    return InBytes(_in_place(rounded, torch.uint8), scale, zero)


def symmetric_bytes(x: Tensor) -> tuple[Tensor, float]:
    """x ≈ scale · bytes, which are -127..127."""
    least, largest = _reach(x)
    scale = max(-least, largest, 127 * torch.finfo(torch.float32).tiny) / 127
    return _in_place(torch.quantize_per_tensor(x.float(), scale, 0, torch.qint8), torch.int8), scale


def _reach(x: Tensor) -> tuple[float, float]:
    """The least and the largest number, and 0 between them. Raises Florence2Error where they are no numbers."""
    least, largest = (number.item() for number in torch.aminmax(x))
    if not math.isfinite(largest - least):
        raise Florence2Error(
            f"the model computes what 8 bits cannot hold, from {least} to {largest}; the weights are damaged, or this "
            'type overflows: load the model with dtype="float32" or "bfloat16"'
        )
    return min(least, 0.0), max(largest, 0.0)


def _in_place(rounded: Tensor, dtype: torch.dtype) -> Tensor:
    """The same memory as plain bytes: a copy of them would take as long as the product."""
    return torch.empty(0, dtype=dtype).set_(rounded.untyped_storage(), 0, rounded.shape, rounded.stride())


def engine() -> str:
    """Whose 8-bit kernels there are for few rows. Raises ConfigError where there are none."""
    there = torch.backends.quantized.supported_engines
    found = next((name for name in ("fbgemm", "x86", "qnnpack") if name in there), None)
    if found is None or not hasattr(torch.ops.quantized, "linear_dynamic"):
        raise ConfigError(
            f"this build of PyTorch {torch.__version__} has no 8-bit kernels (it has {', '.join(there)}); load with "
            'dtype="float32" or "bfloat16"'
        )
    return found


@functools.cache
def multiplies_bytes() -> bool:
    """Whether this build has oneDNN's products of 8-bit weights."""
    return "onednn" in torch.backends.quantized.supported_engines and hasattr(torch.ops.onednn, "qlinear_pointwise")


@functools.cache
def sums_bytes() -> bool:
    """Whether products of bytes are summed up as they are, with no weight that is packed before."""
    return multiplies_bytes() and not reduce_range() and hasattr(torch, "_int_mm")


@functools.cache
def reduce_range() -> bool:
    """Inputs of 7 bits, where the processor adds products in 16 bits and would overflow."""
    return not torch.cpu._is_vnni_supported()
