"""Samples and answers → figures, and what they are made of.

    measure("detection", samples, answers).figures["AP"]

    caption          several references               CIDEr, BLEU1 to BLEU4, ROUGEL
    detection        labels must be equal             COCO's AP and AR
    proposals        boxes, whatever their labels     the same
    closed           detection of asked labels        the same, and absent-boxes: false boxes per absent class asked for
    grounding        phrases with boxes               accuracy (R@1, any box), R@5, R@10, merged-accuracy, mAP
    segmentation     one outline                      mIoU, cIoU, Pr@0.5 ...
    vqa              answers of people                accuracy, EM, ANLS, Levenshtein
    category         one name                         accuracy, F1, macroF1
    reading          a text                           accuracy, accuracy-nocase, CER, WER
    spotting         texts with quads                 F1, precision, recall of found and read, det-F1 ... of found

Every figure is the one of ``metrics``; each comes as a function of how often each sample counts as well, so that its
uncertainty can be drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from florence2.errors import DataError
from florence2.evaluation.measures import boxes, shapes, texts
from florence2.evaluation.outcomes import Measured
from florence2.evaluation.samples import Sample
from florence2.language import tasks
from florence2.results import Answer

MEASURES: dict[str, Callable[..., Measured]] = {
    "caption": texts.caption,
    "detection": boxes.detection,
    "proposals": boxes.proposals,
    "closed": boxes.closed,
    "grounding": boxes.grounding,
    "segmentation": shapes.segmentation,
    "vqa": texts.vqa,
    "category": texts.category,
    "reading": texts.reading,
    "spotting": shapes.spotting,
}
_SINGLE = frozenset(("detection", "proposals", "closed", "grounding", "segmentation", "reading", "spotting"))
"""Measures that know one right answer."""


def measure(name: str, samples: Sequence[Sample], answers: Sequence[Answer]) -> Measured:
    """``answers[i]`` was given where ``samples[i].truth`` is right. The order of the samples never matters.

    Answers of another size than their truth are compared at the size of the truth. Figures that do not exist (AP
    without a single true box) are None.

    Raises DataError where there is nothing to measure, an answer is of the wrong kind, or several are right where only
    one can be; MissingDependencyError without florence2[eval].
    """
    if name not in MEASURES:
        raise DataError(f"there is no measure {name!r}; known are {', '.join(MEASURES)}")
    if len(samples) != len(answers):
        raise DataError(f"{len(answers)} answers to {len(samples)} samples; expected one for each")
    if not samples:
        raise DataError("there are no answers to score; give at least one")
    fitted = []
    for number, (sample, answer) in enumerate(zip(samples, answers, strict=True)):
        known = tasks.get(sample.task)
        if not sample.truth:
            raise DataError(f"sample {number} of {known.name} has no true answer; give at least one")
        for given in (answer, *sample.truth):
            if not isinstance(given, known.result):
                found, expected = type(given).__name__, known.result.__name__
                raise DataError(f"sample {number} of {known.name} holds a {found}, expected a {expected}")
        if name in _SINGLE and len(sample.truth) > 1:
            raise DataError(f"sample {number} has {len(sample.truth)} true answers; {known.name} is scored by one")
        right = sample.truth[0]
        same = (answer.width, answer.height) == (right.width, right.height)
        fitted.append(answer if same else answer.resized(right.width, right.height))
    return MEASURES[name](list(samples), fitted)
