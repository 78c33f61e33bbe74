"""config.json and its companions: read from any of the three layouts into one ``Florence2Config``, and written.

Facts that cost others dearly and are taken care of here:

- Both foreign layouts say ``model_type: florence2``. They are told apart by the fields of ``vision_config``.
- transformers writes only what differs from the defaults of its classes, so a missing field means the default
  of *that* class: BASE sizes in the native vision part, LARGE sizes everywhere else.
- The way to decode (3 beams, no repeated 3-grams, forced first token) is part of the model. Microsoft keeps it
  inside ``text_config``; native conversions often lose it, and without it some checkpoints write ``<s>`` for
  ever. What is missing falls back to what Microsoft ships.
- Token ids are read from ``text_config``: the first revision of Microsoft's files had them wrong at the top.
- ``generation_config.json`` counts in the native layout only; Microsoft's code never reads it.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from florence2.checkpoints.layouts import Layout
from florence2.config import SHIPPED_POLICY, DecodingPolicy, Florence2Config, ImageConfig, TextConfig, VisionConfig
from florence2.errors import CheckpointError, ConfigError

Json = dict[str, Any]

IMAGE_TOKEN = "<image>"
"""The native layout's placeholder for the image tokens. It stands in its vocabulary and in no other."""
VOCABULARY_STEP = 64
"""Native vocabularies are padded to a multiple of this, as the published conversions are."""


def read(folder: Path, layout: Layout, name: str = "") -> Florence2Config:
    """The configuration in ``folder``. ``layout`` is what the tensor names say; config.json may be of another.

    ``name`` is what the model calls itself where the file does not say.
    """
    path = folder / "config.json"
    values = read_json(path)
    try:
        written_as = _layout_of(values, otherwise=layout)
        if written_as == "florence2":
            config = Florence2Config.from_dict(values["config"])
            return config if config.name else dataclasses.replace(config, name=name)
        return _read_foreign(values, written_as, folder, name)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{path} cannot be understood ({type(error).__name__}: {error}); expected the config.json of a Florence-2 "
            "checkpoint, copy it again from where the weights came from"
        ) from error


def write(config: Florence2Config, layout: Layout, dtype: str, image_token_id: int) -> dict[str, Json]:
    """File name → content of all JSON files but the tokenizer's. ``image_token_id`` matters to the native layout."""
    if layout == "florence2":
        return {"config.json": {"format": "florence2", "config": config.to_dict()}}
    if layout == "microsoft":
        return {"config.json": _microsoft(config, dtype), "preprocessor_config.json": _preprocessor(config)}
    return {
        "config.json": _native(config, dtype, image_token_id),
        "generation_config.json": _generation(config, native=True),
        "preprocessor_config.json": _preprocessor(config),
    }


