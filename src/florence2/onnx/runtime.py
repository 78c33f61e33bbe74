"""An export in onnxruntime, behind the same door as the model itself: the pipeline sees no difference.

What is kept between two steps is what the files call present.* and past_key_values.*; each decoder row has its own
copy of the cross-attention's keys and values, since exports know one memory per row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from florence2.config import Florence2Config
from florence2.errors import ImageError
from florence2.onnx import names
from florence2.onnx.session import Session


@dataclass(frozen=True)
class OnnxMemory:
    """What the decoder reads of B encoded (photo, prompt) pairs."""

    states: Tensor
    """(B, S, D)"""
    mask: Tensor
    """(B, S) int64, 1 where there is something to see."""

    @property
    def rows(self) -> int:
        return self.states.shape[0]

    def select(self, rows: Tensor) -> OnnxMemory:
        """The pairs of these indices, (n,) int64, in this order."""
        return OnnxMemory(self.states[rows], self.mask[rows])


@dataclass
class OnnxCache:
    """Keys and values of the tokens so far and of what they read, key and value of each layer in turn."""

    own: list[Tensor] = field(default_factory=list)
    """(R, heads, length, head_dim); none before the first step."""
    cross: list[Tensor] = field(default_factory=list)
    """(R, heads, S, head_dim)"""

    @property
    def length(self) -> int:
        """Tokens written so far; a smaller number forgets the last ones."""
        return self.own[0].shape[2] if self.own else 0

    @length.setter
    def length(self, tokens: int) -> None:
        self.own = [tensor[:, :, :tokens] for tensor in self.own]

    def reorder(self, parents: Tensor) -> None:
        """Row i goes on from what row ``parents[i]`` has; (R,) int64, of the same memory row."""
        self.own = [tensor[parents] for tensor in self.own]

    def select(self, rows: Tensor) -> None:
        """Keep these rows only, (n,) int64, in this order."""
        self.own = [tensor[rows] for tensor in self.own]
        self.cross = [tensor[rows] for tensor in self.cross]


class Decoder:
    """The merged decoder file, or the pair that it may be split into."""

    def __init__(self, config: Florence2Config, first: Session, following: Session) -> None:
        self.first, self.next = first, following
        text = config.text
        self.layers, self.heads, self.head_dim = (
            text.decoder_layers,
            text.decoder_heads,
            text.d_model // text.decoder_heads,
        )
        self.own, self.cross = (names.present(kind, self.layers) for kind in ("decoder", "encoder"))
        self.past = [*names.past("decoder", self.layers), *names.past("encoder", self.layers)]
        self.several = names.SEVERAL in first.metadata
        """Whether several tokens may be read at once behind others."""

    def step(self, embeds: Tensor, states: Tensor, mask: Tensor, cache: OnnxCache) -> Tensor:
        """(R, n, D) embeddings → (R, n, V) logits; the cache is written."""
        begins = cache.length == 0
        given = {names.EMBEDS: embeds, names.MEMORY_STATES: states, names.MEMORY_MASK: mask}
        given[names.USE_CACHE] = torch.tensor([not begins])
        nothing = embeds.new_zeros(embeds.shape[0], self.heads, 0, self.head_dim)
        kept = [nothing] * len(self.past) if begins else [*cache.own, *cache.cross]
        given.update(zip(self.past, kept, strict=True))
        wanted = [names.LOGITS, *self.own, *(self.cross if begins else [])]
        logits, *found = (self.first if begins else self.next).run(given, wanted)
        cache.own = found[: 2 * self.layers]
        if begins:
            cache.cross = found[2 * self.layers :]
        return logits


class OnnxModel:
    """The four sessions as one model; tensors are on the CPU, whatever device the sessions compute on."""

    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(
        self, config: Florence2Config, vision: Session, embed: Session, encoder: Session, decoder: Decoder, format: str
    ) -> None:
        self.config = config
        self.format = format
        """The precision of the weights, by the ending of the files."""
        self.vision, self.embed, self.encoder, self.decoder = vision, embed, encoder, decoder

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """(B, 1, 3, H, W) or (B, 3, H, W) → (B, M, D) image tokens.

        Raises ImageError for another size than that of the export, and for several frames.
        """
        if pixel_values.dim() == 5:
            if pixel_values.shape[1] != 1:
                raise ImageError(f"{pixel_values.shape[1]} frames were given, exports to ONNX take one photo at a time")
            pixel_values = pixel_values[:, 0]
        fixed = self.vision.shapes[names.PIXELS][-2:]
        if any(
            isinstance(side, int) and side != found for side, found in zip(fixed, pixel_values.shape[-2:], strict=True)
        ):
            raise ImageError(
                f"the photo was made {_size(pixel_values.shape[-2:])} pixels, the export takes {_size(fixed)} only; "
                "leave out size=..., or export the model at that size"
            )
        (features,) = self.vision.run({names.PIXELS: pixel_values}, [names.IMAGE_FEATURES])
        return features

    def encode(self, image_tokens: Tensor | None, prompt_ids: Tensor, prompt_mask: Tensor | None = None) -> OnnxMemory:
        """Read the image tokens (B, M, D) and the prompt (B, N), of which ``prompt_mask`` is True on real tokens."""
        embeds = self._embedded(prompt_ids)
        mask = torch.ones_like(prompt_ids) if prompt_mask is None else prompt_mask.long()
        if image_tokens is not None:
            embeds = torch.cat([image_tokens, embeds], dim=1)
            mask = torch.cat([mask.new_ones(image_tokens.shape[:2]), mask], dim=1)
        (states,) = self.encoder.run({names.EMBEDS: embeds, names.MASK: mask}, [names.STATES])
        return OnnxMemory(states, mask)

    def new_cache(self, rows: int, max_length: int) -> OnnxCache:
        """It grows with each step: neither its rows nor its length need to be known."""
        return OnnxCache()

    def decode(
        self, ids: Tensor, memory: OnnxMemory, cache: OnnxCache | None = None, words: slice | None = None
    ) -> Tensor:
        """(R, n) ids → (R, n, V) logits, or those of the ids ``words`` only. R is a multiple k of the memory's B rows:
        row r reads memory r // k."""
        cache = OnnxCache() if cache is None else cache
        B, R = memory.rows, ids.shape[0]
        k = R // B
        together = ids.view(B, k, -1)
        if cache.length == 0 and k > 1 and bool((together == together[:, :1]).all()):
            # Beams begin alike: one of each is enough.
            logits = self._steps(together[:, 0], memory.states, memory.mask, cache)
            rows = torch.arange(B).repeat_interleave(k)
            cache.select(rows)
            logits = logits[rows]
        else:
            states = memory.states.repeat_interleave(k, 0) if k > 1 and cache.length == 0 else memory.states
            logits = self._steps(ids, states, memory.mask.repeat_interleave(k, 0), cache)
        # Rows of the embedding that no word reaches, as native exports have them, are no tokens.
        return logits[..., words or slice(self.config.text.vocab_size)]

    def _steps(self, ids: Tensor, states: Tensor, mask: Tensor, cache: OnnxCache) -> Tensor:
        """All ids at once where the export allows it, else one behind the other."""
        size = ids.shape[1] if self.decoder.several else 1
        parts = torch.split(ids, size, dim=1)
        logits = [self.decoder.step(self._embedded(part), states, mask, cache) for part in parts]
        return torch.cat(logits, dim=1) if len(logits) > 1 else logits[0]

    def _embedded(self, ids: Tensor) -> Tensor:
        (embeds,) = self.embed.run({names.IDS: ids}, [names.EMBEDS])
        return embeds

    def eval(self) -> OnnxModel:
        """As of a module; exports know nothing else."""
        return self


def _size(sides: Sequence[object]) -> str:
    height, width = sides
    return f"{width} x {height}"
