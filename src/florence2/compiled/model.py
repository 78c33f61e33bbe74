"""The model compiled by PyTorch: image encoder and decoder step, behind the same door as the model itself.

A step is compiled once for answers of all lengths, because no length in it is a Python number: the position is a
tensor, the cache has room for tokens to come, and a mask hides what is not written. An answer begins in a small room
and moves to larger ones. One photo or several, one beam or several: each of these four kinds is compiled once.

On CUDA the compiled step is recorded as a CUDA graph, so that a token costs one launch. A graph is bound to its
memory, so encoder keys and caches are padded to a few sizes and come from a store that hands them out again. The
padding and the store are tested with graphs that repeat the step on a CPU; on a GPU this has not been run yet.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from florence2.compiled.marks import any_size
from florence2.config import TextConfig
from florence2.errors import ConfigError
from florence2.model import Cache, Florence2Model, Memory, int8
from florence2.model.bart import FIRST_POSITION, Bart, DecoderLayer, additive_mask

ROOMS = (64, 256, 1024)
"""Tokens that a cache has room for; the last room is as long as the position table of the model."""
BLOCK = 64
"""Encoder keys that graphs read are padded to multiples of so many tokens."""


def step(
    bart: Bart,
    ids: Tensor,
    position: Tensor,
    keys: tuple[Tensor, ...],
    values: tuple[Tensor, ...],
    memory_keys: tuple[Tensor, ...],
    memory_values: tuple[Tensor, ...],
    memory_bias: Tensor,
) -> Tensor:
    """One token of B photos with k beams each: ids (B, k) → hidden states (B, k, D).

    ``position`` (1,) is the token's place in the answer, the same for all. ``keys`` and ``values``, per layer
    (B*k, heads, room, head_dim), are written there. ``memory_keys`` and ``memory_values`` are those of a Memory,
    ``memory_bias`` (B, 1, 1, S) is its additive mask.
    """
    decoder, (B, k) = bart.decoder, ids.shape
    room = torch.arange(keys[0].shape[2], device=ids.device)
    own_bias = additive_mask((room <= position)[None], keys[0].dtype)  # (1, 1, 1, room)
    x = decoder.norm(bart.shared(ids) + decoder.positions(position + FIRST_POSITION))  # (B, k, D)
    for i, layer in enumerate(decoder.layers):
        assert isinstance(layer, DecoderLayer)
        rows = x.view(B * k, 1, -1)
        q, new_keys, new_values = layer.self_attention.project(rows)  # (B*k, heads, 1, head_dim)
        keys[i].index_copy_(2, position, new_keys)
        values[i].index_copy_(2, position, new_values)
        x = layer.self_norm(x + layer.self_attention.read(q, keys[i], values[i], own_bias).view_as(x))
        x = layer.cross_norm(x + layer.cross_attention(x, memory_keys[i], memory_values[i], memory_bias))
        x = layer.ffn_norm(x + layer.ffn(x))
    return cast(Tensor, x)


class Graph(Protocol):
    """A recorded computation that reads and writes the same memory each time."""

    def __init__(self, run: Callable[[], Tensor], device: torch.device) -> None: ...
    def replay(self) -> Tensor: ...


class CudaGraph:
    """Not run on a GPU yet; written after the pattern in PyTorch's documentation of ``torch.cuda.CUDAGraph``."""

    def __init__(self, run: Callable[[], Tensor], device: torch.device) -> None:
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device):
            aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(3):  # kernels are compiled and chosen before anything is recorded
                    run()
            torch.cuda.current_stream().wait_stream(aside)
            with torch.cuda.graph(self._graph):
                self._result = run()

    def replay(self) -> Tensor:
        """The result stays valid until the next replay."""
        self._graph.replay()
        return self._result


