"""What an export consists of, and when there is none."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from florence2 import Florence2
from florence2.checkpoints import load
from florence2.errors import CheckpointError
from florence2.onnx import export
from florence2.onnx.check import compare
from tests.conftest import REPOSITORY
from tests.onnx.conftest import Exported, Plant, linked, writer
from tests.tiny_checkpoint import tiny_checkpoint


def described(values: Any) -> dict[str, list[Any]]:
    return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}


@pytest.mark.slow
def test_names_and_sizes_are_those_of_optimum(nano_onnx: Path) -> None:
    """Width 256, three layers of eight heads, 8,000 words, photos of 224 px that become 1 + 49 tokens."""
    graphs = {path.stem: onnx.load(path).graph for path in (nano_onnx / "onnx").iterdir()}
    found = {name: (described(graph.input), described(graph.output)) for name, graph in graphs.items()}
    batch, seen, new = "batch_size", "encoder_sequence_length", "decoder_sequence_length"
    past, each = f"past_{new}", [(i, kind) for i in range(3) for kind in ("key", "value")]
    expected = {
        "vision_encoder": ({"pixel_values": [batch, 3, 224, 224]}, {"image_features": [batch, 50, 256]}),
        "embed_tokens": (
            {"input_ids": [batch, "sequence_length"]},
            {"inputs_embeds": [batch, "sequence_length", 256]},
        ),
        "encoder_model": (
            {"attention_mask": [batch, seen], "inputs_embeds": [batch, seen, 256]},
            {"last_hidden_state": [batch, seen, 256]},
        ),
        "decoder_model_merged": (
            {
                "encoder_attention_mask": [batch, seen],
                "encoder_hidden_states": [batch, seen, 256],
                "inputs_embeds": [batch, new, 256],
                "use_cache_branch": [1],
                **{f"past_key_values.{i}.decoder.{kind}": [batch, 8, past, 32] for i, kind in each},
                **{f"past_key_values.{i}.encoder.{kind}": [batch, 8, seen, 32] for i, kind in each},
            },
            {
                "logits": [batch, new, 8000],
                **{f"present.{i}.decoder.{kind}": [batch, 8, f"{past} + {new}", 32] for i, kind in each},
                **{f"present.{i}.encoder.{kind}": [batch, 8, seen, 32] for i, kind in each},
            },
        ),
    }
    assert found == expected | {f"{name}_int8": shapes for name, shapes in expected.items()}


@pytest.mark.slow
def test_the_files_say_nothing_of_where_they_were_made(nano_onnx: Path) -> None:
    for path in (nano_onnx / "onnx").iterdir():
        proto = onnx.load(path)
        assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 18)]
        assert proto.ir_version == 8
        assert b"site-packages" not in path.read_bytes()
        assert str(REPOSITORY).encode() not in path.read_bytes()


@pytest.mark.slow
def test_the_description_is_one_that_others_read(nano_onnx: Path) -> None:
    config = json.loads((nano_onnx / "config.json").read_text())
    assert config["model_type"] == "florence2"
    assert config["text_config"]["decoder_layers"] == 3
    assert json.loads((nano_onnx / "generation_config.json").read_text())["decoder_start_token_id"] == 2
    processor = json.loads((nano_onnx / "preprocessor_config.json").read_text())
    assert processor["size"] == {"height": 224, "width": 224}
    # What transformers.js makes of "<OD>", and of a task with its input behind it.
    assert processor["task_prompts_without_inputs"]["<OD>"] == "Locate the objects with category name in the image."
    given, task = "<CAPTION_TO_PHRASE_GROUNDING>a cat", "<CAPTION_TO_PHRASE_GROUNDING>"
    prompt = processor["task_prompts_with_input"][task].replace("{input}", given).replace(task, "")
    assert prompt == "Locate the phrases in the caption: a cat"
    assert processor["tasks_answer_post_processing_type"]["<OD>"] == "description_with_bboxes"
    both = {*processor["task_prompts_without_inputs"], *processor["task_prompts_with_input"]}
    assert both == set(processor["tasks_answer_post_processing_type"])
    assert (nano_onnx / "tokenizer.json").is_file()


@pytest.mark.slow
def test_the_first_step_does_not_look_at_what_came_before(nano_onnx: Path) -> None:
    """Other runtimes fill past_key_values with anything where use_cache_branch is false."""
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(nano_onnx / "onnx" / "decoder_model_merged.onnx")
    rng = np.random.default_rng(0)
    given = {
        "encoder_attention_mask": np.ones((2, 7), dtype=np.int64),
        "encoder_hidden_states": rng.standard_normal((2, 7, 256), dtype=np.float32),
        "inputs_embeds": rng.standard_normal((2, 1, 256), dtype=np.float32),
        "use_cache_branch": np.array([False]),
    }
    answers = []
    for length in (0, 1, 4):
        past = {
            value.name: rng.standard_normal((2, 8, length, 32), dtype=np.float32)
            for value in session.get_inputs()
            if value.name.startswith("past")
        }
        answers.append(session.run(["logits", "present.0.encoder.key"], given | past))
    assert all(np.array_equal(logits, answers[0][0]) for logits, _ in answers)
    assert answers[0][1].shape == (2, 8, 7, 32)
    given["use_cache_branch"] = np.array([True])
    logits, cross, own = session.run(
        ["logits", "present.0.encoder.key", "present.1.decoder.value"],
        given | {name: np.resize(value, (2, 8, 7, 32)) for name, value in past.items()},
    )
    assert not np.array_equal(logits, answers[0][0])
    assert cross.shape == (0, 8, 1, 32)  # as in optimum's files: whoever gave it in has it
    assert own.shape == (2, 8, 8, 32)


def test_half_precision_is_exported_as_float32() -> None:
    model = tiny_checkpoint().model
    assert writer.plain(tiny_checkpoint()) is model
    half = copy.deepcopy(model).to(torch.bfloat16)
    wide = writer.plain(dataclasses.replace(tiny_checkpoint(), model=half))
    assert {parameter.dtype for parameter in wide.parameters()} == {torch.float32}
    assert torch.equal(wide.text.shared.weight, half.text.shared.weight.float())
    assert next(half.parameters()).dtype == torch.bfloat16  # the given model stays as it is


@pytest.mark.slow
def test_compare_sees_a_fault(nano_path: Path, nano_onnx: Path, plant: Plant) -> None:
    checkpoint = load(nano_path, dtype="float32", device="cpu")
    assert compare(checkpoint, nano_onnx).exact
    assert not compare(checkpoint, plant(nano_onnx, "decoder_model_merged.onnx")).exact


@pytest.mark.slow
def test_large_weights_lie_beside_the_graph(
    nano_path: Path, exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = load(nano_path, dtype="float32", device="cpu")
    monkeypatch.setattr(writer, "trace", exported.again)
    monkeypatch.setattr(writer, "LARGEST", 10_000_000)
    sizes = export(checkpoint, tmp_path / "large", int8=True)
    graphs = [name for name in sizes if name.startswith("onnx/")]
    assert [name for name in graphs if name.endswith("_data")] == [
        "onnx/decoder_model_merged.onnx_data",
        "onnx/vision_encoder.onnx_data",
    ]
    assert sizes["onnx/decoder_model_merged.onnx"] < 500_000
    assert compare(checkpoint, tmp_path / "large").exact
    assert compare(checkpoint, tmp_path / "large", "int8") == compare(checkpoint, exported.folder, "int8")
    (tmp_path / "large" / "onnx" / "decoder_model_merged.onnx_data").unlink()
    with pytest.raises(CheckpointError, match=r"with the \.onnx_data beside it"):
        Florence2.from_pretrained(tmp_path / "large", runtime="onnx")


@pytest.mark.slow
def test_a_folder_is_replaced_as_a_whole(
    nano_path: Path, exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = load(nano_path, dtype="float32", device="cpu")
    target = linked(exported.folder, tmp_path / "there")
    monkeypatch.setattr(writer, "trace", lambda model: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(checkpoint, target, overwrite=True)
    assert (target / "onnx" / "vision_encoder_int8.onnx").exists()  # nothing was lost
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    monkeypatch.setattr(writer, "trace", exported.again)
    export(checkpoint, target, overwrite=True)
    assert not (target / "onnx" / "vision_encoder_int8.onnx").exists()
    assert (target / "onnx" / "vision_encoder.onnx").read_bytes() == (
        exported.folder / "onnx" / "vision_encoder.onnx"
    ).read_bytes()


def test_what_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"is not empty; choose another folder, or overwrite it \(--force\)"):
        export(tiny_checkpoint(), tmp_path)
    with pytest.raises(CheckpointError, match="holds other things than a model and is not replaced"):
        export(tiny_checkpoint(), tmp_path, overwrite=True)
    with pytest.raises(CheckpointError, match="is a file; give the name of a folder"):
        export(tiny_checkpoint(), tmp_path / "notes.txt")


def test_models_that_are_not_exported(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint()
    model = copy.deepcopy(checkpoint.model)
    model.peft_config = {"forms": None}  # type: ignore[assignment]
    with pytest.raises(CheckpointError, match=r"carries adapters, .*florence2 convert MODEL FOLDER --adapter"):
        export(dataclasses.replace(checkpoint, model=model), tmp_path / "out")
    model = copy.deepcopy(checkpoint.model)
    model.register_buffer("scales", torch.ones(3, dtype=torch.int8))
    with pytest.raises(CheckpointError, match=r"scales is not a tensor of floating point numbers; .*int8=True"):
        export(dataclasses.replace(checkpoint, model=model), tmp_path / "out")
    with pytest.raises(CheckpointError, match="tiny holds no tokenizer, without which nobody can use the export"):
        export(dataclasses.replace(checkpoint, tokenizer=None), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_calibration_goes_along(nano: Florence2, nano_onnx: Path) -> None:
    with Florence2.from_pretrained(nano_onnx, runtime="onnx") as model:
        assert model.calibration is not None
        assert model.calibration == nano.calibration
    with Florence2.from_pretrained(nano_onnx, runtime="onnx", calibrated=False) as model:
        assert model.calibration is None
