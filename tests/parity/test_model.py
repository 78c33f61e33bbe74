"""Our model against transformers' native port, on random weights, stage by stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from florence2.config import BASE, Florence2Config
from florence2.model import Florence2Model
from tests.model.faults import forget_window_padding, positions_from_zero, swap_position_tables
from tests.parity.native import SMALL, native_inputs, random_pair, with_vision

SIZES = [(64, 64), (96, 128), (50, 131), (33, 200)]  # square, non-square, and padded windows in every stage
CONFIGS = {
    "window 4": SMALL,
    "window 7": with_vision(SMALL, window=7),
    "window 12, deeper": with_vision(SMALL, window=12, depths=(2, 1, 1, 2)),
}


def worst(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1.0))


def record(modules: dict[str, torch.nn.Module], run: Callable[[], Any]) -> dict[str, Tensor]:
    """The output of each module while ``run`` runs."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            found[name] = output if isinstance(output, Tensor) else output[0]

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    with torch.no_grad():
        result = run()
    for handle in handles:
        handle.remove()
    found["logits"] = result.logits
    if result.loss is not None:
        found["loss"] = result.loss[None]
    return found


def stage_differences(
    native: Any, ours: Florence2Model, config: Florence2Config, size: tuple[int, int], seed: int, rows: int = 2
) -> dict[str, float]:
    """Every stage of a forward pass with labels, on a batch of unequal prompts with its mask."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(rows, 3, *size, generator=generator)
    words = config.text.vocab_size - 1
    prompts = torch.randint(4, words, (rows, 9), generator=generator)
    mask = torch.arange(9) < torch.randint(3, 10, (rows, 1), generator=generator)
    labels = torch.randint(4, words, (rows, 11), generator=generator)
    labels[0, 7:] = -100
    with torch.no_grad():
        image_tokens = ours.encode_image(pixels).shape[1]

    language, tower = native.model.language_model, native.model.vision_tower
    theirs = record(
        {
            **{f"stage {i}": blocks[-1] for i, blocks in enumerate(tower.blocks)},
            "projector": native.model.multi_modal_projector,
            **{f"encoder {i}": layer for i, layer in enumerate(language.encoder.layers)},
            **{f"decoder {i}": layer for i, layer in enumerate(language.decoder.layers)},
        },
        lambda: native(
            pixel_values=pixels,
            labels=labels,
            **native_inputs(config, image_tokens, prompts, mask),
        ),
    )
    mine = record(
        {
            **{f"stage {i}": stage for i, stage in enumerate(ours.vision.stages)},
            "projector": ours.projector,
            **{f"encoder {i}": layer for i, layer in enumerate(ours.text.encoder.layers)},
            **{f"decoder {i}": layer for i, layer in enumerate(ours.text.decoder.layers)},
        },
        lambda: ours(pixels, prompts, mask, labels=labels),
    )
    differences = {}
    for name, value in mine.items():
        other = theirs[name]
        if name.startswith("stage"):
            value = value.permute(0, 3, 1, 2)  # (B, H, W, C) → (B, C, H, W)
        if name.startswith("encoder"):  # what stands on padding is nobody's business
            seen = torch.cat([torch.ones(rows, image_tokens, dtype=torch.bool), mask], 1)[..., None]
            value, other = value * seen, other * seen
        differences[name] = worst(value, other)
    return differences


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_every_stage(name: str, size: tuple[int, int]) -> None:
    config = CONFIGS[name]
    native, ours = random_pair(config, seed=len(name))
    differences = stage_differences(native, ours, config, size, seed=7)
    assert len(differences) == 4 + 1 + 2 + 2 + 2
    assert max(differences.values()) < 1e-5, differences


@pytest.mark.parametrize("fault", [forget_window_padding, swap_position_tables, positions_from_zero])
def test_every_stage_notices_a_fault(fault: Callable[[Florence2Model], None]) -> None:
    native, ours = random_pair(SMALL, seed=1)
    fault(ours)
    differences = stage_differences(native, ours, SMALL, (50, 131), seed=7)
    assert max(differences.values()) > 1e-3


@pytest.mark.slow
def test_full_base_size_once() -> None:
    """231 M parameters, one photo of 768 px, a short prompt and a short answer."""
    native, ours = random_pair(BASE, seed=0, gain=1.0)
    differences = stage_differences(native, ours, BASE, (768, 768), seed=7, rows=1)
    assert max(differences.values()) < 1e-4, differences
