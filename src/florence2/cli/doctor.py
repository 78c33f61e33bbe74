"""``florence2 doctor``: what would fail with this checkpoint or on this machine, and how to mend it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional

import typer

from florence2.cli import common
from florence2.errors import Florence2Error

if TYPE_CHECKING:
    from florence2.checkpoints import Checkpoint

OPTIONAL = {
    "supervision": "answers as supervision.Detections; pip install 'florence2[supervision]'",
    "transformers": "only for comparing with the native port; pip install transformers",
}


@dataclass(frozen=True)
class Finding:
    status: Literal["ok", "note", "fails"]
    what: str
    detail: str


def doctor(
    model: Annotated[Optional[str], typer.Argument(help="Folder or hub id; default: the embedded model.")] = None,  # noqa: UP045
    revision: Annotated[Optional[str], typer.Option(help="Branch, tag or commit of a hub id.")] = None,  # noqa: UP045
    device: common.Device = "auto",
    dtype: common.Dtype = "auto",
) -> None:
    """Find what would fail here, and how to mend it.

    \b
      florence2 doctor
      florence2 doctor ./my-finetuned-model

    The machine is looked at, then the checkpoint, from its files to one answer. Exit code 1 where something fails.
    """
    failed = False
    marks = {"ok": ("ok   ", "green"), "note": ("note ", "yellow"), "fails": ("FAILS", "red")}
    for finding in (*_machine(), *_checkpoint(common.source(model), revision, device, dtype)):
        mark, colour = marks[finding.status]
        typer.echo(f"{typer.style(mark, fg=colour)}  {finding.what}: {finding.detail}")
        failed |= finding.status == "fails"
    if failed:
        raise typer.Exit(1)


def _machine() -> Iterator[Finding]:
    import torch
    from PIL import features

    yield Finding("ok", "Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield Finding("ok", "PyTorch", torch.__version__)
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            memory = torch.cuda.get_device_properties(index).total_memory / 2**30
            yield Finding("ok", f"cuda:{index}", f"{torch.cuda.get_device_name(index)}, {memory:.0f} GB")
    elif torch.version.cuda:
        yield Finding(
            "note", "GPU", "this PyTorch was built for CUDA and sees no GPU; check the driver with nvidia-smi"
        )
    else:
        capability = torch.backends.cpu.get_cpu_capability()
        yield Finding("ok", "CPU", f"{torch.get_num_threads()} threads, {capability}; no GPU is needed")
    lacking = [name for name in ("jpg", "zlib", "webp") if not features.check(name)]
    if lacking:
        yield Finding("fails", "Pillow", f"cannot read {', '.join(lacking)}; pip install -U --force-reinstall pillow")
    else:
        yield Finding("ok", "Pillow", f"{importlib.metadata.version('pillow')} reads JPEG, PNG and WebP")
    for name, purpose in OPTIONAL.items():
        there = importlib.util.find_spec(name) is not None
        yield Finding(
            "ok" if there else "note", name, importlib.metadata.version(name) if there else f"absent: {purpose}"
        )
    yield from _hub()


def _hub() -> Iterator[Finding]:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(there).free / 2**30
    if not os.access(there, os.W_OK):
        yield Finding("note", "hub cache", f"{cache} cannot be written; set HF_HOME to a folder that can")
    elif free < 4:
        yield Finding("note", "hub cache", f"{free:.1f} GB are free at {cache}, the large model needs 1.6; set HF_HOME")
    else:
        yield Finding("ok", "hub cache", f"{cache}, {free:.0f} GB free")
    if constants.HF_HUB_OFFLINE:
        yield Finding("note", "hub", "HF_HUB_OFFLINE is set: only models in the cache and local folders load")


def _checkpoint(model: str | None, revision: str | None, device: str, dtype: str) -> Iterator[Finding]:
    """Step by step, and no further than the first step that fails: the later ones would repeat it."""
    from florence2 import checkpoints
    from florence2.checkpoints.hub import locate
    from florence2.checkpoints.layouts import recognise
    from florence2.checkpoints.weights import read_weights
    from florence2.cli.info import describe

    step = "files"
    try:
        place = locate(model, revision)
        tensors = read_weights(place.folder, place.weights)
        size = sum(t.numel() * t.element_size() for t in tensors.values()) / 1e6
        kinds = ", ".join(sorted({str(t.dtype).removeprefix("torch.") for t in tensors.values()}))
        yield Finding("ok", step, f"{place.name}: {len(tensors)} tensors, {size:,.0f} MB of {kinds}")
        step = "layout"
        yield Finding("ok", step, str(recognise(tensors)))
        step = "weights"
        loaded = checkpoints.load(model, revision, dtype=dtype, device=device)
        yield Finding("ok", step, "every tensor is there, has its shape, and is finite")
        facts = describe(loaded, device)
        yield Finding("ok", "runs on", f"{facts['device']}, {facts['dtype']}")
        step = "tokenizer"
        yield from _answers(loaded)
    except Florence2Error as error:
        yield Finding("fails", step, str(error))


def _answers(loaded: Checkpoint) -> Iterator[Finding]:
    """One answer to a grey picture: nothing about its truth, all about whether the parts fit together."""
    from PIL import Image

    from florence2.pipeline import Florence2

    model = Florence2(loaded)
    yield Finding("ok", "tokenizer", f"{model.tokenizer.vocab_size:,} tokens, all marks of Florence-2 among them")
    scene = model.encode(Image.new("RGB", (64, 48), "grey"))
    if not bool(scene.tokens.isfinite().all()):
        yield Finding("fails", "image encoder", f"gives NaN or infinity in {model.dtype}; use --dtype float32")
        return
    room = model.config.text.max_positions - scene.tokens.shape[1]
    if room < 64:
        yield Finding(
            "note", "prompts", f"only {room} of {model.config.text.max_positions} positions are left for them"
        )
    answer = model.run(scene, "<CAPTION>", max_new_tokens=20, raw=True)
    written = len(answer.raw.token_ids) if answer.raw else 0
    yield Finding("ok", "answers", f"one caption of {written} tokens was decoded")
