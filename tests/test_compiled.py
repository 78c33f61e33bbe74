"""The compiled model answers as the model does, and compiles nothing more once it is warm.

The compiler stands still here (its backend "eager"): what is traced, guarded and traced again is the same. CUDA graphs
are stood for by ones that repeat the step on the same tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from florence2 import Florence2
from florence2.compiled import CompiledModel
from florence2.compiled import model as whole
from florence2.compiled.model import StepCache, Store
from florence2.engine import Engine
from florence2.errors import ConfigError, Florence2Error, TaskError
from tests.tiny_checkpoint import picture, tiny_checkpoint

TEXT = "a man holding a red guitar"


class Repeated:
    """A graph for the CPU: the step again, on the tensors that it was recorded with."""

    recorded = 0

    def __init__(self, run: Callable[[], Tensor], device: torch.device) -> None:
        Repeated.recorded += 1
        self.replay = run


@pytest.fixture(scope="module")
def plain() -> Florence2:
    return Florence2(tiny_checkpoint())


def warm(graphs: Any = None, backend: str = "eager") -> Florence2:
    """A model behind a compiler that has forgotten all others."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = Florence2(tiny_checkpoint())
    model.engine.runtime = CompiledModel(model.model, backend, graphs)
    model.warmup(batch_size=5)
    return model


@pytest.fixture(scope="module", params=[None, Repeated], ids=["steps", "graphs"])
def model(request: pytest.FixtureRequest) -> Iterator[Florence2]:
    yield warm(request.param)
    torch._dynamo.reset()


def answers(model: Florence2) -> list[Any]:
    """Captions with 3 beams, lists in the grammar, guesses ahead, closed labels, and batches of unequal prompts."""
    mixed = [("caption",), ("od",), ("ground", TEXT), ("ground", "a dog"), ("caption",), ("describe", (5, 5, 50, 50))]
    return [
        model.caption(picture(1), raw=True),
        model.detect(picture(2), raw=True),
        model.read(picture(3), regions=True, raw=True),
        model.ground(picture(3), TEXT, num_beams=1, raw=True),
        model.detect(picture(4), ["car", "dog", "person"], raw=True),
        *model.run_batch([(picture(i), *task) for i, task in enumerate(mixed)], raw=True),
    ]


def differ(ours: list[Any], theirs: list[Any]) -> list[int]:
    """Which answers have other tokens, or log-probabilities that are not equal up to rounding."""
    return [
        i
        for i, (one, other) in enumerate(zip(ours, theirs, strict=True))
        if one.raw.token_ids != other.raw.token_ids or one.raw.logprobs != pytest.approx(other.raw.logprobs, abs=1e-4)
    ]


# Behind one warm-up


@pytest.mark.slow
def test_a_warm_model_has_compiled_six_things(model: Florence2) -> None:
    """The image encoder for one photo and for several; a step for each of these with one beam and with several."""
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] == 6
    assert not counters["graph_break"]


@pytest.mark.slow
def test_answers_are_those_of_the_model_and_nothing_more_is_compiled(model: Florence2, plain: Florence2) -> None:
    """Answers and prompts of all lengths, one photo and several, rows that leave the batch."""

    def more(model: Florence2) -> list[Any]:
        cut = [model.caption(picture(i), max_new_tokens=5 + 4 * i, raw=True) for i in range(5)]
        return [*answers(model), *cut, *model.run_batch([(picture(i), "od") for i in range(7)], batch_size=7, raw=True)]

    with torch.compiler.set_stance("fail_on_recompile"):
        found = more(model)
    assert differ(found, more(plain)) == []
    assert len({len(answer.raw.token_ids) for answer in found}) > 3


@pytest.mark.slow
def test_answers_move_from_room_to_room(model: Florence2, plain: Florence2, monkeypatch: pytest.MonkeyPatch) -> None:
    rooms: set[int] = set()
    monkeypatch.setattr(whole, "ROOMS", (4, 9, 13))
    monkeypatch.setattr(whole, "BLOCK", 16)
    move = StepCache._move

    def watched(self: StepCache, room: int, rows: Tensor | None) -> None:
        rooms.add(room)
        move(self, room, rows)

    monkeypatch.setattr(StepCache, "_move", watched)
    with torch.compiler.set_stance("fail_on_recompile"):
        assert differ(answers(model), answers(plain)) == []
    assert rooms == {4, 9, 13, 160}  # the last one is the position table's


