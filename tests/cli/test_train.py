"""``florence2 train``: recipes from files; runs that end, stop, go on, explain themselves; alone and with torchrun."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from florence2 import Florence2
from florence2.training.trainer import Trainer
from tests.cli.conftest import Run
from tests.training import small

RECIPE = """
output = "{folder}/run"
data.small.path = "{folder}/data"
data.small.hold_out = 0.2
model.source = "{folder}/model"
schedule.steps = 3
batch = {{ images = 2, targets = 2 }}
optimizer.lr = 1e-3
validation.every = 3
save.every = 2
log = {{ every = 1, tensorboard = false }}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a model, and recipe.toml, whose run goes to ``run`` beside it."""
    made = tmp_path_factory.mktemp("train")
    small.prepare(made)
    (made / "recipe.toml").write_text(RECIPE.format(folder=made.as_posix()))
    return made


def steps(run: Path) -> list[int]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if "loss" in line]


def test_a_run_and_its_model(call: Run, folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = call("train", folder / "recipe.toml", "-o", run)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ""  # the progress is no result
    for words in ("3 steps of 2 photos", "step 2  loss ", "validation at step 3 (best)  loss ", "done: "):
        assert words in result.stderr
    assert steps(run) == [1, 2, 3]
    assert not (folder / "run").exists()
    Florence2.from_pretrained(run / "model").detect(folder / "pictures" / "0.png")


def test_explain_does_nothing(call: Run, folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    result = call("train", folder / "recipe.toml", "--explain")
    assert result.exit_code == 0, result.stderr
    assert "3 of 2 photos" in result.stdout
    assert "<OD> -> dog<loc_" in result.stdout
    assert sorted(folder.rglob("*")) == before
    changed = call("train", folder / "recipe.toml", "--explain", "--set", "schedule.steps=7")
    assert "7 of 2 photos" in changed.stdout


def test_set_changes_the_recipe(call: Run, folder: Path, tmp_path: Path) -> None:
    changes = ("--set", "schedule.steps=1", "--set", f"output={tmp_path / 'first'}", "--set", "model.freeze=['vision']")
    result = call("train", folder / "recipe.toml", *changes, "-o", tmp_path / "it's here")
    assert result.exit_code == 0, result.stderr
    written = json.loads((tmp_path / "it's here" / "recipe.json").read_text())  # -o has the last word
    assert (written["schedule"]["steps"], written["model"]["freeze"]) == (1, ["vision"])
    assert written["batch"]["images"] == 2
    assert not (tmp_path / "first").exists()


def test_resume(call: Run, folder: Path, tmp_path: Path) -> None:
    arguments = ("train", folder / "recipe.toml", "-o", tmp_path / "run")
    assert call(*arguments, "--resume").exit_code == 0  # there is nothing yet: it begins
    again = call(*arguments)
    assert again.exit_code == 2
    assert "go on with --resume, or name another output" in again.stderr
    (
        tmp_path / "run" / "snapshots" / "step-00000003" / "state.json"
    ).unlink()  # as if it had been stopped behind step 2
    resumed = call(*arguments, "--resume")
    assert resumed.exit_code == 0, resumed.stderr
    assert "going on from step 2" in resumed.stderr
    assert "step 2  loss" not in resumed.stderr
    assert steps(tmp_path / "run") == [1, 2, 3]


def test_a_signal_is_no_failure(call: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Trainer._step

    def interrupted(self: Trainer, number: int, *rest: object) -> object:
        if number == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, number, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "_step", interrupted)
    stopped = call("train", folder / "recipe.toml", "-o", tmp_path / "run")
    assert (stopped.exit_code, "stopped at step 2 of 3; --resume goes on from there" in stopped.stderr) == (0, True)
    assert not (tmp_path / "run" / "model").exists()
    monkeypatch.undo()
    assert call("train", folder / "recipe.toml", "-o", tmp_path / "run", "--resume").exit_code == 0
    assert steps(tmp_path / "run") == [1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--set", "optimizer.lrr=1"), "did you mean 'lr'"),
        (("--set", "seed"), "--set seed: expected table.name=value"),
        (("--set", "schedule.steps=0"), "give steps or epochs"),
        (("--set", "data.small.path=nowhere"), "nowhere does not exist"),
        (("--set", "model.source=./nowhere"), "nowhere"),
        (
            ("--set", "data.small.tasks=['<CAPTION_TO_PHRASE_GROUNDING>']"),
            "none of its records can teach <CAPTION_TO_PHRASE_GROUNDING>",
        ),
        (("--set", "run.device=abacus"), "run.device is 'abacus'"),
    ],
)
def test_mistakes_end_in_one_paragraph(
    call: Run, folder: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    result = call("train", folder / "recipe.toml", "-o", tmp_path / "run", *arguments)
    assert result.exit_code == 2
    said = result.stderr[result.stderr.index("florence2: ") :]
    assert words in " ".join(said.split())
    assert "\n\n" not in said.strip()
    assert "Traceback" not in result.stderr


def test_a_recipe_that_is_missing(call: Run, tmp_path: Path) -> None:
    result = call("train", tmp_path / "none.toml")
    assert result.exit_code == 2
    assert "none.toml cannot be read" in " ".join(result.stderr.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_in_a_process_of_its_own(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "florence2", "train", str(folder / "recipe.toml"), "-o", str(tmp_path / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    wrong = subprocess.run([*command, "--set", "sede=1"], env=environment, capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "did you mean 'seed'" in " ".join(wrong.stderr.split())
    assert "Traceback" not in wrong.stderr


# Two processes


def together(*arguments: object) -> subprocess.CompletedProcess[str]:
    """``torchrun`` with two processes that talk through gloo."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "florence2", "train", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_one_of_two_processes_speaks(folder: Path, tmp_path: Path) -> None:
    done = together(folder / "recipe.toml", "-o", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    told = done.stderr.splitlines()
    assert len([line for line in told if line.startswith("done: ")]) == 1
    assert len([line for line in told if line.startswith("step 3")]) == 1
    assert steps(tmp_path / "run") == [1, 2, 3]


@pytest.mark.slow
def test_one_of_two_processes_explains(folder: Path) -> None:
    explained = together(folder / "recipe.toml", "--explain")
    assert explained.returncode == 0, explained.stderr
    assert explained.stdout.count("Learning rate") == 1
    assert "each of 2 processes (ddp) takes 1 x 1 photos" in explained.stdout


@pytest.mark.slow
def test_one_of_two_processes_complains(folder: Path) -> None:
    wrong = together(folder / "recipe.toml", "--set", "optimizer.lrr=1")
    assert wrong.returncode != 0
    assert wrong.stderr.count("florence2: ") == 1
    assert "did you mean 'lr'" in wrong.stderr
