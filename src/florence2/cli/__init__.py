"""The command line. One file per command; nothing here imports PyTorch before a model is needed."""

from __future__ import annotations

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from florence2.cli import (
    bench,
    calibrate,
    compare,
    convert,
    data,
    doctor,
    evaluate,
    export,
    info,
    parse,
    run,
    tasks,
    train,
    verify,
)
from florence2.errors import Florence2Error


class _Explaining(TyperGroup):
    """Mistakes that the library can explain end in one paragraph and exit code 2, never in a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Florence2Error as error:
            typer.echo(f"florence2: {error}", err=True)
            raise typer.Exit(2) from error


app = typer.Typer(
    name="florence2",
    cls=_Explaining,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: at once, and as it is written
    help="Florence-2: a photo in, every task out.",
    epilog="First steps: florence2 run photo.jpg --all",
)


def _version(wanted: bool) -> None:
    if wanted:
        from florence2 import __version__

        typer.echo(f"florence2 {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Florence-2: a photo in, every task out."""


app.command("run")(run.run)
app.command("parse")(parse.parse)
app.command("info")(info.info)
app.command("convert")(convert.convert)
app.command("export")(export.export)
app.command("tasks")(tasks.tasks)
app.command("doctor")(doctor.doctor)
app.command("verify")(verify.verify)
app.command("train")(train.train)
app.command("bench")(bench.bench)
app.command("evaluate")(evaluate.evaluate)
app.command("compare")(compare.compare)
app.command("calibrate")(calibrate.calibrate)
app.add_typer(data.app, name="data")


def main() -> None:
    """The entry point ``florence2``."""
    for stream in (sys.stdout, sys.stderr):  # labels are Unicode, whatever the terminal was told
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    app()
