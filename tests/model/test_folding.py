"""A channel attention with fewer operations is the same attention; with 8-bit tokens it is near, and sums are exact."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from florence2.model import folding, int8, packing, rounded
from florence2.model.davit import ChannelAttention
from florence2.model.folding import Folded, Tokens, TokensInBytes
from florence2.model.rounded import RoundedForMany
from tests.model.test_int8 import apart
from tests.model.test_savings import Operations
from tests.model.tiny import tiny_model

needs_sums = pytest.mark.skipif(not rounded.sums_bytes(), reason="no products of bytes on this processor")


def random_attention(channels: int = 32) -> ChannelAttention:
    torch.manual_seed(0)
    attention = ChannelAttention(channels, 4)
    nn.init.normal_(attention.proj.bias)
    return attention


@pytest.mark.parametrize(("side", "products"), [(16, 1), (6, 4)])
def test_four_products_of_a_channel_attention_are_two(side: int, products: int) -> None:
    """Where tokens are many: one that sums over them and gives a small matrix, one that gives tokens. Twins: another
    bias shows, of each of the four projections."""
    attention = random_attention()
    x = torch.randn(2, side, side, 32)
    expected = attention(x)  # as DaViT writes it
    attention.folded = Folded.of(attention.qkv)
    with torch.no_grad(), Operations() as seen:
        made = attention(x.clone())
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-5)
    small = 3 * 2 * 32 * 32 if products == 1 else 0  # xᵀx, Wq G and Wv A Wp of two photos
    numbers = sum(seen.numbers[name] for name in ("addmm", "mm", "linear", "_linear_pointwise"))
    assert numbers == products * x.numel() + small
    for bias in (*attention.qkv.bias.data.chunk(3), attention.proj.bias.data):
        before = bias.clone()
        bias += torch.randn(32)
        with torch.no_grad():
            assert not torch.allclose(attention(x.clone()), expected, atol=1e-2)
        bias.copy_(before)


@pytest.mark.parametrize("channels", [96, 128, 300, 512])
def test_a_symmetric_product_is_made_from_one_side(channels: int) -> None:
    """In strips of 128 columns, the last one narrower or not; of 512 columns five eighths of the numbers."""
    x = torch.randn(40, channels, dtype=torch.float64)
    with Operations() as seen:
        made = Tokens(x).squares()
    torch.testing.assert_close(made, x.t() @ x)
    widths = range(channels, 0, -128)  # of the strips
    assert seen.numbers["mm"] == sum(width * min(width, 128) for width in widths)


@needs_sums
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("side", [16, 6])
def test_tokens_of_8_bits(side: int, dtype: torch.dtype) -> None:
    """Near to the exact ones, and both large products are made of bytes where tokens are many. Twins: as before."""
    attention = random_attention()
    x = torch.randn(2, side, side, 32) + 0.2
    expected = attention(x).detach()
    attention.to(dtype)
    attention.folded = Folded.of(attention.qkv, rounds=True)
    with torch.no_grad(), Operations() as seen:
        made = attention(x.to(dtype), onto=torch.ones_like(x, dtype=dtype))
    assert apart(made - 1, expected) < 0.03
    assert seen.count["_int_mm"] == (4 if side == 16 else 0)
    for bias in (*attention.qkv.bias.data.chunk(3), attention.proj.bias.data):
        before = bias.clone()
        bias += torch.randn(32).to(dtype)
        with torch.no_grad():
            assert apart(attention(x.to(dtype)), expected) > 0.06
        bias.copy_(before)


@needs_sums
@pytest.mark.parametrize("rows", [1, 7, 2**17])
def test_sums_of_bytes_are_exact(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In however many pieces; twin: the tokens themselves give other numbers."""
    x = torch.randn(50, 24, dtype=torch.float64)
    monkeypatch.setattr(folding, "ROWS", rows)
    tokens = TokensInBytes(x.float())
    numbers = tokens.bytes.double()
    assert numbers.abs().max() == 127
    torch.testing.assert_close(tokens.squares().double(), numbers.t() @ numbers * tokens.scale**2, rtol=1e-6, atol=0)
    assert not torch.allclose(tokens.squares().double(), x.t() @ x, rtol=1e-6, atol=0)
    assert ((numbers * tokens.scale) - x).abs().max() < 0.51 * tokens.scale


def test_no_sum_is_too_long() -> None:
    assert folding.ROWS * 127**2 < 2**31


@needs_sums
def test_tokens_that_are_all_zero() -> None:
    attention = random_attention()
    x = torch.zeros(1, 16, 16, 32)
    expected = attention(x).detach()
    attention.folded = Folded.of(attention.qkv, rounds=True)
    with torch.no_grad():
        torch.testing.assert_close(attention(x), expected)


@needs_sums
def test_which_attentions_are_folded_in_8_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of few channels; their weights stay there, which are multiplied with others first. Twin: where there are
    no sums of bytes all are rounded layer by layer."""
    monkeypatch.setattr(int8, "FOR_MANY", 16)
    monkeypatch.setattr(int8, "FOLDED", 16)
    for sums in (True, False):
        monkeypatch.setattr(int8, "sums_bytes", lambda sums=sums: sums)
        model = int8.quantize(tiny_model())
        for _, attention in packing._channel_attentions(model):
            channels = attention.proj.weight.shape[0]
            if channels == 16 and sums:
                assert isinstance(attention.folded, Folded)
                assert attention.folded.tokens is TokensInBytes
                assert not attention.qkv.weight.is_meta
                assert attention.qkv.packed is attention.proj.packed is None
            elif channels >= 16:
                assert attention.folded is None
                assert isinstance(attention.qkv.packed, RoundedForMany)
                assert isinstance(attention.proj.packed, RoundedForMany)
