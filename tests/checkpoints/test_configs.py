from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from florence2.checkpoints import configs
from florence2.checkpoints.layouts import LAYOUTS, Layout
from florence2.config import BASE, LARGE, NANO, SHIPPED_POLICY, DecodingPolicy, Florence2Config
from florence2.errors import CheckpointError
from tests.model.tiny import TINY

GREEDY = DecodingPolicy(
    num_beams=1, max_new_tokens=77, length_penalty=0.5, early_stopping=False, constrained=False, repeat_guard=False
)
SAMPLING = dataclasses.replace(GREEDY, temperature=0.7, top_k=20, top_p=0.9, forced_bos_id=None)


def put(folder: Path, files: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def written(config: Florence2Config, layout: Layout) -> dict[str, Any]:
    return configs.write(config, layout, "float16", image_token_id=config.text.vocab_size)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "config",
    [
        NANO,
        BASE,
        LARGE,
        TINY,
        dataclasses.replace(TINY, generation=GREEDY),
        dataclasses.replace(TINY, generation=SAMPLING),
        dataclasses.replace(TINY, image=dataclasses.replace(TINY.image, size=(96, 64), mean=(0.5, 0.5, 0.5))),
    ],
    ids=["nano", "base", "large", "tiny", "greedy", "sampling", "image"],
)
def test_what_is_written_is_read(config: Florence2Config, layout: Layout, tmp_path: Path) -> None:
    put(tmp_path, written(config, layout))
    assert configs.read(tmp_path, layout, name=config.name) == config


def test_a_changed_field_does_not_go_unnoticed(tmp_path: Path) -> None:
    files = written(BASE, "microsoft")
    files["config.json"]["vision_config"]["window_size"] = 7
    put(tmp_path, files)
    assert configs.read(tmp_path, "microsoft", name=BASE.name) != BASE


@pytest.mark.parametrize("model_type", ["davit", "", None])
def test_microsoft_revisions_name_the_vision_part_differently(model_type: str | None, tmp_path: Path) -> None:
    files = written(BASE, "microsoft")
    files["config.json"]["vision_config"]["model_type"] = model_type
    if model_type is None:
        del files["config.json"]["vision_config"]["model_type"]
    assert configs.read(put(tmp_path, files), "microsoft", name=BASE.name) == BASE


