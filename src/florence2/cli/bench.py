"""``florence2 bench``: how long a model takes here, stage by stage and call by call."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from florence2.cli import common
from florence2.errors import ConfigError

if TYPE_CHECKING:
    from florence2.pipeline import Florence2
    from florence2.speed.tables import Row

PRESETS = ("nano", "base", "large")


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
    device: common.Device = "auto",
    dtype: common.Dtype = "auto",
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="Write NAME.json and NAME.md of this name.", show_default=False),
    ] = None,
) -> None:
    """Time a model on this machine.

    \b
      florence2 bench
      florence2 bench --random base --peer --dtype float32
      florence2 bench microsoft/Florence-2-large -s "image encoder" -s token

    Medians of rounds, beside the floor of the machine: operations over the rate of a large matrix product,
    for a token bytes over the rate of reading memory. Both rates are measured here. With --peer the sides take turns.
    """
    import torch

    if rounds < 1:
        raise ConfigError(f"--rounds is {rounds}; at least one round must count")
    if threads is not None:
        torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        loaded = (
            _random(random, Path(folder) / "random", device, dtype) if random else common.load(model, device, dtype)
        )
        rows, document = _measure(loaded, Path(folder), peer, stage or [], rounds, cold)
    if output is not None:
        from florence2.speed import tables

        output.parent.mkdir(parents=True, exist_ok=True)
        output.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")
        output.with_suffix(".md").write_text(f"{document['title']}\n\n{tables.markdown(rows)}")
        typer.echo(f"{output.with_suffix('.json')}, {output.with_suffix('.md')}")


def _measure(
    model: Florence2, folder: Path, peer: bool, wanted: list[str], rounds: int, cold: bool
) -> tuple[list[Row], dict[str, Any]]:
    from florence2.speed import peer as native
    from florence2.speed import stages, tables
    from florence2.speed.limits import Limits
    from florence2.speed.timing import take_turns

    work = stages.Work()
    every = stages.ours(model, work)
    chosen = [stage for stage in every if not wanted or stage.name.startswith(tuple(wanted))]
    if not chosen:
        known = ", ".join(stage.name for stage in every)
        raise ConfigError(f"no stage begins with {' or '.join(map(repr, wanted))}; known are {known}")
    machine = tables.machine(model.device)
    kind = str(model.dtype).removeprefix("torch.")
    title = f"{model.name}, {kind}, {machine['device']}, {machine['threads']} threads, {machine['processor']}"
    typer.echo(title)
    sides = {tables.OURS: chosen}
    if peer:
        sides[tables.PEER] = native.theirs(
            native.load(model, folder / "native"), work, [stage.name for stage in chosen]
        )
    limits = Limits.of(model.device, model.dtype)
    floors = limits.floors(model.engine.config, work.prompt, model.dtype)
    rows: list[Row] = []
    for measured in take_turns(sides, rounds, model.device):
        rows.append(tables.row(measured, floors))
        typer.echo("\n".join(tables.plain(rows[-1:]).splitlines()[1:]), err=True)
    if cold:
        rows += _cold(model, folder, peer, kind)
    typer.echo(tables.plain(rows))
    document = {"title": title, "machine": machine, "limits": vars(limits), "rows": [row.to_dict() for row in rows]}
    return rows, document


def _cold(model: Florence2, folder: Path, peer: bool, kind: str) -> list[Row]:
    from florence2 import checkpoints
    from florence2.speed import cold, tables

    engine = model.engine
    kept = checkpoints.Checkpoint(engine.model, engine.tokenizer, engine.config)
    checkpoints.save(kept, folder / "ours", dtype=kind, overwrite=True)
    places = {tables.OURS: folder / "ours"} | ({tables.PEER: folder / "native"} if peer else {})
    found = {
        side: [cold.start(side, place, str(model.device), kind) for _ in range(3)] for side, place in places.items()
    }
    return tables.cold_rows(found)


def _random(preset: str, folder: Path, device: str, dtype: str) -> Florence2:
    """A model of the true size that has learned nothing: times do not depend on what it says."""
    import torch

    from florence2 import checkpoints, config
    from florence2.model import Florence2Model, initialise
    from florence2.pipeline import Florence2

    if preset not in PRESETS:
        raise ConfigError(f"--random {preset}: the sizes are {', '.join(PRESETS)}")
    torch.manual_seed(0)
    chosen = getattr(config, preset.upper())
    made = initialise(Florence2Model(chosen))
    tokenizer = checkpoints.load(None, device="cpu").tokenizer
    assert tokenizer is not None
    if missing := chosen.text.vocab_size - tokenizer.vocab_size:  # as many words, whatever they are
        tokenizer = tokenizer.with_words(f"\N{MIDDLE DOT}{number}" for number in range(missing))
    checkpoints.save(checkpoints.Checkpoint(made, tokenizer, chosen), folder, dtype="float32")
    return Florence2.from_pretrained(folder, device=device, dtype=dtype)