@pytest.mark.slow
def test_a_move_that_loses_a_token_is_noticed(
    model: Florence2, plain: Florence2, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole, "ROOMS", (4, 9, 13))
    move = StepCache._move

    def forgetful(self: StepCache, room: int, rows: Tensor | None) -> None:
        self.length -= self.length > 0
        move(self, room, rows)
        self.length += self.length > 0

    monkeypatch.setattr(StepCache, "_move", forgetful)
    assert differ(answers(model), answers(plain))


@pytest.mark.slow
def test_graphs_are_recorded_once(model: Florence2) -> None:
    answers(model)
    before = Repeated.recorded
    answers(model)
    assert Repeated.recorded == before


# What would be noticed


@pytest.mark.slow
def test_a_mask_that_hides_nothing_is_noticed(plain: Florence2, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted fault: the step sees the places of the cache that nobody has written yet."""
    monkeypatch.setattr(whole, "additive_mask", lambda mask, dtype: mask[:, None, None, :].to(dtype) * 0)
    assert differ(answers(warm()), answers(plain))


@pytest.mark.slow
def test_a_step_with_its_length_as_a_number_is_noticed(plain: Florence2) -> None:
    """The model's own step, compiled: its cache is cut at a Python number, which is another one each time."""
    torch._dynamo.reset()
    net = plain.model
    decode = torch.compile(net.text.decode, backend="eager", dynamic=False)
    with torch.inference_mode():
        memory, cache = net.encode(None, torch.tensor([[5, 6, 7]])), net.new_cache(1, 8)
        for _ in range(2):
            decode(torch.tensor([[4]]), memory, cache)
        with torch.compiler.set_stance("fail_on_recompile"), pytest.raises(RuntimeError, match="recompile"):
            decode(torch.tensor([[4]]), memory, cache)


# Memory that graphs are bound to


def test_tensors_come_back_when_nobody_uses_them() -> None:
    store, like = Store(padded=True), torch.zeros(1)
    first, second = store.lend(2, (4, 2, 8, 3), like), store.lend(2, (4, 2, 8, 3), like)
    assert first.tensors is not second.tensors  # both in use
    known = first.tensors
    del first
    assert store.lend(2, (4, 2, 16, 3), like).tensors is not known  # another shape
    assert store.lend(2, (4, 2, 8, 3), like).tensors is known
    assert [store.rows(n) for n in (1, 2, 3, 5, 8)] == [1, 2, 4, 8, 8]


# Warming up


def test_warming_up_asks_each_kind(plain: Florence2, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: list[tuple[int, int, bool]] = []
    generate = Engine._generate

    def watched(self: Engine, rows: Any, policy: Any, *rest: Any) -> Any:
        kinds.append((len(rows), policy.num_beams, policy.constrained))
        return generate(self, rows, policy, *rest)

    monkeypatch.setattr(Engine, "_generate", watched)
    assert plain.warmup(batch_size=3) is None
    assert kinds == [(1, 3, True), (1, 1, True), (3, 3, True), (3, 1, True)]
    with pytest.raises(TaskError, match="batch_size is at least 1"):
        plain.warmup(batch_size=0)


def test_where_nothing_compiles_the_model_runs_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise OSError("no compiler here")

    torch._dynamo.reset()
    model = Florence2(tiny_checkpoint())
    compile = Engine.compile
    monkeypatch.setattr(Engine, "compile", lambda self: compile(self, broken))
    with pytest.raises(Florence2Error, match=r"no compiler here.*install it, or leave compile=True out"):
        model.warmup(compile=True)
    assert model.caption(picture()).text


def test_int8_is_refused(plain: Florence2, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole.int8, "is_quantized", lambda model: True)
    with pytest.raises(ConfigError, match="leave compile=True out"):
        CompiledModel(plain.model)


def test_the_module_stays_at_hand(plain: Florence2) -> None:
    model = Florence2(tiny_checkpoint())
    module = model.model
    model.engine.runtime = CompiledModel(module, "eager")
    assert model.model is module
    assert model.adapter is None
    model.engine.uncompile()
    assert model.engine.runtime is module
