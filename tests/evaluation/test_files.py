"""Files of predictions beside files of truth."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from florence2.errors import DataError, TaskError
from florence2.evaluation import files, score

Lines = list[dict[str, Any]]


def write(path: Path, lines: Lines | dict[str, Any]) -> Path:
    if isinstance(lines, dict) or path.suffix == ".json":
        path.write_text(json.dumps(lines), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def scored(folder: Path, predictions: Any, truth: Any, task: str, tokenized: bool = False) -> dict[str, float | None]:
    suffix = "json" if task in ("detection", "segmentation") else "jsonl"
    given, right = write(folder / f"predictions.{suffix}", predictions), write(folder / f"truth.{suffix}", truth)
    return score(given, right, task, tokenized)


QUAD = [0, 0, 10, 0, 10, 10, 0, 10]
FAR = [50, 0, 60, 0, 60, 10, 50, 10]
CASES: dict[str, tuple[str, Lines, Lines, dict[str, float]]] = {
    "caption": (
        "caption",
        [{"id": 1, "text": "A cat sits."}, {"id": 2, "text": "Two dogs run fast"}],
        [{"id": 2, "references": ["two dogs run fast!"]}, {"id": 1, "references": ["a cat sits", "an animal"]}],
        {"CIDEr": 10 * (3 / 8 + 1) / 2, "BLEU1": 1, "BLEU4": 1, "ROUGEL": 1},
    ),
    "classification": (
        "classification",
        [{"id": "a", "label": "cat"}, {"id": "b", "label": "dog"}],
        [{"id": "a", "label": "cat"}, {"id": "b", "label": "cow"}],
        {"accuracy": 0.5, "F1": 0.5, "macroF1": 1 / 3},
    ),
    "vqa": (
        "vqa",
        [{"id": 1, "answer": "Two."}, {"id": 2, "answer": "a red car"}],
        [{"id": 1, "answers": ["2"] * 3 + ["many"] * 7}, {"id": 2, "answers": ["a red cat"]}],
        {"accuracy": 0.45, "EM": 0.5, "ANLS": 8 / 9 / 2},
    ),
    "text": (
        "ocr",
        [{"id": 1, "text": "STQP"}, {"id": 2, "text": "go"}],
        [{"id": 1, "text": "STOP"}, {"id": 2, "text": "GO"}],
        {"CER": 3 / 6, "WER": 1, "accuracy": 0, "accuracy-nocase": 0.5},
    ),
    "regions": (
        "ocr",
        [{"id": 1, "regions": [{"text": "stop", "quad": QUAD}, {"text": "?", "quad": FAR}]}],
        [{"id": 1, "regions": [{"text": "STOP", "quad": QUAD}, {"text": "###", "quad": FAR}]}],
        {"precision": 1, "recall": 1, "F1": 1, "det-F1": 1},
    ),
    "text and regions": (
        "ocr",
        [{"id": 1, "text": "a", "regions": []}],
        [{"id": 1, "text": "a", "regions": [{"text": "a", "quad": QUAD}, {"quad": FAR, "illegible": True}]}],
        {"CER": 0, "recall": 0},
    ),
    "grounding": (
        "grounding",
        [
            {"id": 1, "boxes": [[50, 0, 60, 10], [0, 0, 10, 10]], "scores": [0.1, 0.9]},
            {"id": 2, "boxes": [], "scores": []},
        ],
        [{"id": 1, "boxes": [[0, 0, 10, 10]]}, {"id": 2, "boxes": [[0, 0, 10, 10]]}],
        {"accuracy": 0.5, "R@1": 0.5, "R@10": 0.5, "merged-R@1": 0.5, "AP50": 51 / 101},
    ),
    "grounding without scores": (
        "grounding",
        [{"id": 1, "boxes": [[50, 0, 60, 10], [0, 0, 10, 10]]}],
        [{"id": 1, "boxes": [[0, 0, 10, 10]]}],
        {"accuracy": 0, "R@5": 1},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_by_hand(name: str, tmp_path: Path) -> None:
    task, predictions, truth, expected = CASES[name]
    figures = scored(tmp_path, predictions, truth, task)
    assert {key: figures[key] for key in expected} == pytest.approx(expected)


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_prediction_is_noticed(name: str, tmp_path: Path) -> None:
    task, predictions, truth, expected = CASES[name]
    empty = {"text": "", "label": "", "answer": "", "boxes": [], "scores": [], "regions": [], "id": 0}
    silent = [{key: entry["id"] if key == "id" else empty[key] for key in entry} for entry in predictions]
    figures = scored(tmp_path, silent, truth, task)
    assert {key: figures[key] for key in expected} != pytest.approx(expected)
    missing = scored(tmp_path, [], truth, task)  # a sample without a prediction counts as an empty one
    assert {key: missing[key] for key in expected} == {key: figures[key] for key in expected}


@pytest.mark.parametrize("name", CASES)
def test_the_order_of_lines_does_not_matter(name: str, tmp_path: Path) -> None:
    task, predictions, truth, _ = CASES[name]
    expected = scored(tmp_path, predictions, truth, task)
    assert scored(tmp_path, predictions[::-1], truth[::-1], task) == expected


def test_tokenized_captions(tmp_path: Path) -> None:
    predictions, truth = [{"id": 1, "text": "a cat , here"}], [{"id": 1, "references": ["a cat here"]}]
    assert scored(tmp_path, predictions, truth, "caption")["BLEU1"] == pytest.approx(1)
    assert scored(tmp_path, predictions, truth, "caption", tokenized=True)["BLEU1"] == pytest.approx(0.75)
    with pytest.raises(DataError, match="tokenized texts are for captions, the task is vqa"):
        files.score("a", "b", "vqa", tokenized=True)


def test_missing_predictions_are_named(tmp_path: Path) -> None:
    _, predictions, truth, _ = CASES["vqa"]
    given, right = write(tmp_path / "p.jsonl", predictions[:1]), write(tmp_path / "t.jsonl", truth)
    outcome = files.compare(given, right, "vqa")
    assert (outcome.samples, outcome.missing) == (2, ("2",))


def test_ids_as_text_and_as_number_are_the_same(tmp_path: Path) -> None:
    truth = [{"id": 7, "label": "cat"}]
    assert scored(tmp_path, [{"id": "7", "label": "cat"}], truth, "classification")["accuracy"] == 1


LABELS = [{"id": n, "label": "cat"} for n in range(8)]


@pytest.mark.parametrize(
    ("predictions", "truth", "task", "words"),
    [
        (LABELS, LABELS[:1], "classification", r"7 predictions are of no sample .*: '1' \(.*:2\), .* and 2 more"),
        (LABELS[:2], LABELS[1:2], "classification", r"1 prediction is of no sample"),
        (LABELS[:2] * 2, LABELS, "classification", r"2 ids occur more than once: 0 \(.*:1 and .*:3\), 1 "),
        (LABELS, LABELS[:1] * 2, "classification", "1 id occurs more than once"),
        ([{"id": 0}], LABELS, "classification", r"predictions.jsonl:1 has no 'label'; it holds id"),
        ([{"label": "a"}], LABELS, "classification", r"predictions.jsonl:1 has no 'id'"),
        ([{"id": None, "label": "a"}], LABELS, "classification", "the id is None"),
        ([{"id": 0, "label": 5}], LABELS, "classification", "predictions.jsonl:1: label is 5, expected a text"),
        ([], [], "classification", "truth.jsonl holds no samples"),
        ([], [{"id": 1, "references": []}], "caption", "truth.jsonl:1: references is empty"),
        ([], [{"id": 1, "references": "a cat"}], "caption", "expected a list"),
        ([], [{"id": 1, "label": "a"}], "ocr", "truth.jsonl:1 has neither 'text' nor 'regions'"),
        ([], [{"id": 1, "regions": [{"text": "a", "quad": [1]}]}], "ocr", "has 1 numbers, expected the eight"),
        ([], [{"id": 1, "boxes": [[5, 0, 1, 1]]}], "grounding", r"truth.jsonl:1: boxes: the box .* is inverted"),
        (
            [{"id": 1, "boxes": [[0, 0, 1, 1]], "scores": []}],
            [{"id": 1, "boxes": []}],
            "grounding",
            "1 boxes and 0 scores",
        ),
    ],
)
def test_mistakes_are_named_with_file_and_line(
    predictions: Lines, truth: Lines, task: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=words):
        scored(tmp_path, predictions, truth, task)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    truth = write(tmp_path / "truth.jsonl", LABELS)
    (tmp_path / "broken.jsonl").write_text('{"id": 0, "label": "a"}\n\n{"id": \n')
    with pytest.raises(DataError, match=r"broken.jsonl:3 is no JSON"):
        score(tmp_path / "broken.jsonl", truth, "classification")
    with pytest.raises(DataError, match=r"nowhere.jsonl cannot be read"):
        score(tmp_path / "nowhere.jsonl", truth, "classification")
    with pytest.raises(TaskError, match="no metrics for 'poetry'; known are detection, segmentation, caption"):
        score(truth, truth, "poetry")


# COCO


def coco() -> dict[str, Any]:
    outline = [[10, 10, 50, 10, 50, 50, 10, 50]]
    annotation = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 10, 40, 40], "area": 1600, "iscrowd": 0}
    return {
        "images": [{"id": 1, "width": 100, "height": 80}, {"id": 2, "width": 50, "height": 50}],
        "annotations": [{**annotation, "segmentation": outline}],
        "categories": [{"id": 3, "name": "cat"}],
    }


def test_detection(tmp_path: Path) -> None:
    found = [{"image_id": 1, "category_id": 3, "bbox": [10, 10, 40, 40], "score": 0.5}]
    figures = scored(tmp_path, found, coco(), "detection")
    assert list(figures) == [
        *("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl", "AP-cat")
    ]
    assert (figures["AP"], figures["APm"], figures["APs"]) == (pytest.approx(1), pytest.approx(1), None)
    assert scored(tmp_path, [], coco(), "detection")["AP"] == 0


def test_segmentation(tmp_path: Path) -> None:
    found = [{"image_id": 1, "category_id": 3, "segmentation": [[10, 10, 50, 10, 50, 30, 10, 30]], "score": 0.5}]
    figures = scored(tmp_path, found, coco(), "segmentation")
    assert figures["mIoU"] == figures["cIoU"] == pytest.approx(0.5)
    assert (figures["Pr@0.5"], figures["Pr@0.6"]) == (1, 0)
    assert (figures["AP50"], figures["AP75"]) == (pytest.approx(1), 0)
    assert scored(tmp_path, [], coco(), "segmentation")["mIoU"] == 0


def test_federated_truth(tmp_path: Path) -> None:
    truth = coco()
    truth["categories"].append({"id": 4, "name": "dog"})
    for image in truth["images"]:
        image["neg_category_ids"] = [4]
    found = [{"image_id": 1, "category_id": 3, "bbox": [10, 10, 40, 40], "score": 0.5}]
    wrong = {"image_id": 2, "category_id": 3, "bbox": [1, 1, 9, 9], "score": 0.9}  # nobody looked for cats there
    assert scored(tmp_path, [*found, wrong], truth, "detection")["AP"] == pytest.approx(1)
    assert "AR300" in scored(tmp_path, found, truth, "detection")


def test_coco_mistakes_name_the_files(tmp_path: Path) -> None:
    for found, words in (
        ([{"image_id": 9, "category_id": 3, "bbox": [1, 1, 1, 1], "score": 1}], "result 0 is of image 9"),
        ({"annotations": []}, "expected a list"),
        ([5], "result 0 is a int"),
    ):
        with pytest.raises(DataError, match=words) as caught:
            scored(tmp_path, found, coco(), "detection")
        assert "predictions.json" in str(caught.value)
    with pytest.raises(DataError, match="no list of images"):
        scored(tmp_path, [], {"images": 5}, "detection")


def test_predictions_of_our_own(tmp_path: Path) -> None:
    """What ``Answer.to_coco`` writes can be scored as it is."""
    from florence2.results import Instance, Segments

    rng = random.Random(0)
    outline = tuple(float(rng.randrange(80)) for _ in range(12))
    cat = Instance(label="cat", polygons=(outline,))
    answer = Segments(task="<REGION_TO_SEGMENTATION>", width=100, height=80, instances=(cat,))
    truth = coco()
    truth["annotations"][0] |= {"segmentation": [list(outline)], "bbox": [0, 0, 80, 80]}
    assert scored(tmp_path, answer.to_coco(image_id=1), truth, "segmentation")["mIoU"] == 1
