"""A packed model gives the numbers of a plain one, holds nothing twice, and can be unpacked bit by bit."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

from florence2 import checkpoints
from florence2.errors import CheckpointError
from florence2.model import Florence2Model, packing
from florence2.model import linear as door
from florence2.model.packed import Blocked, Halves, Packed, VocabularyHead, multiplies_halves
from florence2.pipeline import Florence2
from tests.model.test_savings import Operations
from tests.model.tiny import tiny_model

pytestmark = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_reorder_linear_weight") or not multiplies_halves(),
    reason="this PyTorch is built without oneDNN or FBGEMM",
)
HALF = pytest.param(
    torch.bfloat16,
    marks=pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="no bfloat16 in oneDNN here"),
)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def on_any_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "_fewest_rows", lambda: 1)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", torch.ops.mkldnn._is_mkldnn_bf16_supported)


def plain_model(dtype: torch.dtype, halves: bool = True) -> Florence2Model:
    """``halves``: its weights are numbers that float16 has."""
    model = tiny_model()
    return model.half().to(dtype) if halves else model.to(dtype)


def pack(model: Florence2Model) -> Florence2Model:
    plan = packing.exact(CPU, model.text.shared.weight.dtype)
    assert plan is not None
    return packing.pack(model, plan)


def said(model: Florence2Model, rows: int = 1, tokens: int = 2) -> list[Tensor]:
    """Image tokens, the encoder's states and the logits of two steps, ``rows`` beams."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(2, 1, 3, 64, 64, generator=generator).to(model.text.logits_bias.dtype)
    ids = torch.randint(4, 1000, (2, 7), generator=generator)
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1, 5:] = False
    with torch.inference_mode():
        seen = model.encode_image(pixels)
        memory = model.encode(seen, ids, mask)
        cache = model.new_cache(2 * rows, 8)
        answer = torch.randint(4, 1000, (2 * rows, tokens + 1), generator=generator)
        begun = model.decode(answer[:, :tokens], memory, cache)
        locations = model.decode(answer[:, tokens:], memory, cache, slice(100, 1100))
        single = model.decode(answer[:1, :1], memory.select(torch.tensor([1])))
    return [made.float() for made in (seen, memory.states, begun, locations, single)]


CASES = [
    pytest.param(torch.float32, True, id="halves"),
    pytest.param(torch.float32, False, id="float32"),
    pytest.param(*HALF.values, True, id="bfloat16", marks=HALF.marks),
]


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize(("dtype", "halves"), CASES)
def test_the_same_numbers(dtype: torch.dtype, halves: bool, rows: int) -> None:
    """Twin: with the weights of keys and values exchanged they are others."""
    near = 1e-4 if dtype == torch.float32 else 0.1
    expected = said(plain_model(dtype, halves), rows)
    for found, right in zip(said(pack(plain_model(dtype, halves)), rows), expected, strict=True):
        assert_close(found, right, atol=near * float(right.std()), rtol=near)

    wrong = plain_model(dtype, halves)
    attention = wrong.text.decoder.layers[0].self_attention
    attention.k, attention.v = attention.v, attention.k
    found, right = said(pack(wrong), rows)[2], expected[2]
    assert (found - right).abs().max() > near * float(right.std())


@pytest.mark.parametrize(("dtype", "halves"), CASES)
def test_unpacked_it_is_what_it_was(dtype: torch.dtype, halves: bool) -> None:
    model = plain_model(dtype, halves)
    model.text.encoder.layers[0].ffn.fc1.weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    frozen = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert packing.is_packed(pack(pack(model)))
    assert not packing.is_packed(packing.unpack(packing.unpack(model)))
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) and after[name].dtype == dtype for name, tensor in before.items())
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == frozen


def test_nothing_is_there_twice() -> None:
    model = plain_model(torch.float32)
    plan = packing.exact(CPU, torch.float32)
    assert plan is not None
    names = packing.packable(model, plan)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    packing.pack(model, plan)
    assert names
    assert {name for name, parameter in model.named_parameters() if parameter.is_meta} == {*names, "text.shared.weight"}
    assert {name: parameter.shape for name, parameter in model.named_parameters()} == shapes
    with pytest.raises((NotImplementedError, RuntimeError)):  # not the wrong numbers
        model.text.encoder.layers[0].self_attention.q.weight.sum().item()


