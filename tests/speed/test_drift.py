"""What a number format costs: told for every kind of question, and zero for a model beside itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from florence2 import Detections, Florence2, Object
from florence2.cli import app
from florence2.data import write
from florence2.data.scenes import Scenes, SceneSettings
from florence2.errors import DataError
from florence2.speed import drift

pytest.importorskip("pycocotools", reason="the figures are those of the extra eval")


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eval")
    scenes = Scenes(SceneSettings(count=3, seed=3, size=(224, 224), objects=(1, 2), words=(0, 0)))
    made = []
    for record, picture in scenes:
        path = folder / f"{record.id}.png"
        picture.save(path)
        made.append(replace(record, image=path.read_bytes(), source="coco"))
    write(made, folder / "made-000.tar", "packs")
    return folder


def box(x: float, score: float) -> Detections:
    return Detections(task="<OD>", width=10, height=10, objects=(Object(box=(x, 0, 5, 5), label="dog", score=score),))


def test_scores_may_differ_and_nothing_else() -> None:
    assert drift.agreement([box(1, 0.5), box(1, 0.5)], [box(1, 0.4), box(2, 0.5)]) == 0.5


@pytest.mark.slow
def test_a_model_does_not_drift_from_itself_and_int8_hardly(packs: Path) -> None:
    exact, fast = Florence2.from_pretrained(dtype="float32"), Florence2.from_pretrained(dtype="int8")
    alone = drift.measure(exact, exact, packs, 4)
    assert alone
    assert all(one.same == 1 and one.exact == one.fast for one in alone)
    rounded = drift.measure(exact, fast, packs, 4)
    assert [one.benchmark for one in rounded] == [one.benchmark for one in alone]
    assert 0.3 < sum(one.same for one in rounded) / len(rounded) <= 1


@pytest.mark.slow
def test_the_command_prints_it(packs: Path, tmp_path: Path) -> None:
    arguments = ["-s", "token, greedy", "--rounds", "1", "--dtype", "int8", "--drift", str(packs), "--limit", "2"]
    done = CliRunner().invoke(app, ["bench", *arguments, "-o", str(tmp_path / "it")])
    assert done.exit_code == 0, done.output
    assert "same answers" in done.output
    document = json.loads((tmp_path / "it.json").read_text())
    assert "int8" in document["title"]
    assert document["drift"][0]["same"] <= 1
    assert "| same answers |" in (tmp_path / "it.md").read_text()


def test_no_packs_are_said(tmp_path: Path) -> None:
    model = Florence2.from_pretrained()
    with pytest.raises(DataError):
        drift.measure(model, model, tmp_path, 2)
