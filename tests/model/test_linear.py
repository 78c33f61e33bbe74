"""The door of all linear layers: whatever does the product, it is x Wᵀ + b with the gradients of that."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from florence2.model import linear as door
from florence2.model.linear import Linear, linear

Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@pytest.fixture(autouse=True)
def through_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """On every processor where the operator is there, whether it is worth it or not."""
    fewest = 1 if hasattr(torch.ops.mkldnn, "_linear_pointwise") else math.inf
    monkeypatch.setattr(door, "_fewest_rows", lambda: fewest)


def results(product: Product, x: Tensor, weight: Tensor, bias: Tensor | None) -> list[Tensor]:
    """Output and gradients."""
    leaves = [t.detach().clone().requires_grad_() for t in (x, weight, *([] if bias is None else [bias]))]
    output = product(leaves[0], leaves[1], None if bias is None else leaves[2])
    (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    return [output.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def draw(rows: tuple[int, ...], K: int, N: int, biased: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(K + N)
    x = torch.randn(*rows, K, generator=generator)
    return x, torch.randn(N, K, generator=generator), torch.randn(N, generator=generator) if biased else None


@given(
    rows=st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple),
    K=st.integers(1, 40),
    N=st.integers(1, 40),
    biased=st.booleans(),
)
def test_the_same_as_pytorch(rows: tuple[int, ...], K: int, N: int, biased: bool) -> None:
    x, weight, bias = draw(rows, K, N, biased)
    for ours, theirs in zip(results(linear, x, weight, bias), results(F.linear, x, weight, bias), strict=True):
        assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("M", "K", "N"), [(300, 8, 64), (300, 64, 8), (4, 64, 64)])
def test_both_ways_to_the_gradient_of_the_weight(M: int, K: int, N: int) -> None:
    x, weight, bias = draw((M,), K, N, biased=True)
    for ours, theirs in zip(results(linear, x, weight, bias), results(F.linear, x, weight, bias), strict=True):
        assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_a_wrong_gradient_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = door._gradient_of_weight
    monkeypatch.setattr(door, "_gradient_of_weight", lambda g, x: right(g, x) * 1.001)
    if door._fewest_rows() == math.inf:
        monkeypatch.setattr(door, "linear", lambda x, w, b: F.linear(x, w * 1.001, b))
    x, weight, bias = draw((300,), 8, 64, biased=True)
    ours, theirs = results(door.linear, x, weight, bias), results(F.linear, x, weight, bias)
    with pytest.raises(AssertionError):
        assert_close(ours[2], theirs[2], atol=1e-4, rtol=1e-4)


def test_only_what_is_asked_for_gets_a_gradient() -> None:
    layer = Linear(6, 5)
    layer.weight.requires_grad_(False)
    x = torch.randn(3, 6, requires_grad=True)
    layer(x).sum().backward()
    assert layer.weight.grad is None
    assert layer.bias.grad is not None
    assert x.grad is not None
    with torch.no_grad():
        assert not layer(x).requires_grad


def test_parts_of_tensors_and_no_rows_at_all() -> None:
    layer, x = Linear(6, 5), torch.randn(6, 4, 8)
    assert_close(layer(x[..., 1:7]), F.linear(x[..., 1:7], layer.weight, layer.bias))
    assert_close(layer(x[:, :, 0].t()), F.linear(x[:, :, 0].t(), layer.weight, layer.bias))
    assert layer(x[:0, :, :6]).shape == (0, 4, 5)


def test_other_types_and_autocast_are_left_to_pytorch() -> None:
    layer, x = Linear(6, 5), torch.randn(3, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    for dtype in (torch.float64, torch.bfloat16):
        layer = layer.to(dtype)
        assert torch.equal(layer(x.to(dtype)), F.linear(x.to(dtype), layer.weight, layer.bias))


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
def test_it_can_be_turned_off() -> None:
    x, weight, bias = draw((7,), 33, 65, biased=True)
    with torch.backends.mkldnn.flags(enabled=False):
        assert torch.equal(linear(x, weight, bias), F.linear(x, weight, bias))
