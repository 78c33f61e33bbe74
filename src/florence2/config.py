"""What a Florence-2 model is made of: frozen dataclasses, and the presets NANO, BASE and LARGE.

Every number of the reference is a field here, the generation settings included (Microsoft hides them inside
``text_config``). Reading the JSON files of Microsoft and of transformers is the work of
``checkpoints/layouts.py``; this file knows one form only, its own.

Source: Florence-2 (arXiv 2311.06242), table 15; DaViT (arXiv 2204.03645), section 3.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from florence2.errors import ConfigError


@dataclass(frozen=True)
class VisionConfig:
    """DaViT and the projector behind it. Tuples hold one entry per stage."""

    dims: tuple[int, ...] = (128, 256, 512, 1024)
    depths: tuple[int, ...] = (1, 1, 9, 1)
    """Pairs of (spatial block, channel block) per stage."""
    heads: tuple[int, ...] = (4, 8, 16, 32)
    """Heads of the window attention."""
    groups: tuple[int, ...] = (4, 8, 16, 32)
    """Groups of the channel attention."""
    patch_kernels: tuple[int, ...] = (7, 3, 3, 3)
    patch_strides: tuple[int, ...] = (4, 2, 2, 2)
    patch_paddings: tuple[int, ...] = (3, 1, 1, 1)
    patch_prenorm: tuple[bool, ...] = (False, True, True, True)
    window: int = 12
    """Side of a window of the spatial attention, in tokens."""
    drop_path: float = 0.1
    max_positions: int = 50
    """Rows (and columns) of the learned 2-D position table: the longest side of the last feature map."""
    max_frames: int = 100

    def __post_init__(self) -> None:
        stages = len(self.dims)
        per_stage = ("depths", "heads", "groups", "patch_kernels", "patch_strides", "patch_paddings", "patch_prenorm")
        for name in per_stage:
            entries = len(getattr(self, name))
            if entries != stages:
                raise ConfigError(f"vision.{name} has {entries} entries, vision.dims has {stages}; give one per stage")
        for dim, heads, groups in zip(self.dims, self.heads, self.groups, strict=True):
            if dim % heads or dim % groups:
                raise ConfigError(f"vision.dims: {dim} is not divisible by {heads} heads and {groups} groups")


@dataclass(frozen=True)
class TextConfig:
    """The BART encoder-decoder."""

    vocab_size: int = 51289
    d_model: int = 768
    encoder_layers: int = 6
    decoder_layers: int = 6
    encoder_heads: int = 12
    decoder_heads: int = 12
    encoder_ffn_dim: int = 3072
    decoder_ffn_dim: int = 3072
    max_positions: int = 1024
    """Longest sequence; the position tables hold two rows more (rows 0 and 1 are never used)."""
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.1
    bos_id: int = 0
    pad_id: int = 1
    eos_id: int = 2
    decoder_start_id: int = 2

    def __post_init__(self) -> None:
        if self.d_model % self.encoder_heads or self.d_model % self.decoder_heads:
            raise ConfigError(
                f"text.d_model {self.d_model} is not divisible by {self.encoder_heads} and {self.decoder_heads} heads"
            )


@dataclass(frozen=True)
class ImageConfig:
    """How a photo becomes ``pixel_values``: squashed to ``size`` (height, width), bicubic, normalised."""

    size: tuple[int, int] = (768, 768)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class DecodingPolicy:
    """How an answer is searched for. A checkpoint ships one (``reference=True`` reproduces it), a task prefers one."""

    num_beams: int = 3
    max_new_tokens: int = 1024
    """Budget behind the decoder's start token; the closing token counts."""
    no_repeat_ngram_size: int = 0
    """No n consecutive ids may occur twice, the start token included; 0 turns the ban off."""
    early_stopping: bool = True
    length_penalty: float = 1.0
    """Hypotheses are ranked by (sum of log-probabilities) / length ** length_penalty."""
    temperature: float = 0.0
    """0 searches for the best answer; above 0 the tokens are sampled (then num_beams must be 1)."""
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    constrained: bool = True
    """Only tokens that the grammar of the task allows."""
    repeat_guard: bool = True
    """End a structured answer that begins to repeat itself. Needs ``constrained``."""
    forced_bos_id: int | None = 0
    forced_eos_id: int | None = 2

    def __post_init__(self) -> None:
        if self.num_beams < 1 or self.max_new_tokens < 1:
            raise ConfigError(
                f"num_beams is {self.num_beams} and max_new_tokens {self.max_new_tokens}; both must be at least 1"
            )
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ConfigError(
                f"temperature {self.temperature}, top_p {self.top_p}, top_k {self.top_k}: expected temperature >= 0, "
                "0 < top_p <= 1, top_k >= 0"
            )
        if self.temperature > 0 and self.num_beams > 1:
            raise ConfigError("sampling (temperature > 0) goes with num_beams=1; choose one of the two")


