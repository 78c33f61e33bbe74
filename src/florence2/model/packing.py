"""Weights in the order in which oneDNN multiplies them, for answering on a CPU.

Plain weights lie row by row, and oneDNN rearranges them at every product: a decoder step, whose time is the reading
of weights, then takes a fifth longer in float32 and 1.7 times as long in bfloat16. Packed once, they are read as they
lie. Nothing is rounded, and no layer is there twice: a weight on the meta device stands in the place of the plain one,
which raises an error when it is computed with, and unpacking gives the same bits back. The self-attention's three
projections of one input become one product.

On Intel's processors the gain in float32 is within the noise (``linear.packs_weights``).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from florence2.model.bart import Attention, DecoderLayer, EncoderLayer
from florence2.model.florence2 import Florence2Model
from florence2.model.linear import Linear, packed_linear


def packable(model: Florence2Model) -> set[str]:
    """Names of the weights that are packed."""
    return {f"{name}.weight" for name, layer in _linears(model) if _is_plain(layer)}


Read = Callable[[str, Tensor], Tensor]
"""A weight's name and what the layer has → what is packed."""


def pack(
    model: Florence2Model,
    read: Read = lambda name, weight: weight,
    release: Callable[[str], object] = lambda name: None,
) -> Florence2Model:
    """Packs the linear layers, in place: the model can only answer from then on. Returns it.

    Layers that an adapter has changed stay as they are. A file can be packed as it is read: ``read`` then fetches a
    weight by its name, and ``release`` is told when it is packed.
    """
    with torch.no_grad():
        for name, attention in _self_attentions(model):
            layers = {f"{name}.{part}": getattr(attention, part) for part in PROJECTIONS}
            if all(type(layer) is Linear and _is_plain(layer) for layer in layers.values()):
                attention.joined = Joined(
                    [read(f"{path}.weight", layer.weight) for path, layer in layers.items()],
                    [read(f"{path}.bias", layer.bias) for path, layer in layers.items()],
                )
                for path, layer in layers.items():
                    _take_away(layer, attention.joined.packed.dtype)
                    release(f"{path}.weight")
        for name, layer in _linears(model):
            if _is_plain(layer):
                layer.packed = _packed(read(f"{name}.weight", layer.weight))
                _take_away(layer, layer.packed.dtype)
                release(f"{name}.weight")
        # In float32 the plain matrix, in which words are looked up, is as quick (``linear.linear``).
        if any(layer.packed is not None and layer.packed.dtype == torch.bfloat16 for _, layer in _linears(model)):
            model.text.packed_head = _packed(read("text.shared.weight", model.text.shared.weight))
    return model


def unpack(model: Florence2Model) -> Florence2Model:
    """The weights as they were, in place. Returns the model."""
    model.text.packed_head = None
    for _, attention in _self_attentions(model):
        if isinstance(attention.joined, Joined):
            for part, weight in zip(PROJECTIONS, attention.joined.weights(), strict=True):
                _give_back(getattr(attention, part), weight)
            attention.joined = None
    for _, layer in _linears(model):
        if layer.packed is not None:
            _give_back(layer, layer.packed.to_dense())
            layer.packed = None
    return model


def is_packed(model: Florence2Model) -> bool:
    return any(layer.packed is not None for _, layer in _linears(model))


class Joined(nn.Module):
    """The three projections of a self-attention as one product: (..., D) → (..., 3 D)."""

    def __init__(self, weights: list[Tensor], biases: list[Tensor]) -> None:
        super().__init__()
        self.packed = _packed(torch.cat(weights))
        self.bias = torch.cat(biases).to(self.packed.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return packed_linear(x, self.packed, self.bias)

    def weights(self) -> list[Tensor]:
        """Those of the three, plain again."""
        return [third.clone() for third in self.packed.to_dense().chunk(3)]


PROJECTIONS = ("q", "k", "v")


def _linears(model: Florence2Model) -> list[tuple[str, Linear]]:
    return [(name, module) for name, module in model.named_modules() if type(module) is Linear]


def _self_attentions(model: Florence2Model) -> list[tuple[str, Attention]]:
    layers = ((name, layer) for name, layer in model.named_modules() if isinstance(layer, EncoderLayer | DecoderLayer))
    return [(f"{name}.self_attention", layer.self_attention) for name, layer in layers]


def _is_plain(layer: Linear) -> bool:
    return layer.packed is None and layer.weight.device.type == "cpu"


def _packed(weight: Tensor) -> Tensor:
    made: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
    return made


def _take_away(layer: Linear, dtype: torch.dtype) -> None:
    absent = torch.empty(layer.weight.shape, dtype=dtype, device="meta")
    layer.weight = nn.Parameter(absent, requires_grad=layer.weight.requires_grad)


def _give_back(layer: Linear, weight: Tensor) -> None:
    layer.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
