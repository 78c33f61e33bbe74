"""Pixels <-> bins: 1,000 bins per axis, rounded down; a bin gives back its centre.

    bin = clamp(floor(v / s), 0, 999)        v = (bin + 0.5) · s        s = side / 1000

All in float32, as the reference computes it, so bins and pixels agree to the last bit. Values run x, y, x, y, ...

Source: Florence-2 (arXiv 2311.06242), section 4.1.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

from florence2.errors import BoxError

BINS = 1000
"""Bins, and location tokens, per axis."""


def quantize(values: Sequence[float], size: tuple[float, float]) -> list[int]:
    """Bins of x, y, x, y, ... in a photo of ``size`` (width, height). Values outside the photo are clamped."""
    steps = _steps(size)
    bins = []
    for i, value in enumerate(values):
        if math.isnan(value):
            raise BoxError(f"coordinate {i} is NaN; expected pixels of a {size[0]} x {size[1]} photo")
        inside = min(max(value, -1.0), 2.0 * max(size))  # what lies outside is clamped below anyway
        bins.append(min(max(math.floor(_float32(_float32(inside) / steps[i % 2])), 0), BINS - 1))
    return bins


def dequantize(bins: Sequence[int], size: tuple[float, float]) -> list[float]:
    """Pixels at the centres of ``bins`` (x, y, x, y, ...) in a photo of ``size`` (width, height)."""
    steps = _steps(size)
    return [_float32(_float32(n + 0.5) * steps[i % 2]) for i, n in enumerate(bins)]


def _steps(size: tuple[float, float]) -> tuple[float, float]:
    width, height = size
    if not (0 < width < math.inf and 0 < height < math.inf):
        raise BoxError(f"a photo of {width} x {height} has no pixels; expected (width, height), both positive")
    return _float32(width / BINS), _float32(height / BINS)


def _float32(value: float) -> float:
    """The nearest float32. One operation on float32 numbers done in double and rounded so is exact float32."""
    rounded: float = struct.unpack("f", struct.pack("f", value))[0]
    return rounded