SHIPPED_POLICY = DecodingPolicy(no_repeat_ngram_size=3, constrained=False, repeat_guard=False)
"""What Microsoft ships: 3 beams, no repeated 3-grams, early stopping, no grammar."""


@dataclass(frozen=True)
class Florence2Config:
    """A whole model. ``to_dict`` and ``from_dict`` are inverse; ``from_dict`` refuses unknown fields."""

    vision: VisionConfig = field(default_factory=VisionConfig)
    text: TextConfig = field(default_factory=TextConfig)
    image: ImageConfig = field(default_factory=ImageConfig)
    generation: DecodingPolicy = SHIPPED_POLICY
    name: str = ""
    """How the model calls itself in answers, e.g. "florence2-nano"; empty where unknown."""

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Florence2Config:
        parts: dict[str, Any] = {
            "vision": VisionConfig,
            "text": TextConfig,
            "image": ImageConfig,
            "generation": DecodingPolicy,
        }
        unknown = sorted(set(values) - set(parts) - {"name"})
        if unknown:
            raise ConfigError(f"unknown field {unknown[0]!r} in the configuration; known: {', '.join(parts)}, name")
        built = {name: _build(part, values[name], name) for name, part in parts.items() if name in values}
        return cls(**built, name=values.get("name", ""))


def _build(part: Any, values: dict[str, Any], prefix: str) -> Any:
    known = {f.name for f in dataclasses.fields(part)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError(f"unknown field {prefix}.{unknown[0]!r}; known: {', '.join(sorted(known))}")
    return part(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


BASE = Florence2Config(name="florence2-base")

LARGE = Florence2Config(
    vision=VisionConfig(dims=(256, 512, 1024, 2048), heads=(8, 16, 32, 64), groups=(8, 16, 32, 64)),
    text=TextConfig(
        d_model=1024,
        encoder_layers=12,
        decoder_layers=12,
        encoder_heads=16,
        decoder_heads=16,
        encoder_ffn_dim=4096,
        decoder_ffn_dim=4096,
        max_positions=4096,
    ),
    name="florence2-large",
)

NANO = Florence2Config(
    # Stride 8 at the stem and 1 at the last stage: the 7x7 map of 4/2/2/2 at 224 px, at 2.6 times its training speed.
    vision=VisionConfig(
        dims=(64, 128, 192, 256),
        depths=(1, 1, 3, 1),
        heads=(2, 4, 6, 8),
        groups=(2, 4, 6, 8),
        patch_kernels=(12, 3, 3, 3),
        patch_strides=(8, 2, 2, 1),
        patch_paddings=(2, 1, 1, 1),
        window=7,
        drop_path=0.0,
    ),
    text=TextConfig(
        vocab_size=8000,
        d_model=256,
        encoder_layers=2,
        decoder_layers=3,
        encoder_heads=8,
        decoder_heads=8,
        encoder_ffn_dim=768,
        decoder_ffn_dim=768,
        max_positions=512,
        # It underfits its photos by far: nothing to regularise yet.
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
    ),
    image=ImageConfig(size=(224, 224)),
    generation=dataclasses.replace(SHIPPED_POLICY, max_new_tokens=256),
    name="florence2-nano",
)

PRESETS = {"nano": NANO, "base": BASE, "large": LARGE}
"""By the names that recipes and commands use."""
