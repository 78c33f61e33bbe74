"""The parts of a model by name: what is frozen, what learns, and the proof that what was frozen did not move."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from florence2.errors import ConfigError, Florence2Error
from florence2.model import Florence2Model

PREFIXES: dict[str, tuple[str, ...]] = {
    "vision": ("vision.",),
    "projector": ("projector.",),
    "embedding": ("text.shared.", "text.head."),  # one matrix; an adapter on its second use has a module of its own
    "encoder": ("text.encoder.",),
    "decoder": ("text.decoder.",),
    "text": ("text.",),
}
PARTS = ("vision", "projector", "embedding", "encoder", "decoder")
"""Every parameter belongs to one of them."""


def part_of(name: str) -> str:
    """ "text.encoder.layers.0..." → "encoder"."""
    for part in PARTS:
        if name.startswith(PREFIXES[part]):
            return part
    raise ConfigError(f"the parameter {name} belongs to no part of the model; known: {', '.join(PARTS)}")


def freeze(model: Florence2Model, parts: Iterable[str]) -> list[str]:
    """Parameters of these parts learn nothing from here on. Returns their names.

    Raises ConfigError where a part is not there, and where nothing would be left to learn.
    """
    frozen: list[str] = []
    for part in parts:
        names = [name for name, _ in model.named_parameters() if name.startswith(PREFIXES[part])]
        if not names:
            raise ConfigError(f"freeze: the model has no part {part!r}; known: {', '.join(PREFIXES)}")
        frozen += names
    parameters = dict(model.named_parameters())
    for name in frozen:
        parameters[name].requires_grad_(False)
    if not any(p.requires_grad for p in parameters.values()):
        raise ConfigError("freeze leaves nothing to learn; free a part")
    return sorted(set(frozen))


def train_mode(model: Florence2Model) -> None:
    """Training mode, but for modules all of whose parameters are frozen: no dropout, no dropped paths there."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()


def counts(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Per part (parameters that learn, all parameters)."""
    found = dict.fromkeys(PARTS, (0, 0))
    for name, parameter in model.named_parameters():
        learns, all_of_them = found[part_of(name)]
        found[part_of(name)] = (learns + parameter.numel() * parameter.requires_grad, all_of_them + parameter.numel())
    return found


class Frozen:
    """A fingerprint of all tensors that must not change: frozen parameters, and buffers."""

    def __init__(self, model: nn.Module) -> None:
        self._before = dict(_fingerprints(model))

    def __len__(self) -> int:
        return len(self._before)

    def verify(self, model: nn.Module) -> None:
        """Raises Florence2Error where the bytes of a frozen tensor are not what they were."""
        now = dict(_fingerprints(model))
        moved = [name for name, print_ in self._before.items() if now.get(name) != print_]
        if moved:
            raise Florence2Error(
                f"{len(moved)} frozen tensors have changed, such as {moved[0]}; something else trained them"
            )


def _fingerprints(model: nn.Module) -> Iterator[tuple[str, str]]:
    tensors = [(name, p) for name, p in model.named_parameters() if not p.requires_grad]
    for name, tensor in [*tensors, *model.named_buffers()]:
        yield name, _fingerprint(tensor)


def _fingerprint(tensor: Tensor) -> str:
    local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    flat = local.detach().to("cpu").contiguous().view(-1).view(torch.uint8)
    return hashlib.blake2b(flat.numpy().tobytes(), digest_size=16).hexdigest()


_LAYER = re.compile(r"^(vision)\.stages\.(\d+)\.blocks\.(\d+)\.|^text\.(encoder|decoder)\.layers\.(\d+)\.")


def depth(name: str, model: Florence2Model) -> int:
    """How many layers lie between a parameter and the answer, for layer-wise learning rates.

    From the top: the decoder's layers, then the encoder's, the projector, DaViT's blocks, its stem. Embeddings count
    as the layer below the stack that they feed; the shared one as below the encoder.
    """
    vision, text = model.config.vision, model.config.text
    below_decoder = text.decoder_layers
    below_encoder = below_decoder + text.encoder_layers
    match = _LAYER.match(name)
    if match and match[1]:
        stage, block = int(match[2]), int(match[3])
        blocks_above = sum(vision.depths[stage:]) - block - 1
        return below_encoder + 2 + blocks_above
    if match:
        layer = int(match[5])
        if match[4] == "decoder":
            return text.decoder_layers - 1 - layer
        return below_decoder + text.encoder_layers - 1 - layer
    if name.startswith("vision."):  # the patch embedding of a stage counts as the block that follows it
        stage = int(name.split(".")[2])
        return below_encoder + 2 + sum(vision.depths[stage:]) - 1 + (1 if stage == 0 else 0)
    if name.startswith("text.head."):
        return 0
    if name.startswith("text.decoder."):
        return below_decoder
    if name.startswith("text."):
        return below_encoder
    return below_encoder + 1  # the projector
