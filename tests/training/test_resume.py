"""Runs that were interrupted in every way, and what they lost: nothing but steps since the last snapshot."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from florence2.errors import CheckpointError, ConfigError, DataError
from florence2.training import Watcher, train
from tests.training import small

ROOT = Path(__file__).parent.parent.parent
RICH = {
    "optimizer": {"lr": 1e-3, "ema": 0.9, "layer_decay": 0.8},
    "augment": {"flip": 0.5, "colour": 0.5},
    "schedule": {"steps": 6, "warmup": 2},
    "batch": {"images": 4, "micro": 2, "targets": 3},
    "data": {},
    "validation": {"every": 3},
}


def rich(folder: Path, name: str) -> small.Recipe:
    """Everything that has a state: dropout, average, accumulation, augmentation, validation."""
    return small.recipe(folder, name, **RICH | {"data": {"small": {"path": str(folder / "data"), "hold_out": 0.2}}})


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest()


def log(folder: Path) -> list[dict[str, object]]:
    """Without the figures that are measured with a clock."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.endswith("_per_second")} for line in lines]


class StopsAt(Watcher):
    def __init__(self, step: int, number: int | None = None) -> None:
        self.step, self.number = step, number

    def stepped(self, step: int) -> None:
        if step == self.step:
            if self.number is None:
                raise RuntimeError("pulled the plug")
            os.kill(os.getpid(), self.number)


@pytest.fixture(scope="module")
def uninterrupted(prepared: Path) -> Path:
    return train(rich(prepared, "uninterrupted"), watchers=()).folder


@pytest.mark.parametrize("step", [1, 3, 5])
def test_resume_is_bit_identical(step: int, prepared: Path, uninterrupted: Path) -> None:
    recipe = rich(prepared, f"broken-at-{step}")
    with pytest.raises(RuntimeError, match="plug"):
        train(recipe, watchers=[StopsAt(step)])
    finished = train(recipe, resume=True, watchers=())
    assert finished.complete
    assert weights(finished.folder) == weights(uninterrupted)
    assert log(finished.folder) == log(uninterrupted)
    best = [(folder / "best.json").read_text() for folder in (finished.folder, uninterrupted)]
    assert best[0] == best[1]


def test_a_run_that_forgets_something_is_noticed(
    prepared: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin of the test above: without the state of the optimiser the same comparison fails."""
    recipe = rich(prepared, "forgetful")
    with pytest.raises(RuntimeError, match="plug"):
        train(recipe, watchers=[StopsAt(5)])

    def forgets(module: nn.Module, optimizer: torch.optim.Optimizer, *_: object, **__: object) -> None:
        optimizer.state.clear()

    monkeypatch.setattr("florence2.training.snapshots.set_optimizer_state_dict", forgets)
    assert weights(train(recipe, resume=True, watchers=()).folder) != weights(uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends(number: int, prepared: Path, uninterrupted: Path) -> None:
    recipe, before = rich(prepared, f"signal-{number}"), signal.getsignal(number)
    stopped = train(recipe, watchers=[StopsAt(3, number)])
    assert (stopped.step, stopped.complete, stopped.model) == (3, False, None)
    kept = sorted(path.name for path in (stopped.folder / "snapshots").iterdir())
    assert kept == ["step-00000002", "step-00000003"]
    assert signal.getsignal(number) is before
    assert weights(train(recipe, resume=True, watchers=()).folder) == weights(uninterrupted)


def test_workers_change_nothing(prepared: Path, uninterrupted: Path) -> None:
    recipe = rich(prepared, "workers")
    settings = {**RICH, "batch": {**RICH["batch"], "workers": 2}, "data": {"small": recipe.to_dict()["data"]["small"]}}
    assert weights(train(small.recipe(prepared, "workers", **settings), watchers=()).folder) == weights(uninterrupted)


@pytest.mark.slow
def test_killed_at_ten_moments(prepared: Path, uninterrupted: Path) -> None:
    """Killed without warning again and again, in the middle of steps and of writing, it ends with the same bits."""
    script = [sys.executable, "-m", "tests.training.killed", str(prepared), "killed", "10"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(script, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["kills"] == 10
    assert len(set(told["moments"])) > 5, "the kills must hit different places"
    assert weights(prepared / "killed") == weights(uninterrupted)
    assert log(prepared / "killed") == log(uninterrupted)


def test_the_last_snapshots_are_kept(prepared: Path) -> None:
    folder = train(small.recipe(prepared, "kept", save={"every": 1, "keep": 2}), watchers=()).folder
    assert sorted(p.name for p in (folder / "snapshots").iterdir()) == ["step-00000003", "step-00000004"]


def test_a_run_is_not_overwritten(prepared: Path) -> None:
    recipe = small.recipe(prepared, "twice")
    train(recipe, watchers=())
    with pytest.raises(ConfigError, match="holds a run of 4 steps; go on with --resume"):
        train(recipe, watchers=())
    assert train(recipe, resume=True, watchers=()).complete  # nothing is left to do


def test_another_recipe_is_refused(prepared: Path) -> None:
    train(small.recipe(prepared, "other"), watchers=())
    with pytest.raises(ConfigError, match=r"optimizer\.lr: 0\.001 → 0\.002"):
        train(small.recipe(prepared, "other", optimizer={"lr": 2e-3}), resume=True, watchers=())
    train(small.recipe(prepared, "other", save={"every": 3}), resume=True, watchers=())


def test_changed_data_is_refused(tmp_path: Path) -> None:
    small.prepare(tmp_path)
    recipe = small.recipe(tmp_path)
    train(recipe, watchers=())
    annotations = next((tmp_path / "data").glob("*.jsonl"))
    annotations.write_text(annotations.read_text() + "\n")
    with pytest.raises(DataError, match="has changed since this run began"):
        train(recipe, resume=True, watchers=())


def test_a_snapshot_of_another_model_is_refused(prepared: Path, tmp_path: Path) -> None:
    first = small.recipe(prepared, "shapes", model={"source": str(prepared / "model"), "freeze": ["vision"]})
    train(first, watchers=())
    notes = prepared / "shapes" / "recipe.json"
    now = small.recipe(prepared, "shapes")
    notes.write_text(json.dumps(now.to_dict()))
    with pytest.raises(CheckpointError, match="does not fit this run"):
        train(now, resume=True, watchers=())


def test_a_damaged_snapshot_is_an_error(prepared: Path) -> None:
    recipe = small.recipe(prepared, "damaged")
    train(recipe, watchers=[])
    for file in (prepared / "damaged" / "snapshots" / "step-00000004").glob("*.distcp"):
        file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="step-00000004"):
        train(recipe, resume=True, watchers=())


def test_two_weights_of_one_seed_are_the_same_and_of_another_are_not(prepared: Path, uninterrupted: Path) -> None:
    assert weights(train(rich(prepared, "again"), watchers=()).folder) == weights(uninterrupted)
    torch.manual_seed(99)  # what the caller did before must not matter
    other = RICH | {"data": {"small": {"path": str(prepared / "data"), "hold_out": 0.2}}, "seed": 1}
    assert weights(train(small.recipe(prepared, "seed", **other), watchers=()).folder) != weights(uninterrupted)
