"""A tiny model with an adapter on it, trained for a few steps: what the tests of adapters share."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from florence2.checkpoints.adapters import GROUPS, LoraSettings, add_adapter
from florence2.model import Florence2Model

ALL = LoraSettings(rank=4, alpha=8, dropout=0.0, targets=tuple(GROUPS))
WITHOUT_HEAD = dataclasses.replace(ALL, targets=tuple(group for group in GROUPS if group != "head"))
TOLERANCE = 1e-5
"""Of the largest absolute value."""


def logits(model: Florence2Model, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    pixels = torch.randn(2, 3, 64, 64, generator=generator)
    prompt = torch.randint(4, 1200, (2, 6), generator=generator)
    answer = torch.randint(4, 1200, (2, 5), generator=generator)
    with torch.no_grad():
        return model(pixels.to(dtype), prompt, decoder_ids=answer).logits


def difference(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().max() / right.abs().max())


def train(model: Florence2Model, steps: int = 3) -> None:
    """A few steps on all that learns, hard enough to move the answers far; the model is in evaluation mode behind."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(2, 3, 64, 64, generator=generator)
    ids = torch.randint(4, 1200, (2, 6), generator=generator)
    model.train()
    for _ in range(steps):
        loss = model(pixels, ids, labels=ids).loss
        assert loss is not None
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def trained(model: Florence2Model, settings: LoraSettings = ALL, name: str = "default") -> Florence2Model:
    add_adapter(model, settings, name)
    train(model)
    return model


def modules(model: Florence2Model) -> list[str]:
    return [f"{name} {type(module).__name__}" for name, module in model.named_modules()]


def base_bytes(model: Florence2Model) -> dict[str, Tensor]:
    """The weights of the base by their plain names, whatever is around them."""
    return {
        name.replace(".base_layer", ""): tensor.detach().clone()
        for name, tensor in model.state_dict().items()
        if "lora_" not in name
    }
