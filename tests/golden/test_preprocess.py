"""Photo -> pixel_values equals Microsoft's processor, bit for bit (golden/preprocess.json; FLORENCE2.md, 3.2)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from florence2 import images
from florence2.config import ImageConfig


def cases(golden: Path) -> list[tuple[str, Image.Image, dict[str, Any]]]:
    """What the reference computed after convert("RGB"), without the pictures that it cannot read or garbles:
    those one pixel high fail there, and it takes the rows of one three pixels high for colour channels.
    """
    found = []
    for case in json.loads((golden / "preprocess.json").read_text())["cases"]:
        if "samples" in case["rgb_converted"] and case["size"][1] != 3:
            with Image.open(golden / case["file"]) as image:
                found.append((case["file"], image.convert("RGB"), case["rgb_converted"]))
    assert len(found) == 9
    return found


def agrees(values: torch.Tensor, expected: dict[str, Any]) -> bool:
    frame = values[:, 0]  # (1, 3, 768, 768)
    samples = [(frame[0, channel, y, x].item(), value) for channel, y, x, value in expected["samples"]]
    double = frame.double()
    return (
        list(frame.shape) == expected["shape"]
        and str(frame.dtype) == expected["dtype"]
        and all(found == wanted for found, wanted in samples)
        and double.min().item() == expected["min"]
        and double.max().item() == expected["max"]
        and double.mean((0, 2, 3)).tolist() == pytest.approx(expected["mean"], abs=1e-6)
        and double.std((0, 2, 3), unbiased=False).tolist() == pytest.approx(expected["std"], abs=1e-9)
        and double.abs().sum().item() == pytest.approx(expected["sum_abs"], rel=1e-9)
    )


def test_pixel_values_equal_the_reference(golden: Path) -> None:
    for name, photo, expected in cases(golden):
        assert agrees(images.to_pixel_values([photo], ImageConfig()), expected), name


def test_a_batch_equals_the_reference(golden: Path) -> None:
    found = cases(golden)[:4]
    batch = images.to_pixel_values([photo for _, photo, _ in found], ImageConfig())
    for row, (name, _, expected) in zip(batch, found, strict=True):
        assert agrees(row[None], expected), name


def test_the_resized_picture_is_the_references_byte_for_byte(golden: Path) -> None:
    for name, photo, expected in cases(golden):
        resized = photo.resize((768, 768), Image.Resampling.BICUBIC)
        assert hashlib.sha256(resized.tobytes()).hexdigest() == expected["resized_uint8_sha256"], name


def test_loading_changes_no_pixel_where_there_is_no_alpha(golden: Path) -> None:
    for case in json.loads((golden / "preprocess.json").read_text())["cases"]:
        with Image.open(golden / case["file"]) as image:
            if not image.has_transparency_data:
                assert images.load(golden / case["file"]).tobytes() == image.convert("RGB").tobytes(), case["file"]


def test_three_rows_are_not_taken_for_channels() -> None:
    photo = Image.linear_gradient("L").resize((20, 3)).convert("RGB")
    values = images.to_pixel_values([photo], ImageConfig(mean=(0, 0, 0), std=(1, 1, 1)))
    assert torch.equal(values[0, 0, 0], values[0, 0, 1])
    assert values[0, 0, 0, 0].mean() < values[0, 0, 0, -1].mean()


@pytest.mark.parametrize("fault", ["filter", "mean", "turned"])
def test_the_comparison_sees_a_fault(golden: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ImageConfig()
    if fault == "filter":
        resize = Image.Image.resize
        monkeypatch.setattr(Image.Image, "resize", lambda self, size, _: resize(self, size, Image.Resampling.BILINEAR))
    elif fault == "mean":
        config = ImageConfig(mean=(0.485, 0.456, 0.4061))
    _, photo, expected = cases(golden)[0]
    if fault == "turned":
        photo = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert not agrees(images.to_pixel_values([photo], config), expected)
