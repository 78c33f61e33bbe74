"""A decoder step of one row as one kernel, which PyTorch's compiler writes for this CPU.

Such a step is bound by reading the weights, and ready-made products read them at half the rate of the memory: each of
the 37 is over in a tenth of a millisecond, and between them stand 300 calls from Python. Here the whole step is one
loop nest in C++, whose products read rows of float16, bfloat16 or 8-bit weights, widen them in registers and sum in
float32. Inputs are not rounded, so 8-bit weights lose less here than in the ready-made products.

Everything else is left to the model: image, prompt, the first step, beams, batches. Of several rows each would be
multiplied by itself, where ready-made products use a weight for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from florence2.compiled.marks import any_size
from florence2.errors import ConfigError
from florence2.model import Cache, Florence2Model, Memory
from florence2.model.bart import FIRST_POSITION, Attention, Bart, Decoder, DecoderLayer
from florence2.model.linear import Linear
from florence2.model.packed import Halves, Matrix, VocabularyHead
from florence2.model.packing import Joined

OPTIONS: dict[str, Any] = {"cpp.enable_floating_point_contract_flag": "fast"}
"""A product and its sum are one instruction."""
SHORTEST = 2
"""Tokens that must be there before: for one, or none, another kernel would be compiled."""


class Stack(NamedTuple):
    """All weights of the decoder, what it makes of the image apart, each with one more dimension in front: the layers.
    Norms are (layers, 2, D), weight and bias."""

    joined: Matrix
    out: Matrix
    cross_q: Matrix
    cross_out: Matrix
    fc1: Matrix
    fc2: Matrix
    self_norm: Tensor
    cross_norm: Tensor
    ffn_norm: Tensor
    positions: Tensor
    norm: Tensor
    """(2, D)"""


def product(x: Tensor, matrix: Matrix) -> Tensor:
    """W x + b in float32: (K,) → (N,)."""
    made = (matrix.weight.to(torch.float32) * _kept(x)).sum(-1)
    if matrix.scales is not None:
        made = made * matrix.scales
    return made if matrix.bias is None else made + matrix.bias


def step(
    stack: Stack,
    embed: Tensor,
    position: Tensor,
    keys: Tensor,
    values: Tensor,
    memory_keys: tuple[Tensor, ...],
    memory_values: tuple[Tensor, ...],
) -> tuple[Tensor, Tensor, Tensor]:
    """One token: its embedding (1, D) → its hidden state (D,), and its keys and values (layers, heads, head_dim).

    ``position`` (1,) is its place in the answer, ``keys`` and ``values`` (layers, heads, position, head_dim) are those
    of the tokens before it. ``memory_keys`` and ``memory_values``, per layer (1, heads, S, head_dim), are a Memory's.
    """
    heads, new_keys, new_values = keys.shape[1], [], []
    x = _norm(embed.to(torch.float32) + stack.positions[position + FIRST_POSITION], stack.norm)[0]  # (D,)
    for i in range(len(memory_keys)):
        q, k, v = product(x, _at(stack.joined, i)).view(3, heads, 1, -1)
        found = _attend(q, keys[i], values[i], (k, v))
        x = _norm(x + product(found, _at(stack.out, i)), stack.self_norm[i])
        q = product(x, _at(stack.cross_q, i)).view(heads, 1, -1)
        found = _attend(q, memory_keys[i][0], memory_values[i][0])
        x = _norm(x + product(found, _at(stack.cross_out, i)), stack.cross_norm[i])
        x = _norm(x + product(F.gelu(product(x, _at(stack.fc1, i))), _at(stack.fc2, i)), stack.ffn_norm[i])
        new_keys.append(k[:, 0])
        new_values.append(v[:, 0])
    return x, torch.stack(new_keys), torch.stack(new_values)


def _attend(q: Tensor, k: Tensor, v: Tensor, own: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Every head's query (heads, 1, head_dim) over its m keys (heads, m, head_dim), and over the key and value of its
    ``own``, (heads, 1, head_dim) each → (D,).

    Of the softmax only the numerator is multiplied with the values: a division for each of them would take longer.
    """
    q = _kept(q * q.shape[-1] ** -0.5)
    scores = (k.to(torch.float32) * q).sum(-1)  # (heads, m)
    largest = scores.amax(-1, keepdim=True)
    if own is not None:
        score = (own[0] * q).sum(-1)  # (heads, 1)
        largest = torch.maximum(largest, score)
    weights = _kept((scores - largest).exp())
    mixed = (weights[:, :, None] * v.to(torch.float32)).sum(1)  # (heads, head_dim)
    total = weights.sum(-1, keepdim=True)
    if own is not None:
        weight = (score - largest).exp()
        mixed, total = mixed + weight * own[1][:, 0], total + weight
    result: Tensor = mixed / total
    return result.flatten()


