"""One process or many: who I am, what we know together, and how the model is shared. PyTorch's own engines do the work.

``torchrun`` tells each process its rank; without it there is one process and nothing here communicates.
Source: PyTorch DDP (arXiv 2006.15704), FSDP2 (``torch.distributed.fsdp.fully_shard``).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from florence2.errors import ConfigError
from florence2.model.bart import DecoderLayer, EncoderLayer
from florence2.model.davit import Stage
from florence2.training.objective import Objective


@dataclass(frozen=True)
class World:
    device: torch.device
    rank: int = 0
    size: int = 1
    strategy: Literal["ddp", "fsdp"] = "ddp"

    @property
    def leads(self) -> bool:
        """The process that writes logs and files."""
        return self.rank == 0

    @property
    def shards(self) -> bool:
        """Whether each process holds only a part of the weights."""
        return self.size > 1 and self.strategy == "fsdp"

    def share(self, images: int) -> int:
        """Photos of a step that fall to each process. Raises ConfigError where they cannot be divided."""
        if images % self.size:
            raise ConfigError(f"batch.images is {images}, which {self.size} processes cannot share evenly")
        return images // self.size

    def sum(self, values: Tensor) -> Tensor:
        """Over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether one process at least says yes; all must ask."""
        if self.size == 1:
            return flag
        return bool(self.sum(torch.tensor(float(flag), device=self.device)).item() > 0)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()

    @contextlib.contextmanager
    def leader_first(self) -> Iterator[bool]:
        """The leading process goes through the block before all others: it prepares files, they read them."""
        if not self.leads:
            self.wait()
        yield self.leads
        if self.leads:
            self.wait()

    def wrap(self, objective: Objective) -> nn.Module:
        """The objective as it is called in training. Gradients are SUMMED over the processes by :meth:`scale`."""
        if self.size == 1:
            return objective
        if self.strategy == "fsdp":
            return _shard(objective)
        devices = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(objective, device_ids=devices, broadcast_buffers=False)

    @property
    def scale(self) -> float:
        """Factor on a loss whose gradients are wanted as a sum: both engines take the mean over the processes."""
        return float(self.size)

    @contextlib.contextmanager
    def accumulating(self, module: nn.Module, more: bool) -> Iterator[None]:
        """While ``more`` parts of the batch follow, gradients stay where they are."""
        if isinstance(module, DistributedDataParallel) and more:
            with module.no_sync():
                yield
            return
        if self.shards:
            sharded: Any = module
            sharded.set_requires_gradient_sync(not more)
        yield


def join(device: str = "auto", strategy: Literal["ddp", "fsdp"] = "ddp") -> World:
    """The world that ``torchrun`` has made, or one of a single process. Call :func:`leave` at the end.

    GPUs talk through NCCL, processors through gloo. Raises ConfigError for a device that does not exist.
    """
    chosen = device_of(device)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 and "RANK" not in os.environ:
        return World(chosen, strategy=strategy)
    if not dist.is_initialized():
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    return World(chosen, dist.get_rank(), dist.get_world_size(), strategy)


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def device_of(name: str) -> torch.device:
    """Raises ConfigError for a device that does not exist."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"run.device is {name!r}; expected auto, cpu, cuda, cuda:1 or mps") from error
    if device.type == "cuda":
        if not torch.cuda.is_available() or (device.index or local) >= torch.cuda.device_count():
            raise ConfigError(
                f"run.device is {name!r}, torch sees {torch.cuda.device_count()} GPUs; use cpu or another"
            )
        return torch.device("cuda", local if device.index is None else device.index)
    return device


def _shard(objective: Objective) -> nn.Module:
    """Each stage of DaViT and each layer of BART is a unit that is gathered, used and let go; the rest stays whole
    between forward and backward."""
    try:
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
    except ImportError as error:
        raise ConfigError(f"fsdp needs torch 2.6 or newer, found {torch.__version__}; use ddp") from error
    for module in objective.modules():
        if isinstance(module, DecoderLayer):
            # Its keys and values are made from the encoder's states before the layer itself runs.
            fully_shard(module.cross_attention)
            register_fsdp_forward_method(module.cross_attention, "keys_values")
        if isinstance(module, Stage | EncoderLayer | DecoderLayer):
            fully_shard(module)
    fully_shard(objective, reshard_after_forward=False)
    return objective
