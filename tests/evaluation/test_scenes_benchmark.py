"""Composed pictures as benchmarks: the same in every run, right about what they show, and answerable."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy
import pytest

from florence2.data import Record, Thing, write
from florence2.errors import DataError
from florence2.evaluation.benchmarks import find, scenes
from florence2.evaluation.measures import measure
from florence2.evaluation.samples import Sample
from florence2.results import Segments, Text
from tests.data_room.examples import image_bytes

FEW = 12


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes, "COUNT", FEW)
    composed = scenes.SceneSettings(count=FEW, seed=scenes.SEED, objects=(1, 3), words=(0, 0))
    monkeypatch.setattr(scenes, "COMPOSED", composed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packs with one photo, of a cat and a dog that can be cut out."""
    cat, dog = (20.0, 20.0, 90.0, 20.0, 60.0, 110.0), (110.0, 30.0, 180.0, 40.0, 170.0, 120.0)
    record = Record(
        image=image_bytes(200, 150),
        id="one",
        width=200,
        height=150,
        objects=(
            Thing(label="cat", box=(20, 20, 90, 110), polygons=(cat,)),
            Thing(label="dog", box=(110, 30, 180, 120), polygons=(dog,)),
        ),
    )
    path = tmp_path_factory.mktemp("packs")
    write([record], path / "one.tar", "packs")
    return path


def of(name: str, folder: Path) -> list[Sample]:
    (benchmark,) = find(f"scenes/{name}")
    return list(benchmark.samples(folder))


@pytest.mark.parametrize("name", ["lines", "referring-segmentation", "region-segmentation"])
def test_the_same_in_every_run_and_the_truth_is_perfect(name: str, folder: Path) -> None:
    samples = of(name, folder)
    assert len(samples) >= FEW // 2
    assert len({sample.id for sample in samples}) == len(samples)
    assert samples == of(name, folder)
    (benchmark,) = find(f"scenes/{name}")
    truth = [sample.truth[0] for sample in samples]
    for answers, figure in ((truth, 1.0), (truth[1:] + truth[:1], None)):
        found = measure(benchmark.measure, samples, answers).figures[benchmark.main]
        assert found == pytest.approx(figure) if figure else found < 0.9


def test_a_line_fills_its_picture(folder: Path) -> None:
    for sample in of("lines", folder):
        (line,) = sample.record.text or ()
        assert cast(Text, sample.truth[0]).text == line.text != ""
        pixels = numpy.asarray(sample.record.load()).astype(float)
        assert sample.record.width > 0.5 * len(line.text) * sample.record.height / 4
        assert numpy.ptp(pixels, axis=(0, 1)).max() > 60  # something is printed there


def test_a_box_is_around_its_outline(folder: Path) -> None:
    for sample in of("region-segmentation", folder):
        polygons = cast(Segments, sample.truth[0]).instances[0].polygons
        xs, ys = zip(*(pair for p in polygons for pair in zip(p[0::2], p[1::2], strict=True)), strict=True)
        given = cast(tuple[float, ...], sample.given)
        assert given == pytest.approx((min(xs), min(ys), max(xs), max(ys)), abs=1.5)


def test_packs_without_outlines_are_refused(tmp_path: Path) -> None:
    plain = Record(image=image_bytes(80, 60), id="plain", width=80, height=60, captions=("Nothing.",))
    write([plain], tmp_path / "plain.tar", "packs")
    with pytest.raises(DataError, match="no objects with outlines"):
        of("region-segmentation", tmp_path)
