"""BART, the encoder-decoder of Florence-2: post-LayerNorm, learned positions, one embedding for everything.

Source: "BART" (arXiv 1910.13461); Florence-2, section 3.1 (multi-modality encoder-decoder).

The image tokens stand in front of the prompt and are treated as text: they get positions and the embedding
norm. The shared embedding serves the encoder, the decoder and, transposed, as the vocabulary projection.

Decoding is laid out for reuse. ``Memory`` holds what one (photo, prompt) pair leaves for the decoder: the
encoder's states and every layer's cross-attention keys and values, computed once. Several decoder rows (beams,
samples) read the same memory row without copying it. ``Cache`` holds the self-attention keys and values of the
tokens so far, allocated once for the longest answer and written in place.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from florence2.config import TextConfig
from florence2.errors import ConfigError
from florence2.model.attention import attend, in_columns
from florence2.model.dropout import dropout
from florence2.model.linear import Linear, linear, linear_gelu
from florence2.model.packed import VocabularyHead

FIRST_POSITION = 2
"""Row of the position tables that belongs to position 0; rows 0 and 1 are never used."""


@dataclass(frozen=True)
class Memory:
    """What the decoder reads of B encoded (photo, prompt) pairs; S is the longest sequence among them."""

    states: Tensor
    """(B, S, D) output of the encoder."""
    mask: Tensor | None
    """(B, S) bool, True where there is something to see; None where everything is."""
    keys: tuple[Tensor, ...]
    """Per decoder layer (B, heads, S, head_dim)."""
    values: tuple[Tensor, ...]

    @property
    def rows(self) -> int:
        return self.states.shape[0]

    def select(self, rows: Tensor) -> Memory:
        """The pairs of these indices, (n,) int64, in this order."""
        return Memory(
            states=self.states[rows],
            mask=None if self.mask is None else self.mask[rows],
            keys=tuple(k[rows] for k in self.keys),
            values=tuple(v[rows] for v in self.values),
        )


class Cache:
    """Self-attention keys and values of R decoder rows, (layers, R, heads, max_length, head_dim) each."""

    def __init__(
        self, config: TextConfig, rows: int, max_length: int, like: Tensor, dtype: torch.dtype | None = None
    ) -> None:
        shape = (
            config.decoder_layers,
            rows,
            config.decoder_heads,
            max_length,
            config.d_model // config.decoder_heads,
        )
        self.keys = like.new_empty(shape, dtype=dtype)
        self.values = like.new_empty(shape, dtype=dtype)
        self.length = 0
        """Tokens written so far."""

    @property
    def max_length(self) -> int:
        return self.keys.shape[3]

    def write(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Put (R, heads, n, head_dim) behind what is there; return everything up to it."""
        end = self.length + k.shape[2]
        self.keys[layer, :, :, self.length : end] = k
        self.values[layer, :, :, self.length : end] = v
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def reorder(self, parents: Tensor) -> None:
        """Row i goes on from what row ``parents[i]`` has; (R,) int64. Only rows that change their parent are copied."""
        moved = (parents != torch.arange(len(parents), device=parents.device)).nonzero()[:, 0]
        if len(moved) == 0:
            return
        source = parents[moved]
        self.keys[:, moved, :, : self.length] = self.keys[:, source, :, : self.length]
        self.values[:, moved, :, : self.length] = self.values[:, source, :, : self.length]

    def select(self, rows: Tensor) -> None:
        """Keep these rows only, (n,) int64, in this order."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]


class Bart(nn.Module):
    """The shared embedding, the encoder and the decoder."""

    logits_bias: Tensor
    head: nn.Module | None
    """The vocabulary projection where it is not the shared embedding itself: in an adapter, or packed for answering."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.shared = Embedding(config.vocab_size, config.d_model, padding_idx=config.pad_id)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.register_module("head", None)  # behind the embedding, whose name counts for the matrix they share
        self.register_buffer("logits_bias", torch.zeros(config.vocab_size))

    def encode(self, embeds: Tensor, mask: Tensor | None) -> Memory:
        """(B, S, D) embeddings and (B, S) bool → memory of B rows."""
        states = self.encoder(embeds, mask)
        keys, values = self.decoder.cross_keys_values(states)
        return Memory(states, mask, keys, values)

    def decode(self, ids: Tensor, memory: Memory, cache: Cache | None = None) -> Tensor:
        """(R, n) ids → (R, n, D) hidden states. With a cache the ids go on from what it holds."""
        return self.decoder(self.shared(ids), memory, cache)

    def project(self, hidden: Tensor, rows: Tensor | slice | None = None) -> Tensor:
        """(..., D) hidden states → (..., V) logits, or the logits of these vocabulary rows only."""
        if isinstance(self.head, VocabularyHead):
            projected: Tensor = self.head(hidden, rows)
            return projected + (self.logits_bias if rows is None else self.logits_bias[rows])
        if self.head is not None and not getattr(self.head, "disable_adapters", False):
            logits: Tensor = self.head(hidden) + self.logits_bias
            return logits if rows is None else logits[..., rows]
        if rows is None:
            return linear(hidden, self.shared.weight, self.logits_bias)
        return linear(hidden, self.shared.weight[rows], self.logits_bias[rows])


