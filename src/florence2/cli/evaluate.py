"""``florence2 evaluate``: predictions beside truth → the figures of the field."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from florence2.cli import common


def evaluate(
    predictions: Annotated[Path, typer.Option(help="File of predictions.", show_default=False)],
    truth: Annotated[Path, typer.Option(help="File of what is right.", show_default=False)],
    task: Annotated[
        str,
        typer.Option(
            "--task",
            "-t",
            help="detection, segmentation, caption, grounding, classification, vqa or ocr.",
            show_default=False,
        ),
    ],
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object: the names of the figures and their values.")
    ] = False,
    tokenized: Annotated[
        bool, typer.Option("--tokenized", help="Captions are tokens with spaces between, from the PTB tokenizer.")
    ] = False,
) -> None:
    """Score a file of predictions; needs no model.

    Detection and segmentation take COCO's results and ground truth, the others JSON lines with ids:

    \b
      caption          {"id": 1, "text": "a cat"}           {"id": 1, "references": ["a cat", "the cat"]}
      classification   {"id": 1, "label": "cat"}            {"id": 1, "label": "cat"}
      vqa              {"id": 1, "answer": "two"}           {"id": 1, "answers": ["2", "two", "3"]}
      ocr              {"id": 1, "text": "STOP"}            {"id": 1, "text": "STOP"}
                       {"id": 1, "regions": [{"text": "STOP", "quad": [...]}]}   and the same
      grounding        {"id": 1, "boxes": [[0, 0, 9, 9]], "scores": [0.8]}   {"id": 1, "boxes": [[0, 0, 9, 9]]}

    \b
      florence2 evaluate --predictions results.json --truth instances_val2017.json --task detection
      florence2 evaluate --predictions captions.jsonl --truth references.jsonl --task caption --json

    A sample without a prediction counts as an empty one. What does not exist (APs without small objects) is null or -.
    """
    from florence2.evaluation import files

    scored = files.compare(predictions, truth, task, tokenized)
    if scored.missing:
        shown = ", ".join(scored.missing[:5]) + (" ..." if len(scored.missing) > 5 else "")
        typer.echo(
            f"{len(scored.missing)} of {scored.samples} samples have no prediction and count as empty: {shown}",
            err=True,
        )
    if json:
        typer.echo(common.to_json(scored.figures))
        return
    width = max(map(len, scored.figures))
    for name, value in scored.figures.items():
        typer.echo(f"{name:{width}}  {'-' if value is None else f'{value:.4f}'}")