def test_the_first_revision_had_wrong_ids_at_the_top(tmp_path: Path) -> None:
    files = written(BASE, "microsoft")
    files["config.json"] |= {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    assert configs.read(put(tmp_path, files), "microsoft", name=BASE.name) == BASE


def test_fine_tunes_without_model_type_or_auto_map(tmp_path: Path) -> None:
    files = written(BASE, "microsoft")
    for field in ("model_type", "architectures", "projection_dim", "vocab_size", "is_encoder_decoder"):
        del files["config.json"][field]
    assert configs.read(put(tmp_path, files), "microsoft", name=BASE.name) == BASE


def test_microsoft_ignores_generation_config(tmp_path: Path) -> None:
    files = written(BASE, "microsoft") | {"generation_config.json": {"num_beams": 1, "early_stopping": False}}
    assert configs.read(put(tmp_path, files), "microsoft").generation == SHIPPED_POLICY


def test_native_reads_generation_config(tmp_path: Path) -> None:
    files = written(BASE, "native")
    files["generation_config.json"] = {"num_beams": 5, "no_repeat_ngram_size": 0, "early_stopping": False}
    policy = configs.read(put(tmp_path, files), "native").generation
    assert (policy.num_beams, policy.no_repeat_ngram_size, policy.early_stopping) == (5, 0, False)
    assert (policy.forced_bos_id, policy.forced_eos_id) == (0, 2)


def test_a_native_config_that_lost_the_way_to_decode_gets_what_microsoft_ships(tmp_path: Path) -> None:
    files = written(BASE, "native")
    del files["generation_config.json"]
    files["config.json"]["text_config"] |= {"forced_bos_token_id": None, "num_beams": None}
    assert configs.read(put(tmp_path, files), "native").generation == SHIPPED_POLICY


def test_transformers_leaves_defaults_out(tmp_path: Path) -> None:
    """BASE is the default of the native vision class, LARGE that of every other class."""
    native = {"vision_config": {"model_type": "florence_vision"}, "text_config": {"model_type": "bart"}}
    config = configs.read(put(tmp_path, {"config.json": native}), "native")
    assert config.vision == BASE.vision
    assert (config.text.d_model, config.text.encoder_layers, config.text.attention_dropout) == (1024, 12, 0.0)
    microsoft = {"vision_config": {"model_type": "davit"}, "text_config": {"vocab_size": 51289}}
    config = configs.read(put(tmp_path, {"config.json": microsoft}), "microsoft")
    assert config.vision == LARGE.vision
    assert config.text.max_positions == 1024


def test_config_json_may_be_of_another_layout_than_the_tensors(tmp_path: Path) -> None:
    put(tmp_path, written(BASE, "microsoft"))
    assert configs.read(tmp_path, "native", name=BASE.name) == BASE


def test_image_size_of_a_processor_config(tmp_path: Path) -> None:
    files = written(BASE, "native")
    files["processor_config.json"] = {"image_processor": files.pop("preprocessor_config.json")}
    files["processor_config.json"]["image_processor"]["size"] = {"height": 384, "width": 512}
    assert configs.read(put(tmp_path, files), "native").image.size == (384, 512)


def test_without_a_preprocessor_the_size_is_768_or_what_the_position_table_allows(tmp_path: Path) -> None:
    files = written(BASE, "microsoft")
    del files["preprocessor_config.json"]
    assert configs.read(put(tmp_path, files), "microsoft").image.size == (768, 768)
    files["config.json"]["vision_config"]["image_pos_embed"]["max_pos_embeddings"] = 12
    assert configs.read(put(tmp_path, files), "microsoft").image.size == (384, 384)


@pytest.mark.parametrize(("config", "expected"), [(BASE, 577), (NANO, 50), (TINY, 5)])
def test_image_tokens(config: Florence2Config, expected: int) -> None:
    assert configs.image_tokens(config) == expected


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("text_config", {"scale_embedding": True}, "scale_embedding is True"),
        ("text_config", {"activation_function": "relu"}, "'relu'; Florence-2 has 'gelu'"),
        ("text_config", {"d_model": 770}, "not divisible"),
        ("vision_config", {"image_feature_source": ["last_frame"]}, "image_feature_source is .*last_frame"),
        ("vision_config", {"image_pos_embed": {"type": "sine"}}, "image_pos_embed.type is 'sine'"),
        ("vision_config", {"depths": [1, 1, 9]}, "vision.depths has 3 entries"),
        ("vision_config", {"dim_embed": 128}, "cannot be understood"),
    ],
)
def test_what_is_not_florence_2_is_refused(part: str, change: dict[str, Any], message: str, tmp_path: Path) -> None:
    files = written(BASE, "microsoft")
    files["config.json"][part] |= change
    with pytest.raises(CheckpointError, match=message):
        configs.read(put(tmp_path, files), "microsoft")


def test_unreadable_config(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no config\.json; copy it"):
        configs.read(tmp_path, "microsoft")
    (tmp_path / "config.json").write_text('{"a": ')
    with pytest.raises(CheckpointError, match="not readable JSON"):
        configs.read(tmp_path, "microsoft")
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="holds a list"):
        configs.read(tmp_path, "microsoft")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="neither 'format'"):
        configs.read(tmp_path, "microsoft")
    (tmp_path / "config.json").write_text('{"format": "florence2", "config": {"colour": 1}}')
    with pytest.raises(CheckpointError, match="unknown field 'colour'"):
        configs.read(tmp_path, "florence2")
