"""Every stage of the model against values computed by Microsoft's own code (golden/README.md)."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from florence2.checkpoints.layouts import PROJECTION, translate
from florence2.model import Florence2Model, packing
from tests.golden.reference import load_reference
from tests.model.faults import (
    forget_window_padding,
    positions_from_zero,
    scale_channels_by_width,
    swap_norms,
    swap_position_tables,
)

SQUARE = ["96x96", "160x160"]
ALL_SIZES = [*SQUARE, "100x68", "52x130", "224x96"]
TOLERANCE = 2e-5  # of the largest absolute value; the golden set suggests 1e-5 between two implementations
LOGITS = (
    5e-5  # the weights are scaled up, so rounding grows: in `decoder_ids` the reference itself is 2e-5 from float64
)


@pytest.fixture(scope="module")
def model(golden: Path) -> Florence2Model:
    return load_reference(golden)


@pytest.fixture(scope="module")
def packed(golden: Path) -> Florence2Model:
    """As it answers on this processor: it can compute, and nothing else."""
    return load_reference(golden, packed=True)


@pytest.fixture(scope="module")
def vision(golden: Path) -> dict[str, Tensor]:
    return load_file(golden / "vision.safetensors")


@pytest.fixture(scope="module")
def forward(golden: Path) -> dict[str, Tensor]:
    return load_file(golden / "forward.safetensors")


def difference(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


# --- the image encoder ------------------------------------------------------------------------------------------


def stages_of(model: Florence2Model, pixel_values: Tensor) -> list[Tensor]:
    """The map behind each stage, as token lists (B, h*w, C)."""
    maps: list[Tensor] = []
    handles = [
        stage.register_forward_hook(lambda _, __, out: maps.append(out.flatten(1, 2))) for stage in model.vision.stages
    ]
    with torch.no_grad():
        model.vision(pixel_values)
    for handle in handles:
        handle.remove()
    return maps


def worst_stage(model: Florence2Model, vision: dict[str, Tensor], size: str) -> float:
    maps = stages_of(model, vision[f"{size}.pixel_values"].float())
    return max(difference(maps[i], vision[f"{size}.stage{i}"]) for i in range(4))


@pytest.mark.parametrize("size", ALL_SIZES)
def test_stages(model: Florence2Model, vision: dict[str, Tensor], size: str) -> None:
    assert worst_stage(model, vision, size) < TOLERANCE


@pytest.mark.parametrize("size", ALL_SIZES)
def test_stages_of_a_packed_model(packed: Florence2Model, vision: dict[str, Tensor], size: str) -> None:
    test_stages(packed, vision, size)


@pytest.mark.parametrize("fault", [forget_window_padding, scale_channels_by_width])
def test_stages_notice_a_fault(
    model: Florence2Model, vision: dict[str, Tensor], fault: Callable[[Florence2Model], None]
) -> None:
    broken = copy.deepcopy(model)
    fault(broken)
    assert worst_stage(broken, vision, "100x68") > 10 * TOLERANCE


@pytest.mark.parametrize("size", SQUARE)
def test_projector(model: Florence2Model, vision: dict[str, Tensor], size: str) -> None:
    with torch.no_grad():
        ours = model.encode_image(vision[f"{size}.pixel_values"].float())
    assert difference(ours, vision[f"{size}.projector"]) < TOLERANCE


@pytest.mark.parametrize("frames", [2, 3])
def test_several_frames(model: Florence2Model, vision: dict[str, Tensor], frames: int) -> None:
    with torch.no_grad():
        ours = model.encode_image(vision[f"frames{frames}.pixel_values"].float())
    assert difference(ours, vision[f"frames{frames}.projector"]) < TOLERANCE


def test_non_square_maps_equal_the_native_port(model: Florence2Model, golden: Path, vision: dict[str, Tensor]) -> None:
    native = load_file(golden / "native" / "nonsquare_projector.safetensors")
    assert native
    for name, theirs in native.items():
        size = name.split(".")[0]
        with torch.no_grad():
            ours = model.encode_image(vision[f"{size}.pixel_values"].float())
        assert difference(ours, theirs) < TOLERANCE, name


def test_projector_notices_swapped_axes(model: Florence2Model, vision: dict[str, Tensor]) -> None:
    broken = copy.deepcopy(model)
    swap_position_tables(broken)
    with torch.no_grad():
        ours = broken.encode_image(vision["96x96.pixel_values"].float())
    assert difference(ours, vision["96x96.projector"]) > 10 * TOLERANCE


def test_temporal_table(model: Florence2Model, vision: dict[str, Tensor]) -> None:
    from florence2.model.projector import cosine_table

    table = vision["temporal_table"]
    assert difference(model.projector.temporal, table) < 1e-6
    assert difference(cosine_table(*table.shape), table) < 1e-6
    assert difference(cosine_table(table.shape[0] + 1, table.shape[1])[1:], table) > 0.1


# --- logits and loss --------------------------------------------------------------------------------------------


def run_case(
    model: Florence2Model, golden: Path, forward: dict[str, Tensor], case: str, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """All outputs of a golden case that our model has too. The reference attends to padding: no prompt mask."""
    source = json.loads((golden / "forward.json").read_text()).get(case, {}).get("pixel_values_of")
    pixels = None
    if source is not None:
        name, _, row = source.partition("[")
        pixels = forward[f"{name}.pixel_values"].to(dtype)
        pixels = pixels[int(row[:-1]) :][:1] if row else pixels
    given = {
        key: value.long()
        for key in ("input_ids", "labels", "decoder_input_ids")
        if (value := forward.get(f"{case}.{key}")) is not None
    }
    found: dict[str, Tensor] = {}
    encoder, decoder = model.text.encoder, model.text.decoder
    watched = {
        "encoder_hidden0": encoder.norm,
        **{f"encoder_hidden{i + 1}": layer for i, layer in enumerate(encoder.layers[:-1])},
        "encoder_out": encoder,
        "decoder_hidden0": decoder.norm,
        **{f"decoder_hidden{i + 1}": layer for i, layer in enumerate(decoder.layers[:-1])},
        "decoder_last_hidden": decoder,
        "image_features": model.projector,
    }
    handles = [
        module.register_forward_hook(lambda _, __, out, name=name: found.__setitem__(name, out))
        for name, module in watched.items()
    ]
    with torch.no_grad():
        output = model(
            pixels, given["input_ids"], labels=given.get("labels"), decoder_ids=given.get("decoder_input_ids")
        )
    for handle in handles:
        handle.remove()
    found["logits"] = output.logits
    if output.loss is not None:
        found["loss"] = output.loss[None]
    return found


def worst_output(model: Florence2Model, golden: Path, forward: dict[str, Tensor], case: str) -> float:
    ours = run_case(model, golden, forward, case)
    inputs = {"input_ids", "labels", "decoder_input_ids", "pixel_values", "attention_mask", "final_logits_bias"}
    names = [key.split(".")[1] for key in forward if key.startswith(f"{case}.")]
    names = [name for name in names if name not in inputs]
    assert "logits" in names
    return max(difference(ours[name], forward[f"{case}.{name}"]) for name in names)


CASES = [
    "loss_ignore",
    "loss_padlabels",
    "decoder_ids",
    "padded",
    "unpadded_row0",
    "unpadded_row1",
    "unpadded_row2",
    "text_only",
]


@pytest.mark.parametrize("case", CASES)
def test_forward(model: Florence2Model, golden: Path, forward: dict[str, Tensor], case: str) -> None:
    assert worst_output(model, golden, forward, case) < LOGITS


@pytest.mark.parametrize("case", CASES)
def test_forward_of_a_packed_model(packed: Florence2Model, golden: Path, forward: dict[str, Tensor], case: str) -> None:
    assert packing.is_packed(packed)
    assert worst_output(packed, golden, forward, case) < LOGITS


def test_logits_and_loss_to_1e4_absolute(model: Florence2Model, golden: Path, forward: dict[str, Tensor]) -> None:
    ours = run_case(model, golden, forward, "loss_ignore")
    assert (ours["logits"] - forward["loss_ignore.logits"]).abs().max() < 1e-4
    assert (ours["loss"] - forward["loss_ignore.loss"]).abs().max() < 1e-4


def test_logits_bias(model: Florence2Model, golden: Path, forward: dict[str, Tensor]) -> None:
    biased = copy.deepcopy(model)
    biased.text.logits_bias.copy_(forward["logits_bias.final_logits_bias"][0])
    assert worst_output(biased, golden, forward, "logits_bias") < TOLERANCE
    assert worst_output(model, golden, forward, "logits_bias") > 10 * TOLERANCE  # without the bias it fails


@pytest.mark.parametrize("case", ["loss_ignore", "decoder_ids", "padded"])
def test_what_is_left_is_rounding(model: Florence2Model, golden: Path, forward: dict[str, Tensor], case: str) -> None:
    """In double precision the golden logits are no further from ours than float32 rounding takes either side."""
    exact = copy.deepcopy(model).double()
    inputs = {name: value.double() if value.is_floating_point() else value for name, value in forward.items()}
    truth = run_case(exact, golden, inputs, case, torch.float64)["logits"]
    reference = difference(forward[f"{case}.logits"].double(), truth)
    ours = difference(run_case(model, golden, forward, case)["logits"].double(), truth)
    assert reference < LOGITS
    assert ours < 3 * reference


@pytest.mark.parametrize("fault", [positions_from_zero, swap_norms])
def test_forward_notices_a_fault(
    model: Florence2Model, golden: Path, forward: dict[str, Tensor], fault: Callable[[Florence2Model], None]
) -> None:
    broken = copy.deepcopy(model)
    fault(broken)
    assert worst_output(broken, golden, forward, "loss_ignore") > 10 * TOLERANCE


def test_a_masked_batch_equals_its_rows_alone(model: Florence2Model, forward: dict[str, Tensor]) -> None:
    """Where the reference attends to padding, a mask gives every row what it would get alone."""
    pixels = forward["padded.pixel_values"].float()
    ids = forward["padded.input_ids"].long()
    mask = forward["padded.attention_mask"].bool()
    assert not mask.all()
    with torch.no_grad():
        ours = model(pixels, ids, mask, decoder_ids=forward["padded.decoder_input_ids"].long()).logits
    for row in range(len(ids)):
        assert difference(ours[row : row + 1], forward[f"unpadded_row{row}.logits"]) < TOLERANCE
    shortest = int(mask.sum(1).argmin())
    assert difference(ours[shortest], forward["padded.logits"][shortest]) > 10 * TOLERANCE


# --- gradients --------------------------------------------------------------------------------------------------


@pytest.fixture
def gradients(model: Florence2Model, forward: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Gradient of the loss of ``loss_ignore`` by our parameter names."""
    model.zero_grad(set_to_none=True)
    output = model(
        forward["loss_ignore.pixel_values"].float(),
        forward["loss_ignore.input_ids"].long(),
        labels=forward["loss_ignore.labels"].long(),
    )
    output.loss.backward()
    yield {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)


def test_gradients(golden: Path, gradients: dict[str, Tensor]) -> None:
    reference = json.loads((golden / "gradients.json").read_text())["params"]
    checked = 0
    for name, values in reference.items():
        ours = translate(name, "microsoft", "florence2")
        assert ours is not None, name
        gradient = gradients[ours].T if ours == PROJECTION else gradients[ours]
        assert list(gradient.shape) == values["shape"], name
        assert float(gradient.norm()) == pytest.approx(values["l2"], rel=1e-3, abs=1e-5), name
        first = gradient.flatten()[:4].tolist()
        assert first == pytest.approx(values["first"], rel=2e-3, abs=1e-4 * max(values["l2"], 1e-2)), name
        checked += 1
    assert checked == len(gradients)
