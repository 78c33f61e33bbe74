"""Scores → probabilities: curves that rise strictly, their file, and their way through a checkpoint."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence2.checkpoints import Checkpoint, hub, load, save
from florence2.checkpoints.calibration import FILE, Calibration, Curve
from florence2.checkpoints.layouts import LAYOUTS, Layout
from florence2.errors import CheckpointError, ConfigError
from florence2.results import Answer, Detections, Instance, Object, Segments, Text, TextRegion, TextRegions

CURVE = Curve((0.0, 0.3, 1.0), (0.05, 0.6, 0.9))
CALIBRATION = Calibration(
    {"<OD>": CURVE, "<CAPTION>": dataclasses.replace(CURVE, of="confidence")},
    {"data": "photos of Ö", "ece": [0.2, 0.01]},
)


@st.composite
def curves(draw: st.DrawFn) -> Curve:
    """Any curve whose points are told apart by more than rounding."""
    count = draw(st.integers(0, 8))
    thousandths = st.lists(st.integers(1, 999), min_size=count, max_size=count, unique=True)
    scores = [0, *sorted(draw(thousandths)), 1000]
    shares = sorted(draw(st.lists(st.integers(0, 1000), min_size=count + 2, max_size=count + 2, unique=True)))
    return Curve(tuple(n / 1000 for n in scores), tuple(n / 1000 for n in shares))


@given(curves(), st.lists(st.floats(0, 1), min_size=2, max_size=30))
def test_order_stays_and_probabilities_are_such(curve: Curve, scores: list[float]) -> None:
    found = sorted((score, curve(score)) for score in scores)
    assert all(0 <= probability <= 1 for _, probability in found)
    for (low, one), (high, other) in pairwise(found):
        assert one <= other
        assert one < other or high - low < 1e-9


@given(curves(), st.floats(0, 1))
def test_the_inverse_gives_the_score_back(curve: Curve, score: float) -> None:
    assert curve.score(curve(score)) == pytest.approx(score, abs=1e-9)


def test_points_are_joined_by_straight_lines() -> None:
    for score, probability in zip(CURVE.scores, CURVE.probabilities, strict=True):
        assert CURVE(score) == probability
    assert CURVE(0.15) == pytest.approx((0.05 + 0.6) / 2)
    assert CURVE(0.65) == pytest.approx((0.6 + 0.9) / 2)
    assert (CURVE(-1e-9), CURVE(1 + 1e-9)) == (0.05, 0.9)


@pytest.mark.parametrize(
    ("scores", "probabilities", "says"),
    [
        ((0.0, 0.5, 1.0), (0.1, 0.9, 0.8), r"probabilities\[2\] is 0.8 behind 0.9; both must rise strictly"),
        ((0.0, 0.5, 1.0), (0.1, 0.5, 0.5), r"probabilities\[2\] is 0.5 behind 0.5"),
        ((0.0, 0.5, 0.5, 1.0), (0.1, 0.2, 0.3, 0.4), r"scores\[2\] is 0.5 behind 0.5"),
        ((0.0, 1.0), (0.1, 1.2), r"probabilities\[1\] is 1.2, expected a number from 0 to 1"),
        ((0.0, 1.0), (-0.1, 1.0), r"probabilities\[0\] is -0.1"),
        ((0.0, float("nan"), 1.0), (0.1, 0.2, 0.3), r"scores\[1\] is nan"),
        ((0.0, 1.0), (0.1, "1"), r"probabilities\[1\] is '1'"),
        ((0.0, 1.0), (0.1, True), r"probabilities\[1\] is True"),
        ((0.0, 1.0), (0.1, 0.2, 0.3), "2 scores and 3 probabilities"),
        ((0.1, 1.0), (0.1, 0.2), "scores are 0.1 to 1.0; expected them to begin with 0"),
        ((0.0,), (0.1,), "begin with 0 and end with 1"),
        ((), (), "scores are none"),
    ],
)
def test_what_is_no_rising_curve_is_refused(scores: Any, probabilities: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Curve(scores, probabilities)


def everything(task: str) -> list[Answer]:
    where: dict[str, Any] = {"task": task, "width": 90, "height": 60}
    box, quad = (1.0, 2.0, 3.0, 4.0), (1.0, 2.0, 3.0, 2.0, 3.0, 4.0, 1.0, 4.0)
    things = [Object(label=str(n), box=box, score=n / 10, label_score=0.3, box_score=0.2) for n in (3, 1, 9)]
    return [
        Detections(**where, objects=tuple(things), confidence=0.4),
        Segments(**where, instances=(Instance(label="a", polygons=(quad,), score=0.3),), confidence=0.4),
        TextRegions(**where, regions=(TextRegion(text="a", quad=quad, score=0.3),), confidence=0.4),
    ]


def test_scores_become_probabilities_and_all_else_stays() -> None:
    detections, segments, regions = (CALIBRATION.apply(answer) for answer in everything("<OD>"))
    assert isinstance(detections, Detections)
    assert detections.scores == [CURVE(0.3), CURVE(0.1), CURVE(0.9)]
    assert {(thing.label_score, thing.box_score) for thing in detections.objects} == {(0.3, 0.2)}
    assert segments.instances[0].score == regions.regions[0].score == CURVE(0.3)  # type: ignore[attr-defined]
    for answer, before in zip((detections, segments, regions), everything("<OD>"), strict=True):
        assert answer.confidence == 0.4
        assert answer != before
        assert Calibration({"<OD>": Curve((0.0, 1.0), (0.0, 1.0))}).apply(before) == before


def test_of_a_text_the_confidence_does() -> None:
    text = Text(task="<CAPTION>", width=9, height=9, text="a dog", confidence=0.3)
    assert CALIBRATION.apply(text) == dataclasses.replace(text, confidence=0.6)


@pytest.mark.parametrize("answer", [*everything("<DENSE_REGION_CAPTION>"), *everything("<CAPTION>")])
def test_a_task_without_a_curve_keeps_its_scores(answer: Answer) -> None:
    assert CALIBRATION.apply(answer) == answer  # the curve of <CAPTION> is of confidences
    assert Calibration({}).apply(answer) == answer


# The file


def test_round_trip_through_the_file(tmp_path: Path) -> None:
    path = CALIBRATION.save(tmp_path)
    assert path == tmp_path / FILE
    assert Calibration.load(tmp_path) == CALIBRATION
    assert [file.name for file in tmp_path.iterdir()] == [FILE]
    assert json.loads(path.read_text())["version"] == 1
    Calibration({"<OD>": CURVE}).save(tmp_path)
    assert Calibration.load(tmp_path) == Calibration({"<OD>": CURVE}) != CALIBRATION


@given(curves())
def test_any_curve_comes_back_exactly(curve: Curve) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Calibration({"<X>": curve}).save(Path(folder))
        assert Calibration.load(Path(folder)) == Calibration({"<X>": curve})


def test_no_file_no_calibration(tmp_path: Path) -> None:
    assert Calibration.load(tmp_path) is None
    assert Calibration.load(tmp_path / "nowhere") is None


def stored() -> dict[str, Any]:
    curve = {"of": "score", "scores": [0, 0.5, 1], "probabilities": [0.1, 0.2, 0.3]}
    return {"format": "florence2-calibration", "version": 1, "notes": {}, "tasks": {"<OD>": curve}}


def write(folder: Path, content: Any) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / FILE).write_text(text, encoding="utf-8")


def changed(name: str, value: Any) -> dict[str, Any]:
    """The good file with another value in its curve; None takes the field out."""
    content = stored()
    curve = content["tasks"]["<OD>"]
    if value is None:
        del curve[name]
    else:
        curve[name] = value
    return content


def test_the_file_that_is_broken_below_is_good(tmp_path: Path) -> None:
    write(tmp_path, stored())
    assert Calibration.load(tmp_path) == Calibration({"<OD>": Curve((0, 0.5, 1), (0.1, 0.2, 0.3))})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not readable JSON"),
        ("[]", "holds a list, expected an object"),
        ({**stored(), "version": 2}, "version is 2, this version of florence2 reads 1; update florence2"),
        ({**stored(), "version": True}, "version is True"),
        ({**stored(), "format": "other"}, "format is 'other'"),
        ({**stored(), "extra": 1}, "unknown field 'extra'"),
        ({name: value for name, value in stored().items() if name != "tasks"}, "has no 'tasks'"),
        ({**stored(), "tasks": []}, "tasks is a list, expected an object"),
        ({**stored(), "notes": "none"}, "notes is a str"),
        ({**stored(), "tasks": {"<OD>": 1}}, r"tasks\['<OD>'\] is a int"),
        (changed("scores", None), r"tasks\['<OD>'\] has no 'scores'"),
        (changed("weights", [1]), r"tasks\['<OD>'\] has an unknown field 'weights'"),
        (changed("scores", 3), r"tasks\['<OD>'\].scores is a int"),
        (changed("of", "label_score"), r"tasks\['<OD>'\].of is 'label_score'"),
        (changed("of", ["score"]), r"tasks\['<OD>'\].of is \['score'\]"),
        (changed("probabilities", [0.1, 0.9, 0.8]), r"tasks\['<OD>'\].probabilities\[2\] is 0.8 behind 0.9"),
        (changed("probabilities", [0.1, 0.2, 1.5]), r"tasks\['<OD>'\].probabilities\[2\] is 1.5"),
        (changed("probabilities", [0.1, None, 0.5]), r"tasks\['<OD>'\].probabilities\[1\] is None"),
        (json.dumps(stored()).replace("0.2", "NaN"), r"tasks\['<OD>'\].probabilities\[1\] is nan"),
        (changed("scores", [0, 1]), r"tasks\['<OD>'\].2 scores and 3 probabilities"),
    ],
)
def test_a_broken_file_is_named_with_its_field(content: Any, says: str, tmp_path: Path) -> None:
    write(tmp_path, content)
    with pytest.raises(CheckpointError, match=says) as caught:
        Calibration.load(tmp_path)
    assert str(tmp_path / FILE) in str(caught.value)


@pytest.mark.parametrize("notes", [{"x": float("nan")}, {"x": object()}])
def test_notes_that_are_no_json_leave_the_old_file(notes: dict[str, Any], tmp_path: Path) -> None:
    CALIBRATION.save(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be written"):
        Calibration({}, notes).save(tmp_path)
    assert Calibration.load(tmp_path) == CALIBRATION
    assert [file.name for file in tmp_path.iterdir()] == [FILE]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere.*cannot be written"):
        CALIBRATION.save(tmp_path / "nowhere")


def test_the_fingerprint_is_of_the_curves() -> None:
    assert CALIBRATION.fingerprint == dataclasses.replace(CALIBRATION, notes={}).fingerprint
    other = Calibration({**CALIBRATION.curves, "<OD>": Curve((0.0, 0.3, 1.0), (0.05, 0.6, 0.91))})
    assert CALIBRATION.fingerprint != other.fingerprint


# With the checkpoint


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_checkpoint_keeps_its_calibration(tiny: Checkpoint, layout: Layout, tmp_path: Path) -> None:
    assert not (save(tiny, tmp_path / "without", layout) / FILE).exists()
    assert load(tmp_path / "without").calibration is None
    folder = save(dataclasses.replace(tiny, calibration=CALIBRATION), tmp_path / "with", layout)
    found = load(folder)
    assert found.calibration == CALIBRATION
    assert found.layout == layout
    again = save(found, tmp_path / "again", "microsoft" if layout == "native" else "native")
    assert load(again).calibration == CALIBRATION
    save(dataclasses.replace(found, calibration=None), folder, layout, overwrite=True)
    assert load(folder).calibration is None


def test_a_broken_calibration_is_not_passed_over(microsoft: Path) -> None:
    write(microsoft, changed("probabilities", [0.3, 0.2, 0.1]))
    with pytest.raises(CheckpointError, match=r"calibration.json: tasks\['<OD>'\].probabilities\[1\]"):
        load(microsoft)


def test_the_hub_is_asked_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The patterns of files to fetch hold it; patterns match what is there, so its absence is no reason to fail."""
    asked: list[list[str]] = []

    def download(repository: str, **options: Any) -> str:
        asked.append(options["allow_patterns"])
        assert not any(fnmatch(FILE, pattern) for pattern in options["ignore_patterns"])
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    hub.locate("someone/florence")
    assert asked
    assert all(any(fnmatch(FILE, pattern) for pattern in patterns) for patterns in asked)