def test_what_is_kept_as_float16() -> None:
    """The language model, where that is exact; twin: one number that float16 has not keeps its layer in float32."""
    model = plain_model(torch.float32)
    odd = model.text.decoder.layers[1].ffn.fc1
    odd.weight.data[3, 5] = 1 / 3
    pack(model)
    kinds = {name: type(layer.packed) for name, layer in model.named_modules() if type(layer) is door.Linear}
    folded = {f"{name}.{part}" for name, _ in packing._channel_attentions(model) for part in ("qkv", "proj")}
    assert {kind for name, kind in kinds.items() if name.startswith("vision.") and name not in folded} == {Blocked}
    assert type(odd.packed) is Blocked
    assert type(model.text.decoder.layers[0].ffn.fc1.packed) is Halves
    assert isinstance(model.text.head, VocabularyHead)
    assert model.text.shared.halves is not None
    assert packing.bytes_per_weight(model) == 2
    assert packing.bytes_per_weight(packing.unpack(model)) == 4
    assert odd.weight[3, 5].item() == torch.tensor(1 / 3).item()


@pytest.mark.parametrize("dtype", [HALF])
def test_steps_of_bfloat16_weights_compute_in_float32(dtype: torch.dtype) -> None:
    """They come nearer to float32 than those of a plain model. Twin: the same weights in blocks do not."""
    right = said(plain_model(dtype).float())[3]
    model = pack(plain_model(dtype))
    fc1, vocabulary = model.text.decoder.layers[0].ffn.fc1, model.text.head
    assert type(fc1.packed) is Halves
    assert isinstance(vocabulary, VocabularyHead)
    assert {type(packed) for packed in vocabulary.packed.values()} == {Blocked}
    assert type(model.text.decoder.layers[0].cross_attention.k.packed) is Blocked
    cache = model.new_cache(1, 4)
    assert {cache.keys.dtype, cache.values.dtype, model.encode(None, torch.ones(1, 2).long()).keys[0].dtype} == {
        torch.float32
    }
    distance = (said(model)[3] - right).std()
    assert distance < 0.8 * (said(plain_model(dtype))[3] - right).std()

    blocks = packing.exact(CPU, dtype)
    assert blocks is not None
    in_blocks = packing.pack(plain_model(dtype), lambda name, shape: [k for k in blocks(name, shape) if k is Blocked])
    assert in_blocks.text.decoder.steps_in is None
    assert distance < 0.8 * (said(in_blocks)[3] - right).std()


@pytest.mark.parametrize("dtype", [HALF])
def test_a_decoder_that_is_not_all_float16(dtype: torch.dtype) -> None:
    """One layer that float16 does not hold, or that an adapter has changed: the steps stay in bfloat16."""
    model = plain_model(dtype)
    model.text.decoder.layers[1].ffn.fc2.weight.data[2, 3] = 1e-9
    expected = said(model)
    assert pack(model).text.decoder.steps_in is None
    assert type(model.text.decoder.layers[1].ffn.fc2.packed) is Blocked
    assert type(model.text.decoder.layers[0].ffn.fc2.packed) is Halves
    for found, right in zip(said(model), expected, strict=True):
        assert_close(found, right, atol=0.1 * float(right.std()), rtol=0.1)

    class Changed(door.Linear):
        pass

    model = plain_model(dtype)
    model.text.decoder.layers[0].cross_attention.q.__class__ = Changed
    expected = said(model)
    assert pack(model).text.decoder.steps_in is None
    for found, right in zip(said(model), expected, strict=True):
        assert_close(found, right, atol=0.1 * float(right.std()), rtol=0.1)


