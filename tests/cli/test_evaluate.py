"""``florence2 evaluate``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run


@pytest.fixture
def answers(tmp_path: Path) -> tuple[Path, Path]:
    given, truth = tmp_path / "given.jsonl", tmp_path / "truth.jsonl"
    given.write_text('{"id": 1, "answer": "two"}\n')
    truth.write_text('{"id": 1, "answers": ["2"]}\n{"id": 2, "answers": ["no"]}\n')
    return given, truth


def test_table(call: Run, answers: tuple[Path, Path]) -> None:
    given, truth = answers
    result = call("evaluate", "--predictions", given, "--truth", truth, "--task", "vqa")
    assert result.exit_code == 0
    assert "accuracy     0.5000\n" in result.stdout
    assert "1 of 2 samples have no prediction and count as empty: 2" in result.stderr


def test_json(call: Run, answers: tuple[Path, Path], tmp_path: Path) -> None:
    given, truth = answers
    result = call("evaluate", "--predictions", given, "--truth", truth, "--task", "vqa", "--json")
    assert json.loads(result.stdout)["accuracy"] == 0.5
    assert result.stdout.count("\n") == 1
    (tmp_path / "coco.json").write_text('{"images": [{"id": 1}], "annotations": [], "categories": []}')
    (tmp_path / "found.json").write_text("[]")
    files = ("--predictions", tmp_path / "found.json", "--truth", tmp_path / "coco.json")
    result = call("evaluate", *files, "-t", "detection", "--json")
    assert json.loads(result.stdout)["AP"] is None
    assert "AP     -\n" in call("evaluate", *files, "-t", "detection").stdout


def test_tokenized(call: Run, tmp_path: Path) -> None:
    (tmp_path / "given.jsonl").write_text('{"id": 1, "text": "a cat , here"}\n')
    (tmp_path / "truth.jsonl").write_text('{"id": 1, "references": ["a cat here"]}\n')
    files = ("--predictions", tmp_path / "given.jsonl", "--truth", tmp_path / "truth.jsonl", "-t", "caption", "--json")
    figures = [json.loads(call("evaluate", *files, *more).stdout)["BLEU1"] for more in ((), ("--tokenized",))]
    assert figures == pytest.approx([1, 0.75])


def test_mistakes(call: Run, answers: tuple[Path, Path], tmp_path: Path) -> None:
    given, truth = answers
    for task, words in (("poetry", "no metrics for 'poetry'"), ("caption", "given.jsonl:1 has no 'text'")):
        result = call("evaluate", "--predictions", given, "--truth", truth, "--task", task)
        assert (result.exit_code, words in result.stderr) == (2, True)
    result = call("evaluate", "--predictions", tmp_path / "none.jsonl", "--truth", truth, "--task", "vqa")
    assert (result.exit_code, "cannot be read" in result.stderr) == (2, True)
    given.write_text('{"id": 3, "answer": "two"}\n')
    result = call("evaluate", "--predictions", given, "--truth", truth, "--task", "vqa")
    assert (result.exit_code, "given.jsonl:1" in result.stderr) == (2, True)
