"""``florence2 train``: a recipe in, a trained model out."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from florence2.errors import Florence2Error

if TYPE_CHECKING:
    from florence2.training import Recipe


def train(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a TOML file.", show_default=False)],
    explain: Annotated[bool, typer.Option("--explain", help="Say what would happen, and do nothing.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last snapshot; begin where there is none.")
    ] = False,
    changes: Annotated[
        Optional[list[str]],  # noqa: UP045  typer reads this at run time, also on Python 3.10
        typer.Option("--set", help="Change the recipe; may be given several times.", metavar="TABLE.NAME=VALUE"),
    ] = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="Folder of the run, instead of the recipe's.", metavar="DIR"),
    ] = None,
) -> None:
    """Train as a recipe says: pre-training, several tasks at once, fine-tuning.

    \b
      florence2 train recipes/finetune-detection.toml --explain
      florence2 train recipes/finetune-detection.toml --set optimizer.lr=1e-4
      torchrun --nproc-per-node 8 -m florence2 train recipe.toml --resume

    Before the first step every target is formatted, tokenised, parsed back and compared. SIGTERM and Ctrl-C end the
    run after the present step, with a snapshot and exit code 0; --resume goes on as if nothing had happened.
    """
    leads = os.environ.get("RANK", "0") == "0"
    try:
        read = _read(recipe, changes or [], output)
    except Florence2Error as error:
        if leads:
            raise
        raise typer.Exit(2) from error  # all processes have read the same file; one tells what is wrong with it
    if not explain:
        from florence2 import training

        training.train(read, resume=resume)
    elif leads:
        from florence2.training.explain import explain as told

        typer.echo(told(read, int(os.environ.get("WORLD_SIZE", "1")), _doing))


def _read(path: Path, changes: list[str], output: Path | None) -> Recipe:
    from florence2.training.recipe import Recipe

    given = [] if output is None else [f"output={json.dumps(str(output), ensure_ascii=False)}"]  # as TOML writes it
    return Recipe.load(path, [*changes, *given])


def _doing(what: str, done: int) -> None:
    typer.echo(f"{what}: {done:,} records" if done else what, err=True)
