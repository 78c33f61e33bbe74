"""Snapshots of a run: everything that the next step depends on, each whole or not there at all.

    RUN/snapshots/step-00000500/     weights, optimiser and average, in the sharded format of PyTorch (DCP);
                                     state.json: the step, and the scale of the loss in float16

A snapshot is written beside its place, brought to the disk and renamed. The format knows no number of processes: what
two have written one can read, and the other way round. Frozen weights are not written; they come from the source.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from florence2.errors import CheckpointError
from florence2.training.optimizer import Average
from florence2.training.world import World

_OPTIONS = StateDictOptions(ignore_frozen_params=True)
_LENIENT = StateDictOptions(strict=False, ignore_frozen_params=True)


class Snapshots:
    """The snapshots below a folder."""

    def __init__(self, folder: Path, world: World, keep: int) -> None:
        self.folder, self.world, self.keep = folder, world, keep

    def steps(self) -> list[int]:
        """Of the snapshots that are whole, ascending."""
        names = [path.name for path in self.folder.glob("step-*") if (path / "state.json").is_file()]
        return sorted(int(name.removeprefix("step-")) for name in names if "." not in name)

    def save(
        self,
        step: int,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: Average | None,
        scaler: torch.amp.GradScaler,
    ) -> Path:
        """After ``step`` steps. All processes call it together."""
        path = self.folder / f"step-{step:08d}"
        part = path.with_suffix(".part")
        if self.world.leads:
            self.folder.mkdir(parents=True, exist_ok=True)
            for stale in self.folder.glob("*.part"):
                shutil.rmtree(stale)
        self.world.wait()
        with _quiet():
            state_dict_saver.save(
                _state(module, optimizer, average), checkpoint_id=str(part), no_dist=self.world.size == 1
            )
        self.world.wait()
        if self.world.leads:
            state = {"step": step, "processes": self.world.size, "scaler": scaler.state_dict()}
            write_durably(part / "state.json", json.dumps(state))
            sync_folder(part)
            if path.exists():  # the same step again, after a restart from before it
                shutil.rmtree(path)
            os.replace(part, path)
            sync_folder(self.folder)
            for old in self.steps()[: -self.keep]:
                shutil.rmtree(self.folder / f"step-{old:08d}")
        self.world.wait()
        return path

    def load(
        self,
        step: int,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: Average | None,
        scaler: torch.amp.GradScaler,
    ) -> None:
        """Puts everything back in place. Raises CheckpointError where the snapshot does not belong to this model."""
        path = self.folder / f"step-{step:08d}"
        state = _state(module, optimizer, average)
        try:
            with _quiet():
                state_dict_loader.load(state, checkpoint_id=str(path), no_dist=self.world.size == 1)
        except (CheckpointException, RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"the snapshot {path} does not fit this run ({str(error).strip().splitlines()[0]}); it was made with "
                "another model or another choice of what learns"
            ) from error
        set_model_state_dict(module, state["model"], options=_LENIENT)
        set_optimizer_state_dict(module, optimizer, state["optimizer"], options=_OPTIONS)
        if average is not None:
            average.values = state["average"]
        scale = json.loads((path / "state.json").read_text(encoding="utf-8")).get("scaler")
        if scale and scaler.is_enabled():
            scaler.load_state_dict(scale)


def write_durably(path: Path, content: str) -> None:
    """Writes beside the file, brings it to the disk and renames, so that a reader never meets half a file."""
    part = path.with_name(f".{path.name}.part")
    with part.open("w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def sync_folder(folder: Path) -> None:
    """Brings names, not only contents, to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _state(module: nn.Module, optimizer: torch.optim.Optimizer, average: Average | None) -> dict[str, Any]:
    state: dict[str, Any] = {
        "model": get_model_state_dict(module, options=_OPTIONS),
        "optimizer": get_optimizer_state_dict(module, optimizer, options=_OPTIONS),
    }
    if average is not None:
        state["average"] = average.values
    return state


class _quiet:
    """Keeps DCP's remarks about running without a process group out of the progress."""

    def __enter__(self) -> None:
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.simplefilter("ignore")
        self._level = logging.getLogger("torch.distributed.checkpoint").level
        logging.getLogger("torch.distributed.checkpoint").setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        logging.getLogger("torch.distributed.checkpoint").setLevel(self._level)
        self._warnings.__exit__(None, None, None)
