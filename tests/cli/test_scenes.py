"""``florence2 data scenes``: what is asked for is made, in the format that is asked for."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from florence2.data import read
from florence2.data.scenes import Scenes, SceneSettings
from tests.cli.conftest import Run


def test_a_data_set_is_made(call: Run, tmp_path: Path) -> None:
    made = call(
        *("data", "scenes", tmp_path / "set", "--count", "6", "--format", "records", "--size", "120x90"),
        *("--objects", "2-3", "--words", "1", "--seed", "5", "--labels", "star, bus", "--png"),
    )
    assert made.exit_code == 0, made.stderr
    assert "6 scenes of 2 labels" in made.stdout
    assert "6 records written as records" in made.stdout
    records = list(read(tmp_path / "set"))
    settings = SceneSettings(count=6, seed=5, size=(120, 90), objects=(2, 3), words=(1, 1), labels=("star", "bus"))
    for record, (same, picture) in zip(records, Scenes(settings), strict=True):
        assert (record.objects, record.captions, record.qa) == (same.objects, same.captions, same.qa)
        assert Image.open(io.BytesIO(record.image_bytes())).tobytes() == picture.tobytes()


def test_pictures_are_jpegs_unless_asked_otherwise(call: Run, tmp_path: Path) -> None:
    made = call("data", "scenes", tmp_path / "coco", "-n", "2", "-f", "coco")
    assert "not held by coco" in made.stdout
    (first, _) = read(tmp_path / "coco")
    assert Image.open(io.BytesIO(first.image_bytes())).format == "JPEG"
    again = call("data", "scenes", tmp_path / "coco", "-n", "2", "-f", "coco")
    assert (again.exit_code, "already there" in again.stderr) == (2, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--size", "wide"), "--size wide: expected two whole numbers"),
        (("--objects", "1-2-3"), "--objects 1-2-3: expected two whole numbers"),
        (("--labels", "unicorn"), "nobody can draw 'unicorn'"),
        (("--backgrounds", "nowhere"), "nowhere is no folder with photos"),
        (("--cutouts", "nowhere"), "nowhere does not exist"),
        (("--vocabulary", "nowhere.txt"), "the vocabulary nowhere.txt cannot be read"),
        (("--format", "cocoa"), "there is no format 'cocoa'"),
    ],
)
def test_what_cannot_be_made_is_explained(
    call: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call("data", "scenes", "out", "-n", "2", *options)
    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr
