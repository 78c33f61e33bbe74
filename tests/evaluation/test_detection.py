"""Average precision beside pycocotools, and by hand."""

from __future__ import annotations

import contextlib
import copy
import io
import random
from typing import Any

import numpy
import pytest

from florence2.errors import DataError
from florence2.evaluation.metrics import detection, masks, matching

Document = dict[str, Any]
Results = list[dict[str, Any]]
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def truth(*boxes: tuple[int, int, tuple[float, ...]], images: int = 1, **more: Any) -> Document:
    """(image, category, (x, y, width, height)) of images 1, 2, ... and the categories cat (1) and dog (2)."""
    return {
        "images": [{"id": n, "width": 100, "height": 100} for n in range(1, images + 1)],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "bbox": list(box), "area": box[2] * box[3], "iscrowd": 0, **more}
            for n, (i, c, box) in enumerate(boxes, start=1)
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }


def result(image: int, category: int, box: tuple[float, ...], score: float) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": list(box), "score": score}


BOX, OTHER = (10.0, 10.0, 40.0, 40.0), (60.0, 60.0, 30.0, 30.0)


def test_by_hand() -> None:
    document = truth((1, 1, BOX), (1, 1, OTHER))
    # right, wrong, right: precision 1 up to recall 1/2, then 2/3; of 101 recalls 51 are not beyond 1/2
    found = [result(1, 1, BOX, 0.9), result(1, 1, (0, 0, 5, 5), 0.8), result(1, 1, OTHER, 0.7)]
    figures = detection.coco_ap(document, found)
    assert figures["AP"] == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)
    assert figures["AR1"] == pytest.approx(0.5)
    assert figures["AR10"] == figures["AR100"] == pytest.approx(1)
    assert figures["APm"] == pytest.approx(1)  # 40 x 40
    assert figures["APs"] == pytest.approx(1 / 2)  # 30 x 30, behind the wrong one of 5 x 5
    assert figures["APl"] is None
    assert figures["AP-cat"] == figures["AP"]
    assert figures["AP-dog"] is None
    half = [result(1, 1, (10.0, 10.0, 40.0, 28.0), 0.9), result(1, 1, OTHER, 0.7)]  # IoU 0.7: right up to there
    assert detection.coco_ap(document, half)["AP50"] == pytest.approx(1)
    assert detection.coco_ap(document, half)["AP75"] == pytest.approx(51 * 0.5 / 101)


def test_a_second_box_for_one_thing_is_wrong() -> None:
    document = truth((1, 1, BOX))
    twice = [result(1, 1, BOX, 0.9), result(1, 1, BOX, 0.8)]
    assert detection.coco_ap(document, twice)["AP"] == pytest.approx(1)  # after full recall: it costs nothing
    document = truth((1, 1, BOX), (1, 1, OTHER))
    assert detection.coco_ap(document, [*twice, result(1, 1, OTHER, 0.7)])["AP"] == pytest.approx(
        (51 + 50 * 2 / 3) / 101
    )


def test_labels_must_be_right() -> None:
    document = truth((1, 1, BOX), (1, 2, OTHER))
    swapped = [result(1, 2, BOX, 0.9), result(1, 1, OTHER, 0.9)]
    assert detection.coco_ap(document, swapped)["AP"] == 0


@pytest.mark.parametrize("field", ["iscrowd", "ignore"])
def test_what_is_ignored_is_neither_right_nor_wrong(field: str) -> None:
    document = truth((1, 1, BOX), (1, 1, OTHER))
    document["annotations"][1][field] = 1
    found = [result(1, 1, OTHER, 0.9), result(1, 1, BOX, 0.5)]
    assert detection.coco_ap(document, found)["AP"] == pytest.approx(1)
    document["annotations"][1][field] = 0
    assert detection.coco_ap(document, found[:1])["AP"] == pytest.approx(51 / 101)
    twice = [result(1, 1, OTHER, 0.9), result(1, 1, OTHER, 0.8), result(1, 1, BOX, 0.5)]
    document["annotations"][1][field] = 1
    assert (detection.coco_ap(document, twice)["AP"] == pytest.approx(1)) == (field == "iscrowd")  # crowds match often


