"""From the map of the image encoder to the image tokens of the language model.

Every position of the map gets a learned 2-D position (its column and its row) and every frame a fixed cosine
embedding; then the mean of each frame and the mean over the frames are put one behind the other, projected
to the width of the language model and normalised. Source: Florence-2, section 3.1 (image encoder, V).

Deviation from the reference: the height and width of the map are known here, so maps need not be square, and
several frames are accepted.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from florence2.config import VisionConfig
from florence2.errors import ImageError
from florence2.model.linear import Linear


class Projector(nn.Module):
    """(B, T, h, w, C) maps of T frames → (B, T + h*w, D): T frame means, then h*w positions, row-major."""

    temporal: Tensor

    def __init__(self, config: VisionConfig, d_model: int) -> None:
        super().__init__()
        dim = config.dims[-1]
        self.columns = nn.Embedding(config.max_positions, dim - dim // 2)
        self.rows = nn.Embedding(config.max_positions, dim // 2)
        # Kept in checkpoints: shipped files hold it rounded to fp16, and their weights were used with that.
        self.register_buffer("temporal", cosine_table(config.max_frames, dim))
        self.projection = Linear(dim, d_model, bias=False)
        self.norm = nn.LayerNorm(d_model)

    def forward(self, x: Tensor) -> Tensor:
        _, T, h, w, _ = x.shape
        longest, frames = self.columns.num_embeddings, self.temporal.shape[0]
        if max(h, w) > longest:
            raise ImageError(
                f"the image gives a {h} x {w} map, the position table ends at {longest}; "
                f"resize it to at most {32 * longest} px a side"
            )
        if frames < T:
            raise ImageError(f"{T} frames were given, the temporal table ends at {frames}; give fewer frames")
        columns = self.columns.weight[:w].expand(h, w, -1)
        rows = self.rows.weight[:h, None].expand(h, w, -1)
        x = x + torch.cat([columns, rows], dim=-1)  # (B, T, h, w, C)
        x = x + self.temporal[:T, None, None].to(x.dtype)
        frame_means = x.mean(dim=(2, 3))  # (B, T, C)
        positions = x.mean(dim=1).flatten(1, 2)  # (B, h*w, C)
        return self.norm(self.projection(torch.cat([frame_means, positions], dim=1)))


def cosine_table(length: int, dim: int) -> Tensor:
    """P[t, 2i] = sin(t ω_i), P[t, 2i+1] = cos(t ω_i), ω_i = 10000^(-2i/dim); (length, dim) float32."""
    frequencies = torch.exp(torch.arange(0, dim, 2) * (-math.log(10000.0) / dim))
    angles = torch.arange(length)[:, None] * frequencies  # (length, ⌈dim/2⌉)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :dim]


def initialise(module: Projector) -> None:
    """Weights from scratch. The reference leaves its projection uninitialised; normal, as everywhere else."""
    nn.init.normal_(module.projection.weight, std=0.02)
    nn.init.normal_(module.columns.weight, std=0.02)
    nn.init.normal_(module.rows.weight, std=0.02)
