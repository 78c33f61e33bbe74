"""The number format of a model's weights: what was asked for, or what is both fast and safe here.

"auto" on a GPU is half precision, as Microsoft trained. On a CPU it is bfloat16 where the processor multiplies in it
(AVX512-BF16, AMX) and the model is large enough to gain, else float32: on other processors bfloat16 is slower than
float32, and float16 always is. int8 is never chosen by itself: its answers differ (``model/int8.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from florence2.errors import ConfigError

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
LARGE = 100_000_000
"""Weights from which on bfloat16 pays on a CPU: below, a call is bound by the number of its operations."""


@dataclass(frozen=True)
class Format:
    dtype: torch.dtype
    int8: bool
    """Large matrices are rounded to 8 bits; ``dtype`` is that of the rest."""
    why: str
    """In words, for ``florence2 info`` and the log."""


def choose(dtype: str | torch.dtype, device: torch.device, tensors: Mapping[str, Tensor]) -> Format:
    """The format for these weights on this device. Raises ConfigError for one that there is not."""
    if dtype == "int8":
        halves = device.type == "cpu" and multiplies_bfloat16() and _is_large(tensors)
        beside = torch.bfloat16 if halves else torch.float32
        return Format(beside, True, f"as asked, beside {name_of(beside)}; answers differ from float32 now and then")
    if dtype != "auto":
        return Format(as_dtype(dtype), False, "as asked")
    if device.type == "cuda":
        stored = {tensor.dtype for tensor in tensors.values()}
        chosen = torch.bfloat16 if torch.bfloat16 in stored else torch.float16
        return Format(chosen, False, "half precision, as the model was trained; float32 for exact parity")
    if device.type != "cpu":
        return Format(torch.float32, False, "exact")
    if not multiplies_bfloat16():
        return Format(torch.float32, False, "exact, and this processor is slower in half precision")
    if not _is_large(tensors):
        return Format(torch.float32, False, "exact, and a model of this size is not faster in half precision")
    return Format(torch.bfloat16, False, "this processor multiplies in it; float32 for exact parity")


def _is_large(tensors: Mapping[str, Tensor]) -> bool:
    return sum(tensor.numel() for tensor in tensors.values()) >= LARGE


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16 products, and PyTorch uses them."""
    usable = torch.backends.cpu.get_cpu_capability() in ("AVX512", "AMX")
    asked = (getattr(torch.cpu, f"_is_{name}_supported", lambda: False) for name in ("avx512_bf16", "amx_tile"))
    return usable and any(supported() for supported in asked)


def as_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """One of the types that a model can have, by its name or itself."""
    chosen = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen is None or chosen not in DTYPES.values():
        raise ConfigError(
            f"dtype {dtype!r} is not one that a model can have; expected auto, {', '.join(DTYPES)} or int8"
        )
    return chosen
