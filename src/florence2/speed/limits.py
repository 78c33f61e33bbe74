"""What a machine could do at best: its measured rates, and the operations and bytes that a model needs.

The encoders are bound by arithmetic: operations over the rate of large matrix products. A decoder step is bound by
reading: the bytes of the decoder's weights and keys over the rate of reading memory. Source: the roofline model
(Williams et al. 2009).
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from florence2.checkpoints import configs
from florence2.config import Florence2Config
from florence2.model import Florence2Model
from florence2.model.rounded import RoundedForMany
from florence2.speed import stages
from florence2.speed.timing import Measured, timed

SIDE = 3072
"""Of the square matrices whose product is timed."""
LARGE = 2**29
"""Bytes that are read to measure the rate of memory: far more than any cache holds."""
OPERATIONS = 2 * SIDE**3
"""Multiplications and additions of that product."""


@dataclass(frozen=True)
class Probe:
    """Work that this machine does as fast as it can. It is timed in turn with what it is held against: on a shared
    machine both rates change by the minute."""

    multiply: Callable[[], object]
    """``OPERATIONS`` of them."""
    read: Callable[[], object]
    """``LARGE`` bytes."""

    @classmethod
    def of(cls, device: torch.device, dtype: torch.dtype, rounded: bool = False) -> Probe:
        """``rounded``: products with 8-bit weights."""
        numbers = torch.ones(LARGE // 4, device=device)
        return cls(product_of_bytes() if rounded else fastest_product(device, dtype), numbers.sum)


@dataclass(frozen=True)
class Limits:
    operations: float
    """Per second, multiplications and additions, of the best of several ways to multiply large matrices."""
    bytes: float
    """Per second, read from memory."""

    @classmethod
    def beside(cls, measured: Measured) -> Limits:
        """Medians of the rounds of a stage in which a probe took its turns, under the names of its fields."""
        multiply, read = measured.median("multiply"), measured.median("read")
        assert multiply is not None
        assert read is not None
        return cls(OPERATIONS / multiply, LARGE / read)

    @classmethod
    def middle(cls, rates: Sequence[Limits]) -> Limits:
        """The medians of several."""
        operations = statistics.median(each.operations for each in rates)
        return cls(operations, statistics.median(each.bytes for each in rates))

    def floors(
        self, config: Florence2Config, prompt: int, dtype: torch.dtype, width: float | None = None
    ) -> dict[str, float]:
        """Seconds per unit of the stages that have a floor. ``width``: bytes of a weight, where not those of dtype."""
        step = self.step(config, prompt, dtype, width)
        image, words = self.image_encoder(config), self.prompt_encoder(config, prompt)
        return {
            stages.IMAGE: image,
            stages.PROMPT: words,
            stages.FIRST: image + words + step,
            stages.GREEDY: step,
            stages.BEAMS: step,
        }

    def image_encoder(self, config: Florence2Config) -> float:
        """Seconds per photo."""
        return image_operations(config) / self.operations

    def prompt_encoder(self, config: Florence2Config, prompt: int) -> float:
        """Seconds for a prompt of so many tokens behind the image tokens, the decoder's cross keys included."""
        return prompt_operations(config, prompt) / self.operations

    def step(self, config: Florence2Config, prompt: int, dtype: torch.dtype, width: float | None = None) -> float:
        """Seconds per token: rows of one photo read the same weights and keys at once."""
        weights, keys = step_weights(config), step_keys(config, prompt)
        return (weights * (width or dtype.itemsize) + keys * dtype.itemsize) / self.bytes


def fastest_product(device: torch.device, dtype: torch.dtype, rounds: int = 5) -> Callable[[], object]:
    """A large square product, by the faster of both libraries where there are two."""
    a, b = (torch.randn(SIDE, SIDE, device=device).to(dtype) for _ in range(2))
    ways: list[Callable[[], object]] = [lambda: a @ b]
    if device.type == "cpu" and dtype == torch.float32 and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        ways.append(lambda: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], ""))
    return min(ways, key=lambda way: min(timed(way, device) for _ in range(rounds)))


def product_of_bytes() -> Callable[[], object]:
    """A large square product with 8-bit weights on this processor."""
    weight, x = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
    packed = RoundedForMany(weight, None)
    return lambda: packed(x)


@functools.cache
def image_operations(config: Florence2Config) -> int:
    """Of one photo of the model's own size."""
    with torch.device("meta"):
        model = Florence2Model(config)
        pixels = torch.zeros(1, 1, 3, *config.image.size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.encode_image(pixels)
    return int(counter.get_total_flops())


def prompt_operations(config: Florence2Config, prompt: int) -> int:
    text = config.text
    length = configs.image_tokens(config) + prompt
    products = text.encoder_layers * (8 * text.d_model**2 + 4 * text.d_model * text.encoder_ffn_dim)
    attention = text.encoder_layers * 4 * length * text.d_model
    cross = text.decoder_layers * 4 * text.d_model**2
    return length * (products + attention + cross)


def step_weights(config: Florence2Config) -> int:
    """Weights that a decoder step reads: those of its layers and the vocabulary projection."""
    text = config.text
    layer = 6 * text.d_model**2 + 2 * text.d_model * text.decoder_ffn_dim  # cross keys and values are there already
    return text.decoder_layers * layer + text.vocab_size * text.d_model


def step_keys(config: Florence2Config, prompt: int) -> int:
    """Numbers of the cross-attention's keys and values."""
    text = config.text
    return text.decoder_layers * 2 * (configs.image_tokens(config) + prompt) * text.d_model
