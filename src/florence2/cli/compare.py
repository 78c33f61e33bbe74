"""``florence2 compare``: two runs of ``florence2 evaluate`` on the same samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from florence2.cli import common

if TYPE_CHECKING:
    from florence2.evaluation.compare import Compared, Moved


def compare(
    first: Annotated[Path, typer.Argument(help="Folder of a run.", show_default=False)],
    second: Annotated[Path, typer.Argument(help="Folder of the run to measure against it.", show_default=False)],
    data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Where the data is now, if not where the runs found it.", show_default=False),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Which of two runs is better, how sure that is, and what got better and worse.

    Differences are second minus first, with the 95 % interval of a paired bootstrap over photos and its p. A star
    marks intervals that do not hold 0.

    \b
      florence2 compare runs/before runs/after
    """
    from florence2.evaluation.benchmarks import find
    from florence2.evaluation.compare import compare as compare_runs

    found = compare_runs(first, second, find, data)
    if json:
        typer.echo(common.to_json({each.benchmark.name: each.to_dict() for each in found}))
        return
    for each in found:
        _print(each)


def _print(each: Compared) -> None:
    from florence2.evaluation.report.figures import shown, unit

    better, equal, worse = each.counts
    typer.secho(f"{each.benchmark.title} ({each.benchmark.name})", bold=True)
    typer.echo(f"  {each.samples} samples of {each.photos} photos: {better} better, {equal} equal, {worse} worse")
    for name, (a, b) in each.figures.items():
        row = f"  {name:16} {shown(name, a):>6} → {shown(name, b):>6} {unit(name):10}"
        if (difference := each.differences.get(name)) is not None:
            low, high = difference.interval
            star = " *" if low > 0 or high < 0 else ""
            row += f" {shown(name, difference.value):>6} [{shown(name, low)}, {shown(name, high)}]"
            row += f"  p {difference.p:.3f}{star}"
        typer.echo(row.rstrip())
    for what, moved in (("better", each.better), ("worse", each.worse)):
        for sample in moved:
            typer.echo(f"  {what}: {_told(sample)}")


def _told(moved: Moved) -> str:
    before, after = (" / ".join(said.splitlines())[:60] or "(nothing)" for said in moved.said)
    return f"{moved.id} {moved.before:.2f} → {moved.after:.2f}: {before} → {after}"
