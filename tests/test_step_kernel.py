"""A step of one row as one kernel: the answers of the model, from weights in whatever form it holds them.

The compiler stands still (its backend "eager") where it is not said otherwise: what is traced is the same.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from florence2 import Florence2
from florence2.compiled import CompiledModel, StepKernel, kernel, no_coincidences
from florence2.compiled.kernel import gather, product, vocabulary
from florence2.errors import ConfigError
from florence2.model import Florence2Model, int8, packing
from florence2.model.packed import Blocked, Halves, Matrix, Packed, quantized_engine
from florence2.model.rounded import Rounded
from tests.test_compiled import answers, differ
from tests.tiny_checkpoint import picture, tiny_checkpoint

IDS = torch.tensor([[5, 6, 7]])
FORCED, NEXT = torch.tensor([[2, 0]]), ([[9]], [[300]], [[41]])


def halves(model: Florence2Model) -> Florence2Model:
    """With weights that float16 holds exactly, as published ones are."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half())
    return model


@pytest.fixture
def net() -> Iterator[Florence2Model]:
    torch._dynamo.reset()
    yield halves(copy.deepcopy(packing.unpack(tiny_checkpoint().model)))
    torch._dynamo.reset()


def logits(model: Florence2Model | StepKernel, words: slice | None = None) -> Tensor:
    """Behind the forced tokens, of three more; (3, V) or of some words."""
    with torch.inference_mode(), no_coincidences():
        memory, cache = model.encode(None, IDS), model.new_cache(1, 5)
        model.decode(FORCED, memory, cache)
        return torch.cat([model.decode(torch.tensor(ids), memory, cache, words)[0] for ids in NEXT]).float()


def largest_difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


# Steps


def test_a_step_is_that_of_the_model(net: Florence2Model) -> None:
    ours = StepKernel(net, "eager")
    assert largest_difference(logits(ours), logits(net)) < 1e-5
    assert largest_difference(logits(ours, slice(300, 400)), logits(net)[:, 300:400]) < 1e-5


def test_an_answer_without_end_is_refused_as_by_the_model(net: Florence2Model) -> None:
    ours = StepKernel(net, "eager")
    room = net.config.text.max_positions
    with torch.inference_mode(), no_coincidences():
        memory, cache = ours.encode(None, IDS), ours.new_cache(1, room + 1)
        ours.decode(torch.full((1, room - 1), 9), memory, cache)
        ours.decode(torch.tensor(NEXT[0]), memory, cache)
        with pytest.raises(ConfigError, match=f"{room + 1} tokens long, the position table ends at {room}"):
            ours.decode(torch.tensor(NEXT[1]), memory, cache)


@pytest.mark.parametrize("kind", [Halves, Blocked])
def test_of_packed_weights_too(net: Florence2Model, kind: type[Packed]) -> None:
    expected = logits(net)
    with quantized_engine("fbgemm"):
        packing.pack(net, lambda name, shape: (kind,))
    found = logits(StepKernel(net, "eager"))
    assert largest_difference(found, expected) < 1e-5


def test_of_bfloat16(net: Florence2Model) -> None:
    """As near to float32 as the model's own steps, whose inputs and results are rounded as well."""
    net.to(torch.bfloat16)
    exact = logits(copy.deepcopy(net).to(torch.float32))
    own, ours = logits(net), logits(StepKernel(net, "eager"))
    assert largest_difference(ours, exact) <= largest_difference(own, exact) < 0.05


