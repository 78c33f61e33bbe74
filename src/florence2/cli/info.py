"""``florence2 info``: what a checkpoint is, and how it would run here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from florence2.cli import common

if TYPE_CHECKING:
    from florence2.checkpoints import Checkpoint


def info(
    model: Annotated[Optional[str], typer.Argument(help="Folder or hub id; default: the embedded model.")] = None,  # noqa: UP045
    revision: Annotated[Optional[str], typer.Option(help="Branch, tag or commit of a hub id.")] = None,  # noqa: UP045
    device: common.Device = "auto",
    dtype: common.Dtype = "auto",
    json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> None:
    """Show what a checkpoint is and how it runs here.

    \b
      florence2 info
      florence2 info microsoft/Florence-2-large --device cpu

    Device and precision come with the reason why they were chosen.
    """
    from florence2 import checkpoints

    facts = describe(checkpoints.load(common.source(model), revision, dtype=dtype, device=device), device, dtype)
    if json:
        typer.echo(common.to_json(facts))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        typer.echo(f"{name:{width}}  {value if isinstance(value, str) else common.to_json(value)}")


def describe(checkpoint: Checkpoint, device: str = "auto", dtype: str = "auto") -> dict[str, Any]:
    """Facts in the order in which people ask for them. ``device`` and ``dtype`` are what was asked for."""
    config, model = checkpoint.config, checkpoint.model
    vision, text = config.vision, config.text

    def count(part: Any) -> str:
        return f"{sum(parameter.numel() for parameter in part.parameters()):,}"

    return {
        "model": config.name or checkpoint.source,
        "source": checkpoint.source,
        "layout": checkpoint.recognised or checkpoint.layout,
        "parameters": count(model),
        "  image encoder": f"{count(model.vision)}: dims {_row(vision.dims)}, depths {_row(vision.depths)}",
        "  projector": count(model.projector),
        "  encoder-decoder": f"{count(model.text)}: {text.encoder_layers} + {text.decoder_layers} layers, "
        f"width {text.d_model}",
        "input": f"{config.image.size[1]} x {config.image.size[0]} pixels",
        "vocabulary": f"{text.vocab_size:,} tokens",
        "positions": f"{text.max_positions:,}",
        "tokenizer": "present" if checkpoint.tokenizer else "missing",
        "device": f"{checkpoint.device} ({_why_device(checkpoint, device)})",
        "dtype": f"{str(checkpoint.dtype).removeprefix('torch.')} ({_why_dtype(checkpoint, dtype)})",
        "shipped decoding": (
            f"{config.generation.num_beams} beams, no repeated {config.generation.no_repeat_ngram_size}-grams, "
            f"up to {config.generation.max_new_tokens} new tokens"
        ),
    }


def _why_device(checkpoint: Checkpoint, asked: str) -> str:
    if asked != "auto":
        return "as asked"
    if checkpoint.device.type == "cpu":
        return "no CUDA GPU is visible to PyTorch"
    import torch

    return f"the first GPU: {torch.cuda.get_device_name(checkpoint.device)}"


def _why_dtype(checkpoint: Checkpoint, asked: str) -> str:
    if asked != "auto":
        return "as asked"
    if checkpoint.device.type == "cpu":
        return "exact, and not every CPU computes faster in half precision"
    return "half precision, as the model was trained; --dtype float32 for exact parity"


def _row(values: tuple[int, ...]) -> str:
    return "/".join(map(str, values))
