"""``florence2 bench``: how long a model takes here, stage by stage and call by call."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from florence2.cli import common
from florence2.errors import ConfigError

COLD_ROUNDS = 5

if TYPE_CHECKING:
    from florence2.pipeline import Florence2
    from florence2.speed.limits import Limits
    from florence2.speed.stages import Work
    from florence2.speed.tables import Row
    from florence2.speed.timing import Stage


def bench(
    model: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(help="Folder or hub id; default: the embedded model."),
    ] = None,
    random: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--random", help="Random weights of this size instead: nano, base, large.", show_default=False),
    ] = None,
    peer: Annotated[
        bool, typer.Option("--peer", help="The same in transformers, in turn; it must be installed.")
    ] = False,
    peer_exact: Annotated[
        bool,
        typer.Option("--peer-exact", help="As --peer, with transformers in float32 whatever the model is in."),
    ] = False,
    stage: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--stage", "-s", help="Only stages whose name begins so; repeat it.", show_default=False),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds that count; one before them warms up.")] = 5,
    threads: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Of the processor; default: those that PyTorch takes.", show_default=False),
    ] = None,
    cold: Annotated[bool, typer.Option("--cold", help="Also fresh processes: loading, memory.")] = False,
    batch: Annotated[
        Optional[list[int]],  # noqa: UP045
        typer.Option(
            "--batch", "-b", help="Photos captioned together; repeat it. Default: 4 and 16.", show_default=False
        ),
    ] = None,
    drift: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--drift", help="Packs of annotated photos: accuracy beside float32.", show_default=False),
    ] = None,
    limit: Annotated[int, typer.Option(help="Questions of each benchmark for --drift.")] = 100,
    device: common.Device = "auto",
    dtype: common.Dtype = "auto",
    compile: Annotated[
        bool, typer.Option("--compile", help="With warmup(compile=True); transformers stays as it is.")
    ] = False,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="Write NAME.json and NAME.md of this name.", show_default=False),
    ] = None,
) -> None:
    """Time a model on this machine.

    \b
      florence2 bench
      florence2 bench --random base --peer --dtype float32
      florence2 bench --dtype int8 --drift DATA/eval
      florence2 bench microsoft/Florence-2-large -s "image encoder" -s token

    Medians of rounds, beside the floor of the machine: operations over the rate of a large matrix product,
    for a token bytes over the rate of reading memory. Both rates are measured here, in turn with every stage.
    With --peer transformers takes its turn too; beside int8 it computes in float32, which it has.
    """
    import torch

    from florence2.pipeline import Florence2
    from florence2.speed import random_weights
    from florence2.speed.stages import Work

    if rounds < 1:
        raise ConfigError(f"--rounds is {rounds}; at least one round must count")
    if threads is not None:
        torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = random_weights.write(random, folder / "random") if random else common.source(model)
        sides = Sides(
            Florence2.from_pretrained(source, device=device, dtype=dtype),
            lambda: Florence2.from_pretrained(source, device=device, dtype="float32"),
            folder,
            peer_exact,
        )
        if compile:
            sides.model.warmup(compile=True, batch_size=1)
        work = Work(batches=tuple(batch)) if batch else Work()
        document, markdown = _measure(sides, work, peer or peer_exact, stage or [], rounds, cold, drift, limit)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")
        output.with_suffix(".md").write_text(f"{document['title']}\n\n{markdown}")
        typer.echo(f"{output.with_suffix('.json')}, {output.with_suffix('.md')}")


@dataclass
class Sides:
    """The model that is timed, and what it is held against."""

    model: Florence2
    load_exact: Callable[[], Florence2]
    folder: Path
    """For copies in other layouts."""
    peer_exact: bool = False
    """Transformers computes in float32, whatever the model does."""

    @functools.cached_property
    def exact(self) -> Florence2:
        """The same weights in float32."""
        return self.model if self.model.format == "float32" else self.load_exact()

    @property
    def floats(self) -> Florence2:
        """What transformers computes with: as the model, or in float32 where weights are rounded or that is asked."""
        return self.exact if self.model.format == "int8" or self.peer_exact else self.model

    def saved(self) -> Path:
        """A folder with these weights in our layout."""
        from florence2 import checkpoints
        from florence2.speed.files import file_type

        engine = self.floats.engine
        with engine.plain() as module:
            kept = checkpoints.Checkpoint(module, engine.tokenizer, engine.config)
            return checkpoints.save(kept, self.folder / "ours", dtype=file_type(module), overwrite=True)


def _measure(
    sides: Sides,
    work: Work,
    peer: bool,
    wanted: list[str],
    rounds: int,
    cold: bool,
    drift: Path | None,
    limit: int,
) -> tuple[dict[str, Any], str]:
    """The figures as a document and as Markdown; they are printed on the way."""
    from florence2.speed import stages, tables

    model = sides.model
    machine = tables.machine(model.device)
    numbers = f"{model.format}, compiled" if model.engine.compiled else model.format
    title = f"{model.name}, {numbers}, {machine['device']}, {machine['threads']} threads, {machine['processor']}"
    typer.echo(title)
    every = stages.ours(model, work)
    chosen = [stage for stage in every if not wanted or stage.name.startswith(tuple(wanted))]
    if not chosen:
        known = ", ".join(stage.name for stage in every)
        raise ConfigError(f"no stage begins with {' or '.join(map(repr, wanted))}; known are {known}")
    limits, rows = _times(sides, work, chosen, peer, rounds)
    if cold:
        rows += _cold(sides, peer)
    typer.echo(tables.plain(rows))
    document = {"title": title, "machine": machine, "limits": vars(limits), "rows": [row.to_dict() for row in rows]}
    if peer and model.format != sides.floats.format:
        document["transformers"] = sides.floats.format
    markdown = tables.markdown(rows)
    if drift is not None:
        from florence2.speed import drift as drifting

        found = drifting.measure(
            sides.exact, model, drift, limit, lambda title: typer.echo(f"drift: {title}", err=True)
        )
        table = [drifting.HEAD, *(drifting.cells(one) for one in found)]
        typer.echo(tables.columns(table))
        document["drift"] = [one.to_dict() for one in found]
        markdown += "\n" + tables.grid(table)
    return document, markdown


def _times(sides: Sides, work: Work, chosen: list[Stage], peer: bool, rounds: int) -> tuple[Limits, list[Row]]:
    from florence2.model import packing
    from florence2.speed import peer as native
    from florence2.speed import tables
    from florence2.speed.limits import Limits, Probe
    from florence2.speed.timing import Stage, take_turns

    model = sides.model
    timed = {tables.OURS: chosen}
    if peer:
        theirs = native.load(sides.floats, sides.folder / "native")
        timed[tables.PEER] = native.theirs(theirs, work, [stage.name for stage in chosen])
    rounded = model.format == "int8"
    width = packing.bytes_per_weight(model.engine.module)
    probe = Probe.of(model.device, model.dtype, rounded)
    for side, call in vars(probe).items():
        timed[side] = [Stage(stage.name, call) for stage in chosen]
    rows: list[Row] = []
    rates: list[Limits] = []
    for measured in take_turns(timed, rounds, model.device):
        rates.append(Limits.beside(measured))
        floors = rates[-1].floors(model.engine.config, work.prompt, model.dtype, width)
        rows.append(tables.row(measured, floors))
        typer.echo("\n".join(tables.plain(rows[-1:]).splitlines()[1:]), err=True)
    return Limits.middle(rates), rows


def _cold(sides: Sides, peer: bool) -> list[Row]:
    from florence2.speed import cold, tables

    places = {tables.OURS: (sides.saved(), sides.model.format)}
    if peer:
        places[tables.PEER] = (sides.folder / "native", sides.floats.format)
    device = str(sides.model.device)
    found: dict[str, list[cold.Cold]] = {side: [] for side in places}
    for _ in range(COLD_ROUNDS):
        for side, (place, kind) in places.items():
            found[side].append(cold.start(side, place, device, kind))
    return tables.cold_rows(found)
