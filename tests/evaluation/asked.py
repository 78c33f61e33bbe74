"""Samples and answers to test measures with: by hand in a line, or drawn by seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from florence2.data.records import Record
from florence2.evaluation.measures import measure
from florence2.evaluation.outcomes import Measured
from florence2.evaluation.samples import Sample
from florence2.results import Answer, Box, Detections, Instance, Object, Polygon, Segments, Text, TextRegion
from florence2.results import TextRegions as Regions

WIDTH, HEIGHT = 128, 96
TASKS = {
    "caption": "<CAPTION>",
    "detection": "<OD>",
    "proposals": "<REGION_PROPOSAL>",
    "closed": "<OPEN_VOCABULARY_DETECTION>",
    "grounding": "<CAPTION_TO_PHRASE_GROUNDING>",
    "segmentation": "<REFERRING_EXPRESSION_SEGMENTATION>",
    "vqa": "<VQA>",
    "category": "<REGION_TO_CATEGORY>",
    "reading": "<OCR>",
    "spotting": "<OCR_WITH_REGION>",
}


@dataclass(frozen=True)
class Asked:
    """What a measure is given."""

    measure: str
    samples: tuple[Sample, ...]
    answers: tuple[Answer, ...]

    def measured(self) -> Measured:
        return measure(self.measure, self.samples, self.answers)

    def only(self, numbers: Sequence[int]) -> Asked:
        """These samples in this order; one that is named again is a sample of its own."""
        samples = [replace(self.samples[n], id=f"{self.samples[n].id}/{place}") for place, n in enumerate(numbers)]
        return Asked(self.measure, tuple(samples), tuple(self.answers[n] for n in numbers))


def text(measure: str, words: str, score: float = 1.0) -> Text:
    return Text(task=TASKS[measure], width=WIDTH, height=HEIGHT, text=words, confidence=score)


def found(measure: str, *objects: tuple[str, Box] | tuple[str, Box, float]) -> Detections:
    made = tuple(Object(label=o[0], box=o[1], score=o[2] if len(o) > 2 else 1.0) for o in objects)  # type: ignore[misc]
    return Detections(task=TASKS[measure], width=WIDTH, height=HEIGHT, objects=made)


def outline(*polygons: Polygon, score: float = 1.0) -> Segments:
    made = tuple(Instance(label="", polygons=(polygon,), score=score) for polygon in polygons)
    return Segments(task=TASKS["segmentation"], width=WIDTH, height=HEIGHT, instances=made)


def read(*words: tuple[str, Box] | tuple[str, Box, float]) -> Regions:
    made = tuple(TextRegion(text=w[0], quad=corners(w[1]), score=w[2] if len(w) > 2 else 1.0) for w in words)  # type: ignore[misc]
    return Regions(task=TASKS["spotting"], width=WIDTH, height=HEIGHT, regions=made)


def corners(box: Box) -> Any:
    x0, y0, x1, y1 = box
    return (x0, y0, x1, y0, x1, y1, x0, y1)


def asked(measure: str, *pairs: tuple[Answer | Sequence[Answer], Answer], **fields: Any) -> Asked:
    """(truth, answer) of each sample, a photo each; ``fields`` of all samples."""
    samples = tuple(sample(measure, n, truth, **fields) for n, (truth, _) in enumerate(pairs))
    return Asked(measure, samples, tuple(answer for _, answer in pairs))


def sample(measure: str, number: int, truth: Answer | Sequence[Answer], photo: str = "", **fields: Any) -> Sample:
    several = (truth,) if isinstance(truth, Answer) else tuple(truth)
    record = Record(image=None, id=photo or f"photo{number}", width=WIDTH, height=HEIGHT)
    return Sample(id=f"{record.id}#{number}", record=record, task=TASKS[measure], truth=several, **fields)


# By seed

CLASSES = ("cat", "dog", "cow", "vélo")
WORDS = ("a", "the", "man", "dog", "red", "runs", "sits", "on", "grass", "with", "two", "hat", "café", "犬", "it's")


Scores = Literal["apart", "few", "one"]
"""No two are equal; no two of a sample are, but some of different samples; all are 1, as of models that have none."""


def drawn(measure: str, count: int, seed: int, scores: Scores = "apart", right: bool = False) -> Asked:
    """Answers that are mostly near the truth, or the first true answers."""
    lot = random.Random(f"{measure} {seed}")
    samples, answers = [], []
    for number in range(count):
        truth, answer, fields = _DRAW[measure](lot)
        several = (truth,) if isinstance(truth, Answer) else truth
        photo = f"photo{number * 2 // 3}"  # one or two samples each
        samples.append(sample(measure, number, several, photo=photo, **fields))
        answer = several[0] if right else answer
        answer = replace(answer, confidence=1.0 if scores == "one" else lot.random())
        answer = answer if right else _scored(answer, lot, scores)
        answers.append(answer.resized(WIDTH // 2, HEIGHT * 4) if lot.random() < 0.2 else answer)
    return Asked(measure, tuple(samples), tuple(answers))


def _scored(answer: Answer, lot: random.Random, scores: Scores) -> Answer:
    if answer.items_field is None:
        return answer
    items = getattr(answer, answer.items_field)
    values = {
        "apart": [lot.random() for _ in items],
        "few": [n / 30 for n in lot.sample(range(30), len(items))],
        "one": [1.0] * len(items),
    }[scores]
    changes: dict[str, Any] = {
        answer.items_field: tuple(replace(item, score=score) for item, score in zip(items, values, strict=True))
    }
    return replace(answer, **changes)


def _box(lot: random.Random) -> Box:
    x, y = lot.uniform(0, 90), lot.uniform(0, 60)
    return (x, y, x + lot.uniform(4, 38), y + lot.uniform(4, 36))


def _near(box: Box, lot: random.Random) -> Box:
    if lot.random() < 0.3:
        return box
    x0, y0, x1, y1 = (v + lot.uniform(-4, 4) for v in box)
    return (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))


def _boxes(measure: str) -> Callable[[random.Random], tuple[Answer, Answer, dict[str, Any]]]:
    def draw(lot: random.Random) -> tuple[Answer, Answer, dict[str, Any]]:
        true = [(lot.choice(CLASSES[:3]), _box(lot)) for _ in range(lot.choice((0, 1, 2, 5)))]
        said = [(label if lot.random() < 0.8 else "cow", _near(box, lot)) for label, box in true if lot.random() < 0.8]
        said += [(lot.choice(CLASSES), _box(lot)) for _ in range(lot.choice((0, 0, 1, 3)))]
        crowds = tuple(Object(label=lot.choice(CLASSES), box=_box(lot)) for _ in range(lot.choice((0, 0, 1))))
        fields: dict[str, Any] = {"ignored": crowds}
        if lot.random() < 0.5:
            fields["areas"] = tuple(lot.uniform(1, 10000) for _ in true)
        if measure == "closed":
            fields["given"] = (*sorted({label for label, _ in true}), *(c for c in CLASSES[2:] if lot.random() < 0.5))
        return found(measure, *true), found(measure, *said), fields

    return draw


def _phrases(lot: random.Random) -> tuple[Answer, Answer, dict[str, Any]]:
    names = lot.sample(("a man", "A red hat", "grass", "deux vélos"), lot.choice((1, 1, 2, 3)))
    true = [(name, _box(lot)) for name in names for _ in range(lot.choice((1, 1, 2)))]
    said = [(lot.choice((label, label.upper(), "no")), _near(box, lot)) for label, box in true if lot.random() < 0.9]
    said += [(lot.choice(names), _box(lot)) for _ in range(lot.choice((0, 1, 12)))]
    lot.shuffle(said)
    truth = found("grounding", *(true if lot.random() < 0.95 else []))
    return truth, found("grounding", *said), {"given": ", ".join(names)}


def _outlines(lot: random.Random) -> tuple[Answer, Answer, dict[str, Any]]:
    true = [_box(lot) for _ in range(lot.choice((0, 1, 1, 2)))]
    said = [_near(box, lot) for box in true if lot.random() < 0.9]
    return outline(*map(corners, true)), outline(*map(corners, said)), {"given": "something"}


def sentence(lot: random.Random, most: int = 9) -> str:
    return " ".join(lot.choices(WORDS, k=lot.randint(1, most)))


def _altered(words: str, lot: random.Random) -> str:
    parts = [lot.choice(WORDS) if lot.random() < 0.2 else word for word in words.split()]
    return " ".join(parts[: lot.randint(0, 12)])


def _captions(lot: random.Random) -> tuple[Sequence[Answer], Answer, dict[str, Any]]:
    true = [sentence(lot) for _ in range(lot.randint(1, 4))]
    return [text("caption", t) for t in true], text("caption", _altered(lot.choice(true), lot)), {}


def _answers(lot: random.Random) -> tuple[Sequence[Answer], Answer, dict[str, Any]]:
    true = [sentence(lot, 2) for _ in range(lot.choice((1, 3)))] + [sentence(lot, 1)] * lot.choice((0, 2, 7))
    return [text("vqa", t) for t in true], text("vqa", _altered(lot.choice(true), lot)), {"given": "what?"}


def _names(lot: random.Random) -> tuple[Sequence[Answer], Answer, dict[str, Any]]:
    true = lot.sample(CLASSES, lot.choice((1, 1, 1, 2)))
    said = lot.choice((true[0], true[-1], lot.choice(CLASSES), "", "Cat"))
    return [text("category", t) for t in true], text("category", said), {"given": (1.0, 2.0, 30.0, 40.0)}


def _readings(lot: random.Random) -> tuple[Answer, Answer, dict[str, Any]]:
    true = sentence(lot, 4) if lot.random() < 0.95 else ""
    said = lot.choice((true, true.upper(), f" {true} ", _altered(true, lot), ""))
    return text("reading", true), text("reading", said), {}


def _spots(lot: random.Random) -> tuple[Answer, Answer, dict[str, Any]]:
    true = [(lot.choice(WORDS), _box(lot)) for _ in range(lot.choice((0, 1, 3)))]
    said = [(word.upper() if lot.random() < 0.8 else "?", _near(box, lot)) for word, box in true if lot.random() < 0.9]
    said += [(lot.choice(WORDS), _box(lot)) for _ in range(lot.choice((0, 1)))]
    fields = {"illegible": tuple(corners(_box(lot)) for _ in range(lot.choice((0, 1))))}
    return read(*true), read(*said), fields


_DRAW: dict[str, Callable[[random.Random], tuple[Answer | Sequence[Answer], Answer, dict[str, Any]]]] = {
    "caption": _captions,
    "detection": _boxes("detection"),
    "proposals": _boxes("proposals"),
    "closed": _boxes("closed"),
    "grounding": _phrases,
    "segmentation": _outlines,
    "vqa": _answers,
    "category": _names,
    "reading": _readings,
    "spotting": _spots,
}
