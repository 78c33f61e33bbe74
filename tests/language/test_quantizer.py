from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence2.errors import BoxError
from florence2.language.quantizer import BINS, dequantize, quantize

sides = st.integers(1, 20000)


@pytest.mark.parametrize(
    ("values", "bins"),
    [
        ([0, 0], [0, 0]),
        ([640, 480], [999, 999]),  # the far edge belongs to the last bin
        ([639.9, 0.5], [999, 1]),
        ([-5, 1e9], [0, 999]),  # outside
        ([-math.inf, math.inf], [0, 999]),
        ([1e300, -1e300], [999, 0]),  # beyond float32
        ([], []),
    ],
)
def test_bins_are_floored_and_clamped(values, bins):
    assert quantize(values, (640, 480)) == bins


@given(width=sides, height=sides, bins=st.lists(st.integers(0, BINS - 1)))
def test_a_bin_comes_back(width, height, bins):
    assert quantize(dequantize(bins, (width, height)), (width, height)) == bins


@given(width=sides, height=sides, share=st.floats(0, 1))
def test_a_pixel_moves_by_half_a_bin_at_most(width, height, share):
    x, y = share * width, share * height
    u, v = dequantize(quantize([x, y], (width, height)), (width, height))
    assert abs(u - x) <= 0.5001 * width / BINS
    assert abs(v - y) <= 0.5001 * height / BINS


def test_nan_and_empty_photos_are_refused():
    with pytest.raises(BoxError, match="coordinate 1 is NaN"):
        quantize([0.0, math.nan], (10, 10))
    with pytest.raises(BoxError, match="0 x 5"):
        quantize([1.0, 1.0], (0, 5))
