"""Files of adapters: through every layout, broken ones, and whole modules beside the matrices."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from florence2.checkpoints import Checkpoint, save
from florence2.checkpoints.adapter_files import is_adapter, read_adapter
from florence2.checkpoints.adapters import (
    LoraSettings,
    active_adapter,
    adapter_names,
    add_adapter,
    load_adapter,
    merge_adapter,
    remove_adapter,
    save_adapter,
    use_adapter,
)
from florence2.checkpoints.layouts import EMBEDDING, LAYOUTS, Layout
from florence2.errors import CheckpointError
from florence2.model import Florence2Model
from tests.checkpoints.adapted import (
    ALL,
    TOLERANCE,
    WITHOUT_HEAD,
    difference,
    logits,
    modules,
    train,
    trained,
)
from tests.model.tiny import TINY, tiny_model

pytest.importorskip("peft", reason="adapters need peft (pip install '.[train]')")


@pytest.fixture
def model() -> Florence2Model:
    return tiny_model(1)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an adapter on everything, trained; not to be changed."""
    return save_adapter(trained(tiny_model(1)), tmp_path_factory.mktemp("written") / "it")


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(written, tmp_path / "copy"))


# Files


@pytest.mark.parametrize(
    "settings", [WITHOUT_HEAD, dataclasses.replace(ALL, rslora=True), dataclasses.replace(ALL, alpha=5.5)]
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_through_files(model: Florence2Model, tmp_path: Path, layout: Layout, settings: LoraSettings) -> None:
    if layout == "microsoft":  # there the projector is no module
        settings = dataclasses.replace(settings, targets=tuple(t for t in settings.targets if t != "projector"))
    trained(model, settings)
    folder = save_adapter(model, tmp_path / "it", layout, base="somebody/model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["it"]
    assert is_adapter(folder)
    file = read_adapter(folder)
    assert (file.layout, file.base, file.rslora) == (layout, "somebody/model", settings.rslora)
    assert set(file.ranks.values()) == {settings.rank}
    assert set(file.alphas.values()) == {settings.alpha}
    other = tiny_model(1)
    assert set(load_adapter(other, folder)) == set(file.ranks)
    assert difference(logits(other), logits(model)) < TOLERANCE


def double_the_scale(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    config["lora_alpha"] *= 2


def forget_a_module(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    tensors["base_model.model.text.decoder.layers.1.cross_attention.v.lora_B.weight"].zero_()


def forget_the_head(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    tensors["base_model.model.text.head.lora_B.weight"].zero_()


def swap_convolutions(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    first, second = (f"base_model.model.vision.stages.{i}.embed.conv.lora_B.weight" for i in (1, 2))
    tensors[first], tensors[second] = tensors[second], tensors[first]


@pytest.mark.parametrize("fault", [double_the_scale, forget_a_module, forget_the_head, swap_convolutions])
def test_a_fault_in_the_file_shows(
    model: Florence2Model, folder: Path, fault: Callable[[dict[str, Tensor], dict[str, Any]], None]
) -> None:
    load_adapter(model, folder)
    right = logits(model)
    change(folder, fault)
    other = tiny_model(1)
    load_adapter(other, folder)
    assert difference(logits(other), right) > 10 * TOLERANCE


def change(folder: Path, edit: Callable[[dict[str, Tensor], dict[str, Any]], None]) -> Path:
    tensors = load_file(folder / "adapter_model.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text())
    edit(tensors, config)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_ranks_and_alphas_of_single_modules(model: Florence2Model, tmp_path: Path) -> None:
    """Loaded from a file with patterns, written with patterns in other names, and loaded again."""
    trained(model, dataclasses.replace(ALL, targets=("attention",)))
    single = "text.decoder.layers.0.self_attention.q"

    def halve(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
        name = f"base_model.model.{single}.lora_"
        tensors[f"{name}A.weight"] = tensors[f"{name}A.weight"][:2]
        tensors[f"{name}B.weight"] = tensors[f"{name}B.weight"][:, :2]
        config["rank_pattern"] = {"decoder.layers.0.self_attention.q": 2}
        config["alpha_pattern"] = {r"layers\.0\.self_attention\.q": 3}

    folder = change(save_adapter(model, tmp_path / "it"), halve)
    one = tiny_model(1)
    load_adapter(one, folder)
    save_adapter(one, tmp_path / "native", "native")
    file = read_adapter(tmp_path / "native")
    assert (file.ranks[single], file.ranks[single.replace("0", "1")]) == (2, 4)
    assert file.alphas[single] == file.alphas[single.replace("decoder", "encoder")] == 3
    assert file.alphas[single.replace("0", "1")] == 8
    two = tiny_model(1)
    load_adapter(two, tmp_path / "native")
    assert difference(logits(two), logits(one)) < TOLERANCE
    assert difference(logits(one), logits(model)) > 10 * TOLERANCE


@pytest.mark.parametrize("form", ["plain", "named", "bin"])
def test_keys_in_other_forms(model: Florence2Model, tmp_path: Path, form: str) -> None:
    trained(model)
    folder = save_adapter(model, tmp_path / "it", "native" if form == "named" else "florence2")
    tensors = load_file(folder / "adapter_model.safetensors")
    if form == "plain":
        tensors = {name.removeprefix("base_model.model."): tensor for name, tensor in tensors.items()}
    if form == "named":
        tensors = {re.sub(r"(lora_.)\.", r"\1.default.", name): tensor for name, tensor in tensors.items()}
    if form == "bin":
        (folder / "adapter_model.safetensors").unlink()
        torch.save(tensors, folder / "adapter_model.bin")
    else:
        save_file(tensors, folder / "adapter_model.safetensors")
    other = tiny_model(1)
    load_adapter(other, folder)
    assert difference(logits(other), logits(model)) < TOLERANCE


def test_written_whole_or_not_at_all(model: Florence2Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(model)
    folder = save_adapter(model, tmp_path / "it")
    with pytest.raises(CheckpointError, match="not empty"):
        save_adapter(model, folder)
    save_adapter(model, folder, overwrite=True)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("florence2.checkpoints.adapter_files.save_file", full)
    with pytest.raises(CheckpointError, match="no space left"):
        save_adapter(model, folder, overwrite=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


def test_a_folder_with_other_things_is_not_replaced(model: Florence2Model, tmp_path: Path) -> None:
    trained(model)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="other things"):
        save_adapter(model, tmp_path, overwrite=True)
    with pytest.raises(CheckpointError, match="is a file"):
        save_adapter(model, tmp_path / "notes.txt")


def test_what_has_diverged_is_not_written(model: Florence2Model, tmp_path: Path) -> None:
    add_adapter(model, ALL)
    next(p for p in model.parameters() if p.requires_grad).data[0, 0] = float("nan")
    with pytest.raises(CheckpointError, match="not finite"):
        save_adapter(model, tmp_path / "it")
    with pytest.raises(CheckpointError, match="not finite"):
        merge_adapter(model)
    assert not (tmp_path / "it").exists()


def test_microsoft_has_no_module_for_the_projector(model: Florence2Model, tmp_path: Path) -> None:
    trained(model)
    with pytest.raises(CheckpointError, match=r"projector\.projection, which is no module of its own"):
        save_adapter(model, tmp_path / "it", "microsoft")
    assert list(tmp_path.iterdir()) == []


def test_the_native_vocabulary_is_padded(model: Florence2Model, tmp_path: Path) -> None:
    trained(model, dataclasses.replace(ALL, targets=("head",)))
    folder = save_adapter(model, tmp_path / "it", "native")
    rows = load_file(folder / "adapter_model.safetensors")["base_model.model.lm_head.lora_B.weight"]
    own = model.state_dict()["text.head.lora_B.default.weight"]
    assert len(rows) == 1216
    assert torch.equal(rows[:1200], own)
    assert torch.allclose(rows[1200:], own.mean(0), atol=1e-6)


def test_from_the_hub(model: Florence2Model, written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None, bool]] = []

    def download(repository: str, revision: str | None, local_files_only: bool, **_: object) -> str:
        asked.append((repository, revision, local_files_only))
        return str(written)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    load_adapter(model, "owner/forms", revision="v2", offline=True)
    assert asked == [("owner/forms", "v2", True)]
    other = tiny_model(1)
    load_adapter(other, written)
    assert torch.equal(logits(model), logits(other))


# What is refused, and leaves the model as it was


def test_another_base_is_named(tmp_path: Path) -> None:
    save_adapter(trained(tiny_model(1)), tmp_path / "it", base="owner/small")
    wide = dataclasses.replace(
        TINY, name="wide", text=dataclasses.replace(TINY.text, d_model=36, encoder_heads=3, decoder_heads=3)
    )
    model = tiny_model(1, wide)
    before, plain = logits(model), modules(model)
    with pytest.raises(CheckpointError, match=r"owner/small, this is wide \(width 36"):
        load_adapter(model, tmp_path / "it")
    shallow = dataclasses.replace(TINY, name="shallow", text=dataclasses.replace(TINY.text, encoder_layers=1))
    with pytest.raises(CheckpointError, match=r"modules are not in the model: text\.encoder\.layers\.1"):
        load_adapter(tiny_model(1, shallow), tmp_path / "it")
    assert modules(model) == plain
    assert torch.equal(logits(model), before)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_failure_leaves_the_adapter_in_use(model: Florence2Model, tmp_path: Path) -> None:
    trained(model, ALL, "one")
    before = logits(model)
    other = tiny_model(1, dataclasses.replace(TINY, text=dataclasses.replace(TINY.text, encoder_ffn_dim=80)))
    save_adapter(trained(other), tmp_path / "it")
    with pytest.raises(CheckpointError, match="does not fit"):
        load_adapter(model, tmp_path / "it", "two")
    assert (adapter_names(model), active_adapter(model)) == (("one",), "one")
    assert torch.equal(logits(model), before)


def drop_a_half(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    del tensors["base_model.model.text.head.lora_B.weight"]


def drop_the_magnitudes(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    config["use_dora"] = True


def add_a_stranger(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    tensors["base_model.model.text.decoder.layers.0.gate.lora_A.weight"] = torch.zeros(4, 24)


def adapt_the_embedding(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    tensors["base_model.model.text.shared.lora_embedding_A"] = torch.zeros(4, 1200)


def other_rank(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    config["r"] = 16


def other_method(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    config["peft_type"] = "LOHA"


def principal_components(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    config["init_lora_weights"] = "pissa_niter_16"


def more_than_lora(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    config["trainable_token_indices"] = [5]


def infinite(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    tensors["base_model.model.text.head.lora_B.weight"][0] = float("inf")


def other_model(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    tensors.clear()
    tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"] = torch.zeros(4, 8)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (drop_a_half, r"1 tensors are missing: text\.head\.lora_B"),
        (drop_the_magnitudes, r"lacks \d+ tensors.*lora_magnitude_vector"),
        (add_a_stranger, r"1 of \d+ tensors .*gate"),
        (adapt_the_embedding, r"1 of \d+ tensors .*lora_embedding_A"),
        (other_rank, "have rank 4, adapter_config.json says 16"),
        (other_method, "'LOHA', only LORA"),
        (principal_components, "pissa.*changes the base"),
        (more_than_lora, "trainable_token_indices is .*more than LoRA"),
        (infinite, "not finite"),
        (other_model, "not LoRA matrices of a Florence-2 model"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_broken_file_is_named(
    folder: Path, fault: Callable[[dict[str, Tensor], dict[str, Any]], None], message: str
) -> None:
    change(folder, fault)
    model = tiny_model(1)
    before = modules(model)
    with pytest.raises(CheckpointError, match=message):
        load_adapter(model, folder)
    assert modules(model) == before


def test_folders_that_are_no_adapters(model: Florence2Model, tiny: Checkpoint, folder: Path, tmp_path: Path) -> None:
    save(tiny, tmp_path / "model")
    assert not is_adapter(tmp_path / "model")
    with pytest.raises(CheckpointError, match="not an adapter"):
        load_adapter(model, tmp_path / "model")
    with pytest.raises(CheckpointError, match="no file or folder"):
        load_adapter(model, tmp_path / "nowhere")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="copy the weights"):
        load_adapter(model, folder)


# Whole modules beside the matrices


def beside(name: str, value: Tensor) -> Callable[[dict[str, Tensor], dict[str, Any]], None]:
    def edit(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
        tensors[f"base_model.model.{name}"] = value

    return edit


@pytest.mark.parametrize(
    "name", ["text.encoder.norm.weight", "text.decoder.positions.weight", "projector.rows.weight", EMBEDDING]
)
def test_a_module_that_was_trained_as_a_whole(model: Florence2Model, tmp_path: Path, name: str) -> None:
    add_adapter(model, dataclasses.replace(ALL, targets=("attention",)))
    train(model)
    folder = save_adapter(model, tmp_path / "it")
    value = model.state_dict()[name] * 1.5 + 0.1
    model.state_dict()[name].copy_(value)
    expected, base = logits(model), logits(tiny_model(1))
    change(folder, beside(name, value))
    other = tiny_model(1)
    assert name.removesuffix(".weight") in load_adapter(other, folder)
    assert difference(logits(other), expected) < TOLERANCE
    use_adapter(other, None)
    assert torch.equal(logits(other), base)
    use_adapter(other, "default")
    save_adapter(other, tmp_path / "again")
    assert load_file(tmp_path / "again" / "adapter_model.safetensors").keys() >= {f"base_model.model.{name}"}
    third = tiny_model(1)
    load_adapter(third, tmp_path / "again")
    assert difference(logits(third), expected) < TOLERANCE
    load_adapter(third, save_adapter(model, tmp_path / "plain"), "plain")
    use_adapter(third, "default")
    assert difference(logits(third), expected) < TOLERANCE
    remove_adapter(third, "plain")
    merge_adapter(third)
    assert difference(logits(third), expected) < TOLERANCE
    assert modules(third) == modules(tiny_model(1))
    remove_adapter(other)
    assert torch.equal(logits(other), base)


def test_what_is_as_in_the_base_is_no_module_beside(model: Florence2Model, tmp_path: Path) -> None:
    """peft writes the embedding into the file, unasked and in the type of the base, where lm_head is adapted."""
    trained(model)
    folder = save_adapter(model, tmp_path / "it", "native")
    own = model.text.shared.weight.detach()
    copies = {"lm_head.base_layer.weight": own.half(), "model.language_model.shared.weight": own.clone()}
    for name, value in copies.items():
        change(folder, beside(name, torch.cat([value, value[:16]])))
    other = tiny_model(1)
    assert set(load_adapter(other, folder)) == set(read_adapter(folder).ranks)
    assert difference(logits(other), logits(model)) < TOLERANCE
    change(folder, beside("lm_head.base_layer.weight", torch.cat([own * 1.1, own[:16]])))
    with pytest.raises(CheckpointError, match="another base"):
        load_adapter(tiny_model(1), folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("text.head.weight", r"text\.head\.weight"),
        ("text.encoder.layers.0.self_attention.q.bias", "as a whole"),
        ("projector.temporal", "as a whole"),
        (EMBEDDING, "as a whole"),
    ],
)
def test_what_can_not_lie_beside(model: Florence2Model, folder: Path, name: str, message: str) -> None:
    shape = model.state_dict()[EMBEDDING if name.startswith("text.head") else name].shape
    change(folder, beside(name, torch.ones(shape)))
    with pytest.raises(CheckpointError, match=message):
        load_adapter(model, folder)


def test_an_embedding_of_another_size(model: Florence2Model, folder: Path) -> None:
    change(folder, beside(EMBEDDING, torch.ones(1300, 24)))
    with pytest.raises(CheckpointError, match=r"is \(1300, 24\) in the file, the model has \(1200, 24\)"):
        load_adapter(model, folder)
