"""Two runs side by side: figures, how sure their differences are, what moved; and what cannot be compared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from florence2.data import Question, Record, write
from florence2.errors import DataError, Florence2Error
from florence2.evaluation import bootstrap, compare, runner
from florence2.evaluation.benchmarks import find
from florence2.evaluation.compare import Compared
from florence2.evaluation.samples import Sample
from florence2.language import tasks
from florence2.results import Answer
from tests.training.small import records

NAMES = ("packs/caption", "packs/detection", "packs/questions")
COUNT = 8


class Knows:
    """Right, but about some photos, of which it says nothing."""

    def __init__(self, name: str, wrong: Collection[int] = (), fails: Collection[int] = ()) -> None:
        self.name = name
        self.wrong = {f"photo{n}" for n in wrong}
        self.fails = {f"photo{n}" for n in fails}

    def describe(self) -> dict[str, object]:
        return {"name": self.name}

    def answer(self, samples: Sequence[Sample], photos: Sequence[Image.Image]) -> list[Answer | Florence2Error]:
        return [self._answer(sample, photo) for sample, photo in zip(samples, photos, strict=True)]

    def _answer(self, sample: Sample, photo: Image.Image) -> Answer | Florence2Error:
        if sample.photo in self.fails:
            return DataError("cannot say")
        if sample.photo in self.wrong:
            return tasks.get(sample.task).result(task=sample.task, width=photo.width, height=photo.height)
        return sample.truth[0]


class Dies(Knows):
    def answer(self, samples: Sequence[Sample], photos: Sequence[Image.Image]) -> list[Answer | Florence2Error]:
        if any(sample.photo == "photo5" for sample in samples):
            raise KeyboardInterrupt
        return super().answer(samples, photos)


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "DRAWS", 50)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    return records(tmp_path_factory.mktemp("pictures"), COUNT)


@pytest.fixture
def data(tmp_path: Path, made: list[Record]) -> Path:
    write(made, tmp_path / "data", "packs")
    return tmp_path / "data"


def run(folder: Path, answerer: Knows, data: Path, names: Sequence[str] = NAMES, limit: int | None = None) -> Path:
    plan = runner.Plan(benchmarks=tuple(b for name in names for b in find(name)), data=data, limit=limit)
    runner.run(plan, answerer, folder)
    return folder


def compared(first: Path, second: Path, data: Path | None = None) -> dict[str, Compared]:
    return {c.benchmark.name: c for c in compare.compare(first, second, find, data)}


def test_figures_differences_and_what_moved(tmp_path: Path, data: Path) -> None:
    first = run(tmp_path / "first", Knows("first", wrong=(0, 1, 2)), data)
    second = run(tmp_path / "second", Knows("second", wrong=(2, 3)), data)
    found = compared(first, second)
    assert tuple(found) == NAMES
    questions = found["packs/questions"]
    assert (questions.samples, questions.photos, questions.counts) == (COUNT, COUNT, (2, 5, 1))
    assert questions.figures["EM"] == (5 / 8, 6 / 8)
    difference = questions.differences["EM"]
    assert difference.value == 1 / 8
    assert difference.interval[0] < 0 < difference.value < difference.interval[1]
    assert 0.2 < difference.p < 1
    assert [(m.id, m.before, m.after, m.said) for m in questions.better] == [
        ("photo0#question0", 0, 1, ("", "0")),
        ("photo1#question0", 0, 1, ("", "1")),
    ]
    assert [(m.id, m.before, m.after, m.said) for m in questions.worse] == [("photo3#question0", 1, 0, ("3", ""))]
    detection = found["packs/detection"]
    assert detection.figures["AR100"] == (5 / 8, 6 / 8)
    assert detection.counts == (2, 5, 1)
    assert detection.differences.keys() == {"AP", "AP50", "AP75"}
    assert "dog 1.00 at" in detection.better[0].said[1]
    assert found["packs/caption"].figures["CIDEr"][0] < found["packs/caption"].figures["CIDEr"][1]


def test_the_other_way_round_better_is_worse(tmp_path: Path, data: Path) -> None:
    first = run(tmp_path / "first", Knows("first", wrong=(0, 1, 2)), data)
    second = run(tmp_path / "second", Knows("second", wrong=(2, 3)), data)
    for here, there in zip(compared(first, second).values(), compared(second, first).values(), strict=True):
        assert here.counts == there.counts[::-1]
        assert [m.id for m in here.better] == [m.id for m in there.worse]
        assert {name: pair[::-1] for name, pair in here.figures.items()} == there.figures
        for name, difference in here.differences.items():
            assert difference.value == pytest.approx(-there.differences[name].value)
            assert difference.p == there.differences[name].p


def test_a_model_beside_itself_does_not_differ(tmp_path: Path, data: Path) -> None:
    first = run(tmp_path / "first", Knows("same", wrong=(1,)), data)
    second = run(tmp_path / "second", Knows("same", wrong=(1,)), data)
    for c in compared(first, second).values():
        assert (c.better, c.worse, c.counts) == ((), (), (0, COUNT, 0))
        assert all((d.value, d.p, d.interval) == (0, 1, (0, 0)) for d in c.differences.values())


def test_only_those_that_moved_most_are_shown(tmp_path: Path, data: Path) -> None:
    first = run(tmp_path / "first", Knows("first", wrong=range(COUNT)), data)
    second = run(tmp_path / "second", Knows("second"), data)
    questions = compared(first, second)["packs/questions"]
    assert questions.counts == (COUNT, 0, 0)
    assert [m.id for m in questions.better] == [f"photo{n}#question0" for n in range(compare.SHOWN)]
    assert questions.differences["EM"].interval == (1, 1)
    assert questions.differences["EM"].p < 0.05


def test_what_could_not_be_answered_counts_as_nothing_said(tmp_path: Path, data: Path) -> None:
    first = run(tmp_path / "first", Knows("first", fails=(4,)), data)
    second = run(tmp_path / "second", Knows("second", wrong=(4,)), data)
    for c in compared(first, second).values():
        assert c.counts == (0, COUNT, 0)
        assert all(before == after for before, after in c.figures.values())


def test_it_is_written_as_json(tmp_path: Path, data: Path) -> None:
    first = run(tmp_path / "first", Knows("first", wrong=(0,)), data)
    second = run(tmp_path / "second", Knows("second"), data)
    written = json.dumps({name: c.to_dict() for name, c in compared(first, second).items()}, allow_nan=False)
    documents = json.loads(written)
    questions = documents["packs/questions"]
    assert [questions[key] for key in ("title", "samples", "photos", "better", "equal", "worse")] == [
        "Questions of people", COUNT, COUNT, 1, COUNT - 1, 0,
    ]  # fmt: skip
    em = questions["figures"]["EM"]
    assert (em["first"], em["second"], em["difference"]) == (7 / 8, 1, 1 / 8)
    assert em["interval"][0] <= em["difference"] <= em["interval"][1]
    assert "difference" not in documents["packs/detection"]["figures"]["AR100"]  # of which there is no statistic
    assert questions["most_improved"][0]["id"] == "photo0#question0"


def test_benchmarks_that_only_one_has_are_left_out(tmp_path: Path, data: Path) -> None:
    first = run(tmp_path / "first", Knows("first"), data, NAMES[:2])
    second = run(tmp_path / "second", Knows("second"), data, NAMES[1:])
    assert list(compared(first, second)) == ["packs/detection"]
    third = run(tmp_path / "third", Knows("third"), data, NAMES[2:])
    words = (
        r"first has packs/caption, packs/detection and .*third has packs/questions; they have no benchmark in common"
    )
    with pytest.raises(DataError, match=words):
        compared(first, third)


def test_limits_must_be_equal(tmp_path: Path, data: Path) -> None:
    first = run(tmp_path / "first", Knows("first", wrong=(1,)), data, limit=5)
    with pytest.raises(DataError, match=r"first was limited to 5 samples and .*second to None; the same must be asked"):
        compared(first, run(tmp_path / "second", Knows("second"), data))
    third = run(tmp_path / "third", Knows("third"), data, limit=5)
    assert compared(first, third)["packs/caption"].samples == 5


def test_a_run_that_was_not_finished_is_refused(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "CHUNK", 2)
    first = run(tmp_path / "first", Knows("first"), data)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "second", Dies("second"), data)
    for pair in ((first, tmp_path / "second"), (tmp_path / "second", first)):
        with pytest.raises(DataError, match=r"second.answers.packs-caption.jsonl has 2 of 4 chunks of answers"):
            compared(*pair)
    run(tmp_path / "second", Knows("second"), data)  # the rest is asked
    assert compared(first, tmp_path / "second")["packs/caption"].counts == (0, COUNT, 0)


def test_folders_that_hold_no_run(tmp_path: Path, data: Path) -> None:
    first = run(tmp_path / "first", Knows("first"), data)
    with pytest.raises(DataError, match=r"nothing holds no run of florence2 evaluate"):
        compared(first, tmp_path / "nothing")
    with pytest.raises(DataError, match=r"data holds no run"):
        compared(data, first)


def test_data_that_was_moved_is_named(tmp_path: Path, data: Path) -> None:
    first = run(tmp_path / "first", Knows("first", wrong=(1,)), data)
    second = run(tmp_path / "second", Knows("second"), data)
    before = compared(first, second)
    shutil.move(data, tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"data does not exist"):
        compared(first, second)
    assert compared(first, second, tmp_path / "elsewhere")["packs/questions"].to_dict() == (
        before["packs/questions"].to_dict()
    )


def changed(record: Record) -> Record:
    return replace(record, qa=(Question(question="how many dogs?", answers=("many",)),))


def test_data_that_has_changed_is_noticed(tmp_path: Path, data: Path, made: list[Record]) -> None:
    first = run(tmp_path / "first", Knows("first"), data)
    second = run(tmp_path / "second", Knows("second"), data)
    write([changed(made[0]), *made[1:]], tmp_path / "changed", "packs")
    with pytest.raises(DataError, match=r"packs-questions.jsonl:1 answers other questions .* the data has changed"):
        compared(first, second, tmp_path / "changed")
    write(made[1:], tmp_path / "fewer", "packs")
    with pytest.raises(DataError, match=r"packs-caption.jsonl:1 answers other questions"):
        compared(first, second, tmp_path / "fewer")


def test_runs_on_other_truths_are_not_compared(tmp_path: Path, data: Path, made: list[Record]) -> None:
    """The same ids, each run with the data that it was made with; but what is right differs."""
    first = run(tmp_path / "first", Knows("first"), data)
    write([*made[:-1], changed(made[-1])], tmp_path / "changed", "packs")
    second = run(tmp_path / "second", Knows("second"), tmp_path / "changed")
    with pytest.raises(DataError, match=r"asked different questions of packs/questions; run one of them again"):
        compared(first, second)
    write(made, tmp_path / "copy", "packs")  # the twin: another folder with the same
    third = run(tmp_path / "third", Knows("third"), tmp_path / "copy")
    assert compared(first, third)["packs/questions"].counts == (0, COUNT, 0)


def test_runs_on_other_photos_are_not_compared(tmp_path: Path, data: Path, made: list[Record]) -> None:
    first = run(tmp_path / "first", Knows("first"), data)
    write(made[2:], tmp_path / "fewer", "packs")
    second = run(tmp_path / "second", Knows("second"), tmp_path / "fewer")
    with pytest.raises(DataError, match=r"asked different questions of packs/caption"):
        compared(first, second)
