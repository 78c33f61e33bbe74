"""``florence2 calibrate``: scores that are probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer


def calibrate(
    run: Annotated[
        Path, typer.Argument(help="Folder of a run of florence2 evaluate on held-out data.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the checkpoint; calibration.json is put there.")
    ],
    data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Where the data of the run is now.", show_default=False),
    ] = None,
) -> None:
    """Fit a map from score to probability, one per task, on answers that were judged.

    The run must be of the same checkpoint, on data that it was not trained on and that it is not reported on. Ranking,
    and so average precision, stays as it is.

    \b
      florence2 evaluate --model my-model -b packs --data packs/held-out -o runs/held-out
      florence2 calibrate runs/held-out -o my-model
    """
    from florence2.evaluation.benchmarks import find
    from florence2.evaluation.calibrate import fit_run

    calibration = fit_run(run, find, data)
    path = calibration.save(output)
    for task, figures in calibration.notes["tasks"].items():
        typer.echo(
            f"{task}: {figures['judged']} judged, expected calibration error {figures['ece before']:.3f} → "
            f"{figures['ece after']:.3f} on unseen photos"
        )
    for task, why in calibration.notes.get("left out", {}).items():
        typer.echo(f"{task} keeps its scores: {why}")
    typer.echo(f"written to {path}", err=True)
