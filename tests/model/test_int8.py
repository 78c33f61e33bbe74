"""Weights of 8 bits: near the float model, never confused with it, and nothing that needs floats is done with them."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from florence2 import Florence2, checkpoints
from florence2.checkpoints import formats
from florence2.errors import CheckpointError, ConfigError, Florence2Error
from florence2.model import count, int8, packing, rounded
from florence2.model.davit import MLP
from florence2.model.packed import Packed, VocabularyHead
from florence2.model.rounded import Rounded, RoundedForMany
from tests.model.test_savings import Operations

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
    torch.testing.assert_close(made(x, gelu=True), F.gelu(made(x)), atol=1e-5, rtol=1e-5)
    half = made(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert apart(half, layer(x)) < NOISE
    for again in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert torch.equal(again(x), made(x))


def test_a_gelu_is_inside_the_product(layer: nn.Linear) -> None:
    """Of many rows; twin: for the few rows of a step it is a pass of its own."""
    weight, bias, x = layer.weight.detach(), layer.bias.detach(), torch.randn(50, 300)
    passes = []
    for kind in (RoundedForMany, Rounded):
        made = kind(weight, bias)
        with torch.no_grad(), Operations() as seen:
            made(x, gelu=True)
        passes.append(seen.count["gelu"])
    assert passes == [0, 1]


@pytest.mark.skipif(rounded.reduce_range(), reason="no 8-bit products without a smaller range on this processor")
def test_between_two_products_are_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first writes them itself: no pass rounds what is four times as large. A row beyond the range that a sample
    gave is computed again. Twins: when nobody looks for it, it is cut off; of few rows there is no sample."""
    torch.manual_seed(0)
    first, second = nn.Linear(96, 384), nn.Linear(384, 96)
    x = torch.randn(2, 700, 96)
    x[0, 7] = 3 * first.weight[5].detach().sign()  # in the direction of one of its numbers, and not in the sample
    exact = second(F.gelu(first(x))).detach()
    kinds = [RoundedForMany(layer.weight.detach(), layer.bias.detach()) for layer in (first, second)]
    with torch.no_grad(), Operations() as seen:
        made = rounded.feed_forward(kinds[0], kinds[1], x)
    assert seen.numbers["quantize_per_tensor"] < 1.5 * x.numel()
    assert seen.count["qlinear_pointwise"] == 5
    assert apart(made, exact) < NOISE
    assert apart(made[0, 7], exact[0, 7]) < NOISE
    half = rounded.feed_forward(kinds[0], kinds[1], x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert apart(half, exact) < NOISE

    monkeypatch.setattr(rounded, "BEYOND", 256)
    assert apart(rounded.feed_forward(kinds[0], kinds[1], x)[0, 7], exact[0, 7]) > 2 * NOISE
    monkeypatch.setattr(rounded, "FEWEST", 2000)
    with torch.no_grad(), Operations() as seen:
        assert torch.equal(rounded.feed_forward(kinds[0], kinds[1], x), kinds[1](kinds[0](x, gelu=True)))
    assert seen.numbers["quantize_per_tensor"] >= 2 * 5 * x.numel()


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_no_numbers_are_said(layer: nn.Linear, number: float) -> None:
    x = torch.randn(8, 300)
    x[3, 4] = number
    with pytest.raises(Florence2Error, match="computes what 8 bits cannot hold"):
        RoundedForMany(layer.weight.detach(), layer.bias.detach())(x)


def test_nothing_but_the_least_of_a_gelu() -> None:
    """Results that are all 0 or less."""
    first, second = torch.eye(96), torch.randn(96, 96)
    kinds = [RoundedForMany(first, torch.full((96,), -20.0)), RoundedForMany(second, None)]
    assert rounded.feed_forward(kinds[0], kinds[1], torch.rand(2000, 96)).abs().max() < 1e-2
    assert rounded.feed_forward(kinds[0], kinds[1], torch.zeros(2000, 96)).abs().max() < 1e-2


def test_an_mlp_of_two_such_layers_goes_that_way() -> None:
    mlp = MLP(128)
    expected = mlp(torch.ones(1, 40, 40, 128)).detach()
    for layer in (mlp.fc1, mlp.fc2):
        layer.packed = RoundedForMany(layer.weight.detach(), layer.bias.detach())
    with torch.no_grad(), Operations() as seen:
        made = mlp(torch.ones(1, 40, 40, 128))
    assert seen.count["qlinear_pointwise"] == 3
    assert apart(made, expected) < NOISE


@pytest.mark.parametrize("shift", [-30.0, 0.0, 30.0])
def test_inputs_of_one_sign(layer: nn.Linear, shift: float) -> None:
    """They are rounded in steps from the least, or 0, to the largest, or 0: zero stays exactly what it is. Twin: with
    the zero one step away they are not the same numbers."""
    x = torch.randn(64, 300) + shift
    numbers, scale, zero = rounded.as_bytes(x)
    width = max(0.0, x.max().item()) - min(0.0, x.min().item())
    assert scale == pytest.approx(width / (127 if rounded.reduce_range() else 255))
    assert ((numbers.float() - zero) * scale - x).abs().max() < 1.01 * scale
    assert ((numbers.float() - zero - 2) * scale - x).abs().max() > 1.5 * scale
    made = RoundedForMany(layer.weight.detach(), layer.bias.detach())
    assert apart(made(x), layer(x)) < NOISE
    assert torch.equal(made(torch.zeros(3, 300)), layer.bias.expand(3, -1))


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
    monkeypatch.setattr(rounded, "engine", lambda: "qnnpack")
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
    assert sum(isinstance(getattr(m, "packed", None), Rounded | RoundedForMany) for m in rounded.model.modules()) > 20
    assert packing.bytes_per_weight(rounded.model) == 1


def test_a_packed_model_is_rounded_too_and_learns_nothing() -> None:
    model = int8.quantize(checkpoints.load(None, dtype="float32", device="cpu", packed=True).model)
    loaded = checkpoints.load(None, dtype="int8", device="cpu").model
    for made in (model, loaded):
        assert int8.is_quantized(made)
        assert packing.bytes_per_weight(made) == 1
        assert not any(parameter.requires_grad for parameter in made.parameters())


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


def test_it_starts_from_float32_or_bfloat16() -> None:
    with pytest.raises(ConfigError, match="starts from float32 or bfloat16, found float16"):
        int8.quantize(checkpoints.load(None, dtype="float16", device="cpu").model)


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="no bfloat16 in oneDNN here")
def test_beside_bfloat16(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the processor multiplies in it: the same bytes as beside float32, and the decoder computes in float32."""
    monkeypatch.setattr(formats, "multiplies_bfloat16", lambda: True)
    monkeypatch.setattr(formats, "LARGE", 1)
    beside, exact = (checkpoints.load(None, dtype=dtype, device="cpu").model for dtype in ("int8", "float32"))
    assert beside.text.logits_bias.dtype == torch.bfloat16
    assert int8.format_of(beside) == "int8"
    assert beside.text.decoder.steps_in == torch.float32
    monkeypatch.setattr(formats, "multiplies_bfloat16", lambda: False)
    alone = checkpoints.load(None, dtype="int8", device="cpu").model
    assert alone.text.logits_bias.dtype == torch.float32
    name = "text.encoder.layers.0.ffn.fc1"
    one, other = (model.get_submodule(name).packed for model in (beside, alone))
    assert isinstance(one, RoundedForMany) and isinstance(other, RoundedForMany)  # noqa: PT018
    assert torch.equal(one.weight.to_dense(), other.weight.to_dense())

    pixels = torch.randn(1, 1, 3, 384, 384, generator=torch.Generator().manual_seed(0))
    prompt, begun = torch.arange(5, 12)[None], torch.tensor([[2, 0, 5, 9]])
    with torch.inference_mode():
        right = exact.decode(begun, exact.encode(exact.encode_image(pixels), prompt))
        made = beside.decode(begun, beside.encode(beside.encode_image(pixels.bfloat16()), prompt))
    assert made.dtype == torch.float32
    assert apart(made, right) < 0.1


def test_no_kernels_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nothing:
        supported_engines = ("none",)

    monkeypatch.setattr(torch.backends, "quantized", Nothing)
    with pytest.raises(ConfigError, match="no 8-bit kernels"):
        rounded.engine()