def test_a_processor_that_gains_by_float16_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Intel's: the image encoder's weights stay plain, and its channel attentions are folded all the same."""
    monkeypatch.setattr(door, "_fewest_rows", lambda: math.inf)
    model = plain_model(torch.float32)
    before, expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}, said(model)
    for found, right in zip(said(pack(model)), expected, strict=True):
        assert_close(found, right, atol=1e-4 * float(right.std()), rtol=1e-4)
    assert packing.bytes_per_weight(model) == 2
    assert not any(parameter.is_meta for parameter in model.vision.parameters())
    assert all(channels.folded is not None for _, channels in packing._channel_attentions(model))
    convolution = model.vision.stages[1].embed.conv
    assert not convolution.weight.is_contiguous()
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last)
    packing.unpack(model)
    assert convolution.weight.is_contiguous()
    assert all(channels.folded is None for _, channels in packing._channel_attentions(model))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_vocabulary_that_float16_has_not() -> None:
    model = plain_model(torch.float32)
    model.text.shared.weight.data[7, 1] = 1 / 3
    expected = said(model)
    pack(model)
    assert model.text.shared.halves is None
    assert model.text.head is None
    for found, right in zip(said(model), expected, strict=True):
        assert_close(found, right, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", [Blocked, Halves])
@pytest.mark.parametrize("rows", [(1,), (2,), (3,), (1, 1), (2, 5)])
def test_a_product(kind: type[Packed], rows: tuple[int, ...]) -> None:
    """Exact: no input is rounded; twin: the bias counts."""
    x, weight, bias = torch.randn(*rows, 40), torch.randn(24, 40).half().float(), torch.randn(24)
    made = kind(weight, bias)
    assert_close(made(x), F.linear(x, weight, bias), atol=1e-5, rtol=1e-5)
    assert_close(made(x, gelu=True), F.gelu(F.linear(x, weight, bias)), atol=1e-5, rtol=1e-5)
    assert_close(kind(weight, None)(x), F.linear(x, weight), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(made(x), F.linear(x, weight), atol=1e-3)
    assert torch.equal(made.plain(), weight)
    for again in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert torch.equal(again(x), made(x))


def test_float16_that_does_not_reach() -> None:
    assert Halves.fits(torch.tensor([[1.0, 6e-8]]).half().float())
    for number in (1e5, 1e-9, 1 / 3):
        assert not Halves.fits(torch.tensor([[1.0, number]]))
    assert Halves.fits(torch.tensor([[1.0, 1e-5]]).bfloat16().half().bfloat16())
    assert not Halves.fits(torch.tensor([[1.0, 1e-9]]).bfloat16())


@pytest.mark.parametrize("halves", [True, False])
def test_a_step_takes_fewer_products(halves: bool) -> None:
    """Six per layer and the vocabulary, where it was eight: counted at the operators."""

    def products(model: Florence2Model) -> int:
        with torch.inference_mode():
            memory = model.encode(None, torch.randint(4, 1000, (1, 7)))
            cache = model.new_cache(1, 4)
            with Operations() as seen:
                model.decode(torch.tensor([[5]]), memory, cache)
        return seen.count["_linear_pointwise"] + seen.count["linear_dynamic_fp16"]

    layers = len(tiny_model().text.decoder.layers)
    assert products(plain_model(torch.float32, halves)) == 8 * layers + 1
    assert products(pack(plain_model(torch.float32, halves))) == 6 * layers + 1


def test_the_vocabulary_of_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tall matrix as the first factor; twin: the bias counts."""
    monkeypatch.setattr(door, "TALL", 50)
    weight, bias = torch.randn(60, 8), torch.randn(60)
    for rows in ((1,), (2,), (5,), (1, 1), (3, 2), (6,)):
        x = torch.randn(*rows, 8)
        with torch.no_grad():
            made = door.linear(x, weight, bias)
        assert made.shape == (*rows, 60)
        assert_close(made, x @ weight.T + bias, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(made, x @ weight.T, atol=1e-3)


@pytest.mark.parametrize("dtype", ["float32", HALF])
def test_a_file_is_packed_as_it_is_read(dtype: str | torch.dtype, tmp_path: Path) -> None:
    kept = checkpoints.load(device="cpu", dtype="float32")
    kept.model.text.decoder.layers[0].ffn.fc1.weight.data[0, 0] = 1 / 3
    folder = checkpoints.save(kept, tmp_path / "it", layout="microsoft")
    plain = checkpoints.load(folder, device="cpu", dtype=dtype)
    packed = checkpoints.load(folder, device="cpu", dtype=dtype, packed=True)
    assert packing.is_packed(packed.model)
    assert not packing.is_packed(plain.model)
    assert (packed.dtype, packed.device) == (plain.dtype, plain.device)
    after = packing.unpack(packed.model).state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in plain.model.state_dict().items())


