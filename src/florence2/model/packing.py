"""A model whose weights lie as this processor multiplies them: it answers faster, and can do nothing else.

What is packed, and how, is a plan: for each linear layer the kinds of ``packed`` and ``rounded`` to try, best
first. :func:`exact` makes the one that rounds none of them; ``int8`` has one that rounds. No weight is there twice: one
on the meta device stands in the place of a packed one, of the same shape and type, which raises an error when it is
computed with. :func:`unpack` gives the same bits back. The self-attention's three projections of one input become one
product.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from florence2.model.bart import Attention, Bart, DecoderLayer, EncoderLayer
from florence2.model.davit import ChannelAttention, PatchEmbedding
from florence2.model.florence2 import Florence2Model
from florence2.model.folding import Folded
from florence2.model.linear import Linear, is_plain, packs_weights
from florence2.model.packed import (
    Blocked,
    Halves,
    Packed,
    VocabularyHead,
    multiplies_halves,
    quantized_engine,
)
from florence2.model.rounded import Rounded

Plan = Callable[[str, tuple[int, ...]], Sequence[type[Packed]]]
"""(a layer's name, the shape of its weight) → the kinds to try; none leave it plain. ``HEAD`` is the vocabulary."""
EMBEDDING, HEAD = "text.shared.weight", "text.head"
PROJECTIONS = ("q", "k", "v")


def exact(device: torch.device, dtype: torch.dtype) -> Plan | None:
    """The plan that rounds no weight; None where there is nothing to gain.

    Steps of the decoder are bound by reading its weights; they are kept as float16 where that holds them exactly, and
    its layers compute in float32, in a bfloat16 model too. In float32 the text encoder and the vocabulary are kept so
    as well; in bfloat16 they stay in blocks, whose products of many rows are twice as fast. The image encoder is bound
    by arithmetic.
    """
    if device.type != "cpu":
        return None
    blocked: tuple[type[Packed], ...] = (Blocked,) if packs_weights(device, dtype) else ()
    halved = multiplies_halves() and (dtype == torch.float32 or bool(blocked))
    if not (blocked or halved):
        return None

    def kinds(name: str, shape: tuple[int, ...]) -> Sequence[type[Packed]]:
        if name.endswith(".channel.attention.proj") or (".channel.attention." in name and dtype == torch.float32):
            return ()  # they are multiplied with other small matrices first (``davit.ChannelAttention``)
        halves: tuple[type[Packed], ...] = ()
        if halved and (is_stepwise(name) or (dtype == torch.float32 and name.startswith("text."))):
            halves = (Halves,)
        # A plain float32 matrix, in which words are looked up, is as quick as blocks (``linear.linear``).
        return halves if name == HEAD and dtype == torch.float32 else (*halves, *blocked)

    return kinds


def is_stepwise(name: str) -> bool:
    """Whether every step of an answer computes with this layer, the vocabulary apart."""
    crossing = ".cross_attention." in name and name.endswith((".k", ".v"))
    return name.startswith("text.decoder.") and not crossing


@dataclass(frozen=True)
class Source:
    """Where weights come from, if not from the model: a file can be packed as it is read."""

    read: Callable[[str, Tensor], Tensor] = lambda name, own: own
    """A weight's name and what the layer has → the weight, of whichever float type."""
    check: Callable[[str, Tensor], None] = lambda name, weight: None
    """Is shown each weight, in the model's type where it had to be converted; may raise."""
    done: Callable[[str], None] = lambda name: None
    """Is told that a weight will not be read again."""


def pack(model: Florence2Model, plan: Plan, source: Source | None = None) -> Florence2Model:
    """Packs linear layers and vocabulary, in place. Returns the model.

    Layers that an adapter has changed stay as they are. From a ``source`` come the weights that :func:`packable` names.
    """
    taken: set[str] = set()
    halving = quantized_engine("fbgemm") if multiplies_halves() else contextlib.nullcontext()
    with torch.no_grad(), halving, _Packer(model.text.logits_bias.dtype, source or Source()) as packer:
        # The image encoder comes first: its packing takes all cores, that of the language model may take one each.
        _lay_convolutions(model, torch.channels_last)
        for name, channels in _channel_attentions(model):
            kinds, behind = (plan(f"{name}.{part}", _shape(getattr(channels, part))) for part in ("qkv", "proj"))
            if behind or not (is_plain(channels.qkv) and is_plain(channels.proj)):
                continue
            packer.fold(f"{name}.qkv.weight", channels, kinds)
            taken.update((f"{name}.qkv", f"{name}.proj"))
        for name, layer in _linears(model):
            if is_plain(layer) and not name.startswith("text.") and name not in taken:
                packer.add({name: layer}, plan)
        packer.vocabulary(model.text, plan)
        for name, attention in _self_attentions(model):
            layers = {f"{name}.{part}": getattr(attention, part) for part in PROJECTIONS}
            if all(is_plain(layer) for layer in layers.values()):
                packer.add(layers, plan, attention)
                taken.update(layers)
        for name, layer in _linears(model):
            if is_plain(layer) and name.startswith("text.") and name not in taken:
                packer.add({name: layer}, plan)
    if model.text.logits_bias.dtype == torch.bfloat16 and _steps_in_float32(model):
        model.text.decoder.steps_in = torch.float32
        model.text.decoder.to(torch.float32)  # norms and positions; of the others there are only places
    return model


def packable(model: Florence2Model, plan: Plan) -> set[str]:
    """Names of the weights that a plan packs, if they fit."""
    words = {EMBEDDING} if plan(HEAD, tuple(model.text.shared.weight.shape)) else set()
    return words | {
        f"{name}.weight" for name, layer in _linears(model) if is_plain(layer) and plan(name, _shape(layer))
    }


def unpack(model: Florence2Model) -> Florence2Model:
    """The weights as they were, in place. Returns the model. Rounded weights stay as they are."""
    if is_rounded(model):
        return model
    _lay_convolutions(model, torch.contiguous_format)
    if model.text.decoder.steps_in is not None:
        model.text.decoder.steps_in = None
        model.text.decoder.to(model.text.logits_bias.dtype)
    if isinstance(model.text.head, VocabularyHead):
        model.text.head = None
    if model.text.shared.halves is not None:
        _give_back(model.text.shared, model.text.shared.halves.to(model.text.shared.weight.dtype))
        model.text.shared.halves = None
    for _, channels in _channel_attentions(model):
        if isinstance(channels.folded, Folded) and isinstance(channels.folded.queries_keys, Packed):
            weight = torch.cat([channels.folded.queries_keys.plain(), channels.folded.v_weight])
            _give_back(channels.qkv, weight)
        channels.folded = None
    for _, attention in _self_attentions(model):
        if isinstance(attention.joined, Joined):
            thirds = attention.joined.packed.plain().chunk(3)
            for part, third in zip(PROJECTIONS, thirds, strict=True):
                layer = getattr(attention, part)
                _give_back(layer, third.to(layer.weight.dtype, copy=True))
            attention.joined = None
    for _, layer in _linears(model):
        if layer.packed is not None:
            _give_back(layer, layer.packed.plain().to(layer.weight.dtype))
            layer.packed = None
    return model


def is_packed(model: Florence2Model) -> bool:
    return bool(_kinds(model))


def is_rounded(model: Florence2Model) -> bool:
    return any(packed.rounds for packed in _kinds(model))


def bytes_per_weight(model: Florence2Model) -> float:
    """That a decoder step reads, as most of its layers have it."""
    found = [layer.packed for name, layer in _linears(model) if layer.packed and name.startswith("text.decoder.")]
    return found[0].bytes_per_weight if found else model.text.shared.weight.dtype.itemsize


class Joined(nn.Module):
    """The three projections of a self-attention as one product: (..., D) → (..., 3 D)."""

    def __init__(self, packed: Packed) -> None:
        super().__init__()
        self.packed = packed

    def forward(self, x: Tensor) -> Tensor:
        return self.packed(x)


class _Packer:
    """Reads weights in turn and packs them, those that keep one core busy on several threads."""

    def __init__(self, dtype: torch.dtype, source: Source) -> None:
        self.dtype, self.source = dtype, source
        self.threads = torch.get_num_threads()
        self.pending: dict[Future[Packed], Callable[[Packed], None]] = {}
        self.buffers: list[Tensor] = []

    def __enter__(self) -> _Packer:
        self.pool = ThreadPoolExecutor(self.threads)
        return self

    def __exit__(self, *failure: object) -> None:
        try:
            while self.pending and failure[0] is None:
                self._finish()
        finally:
            self.pool.shutdown(cancel_futures=True)

    def add(self, layers: dict[str, Linear], plan: Plan, attention: Attention | None = None) -> None:
        """Packs a layer, or those of an ``attention`` as one."""
        name, layer = next(iter(layers.items()))
        kinds = plan(name, _shape(layer))
        if not kinds:
            return
        found = {f"{name}.weight": self.source.read(f"{name}.weight", layer.weight) for name, layer in layers.items()}
        kind = next((kind for kind in kinds if all(kind.fits(weight) for weight in found.values())), None)
        if kind is None:
            for (name, weight), each in zip(found.items(), layers.values(), strict=True):
                self._keep(name, weight, each)
            return
        weight, buffer = self._in_one(found, kind)
        biases = [layer.bias.detach() for layer in layers.values() if layer.bias is not None]
        bias = None if not biases else biases[0] if len(biases) == 1 else torch.cat(biases)

        def place(packed: Packed) -> None:
            if attention is None:
                layer.packed = packed
            else:
                attention.joined = Joined(packed)
            for each in layers.values():
                _take_away(each, self.dtype)
            self._finish_with(found, buffer)

        self._make(kind, weight, bias, place)

    def fold(self, name: str, attention: ChannelAttention, kinds: Sequence[type[Packed]]) -> None:
        """Of a channel attention only queries and keys are packed: the values' weight is multiplied with others first.
        For rounded tokens neither is."""
        layer, rounds = attention.qkv, bool(kinds) and kinds[0].rounds
        if rounds:
            self._keep(name, self.source.read(name, layer.weight).detach(), layer)
        if rounds or not kinds:
            attention.folded = Folded.of(layer, rounds)
            return
        weight, buffer = self._in_one({name: self.source.read(name, layer.weight)}, kinds[0])
        last, bias = 2 * len(weight) // 3, layer.bias.detach()
        values = weight[last:].to(self.dtype, copy=True)
        attention.folded = Folded(kinds[0](weight[:last], bias[:last]), values, bias[last:].clone())
        _take_away(layer, self.dtype)
        self._finish_with([name], buffer)

    def vocabulary(self, text: Bart, plan: Plan) -> None:
        """The matrix serves twice: to look words up, kept as float16 where that is exact, and packed to project."""
        kinds = plan(HEAD, tuple(text.shared.weight.shape))
        if text.head is not None or text.shared.weight.is_meta or not kinds:
            return
        found = self.source.read(EMBEDDING, text.shared.weight).detach()
        kind = next((kind for kind in kinds if kind.fits(found)), None)
        rounded = kind is not None and kind.rounds  # from the numbers of the file
        if (self.dtype == torch.float32 or rounded) and Halves.fits(found):
            kept = text.shared.halves = found.to(torch.float16, copy=True)
            weight = kept.float()
            self.source.check(EMBEDDING, weight)
            _take_away(text.shared, self.dtype)
            self.source.done(EMBEDDING)
        else:
            self._keep(EMBEDDING, found, text.shared)
            weight = kept = text.shared.weight.detach()
        if kind is not None:
            make = functools.partial(_words, kind, self.dtype)
            self._make(kind, weight, None, lambda packed: setattr(text, "head", VocabularyHead(kept, packed, make)))

    def _keep(self, name: str, found: Tensor, layer: nn.Linear | nn.Embedding) -> None:
        """Leaves a layer plain. What was read may be a view of a file."""
        if found.data_ptr() != layer.weight.data_ptr():
            _give_back(layer, found.to(self.dtype, copy=True))
            self.source.check(name, layer.weight.detach())
        self.source.done(name)

    def _in_one(self, found: dict[str, Tensor], kind: type[Packed]) -> tuple[Tensor, Tensor | None]:
        """One matrix of the model's numbers, and the buffer that it lies in, where it does. Buffers are used again:
        memory that comes and goes between what stays leaves holes."""
        first, dtype = next(iter(found.values())).detach(), kind.made_of or self.dtype
        if len(found) == 1 and first.dtype == dtype == self.dtype and first.is_contiguous():
            self.source.check(next(iter(found)), first)
            return first, None
        size = sum(weight.numel() for weight in found.values())
        usable = (i for i, buffer in enumerate(self.buffers) if buffer.numel() >= size and buffer.dtype == dtype)
        fitting = next(usable, None)
        buffer = torch.empty(size, dtype=dtype) if fitting is None else self.buffers.pop(fitting)
        together = buffer[:size].view(-1, first.shape[1])
        row = 0
        for name, weight in found.items():
            part = together[row : row + len(weight)]
            part.copy_(weight if dtype == self.dtype or kind.rounds else weight.to(self.dtype))  # rounds the file's own
            self.source.check(name, part)
            row += len(weight)
        return together, buffer

    def _finish_with(self, names: Iterable[str], buffer: Tensor | None) -> None:
        for name in names:
            self.source.done(name)
        if buffer is not None:
            self.buffers.append(buffer)

    def _make(self, kind: type[Packed], weight: Tensor, bias: Tensor | None, place: Callable[[Packed], None]) -> None:
        if not kind.single_threaded:
            place(kind(weight, bias))
            return
        if len(self.pending) > self.threads:
            self._finish()
        self.pending[self.pool.submit(kind, weight, bias)] = place

    def _finish(self) -> None:
        """Puts in its place what is made next."""
        ready, _ = wait(self.pending, return_when=FIRST_COMPLETED)
        for future in ready:
            self.pending.pop(future)(future.result())


def _words(kind: type[Packed], dtype: torch.dtype, words: Tensor) -> Packed:
    with quantized_engine("fbgemm") if kind is Halves else contextlib.nullcontext():
        return kind(words.to(kind.made_of or dtype), None)


def _linears(model: Florence2Model) -> list[tuple[str, Linear]]:
    return [(name, module) for name, module in model.named_modules() if type(module) is Linear]


def _self_attentions(model: Florence2Model) -> list[tuple[str, Attention]]:
    layers = ((name, layer) for name, layer in model.named_modules() if isinstance(layer, EncoderLayer | DecoderLayer))
    return [(f"{name}.self_attention", layer.self_attention) for name, layer in layers]


def _channel_attentions(model: Florence2Model) -> list[tuple[str, ChannelAttention]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, ChannelAttention)]


