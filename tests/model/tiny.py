"""A model small enough for tests that run in milliseconds, but with every part: two windows, two frames, beams."""

from __future__ import annotations

import torch

from florence2.config import Florence2Config, ImageConfig, TextConfig, VisionConfig
from florence2.model import Florence2Model, initialise

TINY = Florence2Config(
    vision=VisionConfig(
        dims=(8, 16, 16, 24),
        depths=(1, 1, 2, 1),
        heads=(1, 2, 2, 3),
        groups=(2, 2, 4, 3),
        window=5,
        max_positions=50,
        max_frames=4,
    ),
    text=TextConfig(
        vocab_size=1200,
        d_model=24,
        encoder_layers=2,
        decoder_layers=2,
        encoder_heads=3,
        decoder_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=40,
        max_positions=96,
    ),
    image=ImageConfig(size=(64, 64)),
    name="tiny",
)


def tiny_model(seed: int = 0, config: Florence2Config = TINY) -> Florence2Model:
    """Random weights, large enough that different inputs give clearly different outputs; eval mode."""
    torch.manual_seed(seed)
    model = initialise(Florence2Model(config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5.0)
    return model