class Embedding(nn.Embedding):
    """The vectors of the words."""

    halves: Tensor | None = None
    """They as float16, which holds them exactly, while the model is packed for answering; the weight is not there."""

    def forward(self, input: Tensor) -> Tensor:
        if self.halves is None:
            return super().forward(input)
        return F.embedding(input, self.halves).to(self.weight.dtype)


class Encoder(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.positions = nn.Embedding(config.max_positions + FIRST_POSITION, config.d_model)
        self.norm = nn.LayerNorm(config.d_model)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.gradient_checkpointing = False

    def forward(self, embeds: Tensor, mask: Tensor | None) -> Tensor:  # (B, S, D), (B, S)
        x = _with_positions(self, embeds, start=0)
        bias = None if mask is None else additive_mask(mask, x.dtype)  # (B, 1, 1, S)
        for layer in self.layers:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, x, bias, use_reentrant=False)
            else:
                x = layer(x, bias)
        return x


class EncoderLayer(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.self_attention = Attention(config.d_model, config.encoder_heads, config.attention_dropout)
        self.self_norm = nn.LayerNorm(config.d_model)
        self.ffn = FeedForward(config, config.encoder_ffn_dim)
        self.ffn_norm = nn.LayerNorm(config.d_model)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        q, k, v = self.self_attention.project(x)
        x = self.self_norm(x + _dropout(self, self.self_attention.read(q, k, v, bias)))
        x = self.ffn_norm(x + _dropout(self, self.ffn(x)))
        return _clamp_half(x)


class Decoder(nn.Module):
    steps_in: torch.dtype | None = None
    """What it computes in, embeddings apart, where that is not the model's type: float32, while bfloat16 weights are
    packed as float16 or as bytes (``packing``)."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.positions = nn.Embedding(config.max_positions + FIRST_POSITION, config.d_model)
        self.norm = nn.LayerNorm(config.d_model)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.gradient_checkpointing = False

    def cross_keys_values(self, states: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """(B, S, D) encoder states → every layer's keys and values, (B, heads, S, head_dim) each."""
        keys, values = [], []
        for layer in self.layers:
            assert isinstance(layer, DecoderLayer)
            k, v = layer.cross_attention.keys_values(states)
            if self.steps_in is not None:
                k, v = k.to(self.steps_in), v.to(self.steps_in)
            if not torch.is_grad_enabled():  # every step reads them: head by head in one run, copied once
                k, v = k.contiguous(), in_columns(v)
            keys.append(k)
            values.append(v)
        return tuple(keys), tuple(values)

    def forward(self, embeds: Tensor, memory: Memory, cache: Cache | None) -> Tensor:  # (R, n, D)
        start = 0 if cache is None else cache.length
        n = embeds.shape[1]
        x = _with_positions(self, embeds if self.steps_in is None else embeds.to(self.steps_in), start)
        bias = None if memory.mask is None else additive_mask(memory.mask, x.dtype)  # (B, 1, 1, S)
        for i, layer in enumerate(self.layers):
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, x, memory.keys[i], memory.values[i], bias, None, i, use_reentrant=False)
            else:
                x = layer(x, memory.keys[i], memory.values[i], bias, cache, i)
        if cache is not None:
            cache.length += n
        return x


