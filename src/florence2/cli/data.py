"""``florence2 data``: look at training data, check it, convert it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from florence2.cli import common, scenes
from florence2.errors import ConfigError, TokenizerError

if TYPE_CHECKING:
    from florence2.data import DataSet
    from florence2.data.augment import Augment
    from florence2.language.tokenizer import Tokenizer

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Training data: check, convert and show it.")

Source = Annotated[Path, typer.Argument(help="File or folder of a data set, of any format.", show_default=False)]
From = Annotated[
    Optional[str],  # noqa: UP045  typer reads this at run time, also on Python 3.10
    typer.Option("--from", help="Its format, where it is not recognised."),
]
Chance = Annotated[Optional[float], typer.Option(min=0, max=1, help="With --augment: how often.")]  # noqa: UP045


@app.command("check")
def check(
    dataset: Source,
    task: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--task", "-t", help="Only this task; may be given several times."),
    ] = None,
    limit: Annotated[Optional[int], typer.Option(min=1, help="Only the first records.")] = None,  # noqa: UP045
    source: From = None,
    model: common.Model = None,
    json: Annotated[bool, typer.Option("--json", help="The report as JSON, with every problem.")] = False,
) -> None:
    """Find what would go wrong in training: every target is formatted, tokenised, parsed back and compared.

    \b
      florence2 data check coco/annotations/instances_val2017.json
      florence2 data check train/annotations.jsonl --task '<OD>' --json

    One target of each task is shown as text. Problems come with file and line, and the exit code is 1.
    """
    from florence2 import data

    found = _read(dataset, source)
    tokenizer, tokens, prompt = _lengths(common.source(model))
    report = data.check(found, tokenizer, task=task, limit=limit, max_tokens=tokens, max_prompt=prompt)
    if json:
        typer.echo(common.to_json(report.to_dict()))
    else:
        typer.echo(f"{found.recognised}\n{report}")
    if not report.ok:
        raise typer.Exit(1)


@app.command("convert")
def convert(
    src: Source,
    dst: Annotated[Path, typer.Argument(help="A folder that does not exist yet.", show_default=False)],
    format: Annotated[str, typer.Option("--format", "-f", help="coco, yolo, voc, labelme, jsonl, records, packs ...")],
    source: From = None,
) -> None:
    """Write a data set in another format, images included.

    \b
      florence2 data convert voc2012/ as-coco/ --format coco
      florence2 data convert as-coco/ for-training/ --format packs

    What the new format cannot hold is counted. The exit code is 1 where records had to be left out.
    """
    from florence2 import data

    dataset = _read(src, source)
    written = data.write(dataset, dst, format)
    typer.echo(f"{dataset.recognised}\n{written}")
    if written.skipped:
        raise typer.Exit(1)


@app.command("show")
def show(
    dataset: Source,
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture to write.")] = Path("sheet.png"),
    count: Annotated[int, typer.Option(min=1, help="How many pictures.")] = 12,
    columns: Annotated[int, typer.Option(min=1, help="How many of them in a row.")] = 4,
    source: From = None,
    augment: Annotated[bool, typer.Option("--augment", help="As training sees them after augmentation.")] = False,
    flip: Chance = None,
    crop: Chance = None,
    shrink: Chance = None,
    colour: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(min=0, max=1, help="With --augment: how strongly."),
    ] = None,
    recipe: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Take the strengths from [augment] of this training recipe."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed, other changes.")] = 0,
) -> None:
    """Draw records with their annotations on one sheet.

    \b
      florence2 data show coco/ -o sheet.png
      florence2 data show train/annotations.jsonl -o sheet.png --count 24
      florence2 data show coco/ -o sheet.png --augment --crop 1 --colour 0.4
      florence2 data show coco/ -o sheet.png --augment --recipe finetune.toml
    """
    from florence2 import data

    given = {"flip": flip, "crop": crop, "shrink": shrink, "colour": colour}
    how = _augment(augment, {name: value for name, value in given.items() if value is not None}, recipe)
    found = _read(dataset, source)
    sheet = data.contact_sheet(found, count, columns, how, seed)
    output.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(output)
    typer.echo(f"{found.recognised}\n{output}: {sheet.width} x {sheet.height} pixels")


def _augment(wanted: bool, given: dict[str, float], recipe: Path | None) -> Augment | None:
    """What the options say; strong changes where they name no strengths. Raises ConfigError where they do not fit."""
    from florence2.data.augment import Augment

    if not wanted:
        if given or recipe:
            named = ", ".join(f"--{name}" for name in (*given, *(["recipe"] if recipe else [])))
            raise ConfigError(f"{named} given without --augment; add it, or leave the others out")
        return None
    if recipe is not None:
        from florence2.training.recipe import Recipe

        if given:
            raise ConfigError(f"both --recipe and --{next(iter(given))} say how strong to augment; give one of them")
        return Recipe.load(recipe).augment
    return Augment(**given) if given else Augment(flip=0.5, crop=0.7, shrink=0.3, colour=0.5)


app.command("scenes")(scenes.scenes)


def _read(source: Path, format: str | None) -> DataSet:
    from florence2 import data

    return data.read(source, format)


def _lengths(model: str | None) -> tuple[Tokenizer, int, int]:
    """(tokenizer, positions of the decoder, positions that an image leaves to a prompt); no weights are read."""
    from florence2.checkpoints import configs
    from florence2.checkpoints.hub import locate
    from florence2.checkpoints.vocabulary import read_tokenizer

    place = locate(model)
    config = configs.read(place.folder, "microsoft", place.name)
    tokenizer = read_tokenizer(place.folder, config.text)
    if tokenizer is None:
        raise TokenizerError(f"{place.folder} holds no tokenizer; name another checkpoint with --model")
    positions = config.text.max_positions
    return tokenizer, positions, positions - configs.image_tokens(config)
