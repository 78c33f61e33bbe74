"""Times are taken of the right work, in turn, and told without being judged: no test here compares two times."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from florence2 import Florence2
from florence2.cli import app
from florence2.config import BASE, NANO
from florence2.model import Florence2Model
from florence2.speed import cold, limits, stages, tables
from florence2.speed.files import file_type
from florence2.speed.limits import Limits
from florence2.speed.random_weights import vocabulary
from florence2.speed.timing import Measured, Stage, take_turns

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> Florence2:
    return Florence2.from_pretrained()


def test_sides_take_turns_and_the_first_round_does_not_count() -> None:
    said: list[str] = []
    sides = {side: [Stage("one", lambda side=side: said.append(side), 4)] for side in "ab"}
    sides["a"].append(Stage("two", lambda: said.append("alone")))
    found = list(take_turns(sides, 3, CPU))
    assert said == ["a", "b"] * 4 + ["alone"] * 4
    assert [(m.name, {side: len(s) for side, s in m.seconds.items()}) for m in found] == [
        ("one", {"a": 3, "b": 3}),
        ("two", {"a": 3}),
    ]
    assert found[1].median("b") is None


def test_every_stage_runs_and_writes_the_tokens_that_it_is_divided_by(
    model: Florence2, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    decode = Florence2Model.decode

    def counted(self: Florence2Model, ids: Any, *others: Any) -> Any:
        steps.append(ids.shape[0])
        return decode(self, ids, *others)

    monkeypatch.setattr(Florence2Model, "decode", counted)
    work = stages.Work(tokens=9, detection=12, batches=(2,))
    for stage in stages.ours(model, work):
        steps.clear()
        with torch.inference_mode():
            stage.call()
        if stage.name in (stages.GREEDY, stages.BEAMS):
            assert len(steps) == stage.units == work.tokens
            assert set(steps) == {1 if stage.name == stages.GREEDY else 3}
        elif stage.name in (stages.PREPROCESSING, stages.IMAGE, stages.PROMPT):
            assert not steps
        else:
            assert steps


def test_photos_of_a_batch_are_encoded_each(model: Florence2, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    encode = Florence2Model.encode_image
    monkeypatch.setattr(
        Florence2Model, "encode_image", lambda self, pixels: (seen.append(len(pixels)), encode(self, pixels))[1]
    )
    (stage,) = stages.ours(model, stages.Work(tokens=4, batches=(3,)), [stages.together(3)])
    seen.clear()
    with torch.inference_mode():
        stage.call()
    assert sum(seen) == 3


def test_operations_are_those_of_the_published_sizes() -> None:
    """BASE at 768 px is 190 G multiply-adds; a step reads the decoder once."""
    assert limits.image_operations(BASE) == pytest.approx(380e9, rel=0.01)
    with torch.device("meta"):
        decoder = Florence2Model(NANO).text.decoder
    weights = sum(p.numel() for name, p in decoder.named_parameters() if p.ndim == 2 and "positions" not in name)
    cross = NANO.text.decoder_layers * 2 * NANO.text.d_model**2  # keys and values of the image, made once per photo
    vocabulary = NANO.text.vocab_size * NANO.text.d_model
    keys = NANO.text.decoder_layers * 2 * (50 + 12) * NANO.text.d_model
    assert limits.step_weights(NANO) == weights - cross + vocabulary
    assert limits.step_keys(NANO, 12) == keys


def test_floors_have_the_names_of_stages() -> None:
    found = Limits(operations=1e11, bytes=1e10).floors(NANO, 12, torch.float32)
    assert set(found) <= {*stages.PARTS, *stages.CALLS}
    assert found[stages.FIRST] == pytest.approx(sum(found[n] for n in (stages.IMAGE, stages.PROMPT, stages.GREEDY)))
    assert found[stages.GREEDY] == 2 * Limits(1e11, 2e10).step(NANO, 12, torch.float32)
    halves = Limits(1e11, 1e10).step(NANO, 12, torch.float32, width=2)  # the keys stay as they are
    assert 0.5 * found[stages.GREEDY] < halves < found[stages.GREEDY]


def test_limits_are_those_of_the_same_rounds() -> None:
    seconds = {"ours": (1.0,), "multiply": (4.0, 0.1, 2.0), "read": (0.5, 0.5, 9.0)}
    found = Limits.beside(Measured("caption", seconds))
    assert found == Limits(limits.OPERATIONS / 2, limits.LARGE / 0.5)
    assert Limits.middle([found, Limits(0, 3), Limits(1e20, 2)]) == Limits(found.operations, 3)


def test_a_table_tells_ratio_and_share() -> None:
    measured = Measured("image encoder", {"ours": (0.2, 0.1, 0.3), "transformers": (0.5, 0.4, 0.6)})
    one = tables.row(measured, {"image encoder": 0.05})
    assert (one.ours, one.peer, one.floor) == pytest.approx((200, 500, 50))
    assert (one.ratio, one.share) == pytest.approx((2.5, 0.25))
    assert tables.cells(one) == ("image encoder", "200 ms", "500 ms", "50 ms", "2.50", "25%")
    alone = tables.row(Measured("caption", {"ours": (0.001,)}), {})
    assert "transformers" not in tables.plain([alone])
    assert tables.markdown([one, alone]).count("\n") == 4
    runs = {"ours": [cold.Cold(1, 2, 3, 2**20), cold.Cold(1, 2, 4, 2**20), cold.Cold(1, 2, 5, 2**22)]}
    first, *_, memory = tables.cold_rows(runs)
    assert (first.ours, first.unit, memory.ours, memory.unit) == (7, "s", 1, "MB")


@pytest.mark.slow
def test_a_fresh_process_answers(tmp_path: Path, model: Florence2) -> None:
    from florence2 import checkpoints

    engine = model.engine
    checkpoints.save(checkpoints.Checkpoint(engine.model, engine.tokenizer, engine.config), tmp_path / "saved")
    found = cold.start("ours", tmp_path / "saved", "cpu", "float32")
    assert min(found.imported, found.loaded, found.answered) > 0
    assert found.peak > 50 * 2**20
    with pytest.raises(Exception, match="the fresh process of ours failed"):
        cold.start("ours", tmp_path / "nothing", "cpu", "float32")


def test_a_vocabulary_of_a_true_size_is_built_as_the_published_one_is() -> None:
    """Twin: a smaller one has the first of its words under the same ids, and its marks elsewhere."""
    true, small = vocabulary(51289), vocabulary(9000)
    assert (true.vocab_size, true.first_location_id, true.eos_id) == (51289, 50269, 2)
    assert (small.vocab_size, small.first_location_id) == (9000, 7980)
    text = "what does the image describe?"
    assert true.decode(true.encode(text)) == small.decode(small.encode(text)) == text
    assert true.encode(text) == small.encode(text)
    assert true.encode("zzz") != small.encode("zzz")


def test_the_command(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["bench", "-s", "token", "--rounds", "1", "-o", str(tmp_path / "made" / "nano")])
    assert done.exit_code == 0, done.output
    assert "token, 3 beams" in done.output
    document = json.loads((tmp_path / "made" / "nano.json").read_text())
    assert [row["name"] for row in document["rows"]] == ["token, greedy", "token, 3 beams"]
    assert document["limits"]["operations"] > 0
    assert "| token, greedy |" in (tmp_path / "made" / "nano.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-s", "tea"], "no stage begins with 'tea'"),
        (["--rounds", "0"], "at least one round"),
        (["--random", "tiny"], "nano, base, large"),
    ],
)
def test_mistakes_are_explained(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["bench", *arguments])
    assert done.exit_code == 2
    assert said in done.output


def test_the_file_is_as_narrow_as_the_weights_allow() -> None:
    layer = torch.nn.Linear(3, 4)
    assert file_type(layer) == "float32"
    assert file_type(layer.half().float()) == "float16"
    assert file_type(layer.bfloat16()) == "bfloat16"
