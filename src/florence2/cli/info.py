"""``florence2 info``: what a checkpoint is, and how it would run here."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from florence2.cli import common

if TYPE_CHECKING:
    from florence2.checkpoints import Checkpoint
    from florence2.checkpoints.adapter_files import AdapterFile


def info(
    model: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(help="Folder or hub id of a model or an adapter; default: the embedded model."),
    ] = None,
    revision: Annotated[Optional[str], typer.Option(help="Branch, tag or commit of a hub id.")] = None,  # noqa: UP045
    device: common.Device = "auto",
    dtype: common.Dtype = "auto",
    json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> None:
    """Show what a checkpoint is and how it runs here, or what an adapter changes.

    \b
      florence2 info
      florence2 info microsoft/Florence-2-large --device cpu
      florence2 info ./my-adapter

    Device and precision come with the reason why they were chosen.
    """
    from florence2 import checkpoints
    from florence2.checkpoints.adapter_files import is_adapter, read_adapter
    from florence2.checkpoints.hub import locate

    source = common.source(model)
    if source is not None and is_adapter(locate(source, revision).folder):
        facts = describe_adapter(read_adapter(source, revision))
    else:
        facts = describe(checkpoints.load(source, revision, dtype=dtype, device=device), device)
    if json:
        typer.echo(common.to_json(facts))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        typer.echo(f"{name:{width}}  {value if isinstance(value, str) else common.to_json(value)}")


def describe(checkpoint: Checkpoint, device: str = "auto") -> dict[str, Any]:
    """Facts in the order in which people ask for them. ``device`` is what was asked for."""
    from florence2.model import count as weights
    from florence2.model import int8

    config, model = checkpoint.config, checkpoint.model
    vision, text = config.vision, config.text

    def count(part: Any) -> str:
        return f"{weights(part):,}"

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
        "dtype": f"{int8.format_of(model)} ({checkpoint.format})",
        "shipped decoding": (
            f"{config.generation.num_beams} beams, no repeated {config.generation.no_repeat_ngram_size}-grams, "
            f"up to {config.generation.max_new_tokens} new tokens"
        ),
    }


def describe_adapter(file: AdapterFile) -> dict[str, Any]:
    """What an adapter is; no model is needed for that."""
    from florence2.checkpoints.adapter_files import HEAD

    kinds = Counter(re.sub(r"\.\d+", "", module) for module in file.ranks)
    tensors = [*file.lora.values(), *file.full.values(), *file.embeddings.values()]
    whole = [*file.full, *file.embeddings]
    return {
        "adapter": file.source,
        "layout": file.layout,
        "made for": file.base or "(it does not say)",
        "method": ("DoRA" if file.dora else "LoRA") + (", rank-stabilised" if file.rslora else ""),
        "rank": ", ".join(map(str, sorted(set(file.ranks.values())))),
        "alpha": ", ".join(f"{alpha:g}" for alpha in sorted(set(file.alphas.values()))),
        "dropout": f"{file.dropout:g}",
        "parameters": f"{sum(tensor.numel() for tensor in tensors):,}",
        "modules": f"{len(file.ranks)}",
        **{f"  {kind}": f"{count}" for kind, count in kinds.items()},
        "whole tensors": f"{len(whole)}: {', '.join(whole)}" if whole else "none",
        "can be merged": "no, it changes the vocabulary projection" if HEAD["florence2"] in file.ranks else "yes",
    }


def _why_device(checkpoint: Checkpoint, asked: str) -> str:
    if asked != "auto":
        return "as asked"
    if checkpoint.device.type == "cpu":
        return "no CUDA GPU is visible to PyTorch"
    import torch

    return f"the first GPU: {torch.cuda.get_device_name(checkpoint.device)}"


def _row(values: tuple[int, ...]) -> str:
    return "/".join(map(str, values))