class CompiledModel:
    """A :class:`Florence2Model` whose image encoder and decoder step are compiled; the rest runs as it is.

    Everything is compiled when it is first called. Steps of several tokens, as the first of an answer, are not.
    ``backend`` is one of ``torch.compile``; ``graphs`` records steps, by default on CUDA only.
    Raises ConfigError for int8 weights.
    """

    def __init__(self, model: Florence2Model, backend: str = "inductor", graphs: type[Graph] | None = None) -> None:
        if int8.is_quantized(model):
            raise ConfigError(
                "the products of int8 weights are ready-made kernels, which are not compiled; leave compile=True out, "
                'or load the model with dtype="float32"'
            )
        self.model, self.config = model, model.config
        self.device = model.text.logits_bias.device
        if graphs is None and self.device.type == "cuda":
            graphs = CudaGraph
        self._graphs = graphs
        self._recorded: dict[tuple[Tensors, Tensors], tuple[Tensor, Tensor, Graph]] = {}
        self._store = Store(padded=graphs is not None)
        self._see = torch.compile(model.encode_image, backend=backend, dynamic=False)
        self._step = torch.compile(step, backend=backend, dynamic=False)

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """As that of the model. Every input size is compiled for one photo and for several."""
        any_size(pixel_values, 0)
        return self._see(pixel_values)

    def encode(self, image_tokens: Tensor | None, prompt_ids: Tensor, prompt_mask: Tensor | None = None) -> StepMemory:
        return StepMemory(self.model.encode(image_tokens, prompt_ids, prompt_mask), self._store)

    def new_cache(self, rows: int, max_length: int) -> StepCache:
        return StepCache(self.config.text, rows, self.model.text.shared.weight, self._store)

    def decode(
        self, ids: Tensor, memory: StepMemory, cache: StepCache | None = None, words: slice | None = None
    ) -> Tensor:
        """As that of the model."""
        text = self.model.text
        if cache is not None:
            cache.make_room(ids.shape[1], len(ids) // memory.rows)
        if cache is None or ids.shape[1] > 1:
            return text.project(text.decode(ids, memory.plain, cast("Cache | None", cache)), words)
        position = torch.full((1,), cache.length, device=ids.device)
        one = self._run if self._graphs is None else self._replay
        hidden = one(ids.view(memory.rows, -1), position, memory.lease.tensors, cache.lease.tensors)  # (B, k, D)
        cache.length += 1
        return text.project(hidden.flatten(0, 1)[:, None], words)

    def _run(self, ids: Tensor, position: Tensor, memory: Tensors, cache: Tensors) -> Tensor:
        any_size(ids, 0, 1)
        hidden: Tensor = self._step(
            self.model.text, ids, position, cache.keys, cache.values, memory.keys, memory.values, memory.bias
        )
        return hidden

    def _replay(self, ids: Tensor, position: Tensor, memory: Tensors, cache: Tensors) -> Tensor:
        assert self._graphs is not None
        known = self._recorded.get((memory, cache))
        if known is None:
            given, place = ids.new_zeros(len(memory.bias), ids.shape[1]), position.clone()
            graph = self._graphs(lambda: self._run(given, place, memory, cache), self.device)
            known = self._recorded[memory, cache] = (given, place, graph)
        given, place, graph = known
        given[: len(ids)] = ids
        place.copy_(position)
        return graph.replay()[: len(ids)]


@dataclass(frozen=True, eq=False)
class Tensors:
    """Keys and values per layer, (rows, heads, length, head_dim) each, and which of them count."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    bias: Tensor
    """(rows, 1, 1, length) additive; of a cache it is not used."""


class Lease:
    """Tensors in use; they go back to the store with this object."""

    def __init__(self, tensors: Tensors, free: list[Tensors] | None = None) -> None:
        self.tensors = tensors
        if free is not None:
            weakref.finalize(self, free.append, tensors)


class Store:
    """Where keys and values are kept. Under graphs they are padded to few shapes, and the same ones come again."""

    def __init__(self, padded: bool) -> None:
        self.padded = padded
        self._free: dict[tuple[int, int, int, int], list[Tensors]] = {}

    def rows(self, photos: int) -> int:
        """So many photos, or the next power of two."""
        return 1 << (photos - 1).bit_length() if self.padded else photos

    def lend(self, layers: int, shape: tuple[int, int, int, int], like: Tensor) -> Lease:
        """Finite numbers in tensors of this shape; what they were before is not cleared."""
        free = self._free.setdefault(shape, [])
        if free:
            return Lease(free.pop(), free)
        keys, values = (tuple(any_size(like.new_zeros(shape), 0, 2) for _ in range(layers)) for _ in range(2))
        made = Tensors(keys, values, any_size(like.new_zeros(shape[0], 1, 1, shape[2]), 0, 3))
        return Lease(made, free if self.padded else None)

    def hold(self, memory: Memory) -> Lease:
        """What the decoder reads; copied under graphs only."""
        mask = memory.states.new_ones(memory.states.shape[:2], dtype=torch.bool) if memory.mask is None else memory.mask
        bias = additive_mask(mask, memory.states.dtype)  # (B, 1, 1, S)
        if not self.padded:
            for tensor in (*memory.keys, *memory.values):
                any_size(tensor, 0, 2)
            return Lease(Tensors(memory.keys, memory.values, any_size(bias, 0, 3)))
        B, heads, S, head_dim = memory.keys[0].shape
        shape = (self.rows(B), heads, -(-S // BLOCK) * BLOCK, head_dim)
        lease = self.lend(len(memory.keys), shape, memory.keys[0])
        kept = lease.tensors
        for there, here in zip((*kept.keys, *kept.values), (*memory.keys, *memory.values), strict=True):
            there[:B, :, :S] = here
        kept.bias.fill_(float("-inf"))
        kept.bias[:, :, :, 0] = 0  # rows that nobody reads see something too: no NaN
        kept.bias[:B, :, :, :S] = bias
        return lease


class StepMemory:
    """A :class:`Memory` with every key under a mask, as the step reads it."""

    def __init__(self, plain: Memory, store: Store) -> None:
        self.plain, self._store = plain, store
        self.lease = store.hold(plain)

    @property
    def rows(self) -> int:
        return self.plain.rows

    @property
    def states(self) -> Tensor:
        return self.plain.states

    def select(self, rows: Tensor) -> StepMemory:
        """The pairs of these indices, (n,) int64, in this order."""
        return StepMemory(self.plain.select(rows), self._store)


class StepCache:
    """Self-attention keys and values of R decoder rows in a room of fixed length; it stands in for a Cache too."""

    def __init__(self, config: TextConfig, rows: int, like: Tensor, store: Store) -> None:
        self._layers, self._heads = config.decoder_layers, config.decoder_heads
        self._head_dim = config.d_model // config.decoder_heads
        self._rooms = [room for room in ROOMS if room < config.max_positions] + [config.max_positions]
        self._rows, self._like, self._store = rows, like, store
        self._beams = 1
        self._lease: Lease | None = None
        self.length = 0
        """Tokens written so far; a smaller number forgets the last ones."""

    @property
    def lease(self) -> Lease:
        assert self._lease is not None
        return self._lease

    def make_room(self, tokens: int, beams: int) -> None:
        """For so many more; ``beams`` rows belong to one photo."""
        self._beams = beams
        needed = self.length + tokens
        if self._lease is None or self.lease.tensors.keys[0].shape[2] < needed:
            self._move(next(room for room in self._rooms if room >= needed), None)

    def _move(self, room: int, rows: Tensor | None) -> None:
        """Into other tensors, with all rows or with these."""
        shape = (self._store.rows(self._rows // self._beams) * self._beams, self._heads, room, self._head_dim)
        lease = self._store.lend(self._layers, shape, self._like)
        if self._lease is not None:
            for there, here in zip(_both(lease.tensors), _both(self.lease.tensors), strict=True):
                written = here[: self._rows, :, : self.length] if rows is None else here[rows, :, : self.length]
                there[: self._rows, :, : self.length] = written
        self._lease = lease

    def write(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """As that of a Cache, for steps of several tokens."""
        kept, end = self.lease.tensors, self.length + k.shape[2]
        kept.keys[layer][: self._rows, :, self.length : end] = k
        kept.values[layer][: self._rows, :, self.length : end] = v
        return kept.keys[layer][: self._rows, :, :end], kept.values[layer][: self._rows, :, :end]

    def reorder(self, parents: Tensor) -> None:
        """Row i goes on from what row ``parents[i]`` has; (R,) int64."""
        for tensor in _both(self.lease.tensors):
            tensor[: self._rows, :, : self.length] = tensor[parents, :, : self.length]

    def select(self, rows: Tensor) -> None:
        """Keep these rows only, (n,) int64, in this order."""
        self._rows = len(rows)
        self._move(self.lease.tensors.keys[0].shape[2], rows)


def _both(tensors: Tensors) -> tuple[Tensor, ...]:
    return (*tensors.keys, *tensors.values)
