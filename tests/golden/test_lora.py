"""A LoRA adapter that was trained on Microsoft's code: its logits and loss, its names, and what would give others."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from florence2.checkpoints.adapter_files import read_adapter
from florence2.checkpoints.adapters import load_adapter, save_adapter, use_adapter
from florence2.errors import CheckpointError
from florence2.model import Florence2Model
from tests.golden.reference import load_reference

pytest.importorskip("peft", reason="adapters need peft (pip install '.[train]')")

TOLERANCE = 1e-5  # of the largest absolute value


@pytest.fixture(scope="module")
def base(golden: Path) -> Florence2Model:
    return load_reference(golden)


@pytest.fixture
def adapted(base: Florence2Model, golden: Path) -> Florence2Model:
    model = copy.deepcopy(base)
    load_adapter(model, golden / "lora")
    return model


def worst(model: Florence2Model, golden: Path) -> float:
    """The larger of the differences of logits and loss to Microsoft's code with the adapter."""
    case = load_file(golden / "forward.safetensors")
    expected = load_file(golden / "lora" / "expected.safetensors")
    with torch.no_grad():
        ours = model(
            case["loss_ignore.pixel_values"].float(),
            case["loss_ignore.input_ids"].long(),
            labels=case["loss_ignore.labels"].long(),
        )
    assert ours.loss is not None
    return max(_difference(ours.logits, expected["logits"]), _difference(ours.loss[None], expected["loss"]))


def _difference(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


def test_logits_and_loss(adapted: Florence2Model, golden: Path) -> None:
    assert worst(adapted, golden) < TOLERANCE


def test_without_the_adapter_they_differ(base: Florence2Model, adapted: Florence2Model, golden: Path) -> None:
    assert worst(base, golden) > 1000 * TOLERANCE
    use_adapter(adapted, None)
    assert worst(adapted, golden) == worst(base, golden)


def skip(module: str) -> Callable[[dict[str, Tensor], dict[str, object]], None]:
    """One module stays what it was in the base."""

    def fault(tensors: dict[str, Tensor], config: dict[str, object]) -> None:
        (name,) = [name for name in tensors if name.endswith(f"{module}.lora_B.weight")]
        tensors[name].zero_()

    fault.__name__ = f"skip {module}"
    return fault


def scale_by_root(tensors: dict[str, Tensor], config: dict[str, object]) -> None:
    config["use_rslora"] = True


def scale_by_one(tensors: dict[str, Tensor], config: dict[str, object]) -> None:
    config["lora_alpha"] = config["r"]


def swap_query_and_key(tensors: dict[str, Tensor], config: dict[str, object]) -> None:
    stem = "base_model.model.language_model.model.decoder.layers.1.encoder_attn."
    for end in ("lora_A.weight", "lora_B.weight"):
        query, key = f"{stem}q_proj.{end}", f"{stem}k_proj.{end}"
        tensors[query], tensors[key] = tensors[key], tensors[query]


FAULTS = [
    skip("lm_head"),
    skip("decoder.layers.1.fc2"),
    skip("encoder.layers.0.self_attn.v_proj"),
    skip("blocks.2.1.channel_block.ffn.fn.net.fc2"),
    scale_by_root,
    scale_by_one,
    swap_query_and_key,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_shows(
    base: Florence2Model,
    golden: Path,
    tmp_path: Path,
    fault: Callable[[dict[str, Tensor], dict[str, object]], None],
) -> None:
    tensors = load_file(golden / "lora" / "adapter_model.safetensors")
    config = json.loads((golden / "lora" / "adapter_config.json").read_text())
    fault(tensors, config)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    model = copy.deepcopy(base)
    load_adapter(model, tmp_path)
    assert worst(model, golden) > 10 * TOLERANCE


def test_an_adapter_on_the_embedding_itself_shows(adapted: Florence2Model, golden: Path) -> None:
    """What a program does that takes the tied matrix for the target: the words that are read change as well."""
    layer = adapted.text.head
    delta = layer.get_delta_weight("default").detach().clone()  # type: ignore[union-attr, operator]
    adapted.text.head = None
    adapted.text.shared.weight.data += delta
    assert worst(adapted, golden) > 10 * TOLERANCE


def test_all_that_is_in_the_file_is_applied(golden: Path) -> None:
    file = read_adapter(golden / "lora")
    names = load_file(golden / "lora" / "adapter_model.safetensors")
    assert file.layout == "microsoft"
    assert len(file.lora) == len(names) == 2 * len(file.ranks)
    assert not file.full
    assert not file.embeddings
    assert "text.head" in file.ranks
    assert any(module.startswith("vision.") for module in file.ranks)


def test_written_for_microsoft_it_is_the_same_file(adapted: Florence2Model, golden: Path, tmp_path: Path) -> None:
    save_adapter(adapted, tmp_path / "again", "microsoft")
    first = load_file(golden / "lora" / "adapter_model.safetensors")
    again = load_file(tmp_path / "again" / "adapter_model.safetensors")
    assert first.keys() == again.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name]), name


@pytest.mark.parametrize("layout", ["florence2", "native"])
def test_through_another_layout(
    base: Florence2Model, adapted: Florence2Model, golden: Path, tmp_path: Path, layout: str
) -> None:
    save_adapter(adapted, tmp_path / "there", layout)  # type: ignore[arg-type]
    assert read_adapter(tmp_path / "there").layout == layout
    model = copy.deepcopy(base)
    load_adapter(model, tmp_path / "there")
    assert worst(model, golden) < TOLERANCE


def test_a_tensor_that_belongs_nowhere_is_named(base: Florence2Model, golden: Path, tmp_path: Path) -> None:
    tensors = load_file(golden / "lora" / "adapter_model.safetensors")
    stem = "base_model.model.language_model.model.decoder.layers.0.self_attn"
    for part in ("lora_A", "lora_B"):
        tensors[f"{stem}.o_proj.{part}.weight"] = tensors[f"{stem}.q_proj.{part}.weight"].clone()
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_bytes((golden / "lora" / "adapter_config.json").read_bytes())
    before = [name for name, _ in base.named_modules()]
    with pytest.raises(CheckpointError, match=r"2 of 68 tensors .*o_proj\.lora_A\.weight"):
        load_adapter(base, tmp_path)
    assert [name for name, _ in base.named_modules()] == before


def test_loading_says_nothing(base: Florence2Model, golden: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = copy.deepcopy(base)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_adapter(model, golden / "lora", "one")
        load_adapter(model, golden / "lora", "two")
    assert capfd.readouterr() == ("", "")
