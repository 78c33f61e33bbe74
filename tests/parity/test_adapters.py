"""Adapters between peft on transformers' native port and us: trained on one side, they answer alike on the other."""

from __future__ import annotations

import copy
import dataclasses
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from florence2.checkpoints import Checkpoint, LoraSettings, load_adapter, save, save_adapter
from florence2.checkpoints.adapter_files import read_adapter
from florence2.checkpoints.adapters import GROUPS, merge_adapter
from florence2.checkpoints.configs import image_tokens
from florence2.language.tokenizer import Tokenizer
from florence2.model import Florence2Model
from tests.checkpoints.adapted import train, trained
from tests.model.tiny import TINY, tiny_model
from tests.parity.native import transformers

peft = pytest.importorskip("peft", reason="adapters need peft (pip install '.[train]')")

TOLERANCE = 1e-5
WORDS = 1295
COPIED = ["q_proj", "o_proj", "k_proj", "v_proj", "linear", "Conv2d", "lm_head", "fc2"]
"""The recipe that most adapters for Florence-2 were made with; three of its names exist nowhere."""


@pytest.fixture(scope="module")
def base() -> Checkpoint:
    tokenizer = Tokenizer.train(["a dog and a cat", "Locate the objects with category name in the image."] * 20, WORDS)
    config = dataclasses.replace(TINY, text=dataclasses.replace(TINY.text, vocab_size=WORDS))
    model = tiny_model(5, config)
    model.text.shared.weight.data[config.text.pad_id] = 0.1  # DoRA needs rows with a direction
    return Checkpoint(model, tokenizer, config)


