"""Log, curves and terminal: what was said is what is written."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from florence2.errors import MissingDependencyError
from florence2.training import train
from florence2.training.events import Finished, Plan, Progressed, Validated, Watcher
from florence2.training.reports import Log, TensorBoard, Terminal
from tests.training import small


def progress(step: int, loss: float = 2.0, skipped: tuple[str, ...] = ()) -> Progressed:
    tasks = {"<OD>": loss + 0.5, "": loss - 0.5}
    return Progressed(step, loss, tasks, 1e-4, 0.25, 8.126, 512.04, skipped)


def plan(folder: Path, start: int = 0) -> Plan:
    return Plan(folder, steps=10, start=start, images_per_step=4)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run_through(watcher: Watcher, folder: Path, steps: range, start: int = 0) -> None:
    """Reports of these steps and a validation at each fourth."""
    watcher.begin(plan(folder, start))
    for step in steps:
        watcher.stepped(step)
        watcher.progressed(progress(step, loss=10 - step))
        if step % 4 == 0:
            watcher.validated(Validated(step, {"loss": 1.5, "<OD> AP50": 0.25}, best=step == 4))
    watcher.finished(Finished(folder, steps.stop - 1, 10, None))


# log.jsonl


def test_the_log_holds_what_was_said(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = Log(path)
    log.begin(plan(tmp_path))
    log.progressed(progress(1))
    assert len(lines(path)) == 1  # at once, not at the end
    log.progressed(progress(2, skipped=("a.jpg: 雪 is gone",)))
    log.validated(Validated(2, {"loss": 1.5}, best=True))
    log.finished(Finished(tmp_path, 2, 10, None))
    assert lines(path) == [
        {
            "step": 1,
            "loss": 2.0,
            "tasks": {"<OD>": 2.5, "": 1.5},
            "lr": 1e-4,
            "norm": 0.25,
            "images_per_second": 8.13,
            "tokens_per_second": 512.0,
        },
        {**lines(path)[0], "step": 2, "skipped": ["a.jpg: 雪 is gone"]},
        {"step": 2, "validation": {"loss": 1.5}, "best": True},
    ]
    assert "雪" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("start", [0, 2, 4, 6])
def test_the_log_is_cut_at_the_snapshot(tmp_path: Path, start: int) -> None:
    path, whole = tmp_path / "log.jsonl", tmp_path / "whole.jsonl"
    run_through(Log(whole), tmp_path, range(1, 9))
    run_through(Log(path), tmp_path, range(1, 7))
    assert lines(path) != lines(whole)
    run_through(Log(path), tmp_path, range(start + 1, 9), start)
    assert lines(path) == lines(whole)


def test_half_a_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    run_through(Log(path), tmp_path, range(1, 4))
    before = lines(path)
    with path.open("a") as file:
        file.write('{"step": 4, "lo')  # a process was killed here
    Log(path).begin(plan(tmp_path, start=3))
    assert lines(path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_fresh_run_forgets_an_old_log(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    run_through(Log(path), tmp_path, range(1, 4))
    Log(path).begin(plan(tmp_path))
    assert lines(path) == []


def test_the_log_of_a_run(prepared: Path) -> None:
    notes = small.Notes()
    data = {"small": {"path": str(prepared / "data"), "hold_out": 0.2}}
    folder = train(small.recipe(prepared, "logged", data=data, validation={"every": 2}), watchers=[notes]).folder
    written = lines(folder / "log.jsonl")
    assert [line["loss"] for line in written if "loss" in line] == notes.losses
    assert [line["validation"] for line in written if "best" in line] == [dict(v.figures) for v in notes.validations]
    assert [line["step"] for line in written] == [1, 2, 2, 3, 4, 4]
    assert len(notes.losses) == 4


# TensorBoard


def curves(folder: Path) -> dict[str, list[tuple[int, Any]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_the_curves_hold_what_was_said(tmp_path: Path) -> None:
    run_through(TensorBoard(tmp_path / "curves"), tmp_path, range(1, 6))
    found = curves(tmp_path / "curves")
    assert found["loss"] == [(step, 10.0 - step) for step in range(1, 6)]
    assert found["loss by task/OD"] == [(step, 10.5 - step) for step in range(1, 6)]
    assert found["loss by task/other"] == [(step, 9.5 - step) for step in range(1, 6)]
    assert found["lr"] == [(step, pytest.approx(1e-4)) for step in range(1, 6)]
    assert found["gradient norm"][0] == (1, 0.25)
    assert found["validation/OD AP50"] == [(4, 0.25)]
    assert found["validation/loss"] == [(4, 1.5)]
    assert set(found) == {
        *("loss", "lr", "gradient norm", "photos per second", "loss by task/OD", "loss by task/other"),
        *("validation/loss", "validation/OD AP50"),
    }


def test_the_curves_have_no_step_twice(tmp_path: Path) -> None:
    """A run that goes on from step 2 takes back what was drawn beyond it."""
    run_through(TensorBoard(tmp_path / "curves"), tmp_path, range(1, 5))
    run_through(TensorBoard(tmp_path / "curves"), tmp_path, range(3, 6), start=2)
    assert [step for step, _ in curves(tmp_path / "curves")["loss"]] == [1, 2, 3, 4, 5]


def test_a_run_draws_curves_if_it_is_asked_to(prepared: Path) -> None:
    folder = train(small.recipe(prepared, "curves", log={"every": 1, "tensorboard": True}), watchers=()).folder
    written = [(line["step"], pytest.approx(line["loss"])) for line in lines(folder / "log.jsonl")]
    assert curves(folder / "tensorboard")["loss"] == written
    other = train(small.recipe(prepared, "no-curves"), watchers=()).folder
    assert not (other / "tensorboard").exists()


def test_without_tensorboard_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(
        MissingDependencyError, match=r"pip install 'florence2\[train\]', or set log.tensorboard = false"
    ):
        TensorBoard(tmp_path)


# The terminal


def told(*, terminal: bool) -> tuple[Terminal, Console]:
    console = Console(record=True, file=io.StringIO(), force_terminal=terminal, width=100)
    return Terminal(console), console


@pytest.mark.parametrize("terminal", [False, True])
def test_the_terminal_tells_the_way(tmp_path: Path, terminal: bool) -> None:
    watcher, console = told(terminal=terminal)
    watcher.doing("reading small", 0)
    run_through(watcher, Path("runs/a"), range(1, 5))
    assert (watcher.bar is not None) == terminal
    text = console.export_text()
    for line in (
        "reading small",
        "10 steps of 4 photos in runs/a",
        "step 1  loss 9.0000  lr 1.00e-04  8.1 photos/s, 0:04 left  <OD> 9.500  other 8.500",  # 9 x 4 photos
        "validation at step 4 (best)  loss 1.5  <OD>  AP50 0.25",
        "stopped at step 4 of 10; --resume goes on from there",
    ):
        assert f"{line}\n" in text


def test_the_terminal_gives_each_task_a_line(tmp_path: Path) -> None:
    watcher, console = told(terminal=False)
    figures = {"loss": 1.5, "<OD> loss": 2.0, "<OD> AP50": 0.0, "<CAPTION> loss": 1.0, "<CAPTION> BLEU4": 2e-6}
    watcher.validated(Validated(7, {**figures, " loss": 12345.678}, best=False))
    assert console.export_text().splitlines() == [
        "validation at step 7  loss 1.5",
        "  <OD>       loss 2  AP50 0",
        "  <CAPTION>  loss 1  BLEU4 0",
        "  other      loss 1.235e+04",
    ]


def test_the_terminal_says_nothing_twice_about_a_single_task(tmp_path: Path) -> None:
    watcher, console = told(terminal=False)
    watcher.validated(Validated(7, {"loss": 1.5, "<OD> loss": 1.5, "<OD> AP": 0.123456}, best=True))
    assert console.export_text() == "validation at step 7 (best)  loss 1.5  <OD>  AP 0.1235\n"
    watcher.progressed(Progressed(1, 2.0, {"<OD>": 2.0}, 1e-4, 0.25, 8.126, 512.04))
    assert console.export_text() == "step 1  loss 2.0000  lr 1.00e-04  8.1 photos/s\n"


@pytest.mark.parametrize(("photos", "left"), [(0, "0:00"), (8, "0:01"), (8 * 59, "0:59"), (8 * 3601, "1:00:01")])
def test_the_terminal_knows_the_time_left(photos: int, left: str) -> None:
    watcher, console = told(terminal=False)
    watcher.begin(Plan(Path("runs/a"), steps=photos + 1, start=0, images_per_step=1))
    watcher.progressed(Progressed(1, 2.0, {}, 1e-4, 0.25, 8.0, 512.0))
    assert f"8.0 photos/s, {left} left\n" in console.export_text()


def test_the_terminal_tells_the_end_and_the_beginning(tmp_path: Path) -> None:
    watcher, console = told(terminal=False)
    watcher.begin(plan(Path("runs/a"), start=3))
    watcher.finished(Finished(Path("runs/a"), 10, 10, Path("runs/a/model")))
    assert console.export_text() == "10 steps of 4 photos in runs/a, going on from step 3\ndone: runs/a/model\n"


def test_the_terminal_names_a_few_of_many(tmp_path: Path) -> None:
    watcher, console = told(terminal=False)
    watcher.progressed(progress(1, skipped=tuple(f"[red]{i}.jpg[/red] is gone" for i in range(5))))
    text = console.export_text()
    assert "  skipped: [red]2.jpg[/red] is gone\n" in text  # names are texts, not markup
    assert "3.jpg" not in text
    assert "  ... and 2 more were skipped; log.jsonl names them\n" in text


def test_the_terminal_does_not_repeat_itself(tmp_path: Path) -> None:
    watcher, console = told(terminal=False)
    for done in range(0, 2001):
        watcher.doing("checking small", done)
    watcher.doing("validating", 0)
    expected = ["checking small", "checking small: 1000 records", "checking small: 2000 records", "validating"]
    assert console.export_text().splitlines() == expected
