"""Calibrated scores in the pipeline: when they are applied, to what, and when they are not."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from florence2 import Florence2, save
from florence2.checkpoints import Checkpoint, LoraSettings, add_adapter
from florence2.checkpoints.calibration import Calibration, Curve
from florence2.evaluation.answerers import Ours
from florence2.language.tasks import TASKS
from florence2.results import Detections, Text
from tests.test_pipeline import given
from tests.tiny_checkpoint import picture, tiny_checkpoint

LIFT = Curve((0.0, 0.01, 1.0), (0.3, 0.6, 0.9))
"""Far above what random weights give."""
CALIBRATION = Calibration(
    {
        name: dataclasses.replace(LIFT, of="confidence" if task.result is Text else "score")
        for name, task in TASKS.items()
    }
)
PHOTO = picture()


def calibrated() -> Checkpoint:
    return dataclasses.replace(tiny_checkpoint(), calibration=CALIBRATION)


@pytest.fixture(scope="module")
def raw() -> Florence2:
    return Florence2(tiny_checkpoint())


@pytest.fixture(scope="module")
def model() -> Florence2:
    return Florence2(calibrated())


def scores(answer: Any) -> list[float]:
    if answer.items_field is None:
        return [answer.confidence]
    return [item.score for item in getattr(answer, answer.items_field)]


def test_every_task_answers_with_probabilities(model: Florence2, raw: Florence2) -> None:
    asked = [(task.name, given(task)) for task in TASKS.values()]
    seen = 0
    for answer, plain in zip(
        model.run_many(PHOTO, asked, num_beams=1), raw.run_many(PHOTO, asked, num_beams=1), strict=True
    ):
        assert answer == CALIBRATION.apply(plain)  # type: ignore[arg-type]
        assert scores(answer) == [LIFT(score) for score in scores(plain)]
        seen += len(scores(answer))
    assert seen > len(asked)
    assert (model.calibration, raw.calibration) == (CALIBRATION, None)


def test_batches_and_streams_do_too(model: Florence2) -> None:
    items = [(PHOTO, "od"), (PHOTO, "caption"), (PHOTO, "describe", [(5.0, 5.0, 50.0, 50.0)] * 2)]
    for found in (model.run_batch(items), list(model.stream(items))):
        detections, caption, described = found
        assert min([*scores(detections), *scores(caption), *(scores(text)[0] for text in described)]) >= 0.3  # type: ignore[union-attr]


def test_labels_are_merged_after_it(model: Florence2, raw: Florence2) -> None:
    found = model.detect(PHOTO, ["car", "dog"], num_beams=1)
    plain = raw.detect(PHOTO, ["car", "dog"], num_beams=1)
    assert found.scores == [LIFT(score) for score in plain.scores]
    assert found.confidence == plain.confidence


def test_label_and_box_scores_stay(model: Florence2, raw: Florence2) -> None:
    found, plain = model.detect(PHOTO, num_beams=1), raw.detect(PHOTO, num_beams=1)
    assert found.objects
    for thing, before in zip(found.objects, plain.objects, strict=True):
        assert (thing.label_score, thing.box_score) == (before.label_score, before.box_score)
        assert thing.score != before.score


def test_min_score_is_of_what_is_shown(model: Florence2, raw: Florence2) -> None:
    every = model.detect(PHOTO, num_beams=1)
    assert max(scores(raw.detect(PHOTO, num_beams=1))) < 0.3 < min(every.scores)
    assert model.detect(PHOTO, num_beams=1, min_score=0.3).objects == every.objects
    assert raw.detect(PHOTO, num_beams=1, min_score=0.3).objects == ()
    border = sorted(every.scores)[-1]
    assert model.detect(PHOTO, num_beams=1, min_score=border).scores == [s for s in every.scores if s >= border]


def test_reference_keeps_the_scores_of_the_model(model: Florence2, raw: Florence2) -> None:
    assert model.caption(PHOTO, reference=True) == raw.caption(PHOTO, reference=True)
    assert model.caption(PHOTO) != raw.caption(PHOTO)


def test_calibrated_false_does_not(raw: Florence2, tmp_path: Path) -> None:
    folder = save(calibrated(), tmp_path / "tiny")
    with_it = Florence2.from_pretrained(folder, device="cpu")
    without = Florence2.from_pretrained(folder, device="cpu", calibrated=False)
    assert (with_it.calibration, without.calibration) == (CALIBRATION, None)
    plain = without.detect(PHOTO, num_beams=1)
    assert plain.scores == pytest.approx(raw.detect(PHOTO, num_beams=1).scores)
    assert with_it.detect(PHOTO, num_beams=1) == CALIBRATION.apply(plain) != plain


def test_an_adapter_makes_it_void(raw: Florence2) -> None:
    pytest.importorskip("peft", reason="adapters need peft (pip install '.[train]')")
    model = Florence2(dataclasses.replace(calibrated(), model=copy.deepcopy(tiny_checkpoint().model)))
    plain = raw.detect(PHOTO, num_beams=1)
    add_adapter(model.model, LoraSettings(targets=("attention",)))  # changes nothing yet
    model.model.eval()
    assert model.calibration is None
    assert model.detect(PHOTO, num_beams=1) == plain
    model.use_adapter(None)
    assert model.calibration == CALIBRATION
    assert model.detect(PHOTO, num_beams=1) == CALIBRATION.apply(plain)
    model.use_adapter("default")
    model.merge_adapter()
    assert (model.adapter, model.calibration) == (None, None)
    assert all(score < 0.3 for score in scores(model.detect(PHOTO, num_beams=1)))


def test_a_benchmark_says_whether_scores_were_calibrated(model: Florence2, raw: Florence2) -> None:
    assert Ours(model).describe()["calibration"] == CALIBRATION.fingerprint
    assert Ours(raw).describe()["calibration"] is None
    assert Ours(model, reference=True).describe()["calibration"] is None


def test_an_empty_answer_has_nothing_to_calibrate() -> None:
    empty = Detections(task="<OD>", width=9, height=9)
    assert CALIBRATION.apply(empty) == empty
