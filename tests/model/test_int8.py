"""Weights of 8 bits: near the float model, never confused with it, and nothing that needs floats is done with them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from florence2 import Florence2, checkpoints
from florence2.errors import CheckpointError, ConfigError
from florence2.model import count, int8, packed, packing
from florence2.model.packed import Packed, Rounded, RoundedForMany, VocabularyHead

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
NOISE = 0.02
"""Of a product's size: inputs and weights are each rounded to about 1 part in 250 of the largest."""


@pytest.fixture
def layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(300, 260)


def apart(ours: torch.Tensor, exact: torch.Tensor) -> float:
    return ((ours - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("rows", [1, 3, 200])
@pytest.mark.parametrize("kind", [Rounded, RoundedForMany])
def test_a_product_is_rounded_and_no_more(layer: nn.Linear, rows: int, kind: type[Packed]) -> None:
    x = torch.randn(2, rows, 300)
    made = kind(layer.weight.detach(), layer.bias.detach())
    assert apart(made(x), layer(x)) < NOISE
    assert torch.equal(made(x, gelu=True), F.gelu(made(x)))


def test_each_row_has_its_own_scale(layer: nn.Linear) -> None:
    """A row a thousand times smaller is as exact; twin: one scale for all loses it."""
    layer.weight.data[7] *= 1e-3
    layer.bias.data.zero_()
    x = torch.randn(50, 300)
    rounded = Rounded(layer.weight.detach(), layer.bias.detach())(x)
    assert apart(rounded[:, 7], layer(x)[:, 7]) < NOISE
    scale = layer.weight.abs().max() / 127
    coarse = F.linear(x, (layer.weight / scale).round() * scale)
    assert apart(coarse[:, 7], layer(x)[:, 7]) > 10 * NOISE


def test_a_row_of_zeros_gives_its_bias(layer: nn.Linear) -> None:
    layer.weight.data[3] = 0
    made = Rounded(layer.weight.detach(), layer.bias.detach())(torch.randn(4, 300))
    assert torch.allclose(made[:, 3], layer.bias[3])


def test_some_words_are_those_of_all_words() -> None:
    torch.manual_seed(1)
    words = torch.randn(500, 256)
    head = VocabularyHead(words, Rounded(words, None), lambda some: Rounded(some, None))
    x = torch.randn(2, 1, 256)
    for rows in (slice(100, 300), torch.tensor([4, 1])):
        assert torch.equal(head(x, rows), head(x)[..., rows])
    assert len(head.packed) == 2


def test_the_engine_in_use_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.backends.quantized.engine
    monkeypatch.setattr(packed, "engines", lambda: ("qnnpack", "qnnpack"))
    Rounded(torch.randn(8, 8), None)
    assert torch.backends.quantized.engine == before


def test_the_whole_model_answers_nearly_as_before() -> None:
    """Features of a photo, and the probability of the next words; twin: another photo's are far away."""
    exact, rounded = Florence2.from_pretrained(dtype="float32"), Florence2.from_pretrained(dtype="int8")
    prompt = torch.tensor([exact.tokenizer.encode_prompt("What does the image describe?")])
    begun = torch.tensor([[2, 0, 5, 9]])

    def seen(model: Florence2, photo: str) -> torch.Tensor:
        return model.encode(PHOTOS / f"{photo}.jpg").tokens

    def said(model: Florence2, tokens: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return model.model.decode(begun, model.model.encode(tokens, prompt)).softmax(-1)

    def drift(a: torch.Tensor, b: torch.Tensor) -> float:
        return (a - b).abs().sum(-1).max().item()

    cat, nearly, street = seen(exact, "cat"), seen(rounded, "cat"), seen(exact, "street")
    assert apart(nearly, cat) < 0.1
    assert apart(street, cat) > 0.1
    assert drift(said(rounded, nearly), said(exact, cat)) < 0.1
    assert drift(said(exact, street), said(exact, cat)) > 0.3


def test_it_says_what_it_is() -> None:
    exact, rounded = Florence2.from_pretrained(dtype="float32"), Florence2.from_pretrained(dtype="int8")
    assert (exact.format, rounded.format) == ("float32", "int8")
    assert rounded.dtype == torch.float32
    assert count(rounded.model) == count(exact.model)
    assert "int8" in repr(rounded)
    assert sum(isinstance(getattr(m, "packed", None), Rounded) for m in rounded.model.modules()) > 20
    assert packing.bytes_per_weight(rounded.model) == 1


def test_a_packed_model_is_rounded_too_and_learns_nothing() -> None:
    model = int8.quantize(checkpoints.load(None, dtype="float32", device="cpu", packed=True).model)
    loaded = checkpoints.load(None, dtype="int8", device="cpu").model
    for rounded in (model, loaded):
        assert int8.is_quantized(rounded)
        assert packing.bytes_per_weight(rounded) == 1
        assert not any(parameter.requires_grad for parameter in rounded.parameters())


def test_it_is_not_made_float_again() -> None:
    with pytest.raises(ConfigError, match="cannot be made float again"):
        Rounded(torch.randn(4, 4), None).plain()
    rounded = Florence2.from_pretrained(dtype="int8")
    assert int8.is_quantized(packing.unpack(rounded.model))


def test_it_is_neither_saved_nor_adapted(tmp_path: Path) -> None:
    rounded = checkpoints.load(None, dtype="int8", device="cpu")
    with pytest.raises(CheckpointError, match="int8"):
        checkpoints.save(rounded, tmp_path / "x")
    pytest.importorskip("peft")
    from florence2.checkpoints.adapters import LoraSettings, add_adapter

    with pytest.raises(ConfigError, match="float weights"):
        add_adapter(rounded.model, LoraSettings())


def test_it_starts_from_float32() -> None:
    with pytest.raises(ConfigError, match="starts from float32"):
        int8.quantize(checkpoints.load(None, dtype="bfloat16", device="cpu").model)


def test_no_kernels_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nothing:
        supported_engines = ("none",)

    monkeypatch.setattr(torch.backends, "quantized", Nothing)
    with pytest.raises(ConfigError, match="no 8-bit kernels"):
        packed.engines()