def test_of_8_bits(net: Florence2Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are those of the rounded products; inputs are not rounded, so it comes nearer to exact answers."""
    exact = logits(net)
    monkeypatch.setattr(int8, "SMALLEST", 16)
    int8.quantize(net)
    ours = StepKernel(net, "eager")
    assert ours.stack.fc1.weight.dtype == ours.words.weight.dtype == torch.int8
    assert largest_difference(logits(ours), exact) < largest_difference(logits(net), exact) < 0.1


@pytest.mark.parametrize("fault", ["position", "itself", "norm"])
def test_a_wrong_step_is_noticed(net: Florence2Model, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted faults: positions off by one, a token that does not see itself, a norm that is off by a hundredth."""

    attend = kernel._attend

    def forgetful(q: Tensor, k: Tensor, v: Tensor, own: Any = None) -> Tensor:
        return attend(q, k, v)

    ours = StepKernel(net, "eager")
    if fault == "position":
        monkeypatch.setattr(kernel, "FIRST_POSITION", 1)
    elif fault == "itself":
        monkeypatch.setattr(kernel, "_attend", forgetful)
    else:
        ours.stack = ours.stack._replace(self_norm=ours.stack.self_norm * 1.01)
    assert largest_difference(logits(ours), logits(net)) > 1e-3


def test_a_product_reads_rounded_rows() -> None:
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(64, 48), torch.randn(64)
    weight, scales, bias = Rounded(layer.weight.detach(), layer.bias.detach()).rows()
    assert weight.dtype == torch.int8
    assert scales is not None
    assert bias is not None
    exact = torch.mv(weight.double() * scales.double()[:, None], x.double()) + bias.double()
    torch.testing.assert_close(product(x, Matrix(weight, scales, bias)).double(), exact, atol=1e-5, rtol=1e-5)
    assert float((weight * scales[:, None] - layer.weight.detach()).abs().max()) <= float(scales.max()) * 0.51


# Weights


def test_weights_are_kept_in_two_bytes_where_that_is_exact(net: Florence2Model) -> None:
    plain = gather(net.text.decoder)
    assert plain.fc1.weight.dtype == torch.float16
    with quantized_engine("fbgemm"):
        packing.pack(net, lambda name, shape: (Halves,))
    for one, other in zip(plain, gather(net.text.decoder), strict=True):
        for mine, theirs in zip(one, other, strict=True):
            assert (mine is None) == (theirs is None)
            assert mine is None or torch.equal(mine, theirs)


def test_a_layer_that_is_not_exact_so_keeps_all_of_them_whole(net: Florence2Model) -> None:
    with torch.no_grad():
        net.text.decoder.layers[1].ffn.fc1.weight[0, 0] = 1 + 2**-20  # type: ignore[union-attr, operator, index]
    stack = gather(net.text.decoder)
    assert stack.fc1.weight.dtype == torch.float32
    assert float(stack.fc1.weight[1, 0, 0]) == 1 + 2**-20
    assert stack.fc2.weight.dtype == torch.float16


def test_words_are_read_where_they_lie(net: Florence2Model) -> None:
    with quantized_engine("fbgemm"):
        packing.pack(net, lambda name, shape: (Halves,))
    assert net.text.shared.halves is not None
    assert vocabulary(net.text).weight.data_ptr() == net.text.shared.halves.data_ptr()


def test_adapters_are_refused(net: Florence2Model) -> None:
    net.text.decoder.layers[0].ffn.fc1 = torch.nn.Sequential(torch.nn.Identity())  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="found Sequential; merge the adapters first"):
        StepKernel(net)


# Whole answers


def fresh() -> Florence2:
    return Florence2(copy.deepcopy(tiny_checkpoint()))


@pytest.fixture(scope="module")
def compiled() -> Iterator[Florence2]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = fresh()
    model.engine.compile("eager")
    with no_coincidences():
        model.detect(picture())
    yield model
    torch._dynamo.reset()


@pytest.mark.slow
def test_answers_are_those_of_the_model_and_nothing_more_is_compiled(compiled: Florence2) -> None:
    """Beams, batches and guesses ahead are the model's own; the kernel writes lists, of all lengths."""
    plain = fresh()
    assert isinstance(compiled.engine.runtime, StepKernel)
    with torch.compiler.set_stance("fail_on_recompile"):
        ours = [
            *answers(compiled),
            *(compiled.detect(picture(i), max_new_tokens=3 + 5 * i, raw=True) for i in range(5)),
        ]
    theirs = [*answers(plain), *(plain.detect(picture(i), max_new_tokens=3 + 5 * i, raw=True) for i in range(5))]
    assert differ(ours, theirs) == []
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2  # the step, and the projection to words


def test_the_module_is_given_back(compiled: Florence2) -> None:
    """Who takes it may change it: the compiled step is given up. To look at it for a moment leaves it."""
    model = fresh()
    model.engine.compile("eager")
    kernels = model.engine.runtime
    with model.engine.plain() as module:
        assert not packing.is_packed(module)
    assert model.engine.runtime is kernels
    assert model.engine.compiled
    assert model.model is model.engine.runtime
    assert not model.engine.compiled


def test_with_adapters_the_whole_model_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    from florence2 import engine

    model = fresh()
    monkeypatch.setattr(engine.adapters, "adapter_names", lambda module: ("it",))
    model.engine.compile("eager")
    assert isinstance(model.engine.runtime, CompiledModel)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_real_kernels() -> None:
    """Written by the compiler: the same lists, and a tenth of the calls from Python."""
    torch._dynamo.reset()
    plain, model = fresh(), fresh()
    model.warmup(compile=True, batch_size=1)
    with torch.compiler.set_stance("fail_on_recompile"):
        ours = [model.detect(picture(i), max_new_tokens=6 * i, raw=True) for i in (1, 2, 3)]
    assert differ(ours, [plain.detect(picture(i), max_new_tokens=6 * i, raw=True) for i in (1, 2, 3)]) == []
    assert calls_of_a_step(model) * 5 < calls_of_a_step(plain)


def calls_of_a_step(model: Florence2) -> int:
    """Operators of PyTorch that one step of one row calls."""
    runtime: Any = model.engine.runtime
    with torch.inference_mode():
        memory, cache = runtime.encode(None, IDS), runtime.new_cache(1, 6)
        runtime.decode(FORCED, memory, cache)
        runtime.decode(torch.tensor(NEXT[0]), memory, cache)
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            runtime.decode(torch.tensor(NEXT[1]), memory, cache)
    return sum(event.name.startswith(("aten::", "quantized::", "mkldnn::")) for event in seen.events() or ())
