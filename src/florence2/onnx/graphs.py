"""The parts of the model as modules that can be traced: tensors in, tensors out, no Python objects between them.

The decoder comes in two parts: what is done once per answer (the cross-attention's keys and values), and what is done
per step. They read the same weights as the model itself.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from florence2.model import Florence2Model
from florence2.model.bart import FIRST_POSITION, Bart, DecoderLayer


class VisionEncoder(nn.Module):
    """(B, 3, H, W) → (B, 1 + h*w, D): image encoder and projector."""

    def __init__(self, model: Florence2Model) -> None:
        super().__init__()
        self.vision, self.projector = model.vision, model.projector

    def forward(self, pixel_values: Tensor) -> Tensor:
        tokens: Tensor = self.projector(self.vision(pixel_values)[:, None])
        return tokens


class EmbedTokens(nn.Module):
    """(B, N) ids → (B, N, D)."""

    def __init__(self, model: Florence2Model) -> None:
        super().__init__()
        self.shared = model.text.shared

    def forward(self, input_ids: Tensor) -> Tensor:
        embeds: Tensor = self.shared(input_ids)
        return embeds


class TextEncoder(nn.Module):
    """(B, S) mask and (B, S, D) embeddings → (B, S, D)."""

    def __init__(self, model: Florence2Model) -> None:
        super().__init__()
        self.encoder = model.text.encoder

    def forward(self, attention_mask: Tensor, inputs_embeds: Tensor) -> Tensor:
        x = _embedded(self.encoder, inputs_embeds, torch.arange(inputs_embeds.shape[1]))
        bias = visible(attention_mask, x.dtype)
        for layer in self.encoder.layers:
            x = layer(x, bias)
        return x


class CrossKeysValues(nn.Module):
    """(R, S, D) encoder states → key and value of each layer in turn, (R, heads, S, head_dim) each."""

    def __init__(self, model: Florence2Model) -> None:
        super().__init__()
        self.decoder = model.text.decoder

    def forward(self, encoder_hidden_states: Tensor) -> tuple[Tensor, ...]:
        keys, values = self.decoder.cross_keys_values(encoder_hidden_states)
        return tuple(tensor for pair in zip(keys, values, strict=True) for tensor in pair)


class DecoderStep(nn.Module):
    """n tokens behind a cache of P, which may be empty → (R, n, V) logits, and keys and values of all P + n tokens."""

    def __init__(self, model: Florence2Model) -> None:
        super().__init__()
        self.text: Bart = model.text

    def forward(
        self, encoder_attention_mask: Tensor, inputs_embeds: Tensor, past: list[Tensor], cross: list[Tensor]
    ) -> tuple[Tensor, ...]:
        """``past`` and ``cross``: key and value of each layer in turn."""
        n, before = inputs_embeds.shape[1], past[0].shape[2]
        own = torch.arange(before, before + n)
        x = _embedded(self.text.decoder, inputs_embeds, own)
        future = torch.arange(before + n)[None, :] > own[:, None]  # (n, P + n)
        causal = torch.zeros(n, before + n, dtype=x.dtype).masked_fill(future, torch.finfo(x.dtype).min)
        bias = visible(encoder_attention_mask, x.dtype)
        present: list[Tensor] = []
        for i, layer in enumerate(self.text.decoder.layers):
            assert isinstance(layer, DecoderLayer)
            q, k, v = layer.self_attention.project(x)
            k, v = torch.cat([past[2 * i], k], dim=2), torch.cat([past[2 * i + 1], v], dim=2)
            present += [k, v]
            x = layer.self_norm(x + layer.self_attention.read(q, k, v, causal))
            x = layer.cross_norm(x + layer.cross_attention(x, cross[2 * i], cross[2 * i + 1], bias))
            x = layer.ffn_norm(x + layer.ffn(x))
        return self.text.project(x), *present


def visible(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, S) int64, 1 on what counts → additive (B, 1, 1, S). The least number instead of -inf: it has a float16."""
    return torch.zeros(mask.shape, dtype=dtype).masked_fill(mask == 0, torch.finfo(dtype).min)[:, None, None]


def _embedded(stack: nn.Module, embeds: Tensor, positions: Tensor) -> Tensor:
    x: Tensor = stack.norm(embeds + stack.positions(FIRST_POSITION + positions))  # type: ignore[operator]
    return x
