from __future__ import annotations

import pytest
import torch

from florence2.checkpoints import layouts
from florence2.checkpoints.load import build
from florence2.config import BASE, LARGE, NANO, Florence2Config
from florence2.errors import CheckpointError

FOREIGN: list[layouts.Layout] = ["microsoft", "native"]


def names_of(config: Florence2Config) -> list[str]:
    return list(build(config).state_dict())


@pytest.mark.parametrize("config", [NANO, BASE, LARGE], ids=lambda config: config.name)
@pytest.mark.parametrize("layout", FOREIGN)
def test_every_name_translates_there_and_back(config: Florence2Config, layout: layouts.Layout) -> None:
    there = {name: layouts.translate(name, "florence2", layout) for name in names_of(config)}
    without = [name for name, their_name in there.items() if their_name is None]
    assert without == ([layouts.LOGITS_BIAS] if layout == "native" else [])
    kept = {name: their_name for name, their_name in there.items() if their_name is not None}
    assert len(set(kept.values())) == len(kept)
    for name, their_name in kept.items():
        assert layouts.translate(their_name, layout, "florence2") == name


@pytest.mark.parametrize("layout", layouts.LAYOUTS)
def test_tied_copies_are_the_shared_embedding(layout: layouts.Layout) -> None:
    for name in layouts.TIED[layout]:
        assert layouts.translate(name, layout, "florence2") == layouts.EMBEDDING


@pytest.mark.parametrize(
    "name",
    [
        "text.encoder.layers.0.cross_attention.q.weight",  # encoders have none
        "text.decoder.layers.x.self_norm.weight",
        "vision.stages.0.blocks.0.spatial.conv3.weight",
        "text.shared.weight.extra",
        "projector.projection.bias",
    ],
)
def test_what_does_not_exist_has_no_name(name: str) -> None:
    for layout in layouts.LAYOUTS:
        assert layouts.translate(name, "florence2", layout) is None


@pytest.mark.parametrize("layout", layouts.LAYOUTS)
def test_a_layout_is_recognised_by_its_names(layout: layouts.Layout) -> None:
    names = [their for name in names_of(NANO) if (their := layouts.translate(name, "florence2", layout))]
    found = layouts.recognise(names)
    assert (found.layout, found.certainty) == (layout, 1.0)
    found = layouts.recognise([*names, "something.else"])
    assert found.layout == layout
    assert found.known == found.total - 1
    assert f"{layout} layout ({len(names)} of {len(names) + 1} names, 99." in str(found)


def test_other_models_are_not_guessed_at() -> None:
    with pytest.raises(CheckpointError, match=r"not the weights of a Florence-2 model.*bert\.embeddings"):
        layouts.recognise(["bert.embeddings.word_embeddings.weight", "bert.pooler.dense.weight"])
    with pytest.raises(CheckpointError, match="holds no tensors"):
        layouts.recognise([])


def test_an_adapter_is_called_one() -> None:
    with pytest.raises(CheckpointError, match="LoRA adapter"):
        layouts.recognise(["base_model.model.language_model.model.encoder.layers.0.fc2.lora_A.weight"])


def test_the_classifier_of_davit_is_unused() -> None:
    assert layouts.is_unused("vision_tower.norms.weight")
    assert layouts.is_unused("model.vision_tower.head.bias")
    assert not layouts.is_unused("vision_tower.convs.0.norm.weight")


@pytest.mark.parametrize("layout", layouts.LAYOUTS)
def test_shapes_change_there_and_back(layout: layouts.Layout) -> None:
    for name, shape in ((layouts.PROJECTION, (3, 5)), (layouts.LOGITS_BIAS, (7,)), (layouts.EMBEDDING, (7, 3))):
        tensor = torch.randn(shape)
        there = layouts.from_ours(name, tensor, layout)
        assert tuple(there.shape) == layouts.shape_from_ours(name, shape, layout)
        assert torch.equal(layouts.to_ours(name, there, layout), tensor)


def test_microsoft_keeps_the_projection_the_other_way_round() -> None:
    assert layouts.shape_from_ours(layouts.PROJECTION, (768, 1024), "microsoft") == (1024, 768)
    assert layouts.shape_from_ours(layouts.PROJECTION, (768, 1024), "native") == (768, 1024)
    assert layouts.shape_from_ours(layouts.LOGITS_BIAS, (51289,), "microsoft") == (1, 51289)
