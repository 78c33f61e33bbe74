"""``florence2 data scenes``: make a data set of composed scenes."""

from __future__ import annotations

import io
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from florence2.errors import DataError

if TYPE_CHECKING:
    from florence2.data import Record
    from florence2.data.scenes import Scenes


def scenes(
    output: Annotated[Path, typer.Argument(help="A folder that does not exist yet.", show_default=False)],
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many pictures.")] = 1000,
    format: Annotated[str, typer.Option("--format", "-f", help="packs, records, coco, parquet, jsonl ...")] = "packs",
    seed: Annotated[int, typer.Option(help="Another seed, other pictures.")] = 0,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT in pixels.")] = "320x320",
    objects: Annotated[str, typer.Option(help="FEWEST-MOST objects of a picture.")] = "1-5",
    words: Annotated[str, typer.Option(help="FEWEST-MOST pieces of text of a picture.")] = "0-2",
    labels: Annotated[str, typer.Option(help="Only these objects, separated by commas.")] = "",
    cutouts: Annotated[
        Optional[list[Path]],  # noqa: UP045  typer reads this at run time, also on Python 3.10
        typer.Option(help="A data set with outlines whose objects are cut out; may be given several times."),
    ] = None,
    backgrounds: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option(help="A folder of photos to put the objects on; may be given several times."),
    ] = None,
    vocabulary: Annotated[Optional[Path], typer.Option(help="A text file whose lines are printed.")] = None,  # noqa: UP045
    fonts: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option(help="A folder of TrueType fonts; may be given several times. Default: those of the system."),
    ] = None,
    png: Annotated[
        bool, typer.Option("--png", help="Pictures as PNG, pixel for pixel; else JPEG of quality 90.")
    ] = False,
) -> None:
    """Make pictures of which everything is known: boxes, outlines, captions, references, questions, texts.

    \b
      florence2 data scenes scenes/ --count 5000
      florence2 data scenes unseen/ --count 200 --labels rocket,umbrella --seed 1 --format coco
      florence2 data scenes pasted/ --cutouts coco/annotations/instances_val2017.json --backgrounds photos/

    The same options give the same pictures.
    """
    from florence2 import data
    from florence2.data.scenes import Scenes, SceneSettings

    made = Scenes(
        SceneSettings(
            count=count,
            seed=seed,
            size=_two(size, "--size", "x"),
            objects=_two(objects, "--objects", "-"),
            words=_two(words, "--words", "-"),
            labels=tuple(label.strip() for label in labels.split(",") if label.strip()),
            cutouts=tuple(map(str, cutouts or ())),
            backgrounds=tuple(map(str, backgrounds or ())),
            vocabulary=str(vocabulary or ""),
            fonts=tuple(map(str, fonts or ())),
        )
    )
    labels_made = made.labels  # reads what the options name, before there is a folder with nothing in it
    said: Counter[str] = Counter()
    written = data.write(_records(made, said, png), output, format)
    told = ", ".join(f"{said[name]} {name}" for name in ("objects", "texts", "captions", "references", "questions"))
    typer.echo(f"{output}: {count} scenes of {len(labels_made)} labels; {told}\n{written}")


def _records(made: Scenes, said: Counter[str], png: bool) -> Iterator[Record]:
    """Records with their pictures encoded; counts what they say."""
    for number in _with_progress(len(made)):
        record, picture = made[number]
        stream = io.BytesIO()
        if png:
            picture.save(stream, "PNG")
        else:
            picture.save(stream, "JPEG", quality=90, subsampling=0)  # colour in full: letters have thin edges
        said.update(objects=len(record.objects or ()), texts=len(record.text or ()), captions=len(record.captions))
        said.update(references=len(record.refs), questions=len(record.qa))
        yield replace(record, image=stream.getvalue())


def _with_progress(count: int) -> Iterator[int]:
    """A bar on stderr."""
    from rich.console import Console
    from rich.progress import Progress

    redirect = sys.stdout.isatty()
    with Progress(console=Console(stderr=True), transient=True, redirect_stdout=redirect, redirect_stderr=False) as bar:
        yield from bar.track(range(count), description="scenes")


def _two(written: str, option: str, between: str) -> tuple[int, int]:
    """ "320x240" → (320, 240); one number counts for both."""
    found = re.fullmatch(rf"(\d+)(?:{between}(\d+))?", written.strip())
    if not found:
        raise DataError(f"{option} {written}: expected two whole numbers like 1{between}5, or one")
    return int(found[1]), int(found[2] or found[1])
