"""A weight in the form in which one kind of product reads it, for answering on a CPU.

=========  ==========================  ===================================================================
kind       kept as                     product
=========  ==========================  ===================================================================
Blocked    its own type, in blocks     oneDNN's, float32 or bfloat16; plain weights are rearranged each time
Halves     float16                     FBGEMM's, in float32: a step reads two bytes a weight; only weights that
                                       float16 holds exactly, as those of all published checkpoints
=========  ==========================  ===================================================================

All take (..., K) and give (..., N), of the type of what they take. These give what a plain product gives, up to
the order of the sums, and can be made plain again bit by bit. Those of ``rounded`` are kinds too.
"""

from __future__ import annotations

import contextlib
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
        return (gelu_of_few(made) if gelu else made).to(x.dtype)

    def plain(self) -> Tensor:
        weight, _ = torch.ops.quantized.linear_unpack_fp16(self.weight)
        return weight.clone()  # the memory of the kernel's own is not for others

    def rows(self) -> Matrix:
        weight, bias = torch.ops.quantized.linear_unpack_fp16(self.weight)
        return Matrix(weight.half(), None, None if bias is None else bias.clone())

    def __reduce__(self) -> tuple[type[Halves], tuple[Tensor, Tensor | None]]:
        return Halves, (self.plain(), self.rows().bias)


def gelu_of_few(x: Tensor) -> Tensor:
    """The exact one. PyTorch gives what lies in one run to oneDNN, which takes 30 µs to begin. Of the few numbers of a
    step its own function is done before that; it is called for what is turned round."""
    if x.numel() > FEW or x.numel() % 2:
        return F.gelu(x)
    return F.gelu(x.reshape(2, -1).t()).t().view(x.shape)


FEW = 2**15
"""Numbers up to which a single thread computes a function of each as fast as several."""


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