def test_nothing_predicted_and_nothing_there() -> None:
    figures = detection.coco_ap(truth((1, 1, BOX)), [])
    assert figures["AP"] == figures["AR100"] == figures["AP-cat"] == 0
    assert figures["APl"] is figures["AP-dog"] is None
    for found in ([], [result(1, 1, BOX, 0.5)]):
        assert set(detection.coco_ap(truth(), found).values()) == {None}
    without = {**truth(), "categories": []}
    assert set(detection.coco_ap(without, []).values()) == {None}


def test_the_id_zero_is_an_id_like_any_other() -> None:
    document = truth((1, 1, BOX))
    document["annotations"][0]["id"] = 0
    assert detection.coco_ap(document, [result(1, 1, BOX, 0.5)])["AP"] == pytest.approx(1)


def test_names_of_classes() -> None:
    document = truth((1, 1, BOX))
    document["categories"][1]["name"] = "cat"
    assert {"AP-cat (1)", "AP-cat (2)"} <= detection.coco_ap(document, []).keys()
    named = [{"image_id": 1, "category_name": "dog", "bbox": list(BOX), "score": 1.0}]  # as Answer.to_coco writes it
    assert detection.coco_ap(truth((1, 2, BOX)), named)["AP"] == pytest.approx(1)
    texts = truth((1, 1, BOX))
    texts["images"][0]["id"] = texts["annotations"][0]["image_id"] = "photo"
    assert detection.coco_ap(texts, [{**result(1, 1, BOX, 1.0), "image_id": "photo"}])["AP"] == pytest.approx(1)


# Random cases


def random_case(rng: numpy.random.Generator) -> tuple[Document, Results]:
    document = truth(images=int(rng.integers(1, 5)))
    results: Results = []

    def outline(box: list[float]) -> list[list[float]]:
        x, y, width, height = box
        return [[x, y, x + width, y, x + 0.8 * width, y + height, x, y + 0.9 * height]]

    def add(image: int, category: int, box: list[float]) -> None:
        results.append(
            {
                "image_id": image,
                "category_id": category,
                "bbox": box,
                "score": float(rng.random()),
                "segmentation": outline(box),
            }
        )

    def box() -> list[float]:
        width, height = rng.uniform(3, 99, 2)
        return [float(rng.uniform(0, 100 - width)), float(rng.uniform(0, 100 - height)), float(width), float(height)]

    for image in document["images"]:
        for _ in range(rng.integers(0, 5)):
            place, category = box(), int(rng.integers(1, 3))
            entry = {"id": len(document["annotations"]) + 1, "image_id": image["id"], "category_id": category}
            entry |= {"bbox": place, "area": place[2] * place[3], "iscrowd": int(rng.random() < 0.15)}
            document["annotations"].append({**entry, "segmentation": outline(place)})
            for _ in range(rng.integers(0, 3)):
                near = [
                    *(numpy.array(place[:2]) + rng.normal(0, 4, 2)),
                    *(numpy.array(place[2:]) * rng.uniform(0.7, 1.2)),
                ]
                add(image["id"], category if rng.random() < 0.8 else 3 - category, [float(v) for v in near])
        for _ in range(rng.integers(0, 3)):
            add(image["id"], int(rng.integers(1, 3)), box())
    return document, results


def theirs(document: Document, results: Results, kind: str) -> list[float | None]:
    coco = pytest.importorskip("pycocotools.coco").COCO
    run = pytest.importorskip("pycocotools.cocoeval").COCOeval
    with contextlib.redirect_stdout(io.StringIO()):
        true = coco()
        true.dataset = copy.deepcopy(document)
        true.createIndex()
        found = copy.deepcopy(results)
        for entry in found:
            if kind == "segm":
                entry["segmentation"] = true.annToRLE(entry)
                del entry["bbox"]
            else:
                del entry["segmentation"]
        evaluation = run(true, true.loadRes(found), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [None if value == -1 else float(value) for value in evaluation.stats]


def gaps(count: int) -> list[float]:
    """The largest difference of each case; what exists for one side only is 1."""
    rng = numpy.random.default_rng(0)
    found = []
    for number in range(count):
        document, results = random_case(rng)
        kind: detection.Kind = "segm" if number % 2 else "bbox"
        if results:  # pycocotools cannot read an empty list
            ours = detection.coco_ap(document, results, kind)
            pairs = zip((ours[name] for name in NAMES), theirs(document, results, kind), strict=True)
            found.append(max(float(a is not b) if a is None or b is None else abs(a - b) for a, b in pairs))
    return found


@pytest.mark.parametrize("count", [100, pytest.param(1100, marks=pytest.mark.slow)])
def test_equal_to_pycocotools(count: int) -> None:
    found = gaps(count)
    assert len(found) > 0.9 * count
    assert max(found) < 1e-6


def test_a_wrong_threshold_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "THRESHOLDS", numpy.linspace(0.52, 0.97, 10))
    assert max(gaps(30)) > 1e-3


