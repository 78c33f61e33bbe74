"""``florence2 evaluate``: a model and benchmarks, or predictions beside truth → the figures of the field."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from florence2.cli import common
from florence2.errors import DataError

if TYPE_CHECKING:
    from florence2.checkpoints.calibration import Calibration
    from florence2.evaluation.answerers import Answerer
    from florence2.evaluation.benchmarks import Benchmark
    from florence2.evaluation.outcomes import Outcome
    from florence2.evaluation.runner import Watch


def evaluate(
    model: common.Model = None,
    benchmark: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--benchmark", "-b", help="Name or group of benchmarks; repeat it. See --list."),
    ] = None,
    data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder with the data of the benchmarks.", show_default=False),
    ] = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="Folder of the run: answers, report.json, report.html.", metavar="DIR"),
    ] = None,
    limit: Annotated[Optional[int], typer.Option(help="Samples of each benchmark, at most.", min=1)] = None,  # noqa: UP045
    blind: Annotated[
        bool, typer.Option("--blind", help="Also ask about other photos: what is right then was not seen.")
    ] = False,
    peer: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Instead of --model: a checkpoint that transformers runs.", show_default=False),
    ] = None,
    adapter: common.Adapter = None,
    device: common.Device = "auto",
    dtype: common.Dtype = "auto",
    beams: Annotated[Optional[int], typer.Option(help="Beams of the search.", min=1)] = None,  # noqa: UP045
    reference: Annotated[
        bool, typer.Option("--reference", help="Decode token for token as Microsoft ships it.")
    ] = False,
    every: Annotated[bool, typer.Option("--list", help="List the benchmarks and what they need.")] = False,
    predictions: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="File of predictions, made by anyone.", show_default=False),
    ] = None,
    truth: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="File of what is right.", show_default=False),
    ] = None,
    task: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--task",
            "-t",
            help="Of the files: detection, segmentation, caption, grounding, classification, vqa or ocr.",
            show_default=False,
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    tokenized: Annotated[
        bool, typer.Option("--tokenized", help="Captions are tokens with spaces between, from the PTB tokenizer.")
    ] = False,
) -> None:
    """Measure a model on benchmarks, or score a file of predictions.

    \b
      florence2 evaluate --list
      florence2 evaluate --benchmark packs --data packs/eval --blind -o runs/nano-eval
      florence2 evaluate --model microsoft/Florence-2-base -b coco-detection --data coco --limit 500 -o runs/base

    A run remembers every answer in its folder and goes on where it was stopped; report.html opens in any browser.

    \b
      florence2 evaluate --predictions results.json --truth instances_val2017.json --task detection
      florence2 evaluate --predictions captions.jsonl --truth references.jsonl --task caption --json

    Detection and segmentation take COCO's results and ground truth, the others JSON lines with ids:

    \b
      caption          {"id": 1, "text": "a cat"}           {"id": 1, "references": ["a cat", "the cat"]}
      classification   {"id": 1, "label": "cat"}            {"id": 1, "label": "cat"}
      vqa              {"id": 1, "answer": "two"}           {"id": 1, "answers": ["2", "two", "3"]}
      ocr              {"id": 1, "text": "STOP"}            {"id": 1, "text": "STOP"}
                       {"id": 1, "regions": [{"text": "STOP", "quad": [...]}]}   and the same
      grounding        {"id": 1, "boxes": [[0, 0, 9, 9]], "scores": [0.8]}   {"id": 1, "boxes": [[0, 0, 9, 9]]}

    A sample without a prediction counts as an empty one. What does not exist (APs without small objects) is null or -.
    """
    if every:
        _list()
    elif predictions is not None or truth is not None or task is not None:
        if benchmark or predictions is None or truth is None or task is None:
            raise DataError(
                "files are scored by --predictions, --truth and --task together, a model by --benchmark and --data; "
                "give one or the other"
            )
        _score_files(predictions, truth, task, json, tokenized)
    elif not benchmark or data is None or output is None:
        raise DataError("a model is measured by --benchmark NAME --data FOLDER -o RUN; --list shows the names")
    elif peer is not None and (model is not None or adapter is not None or reference):
        raise DataError("--peer takes the place of --model, --adapter and --reference; give one or the other")
    else:
        from florence2.evaluation.runner import Plan

        plan = Plan(benchmarks=_chosen(benchmark, data), data=data, limit=limit, blind=blind)
        calibration: Calibration | None = None
        answerer: Answerer
        if peer is not None:
            from florence2.evaluation.peer import Transformers

            answerer = Transformers(peer, device, dtype, **({} if beams is None else {"num_beams": beams}))
        else:
            from florence2.evaluation.answerers import Ours

            loaded = common.load(model, device, dtype, adapter)
            calibration = None if reference else loaded.calibration
            options: Any = {} if beams is None else {"num_beams": beams}
            answerer = Ours(loaded, **options, reference=reference) if reference else Ours(loaded, **options)
        _measure(plan, answerer, calibration, output, json)


def _chosen(names: list[str], data: Path) -> tuple[Benchmark, ...]:
    """Each once. Of a group, those that the data has questions for; what is named itself must have some."""
    from florence2.evaluation import runner
    from florence2.evaluation.benchmarks import find

    chosen: dict[str, Benchmark] = {}
    for name in names:
        found = find(name)
        if len(found) > 1:
            found, without = runner.possible(found, data)
            if without:
                typer.echo(f"nothing to ask for {', '.join(b.name for b in without)}", err=True)
        chosen |= {benchmark.name: benchmark for benchmark in found}
    return tuple(chosen.values())


def _measure(plan: Any, answerer: Answerer, calibration: Calibration | None, output: Path, json: bool) -> None:
    from florence2.evaluation import report, runner, summary

    with _progress() as watch:
        outcomes = runner.run(plan, answerer, output, watch, calibration)
    details = answerer.describe()
    command = shlex.join(["florence2", *sys.argv[1:]])
    document = summary.document(outcomes, answerer.name, details)
    (output / "report.json").write_text(
        _indented(document) + "\n",
        encoding="utf-8",
    )
    header = report.Header(model=answerer.name, details=details, command=command)
    report.write(outcomes, header, output / "report.html")
    if json:
        typer.echo(common.to_json(document))
    else:
        _table(outcomes)
    typer.echo(f"figures and pictures are in {output / 'report.html'}", err=True)


def _indented(document: Any) -> str:
    from json import dumps

    return dumps(document, ensure_ascii=False, allow_nan=False, indent=1)


def _table(outcomes: list[Outcome]) -> None:
    """One line per benchmark: its figure, how sure it is, and what it would be without looking."""
    from florence2.evaluation.report.figures import interval, shown, unit

    width = max(len(outcome.benchmark.name) for outcome in outcomes)
    for outcome in outcomes:
        main = outcome.benchmark.main
        row = f"{outcome.benchmark.name:{width}}  {main:15} {shown(main, outcome.measured.figures.get(main)):>6}"
        row += f" {unit(main)}  {interval(main, outcome.intervals.get(main)):16}"
        if outcome.blind is not None:
            row += f"  blind {shown(main, outcome.blind.get(main)):>5}"
        row += f"  {len(outcome.samples)} samples"
        if outcome.errors:
            row += f", {len(outcome.errors)} errors"
        typer.echo(row)


@contextmanager
def _progress() -> Iterator[Watch]:
    """A bar per benchmark on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bars: dict[str, Any] = {}
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:

        def watch(title: str, done: int, total: int) -> None:
            if title not in bars:
                bars[title] = progress.add_task(title, total=total)
            progress.update(bars[title], completed=done)

        yield watch


def _list() -> None:
    from florence2.evaluation.benchmarks import BENCHMARKS

    for benchmark in BENCHMARKS.values():
        typer.secho(f"{benchmark.name}", bold=True, nl=False)
        typer.echo(f"  {benchmark.title}; {benchmark.task} {benchmark.main}")
        for need in benchmark.needs:
            typer.echo(f"    {need.path}: {need.what}")


def _score_files(predictions: Path, truth: Path, task: str, json: bool, tokenized: bool) -> None:
    from florence2.evaluation import files

    scored = files.compare(predictions, truth, task, tokenized)
    if scored.missing:
        shown = ", ".join(scored.missing[:5]) + (" ..." if len(scored.missing) > 5 else "")
        typer.echo(
            f"{len(scored.missing)} of {scored.samples} samples have no prediction and count as empty: {shown}",
            err=True,
        )
    if json:
        typer.echo(common.to_json(scored.figures))
        return
    width = max(map(len, scored.figures))
    for name, value in scored.figures.items():
        typer.echo(f"{name:{width}}  {'-' if value is None else f'{value:.4f}'}")
