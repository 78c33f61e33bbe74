"""Folders that are no export, or half of one: what is found, what was expected, what to do."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import onnx
import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from onnx import TensorProto, helper

from florence2 import Florence2, save
from florence2.checkpoints import configs
from florence2.errors import CheckpointError, ConfigError, Florence2Error, ImageError, MissingDependencyError
from florence2.onnx import export, load, names
from tests.tiny_checkpoint import picture, tiny_checkpoint

FILES = ("vision_encoder", "embed_tokens", "encoder_model", "decoder_model_merged")


def graph(path: Path, inputs: dict[str, list[int | str]], outputs: list[str]) -> None:
    """A file with these names that computes nothing worth having."""
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    nodes = [helper.make_node("Identity", [next(iter(inputs))], [name]) for name in outputs]
    model = helper.make_model(
        helper.make_graph(nodes, "nothing", given, made), opset_imports=[helper.make_opsetid("", 18)], ir_version=8
    )
    onnx.save(model, path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Configuration, tokenizer and graphs with the right names of the tiny model."""
    checkpoint = tiny_checkpoint()
    target = tmp_path / "tiny"
    (target / "onnx").mkdir(parents=True)
    for name, content in configs.write(checkpoint.config, "microsoft", "float32", 1400).items():
        (target / name).write_text(json.dumps(content))
    assert checkpoint.tokenizer is not None
    checkpoint.tokenizer.save(target)
    layers = checkpoint.config.text.decoder_layers
    past = [*names.past("decoder", layers), *names.past("encoder", layers)]
    present = [*names.present("decoder", layers), *names.present("encoder", layers)]
    embeds: list[int | str] = ["batch", "n", 24]
    pixels: list[int | str] = ["batch", 3, 64, 64]
    graph(target / "onnx" / "vision_encoder.onnx", {"pixel_values": pixels}, ["image_features"])
    graph(target / "onnx" / "embed_tokens.onnx", {"input_ids": ["batch", "n"]}, ["inputs_embeds"])
    encoder = {"inputs_embeds": embeds, "attention_mask": embeds[:2]}
    graph(target / "onnx" / "encoder_model.onnx", encoder, ["last_hidden_state"])
    inputs = ["inputs_embeds", "encoder_attention_mask", "encoder_hidden_states", "use_cache_branch", *past]
    merged: dict[str, list[int | str]] = dict.fromkeys(inputs, embeds)
    graph(target / "onnx" / "decoder_model_merged.onnx", merged, ["logits", *present])
    return target


def test_the_right_names_are_taken(folder: Path) -> None:
    assert load(folder).model.format == "float32"
    for path in (folder / "onnx").iterdir():  # graphs beside the configuration, as some keep them
        shutil.move(path, folder / path.name)
    (folder / "onnx").rmdir()
    assert load(folder, "float32", "cpu").source == "tiny"


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / "onnx" / f"{file}.onnx").unlink()
    with pytest.raises(CheckpointError, match=rf"lacks {file}\.onnx.*; found .*\.onnx.*florence2 export MODEL FOLDER"):
        load(folder)


def test_half_a_pair_is_no_decoder(folder: Path) -> None:
    (folder / "onnx" / "decoder_model_merged.onnx").rename(folder / "onnx" / "decoder_model.onnx")
    with pytest.raises(CheckpointError, match="or the pair decoder_model, decoder_with_past_model"):
        load(folder)


def test_precisions(folder: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"lacks vision_encoder_int8\.onnx .*for int8; found .*; whole are float32"
    ):
        load(folder, "int8")
    with pytest.raises(ConfigError, match="dtype 'bfloat16' is not one of an export; expected auto, float32"):
        load(folder, "bfloat16")
    for file in FILES:
        (folder / "onnx" / f"{file}.onnx").rename(folder / "onnx" / f"{file}_quantized.onnx")
    assert load(folder).model.format == "quantized"  # the only one there


def test_wrong_names_are_named(folder: Path) -> None:
    graph(folder / "onnx" / "vision_encoder.onnx", {"images": ["batch", 3, 64, 64]}, ["image_features"])
    with pytest.raises(
        CheckpointError, match=r"no pixel_values and an unknown images among its inputs: found images; ex"
    ):
        load(folder)
    graph(folder / "onnx" / "vision_encoder.onnx", {"pixel_values": ["batch", 3, 64, 64]}, ["features"])
    with pytest.raises(CheckpointError, match=r"no image_features among its outputs: found features; expected image_f"):
        load(folder)


def test_a_decoder_of_another_size(folder: Path) -> None:
    """config.json says three layers, the graph has two."""
    path = folder / "config.json"
    values = json.loads(path.read_text())
    values["text_config"]["decoder_layers"] = 3
    path.write_text(json.dumps(values))
    with pytest.raises(
        CheckpointError, match=r"no past_key_values\.2\.decoder\.key .*of another size than config\.json"
    ):
        load(folder)


def test_another_input_size(folder: Path) -> None:
    path = folder / "preprocessor_config.json"
    values = json.loads(path.read_text())
    values["size"] = {"height": 96, "width": 96}
    path.write_text(json.dumps(values))
    with pytest.raises(
        CheckpointError, match=r"takes photos of 64 x 64 pixels, preprocessor_config\.json says 96 x 96"
    ):
        load(folder)


def test_a_broken_file(folder: Path) -> None:
    (folder / "onnx" / "encoder_model.onnx").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(
        CheckpointError, match=r"encoder_model\.onnx cannot be opened by onnxruntime .* copy the file again"
    ):
        load(folder)


