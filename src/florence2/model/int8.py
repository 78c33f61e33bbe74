"""Weights as 8-bit integers, for inference on a CPU: a quarter of the bytes to read, four numbers in one instruction.

Only large matrices: small ones lose more in the conversion than the product wins. Norms, attention and convolutions
stay as they are, in float32, or in bfloat16 where the processor multiplies in it; the decoder's are in float32. The
answers are no longer those of the reference; ``florence2 bench`` and the evaluation say by how much.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from florence2.errors import ConfigError
from florence2.model import packing
from florence2.model.florence2 import Florence2Model
from florence2.model.packed import Halves, Packed
from florence2.model.rounded import Rounded, RoundedForMany, engine, multiplies_bytes, sums_bytes

SMALLEST, FOR_MANY = 256, 128
"""Rows and columns that a matrix must have to be worth it: for the few rows of a step, for those of an encoder."""
FOLDED = 512
"""Channels up to which an attention among them is folded: of more, the matrices cost more than the tokens."""


def quantize(model: Florence2Model) -> Florence2Model:
    """The model with 8-bit matrices, in place; it can only answer from then on. Returns it.

    Raises ConfigError where the weights are not float32 or bfloat16 on a CPU, or this build of PyTorch has no such
    kernels.
    """
    weight = packing.unpack(model).text.shared.weight
    made = plan(weight.device, weight.dtype)
    return packing.pack(model.requires_grad_(False), made)


def plan(device: torch.device, dtype: torch.dtype) -> packing.Plan:
    """What :func:`quantize` does, layer by layer. Raises ConfigError as it does."""
    if device.type != "cpu" or dtype not in (torch.float32, torch.bfloat16):
        raise ConfigError(
            f"int8 is for CPUs and starts from float32 or bfloat16, found {str(dtype).removeprefix('torch.')} on "
            f'{device}; on a GPU take dtype="bfloat16" or "float16"'
        )
    engine()
    small = packing.exact(device, dtype)

    def kinds(name: str, shape: tuple[int, ...]) -> Sequence[type[Packed]]:
        stepwise = packing.is_stepwise(name) or name == packing.HEAD or not multiplies_bytes()
        if min(shape) < (SMALLEST if stepwise else FOR_MANY):
            # Halves are packed on threads, and who packs is one setting for the whole process.
            return () if small is None else tuple(kind for kind in small(name, shape) if kind is not Halves)
        if stepwise:
            return (Rounded,)
        if name.endswith(".channel.attention.proj") and shape[0] <= FOLDED and sums_bytes():
            return ()  # multiplied with other small matrices first (``folding``)
        return (RoundedForMany,)

    return kinds


def is_quantized(model: Florence2Model) -> bool:
    return packing.is_rounded(model)


def format_of(model: Florence2Model) -> str:
    """The name of the number format of the weights, such as "float32" or "int8"."""
    return "int8" if is_quantized(model) else str(model.text.shared.weight.dtype).removeprefix("torch.")