def _lay_convolutions(model: Florence2Model, layout: torch.memory_format) -> None:
    """The weights of the stages' first convolutions as the maps lie that they read and write; else each call copies
    them, and the result of the first, whose three channels do not tell how they lie."""
    for module in model.vision.modules():
        if isinstance(module, PatchEmbedding):
            module.conv.weight.data = module.conv.weight.data.contiguous(memory_format=layout)


def _kinds(model: Florence2Model) -> list[Packed]:
    joined = (attention.joined for _, attention in _self_attentions(model))
    products = [each.packed for each in joined if isinstance(each, Joined)]
    folded = (channels.folded for _, channels in _channel_attentions(model))
    products += [
        each.queries_keys for each in folded if isinstance(each, Folded) and isinstance(each.queries_keys, Packed)
    ]
    return [*products, *(layer.packed for _, layer in _linears(model) if layer.packed is not None)]


def _steps_in_float32(model: Florence2Model) -> bool:
    """Whether all products of a decoder's step, those with the image's keys apart, are computed in float32."""
    joined = {name: attention.joined for name, attention in _self_attentions(model) if is_stepwise(name)}
    parts = {f"{name}.{part}" for name in joined for part in PROJECTIONS}
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    products = [each.packed if isinstance(each, Joined) else None for each in joined.values()]
    products += [getattr(layer, "packed", None) for name, layer in layers if is_stepwise(name) and name not in parts]
    in_float32 = all(isinstance(packed, Halves | Rounded) for packed in products)
    return in_float32 and isinstance(model.text.head, VocabularyHead)


def _shape(layer: Linear) -> tuple[int, ...]:
    return tuple(layer.weight.shape)


def _take_away(layer: nn.Linear | nn.Embedding, dtype: torch.dtype) -> None:
    absent = torch.empty(layer.weight.shape, dtype=dtype, device="meta")
    layer.weight = nn.Parameter(absent, requires_grad=layer.weight.requires_grad)


def _give_back(layer: nn.Linear | nn.Embedding, weight: Tensor) -> None:
    layer.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
