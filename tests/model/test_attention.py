"""Attention of few queries, and in windows, takes a way of its own on a CPU, and gives the same."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from florence2.model import Memory, attention
from florence2.model.attention import FEW, MANY, WINDOW, attend, in_columns
from tests.model.test_savings import Operations
from tests.model.tiny import tiny_model

FUSED = "scaled_dot_product_attention"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("queries", "keys"), [(1, MANY), (2, 300), (3, MANY), (5, 300), (9, MANY), (9, WINDOW + 1)])
def test_few_queries_or_few_keys(queries: int, keys: int, masked: bool, columns: bool, dtype: torch.dtype) -> None:
    """As the formula in float64. Twin: the mask counts."""
    generator = torch.Generator().manual_seed(queries)
    q, k, v = (torch.randn(2, 3, n, 8, generator=generator).to(dtype) for n in (queries, keys, keys))
    v = in_columns(v) if columns else v
    assert (v.stride(-2) == 1) == (columns and dtype == torch.float32)
    mask = None
    if masked:
        mask = torch.zeros(2, 1, 1, keys, dtype=dtype)
        mask[1, ..., 40:] = float("-inf")
    with torch.inference_mode(), Operations() as seen:
        made = attend(q, k, v, mask)
    in_window = dtype == torch.bfloat16 and keys <= WINDOW
    assert seen.count[FUSED] == (queries > FEW[dtype] and not in_window and v.stride(-1) == 1)
    right = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), None if mask is None else mask.double())
    near = 1e-6 if dtype == torch.float32 else 0.02
    assert_close(made.double(), right, atol=near, rtol=near)
    if masked:
        with torch.inference_mode():
            assert not torch.allclose(attend(q, k, v).double(), right, atol=near)


@pytest.mark.skipif(not attention._onednn_has_bfloat16(), reason="no bfloat16 in oneDNN here")
@pytest.mark.parametrize("keys", [1, 9, 144, 256])
def test_a_softmax_by_onednn(keys: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In windows, as exact as the other; twin: it does not take what was not subtracted for granted."""
    q, k, v = (4 * torch.randn(5, 2, n, 8).bfloat16() for n in (20, keys, keys))
    right = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
    distances = []
    for there in (True, False):
        monkeypatch.setattr(attention, "_onednn_has_bfloat16", lambda there=there: there)
        with torch.inference_mode(), Operations() as seen:
            made = attend(q, k, v)
        assert seen.count["to_mkldnn"] == there
        distances.append((made.double() - right).abs().max().item())
    assert distances[0] <= 1.1 * distances[1] + 1e-3
    assert attention._softmax(torch.full((3, keys), 1e4).bfloat16()).isfinite().all()


def test_values_stay_in_columns() -> None:
    """As the memory of one photo and of some photos among several: a step copies nothing."""
    model = tiny_model()
    with torch.inference_mode():
        memory: Memory = model.encode(None, torch.randint(4, 1000, (3, 9)))
        some = memory.select(torch.tensor([2, 0]))
    for values in (*memory.values, *some.values):
        assert values.transpose(-2, -1).is_contiguous()
    assert all(keys.is_contiguous() for keys in (*memory.keys, *some.keys))