@pytest.fixture(scope="module")
def base_folder(base: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(base, tmp_path_factory.mktemp("base") / "native", "native")


def native(folder: Path) -> Any:
    return transformers.Florence2ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()


def with_adapter(base_folder: Path, adapter: Path) -> Any:
    """The native port with the adapter; anything that peft complains about is an error."""
    model = native(base_folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", FutureWarning)  # what peft asks transformers for
        warnings.filterwarnings("ignore", message="Model (has|with) `tie_word_embeddings=True`")
        return peft.PeftModel.from_pretrained(model, str(adapter)).eval()


def logits(model: Any) -> Tensor:
    """Of either side, over our vocabulary, on the same inputs."""
    generator = torch.Generator().manual_seed(3)
    prompt = torch.randint(4, WORDS, (2, 7), generator=generator)
    answer = torch.randint(4, WORDS, (2, 5), generator=generator)
    pixels = torch.randn(2, 3, *TINY.image.size, generator=generator)
    with torch.no_grad():
        if isinstance(model, Florence2Model):
            return model(pixels, prompt, decoder_ids=answer).logits
        ids = torch.cat([torch.full((2, image_tokens(TINY)), WORDS), prompt], 1)
        found: Tensor = model(input_ids=ids, pixel_values=pixels, decoder_input_ids=answer).logits
    return found[..., :WORDS]


def difference(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().max() / right.abs().max())


SETTINGS = {
    "everything": LoraSettings(rank=4, alpha=8, dropout=0.1, targets=tuple(GROUPS)),
    "rslora": LoraSettings(rank=4, alpha=6, targets=("attention", "vision", "head"), rslora=True),
    "dora": LoraSettings(rank=4, alpha=8, targets=tuple(group for group in GROUPS if group != "head"), dora=True),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_trained_here_it_answers_alike_there(base: Checkpoint, base_folder: Path, tmp_path: Path, name: str) -> None:
    ours = trained(copy.deepcopy(base.model), SETTINGS[name])
    folder = save_adapter(ours, tmp_path / "it", "native")
    theirs = with_adapter(base_folder, folder)
    assert difference(logits(theirs), logits(ours)) < TOLERANCE
    assert difference(logits(native(base_folder)), logits(ours)) > 1000 * TOLERANCE  # without it they differ


def other_scale(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    config["lora_alpha"] *= 1.1


def other_layer(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    stem = "base_model.model.model.language_model.decoder.layers."
    for end in ("encoder_attn.v_proj.lora_A.weight", "encoder_attn.v_proj.lora_B.weight"):
        first, second = f"{stem}0.{end}", f"{stem}1.{end}"
        tensors[first], tensors[second] = tensors[second], tensors[first]


def one_module_less(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    tensors["base_model.model.model.vision_tower.convs.2.conv.lora_B.weight"].zero_()


@pytest.mark.parametrize("fault", [other_scale, other_layer, one_module_less])
def test_a_fault_on_the_way_there_shows(
    base: Checkpoint,
    base_folder: Path,
    tmp_path: Path,
    fault: Callable[[dict[str, Tensor], dict[str, Any]], None],
) -> None:
    ours = trained(copy.deepcopy(base.model), SETTINGS["everything"])
    folder = save_adapter(ours, tmp_path / "it", "native")
    tensors = load_file(folder / "adapter_model.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text())
    fault(tensors, config)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    assert difference(logits(with_adapter(base_folder, folder)), logits(ours)) > 10 * TOLERANCE


@pytest.mark.parametrize(
    ("targets", "extra"),
    [
        (COPIED, {"task_type": "CAUSAL_LM"}),
        (["qkv", "proj", "conv", "image_projection"], {"use_dora": True}),
        (["fc1", "out_proj"], {"use_rslora": True, "rank_pattern": {"fc1": 2}, "alpha_pattern": {"encoder.*fc1": 5}}),
    ],
    ids=["copied recipe", "image side", "patterns"],
)
@pytest.mark.filterwarnings("ignore")  # peft about tied weights and about the embedding that it adds
def test_trained_there_it_answers_alike_here(
    base: Checkpoint, base_folder: Path, tmp_path: Path, targets: list[str], extra: dict[str, Any]
) -> None:
    config = peft.LoraConfig(r=4, lora_alpha=8, lora_dropout=0.05, target_modules=targets, **extra)
    theirs = peft.get_peft_model(native(base_folder), config)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in theirs.named_parameters():
        if "lora_" in name and "magnitude" not in name:
            parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    theirs.eval().save_pretrained(tmp_path)
    written = load_file(tmp_path / "adapter_model.safetensors")
    assert any("lm_head.base_layer" in name for name in written) == ("lm_head" in targets)

    file = read_adapter(tmp_path)
    assert file.layout == "native"
    ours = copy.deepcopy(base.model)
    assert set(load_adapter(ours, tmp_path)) == set(file.ranks)
    expected = logits(theirs)
    assert difference(logits(ours), expected) < TOLERANCE
    assert difference(logits(base.model), expected) > 1000 * TOLERANCE  # without it they differ

    halved = dataclasses.replace(file, alphas={module: alpha / 2 for module, alpha in file.alphas.items()})
    wrong = copy.deepcopy(base.model)
    load_adapter(wrong, halved)
    assert difference(logits(wrong), expected) > 10 * TOLERANCE

    if "lm_head" not in targets:
        merge_adapter(ours)
        assert difference(logits(ours), expected) < TOLERANCE


@pytest.mark.filterwarnings("ignore")
def test_begun_there_trained_on_here_and_used_there(base: Checkpoint, base_folder: Path, tmp_path: Path) -> None:
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "qkv"])
    peft.get_peft_model(native(base_folder), config).save_pretrained(tmp_path / "begun")
    ours = copy.deepcopy(base.model)
    load_adapter(ours, tmp_path / "begun", trainable=True)
    before = logits(ours)
    train(ours)
    save_adapter(ours, tmp_path / "done", "native")
    assert difference(logits(ours), before) > 100 * TOLERANCE
    assert difference(logits(with_adapter(base_folder, tmp_path / "done")), logits(ours)) < TOLERANCE
