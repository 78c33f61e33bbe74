"""``florence2 evaluate`` on benchmarks, ``compare`` and ``calibrate``: as commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from florence2 import checkpoints
from florence2.cli import app
from florence2.data import Question, Record, write
from florence2.evaluation import bootstrap
from tests.tiny_checkpoint import picture, tiny_checkpoint


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``packs`` of twelve photos with a caption and two questions each, and a ``model`` of random weights."""
    folder = tmp_path_factory.mktemp("evaluate")
    records = []
    for n in range(12):
        picture(n, (64, 48)).save(folder / f"{n}.png")
        questions = (
            Question(question="is there a dog?", answers=("yes",), origin="rule"),
            Question(question="what is it?", answers=("a dog",), origin="people"),
        )
        image = folder / f"{n}.png"
        records.append(Record(image=image, id=f"p{n}", width=64, height=48, captions=(f"dog {n}",), qa=questions))
    write(records, folder / "packs", "packs")
    checkpoints.save(tiny_checkpoint(), folder / "model")
    return folder


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "DRAWS", 20)


def call(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, result.output


def evaluate(prepared: Path, output: Path, *more: object) -> tuple[int, str]:
    model, data = prepared / "model", prepared / "packs"
    return call("evaluate", "--model", model, "--data", data, "-o", output, "--device", "cpu", *more)


def test_a_model_on_benchmarks(prepared: Path, tmp_path: Path) -> None:
    names = ("-b", "packs/caption", "-b", "packs/questions-templated")
    code, output = evaluate(prepared, tmp_path / "run", *names, "--blind", "--beams", 1)
    assert code == 0, output
    assert "packs/caption" in output
    assert "blind" in output
    assert (tmp_path / "run" / "report.html").stat().st_size > 1000
    document = json.loads((tmp_path / "run" / "report.json").read_text())
    assert set(document["benchmarks"]) == {"packs/caption", "packs/questions-templated"}
    before = (tmp_path / "run" / "report.json").read_bytes()
    page = (tmp_path / "run" / "report.html").read_bytes()
    assert evaluate(prepared, tmp_path / "run", *names, "--blind", "--beams", 1)[0] == 0  # nothing is left to ask
    assert (tmp_path / "run" / "report.json").read_bytes() == before
    assert (tmp_path / "run" / "report.html").read_bytes() == page

    assert evaluate(prepared, tmp_path / "other", *names, "--beams", 2)[0] == 0
    code, output = call("compare", tmp_path / "run", tmp_path / "other")
    assert code == 0, output
    assert "12 samples of 12 photos" in output
    code, output = call("compare", tmp_path / "run", tmp_path / "other", "--json")
    assert json.loads(output)["packs/caption"]["samples"] == 12


def test_a_group_leaves_out_what_the_data_cannot_ask(prepared: Path, tmp_path: Path) -> None:
    code, output = evaluate(prepared, tmp_path / "run", "-b", "packs", "--beams", 1, "--limit", 2)
    assert code == 0, output
    assert "nothing to ask for packs/phrases" in output
    found = set(json.loads((tmp_path / "run" / "report.json").read_text())["benchmarks"])
    assert found == {"packs/caption", "packs/questions", "packs/questions-templated"}
    code, output = evaluate(prepared, tmp_path / "other", "-b", "packs/words")
    assert code == 2
    assert "holds nothing that packs/words could ask" in output


def test_calibrate(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose answers are right by half, whatever it says of itself: its scores become one half."""
    run = tmp_path / "run"
    assert evaluate(prepared, run, "-b", "packs/questions-templated", "--beams", 1)[0] == 0
    code, output = call("calibrate", run, "-o", prepared / "model")
    assert code == 2
    assert "there is no task to calibrate" in output
    path = run / "answers" / "packs-questions-templated.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    answers = [entry["answer"] for line in lines for entry in line["answers"]]
    for number, answer in enumerate(answers):
        answer |= {"text": "yes" if number % 2 else "no", "confidence": 0.9}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr("florence2.evaluation.calibrate.FEWEST", 10)
    monkeypatch.setattr("florence2.evaluation.calibrate.fit.__kwdefaults__", {"fewest": 10, "folds": 2, "notes": None})
    checkpoints.save(tiny_checkpoint(), tmp_path / "model")
    code, output = call("calibrate", run, "-o", tmp_path / "model")
    assert code == 0, output
    assert "<ASK>: 12 judged" in output
    calibration = checkpoints.load(tmp_path / "model").calibration
    assert calibration is not None
    assert calibration.curves["<ASK>"](0.9) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "--benchmark NAME --data FOLDER -o RUN"),
        (("-b", "packs"), "--benchmark NAME --data FOLDER -o RUN"),
        (("--predictions", "a", "--task", "caption"), "--predictions, --truth and --task together"),
        (("-b", "packs", "--predictions", "a", "--truth", "b", "--task", "caption"), "give one or the other"),
        (("-b", "pakcs/caption", "--data", ".", "-o", "out"), "did you mean 'packs/caption'"),
        (("-b", "packs", "--data", ".", "-o", "out", "--peer", "a", "--model", "b"), "--peer takes the place"),
    ],
)
def test_what_does_not_go_together(
    words: tuple[str, ...], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = call("evaluate", *words)
    assert code == 2
    assert expected in " ".join(output.split())


def test_missing_data_is_named(tmp_path: Path) -> None:
    code, output = call("evaluate", "-b", "coco-detection", "--data", tmp_path, "-o", tmp_path / "run")
    assert code == 2
    assert "instances_val2017.json" in output
    assert "val2017" in output


def test_the_list_names_every_benchmark() -> None:
    from florence2.evaluation.benchmarks import BENCHMARKS

    code, output = call("evaluate", "--list")
    assert code == 0
    assert all(f"{name}  " in output for name in BENCHMARKS)


def test_compare_says_what_is_no_run(tmp_path: Path) -> None:
    code, output = call("compare", tmp_path, tmp_path)
    assert code == 2
    assert "holds no run of florence2 evaluate" in output
