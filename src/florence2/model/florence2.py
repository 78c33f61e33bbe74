"""Florence-2: the image encoder, the projector and the language model joined.

Source: "Florence-2: Advancing a Unified Representation for a Variety of Vision Tasks" (arXiv 2311.06242),
section 3.1. Tensors in, tensors out: this floor knows nothing of files, tokenizers or tasks.

    photo → encode_image → (B, T+N, D) ─┐
    prompt ids ─────────────────────────┴→ encode → Memory → decode, token by token → logits

The image tokens of one photo serve any number of prompts, one memory row serves any number of beams.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from florence2.config import Florence2Config
from florence2.model import bart, davit, projector
from florence2.model.bart import Bart, Cache, Memory
from florence2.model.davit import DaViT
from florence2.model.projector import Projector

IGNORE = -100
"""Label of a position that does not count in the loss."""


class Output(NamedTuple):
    loss: Tensor | None
    logits: Tensor
    """(B, L, V)"""


class Florence2Model(nn.Module):
    """Weights are uninitialised-as-PyTorch-does until they are loaded or :func:`initialise` is called."""

    def __init__(self, config: Florence2Config) -> None:
        super().__init__()
        self.config = config
        self.vision = DaViT(config.vision)
        self.projector = Projector(config.vision, config.text.d_model)
        self.text = Bart(config.text)

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """(B, T, 3, H, W), or (B, 3, H, W) for T = 1 → (B, T+N, D) image tokens, N positions of the last map."""
        if pixel_values.dim() == 4:
            pixel_values = pixel_values[:, None]
        B, T = pixel_values.shape[:2]
        maps = self.vision(pixel_values.flatten(0, 1))  # (B*T, h, w, C)
        return self.projector(maps.unflatten(0, (B, T)))

    def encode(self, image_tokens: Tensor | None, prompt_ids: Tensor, prompt_mask: Tensor | None = None) -> Memory:
        """Read the image tokens (B, M, D) and the prompt (B, N) together.

        ``prompt_mask`` (B, N) is True on real tokens and False on padding; None means that all are real.
        ``image_tokens`` may be None for text alone.
        """
        embeds = self.text.shared(prompt_ids)  # (B, N, D)
        mask = prompt_mask
        if image_tokens is not None:
            embeds = torch.cat([image_tokens.to(embeds.dtype), embeds], dim=1)
            if mask is not None:
                seen = mask.new_ones(image_tokens.shape[:2])
                mask = torch.cat([seen, mask], dim=1)
        return self.text.encode(embeds, mask)

    def new_cache(self, rows: int, max_length: int) -> Cache:
        """Room for ``max_length`` tokens in each of ``rows`` decoder rows."""
        return Cache(self.config.text, rows, max_length, self.text.logits_bias, self.text.decoder.steps_in)

    def decode(self, ids: Tensor, memory: Memory, cache: Cache | None = None, words: slice | None = None) -> Tensor:
        """(R, n) ids → (R, n, V) logits, or those of the ids ``words`` only. R is a multiple k of the memory's B rows:
        row r reads memory r // k."""
        return self.text.project(self.text.decode(ids, memory, cache), words)

    def forward(
        self,
        pixel_values: Tensor | None,
        prompt_ids: Tensor,
        prompt_mask: Tensor | None = None,
        labels: Tensor | None = None,
        decoder_ids: Tensor | None = None,
        image_tokens: Tensor | None = None,
    ) -> Output:
        """Teacher forcing: every answer token from the true tokens before it.

        ``labels`` (B, L) are answers ``<s> ... </s>``, -100 where nothing counts; they are shifted right here to
        make the decoder's input, unless ``decoder_ids`` (B, L) is given. ``image_tokens`` replaces
        ``pixel_values`` when the photo is already encoded. The loss is the mean cross-entropy over the labels
        that count, in float32.
        """
        if image_tokens is None and pixel_values is not None:
            image_tokens = self.encode_image(pixel_values)
        memory = self.encode(image_tokens, prompt_ids, prompt_mask)
        if decoder_ids is None:
            if labels is None:
                raise ValueError("forward needs labels, or decoder_ids; neither was given")
            decoder_ids = self.shift_right(labels)
        logits = self.decode(decoder_ids, memory)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORE)
        return Output(loss, logits)

    def shift_right(self, labels: Tensor) -> Tensor:
        """(B, L) labels → decoder input: the start token, then the labels but the last; -100 becomes padding."""
        text = self.config.text
        shifted = labels.new_full(labels.shape, text.decoder_start_id)
        shifted[:, 1:] = labels[:, :-1]
        return shifted.masked_fill(shifted == IGNORE, text.pad_id)


def count(model: nn.Module) -> int:
    """Weights of a model or a part of it."""
    return sum(parameter.numel() for parameter in model.parameters())


def initialise(model: Florence2Model) -> Florence2Model:
    """Random weights for training from scratch, in place; draw them with a seeded torch generator state."""
    davit.initialise(model.vision)
    projector.initialise(model.projector)
    bart.initialise(model.text)
    return model