def test_order_never_changes_a_figure() -> None:
    """Neither of entries, where scores are equal too, nor of images and classes."""
    generator, rng = numpy.random.default_rng(5), random.Random(5)
    for _ in range(50):
        document, results = random_case(generator)
        for entry in results:
            entry["score"] = round(entry["score"], 1)
        turned = {name: rng.sample(values, len(values)) for name, values in document.items()}
        for kind in ("bbox", "segm"):
            again = detection.coco_ap(turned, rng.sample(results, len(results)), kind)
            assert again == detection.coco_ap(document, results, kind)


def test_nothing_is_printed_or_changed(capsys: pytest.CaptureFixture[str]) -> None:
    document, results = random_case(numpy.random.default_rng(2))
    before = copy.deepcopy((document, results))
    detection.coco_ap(document, results, "segm")
    assert (document, results) == before
    assert capsys.readouterr() == ("", "")


# LVIS


def federated(**image: list[int]) -> Document:
    document = truth((1, 1, BOX))
    document["images"][0] |= {"neg_category_ids": [], "not_exhaustive_category_ids": [], **image}
    document["images"].append({"id": 2, "width": 100, "height": 100, "neg_category_ids": [1]})
    return document


def test_lvis_counts_only_classes_that_were_looked_for() -> None:
    assert detection.is_federated(federated())
    assert not detection.is_federated(truth())
    right = result(1, 1, BOX, 0.5)
    dog = result(1, 2, OTHER, 0.9)
    assert detection.lvis_ap(federated(), [right, dog])["AP"] == pytest.approx(1)
    # a cat in an image that is known to have none is wrong; in one where nobody looked it is nothing
    elsewhere = result(2, 1, BOX, 0.9)
    assert detection.lvis_ap(federated(), [right, elsewhere])["AP"] == pytest.approx(0.5)
    unknown = federated()
    unknown["images"][1]["neg_category_ids"] = []
    assert detection.lvis_ap(unknown, [right, elsewhere])["AP"] == pytest.approx(1)
    # one cat too many, where cats were not marked to the end
    surplus = [right, result(1, 1, OTHER, 0.9)]
    assert detection.lvis_ap(federated(), surplus)["AP"] == pytest.approx(0.5)
    assert detection.lvis_ap(federated(not_exhaustive_category_ids=[1]), surplus)["AP"] == pytest.approx(1)


def test_lvis_figures() -> None:
    document = federated()
    for category, frequency in zip(document["categories"], "rf", strict=True):
        category["frequency"] = frequency
    figures = detection.lvis_ap(document, [result(1, 1, BOX, 0.5)])
    assert (figures["APr"], figures["AR300"]) == pytest.approx((1, 1))
    assert figures["APc"] is figures["APf"] is None
    many = [result(1, 1, (50.0, 50.0, 5.0, 5.0 + n / 100), 0.9) for n in range(300)]
    assert detection.lvis_ap(document, [*many[:299], result(1, 1, BOX, 0.5)])["AR300"] == pytest.approx(1)
    assert detection.lvis_ap(document, [*many, result(1, 1, BOX, 0.5)])["AR300"] == 0


def test_lvis_of_an_exhaustive_truth_is_coco() -> None:
    rng = numpy.random.default_rng(3)
    for _ in range(100):
        document, results = random_case(rng)
        expected = detection.coco_ap(document, results)
        for image in document["images"]:
            image["neg_category_ids"] = [1, 2]
        figures = detection.lvis_ap(document, results)
        assert {name: figures[name] for name in NAMES if name in figures} == {
            name: expected[name] for name in NAMES if name in figures
        }
        assert figures["AR300"] == expected["AR100"]