class DecoderLayer(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.self_attention = Attention(config.d_model, config.decoder_heads, config.attention_dropout)
        self.self_norm = nn.LayerNorm(config.d_model)
        self.cross_attention = Attention(config.d_model, config.decoder_heads, config.attention_dropout)
        self.cross_norm = nn.LayerNorm(config.d_model)
        self.ffn = FeedForward(config, config.decoder_ffn_dim)
        self.ffn_norm = nn.LayerNorm(config.d_model)

    def forward(
        self, x: Tensor, memory_k: Tensor, memory_v: Tensor, bias: Tensor | None, cache: Cache | None, i: int
    ) -> Tensor:
        q, k, v = self.self_attention.project(x)  # (R, heads, n, head_dim)
        if cache is not None:
            k, v = cache.write(i, k, v)
        x = self.self_norm(x + _dropout(self, self.self_attention.causal(q, k, v)))
        # Rows that share a memory row are folded into its query axis: the keys are read once for all of them.
        folded = x.view(memory_k.shape[0], -1, x.shape[-1])  # (B, k*n, D)
        crossed = self.cross_attention(folded, memory_k, memory_v, bias).view_as(x)
        x = self.cross_norm(x + _dropout(self, crossed))
        return self.ffn_norm(x + _dropout(self, self.ffn(x)))


class Attention(nn.Module):
    """Multi-head attention whose keys and values are made apart, so that they can be kept."""

    joined: nn.Module | None
    """The three projections of one input as one product, where the weights are prepared for answering."""

    def __init__(self, d_model: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.q = Linear(d_model, d_model)
        self.k = Linear(d_model, d_model)
        self.v = Linear(d_model, d_model)
        self.out = Linear(d_model, d_model)
        self.register_module("joined", None)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, n, D) → queries, keys and values of a self-attention, (B, heads, n, head_dim) each."""
        if self.joined is None:
            return self._split(self.q(x)), *self.keys_values(x)
        q, k, v = self.joined(x).chunk(3, -1)
        return self._split(q), self._split(k), self._split(v)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, m, D) → keys and values, (B, heads, m, head_dim) each."""
        return self._split(self.k(x)), self._split(self.v(x))

    def forward(self, x: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """What (B, n, D) finds in keys and values that were made of something else."""
        return self.read(self._split(self.q(x)), k, v, bias)

    def read(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """Every query (B, heads, n, head_dim) over all m keys → (B, n, D); ``bias`` is additive, (B, 1, 1, m)."""
        return self._merge(attend(q, k, v, mask=bias, dropout=self._rate))

    def causal(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Queries that stand at the last n of the m keys; each sees the keys up to its own."""
        n, m = q.shape[2], k.shape[2]
        if n == 1:
            return self._merge(attend(q, k, v, dropout=self._rate))
        if n == m:
            return self._merge(attend(q, k, v, causal=True, dropout=self._rate))
        future = torch.ones(n, m, dtype=torch.bool, device=q.device).triu(m - n + 1)
        bias = torch.zeros(n, m, dtype=q.dtype, device=q.device).masked_fill(future, float("-inf"))
        return self._merge(attend(q, k, v, mask=bias, dropout=self._rate))

    @property
    def _rate(self) -> float:
        return self.dropout if self.training else 0.0

    def _split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def _merge(self, x: Tensor) -> Tensor:
        return self.out(x.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, config: TextConfig, ffn_dim: int) -> None:
        super().__init__()
        self.fc1 = Linear(config.d_model, ffn_dim)
        self.fc2 = Linear(ffn_dim, config.d_model)
        self.dropout = config.activation_dropout

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(_dropout(self, linear_gelu(self.fc1, x)))


def additive_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, S) bool → (B, 1, 1, S), 0 where True and -inf where False."""
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, float("-inf"))
    return bias[:, None, None, :]


def initialise(module: Bart) -> None:
    """Weights from scratch: normal with standard deviation 0.02, biases zero, the row of the padding zero."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=0.02)
        if isinstance(part, nn.Linear):
            nn.init.zeros_(part.bias)
    with torch.no_grad():
        module.shared.weight[module.config.pad_id].zero_()


def _with_positions(stack: Encoder | Decoder, embeds: Tensor, start: int) -> Tensor:
    end = FIRST_POSITION + start + embeds.shape[1]
    if end > stack.positions.num_embeddings:
        raise ConfigError(
            f"the sequence is {end - FIRST_POSITION} tokens long, the position table ends at "
            f"{stack.positions.num_embeddings - FIRST_POSITION}; shorten the prompt or max_new_tokens"
        )
    x = embeds + stack.positions.weight[FIRST_POSITION + start : end]
    return _dropout(stack, stack.norm(x))


def _dropout(module: Encoder | Decoder | EncoderLayer | DecoderLayer | FeedForward, x: Tensor) -> Tensor:
    return dropout(x, module.dropout) if module.training else x


def _clamp_half(x: Tensor) -> Tensor:
    """Keep fp16 states finite, as the reference does; other types pass untouched."""
    if x.dtype != torch.float16 or x.isfinite().all():
        return x
    limit = torch.finfo(torch.float16).max - 1000
    return x.clamp(-limit, limit)
