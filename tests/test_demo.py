"""The demo that ``make demo`` runs, on two small photos with the tiny model."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

from florence2 import Answer, save
from florence2.language.tasks import TASKS
from tests.tiny_checkpoint import picture, tiny_checkpoint

SCRIPT = Path(__file__).parent.parent / "examples" / "demo.py"


@pytest.mark.slow
def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save(tiny_checkpoint(), tmp_path / "tiny")
    (tmp_path / "photos").mkdir()
    for seed, name in enumerate(("one.png", "two.jpg")):
        picture(seed).save(tmp_path / "photos" / name)
    output = tmp_path / "deep" / "demo"
    arguments = ["--photos", str(tmp_path / "photos"), "--model", str(folder), "--output", str(output)]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    page = (output / "index.html").read_text(encoding="utf-8")
    for stem in ("one", "two"):
        results = json.loads((output / f"{stem}.json").read_text(encoding="utf-8"))["results"]
        assert list(results) == list(TASKS)
        for task, values in results.items():
            assert Answer.from_dict(values).task == task
            name = f"{stem}.{task.strip('<>').lower()}.png"
            assert (output / name).is_file()
            assert name in page
    with Image.open(output / "sheet.png") as sheet:
        assert sheet.width > 1000
    said = capsys.readouterr().out
    assert "index.html" in said
    assert "sheet.png" in said


def test_the_photos_of_the_demo_are_there() -> None:
    photos = list((SCRIPT.parent / "photos").iterdir())
    assert len(photos) >= 4
    origins = (SCRIPT.parent / "README.md").read_text(encoding="utf-8")
    assert [photo.name for photo in photos if photo.name not in origins] == []