def read_json(path: Path) -> Json:
    """A JSON object; a missing or broken file is named with what to do."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path.parent} holds no {path.name}; copy it from where the weights came from (the fine-tuned model's own "
            "folder, or the checkpoint that the training started from)"
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not readable JSON ({error}); copy the file again") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a {type(values).__name__}, expected an object")
    return values


def total_stride(vision: VisionConfig) -> int:
    """Pixels per position of the last map, along one side."""
    return math.prod(vision.patch_strides)


def image_tokens(config: Florence2Config) -> int:
    """Tokens that a photo of the configured size becomes: the mean, and one per position of the last map."""
    sides = list(config.image.size)
    for kernel, stride, padding in zip(
        config.vision.patch_kernels, config.vision.patch_strides, config.vision.patch_paddings, strict=True
    ):
        sides = [(side + 2 * padding - kernel) // stride + 1 for side in sides]
    return 1 + sides[0] * sides[1]


# Defaults of the two foreign configuration classes, where they differ from ours or from each other.
_LARGE_DIMS = {"dims": [256, 512, 1024, 2048], "heads": [8, 16, 32, 64], "groups": [8, 16, 32, 64]}
_BASE_DIMS = {"dims": [128, 256, 512, 1024], "heads": [4, 8, 16, 32], "groups": [4, 8, 16, 32]}
_BART_DEFAULTS: Json = {
    "d_model": 1024,
    "encoder_layers": 12,
    "decoder_layers": 12,
    "encoder_attention_heads": 16,
    "decoder_attention_heads": 16,
    "encoder_ffn_dim": 4096,
    "decoder_ffn_dim": 4096,
    "max_position_embeddings": 1024,
    "dropout": 0.1,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}


def _layout_of(values: Json, otherwise: Layout) -> Layout:
    if values.get("format") == "florence2":
        return "florence2"
    vision = values["vision_config"] if isinstance(values.get("vision_config"), dict) else {}
    if "dim_embed" in vision or "image_pos_embed" in vision:
        return "microsoft"
    if "embed_dim" in vision or vision.get("model_type") == "florence_vision":
        return "native"
    if otherwise == "florence2" or not (vision or isinstance(values.get("text_config"), dict)):
        raise ConfigError(
            f"neither 'format': 'florence2' nor a vision_config and text_config; it has {', '.join(sorted(values))}"
        )
    return otherwise


def _read_foreign(values: Json, layout: Layout, folder: Path, name: str) -> Florence2Config:
    text_values: Json = values.get("text_config") or {}
    vision = _read_vision(values.get("vision_config") or {}, layout)
    text = _read_text(text_values, layout)
    generation = dict(text_values)
    if layout == "native" and (folder / "generation_config.json").is_file():
        generation |= read_json(folder / "generation_config.json")
    return Florence2Config(
        vision=vision,
        text=text,
        image=_read_image(folder, vision),
        generation=_read_generation(generation, text),
        name=name,
    )


def _read_vision(values: Json, layout: Layout) -> VisionConfig:
    if layout == "microsoft":
        defaults, dims = _LARGE_DIMS, "dim_embed"
        positions = values.get("image_pos_embed") or {}
        frames = values.get("visual_temporal_embedding") or {}
        _only(positions, "type", "learned_abs_2d", "vision_config.image_pos_embed")
        _only(frames, "type", "COSINE", "vision_config.visual_temporal_embedding")
        _only(values, "image_feature_source", ["spatial_avg_pool", "temporal_avg_pool"], "vision_config")
        max_positions = positions.get("max_pos_embeddings", 50)
        max_frames = frames.get("max_temporal_embeddings", 100)
    else:
        defaults, dims = _BASE_DIMS, "embed_dim"
        for key, value in (("in_channels", 3), ("mlp_ratio", 4.0), ("qkv_bias", True), ("activation_function", "gelu")):
            _only(values, key, value, "vision_config")
        max_positions = values.get("max_position_embeddings", 50)
        max_frames = values.get("max_temporal_embeddings", 100)
    return VisionConfig(
        dims=tuple(values.get(dims, defaults["dims"])),
        depths=tuple(values.get("depths", (1, 1, 9, 1))),
        heads=tuple(values.get("num_heads", defaults["heads"])),
        groups=tuple(values.get("num_groups", defaults["groups"])),
        patch_kernels=tuple(values.get("patch_size", (7, 3, 3, 3))),
        patch_strides=tuple(values.get("patch_stride", (4, 2, 2, 2))),
        patch_paddings=tuple(values.get("patch_padding", (3, 1, 1, 1))),
        patch_prenorm=tuple(values.get("patch_prenorm", (False, True, True, True))),
        window=values.get("window_size", 12),
        drop_path=float(values.get("drop_path_rate", 0.1)),
        max_positions=max_positions,
        max_frames=max_frames,
    )


def _read_text(values: Json, layout: Layout) -> TextConfig:
    _only(values, "scale_embedding", False, "text_config")
    _only(values, "activation_function", "gelu", "text_config")
    get = {**_BART_DEFAULTS, "vocab_size": 51289 if layout == "microsoft" else 50265}
    get |= {key: value for key, value in values.items() if value is not None}
    return TextConfig(
        vocab_size=get["vocab_size"],
        d_model=get["d_model"],
        encoder_layers=get["encoder_layers"],
        decoder_layers=get["decoder_layers"],
        encoder_heads=get["encoder_attention_heads"],
        decoder_heads=get["decoder_attention_heads"],
        encoder_ffn_dim=get["encoder_ffn_dim"],
        decoder_ffn_dim=get["decoder_ffn_dim"],
        max_positions=get["max_position_embeddings"],
        dropout=float(get["dropout"]),
        attention_dropout=float(get["attention_dropout"]),
        activation_dropout=float(get["activation_dropout"]),
        bos_id=get["bos_token_id"],
        pad_id=get["pad_token_id"],
        eos_id=get["eos_token_id"],
        decoder_start_id=get["decoder_start_token_id"],
    )


def _read_generation(values: Json, text: TextConfig) -> DecodingPolicy:
    found: Json = {
        ours: values[theirs]
        for ours, theirs in (
            ("num_beams", "num_beams"),
            ("no_repeat_ngram_size", "no_repeat_ngram_size"),
            ("length_penalty", "length_penalty"),
            ("max_new_tokens", "max_new_tokens"),
        )
        if values.get(theirs) is not None
    }
    # null is a way to write "not set", except where a generation_config.json of ours says that nothing is forced.
    for ours, theirs in (("forced_bos_id", "forced_bos_token_id"), ("forced_eos_id", "forced_eos_token_id")):
        if values.get(theirs) is not None or values.get(_UNFORCED):
            found[ours] = values.get(theirs)
    if values.get("early_stopping") is not None:
        found["early_stopping"] = values["early_stopping"] is True
    if values.get("do_sample"):
        found["temperature"] = float(values.get("temperature") or 1.0)
        found["top_k"] = int(values.get("top_k") or 0)
        found["top_p"] = float(values.get("top_p") or 1.0)
    found.setdefault("max_new_tokens", min(SHIPPED_POLICY.max_new_tokens, text.max_positions))
    return dataclasses.replace(SHIPPED_POLICY, **found)


def _read_image(folder: Path, vision: VisionConfig) -> ImageConfig:
    """Size, mean and deviation; without a file 768 px, or the largest size that the position table allows."""
    side = min(768, total_stride(vision) * vision.max_positions)
    image = ImageConfig(size=(side, side))
    for file, inside in (("preprocessor_config.json", None), ("processor_config.json", "image_processor")):
        if (folder / file).is_file():
            values = read_json(folder / file)
            values = values.get(inside) or {} if inside else values
            if "size" in values or "image_mean" in values:
                break
    else:
        return image
    size = values.get("size") or {}
    if isinstance(size, int):
        image = dataclasses.replace(image, size=(size, size))
    elif "height" in size and "width" in size:
        image = dataclasses.replace(image, size=(int(size["height"]), int(size["width"])))
    elif size:
        raise ConfigError(f"{file} gives the image size as {size}; expected {{'height': ..., 'width': ...}}")
    if "image_mean" in values:
        image = dataclasses.replace(image, mean=_three(values["image_mean"]))
    if "image_std" in values:
        image = dataclasses.replace(image, std=_three(values["image_std"]))
    return image


def _three(values: list[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)


def _microsoft(config: Florence2Config, dtype: str) -> Json:
    """As Microsoft ships it, less ``auto_map``: the folder holds no code that it could point to."""
    vision, text = config.vision, config.text
    return {
        "architectures": ["Florence2ForConditionalGeneration"],
        "bos_token_id": text.bos_id,
        "eos_token_id": text.eos_id,
        "ignore_index": -100,
        "is_encoder_decoder": True,
        "model_type": "florence2",
        "pad_token_id": text.pad_id,
        "projection_dim": text.d_model,
        "text_config": {
            "model_type": "florence2_language",
            **_bart(config),
            "add_bias_logits": False,
            "add_final_layer_norm": False,
            "classif_dropout": 0.1,
            "normalize_before": False,
            **_generation(config, native=False),
        },
        "torch_dtype": dtype,
        "vision_config": {
            "model_type": "davit",
            "dim_embed": list(vision.dims),
            **_davit(config),
            "enable_checkpoint": False,
            "image_feature_source": ["spatial_avg_pool", "temporal_avg_pool"],
            "image_pos_embed": {"type": "learned_abs_2d", "max_pos_embeddings": vision.max_positions},
            "visual_temporal_embedding": {"type": "COSINE", "max_temporal_embeddings": vision.max_frames},
        },
        "vocab_size": text.vocab_size,
    }


def _native(config: Florence2Config, dtype: str, image_token_id: int) -> Json:
    vision = config.vision
    return {
        "architectures": ["Florence2ForConditionalGeneration"],
        "dtype": dtype,
        "image_token_id": image_token_id,
        "is_encoder_decoder": True,
        "model_type": "florence2",
        "text_config": {"model_type": "bart", **_bart(config), "tie_word_embeddings": True},
        "tie_word_embeddings": True,
        "vision_config": {
            "model_type": "florence_vision",
            "embed_dim": list(vision.dims),
            **_davit(config),
            "activation_function": "gelu",
            "in_channels": 3,
            "max_position_embeddings": vision.max_positions,
            "max_temporal_embeddings": vision.max_frames,
            "mlp_ratio": 4.0,
            "qkv_bias": True,
        },
    }


def _davit(config: Florence2Config) -> Json:
    vision = config.vision
    return {
        "depths": list(vision.depths),
        "drop_path_rate": vision.drop_path,
        "num_groups": list(vision.groups),
        "num_heads": list(vision.heads),
        "patch_padding": list(vision.patch_paddings),
        "patch_prenorm": list(vision.patch_prenorm),
        "patch_size": list(vision.patch_kernels),
        "patch_stride": list(vision.patch_strides),
        "projection_dim": config.text.d_model,
        "window_size": vision.window,
    }


def _bart(config: Florence2Config) -> Json:
    text = config.text
    return {
        "activation_dropout": text.activation_dropout,
        "activation_function": "gelu",
        "attention_dropout": text.attention_dropout,
        "bos_token_id": text.bos_id,
        "d_model": text.d_model,
        "decoder_attention_heads": text.decoder_heads,
        "decoder_ffn_dim": text.decoder_ffn_dim,
        "decoder_layers": text.decoder_layers,
        "decoder_start_token_id": text.decoder_start_id,
        "dropout": text.dropout,
        "encoder_attention_heads": text.encoder_heads,
        "encoder_ffn_dim": text.encoder_ffn_dim,
        "encoder_layers": text.encoder_layers,
        "eos_token_id": text.eos_id,
        "is_encoder_decoder": True,
        "max_position_embeddings": text.max_positions,
        "num_hidden_layers": text.encoder_layers,
        "pad_token_id": text.pad_id,
        "scale_embedding": False,
        "vocab_size": text.vocab_size,
    }


_UNFORCED = "florence2_unforced"
"""Marks that an absent forced token is meant, since null elsewhere only says that nobody thought of it."""


def _generation(config: Florence2Config, native: bool) -> Json:
    policy, text = config.generation, config.text
    values: Json = {
        "num_beams": policy.num_beams,
        "no_repeat_ngram_size": policy.no_repeat_ngram_size,
        "early_stopping": policy.early_stopping,
        "forced_bos_token_id": policy.forced_bos_id,
        "forced_eos_token_id": policy.forced_eos_id,
    }
    if policy.forced_bos_id is None or policy.forced_eos_id is None:
        values[_UNFORCED] = True
    if policy.length_penalty != 1.0:
        values["length_penalty"] = policy.length_penalty
    if policy.temperature > 0:
        values |= {"do_sample": True, "temperature": policy.temperature, "top_k": policy.top_k, "top_p": policy.top_p}
    if native:
        values |= {
            "bos_token_id": text.bos_id,
            "decoder_start_token_id": text.decoder_start_id,
            "eos_token_id": text.eos_id,
            "pad_token_id": text.pad_id,
        }
    if native or policy.max_new_tokens != min(SHIPPED_POLICY.max_new_tokens, text.max_positions):
        values["max_new_tokens"] = policy.max_new_tokens
    return values


def _preprocessor(config: Florence2Config) -> Json:
    height, width = config.image.size
    return {
        "do_center_crop": False,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(config.image.mean),
        "image_processor_type": "CLIPImageProcessor",
        "image_seq_length": image_tokens(config),
        "image_std": list(config.image.std),
        "processor_class": "Florence2Processor",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "crop_size": {"height": height, "width": width},
        "size": {"height": height, "width": width},
    }


def _only(values: Json, key: str, supported: Any, where: str) -> None:
    """A field that Florence-2 never varies must hold its one value, or be absent."""
    found = values.get(key)
    if found is not None and found != supported:
        raise ConfigError(f"{where}.{key} is {found!r}; Florence-2 has {supported!r}, other values are not supported")
