"""The names that exports of Florence-2 share: those of optimum for encoder-decoders, as transformers.js reads them.

    onnx/vision_encoder.onnx         pixel_values (B, 3, H, W) → image_features (B, M, D)
    onnx/embed_tokens.onnx           input_ids (B, N) → inputs_embeds (B, N, D)
    onnx/encoder_model.onnx          inputs_embeds (B, S, D), attention_mask (B, S) → last_hidden_state (B, S, D)
    onnx/decoder_model_merged.onnx   inputs_embeds (R, n, D), encoder_hidden_states (R, S, D),
                                     encoder_attention_mask (R, S), past_key_values.*, use_cache_branch (1,)
                                     → logits (R, n, V), present.*

Instead of the merged decoder there may be the pair decoder_model.onnx, which begins an answer, and
decoder_with_past_model.onnx, which goes on. Ids and masks are int64. "encoder" in the name of a key means
cross-attention, "decoder" self-attention.

Source: optimum's export of encoder-decoders; transformers.js, Florence2ForConditionalGeneration.
"""

from __future__ import annotations

FOLDER = "onnx"
VISION, EMBED, ENCODER = "vision_encoder", "embed_tokens", "encoder_model"
MERGED, FIRST, NEXT = "decoder_model_merged", "decoder_model", "decoder_with_past_model"

PIXELS, IMAGE_FEATURES = "pixel_values", "image_features"
IDS, EMBEDS = "input_ids", "inputs_embeds"
MASK, STATES = "attention_mask", "last_hidden_state"
MEMORY_STATES, MEMORY_MASK = "encoder_hidden_states", "encoder_attention_mask"
USE_CACHE, LOGITS = "use_cache_branch", "logits"

SEVERAL = "florence2.several_tokens_per_step"
"""Metadata of a decoder that reads several tokens behind a cache at once. Others were traced with one token."""

SUFFIXES = {
    "float32": "",
    "float16": "_fp16",
    "int8": "_int8",
    "uint8": "_uint8",
    "quantized": "_quantized",
    "q4": "_q4",
    "q4f16": "_q4f16",
    "bnb4": "_bnb4",
}
"""Precision of the weights → ending of the file names. Where nobody asks, the first that is there whole is taken."""


def past(attention: str, layers: int) -> list[str]:
    """Inputs that bring the keys and values back; ``attention`` is "decoder" (self) or "encoder" (cross)."""
    return _keys_values("past_key_values", attention, layers)


def present(attention: str, layers: int) -> list[str]:
    """Outputs that hold them, in the same order."""
    return _keys_values("present", attention, layers)


def _keys_values(prefix: str, attention: str, layers: int) -> list[str]:
    return [f"{prefix}.{i}.{attention}.{kind}" for i in range(layers) for kind in ("key", "value")]