def _kept(x: Tensor) -> Tensor:
    """The same numbers, computed once and kept: a compiler that merges loops would compute them anew for each of the
    sums that they are part of. It has them in memory before it looks at that with other strides."""
    return x.as_strided(x.shape, x.stride())


def _at(stacked: Matrix, layer: int) -> Matrix:
    return _apply(stacked, lambda part: part[layer])


def _apply(matrix: Matrix, to: Callable[[Tensor], Tensor]) -> Matrix:
    """To each of its tensors."""
    weight, scales, bias = matrix
    return Matrix(to(weight), None if scales is None else to(scales), None if bias is None else to(bias))


def _norm(x: Tensor, weight_bias: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weight_bias[0], weight_bias[1])


class KernelCache(Cache):
    """One row's, with what its steps read of the image."""

    memory: Memory | None = None
    seen: tuple[tuple[Tensor, ...], tuple[Tensor, ...]] = ((), ())
    """Keys and values of the memory in the model's type, from which a decoder that computes in float32 widened them."""

    def look(self, memory: Memory, dtype: torch.dtype) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        if self.memory is not memory:
            keys, values = (tuple(tensor.to(dtype) for tensor in kept) for kept in (memory.keys, memory.values))
            for tensor in (*keys, *values):
                any_size(tensor, 2)
            self.memory, self.seen = memory, (keys, values)
        return self.seen


class StepKernel:
    """A :class:`Florence2Model` on a CPU whose steps of one row are one kernel; it computes everything else itself.

    They are compiled when they are first asked for. The weights of the decoder are there twice from then on, in the
    model's own form and in rows; what is changed in the model later is not seen.
    Raises ConfigError for models with adapters.
    """

    def __init__(self, model: Florence2Model, backend: str = "inductor") -> None:
        self.model, self.config = model, model.config
        with torch.no_grad():
            self.stack, self.words = gather(model.text.decoder), vocabulary(model.text)
        self.longest = len(self.stack.positions) - FIRST_POSITION
        options = OPTIONS if backend == "inductor" else None
        self._step = torch.compile(step, backend=backend, dynamic=False, options=options)
        self._project = torch.compile(product, backend=backend, dynamic=False, options=options)

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        return self.model.encode_image(pixel_values)

    def encode(self, image_tokens: Tensor | None, prompt_ids: Tensor, prompt_mask: Tensor | None = None) -> Memory:
        return self.model.encode(image_tokens, prompt_ids, prompt_mask)

    def new_cache(self, rows: int, max_length: int) -> KernelCache:
        text = self.model.text
        return KernelCache(self.config.text, rows, max_length, text.logits_bias, text.decoder.steps_in)

    def decode(
        self, ids: Tensor, memory: Memory, cache: KernelCache | None = None, words: slice | None = None
    ) -> Tensor:
        """As that of the model."""
        if ids.numel() > 1 or memory.mask is not None or cache is None or not SHORTEST <= cache.length < self.longest:
            return self.model.decode(ids, memory, cache, words)  # which also says where an answer is too long
        text, n = self.model.text, cache.length
        keys, values = (any_size(kept[:, 0, :, :n], 2) for kept in (cache.keys, cache.values))
        seen_keys, seen_values = cache.look(memory, text.logits_bias.dtype)
        x, cache.keys[:, 0, :, n], cache.values[:, 0, :, n] = self._step(
            self.stack, text.shared(ids[0]), torch.tensor([n]), keys, values, seen_keys, seen_values
        )
        cache.length = n + 1
        chosen = slice(None) if words is None else words
        logits: Tensor = self._project(x, _apply(self.words, lambda part: any_size(part[chosen], 0)))
        return logits.view(1, 1, -1)