def test_what_does_not_fit_is_read_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On a processor with no other kind, a layer that float16 does not hold is a plain one, and no view of a file."""
    monkeypatch.setattr(door, "_fewest_rows", lambda: math.inf)
    kept = checkpoints.load(device="cpu", dtype="float32")
    kept.model.text.decoder.layers[0].ffn.fc1.weight.data[0, 0] = 1 / 3
    kept.model.text.decoder.layers[1].self_attention.v.weight.data[0, 0] = 1 / 3
    folder = checkpoints.save(kept, tmp_path / "it", dtype="float32")
    packed = checkpoints.load(folder, device="cpu", dtype="float32", packed=True).model
    assert packed.text.decoder.layers[0].ffn.fc1.packed is None
    assert packed.text.decoder.layers[1].self_attention.joined is None
    (folder / "model.safetensors").write_bytes(b"\0" * (folder / "model.safetensors").stat().st_size)
    after = packing.unpack(packed).state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in kept.model.state_dict().items())


def test_a_broken_weight_is_named(tmp_path: Path) -> None:
    folder = checkpoints.save(checkpoints.load(device="cpu", dtype="float32"), tmp_path / "it")
    tensors = load_file(folder / "model.safetensors")
    tensors["text.decoder.layers.1.self_attention.k.weight"][3, 5] = math.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for packed in (False, True):
        with pytest.raises(CheckpointError, match=r"layers\.1\.self_attention\.k\.weight holds 1 values"):
            checkpoints.load(folder, device="cpu", packed=packed)


def test_who_asks_for_the_module_gets_plain_weights() -> None:
    model = Florence2.from_pretrained(device="cpu", dtype="float32")
    assert packing.is_packed(model.engine.module)
    says, carries = repr(model), model.adapters
    with model.engine.plain() as module:
        assert not packing.is_packed(module)
        assert not any(parameter.is_meta for parameter in module.parameters())
    assert packing.is_packed(model.engine.module)
    assert not packing.is_packed(model.model)
    with model.engine.plain():
        pass
    assert not packing.is_packed(model.engine.module)
    assert (says, carries) == (repr(model), model.adapters)
    model.warmup(batch_size=1)
    assert packing.is_packed(model.engine.module)


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_a_copy_is_packed_too(dtype: torch.dtype) -> None:
    model = pack(plain_model(dtype))
    twin = copy.deepcopy(model)
    for found, right in zip(said(twin), said(model), strict=True):
        assert torch.equal(found, right)
    packing.unpack(model)
    assert packing.is_packed(twin)


def test_float16_and_gpus_are_left_alone() -> None:
    assert packing.exact(CPU, torch.float16) is None
    assert packing.exact(torch.device("cuda"), torch.float32) is None
    assert door.packs_weights(CPU, torch.float32)
    with torch.backends.mkldnn.flags(enabled=False):
        assert not door.packs_weights(CPU, torch.float32)


def test_whatever_engine_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch has one setting of who packs; it neither disturbs nor is changed."""
    there = [name for name in ("onednn", "qnnpack") if name in torch.backends.quantized.supported_engines]
    for engine in there:
        monkeypatch.setattr(torch.backends.quantized, "engine", engine)
        model = pack(plain_model(torch.float32))
        said(model)  # packs the locations when they are first asked for
        assert torch.backends.quantized.engine == engine
        assert packing.bytes_per_weight(model) == 2
    assert there
