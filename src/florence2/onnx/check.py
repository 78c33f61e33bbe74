"""An export beside the model that it was made from, on one made picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from florence2 import images
from florence2.checkpoints import Checkpoint
from florence2.errors import CheckpointError
from florence2.model.runtime import Runtime
from florence2.onnx.load import load

STEPS = 24
TOLERANCE = 1e-3
"""Of the largest logit; two ways to add the same float32 numbers stay far below."""


@dataclass(frozen=True)
class Agreement:
    """How far the export says what the model says."""

    same_tokens: bool
    """Of greedy decoding."""
    tokens: int
    logits: float
    """The largest difference of a logit, while both read the model's tokens."""
    largest: float
    """The largest logit."""

    @property
    def exact(self) -> bool:
        """As far as float32 goes."""
        return self.same_tokens and self.logits <= TOLERANCE * self.largest


@torch.inference_mode()
def compare(checkpoint: Checkpoint, folder: str | Path, dtype: str = "float32") -> Agreement:
    """Greedy decoding of a short prompt, step by step, by ``checkpoint`` and by the export of it in ``folder``."""
    exported = load(folder, dtype)
    if checkpoint.tokenizer is None:
        raise CheckpointError(f"{checkpoint.source} holds no tokenizer; nothing can be asked")
    prompt = torch.tensor([[0, *checkpoint.tokenizer.encode("What does the image describe?"), 2]])
    pixels = images.to_pixel_values([picture()], checkpoint.config.image)
    model, runtime = checkpoint.model, exported.model
    ids, expected = _greedy(model, pixels.to(checkpoint.device, checkpoint.dtype), prompt.to(checkpoint.device), None)
    own, _ = _greedy(runtime, pixels, prompt, None)
    _, found = _greedy(runtime, pixels, prompt, ids)
    difference = float((found - expected).abs().max())
    return Agreement(torch.equal(ids, own), ids.shape[1], difference, float(expected.abs().max()))


def picture() -> Image.Image:
    """Two things on a ground, of 4:3."""
    image = Image.new("RGB", (320, 240), (120, 160, 90))
    brush = ImageDraw.Draw(image)
    brush.ellipse((40, 60, 150, 190), fill=(210, 40, 40))
    brush.rectangle((190, 90, 290, 200), fill=(40, 60, 200))
    return image


def _greedy(model: Runtime, pixels: Tensor, prompt: Tensor, given: Tensor | None) -> tuple[Tensor, Tensor]:
    """(1, STEPS) ids behind the start token, and the logits (STEPS, V) that they came from; ``given`` ids are read
    in the place of the model's own."""
    text = model.config.text
    memory = model.encode(model.encode_image(pixels), prompt)
    cache = model.new_cache(1, STEPS + 1)
    next_id = prompt.new_tensor([[text.decoder_start_id]])
    ids, logits = [], []
    for step in range(STEPS):
        logits.append(model.decode(next_id, memory, cache)[:, -1].float().cpu())
        own = logits[-1].argmax(-1, keepdim=True)
        next_id = (own if given is None else given[:, step : step + 1]).to(prompt.device)
        ids.append(own)
    return torch.cat(ids, 1), torch.cat(logits)
