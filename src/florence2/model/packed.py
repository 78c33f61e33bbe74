"""A weight in the form in which one kind of product reads it, for answering on a CPU.

=========  ==========================  ===================================================================
kind       kept as                     product
=========  ==========================  ===================================================================
Blocked    its own type, in blocks     oneDNN's, float32 or bfloat16; plain weights are rearranged each time
Halves     float16                     FBGEMM's, in float32: a step reads two bytes a weight; only weights that
                                       float16 holds exactly, as those of all published checkpoints
Rounded    8-bit integers              FBGEMM's, for few rows, inputs rounded call by call: answers differ
Rounded-   the same, in blocks         oneDNN's, for the many rows of an encoder; results of the inputs' type
ForMany
=========  ==========================  ===================================================================

All take (..., K) and give (..., N), of the type of what they take. The first two give what a plain product gives, up to
the order of the sums, and can be made plain again bit by bit.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from florence2.errors import ConfigError


class Matrix(NamedTuple):
    """A weight number by number in rows, as few bytes as hold it, for products that are written elsewhere."""

    weight: Tensor
    """(N, K) float32, float16, bfloat16 or int8."""
    scales: Tensor | None
    """(N,) float32, what one step of 8-bit numbers stands for."""
    bias: Tensor | None
    """(N,)"""


class Packed(ABC):
    """A weight (N, K) and its bias (N,)."""

    single_threaded: ClassVar[bool] = False
    """Whether making one keeps only one core busy."""
    rounds: ClassVar[bool] = False
    """Whether the answers differ."""
    made_of: ClassVar[torch.dtype | None] = None
    """The type of the weight that it is made of, where that is not the model's."""
    bytes_per_weight: float

    @abstractmethod
    def __init__(self, weight: Tensor, bias: Tensor | None) -> None: ...

    @classmethod
    def fits(cls, weight: Tensor) -> bool:
        """Whether this kind can stand for the weight."""
        return True

    @abstractmethod
    def __call__(self, x: Tensor, gelu: bool = False) -> Tensor:
        """x Wᵀ + b, and with ``gelu`` that function of it, the exact one (by the error function)."""

    @abstractmethod
    def plain(self) -> Tensor:
        """The weight, number by number, in whichever type. Raises ConfigError where it was rounded."""

    @abstractmethod
    def rows(self) -> Matrix:
        """A copy of the numbers that it multiplies with."""


class Blocked(Packed):
    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
        self.bias = None if bias is None else bias.to(weight.dtype)
        self.bytes_per_weight = weight.dtype.itemsize

    def __call__(self, x: Tensor, gelu: bool = False) -> Tensor:
        """oneDNN reads the weights fastest for four rows: one or two rows are repeated."""
        then, dtype = "gelu" if gelu else "none", x.dtype
        rows = x.numel() // x.shape[-1]
        x = x.to(self.weight.dtype)
        if rows > 2:
            return onednn(x, self.weight, self.bias, then).to(dtype)
        repeated = x.reshape(rows, -1)
        repeated = repeated.expand(4, -1) if rows == 1 else torch.cat((repeated, repeated))
        return onednn(repeated, self.weight, self.bias, then)[:rows].view(*x.shape[:-1], -1).to(dtype)

    def plain(self) -> Tensor:
        return self.weight.to_dense()

    def rows(self) -> Matrix:
        return Matrix(self.plain(), None, self.bias)

    def __reduce__(self) -> tuple[type[Blocked], tuple[Tensor, Tensor | None]]:
        return Blocked, (self.plain(), self.bias)


class Halves(Packed):
    single_threaded = True
    made_of = torch.float32
    bytes_per_weight = 2

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight = torch.ops.quantized.linear_prepack_fp16(weight.float(), None if bias is None else bias.float())

    @classmethod
    def fits(cls, weight: Tensor) -> bool:
        return weight.dtype == torch.float16 or torch.equal(weight.half().to(weight.dtype), weight)

    def __call__(self, x: Tensor, gelu: bool = False) -> Tensor:
        made: Tensor = torch.ops.quantized.linear_dynamic_fp16(x.float(), self.weight)
        return (_gelu(made) if gelu else made).to(x.dtype)

    def plain(self) -> Tensor:
        weight, _ = torch.ops.quantized.linear_unpack_fp16(self.weight)
        return weight.clone()  # the memory of the kernel's own is not for others

    def rows(self) -> Matrix:
        weight, bias = torch.ops.quantized.linear_unpack_fp16(self.weight)
        return Matrix(weight.half(), None, None if bias is None else bias.clone())

    def __reduce__(self) -> tuple[type[Halves], tuple[Tensor, Tensor | None]]:
        return Halves, (self.plain(), self.rows().bias)


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
        return (_gelu(made) if gelu else made).to(x.dtype)

    def rows(self) -> Matrix:
        weight, bias = torch.ops.quantized.linear_unpack(self.weight)
        return Matrix(weight.int_repr(), weight.q_per_channel_scales().float(), None if bias is None else bias.clone())


