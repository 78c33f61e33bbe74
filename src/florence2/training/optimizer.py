"""What moves the weights: AdamW with its groups, the learning rate of every step, the running average of the weights.

Source: AdamW, "Decoupled Weight Decay Regularization" (arXiv 1711.05101); Florence-2, section 5 (AdamW, linear warm-up,
cosine decay).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from florence2.model import Florence2Model
from florence2.training.parts import PREFIXES, depth, part_of
from florence2.training.recipe import OptimizerChoice, Schedule


@dataclass(frozen=True)
class Group:
    """Parameters that learn alike."""

    lr: float
    weight_decay: float
    names: tuple[str, ...]


def groups(model: Florence2Model, choice: OptimizerChoice) -> list[Group]:
    """All parameters that learn, by learning rate and weight decay. Norms, biases and embeddings do not decay."""
    embeddings = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    found: dict[tuple[float, float], list[str]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            lr = choice.lr * scale_of(name, choice) * choice.layer_decay ** depth(name, model)
            decays = parameter.dim() > 1 and name not in embeddings
            found.setdefault((lr, choice.weight_decay if decays else 0.0), []).append(name)
    return [Group(lr, decay, tuple(names)) for (lr, decay), names in found.items()]


def scale_of(name: str, choice: OptimizerChoice) -> float:
    """The recipe's factor for a parameter: of its part, or of "text" where the part has none of its own."""
    scales = {str(part): scale for part, scale in choice.lr_scale.items()}
    own = scales.get(part_of(name))
    if own is not None:
        return own
    return scales.get("text", 1.0) if name.startswith(PREFIXES["text"]) else 1.0


def adamw(model: Florence2Model, choice: OptimizerChoice) -> torch.optim.AdamW:
    parameters = dict(model.named_parameters())
    made = [
        {"params": [parameters[name] for name in group.names], "lr": group.lr, "weight_decay": group.weight_decay}
        for group in groups(model, choice)
    ]
    return torch.optim.AdamW(made, betas=choice.betas, eps=choice.eps, fused=_can_fuse(model))


class LearningRate:
    """Sets the learning rate of a step: each group's own rate times ``factor(step)``."""

    def __init__(self, optimizer: torch.optim.Optimizer, peaks: list[float], schedule: Schedule, steps: int) -> None:
        self.optimizer, self.peaks, self.schedule, self.steps = optimizer, peaks, schedule, steps

    def set(self, step: int) -> float:
        """For step 0, 1, ...; returns the factor."""
        now = factor(step, self.schedule, self.steps)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * now
        return now


def factor(step: int, schedule: Schedule, steps: int) -> float:
    """A linear rise over ``warmup`` steps, then the schedule's shape down to its floor at the last step."""
    if step < schedule.warmup:
        return (step + 1) / schedule.warmup
    progress = (step - schedule.warmup) / max(1, steps - schedule.warmup)
    shape = {"cosine": 0.5 * (1 + math.cos(math.pi * progress)), "linear": 1 - progress, "constant": 1.0}
    return schedule.floor + (1 - schedule.floor) * shape[schedule.shape]


class Average:
    """Exponential moving average of the weights that learn, in float32."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: p.detach().clone().float() for name, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """After step ``step``; early averages are short, so that the random start is soon forgotten."""
        keep = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in model.named_parameters():
            if name in self.values:
                self.values[name].lerp_(parameter.float(), 1 - keep)

    @contextlib.contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """The model with the averaged weights; its own come back at the end."""
        parameters = {name: p for name, p in model.named_parameters() if name in self.values}
        own: dict[str, Tensor] = {name: p.detach().clone() for name, p in parameters.items()}
        try:
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.copy_(self.values[name])
            yield
        finally:
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.copy_(own[name])


def _can_fuse(model: nn.Module) -> bool:
    """The fused kernel: one pass over the weights instead of six. Sharded weights (FSDP) take the foreach kernels."""
    return all(type(p) is nn.Parameter and p.device.type in ("cpu", "cuda") for p in model.parameters())
