"""Watchers that come with every run: the progress in a terminal, the log as JSON lines, the curves of TensorBoard."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from florence2.errors import MissingDependencyError
from florence2.training.events import Finished, Plan, Progressed, Validated, Watcher


class Terminal(Watcher):
    """A bar with time left where somebody looks; a line per report everywhere."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(file=sys.stderr)
        self.bar: Progress | None = None
        self._plan: Plan | None = None
        self._doing = ""

    def begin(self, plan: Plan) -> None:
        self._plan = plan
        begun = f", going on from step {plan.start}" if plan.start else ""
        self._say(f"{plan.steps} steps of {plan.images_per_step} photos in {plan.folder}{begun}")
        if self.console.is_terminal:
            columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"))
            self.bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self.console)
            self.bar.add_task("training", total=plan.steps, completed=plan.start, loss="")
            self.bar.start()

    def doing(self, what: str, done: int) -> None:
        if what != self._doing or done % 1000 == 0:
            self._doing = what
            self._say(f"{what}: {done} records" if done else what)

    def stepped(self, step: int) -> None:
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=step)

    def progressed(self, progress: Progressed) -> None:
        p = progress
        tasks = "  ".join(f"{name or 'other'} {loss:.3f}" for name, loss in p.tasks.items())
        speed = f"{p.images_per_second:.1f} photos/s"
        if self._plan is not None:
            photos = (self._plan.steps - p.step) * self._plan.images_per_step
            speed += f", {_clock(photos / max(p.images_per_second, 1e-9))} left"
        self._say(
            f"step {p.step}  loss {p.loss:.4f}  lr {p.lr:.2e}  {speed}" + (f"  {tasks}" if len(p.tasks) > 1 else "")
        )
        for reason in p.skipped[:3]:
            self._say(f"  skipped: {reason}")
        if len(p.skipped) > 3:
            self._say(f"  ... and {len(p.skipped) - 3} more were skipped; log.jsonl names them")
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], loss=f"loss {p.loss:.3f}")

    def validated(self, validated: Validated) -> None:
        """The figures of all, and a line for each task; those of a single task stand beside those of all."""
        tasks: dict[str, list[str]] = {}
        for name, value in validated.figures.items():
            task, figure = _split(name)
            tasks.setdefault(task, []).append(f"{figure} {_figure(value)}")
        rows = {task: figures for task, figures in tasks.items() if task}
        first = tasks.get("", [])
        if len(rows) == 1:
            ((task, figures),) = rows.items()
            first = [*first, task, *(figure for figure in figures if figure not in first)]
            rows = {}
        self._say("  ".join([f"validation at step {validated.step}{' (best)' if validated.best else ''}", *first]))
        width = max(map(len, rows), default=0)
        for task, figures in rows.items():
            self._say(f"  {task:{width}}  {'  '.join(figures)}")

    def finished(self, finished: Finished) -> None:
        if self.bar is not None:
            self.bar.stop()
        if finished.model is not None:
            self._say(f"done: {finished.model}")
        else:
            self._say(f"stopped at step {finished.step} of {finished.steps}; --resume goes on from there")

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


class Log(Watcher):
    """``RUN/log.jsonl``: one object per report, one per validation."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] | None = None

    def begin(self, plan: Plan) -> None:
        """What was logged beyond the snapshot that the run goes on from is dropped: it will happen again."""
        kept = [line for line in _lines(self.path) if _step_of(line) <= plan.start] if plan.start else []
        part = self.path.with_suffix(".part")
        part.write_text("".join(kept), encoding="utf-8")
        os.replace(part, self.path)
        self._file = self.path.open("a", encoding="utf-8")

    def progressed(self, progress: Progressed) -> None:
        p = progress
        self._write(
            {
                "step": p.step,
                "loss": p.loss,
                "tasks": dict(p.tasks),
                "lr": p.lr,
                "norm": p.norm,
                "images_per_second": round(p.images_per_second, 2),
                "tokens_per_second": round(p.tokens_per_second, 1),
                **({"skipped": list(p.skipped)} if p.skipped else {}),
            }
        )

    def validated(self, validated: Validated) -> None:
        self._write({"step": validated.step, "validation": dict(validated.figures), "best": validated.best})

    def finished(self, finished: Finished) -> None:
        if self._file is not None:
            self._file.close()

    def _write(self, document: dict[str, Any]) -> None:
        assert self._file is not None
        self._file.write(json.dumps(document, ensure_ascii=False) + "\n")
        self._file.flush()


class TensorBoard(Watcher):
    """``RUN/tensorboard``. Raises MissingDependencyError where the library is not there."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingDependencyError(
                "TensorBoard is not installed: pip install 'florence2[train]', or set log.tensorboard = false"
            ) from error
        self.folder, self._make = folder, SummaryWriter
        self._writer: Any = None

    def begin(self, plan: Plan) -> None:
        self._writer = self._make(str(self.folder), purge_step=plan.start + 1)

    def progressed(self, progress: Progressed) -> None:
        p = progress
        self._add(
            p.step, {"loss": p.loss, "lr": p.lr, "gradient norm": p.norm, "photos per second": p.images_per_second}
        )
        self._add(p.step, {f"loss by task/{_tag(name)}": loss for name, loss in p.tasks.items()})

    def validated(self, validated: Validated) -> None:
        self._add(validated.step, {f"validation/{_tag(name)}": value for name, value in validated.figures.items()})

    def finished(self, finished: Finished) -> None:
        if self._writer is not None:
            self._writer.close()

    def _add(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)


def _lines(path: Path) -> list[str]:
    """Whole lines; a process that was killed may have left half of one."""
    if not path.is_file():
        return []
    return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]


def _step_of(line: str) -> int:
    return int(json.loads(line)["step"])


def _split(name: str) -> tuple[str, str]:
    """ "<OD> AP50" → ("<OD>", "AP50"), "loss" → ("", "loss"); the task without a name is called other."""
    task, blank, figure = name.partition(" ")
    if task.startswith("<"):
        return task, figure
    return ("other", figure) if blank and not task else ("", name)


def _figure(value: float) -> str:
    """Four digits; nothing is that small that it should be read with an exponent."""
    return f"{value:.4g}" if abs(value) >= 1e-3 else f"{value:.4f}".rstrip("0").rstrip(".")


def _clock(seconds: float) -> str:
    """ "0:07", "12:30", "3:00:00" """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _tag(name: str) -> str:
    return name.replace("<", "").replace(">", "") or "other"