class RoundedForMany(Bytes):
    """Of many rows a GELU is taken while the results are in the cache, and they are written in half precision where the
    inputs are."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        scales = scales_of(weight)
        self._keep((weight.float() / scales[:, None]).round_().to(torch.int8), scales, bias)

    def _keep(self, rounded: Tensor, scales: Tensor, bias: Tensor | None) -> None:
        self.weight: Tensor = torch.ops.onednn.qlinear_prepack(rounded, None)
        self.scales, self.zeros = scales, torch.zeros(len(scales), dtype=torch.int32)
        self.bias = None if bias is None else bias.float()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # see Rounded; it is said once
            _as_bytes(torch.zeros(1, 1))

    def __call__(self, x: Tensor, gelu: bool = False) -> Tensor:
        inputs, scale, zero = _as_bytes(x.reshape(-1, x.shape[-1]))
        name, algorithm = ("gelu", "none") if gelu else ("none", "")
        made: Tensor = torch.ops.onednn.qlinear_pointwise(
            inputs, scale, zero, self.weight, self.scales, self.zeros, self.bias, 1.0, 0, x.dtype, name, [], algorithm
        )
        return made.view(*x.shape[:-1], -1)

    def rows(self) -> Matrix:
        return Matrix(self.weight.to_dense().t().contiguous(), self.scales, self.bias)

    def __reduce__(self) -> tuple[Callable[..., RoundedForMany], Matrix]:
        return _as_it_was, self.rows()


def _as_it_was(rounded: Tensor, scales: Tensor, bias: Tensor | None) -> RoundedForMany:
    made = RoundedForMany.__new__(RoundedForMany)
    made._keep(rounded, scales, bias)
    return made


def scales_of(weight: Tensor) -> Tensor:
    """(N, K) → (N,) float32, what one step of each row's 8-bit numbers stands for."""
    return (weight.abs().amax(1).float() / 127).clamp_min(torch.finfo(torch.float32).tiny)


def _gelu(x: Tensor) -> Tensor:
    """The exact one. PyTorch gives what lies in one run to oneDNN, which takes 30 µs to begin. Of the few numbers of a
    step its own function is done before that; it is called for what is turned round."""
    if x.numel() > FEW or x.numel() % 2:
        return F.gelu(x)
    return F.gelu(x.reshape(2, -1).t()).t().view(x.shape)


FEW = 2**15
"""Numbers up to which a single thread computes a function of each as fast as several."""


def _as_bytes(x: Tensor) -> tuple[Tensor, float, int]:
    """x ≈ scale · (bytes - zero), from the least to the largest of it."""
    steps = 127 if reduce_range() else 255
    least, largest = _reach(x)
    scale = max((largest - least) / steps, torch.finfo(torch.float32).tiny)
    zero = round(-least / scale)
    rounded = torch.quantize_per_tensor(x.float(), scale, zero, torch.quint8)
    return _in_place(rounded, torch.uint8), scale, zero


def symmetric_bytes(x: Tensor) -> tuple[Tensor, float]:
    """x ≈ scale · bytes, which are -127..127."""
    least, largest = _reach(x)
    scale = max(-least, largest, 127 * torch.finfo(torch.float32).tiny) / 127
    return _in_place(torch.quantize_per_tensor(x.float(), scale, 0, torch.qint8), torch.int8), scale


def _reach(x: Tensor) -> tuple[float, float]:
    """The least and the largest number, and 0 between them."""
    least, largest = (number.item() for number in torch.aminmax(x))
    return min(least, 0.0), max(largest, 0.0)


def _in_place(rounded: Tensor, dtype: torch.dtype) -> Tensor:
    """The same memory as plain bytes: a copy of them would take as long as the product."""
    return torch.empty(0, dtype=dtype).set_(rounded.untyped_storage(), 0, rounded.shape, rounded.stride())


class VocabularyHead(nn.Module):
    """The vocabulary projection, of all words or of some of them: (..., D) → (..., V).

    A slice of the words is packed when it is first asked for, and kept: these are the 1,000 locations.
    """

    def __init__(self, embedding: Tensor, packed: Packed, make: Callable[[Tensor], Packed]) -> None:
        """``make`` packs some rows of the ``embedding`` (V, D), all of which ``packed`` holds."""
        super().__init__()
        self.embedding, self.make = embedding, make
        self.packed = {(0, len(embedding)): packed}

    def forward(self, hidden: Tensor, rows: Tensor | slice | None = None) -> Tensor:
        if isinstance(rows, Tensor):
            every: Tensor = self(hidden)
            return every[..., rows]
        place = (0, len(self.embedding)) if rows is None else (rows.start, rows.stop)
        if place not in self.packed:
            self.packed[place] = self.make(self.embedding[slice(*place)])
        return self.packed[place](hidden)


@contextlib.contextmanager
def quantized_engine(name: str) -> Iterator[None]:
    """PyTorch's one setting for the whole process of who packs weights, for the moment."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = name
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


def onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None, then: str = "none") -> Tensor:
    made: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, then, [], "none")
    return made


@functools.cache
def multiplies_halves() -> bool:
    """Whether this build and this processor have FBGEMM's products of float16 weights."""
    return "fbgemm" in torch.backends.quantized.supported_engines and hasattr(
        torch.ops.quantized, "linear_prepack_fp16"
    )


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
