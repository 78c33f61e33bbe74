"""``florence2 convert``: a checkpoint in another layout or precision."""

from __future__ import annotations

import dataclasses
from enum import Enum
from pathlib import Path
from typing import Annotated, Optional

import typer

from florence2.cli import common


class Layout(str, Enum):
    florence2 = "florence2"
    microsoft = "microsoft"
    native = "native"


def convert(
    model: Annotated[str, typer.Argument(help="Folder, hub id, or nano for the embedded model.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Folder to write.", show_default=False)],
    layout: Annotated[
        Layout,
        typer.Option(help="florence2: ours; microsoft: for the remote code; native: for transformers."),
    ] = Layout.florence2,
    dtype: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="float32, float16 or bfloat16; default: as stored."),
    ] = None,
    revision: Annotated[Optional[str], typer.Option(help="Branch, tag or commit of a hub id.")] = None,  # noqa: UP045
    adapter: common.Adapter = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a checkpoint that is already there.")] = False,
) -> None:
    """Write a checkpoint in another layout or precision, or with an adapter merged into it.

    \b
      florence2 convert microsoft/Florence-2-base base-native --layout native
      florence2 convert ./finetuned ./for-microsoft --layout microsoft --dtype float16
      florence2 convert microsoft/Florence-2-base ./forms-merged --adapter ./forms

    Every tensor is accounted for. What is loaded from OUT answers as MODEL does, with the adapter where one is given.
    """
    from florence2 import checkpoints

    source = common.source(model)
    kept = dtype or stored_dtype(source, revision)
    # An adapter is added in full precision, and the sum rounded once.
    loaded = checkpoints.load(source, revision, dtype="float32" if adapter else kept, device="cpu")
    if adapter:
        checkpoints.load_adapter(loaded.model, adapter)
        checkpoints.merge_adapter(loaded.model)
        loaded = dataclasses.replace(loaded, calibration=None)  # of the weights before
    folder = checkpoints.save(loaded, out, layout=layout.value, dtype=kept, overwrite=overwrite)
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    merged = f" with {adapter} merged into it" if adapter else ""
    typer.echo(
        f"{loaded.source} ({loaded.layout} layout){merged} is in {folder}: {layout.value} layout, {kept}, "
        f"{size / 1e6:.1f} MB"
    )


def stored_dtype(model: str | None, revision: str | None) -> str:
    """The precision that most numbers of the file have, so that a change of layout changes nothing else."""
    from collections import Counter

    from florence2.checkpoints.hub import locate
    from florence2.checkpoints.weights import read_weights

    place = locate(model, revision)
    numbers: Counter[str] = Counter()
    for tensor in read_weights(place.folder, place.weights).values():
        numbers[str(tensor.dtype).removeprefix("torch.")] += tensor.numel()
    return numbers.most_common(1)[0][0]
