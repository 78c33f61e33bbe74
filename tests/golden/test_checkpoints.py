"""Checkpoints against what Microsoft's code and the native port wrote: names, shapes, sizes, values."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from florence2.checkpoints import Checkpoint, layouts, load, save
from florence2.checkpoints.load import build
from florence2.config import BASE, LARGE, SHIPPED_POLICY, Florence2Config

CONFIGS = {"base": BASE, "large": LARGE}
PARAMETERS = {"base": 231_414_016, "large": 776_465_408}
BYTES = 463_221_266
"""Of model.safetensors of microsoft/Florence-2-base."""


def listed(golden: Path, size: str, layout: layouts.Layout) -> dict[str, tuple[int, ...]]:
    """All names and shapes of a layout, tied copies included."""
    file = golden / (f"keys_{size}.json" if layout == "microsoft" else f"keys_{size}_native.json")
    return {name: tuple(shape) for name, shape in json.loads(file.read_text()).items()}


def translated(config: Florence2Config, layout: layouts.Layout) -> dict[str, tuple[int, ...]]:
    """The same from our model: its names and shapes in the foreign layout, and the tied copies."""
    found = {}
    for name, tensor in build(config).state_dict().items():
        their_name = layouts.translate(name, "florence2", layout)
        if their_name is not None:
            found[their_name] = layouts.shape_from_ours(name, tensor.shape, layout)
    return found | dict.fromkeys(layouts.TIED[layout], found[layouts.TIED[layout][0]])


@pytest.mark.parametrize("size", ["base", "large"])
@pytest.mark.parametrize("layout", ["microsoft", "native"])
def test_names_and_shapes_are_the_published_ones(size: str, layout: layouts.Layout, golden: Path) -> None:
    expected = listed(golden, size, layout)
    assert translated(CONFIGS[size], layout) == expected
    found = layouts.recognise(expected)
    assert (found.layout, found.certainty) == (layout, 1.0)
    for name in expected:
        ours = layouts.translate(name, layout, "florence2")
        assert ours is not None
        back = layouts.translate(ours, "florence2", layout)
        assert back == (layouts.TIED[layout][0] if name in layouts.TIED[layout] else name)


@pytest.mark.parametrize("layout", ["microsoft", "native"])
def test_a_wrong_table_of_names_is_noticed(
    layout: layouts.Layout, golden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same comparisons with the norms of a decoder layer in the wrong order, and without the transpose."""
    real = layouts.translate

    def swapped(name: str, source: layouts.Layout, target: layouts.Layout) -> str | None:
        found = real(name, source, target)
        return found and found.replace("encoder_attn_layer_norm", "cross_attn_layer_norm")

    expected = listed(golden, "base", layout)
    with monkeypatch.context() as patch:
        patch.setattr(layouts, "translate", swapped)
        assert translated(BASE, layout) != expected
    with monkeypatch.context() as patch:
        patch.setattr(layouts, "shape_from_ours", lambda name, shape, layout: tuple(reversed(shape)))
        assert translated(BASE, layout) != expected


@pytest.mark.parametrize("size", ["base", "large"])
def test_parameter_counts(size: str) -> None:
    assert sum(parameter.numel() for parameter in build(CONFIGS[size]).parameters()) == PARAMETERS[size]


@pytest.fixture(scope="module")
def microsoft(golden: Path) -> Checkpoint:
    return load(golden)


def test_the_reference_config(microsoft: Checkpoint) -> None:
    config = microsoft.config
    assert microsoft.layout == "microsoft"
    assert config.vision.dims == (16, 32, 64, 96)
    assert config.vision.groups == (4, 2, 8, 3)
    assert (config.vision.max_positions, config.vision.max_frames) == (20, 10)
    assert (config.text.encoder_ffn_dim, config.text.max_positions, config.text.vocab_size) == (160, 256, 1344)
    policy = config.generation
    assert (policy.num_beams, policy.no_repeat_ngram_size, policy.early_stopping) == (3, 3, True)
    assert (policy.forced_bos_id, policy.forced_eos_id) == (SHIPPED_POLICY.forced_bos_id, SHIPPED_POLICY.forced_eos_id)


def same(left: Checkpoint, right: Checkpoint) -> bool:
    ours, theirs = left.model.state_dict(), right.model.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_both_layouts_hold_the_same_model(microsoft: Checkpoint, golden: Path, tmp_path: Path) -> None:
    native = load(golden / "native")
    assert native.layout == "native"
    assert same(microsoft, native)
    assert microsoft.config.vision == native.config.vision
    assert microsoft.config.text == native.config.text
    assert microsoft.config.generation == native.config.generation

    # The twin: one weight moved by the least that fp16 can.
    (tmp_path / "config.json").write_text((golden / "native" / "config.json").read_text())
    tensors = load_file(golden / "native" / "model.safetensors")
    bias = tensors["model.multi_modal_projector.image_proj_norm.bias"]
    bias[0] = torch.nextafter(bias[0], bias[0] + 1)
    save_file(tensors, tmp_path / "model.safetensors")
    assert not same(microsoft, load(tmp_path))


def logits(checkpoint: Checkpoint, golden: Path) -> tuple[Tensor, Tensor]:
    """Ours and Microsoft's logits of one case with a photo."""
    values = load_file(golden / "forward.safetensors")
    with torch.no_grad():
        output = checkpoint.model(
            values["loss_ignore.pixel_values"].float(),
            values["loss_ignore.input_ids"].long(),
            labels=values["loss_ignore.labels"].long(),
        )
    return output.logits, values["loss_ignore.logits"]


def close(ours: Tensor, theirs: Tensor) -> bool:
    return bool((ours - theirs).abs().max() <= 2e-5 * theirs.abs().max())


@pytest.mark.parametrize("layout", layouts.LAYOUTS)
def test_logits_survive_a_round_trip(
    layout: layouts.Layout, microsoft: Checkpoint, golden: Path, tmp_path: Path
) -> None:
    again = load(save(microsoft, tmp_path / "it", layout))
    ours, theirs = logits(again, golden)
    assert close(ours[..., : theirs.shape[-1]], theirs)


def test_a_wrong_projection_shows_in_the_logits(golden: Path) -> None:
    broken = load(golden)
    with torch.no_grad():
        weight = broken.model.projector.projection.weight
        weight.copy_(weight.T.reshape(weight.shape))
    assert not close(*logits(broken, golden))


def test_the_written_file_has_the_names_of_the_published_one(
    microsoft: Checkpoint, golden: Path, tmp_path: Path
) -> None:
    save(microsoft, tmp_path / "it", "microsoft")
    with (
        safe_open(str(golden / "model.safetensors"), framework="pt") as theirs,
        safe_open(str(tmp_path / "it" / "model.safetensors"), framework="pt") as ours,
    ):
        assert set(ours.keys()) == set(theirs.keys())
        for name in theirs.keys():  # noqa: SIM118 (not a dictionary)
            assert torch.equal(ours.get_tensor(name), theirs.get_tensor(name).float()), name


@pytest.mark.slow
def test_a_base_file_has_the_size_of_the_published_one_to_the_byte(tmp_path: Path) -> None:
    model = build(BASE).half()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    folder = save(Checkpoint(model, None, BASE), tmp_path / "base", "microsoft")
    file = folder / "model.safetensors"
    with safe_open(str(file), framework="pt") as opened:
        assert len(opened.keys()) == 666
    assert file.stat().st_size == BYTES
    file.unlink()  # half a gigabyte