def gather(decoder: Decoder) -> Stack:
    """The weights of a decoder, packed or not. Raises ConfigError where a layer is something else, as an adapter is."""
    layers = [layer for layer in decoder.layers if isinstance(layer, DecoderLayer)]

    def stack(of: Callable[[DecoderLayer], nn.Module]) -> Matrix:
        return _together([_matrix(of(layer)) for layer in layers], torch.stack)

    def norms(of: Callable[[DecoderLayer], nn.LayerNorm]) -> Tensor:
        return torch.stack([_both(of(layer)) for layer in layers])

    return Stack(
        joined=_together([_joined(layer.self_attention) for layer in layers], torch.stack),
        out=stack(lambda layer: layer.self_attention.out),
        cross_q=stack(lambda layer: layer.cross_attention.q),
        cross_out=stack(lambda layer: layer.cross_attention.out),
        fc1=stack(lambda layer: layer.ffn.fc1),
        fc2=stack(lambda layer: layer.ffn.fc2),
        self_norm=norms(lambda layer: layer.self_norm),
        cross_norm=norms(lambda layer: layer.cross_norm),
        ffn_norm=norms(lambda layer: layer.ffn_norm),
        positions=decoder.positions.weight.detach().float(),
        norm=_both(decoder.norm),
    )


def vocabulary(text: Bart) -> Matrix:
    """The projection to the words, in rows; without copies where the embedding can be read as it lies."""
    head, bias = text.head, text.logits_bias.float()
    if head is not None and not isinstance(head, VocabularyHead):
        raise _changed("text.head")
    if head is None:
        return Matrix(_narrow(text.shared.weight.detach()), None, bias)
    packed = head.packed[0, len(head.embedding)]
    return packed.rows()._replace(bias=bias) if packed.rounds else Matrix(head.embedding, None, bias)


def _joined(attention: Attention) -> Matrix:
    if isinstance(attention.joined, Joined):
        return attention.joined.packed.rows()
    return _together([_matrix(layer) for layer in (attention.q, attention.k, attention.v)], torch.cat)


def _together(parts: Sequence[Matrix], join: Callable[[list[Tensor]], Tensor]) -> Matrix:
    if len({part.weight.dtype for part in parts}) > 1:  # some are exact in two bytes a number, some are not
        parts = [part._replace(weight=part.weight.float()) for part in parts]
    weights = [part.weight for part in parts]
    scales = [part.scales for part in parts if part.scales is not None]
    biases = [part.bias for part in parts if part.bias is not None]
    return Matrix(join(weights), join(scales) if scales else None, join(biases) if biases else None)


def _matrix(layer: nn.Module) -> Matrix:
    if not isinstance(layer, Linear):
        raise _changed(type(layer).__name__)
    if layer.packed is not None:
        return layer.packed.rows()
    return Matrix(_narrow(layer.weight.detach()), None, layer.bias.detach())


def _narrow(weight: Tensor) -> Tensor:
    """In two bytes a number where that is exact."""
    return weight.half() if weight.dtype == torch.float32 and Halves.fits(weight) else weight


def _both(norm: nn.LayerNorm) -> Tensor:
    return torch.stack((norm.weight, norm.bias)).detach().float()


def _changed(what: str) -> ConfigError:
    return ConfigError(
        f"a step becomes one kernel only where its layers are plain, found {what}; merge the adapters first, or leave "
        "compile=True out"
    )