def test_numbers_that_do_not_fit(folder: Path) -> None:
    """The names are right and the graphs are not: said as a mistake of the file, when it is run."""
    model = load(folder).model
    with pytest.raises(CheckpointError, match=r"encoder_model\.onnx failed .* may not be those of config\.json"):
        model.encode(None, torch.tensor([[0, 5, 2]]))


def test_places_that_are_no_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="florence2 export nano FOLDER"):
        load(None)
    with pytest.raises(CheckpointError, match=r"no file or folder ./nowhere, and it is not the id of a hub"):
        load("./nowhere")
    (tmp_path / "vision_encoder.onnx").touch()
    with pytest.raises(CheckpointError, match=r"is one file of an export; give the folder that holds config\.json"):
        load(tmp_path / "vision_encoder.onnx")
    with pytest.raises(CheckpointError, match=r"lacks vision_encoder\.onnx and .*; found no \.onnx file"):
        load(save(tiny_checkpoint(), tmp_path / "plain"))


@pytest.fixture
def repository(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of someone/export on a hub that filters them as the real one does; ``fetched`` are those asked for."""

    def download(repository: str, *, revision: str | None, local_files_only: bool, **patterns: Any) -> str:
        assert (repository, revision, local_files_only) == ("someone/export", "v1", False)
        names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
        for name in filter_repo_objects(names, **patterns):
            (tmp_path / "fetched" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / name, tmp_path / "fetched" / name)
        return str(tmp_path / "fetched")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return folder


def fetched(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "fetched").rglob("*.onnx*")}


def test_a_hub_id_fetches_one_precision(repository: Path, tmp_path: Path) -> None:
    """Repositories hold the graphs in many precisions, each as large as the model."""
    for path in list((repository / "onnx").iterdir()):
        shutil.copy(path, path.with_name(f"{path.stem}_q4.onnx"))
    (repository / "onnx" / "vision_encoder_q4.onnx_data").touch()
    loaded = load("someone/export", "q4", revision="v1")
    assert (loaded.model.format, loaded.source) == ("q4", "someone/export")
    assert fetched(tmp_path) == {*(f"{file}_q4.onnx" for file in FILES), "vision_encoder_q4.onnx_data"}
    assert load("someone/export", revision="v1").model.format == "float32"


def test_a_hub_id_without_a_merged_decoder_fetches_the_pair(repository: Path, tmp_path: Path) -> None:
    (repository / "onnx" / "decoder_model_merged.onnx").unlink()
    embeds: list[int | str] = ["batch", "n", 24]
    layers = tiny_checkpoint().config.text.decoder_layers
    own, cross = (names.present(attention, layers) for attention in ("decoder", "encoder"))
    given: dict[str, list[int | str]] = dict.fromkeys(
        ("inputs_embeds", "encoder_attention_mask", "encoder_hidden_states"), embeds
    )
    graph(repository / "onnx" / "decoder_model.onnx", given, ["logits", *own, *cross])
    past = [*names.past("decoder", layers), *names.past("encoder", layers)]
    graph(repository / "onnx" / "decoder_with_past_model.onnx", given | dict.fromkeys(past, embeds), ["logits", *own])
    assert load("someone/export", revision="v1").model.format == "float32"
    assert fetched(tmp_path) == {f"{name}.onnx" for name in (*FILES[:3], "decoder_model", "decoder_with_past_model")}


def test_a_hub_id_without_graphs_says_what_is_missing(repository: Path) -> None:
    shutil.rmtree(repository / "onnx")
    with pytest.raises(CheckpointError, match=r"lacks vision_encoder\.onnx and .*; found no \.onnx file"):
        load("someone/export", revision="v1")


def test_devices(folder: Path) -> None:
    with pytest.raises(ConfigError, match="device 'mps' is not one for an export; expected auto, cpu, cuda"):
        load(folder, device="mps")
    with pytest.raises(ConfigError, match=r"this onnxruntime has .*CPUExecutionProvider.*onnxruntime-gpu"):
        load(folder, device="cuda")


def test_an_unknown_runtime() -> None:
    with pytest.raises(ConfigError, match="runtime 'tensorrt' is unknown; expected torch or onnx"):
        Florence2.from_pretrained(runtime="tensorrt")  # type: ignore[arg-type]


@pytest.mark.parametrize("absent", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_library_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absent: str) -> None:
    monkeypatch.setitem(sys.modules, absent, None)  # type: ignore[arg-type]
    with pytest.raises(MissingDependencyError, match=rf'needs {absent}, .*pip install "florence2\[onnx\]"'):
        load(folder) if absent == "onnxruntime" else export(tiny_checkpoint(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_onnx_cannot_do_is_said(folder: Path) -> None:
    with Florence2.from_pretrained(folder, runtime="onnx") as model:
        assert repr(model).startswith("Florence2('tiny', ONNX")
        assert (model.adapters, model.adapter, model.device.type, model.layout) == ((), None, "cpu", "onnx")
        with pytest.raises(Florence2Error, match="runs as ONNX: there is no module to train"):
            _ = model.model
        with pytest.raises(Florence2Error, match="load the checkpoint that it was exported from"):
            model.load_adapter("somewhere")
        with pytest.raises(ImageError, match=r"made 32 x 64 pixels, the export takes 64 x 64 only; leave out size"):
            model.encode(picture(1), size=(64, 32))
