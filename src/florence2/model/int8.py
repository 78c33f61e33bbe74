"""Weights as 8-bit integers, for inference on a CPU: a quarter of the bytes to read, four numbers in one instruction.

Each output channel of a matrix has its own scale, W ≈ s · Q with Q in -127..127 (symmetric); the inputs are rounded
to 8 bits call by call, with one scale per call. Only large matrices: small ones lose more in the conversion than the
product wins. Norms, attention, convolutions and the embedding stay as they are. The answers are no longer those of the
reference; ``florence2 bench`` and the evaluation say by how much.

The products are PyTorch's own packed kernels: oneDNN's where there are many rows (encoders), FBGEMM's where there are
few (a decoder step).
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from florence2.errors import ConfigError

if TYPE_CHECKING:
    from florence2.model.florence2 import Florence2Model

SMALLEST = 256
"""Rows and columns that a matrix must have to be worth it."""


def quantize(model: Florence2Model) -> Florence2Model:
    """The model with 8-bit matrices, in place; it can only answer from then on. Returns it.

    Raises ConfigError where the weights are not float32 on a CPU, or this build of PyTorch has no such kernels.
    """
    weight = model.text.shared.weight
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        raise ConfigError(
            f"int8 is for CPUs and starts from float32, found {str(weight.dtype).removeprefix('torch.')} on "
            f'{weight.device}; on a GPU take dtype="bfloat16" or "float16"'
        )
    few, many = engines()
    model.requires_grad_(False)
    for parent, name, layer, stepwise in list(_matrices(model)):
        setattr(parent, name, Int8Linear(layer, few if stepwise else many))
    if min(weight.shape) >= SMALLEST:
        model.text.head = VocabularyHead(weight, few)
    return model


def is_quantized(model: nn.Module) -> bool:
    return any(isinstance(part, Int8Linear) for part in model.modules())


def format_of(model: Florence2Model) -> str:
    """The name of the number format of the weights, such as "float32" or "int8"."""
    return "int8" if is_quantized(model) else str(model.text.shared.weight.dtype).removeprefix("torch.")


def count(model: nn.Module) -> int:
    """Weights of a model or a part of it, the rounded ones included."""
    plain = sum(parameter.numel() for parameter in model.parameters())
    return plain + sum(part.numbers for part in model.modules() if isinstance(part, Int8Linear))


def engines() -> tuple[str, str]:
    """The kernels for few rows and for many. Raises ConfigError where there are none."""
    there = torch.backends.quantized.supported_engines
    few = next((name for name in ("fbgemm", "x86", "qnnpack") if name in there), None)
    if few is None or not hasattr(torch.ops.quantized, "linear_dynamic"):
        raise ConfigError(
            f"this build of PyTorch {torch.__version__} has no 8-bit kernels (it has {', '.join(there)}); load with "
            'dtype="float32" or "bfloat16"'
        )
    return few, "onednn" if "onednn" in there and few != "qnnpack" else few


class Int8Linear(nn.Module):
    """x Wᵀ + b: (..., K) float32 → (..., N) float32."""

    def __init__(self, layer: nn.Linear, engine: str) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.numbers = sum(parameter.numel() for parameter in layer.parameters())
        self.packed = pack(layer.weight, layer.bias, engine)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = torch.ops.quantized.linear_dynamic(x, self.packed, reduce_range())
        return made


class VocabularyHead(nn.Module):
    """The vocabulary projection, of all words or of some of them: (..., D) → (..., V) float32.

    A slice of the words is packed when it is first asked for, and kept: these are the 1,000 locations.
    """

    def __init__(self, embedding: Tensor, engine: str) -> None:
        super().__init__()
        self.embedding, self.engine = embedding.detach(), engine
        self.packed = {(0, len(embedding)): pack(embedding, None, engine)}

    def forward(self, hidden: Tensor, rows: Tensor | slice | None = None) -> Tensor:
        if isinstance(rows, Tensor):
            every: Tensor = self(hidden)
            return every[..., rows]
        place = (0, len(self.embedding)) if rows is None else (rows.start, rows.stop)
        if place not in self.packed:
            self.packed[place] = pack(self.embedding[slice(*place)], None, self.engine)
        made: Tensor = torch.ops.quantized.linear_dynamic(hidden, self.packed[place], reduce_range())
        return made


def pack(weight: Tensor, bias: Tensor | None, engine: str) -> torch.ScriptObject:
    """(N, K) float32 as the kernel wants it, rounded to 8 bits with one scale per row."""
    weight = weight.detach()
    scales = (weight.abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that such tensors will go; the kernels have no other door yet
        rounded = torch.quantize_per_channel(weight, scales, torch.zeros(len(weight)).long(), 0, torch.qint8)
        before = torch.backends.quantized.engine
        torch.backends.quantized.engine = engine
        try:
            return torch.ops.quantized.linear_prepack(rounded, None if bias is None else bias.detach())
        finally:
            torch.backends.quantized.engine = before


@functools.cache
def reduce_range() -> bool:
    """Inputs of 7 bits, where the processor adds products in 16 bits and would overflow."""
    return not torch.cpu._is_vnni_supported()


def _matrices(model: Florence2Model) -> Iterator[tuple[nn.Module, str, nn.Linear, bool]]:
    """(parent, name, layer, whether it runs at every decoder step) of all that are large enough."""
    for path, layer in model.named_modules():
        if not isinstance(layer, nn.Linear) or min(layer.in_features, layer.out_features) < SMALLEST:
            continue
        parent, _, name = path.rpartition(".")
        crossing = ".cross_attention." in path and name in ("k", "v")
        yield model.get_submodule(parent), name, layer, path.startswith("text.decoder.") and not crossing
