"""Typed answers beside true ones → the metrics of their task, over a whole data set.

What a trainer calls after an epoch and a benchmark at its end. Each task has the metrics that its papers print; what is
compared is the typed result, so that every model and every data set passes through the same few lines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from florence2.errors import DataError
from florence2.evaluation.metrics import captions, classification, detection, grounding, masks, ocr, segmentation, vqa
from florence2.language import tasks
from florence2.results import Answer, Box, Detections, Polygon, Segments, Text, TextRegions

A = TypeVar("A", bound=Answer)
Figures = dict[str, "float | None"]


def score_answers(
    predicted: Sequence[Answer], truth: Sequence[Answer | Sequence[Answer]], task: str
) -> dict[str, float]:
    """The metrics of one task: ``predicted[i]`` is the answer that was given where ``truth[i]`` is right.

    Where several answers are right (captions of one photo, answers of several people), ``truth[i]`` is a sequence of
    them. The order of the samples never matters; two answers of different sizes are compared at the size of the truth.

        captions, descriptions                      CIDEr (0 to 10), BLEU4, ROUGEL
        <OD>, <OPEN_VOCABULARY_DETECTION>           AP, AP50, AP75, AR100: labels must be equal
        <REGION_PROPOSAL>, <DENSE_REGION_CAPTION>   the same of the boxes alone, whatever their labels
        <CAPTION_TO_PHRASE_GROUNDING>               accuracy: the best box of each true phrase, at IoU 0.5
        segmentation                                mIoU, cIoU
        <VQA>, <DocVQA>, <ASK>                      accuracy, ANLS
        <REGION_TO_CATEGORY>                        accuracy
        <OCR>, <REGION_TO_OCR>                      accuracy (the whole text), CER, WER
        <OCR_WITH_REGION>                           F1, precision, recall of regions found and read; det-F1

    Other tasks are scored by the type of their results: questions, detection, segmentation, regions of text. All
    figures are in [0, 1] but CIDEr and the error rates. A figure that does not exist (AP without a single true box) is
    left out, never -1 or 0.

    Raises DataError where there is nothing to score, the lengths differ, an answer is of the wrong type, or several
    are given to a task that has one; TaskError for an unknown task; MissingDependencyError without florence2[eval].
    """
    known = tasks.get(task)
    if len(predicted) != len(truth):
        raise DataError(f"{len(predicted)} answers were given and {len(truth)} are true; expected one truth for each")
    if not truth:
        raise DataError(f"there are no answers to {known.name} to score; give at least one")
    true = [[value] if isinstance(value, Answer) else list(value) for value in truth]
    for number, (answer, several) in enumerate(zip(predicted, true, strict=True)):
        if not several:
            raise DataError(f"sample {number} of {known.name} has no true answer; give at least one")
        for given in (answer, *several):
            if not isinstance(given, known.result):
                found, expected = type(given).__name__, known.result.__name__
                raise DataError(f"sample {number} of {known.name} holds a {found}, expected a {expected}")
    scorer = _SCORERS.get(known.name) or _BY_TYPE[known.result]
    figures = scorer(list(predicted), true)
    return {name: value for name, value in figures.items() if value is not None}


Scorer = Callable[[list[Any], list[list[Any]]], Figures]


def _captions(predicted: list[Text], truth: list[list[Text]]) -> Figures:
    figures = captions.score([answer.text for answer in predicted], _texts(truth))
    return {name: figures[name] for name in ("CIDEr", "BLEU4", "ROUGEL")}


def _questions(predicted: list[Text], truth: list[list[Text]]) -> Figures:
    figures = vqa.score([answer.text for answer in predicted], _texts(truth))
    return {name: figures[name] for name in ("accuracy", "ANLS")}


def _categories(predicted: list[Text], truth: list[list[Text]]) -> Figures:
    ranked = [[answer.text] for answer in predicted]
    return {"accuracy": classification.top_k(ranked, _texts(truth))}


def _reading(predicted: list[Text], truth: list[list[Text]]) -> Figures:
    figures = ocr.score([answer.text for answer in predicted], [answer.text for answer in _single(truth)])
    return {name: figures[name] for name in ("accuracy", "CER", "WER")}


def _regions(predicted: list[TextRegions], truth: list[list[TextRegions]]) -> Figures:
    true = _single(truth)
    found = [_at_size_of(t, p).regions for p, t in zip(predicted, true, strict=True)]
    figures = ocr.spotting(found, [answer.regions for answer in true])
    return {name: figures[name] for name in ("F1", "precision", "recall", "det-F1")}


def _objects(predicted: list[Detections], truth: list[list[Detections]]) -> Figures:
    return _average_precision(predicted, _single(truth), named=True)


def _boxes(predicted: list[Detections], truth: list[list[Detections]]) -> Figures:
    return _average_precision(predicted, _single(truth), named=False)


def _phrases(predicted: list[Detections], truth: list[list[Detections]]) -> Figures:
    found: list[list[Box]] = []
    true: list[list[Box]] = []
    for answer, right in zip(predicted, _single(truth), strict=True):
        objects = _at_size_of(right, answer).objects
        phrases = list(dict.fromkeys(_folded(item.label) for item in right.objects))
        for phrase in phrases:
            # the model names a part of a single expression ("a man" of "a man in red"): all its boxes are meant for it
            mine = [item for item in objects if len(phrases) == 1 or _folded(item.label) == phrase]
            found += grounding.rank([[item.box for item in mine]], [[item.score for item in mine]])
            true.append([item.box for item in right.objects if _folded(item.label) == phrase])
    return {"accuracy": grounding.accuracy(found, true) if true else None}


def _outlines(predicted: list[Segments], truth: list[list[Segments]]) -> Figures:
    counts = []
    for answer, right in zip(predicted, _single(truth), strict=True):
        size = (right.width, right.height)
        mine, true = (masks.fill(_polygons(a), size) for a in (_at_size_of(right, answer), right))
        counts.append(segmentation.count(mine, true))
    figures = segmentation.score_counts(counts)
    return {name: figures[name] for name in ("mIoU", "cIoU")}


_SCORERS: dict[str, Scorer] = {
    "<CAPTION>": _captions,
    "<DETAILED_CAPTION>": _captions,
    "<MORE_DETAILED_CAPTION>": _captions,
    "<REGION_TO_DESCRIPTION>": _captions,
    "<REGION_PROPOSAL>": _boxes,
    "<DENSE_REGION_CAPTION>": _boxes,
    "<CAPTION_TO_PHRASE_GROUNDING>": _phrases,
    "<REGION_TO_CATEGORY>": _categories,
    "<OCR>": _reading,
    "<REGION_TO_OCR>": _reading,
}
_BY_TYPE: dict[type[Answer], Scorer] = {
    Text: _questions,
    Detections: _objects,
    Segments: _outlines,
    TextRegions: _regions,
}


def _texts(truth: list[list[Text]]) -> list[list[str]]:
    return [[answer.text for answer in several] for several in truth]


def _single(truth: list[list[A]]) -> list[A]:
    for number, several in enumerate(truth):
        if len(several) > 1:
            raise DataError(f"sample {number} has {len(several)} true answers; {several[0].task} is scored by one")
    return [several[0] for several in truth]


def _at_size_of(right: A, answer: A) -> A:
    same = (answer.width, answer.height) == (right.width, right.height)
    return answer if same else answer.resized(right.width, right.height)


def _polygons(answer: Segments) -> list[Polygon]:
    return [polygon for instance in answer.instances for polygon in instance.polygons]


def _folded(label: str) -> str:
    return label.strip().casefold()


def _average_precision(predicted: list[Detections], truth: list[Detections], named: bool) -> Figures:
    """COCO's AP. Objects of classes that no truth has change nothing: their AP does not exist."""
    numbers = {
        name: n for n, name in enumerate(sorted({item.label if named else "" for t in truth for item in t.objects}))
    }
    document: dict[str, Any] = {
        "images": [{"id": n, "width": t.width, "height": t.height} for n, t in enumerate(truth)],
        "categories": [{"id": n, "name": name} for name, n in numbers.items()],
        "annotations": [],
    }
    results = []
    for number, (answer, right) in enumerate(zip(predicted, truth, strict=True)):
        for item in right.objects:
            entry = {"image_id": number, "category_id": numbers[item.label if named else ""], "bbox": _sides(item.box)}
            document["annotations"].append(entry)
        for item in _at_size_of(right, answer).objects:
            label = item.label if named else ""
            if label in numbers:
                entry = {"image_id": number, "category_id": numbers[label], "bbox": _sides(item.box)}
                results.append({**entry, "score": item.score})
    figures = detection.coco_ap(document, results) if numbers else {}
    return {name: figures.get(name) for name in ("AP", "AP50", "AP75", "AR100")}


def _sides(box: Box) -> list[float]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]