# Masks and mistakes


def test_forms_of_masks() -> None:
    square = numpy.zeros((100, 100), dtype=bool)
    square[10:50, 10:50] = True
    polygon = [[10.0, 10.0, 50.0, 10.0, 50.0, 50.0, 10.0, 50.0]]
    runs = [10 * 100 + 10, *([40, 60] * 39), 40, 50 * 100 + 50]
    compressed = masks.run_lengths(square, (100, 100), "it")
    text = {"size": [100, 100], "counts": compressed["counts"].decode()}
    document = truth((1, 1, BOX))
    document["annotations"][0]["segmentation"] = polygon
    for form in (polygon, {"size": [100, 100], "counts": runs}, text, compressed):
        found = [{"image_id": 1, "category_id": 1, "segmentation": form, "score": 1.0}]
        assert detection.coco_ap(document, found, "segm")["AP"] == pytest.approx(1)
        assert detection.coco_ap(document, found, "bbox")["AP"] == pytest.approx(1)  # the box around it
    assert (masks.fill([tuple(polygon[0])], (100, 100)) == square).all()
    assert not masks.fill([(1.0, 1.0, 5.0, 5.0)], (100, 100)).any()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_id": 7}, "result 0 is of image 7, which the truth does not list"),
        ({"category_id": 7}, "result 0 is of category 7"),
        ({"bbox": [1, 2, 3]}, "the bbox of result 0"),
        ({"bbox": [1, 2, -3, 4]}, "expected \\(x, y, width, height\\)"),
        ({"score": None}, "the score of result 0 is None"),
        ({"score": float("nan")}, "the score of result 0 is nan"),
    ],
)
def test_broken_results_are_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        detection.coco_ap(truth((1, 1, BOX)), [{**result(1, 1, BOX, 0.5), **change}])


def test_broken_truth_is_named() -> None:
    good = truth((1, 1, BOX))
    for document, words in (
        ({}, "no list of images"),
        ({**good, "images": []}, "lists no images"),
        ({**good, "images": good["images"] * 2}, "image 1 of the truth has the id 1, as another"),
        ({**good, "images": [{"id": 1, "width": "x", "height": 5}]}, "the width of image 0 of the truth is 'x'"),
        ({**good, "categories": [{"id": 1}]}, "the name of category 0"),
        ({**good, "annotations": [{"image_id": 1, "category_id": 1}]}, "annotation 0 of the truth has no bbox"),
    ):
        with pytest.raises(DataError, match=words):
            detection.coco_ap(document, [])
    unnamed = [{"image_id": 1, "category_name": "cow", "bbox": list(BOX), "score": 1.0}]
    with pytest.raises(DataError, match="'cow', which is no category"):
        detection.coco_ap(good, unnamed)


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        ({"size": [100, 100], "counts": "0Z"}, "do not cover"),
        ({"size": [100, 100], "counts": "\x00"}, "do not cover"),
        ({"size": [100], "counts": "0"}, "expected \\[height, width\\]"),
        ({"size": [50, 50], "counts": [0, 2500]}, "is 50 x 50, its image 100 x 100"),
        ([[1, 2, 3]], "expected x, y, x, y"),
        (5, "expected polygons"),
    ],
)
def test_broken_masks_are_named(segmentation: Any, words: str) -> None:
    found = [{"image_id": 1, "category_id": 1, "segmentation": segmentation, "score": 1.0}]
    document = truth((1, 1, BOX))
    document["annotations"][0]["segmentation"] = [[10.0, 10.0, 50.0, 10.0, 50.0, 50.0]]
    with pytest.raises(DataError, match=words):
        detection.coco_ap(document, found, "segm")


def test_runs_are_checked_as_pycocotools_writes_them() -> None:
    rng = numpy.random.default_rng(0)
    for _ in range(300):
        height, width = rng.integers(1, 60, 2)
        mask = rng.random((height, width)) < rng.choice([0.01, 0.5, 0.99, 1.0])
        known = masks.run_lengths(mask, (int(width), int(height)), "it")
        assert masks.run_lengths(dict(known), (int(width), int(height)), "it") == known
        with pytest.raises(DataError):
            masks.run_lengths({**known, "size": [int(height) + 1, int(width)]}, None, "it")
