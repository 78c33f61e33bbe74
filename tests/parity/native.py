"""Random Florence-2 models as transformers' native port and as ours, with the same weights."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from florence2.checkpoints import layouts
from florence2.config import Florence2Config, TextConfig, VisionConfig
from florence2.model import Florence2Model

transformers = pytest.importorskip("transformers", reason="parity needs transformers (pip install '.[dev]')")

SMALL = Florence2Config(
    vision=VisionConfig(
        dims=(16, 32, 32, 48),
        depths=(1, 1, 2, 1),
        heads=(2, 4, 2, 3),
        groups=(4, 2, 4, 6),
        window=4,
        max_positions=20,
        max_frames=5,
    ),
    text=TextConfig(
        vocab_size=160,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_heads=4,
        decoder_heads=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=64,
        max_positions=128,
    ),
)
"""Windows of 4 tokens a side: at 64 px stages 3 and 4 (4 and 2 tokens) fit and pad, other sizes pad everywhere."""


def native_config(config: Florence2Config) -> Any:
    """The same numbers as a configuration of transformers. The last id stands for the image tokens."""
    vision, text = config.vision, config.text
    return transformers.Florence2Config(
        vision_config={
            "embed_dim": list(vision.dims),
            "depths": list(vision.depths),
            "num_heads": list(vision.heads),
            "num_groups": list(vision.groups),
            "patch_size": list(vision.patch_kernels),
            "patch_stride": list(vision.patch_strides),
            "patch_padding": list(vision.patch_paddings),
            "patch_prenorm": list(vision.patch_prenorm),
            "window_size": vision.window,
            "drop_path_rate": vision.drop_path,
            "max_position_embeddings": vision.max_positions,
            "max_temporal_embeddings": vision.max_frames,
            "projection_dim": text.d_model,
        },
        text_config={
            "model_type": "bart",
            "vocab_size": text.vocab_size,
            "d_model": text.d_model,
            "encoder_layers": text.encoder_layers,
            "decoder_layers": text.decoder_layers,
            "encoder_attention_heads": text.encoder_heads,
            "decoder_attention_heads": text.decoder_heads,
            "encoder_ffn_dim": text.encoder_ffn_dim,
            "decoder_ffn_dim": text.decoder_ffn_dim,
            "max_position_embeddings": text.max_positions,
            "dropout": text.dropout,
            "decoder_start_token_id": text.decoder_start_id,
            "forced_eos_token_id": text.eos_id,
            "forced_bos_token_id": text.bos_id,
            "bos_token_id": text.bos_id,
            "pad_token_id": text.pad_id,
            "eos_token_id": text.eos_id,
        },
        image_token_id=text.vocab_size - 1,
        bos_token_id=text.bos_id,
        pad_token_id=text.pad_id,
        eos_token_id=text.eos_id,
        tie_word_embeddings=True,
        is_encoder_decoder=True,
    )


def random_pair(config: Florence2Config = SMALL, seed: int = 0, gain: float = 4.0) -> tuple[Any, Florence2Model]:
    """(native, ours) in eval mode, fp32, equal weights; ``gain`` makes different inputs give different answers."""
    torch.manual_seed(seed)
    native = transformers.Florence2ForConditionalGeneration(native_config(config)).eval()
    with torch.no_grad():
        for parameter in native.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.02 * gain)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return native, ours_from(native, config)


def ours_from(native: Any, config: Florence2Config) -> Florence2Model:
    """Our model with copies of the native one's weights."""
    ours = Florence2Model(config).eval()
    weights = {}
    for name, tensor in native.state_dict().items():
        target = layouts.translate(name, "native", "florence2")
        assert target is not None, name
        weights[target] = tensor.clone()
    missing, unexpected = ours.load_state_dict(weights, strict=False)
    assert not unexpected
    assert set(missing) <= {layouts.LOGITS_BIAS, layouts.TEMPORAL}
    return ours


def native_inputs(
    config: Florence2Config, image_tokens: int, prompts: torch.Tensor, mask: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    """The native port wants the image's places in ``input_ids`` and an attention mask over everything."""
    rows = prompts.shape[0]
    places = torch.full((rows, image_tokens), config.text.vocab_size - 1)
    mask = torch.ones_like(prompts, dtype=torch.bool) if mask is None else mask
    return {
        "input_ids": torch.cat([places, prompts], 1),
        "attention_mask": torch.cat([torch.ones_like(places), mask.long()], 1),
    }


def with_vision(config: Florence2Config, **changes: Any) -> Florence2Config:
    return dataclasses.replace(config, vision=dataclasses.replace(config.vision, **changes))
