"""Typed answers beside true ones → the metrics of their task, over a whole data set.

What a trainer calls after an epoch. Each task has the metrics that its papers print; what is compared is the typed
result, so that every model and every data set passes through the same few lines (``measures``).
"""

from __future__ import annotations

from collections.abc import Sequence

from florence2.data.records import Record
from florence2.errors import DataError
from florence2.evaluation.measures import measure
from florence2.evaluation.samples import Sample
from florence2.language import tasks
from florence2.results import Answer, Detections, Segments, Text, TextRegions

AP = ("AP", "AP50", "AP75", "AR100")
CAPTIONS = ("caption", ("CIDEr", "BLEU4", "ROUGEL"))
READING = ("reading", ("accuracy", "CER", "WER"))
_BY_TASK: dict[str, tuple[str, tuple[str, ...]]] = {
    "<CAPTION>": CAPTIONS,
    "<DETAILED_CAPTION>": CAPTIONS,
    "<MORE_DETAILED_CAPTION>": CAPTIONS,
    "<REGION_TO_DESCRIPTION>": CAPTIONS,
    "<REGION_PROPOSAL>": ("proposals", AP),
    "<DENSE_REGION_CAPTION>": ("proposals", AP),
    "<CAPTION_TO_PHRASE_GROUNDING>": ("grounding", ("accuracy",)),
    "<REGION_TO_CATEGORY>": ("category", ("accuracy",)),
    "<OCR>": READING,
    "<REGION_TO_OCR>": READING,
}
_BY_TYPE: dict[type[Answer], tuple[str, tuple[str, ...]]] = {
    Text: ("vqa", ("accuracy", "ANLS")),
    Detections: ("detection", AP),
    Segments: ("segmentation", ("mIoU", "cIoU")),
    TextRegions: ("spotting", ("F1", "precision", "recall", "det-F1")),
}


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
    samples = []
    for number, right in enumerate(truth):
        several = (right,) if isinstance(right, Answer) else tuple(right)
        size = (several[0].width, several[0].height) if several and isinstance(several[0], Answer) else (0, 0)
        record = Record(image=None, id=str(number), width=size[0], height=size[1])
        samples.append(Sample(id=str(number), record=record, task=known.name, truth=several))
    name, shown = _BY_TASK.get(known.name) or _BY_TYPE[known.result]
    figures = measure(name, samples, predicted).figures
    return {key: value for key in shown if (value := figures.get(key)) is not None}
