"""A weight in the form in which one kind of product reads it, for answering on a CPU.

=========  ==========================  ===================================================================
kind       kept as                     product
=========  ==========================  ===================================================================
Blocked    its own type, in blocks     oneDNN's, float32 or bfloat16; plain weights are rearranged each time
Halves     float16                     FBGEMM's, in float32: a step reads two bytes a weight; only weights that
                                       float16 holds exactly, as those of all published checkpoints
Rounded    8-bit integers              FBGEMM's or oneDNN's, inputs rounded call by call: answers differ
=========  ==========================  ===================================================================

All take (..., K) and give (..., N). The first two give what a plain product gives, up to the order of the sums, and can
be made plain again bit by bit.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from florence2.errors import ConfigError


class Packed(ABC):
    """A weight (N, K) and its bias (N,)."""

    single_threaded: ClassVar[bool] = False
    """Whether making one keeps only one core busy."""
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
        """The weight, bit by bit. Raises ConfigError where it was rounded."""


class Blocked(Packed):
    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
        self.bias = None if bias is None else bias.to(weight.dtype)
        self.bytes_per_weight = weight.dtype.itemsize

    def __call__(self, x: Tensor, gelu: bool = False) -> Tensor:
        """oneDNN reads the weights fastest for four rows: one or two rows are repeated."""
        then = "gelu" if gelu else "none"
        rows = x.numel() // x.shape[-1]
        if rows > 2:
            return onednn(x, self.weight, self.bias, then)
        repeated = x.reshape(rows, -1)
        repeated = repeated.expand(4, -1) if rows == 1 else torch.cat((repeated, repeated))
        return onednn(repeated, self.weight, self.bias, then)[:rows].view(*x.shape[:-1], -1)

    def plain(self) -> Tensor:
        return self.weight.to_dense()

    def __reduce__(self) -> tuple[type[Blocked], tuple[Tensor, Tensor | None]]:
        return Blocked, (self.plain(), self.bias)


class Halves(Packed):
    single_threaded = True
    bytes_per_weight = 2

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.dtype = weight.dtype
        self.weight = torch.ops.quantized.linear_prepack_fp16(weight.float(), None if bias is None else bias.float())

    @classmethod
    def fits(cls, weight: Tensor) -> bool:
        return weight.dtype == torch.float16 or torch.equal(weight.half().to(weight.dtype), weight)

    def __call__(self, x: Tensor, gelu: bool = False) -> Tensor:
        made: Tensor = torch.ops.quantized.linear_dynamic_fp16(x.float(), self.weight)
        return (F.gelu(made) if gelu else made).to(x.dtype)

    def plain(self) -> Tensor:
        weight, _ = torch.ops.quantized.linear_unpack_fp16(self.weight)
        return weight.to(self.dtype, copy=True)  # the memory of the kernel's own is not for others

    def __reduce__(self) -> tuple[type[Halves], tuple[Tensor, Tensor | None]]:
        _, bias = torch.ops.quantized.linear_unpack_fp16(self.weight)
        return Halves, (self.plain(), None if bias is None else bias.clone())


class Rounded(Packed):
    """Each output channel has its own scale, W ≈ s · Q with Q in -127..127 (symmetric); the inputs are rounded to 8
    bits with one scale per call. This one's kernels are those for few rows."""

    bytes_per_weight = 1
    many: ClassVar[bool] = False

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        scales = (weight.abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny).double()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that such tensors will go; the kernels have no other door yet
            rounded = torch.quantize_per_channel(weight, scales, torch.zeros(len(weight)).long(), 0, torch.qint8)
            with quantized_engine(engines()[self.many]):
                self.weight = torch.ops.quantized.linear_prepack(rounded, bias)

    def __call__(self, x: Tensor, gelu: bool = False) -> Tensor:
        made: Tensor = torch.ops.quantized.linear_dynamic(x, self.weight, reduce_range())
        return F.gelu(made) if gelu else made

    def plain(self) -> Tensor:
        raise ConfigError('weights of 8 bits cannot be made float again; load the model with dtype="float32"')


class RoundedForMany(Rounded):
    """The kernels for the rows of an encoder."""

    many = True


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


def engines() -> tuple[str, str]:
    """The 8-bit kernels for few rows and for many. Raises ConfigError where there are none."""
    there = torch.backends.quantized.supported_engines
    few = next((name for name in ("fbgemm", "x86", "qnnpack") if name in there), None)
    if few is None or not hasattr(torch.ops.quantized, "linear_dynamic"):
        raise ConfigError(
            f"this build of PyTorch {torch.__version__} has no 8-bit kernels (it has {', '.join(there)}); load with "
            'dtype="float32" or "bfloat16"'
        )
    return few, "onednn" if "onednn" in there and few != "qnnpack" else few


@functools.cache
def reduce_range() -> bool:
    """Inputs of 7 bits, where the processor adds products in 16 bits and would overflow."""
    return not torch.cpu._is_vnni_supported()
