"""``florence2 export``: a checkpoint as ONNX files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from florence2.cli import common

if TYPE_CHECKING:
    from florence2.onnx.check import Agreement


def export(
    model: Annotated[str, typer.Argument(help="Folder, hub id, or nano for the embedded model.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Folder to write.", metavar="FOLDER", show_default=False)],
    int8: Annotated[bool, typer.Option("--int8", help="Also with 8-bit weights: a quarter of the size.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a model that is already there.")] = False,
) -> None:
    """Write a model as ONNX, for onnxruntime here, in browsers and on phones.

    \b
      florence2 export nano nano-onnx --int8
      florence2 run photo.jpg --model nano-onnx --runtime onnx
      florence2 export ./finetuned ./finetuned-onnx --force

    FOLDER gets onnx/vision_encoder.onnx, embed_tokens.onnx, encoder_model.onnx and decoder_model_merged.onnx, with
    the names that optimum and transformers.js use, and the configuration and tokenizer beside them. At the end both
    runtimes answer one picture, and what differs is shown; the exit code is 1 where float32 does not agree.
    """
    from florence2 import checkpoints, onnx
    from florence2.onnx.check import compare

    loaded = checkpoints.load(common.source(model), dtype="float32", device="cpu")
    sizes = onnx.export(loaded, out, int8=int8, overwrite=force)
    for name, size in sizes.items():
        if name.endswith((".onnx", ".onnx_data")):
            typer.echo(f"{size / 1e6:9.1f} MB  {name}")
    formats = ["float32", *(["int8"] if int8 else [])]
    found = {format: compare(loaded, out, format) for format in formats}
    for format, agreement in found.items():
        typer.echo(f"{format}: {_spoken(agreement)}")
    if not found["float32"].exact:
        raise typer.Exit(1)


def _spoken(agreement: Agreement) -> str:
    same = "the same tokens as in PyTorch" if agreement.same_tokens else "OTHER tokens than in PyTorch"
    return (
        f"{same} on a made picture ({agreement.tokens} tokens); logits differ by up to {agreement.logits:.2g}, "
        f"of {agreement.largest:.3g}"
    )
