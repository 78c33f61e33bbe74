from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from florence2.checkpoints import Checkpoint, layouts, load, save
from florence2.checkpoints.layouts import LAYOUTS, Layout
from florence2.errors import CheckpointError, ConfigError
from tests.checkpoints.conftest import WORDS, assert_same_weights


@pytest.mark.parametrize("first", LAYOUTS)
@pytest.mark.parametrize("second", LAYOUTS)
def test_round_trips_through_two_layouts(first: Layout, second: Layout, tiny: Checkpoint, tmp_path: Path) -> None:
    once = load(save(tiny, tmp_path / "once", first))
    twice = load(save(once, tmp_path / "twice", second))
    for found, layout in ((once, first), (twice, second)):
        assert found.layout == layout
        assert_same_weights(tiny, found)
        assert dataclasses.replace(found.config, name="tiny") == tiny.config
        assert found.tokenizer is not None
        assert found.tokenizer.vocab_size == WORDS
        assert found.tokenizer.encode("<image> a dog") == tiny.tokenizer.encode("<image> a dog")


@pytest.mark.parametrize("way", ["to_ours", "from_ours"])
def test_a_forgotten_transpose_is_noticed(
    way: str, tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here C = D, so no shape gives it away: the comparison above must."""
    real = getattr(layouts, way)

    def forgetful(name: str, tensor: torch.Tensor, layout: Layout) -> torch.Tensor:
        return tensor if name == layouts.PROJECTION else real(name, tensor, layout)

    monkeypatch.setattr(sys.modules[f"florence2.checkpoints.{'load' if way == 'to_ours' else 'save'}"], way, forgetful)
    with pytest.raises(AssertionError, match=layouts.PROJECTION):
        assert_same_weights(tiny, load(save(tiny, tmp_path / "it", "microsoft")))


@pytest.mark.parametrize("layout", ["florence2", "microsoft"])
def test_the_logits_bias_is_kept(layout: Layout, biased: Checkpoint, tmp_path: Path) -> None:
    assert_same_weights(biased, load(save(biased, tmp_path / "it", layout)))


def test_native_has_no_place_for_a_logits_bias(biased: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"text\.logits_bias is not zero and the native layout has no place"):
        save(biased, tmp_path / "it", "native")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_tied_copy_is_written(layout: Layout, tiny: Checkpoint, tmp_path: Path) -> None:
    with safe_open(str(save(tiny, tmp_path / "it", layout) / "model.safetensors"), framework="pt") as file:
        names = set(file.keys())
        assert file.metadata() == {"format": "pt"}
    assert names & set(layouts.TIED[layout]) == {layouts.TIED[layout][0]}
    assert len(names) == len(tiny.model.state_dict()) - (layout == "native")


def test_the_rows_behind_the_vocabulary_never_win(tiny: Checkpoint, tmp_path: Path) -> None:
    folder = save(tiny, tmp_path / "it", "native")
    embedding = load_file(folder / "model.safetensors")[layouts.TIED["native"][0]]
    logits = torch.randn(500, embedding.shape[1]) @ embedding.T
    assert embedding.shape[0] == 1344
    assert (logits.argmax(1) < WORDS).all()
    config = json.loads((folder / "config.json").read_text())
    assert (config["image_token_id"], config["text_config"]["vocab_size"]) == (WORDS, 1344)


def test_the_tokenizer_files_suit_the_reader(tiny: Checkpoint, tmp_path: Path) -> None:
    settings = {
        layout: json.loads((save(tiny, tmp_path / layout, layout) / "tokenizer_config.json").read_text())
        for layout in LAYOUTS
    }
    assert settings["microsoft"] == {"model_max_length": 1024}  # as Microsoft ships it
    assert settings["native"]["extra_special_tokens"] == {"image_token": "<image>"}
    tokens = json.loads((tmp_path / "native" / "tokenizer.json").read_text())["added_tokens"]
    assert (tokens[-1]["id"], tokens[-1]["content"]) == (WORDS, "<image>")
    tokens = json.loads((tmp_path / "microsoft" / "tokenizer.json").read_text())["added_tokens"]
    assert all(token["content"] != "<image>" for token in tokens)


def test_shards(tiny: Checkpoint, tmp_path: Path) -> None:
    folder = save(tiny, tmp_path / "it", "microsoft", max_shard_bytes=60_000)
    files = sorted(file.name for file in folder.glob("*.safetensors"))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tiny.model.state_dict().values())
    for file in files:
        tensors = load_file(folder / file)
        assert {name for name, place in index["weight_map"].items() if place == file} == set(tensors)
        assert len(tensors) == 1 or sum(tensor.nbytes for tensor in tensors.values()) <= 60_000
    assert_same_weights(tiny, load(folder))
    (folder / files[1]).unlink()
    with pytest.raises(CheckpointError, match=f"lacks 1 of {len(files)} shards .*{files[1]}"):
        load(folder)


@pytest.mark.parametrize("max_shard_bytes", [None, 60_000])
def test_all_files_may_be_read_by_the_same_people(
    tiny: Checkpoint, tmp_path: Path, max_shard_bytes: int | None
) -> None:
    folder = save(tiny, tmp_path / "it", max_shard_bytes=max_shard_bytes)
    assert len({file.stat().st_mode for file in folder.iterdir()}) == 1


def test_without_a_tokenizer(tiny: Checkpoint, tmp_path: Path) -> None:
    bare = dataclasses.replace(tiny, tokenizer=None)
    found = load(save(bare, tmp_path / "it", "microsoft"))
    assert found.tokenizer is None
    assert_same_weights(tiny, found)


def test_half_precision(tiny: Checkpoint, tmp_path: Path) -> None:
    folder = save(tiny, tmp_path / "it", "microsoft", dtype="float16")
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {torch.float16}
    assert json.loads((folder / "config.json").read_text())["torch_dtype"] == "float16"
    assert tiny.dtype == torch.float32


# Where it is written


def test_a_full_folder_is_not_touched(tiny: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "it").mkdir()
    (tmp_path / "it" / "notes.txt").write_text("mine")
    for overwrite, message in ((False, "is not empty"), (True, "other things than a checkpoint")):
        with pytest.raises(CheckpointError, match=message):
            save(tiny, tmp_path / "it", overwrite=overwrite)
    assert (tmp_path / "it" / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


def test_a_file_is_not_a_folder(tiny: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "it").write_text("")
    with pytest.raises(CheckpointError, match="is a file"):
        save(tiny, tmp_path / "it")


def test_overwriting_replaces_the_checkpoint_as_a_whole(tiny: Checkpoint, tmp_path: Path) -> None:
    save(tiny, tmp_path / "it", "native", max_shard_bytes=60_000)
    save(tiny, tmp_path / "it", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["it"]
    assert sorted(path.name for path in (tmp_path / "it").glob("*")) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert_same_weights(tiny, load(tmp_path / "it"))


def test_an_empty_folder_and_missing_parents_are_fine(tiny: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    load(save(tiny, tmp_path / "empty"))
    load(save(tiny, tmp_path / "a" / "b" / "c"))


def test_a_failure_leaves_nothing_behind(tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys.modules["florence2.checkpoints.save"], "save_file", full)
    with pytest.raises(CheckpointError, match=r"cannot be written: .*No space left"):
        save(tiny, tmp_path / "it")
    assert list(tmp_path.iterdir()) == []


# What cannot be written


def test_unknown_layout_and_type(tiny: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match="there is no layout 'onnx'; expected one of florence2, microsoft, native"
    ):
        save(tiny, tmp_path / "it", "onnx")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="dtype 'int4'"):
        save(tiny, tmp_path / "it", dtype="int4")


def test_a_wrapped_model_is_named(tiny: Checkpoint, tmp_path: Path) -> None:
    model = load(save(tiny, tmp_path / "it")).model
    model.text.adapter = torch.nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match=r"text\.adapter\.weight, which is no part of Florence-2"):
        save(dataclasses.replace(tiny, model=model), tmp_path / "other")


def test_values_that_are_no_numbers_are_not_saved(tiny: Checkpoint, tmp_path: Path) -> None:
    model = load(save(tiny, tmp_path / "it")).model
    with torch.no_grad():
        model.projector.norm.bias[0] = 1e6
    broken = dataclasses.replace(tiny, model=model)
    with pytest.raises(CheckpointError, match=r"projector\.norm\.bias holds 1 values that are not finite in float16"):
        save(broken, tmp_path / "other", dtype="float16")
    save(broken, tmp_path / "wide", dtype="bfloat16")
