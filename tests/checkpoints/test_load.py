from __future__ import annotations

import dataclasses
import json
import os
import pickle
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from florence2.checkpoints import Checkpoint, layouts, load, save
from florence2.checkpoints.load import build
from florence2.errors import CheckpointError, ConfigError, Florence2Error
from florence2.model.projector import cosine_table
from tests.checkpoints.conftest import WORDS, assert_same_weights

SHARED, HEAD, ENCODER, DECODER = layouts.TIED["microsoft"]
BIAS, TABLE = "language_model.final_logits_bias", "visual_temporal_embed.pos_idx_to_embed"
NORM = "language_model.model.encoder.layers.1.final_layer_norm.weight"


def edit(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> Path:
    """Change the tensors of a folder in place."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


def test_everything_of_a_checkpoint_comes_back(tiny: Checkpoint, microsoft: Path) -> None:
    found = load(microsoft)
    assert_same_weights(tiny, found)
    assert dataclasses.replace(found.config, name="tiny") == tiny.config == tiny.model.config
    assert found.model.config == found.config
    assert (found.layout, found.source, found.config.name) == ("microsoft", "microsoft", "microsoft")
    assert "microsoft layout" in found.recognised
    assert "100.0%" in found.recognised
    assert found.tokenizer is not None
    assert found.tokenizer.encode("a red <loc_5>dog") == tiny.tokenizer.encode("a red <loc_5>dog")
    assert not found.model.training
    assert found.dtype == torch.float32
    assert found.device.type == "cpu"
    assert all(parameter.requires_grad for parameter in found.model.parameters())


def test_a_file_can_be_named(tiny: Checkpoint, microsoft: Path) -> None:
    assert_same_weights(tiny, load(microsoft / "model.safetensors"))


def test_the_only_file_may_have_any_name(tiny: Checkpoint, microsoft: Path) -> None:
    (microsoft / "model.safetensors").rename(microsoft / "epoch-3.safetensors")
    assert_same_weights(tiny, load(microsoft))


# Tied copies, and what may be missing


@pytest.mark.parametrize("kept", [(HEAD,), (ENCODER,), (DECODER, HEAD), (SHARED, HEAD, ENCODER, DECODER)])
def test_any_of_the_tied_copies_will_do(kept: tuple[str, ...], tiny: Checkpoint, microsoft: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        shared = tensors.pop(SHARED)
        tensors.update({name: shared.clone() for name in kept})

    assert_same_weights(tiny, load(edit(microsoft, change)))


def test_a_copy_in_another_type_is_still_the_same(tiny: Checkpoint, microsoft: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[SHARED] = tensors[SHARED].half()
        tensors[HEAD] = tensors[SHARED].float()

    load(edit(microsoft, change))


def test_a_head_that_differs_is_refused(microsoft: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[HEAD] = tensors[SHARED].clone()
        tensors[HEAD][7, 3] += 0.5

    with pytest.raises(CheckpointError, match=rf"{SHARED} and {HEAD} differ in 1 of {WORDS} rows \(by up to 0.5\)"):
        load(edit(microsoft, change))


def test_no_embedding_at_all(microsoft: Path) -> None:
    with pytest.raises(CheckpointError, match=f"1 missing: {SHARED}"):
        load(edit(microsoft, lambda tensors: tensors.pop(SHARED)))


def test_buffers_may_be_missing(tiny: Checkpoint, microsoft: Path) -> None:
    found = load(edit(microsoft, lambda tensors: (tensors.pop(BIAS), tensors.pop(TABLE))))
    assert_same_weights(tiny, found)
    assert not found.model.text.logits_bias.any()
    assert torch.equal(found.model.projector.temporal, cosine_table(4, 24))


def test_the_table_of_the_file_is_used(microsoft: Path) -> None:
    found = load(edit(microsoft, lambda tensors: tensors.update({TABLE: tensors[TABLE].half()})))
    assert torch.equal(found.model.projector.temporal, cosine_table(4, 24).half().float())


def test_a_damaged_table_is_refused(microsoft: Path) -> None:
    with pytest.raises(CheckpointError, match="temporal table is up to 1 away"):
        load(edit(microsoft, lambda tensors: tensors[TABLE].zero_()))


def test_the_classifier_of_davit_is_passed_over(tiny: Checkpoint, microsoft: Path) -> None:
    assert_same_weights(tiny, load(edit(microsoft, lambda t: t.update({"vision_tower.norms.weight": torch.ones(24)}))))


# What does not fit


def test_a_missing_key_is_named(microsoft: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"{microsoft}.*microsoft layout .*1 missing: {NORM}\. Nothing was"):
        load(edit(microsoft, lambda tensors: tensors.pop(NORM)))


def test_missing_keys_are_counted(microsoft: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if ".decoder.layers.1." in name]:
            del tensors[name]

    with pytest.raises(CheckpointError, match=r"26 missing: language_model\.model\.decoder\.layers\.1.* \.\.\."):
        load(edit(microsoft, change))


@pytest.mark.parametrize(
    "name", ["adapter.scale", NORM.replace("layers.1", "layers.2"), "vision_tower.convs.4.proj.bias"]
)
def test_an_extra_key_is_named(name: str, microsoft: Path) -> None:
    with pytest.raises(CheckpointError, match=f"1 not known: {name}"):
        load(edit(microsoft, lambda tensors: tensors.update({name: torch.ones(3)})))


def test_a_wrong_shape_is_named(microsoft: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"1 of another shape .*: {NORM} is \(23,\), not \(24,\)"):
        load(edit(microsoft, lambda tensors: tensors.update({NORM: torch.ones(23)})))


def test_a_projection_the_right_way_round_is_the_wrong_way_round_for_microsoft(
    tiny: Checkpoint, tmp_path: Path
) -> None:
    config = dataclasses.replace(tiny.config, vision=dataclasses.replace(tiny.config.vision, dims=(8, 16, 16, 30)))
    model = build(config)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    folder = save(dataclasses.replace(tiny, model=model, config=config), tmp_path / "wide", "microsoft")
    load(folder)
    with pytest.raises(CheckpointError, match=r"image_projection is \(24, 30\), not \(30, 24\)"):
        load(edit(folder, lambda tensors: tensors.update(image_projection=tensors["image_projection"].T)))


def test_a_value_that_is_no_number_is_named(microsoft: Path) -> None:
    with pytest.raises(CheckpointError, match=r"text\.encoder\.layers\.1\.ffn_norm\.weight holds 1 values"):
        load(edit(microsoft, lambda tensors: tensors[NORM].__setitem__(2, float("nan"))))


def test_a_value_too_large_for_the_type_is_named(microsoft: Path) -> None:
    edit(microsoft, lambda tensors: tensors[NORM].__setitem__(2, 1e5))
    load(microsoft)
    with pytest.raises(CheckpointError, match="not finite in float16"):
        load(microsoft, dtype="float16")


def test_quantised_weights_are_refused(microsoft: Path) -> None:
    with pytest.raises(CheckpointError, match="int8; quantised"):
        load(edit(microsoft, lambda tensors: tensors.update({NORM: torch.ones(24, dtype=torch.int8)})))


def test_another_tokenizer_is_refused(microsoft: Path, tiny: Checkpoint) -> None:
    smaller = type(tiny.tokenizer).train(["abc"], 1024 + 261)
    smaller.save(microsoft)
    found = load(microsoft)  # ten rows of padding are nothing unusual
    assert found.config.text.vocab_size == smaller.vocab_size
    config = json.loads((microsoft / "config.json").read_text())
    config["text_config"]["vocab_size"] = 2000
    (microsoft / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="the tokenizer has 1285 tokens, the model 2000"):
        load(microsoft)


def test_padding_rows_are_cut_off(tiny: Checkpoint, tmp_path: Path) -> None:
    folder = save(tiny, tmp_path / "native", "native")
    assert load_file(folder / "model.safetensors")[layouts.TIED["native"][0]].shape[0] == 1344
    assert_same_weights(tiny, load(folder))


def test_rows_that_are_cut_off_may_differ_between_the_copies(tiny: Checkpoint, tmp_path: Path) -> None:
    """The published conversion draws them at random, for the embedding and for the head apart."""
    folder = save(tiny, tmp_path / "native", "native")

    def change(tensors: dict[str, Tensor]) -> None:
        tensors["lm_head.weight"] = tensors[layouts.TIED["native"][0]].clone()
        tensors["lm_head.weight"][WORDS:] += 1

    assert_same_weights(tiny, load(edit(folder, change)))


# Missing and broken files


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no file or folder"):
        load(tmp_path / "nowhere")


def test_missing_config(microsoft: Path) -> None:
    (microsoft / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        load(microsoft)


def test_missing_weights(microsoft: Path) -> None:
    (microsoft / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="files of weights there: none"):
        load(microsoft)


def test_an_adapter_folder_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    save_file({"x": torch.ones(1)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="LoRA adapter"):
        load(tmp_path)


def test_missing_tokenizer_of_the_published_vocabulary(tmp_path: Path, microsoft: Path) -> None:
    (microsoft / "tokenizer.json").unlink()
    assert load(microsoft).tokenizer is None
    config = json.loads((microsoft / "config.json").read_text())
    for size in (51289, 51328):
        config["text_config"]["vocab_size"] = size
        (microsoft / "config.json").write_text(json.dumps(config))
        with pytest.raises(
            CheckpointError, match=rf"holds no tokenizer; its vocabulary of {size} .*copy tokenizer\.json"
        ):
            load(microsoft)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n", "Git LFS pointer"),
        (struct.pack("<Q", 1 << 60) + b"{}", "is broken"),
        (struct.pack("<Q", 9) + b'{"a": [}]', "is broken"),
        (os.urandom(64), "is broken"),
    ],
    ids=["empty", "pointer", "header length", "header", "noise"],
)
def test_broken_safetensors(content: bytes, message: str, microsoft: Path) -> None:
    (microsoft / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load(microsoft)


def test_truncated_safetensors(microsoft: Path) -> None:
    file = microsoft / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load(microsoft)


# Pickles


def as_pickle(folder: Path, **options: bool) -> Path:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin", **options)
    return folder


@pytest.mark.parametrize("zipped", [True, False], ids=["torch 1.6 and later", "before"])
def test_a_pickle_of_tensors_is_read(zipped: bool, tiny: Checkpoint, microsoft: Path) -> None:
    assert_same_weights(tiny, load(as_pickle(microsoft, _use_new_zipfile_serialization=zipped)))


def test_a_pickle_in_shards_is_read(tiny: Checkpoint, microsoft: Path) -> None:
    tensors = load_file(microsoft / "model.safetensors")
    (microsoft / "model.safetensors").unlink()
    names = list(tensors)
    placed = {name: f"pytorch_model-{1 + i % 2}.bin" for i, name in enumerate(names)}
    for file in set(placed.values()):
        torch.save({name: tensors[name] for name in names if placed[name] == file}, microsoft / file)
    (microsoft / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": placed}))
    assert_same_weights(tiny, load(microsoft))
    (microsoft / "pytorch_model-2.bin").unlink()
    with pytest.raises(CheckpointError, match=r"lacks 1 of 2 shards .*pytorch_model-2\.bin"):
        load(microsoft)
    torch.save({}, microsoft / "pytorch_model-2.bin")
    with pytest.raises(CheckpointError, match="which does not hold it"):
        load(microsoft)


class Trap:
    """Unpickling this makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_does_not(zipped: bool, microsoft: Path, tmp_path: Path) -> None:
    (microsoft / "model.safetensors").unlink()
    sprung = tmp_path / "sprung"
    torch.save({SHARED: Trap(sprung)}, microsoft / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="would run code"):
        load(microsoft)
    assert not sprung.exists()
    torch.load(microsoft / "pytorch_model.bin", weights_only=False)  # the trap is a real one
    assert sprung.exists()


@pytest.mark.parametrize(
    "write",
    [
        lambda file: file.write_bytes(b"PK\x03\x04 not a zip file"),
        lambda file: file.write_bytes(os.urandom(100)),
        lambda file: file.write_bytes(b"\x80\x02Nb."),  # puts a state into an object that is not there
        lambda file: file.write_bytes(b"\x80\x02(t\x85R."),
        lambda file: file.write_bytes(pickle.dumps([1, 2], protocol=2)),
        lambda file: torch.save([1, 2], file),
        lambda file: torch.save({"epoch": 3}, file),
    ],
)
def test_broken_pickles(write: Callable[[Path], object], microsoft: Path) -> None:
    (microsoft / "model.safetensors").unlink()
    write(microsoft / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        load(microsoft)


def test_random_bytes_never_come_through(microsoft: Path) -> None:
    (microsoft / "model.safetensors").unlink()
    for seed in range(300):
        (microsoft / "pytorch_model.bin").write_bytes(b"\x80\x02" + random.Random(seed).randbytes(40))
        with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
            load(microsoft)


# Types and devices


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", torch.bfloat16])
@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
def test_every_type_loads_as_every_type(stored: str, dtype: str, tiny: Checkpoint, tmp_path: Path) -> None:
    folder = save(tiny, tmp_path / "it", "microsoft", dtype=stored)
    found = load(folder, dtype=dtype)
    wanted = dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype)
    assert {tensor.dtype for tensor in found.model.state_dict().values()} == {wanted}
    kept = tiny.model.text.shared.weight.to(getattr(torch, stored)).to(wanted)
    assert torch.equal(found.model.text.shared.weight, kept)


def test_auto_is_float32_on_a_cpu(tiny: Checkpoint, tmp_path: Path) -> None:
    assert load(save(tiny, tmp_path / "it", dtype="float16"), device="cpu").dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int4"}, "dtype 'int4' is not one"),
        ({"dtype": torch.int32}, "dtype torch.int32 is not one"),
        ({"device": "abacus"}, "device 'abacus' does not exist"),
        ({"device": "cuda:77"}, "device 'cuda:77' was asked for, torch sees"),
    ],
)
def test_impossible_types_and_devices(options: dict[str, str], message: str, microsoft: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        load(microsoft, **options)


def test_a_built_model_has_no_random_weights_but_its_buffers(tiny: Checkpoint) -> None:
    state = torch.get_rng_state()
    model = build(tiny.config)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model.projector.temporal, cosine_table(4, 24))
    assert not model.text.logits_bias.any()


def test_the_embedded_model_loads(nano_path: Path) -> None:
    found = load()
    assert found.source == "florence2-nano"
    assert found.tokenizer is not None
    assert found.tokenizer.vocab_size == found.config.text.vocab_size


def test_every_error_is_of_one_family() -> None:
    assert issubclass(CheckpointError, Florence2Error)
