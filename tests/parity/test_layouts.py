"""Files between transformers' native port and us: what one side writes, the other loads, and both answer alike."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from florence2.checkpoints import Checkpoint, layouts, load, save
from florence2.checkpoints.configs import image_tokens
from florence2.config import Florence2Config
from florence2.language.tokenizer import Tokenizer
from florence2.model import Florence2Model
from tests.model.tiny import TINY, tiny_model
from tests.parity.native import SMALL, random_pair, transformers

TOLERANCE = 1e-5
WORDS = 1295
OTHER = dataclasses.replace(
    TINY,
    vision=dataclasses.replace(TINY.vision, dims=(8, 16, 24, 32), heads=(2, 4, 3, 4), groups=(1, 4, 6, 8), window=3),
    text=dataclasses.replace(TINY.text, d_model=40, encoder_heads=5, decoder_heads=4, decoder_layers=3),
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["a dog and a cat", "Locate the objects with category name in the image."] * 20, WORDS)


def difference(native: Any, ours: Checkpoint | Florence2Model, config: Florence2Config, seed: int = 0) -> float:
    """Largest difference of the logits over our vocabulary, relative to the largest logit."""
    model = ours.model if isinstance(ours, Checkpoint) else ours
    words = min(config.text.vocab_size, native.config.image_token_id)
    generator = torch.Generator().manual_seed(seed)
    prompt = torch.randint(4, words, (2, 7), generator=generator)
    answer = torch.randint(4, words, (2, 5), generator=generator)
    pixels = torch.randn(2, 3, *config.image.size, generator=generator)
    places = torch.full((2, image_tokens(config)), native.config.image_token_id)
    with torch.no_grad():
        theirs: Tensor = native(
            input_ids=torch.cat([places, prompt], 1), pixel_values=pixels, decoder_input_ids=answer
        ).logits
        own = model(pixels, prompt, decoder_ids=answer).logits
    return float((own[..., :words] - theirs[..., :words]).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sharded", [False, True])
def test_what_transformers_writes_loads_here(seed: int, sharded: bool, tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, image=dataclasses.replace(SMALL.image, size=(64, 96)))
    native, ours = random_pair(config, seed)
    native.save_pretrained(tmp_path, **({"max_shard_size": "60KB"} if sharded else {}))
    assert (tmp_path / "model.safetensors.index.json").exists() == sharded
    found = load(tmp_path)
    assert found.layout == "native"
    assert found.config.vision == config.vision
    assert found.config.text == dataclasses.replace(config.text, attention_dropout=0.0, activation_dropout=0.0)
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, found.model.state_dict()[name]), name
    assert difference(native, found, config) <= TOLERANCE


@pytest.mark.parametrize("config", [TINY, OTHER], ids=["tiny", "other"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_written_here_loads_in_transformers(
    config: Florence2Config, dtype: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    config = dataclasses.replace(config, text=dataclasses.replace(config.text, vocab_size=WORDS))
    model = tiny_model(5, config)
    save(Checkpoint(model, tokenizer, config), tmp_path / "it", "native", dtype=dtype)
    native, report = transformers.Florence2ForConditionalGeneration.from_pretrained(
        tmp_path / "it", dtype=torch.float32, output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert native.config.image_token_id == WORDS
    assert native.generation_config.num_beams == 3
    assert native.generation_config.forced_bos_token_id == 0
    assert difference(native, load(tmp_path / "it"), config) <= TOLERANCE


def test_through_transformers_and_back(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Ours → transformers → its own files → ours: the same weights, tokenizer and configuration."""
    config = dataclasses.replace(TINY, text=dataclasses.replace(TINY.text, vocab_size=WORDS))
    first = Checkpoint(tiny_model(6, config), tokenizer, config)
    save(first, tmp_path / "ours", "native")
    transformers.Florence2ForConditionalGeneration.from_pretrained(tmp_path / "ours").save_pretrained(
        tmp_path / "theirs"
    )
    transformers.AutoProcessor.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    assert json.loads((tmp_path / "theirs" / "config.json").read_text())["image_token_id"] == WORDS
    found = load(tmp_path / "theirs")
    assert dataclasses.replace(found.config, name=config.name) == config
    assert found.tokenizer is not None
    assert found.tokenizer.vocab_size == WORDS
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, found.model.state_dict()[name]), name


def test_the_processor_of_transformers_prepares_the_same_prompt(tokenizer: Tokenizer, tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, text=dataclasses.replace(TINY.text, vocab_size=WORDS))
    save(Checkpoint(tiny_model(0, config), tokenizer, config), tmp_path / "it", "native")
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "it")
    inputs = processor(text="<OD>", images=Image.new("RGB", (50, 30)), return_tensors="pt")
    prompt = tokenizer.encode_prompt("Locate the objects with category name in the image.")
    assert inputs["input_ids"][0].tolist() == [WORDS] * image_tokens(config) + prompt
    assert tuple(inputs["pixel_values"].shape) == (1, 3, *config.image.size)


def transposed(tensors: dict[str, Tensor]) -> None:
    name = layouts.translate(layouts.PROJECTION, "florence2", "native")
    tensors[str(name)] = tensors[str(name)].T.contiguous()


def queries_for_values(tensors: dict[str, Tensor]) -> None:
    stem = "model.language_model.decoder.layers.1.encoder_attn."
    for kind in ("weight", "bias"):
        query, value = f"{stem}q_proj.{kind}", f"{stem}v_proj.{kind}"
        tensors[query], tensors[value] = tensors[value], tensors[query]


def rows_for_columns(tensors: dict[str, Tensor]) -> None:
    stem = "model.multi_modal_projector.image_position_embed."
    row, column = f"{stem}row_embeddings.weight", f"{stem}column_embeddings.weight"
    tensors[row], tensors[column] = tensors[column], tensors[row]


def norms_swapped(tensors: dict[str, Tensor]) -> None:
    stem = "model.vision_tower.blocks.2.1.channel_block."
    first, second = f"{stem}norm1.weight", f"{stem}norm2.weight"
    tensors[first], tensors[second] = tensors[second] * 1.5, tensors[first]


@pytest.mark.parametrize("fault", [transposed, queries_for_values, rows_for_columns, norms_swapped])
def test_a_wrong_table_of_names_shows(fault: Any, tmp_path: Path) -> None:
    """The comparison of the logits, with each fault that a wrong row of the table would make; shapes stay right."""
    config = dataclasses.replace(TINY, text=dataclasses.replace(TINY.text, vocab_size=160))
    native, _ = random_pair(config, seed=1)
    native.save_pretrained(tmp_path)
    assert difference(native, load(tmp_path), config) <= TOLERANCE
    tensors = load_file(tmp_path / "model.safetensors")
    fault(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    assert difference(native, load(tmp_path), config) > 100 * TOLERANCE
