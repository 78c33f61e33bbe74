"""``florence2 train``: a recipe in, a trained model out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer


def train(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a TOML file.", show_default=False)],
    explain: Annotated[bool, typer.Option("--explain", help="Say what would happen, and do nothing.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last snapshot; begin where there is none.")
    ] = False,
    changes: Annotated[
        Optional[list[str]],  # noqa: UP045  typer reads this at run time, also on Python 3.10
        typer.Option("--set", help="Change the recipe: table.name=value. May be given several times."),
    ] = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="Folder of the run, instead of the recipe's."),
    ] = None,
) -> None:
    """Train as a recipe says: pre-training, several tasks at once, fine-tuning.

    \b
      florence2 train recipes/finetune-detection.toml --explain
      florence2 train recipes/finetune-detection.toml --set optimizer.lr=1e-4
      torchrun --nproc-per-node 8 -m florence2 train recipe.toml --resume

    Before the first step every target is formatted, tokenised, parsed back and compared. SIGTERM and Ctrl-C end the
    run after the present step, with a snapshot; --resume goes on as if nothing had happened.
    """
    from florence2 import training

    given = [*(changes or []), *([f"output={str(output)!r}"] if output else [])]
    read = training.Recipe.load(recipe, given)
    if explain:
        from florence2.training.explain import explain as told

        typer.echo(told(read))
        return
    training.train(read, resume=resume)
