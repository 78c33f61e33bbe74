"""``florence2 parse``: answers of any runtime become typed results, line by line."""

from __future__ import annotations

import importlib.resources
import json
from pathlib import Path

import pytest

from florence2 import Answer, Detections, Text
from florence2.language.tokenizer import Tokenizer
from tests.cli.conftest import Run, documents
from tests.tiny_checkpoint import tiny_checkpoint

CAR = "car<loc_52><loc_332><loc_932><loc_774>"


@pytest.fixture(autouse=True)
def any_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results are the same for every tokenizer; where the embedded one is absent the tiny one stands in."""
    folder = importlib.resources.files("florence2") / "assets" / "nano"
    if not (folder / "tokenizer.json").is_file():
        monkeypatch.setattr(Tokenizer, "load", lambda folder: tiny_checkpoint().tokenizer)


def line(task: str, text: str, width: int = 1000, height: int = 500) -> str:
    return json.dumps({"task": task, "text": text, "width": width, "height": height})


def test_lines_from_stdin(call: Run) -> None:
    result = call("parse", input=line("<OD>", CAR) + "\n\n" + line("caption", "ein Hündchen 🐶") + "\n")
    assert result.exit_code == 0
    detections, text = (Answer.from_dict(values) for values in documents(result))
    assert isinstance(detections, Detections)
    assert (detections.width, detections.height) == (1000, 500)
    assert detections.labels == ["car"]
    assert detections.boxes[0] == pytest.approx((52.5, 166.25, 932.5, 387.25))
    assert isinstance(text, Text)
    assert text.text == "ein Hündchen 🐶"


def test_a_file(call: Run, tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text(line("OD", CAR))
    assert documents(call("parse", file)) == documents(call("parse", "-", input=line("<OD>", CAR)))


@pytest.mark.parametrize("text", [CAR, f"</s><s>{CAR}</s>", f"</s><s><s><s>{CAR}</s><pad><pad>", f"<s>{CAR}"])
def test_special_tokens_at_the_ends_do_not_matter(call: Run, text: str) -> None:
    expected, found = documents(call("parse", input=line("<OD>", CAR) + "\n" + line("<OD>", text)))
    assert found == expected


def test_what_makes_no_sense_is_reported(call: Run) -> None:
    (found,) = documents(call("parse", input=line("<OD>", CAR + "dog<loc_1><loc_2>")))
    assert len(found["objects"]) == 1
    assert found["dropped"]


def test_a_bad_line_gives_a_record_in_its_place(call: Run) -> None:
    bad = [
        "{",
        "[1]",
        '{"task": "<OD>"}',
        line("<OD>", CAR, 0),
        '{"task": "<OD>", "text": 5, "width": 10, "height": 10}',
        '{"task": "<OD>", "text": "", "width": 10, "height": "10"}',
    ]
    for flags in ([], ["--reference"]):
        result = call("parse", *flags, input="\n".join([line("<OD>", CAR), *bad, line("<OD>", CAR)]))
        assert result.exit_code == 1
        first, *records, last = documents(result)
        assert first == last
        assert [record["line"] for record in records] == list(range(2, 2 + len(bad)))
        assert all(f"line {record['line']}: " in record["error"]["message"] for record in records)
        assert f"{len(bad)} lines" in result.stderr


def test_an_unknown_task_is_an_error_or_plain_text_for_microsoft(call: Run) -> None:
    assert documents(call("parse", input=line("<OOD>", CAR)))[0]["error"]["type"] == "TaskError"
    assert documents(call("parse", "--reference", input=line("<OOD>", CAR))) == [{"<OOD>": CAR}]


def test_reference_gives_microsofts_shape(call: Run, golden: Path) -> None:
    result = call("parse", "--reference", input=line("<OD>", CAR))
    (found,) = documents(result)
    assert list(found) == ["<OD>"]
    assert found["<OD>"]["labels"] == ["car"]


def test_reference_reproduces_the_golden_answers(call: Run, golden: Path) -> None:
    cases = json.loads((golden / "microsoft_parse.json").read_text())["cases"]
    lines = [line(case["task"], case["text"], *case["image_size"]) for case in cases]
    result = call("parse", "--reference", input="\n".join(lines))
    found = documents(result)
    assert len(found) == len(cases) > 800
    wrong = [
        case["text"]
        for case, values in zip(cases, found, strict=True)
        if json.dumps(values[case["task"]]) != json.dumps(case["output"])
    ]
    assert wrong == []


def test_a_missing_file_is_named(call: Run) -> None:
    result = call("parse", "nowhere.jsonl")
    assert result.exit_code == 2
    assert "nowhere.jsonl" in result.stderr
