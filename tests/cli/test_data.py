"""``florence2 data``: check, convert, show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from florence2.data import read, write
from tests.cli.conftest import Run
from tests.data_room.examples import rich_record


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    write([rich_record(id="a"), rich_record(id="b")], tmp_path / "set", "records")
    return tmp_path / "set"


def test_check_of_good_data(call: Run, dataset: Path, tiny_folder: Path) -> None:
    result = call("data", "check", dataset, "-m", tiny_folder, "-t", "detect", "-t", "<CAPTION>")
    assert result.exit_code == 0, result.stdout
    assert "records in" in result.stdout
    assert "<OD>: 4, at most" in result.stdout  # one from the objects and one explicit pair, of two records
    assert "cat<loc_125><loc_166><loc_375><loc_666>" in result.stdout
    assert "no problems" in result.stdout


def test_check_names_file_and_line(call: Run, dataset: Path, tiny_folder: Path) -> None:
    lines = (dataset / "records.jsonl").read_text().splitlines()
    broken = lines[1].replace("[10, 10, 30, 40]", "[50, 10, 30, 40]", 1)
    (dataset / "records.jsonl").write_text(f"{lines[0]}\n{broken}\n")
    result = call("data", "check", dataset, "-m", tiny_folder)
    assert result.exit_code == 1
    assert f"{dataset / 'records.jsonl'}:2 (b) box: the box of 'cat' is inverted" in result.stdout
    report = json.loads(call("data", "check", dataset, "-m", tiny_folder, "--json").stdout)
    assert report["records"] == 2
    assert {problem["kind"] for problem in report["problems"]} >= {"box"}
    assert call("data", "check", dataset, "-m", tiny_folder, "--limit", "1").exit_code == 0


def test_convert(call: Run, dataset: Path, tmp_path: Path) -> None:
    result = call("data", "convert", dataset, tmp_path / "coco", "--format", "coco")
    assert result.exit_code == 0
    assert "2 records written as coco" in result.stdout
    assert "not held by coco: 2 phrases" in result.stdout
    assert [record.id for record in read(tmp_path / "coco")] == ["a", "b"]
    again = call("data", "convert", dataset, tmp_path / "coco", "--format", "coco")
    assert again.exit_code == 2
    assert "already there" in again.stderr


def test_convert_says_what_it_left_out(call: Run, dataset: Path, tmp_path: Path) -> None:
    next((dataset / "images").iterdir()).unlink()
    result = call("data", "convert", dataset, tmp_path / "yolo", "-f", "yolo")
    assert result.exit_code == 1
    assert "skipped: " in result.stdout


def test_unknown_formats(call: Run, dataset: Path, tmp_path: Path) -> None:
    wrong = call("data", "convert", dataset, tmp_path / "x", "--format", "cocoa")
    assert (wrong.exit_code, "known are packs" in wrong.stderr) == (2, True)
    wrong = call("data", "show", dataset, "--from", "yolo")
    assert (wrong.exit_code, "no data set of the format yolo" in wrong.stderr) == (2, True)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "not recognised" in call("data", "check", empty).stderr


def test_show(call: Run, dataset: Path, tmp_path: Path) -> None:
    result = call("data", "show", dataset, "-o", tmp_path / "out" / "sheet.png", "--count", "4", "--columns", "2")
    assert result.exit_code == 0, result.stderr
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert f"{sheet.width} x {sheet.height}" in result.stdout
        assert sheet.width > 900


def shown(call: Run, dataset: Path, tmp_path: Path, *options: object) -> bytes:
    result = call("data", "show", dataset, "-o", tmp_path / "sheet.png", "--count", "4", *options)
    assert result.exit_code == 0, result.stderr
    return (tmp_path / "sheet.png").read_bytes()


def test_show_after_augmentation(call: Run, dataset: Path, tmp_path: Path) -> None:
    plain = shown(call, dataset, tmp_path)
    assert shown(call, dataset, tmp_path, "--augment", "--crop", "0") == plain
    coloured = shown(call, dataset, tmp_path, "--augment", "--colour", "0.5")
    assert coloured not in (plain, shown(call, dataset, tmp_path, "--augment", "--colour", "0.5", "--seed", "1"))
    assert shown(call, dataset, tmp_path, "--augment") != plain
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'output = "run"\nschedule.steps = 1\naugment.colour = 0.5\n[data.mine]\npath = "nowhere"\n', encoding="utf-8"
    )
    assert shown(call, dataset, tmp_path, "--augment", "--recipe", recipe) == coloured


def test_options_of_augmentation_that_do_not_fit(call: Run, dataset: Path, tmp_path: Path) -> None:
    wrong = call("data", "show", dataset, "--flip", "0.5")
    assert (wrong.exit_code, "--flip given without --augment" in wrong.stderr) == (2, True)
    wrong = call("data", "show", dataset, "--augment", "--flip", "0.5", "--recipe", tmp_path / "recipe.toml")
    assert (wrong.exit_code, "both --recipe and --flip" in wrong.stderr) == (2, True)
    wrong = call("data", "show", dataset, "--augment", "--recipe", tmp_path / "recipe.toml")
    assert (wrong.exit_code, "cannot be read" in wrong.stderr) == (2, True)
