"""Two processes that talk through gloo learn what one learns; what two began one can finish, and vice versa."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from florence2.errors import ConfigError
from florence2.training import Recipe, train
from florence2.training.world import World
from tests.training import small
from tests.training.test_resume import StopsAt

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dropout is drawn by each process for itself; without it, all must agree."""
    folder = tmp_path_factory.mktemp("distributed")
    small.prepare(folder, still=True)
    return folder


def recipe(folder: Path, name: str, **run: Any) -> Recipe:
    data = {"small": {"path": str(folder / "data"), "hold_out": 0.2}}
    return small.recipe(
        folder,
        name,
        data=data,
        batch={"images": 4, "micro": 1, "targets": 3},
        optimizer={"lr": 1e-3, "ema": 0.9},
        validation={"every": 2},
        run=run,
    )


def run_two(folder: Path, name: str, strategy: str, stop_at: int = 0) -> subprocess.CompletedProcess[str]:
    """``torchrun`` with two processes; with ``stop_at`` one of them gets a SIGTERM behind that step."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tests.training.two", str(folder), name, strategy, str(stop_at)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def figures(folder: Path) -> list[float]:
    """Every loss that was logged, in order."""
    found: list[float] = []
    for line in log(folder):
        found += [line["loss"], *line["tasks"].values()] if "loss" in line else line["validation"].values()
    return found


@pytest.fixture(scope="module")
def alone(still: Path) -> Path:
    return train(recipe(still, "alone"), watchers=()).folder


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_learn_what_one_learns(strategy: str, still: Path, alone: Path) -> None:
    run_two(still, strategy, strategy)
    assert figures(still / strategy) == pytest.approx(figures(alone), abs=1e-5)
    ours, theirs = (load_file(folder / "model" / "model.safetensors") for folder in (still / strategy, alone))
    assert ours.keys() == theirs.keys()
    worst = max((ours[name] - theirs[name]).abs().max().item() for name in ours)
    assert worst < 1e-4  # AdamW turns the rounding of tiny gradients into steps


@pytest.mark.slow
def test_processes_that_do_not_talk_are_noticed(still: Path, alone: Path) -> None:
    """The twin: each process on its own data without exchanging gradients fails the same comparison."""
    run_two(still, "silent", "silent")
    assert figures(still / "silent") != pytest.approx(figures(alone), abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_one_process_finishes_what_two_began(strategy: str, still: Path, alone: Path) -> None:
    name = f"begun-{strategy}"
    run_two(still, name, strategy, stop_at=2)
    assert [path.name for path in (still / name / "snapshots").iterdir()] == ["step-00000002"]
    assert not (still / name / "model").exists()
    assert train(recipe(still, name), resume=True, watchers=()).complete
    assert figures(still / name) == pytest.approx(figures(alone), abs=1e-5)


@pytest.mark.slow
def test_two_processes_finish_what_one_began(still: Path, alone: Path) -> None:
    with pytest.raises(RuntimeError, match="plug"):
        train(recipe(still, "grown"), watchers=[StopsAt(3)])
    run_two(still, "grown", "fsdp")
    assert figures(still / "grown") == pytest.approx(figures(alone), abs=1e-5)


def test_photos_that_cannot_be_shared() -> None:
    world = World(device=torch.device("cpu"), rank=0, size=3)
    with pytest.raises(ConfigError, match=r"batch\.images is 4, which 3 processes cannot share evenly"):
        world.share(4)
