"""Files of predictions beside files of truth → the figures that the field prints.

detection, segmentation   COCO results JSON, COCO ground-truth JSON
caption                   {"id", "text"}                            {"id", "references": [...]}
classification            {"id", "label"}                           {"id", "label"}
vqa                       {"id", "answer"}                          {"id", "answers": [...]}
ocr                       {"id", "text"}                            {"id", "text"}
                          {"id", "regions": [{"text", "quad"}]}     the same; "illegible": true, or the text "###"
grounding                 {"id", "boxes", "scores"}                 {"id", "boxes"}

The latter are JSON lines; boxes are (x0, y0, x1, y1), quads eight numbers. Other fields are left alone. A sample
without a prediction counts as an empty one; a prediction of no sample and an id that occurs twice are errors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from florence2.data import fields
from florence2.errors import DataError, TaskError
from florence2.evaluation.metrics import captions, classification, detection, grounding, ocr, segmentation, vqa
from florence2.results import Box, Quad, TextRegion

Figures = dict[str, "float | None"]


@dataclass(frozen=True)
class Scored:
    figures: Figures
    samples: int
    """In the truth: lines, or images."""
    missing: tuple[str, ...] = ()
    """Ids of samples without a prediction; they counted as empty ones."""


def score(predictions: str | Path, truth: str | Path, task: str, tokenized: bool = False) -> dict[str, float | None]:
    """The figures of a task by their names in the field; None where one does not exist, as APs without small objects.

    ``task`` is detection, segmentation, caption, grounding, classification, vqa or ocr. Figures are in [0, 1], but
    CIDEr (0 to 10, as pycocoevalcap), CER and WER (from 0), Levenshtein (characters). ``tokenized``: the captions are
    tokens with spaces between them, as they came out of the PTB tokenizer.

    Raises DataError with file and line, TaskError for an unknown task, MissingDependencyError without florence2[eval].
    """
    return compare(predictions, truth, task, tokenized).figures


def compare(predictions: str | Path, truth: str | Path, task: str, tokenized: bool = False) -> Scored:
    """``score``, and what was missing."""
    if task not in TASKS:
        raise TaskError(f"there are no metrics for {task!r}; known are {', '.join(TASKS)}")
    if tokenized and task != "caption":
        raise DataError(f"tokenized texts are for captions, the task is {task}; leave the option out")
    if task in _COCO:
        return _coco(Path(predictions), Path(truth), task)
    true = _read(Path(truth))
    if not true:
        raise DataError(f"{truth} holds no samples; expected JSON lines with an id each")
    given = _read(Path(predictions))
    extra = [entry for id, entry in given.items() if id not in true]
    if extra:
        raise DataError(
            f"{_count(len(extra), 'prediction is', 'predictions are')} of no sample of {truth}: "
            + _some([f"{entry.id!r} ({entry.where})" for entry in extra])
        )
    missing = tuple(id for id in true if id not in given)
    pairs = [(given.get(id, _Line(id, {}, f"{predictions} without {id!r}", empty=True)), true[id]) for id in true]
    figures = _caption(pairs, tokenized) if task == "caption" else _SCORERS[task](pairs)
    return Scored(figures, len(true), missing)


# JSON lines


@dataclass(frozen=True)
class _Line:
    id: str
    values: Mapping[str, Any]
    where: str
    empty: bool = False
    """It stands for a prediction that is missing."""

    def get(self, name: str, read: Callable[[Any, str], Any], without: Any) -> Any:
        """A field that must be there, read; ``without`` for a prediction that is missing."""
        if self.empty:
            return without
        what = f"{self.where}: {name}"
        return read(fields.field(dict(self.values), name, self.where), what)


Pairs = list[tuple[_Line, _Line]]


def _read(path: Path) -> dict[str, _Line]:
    """The lines of a file by their ids, in order."""
    found: dict[str, _Line] = {}
    twice: list[str] = []
    for number, text in enumerate(fields.read_text(path).split("\n"), start=1):
        if not text.strip():
            continue
        where = f"{path}:{number}"
        values = fields.mapping(fields.parse_json(text, where), where)
        id = fields.field(values, "id", where)
        if isinstance(id, bool) or not isinstance(id, (str, int)):
            raise DataError(f"{where}: the id is {id!r}, expected a text or a whole number")
        if str(id) in found:
            twice.append(f"{id!r} ({found[str(id)].where} and {where})")
        found[str(id)] = _Line(str(id), values, where)
    if twice:
        raise DataError(
            f"{_count(len(twice), 'id occurs', 'ids occur')} more than once: {_some(twice)}; ids must differ"
        )
    return found


def _caption(pairs: Pairs, tokenized: bool) -> Figures:
    predicted = [p.get("text", fields.string, "") for p, _ in pairs]
    references = [t.get("references", _texts, ()) for _, t in pairs]
    return dict(
        captions.score(predicted, references, str.split) if tokenized else captions.score(predicted, references)
    )


def _classification(pairs: Pairs) -> Figures:
    predicted = [p.get("label", fields.string, "") for p, _ in pairs]
    return dict(classification.score(predicted, [t.get("label", fields.string, "") for _, t in pairs]))


def _vqa(pairs: Pairs) -> Figures:
    predicted = [p.get("answer", fields.string, "") for p, _ in pairs]
    return dict(vqa.score(predicted, [t.get("answers", _texts, ()) for _, t in pairs]))


def _ocr(pairs: Pairs) -> Figures:
    """Of texts, of regions, or of both, as the first true line has them; then all must."""
    first = pairs[0][1]
    if not {"text", "regions"} & first.values.keys():
        raise DataError(f"{first.where} has neither 'text' nor 'regions'; it holds {', '.join(first.values)}")
    figures: Figures = {}
    if "text" in first.values:
        predicted = [p.get("text", fields.string, "") for p, _ in pairs]
        figures |= ocr.score(predicted, [t.get("text", fields.string, "") for _, t in pairs])
    if "regions" in first.values:
        found = [[region for region, _ in p.get("regions", _regions, ())] for p, _ in pairs]
        true = [t.get("regions", _regions, ()) for _, t in pairs]
        legible = [[region for region, readable in several if readable] for several in true]
        illegible: list[list[Quad]] = [[r.quad for r, readable in several if not readable] for several in true]
        figures |= ocr.spotting(found, legible, illegible)
    return figures


def _grounding(pairs: Pairs) -> Figures:
    predicted: list[list[Box]] = [p.get("boxes", _boxes, []) for p, _ in pairs]
    scores: list[list[float]] | None = None
    if any("scores" in p.values for p, _ in pairs):
        scores = [
            p.get("scores", _numbers, []) if boxes else [] for (p, _), boxes in zip(pairs, predicted, strict=True)
        ]
        for (p, _), boxes, row in zip(pairs, predicted, scores, strict=True):
            if len(boxes) != len(row):
                raise DataError(f"{p.where} has {len(boxes)} boxes and {len(row)} scores; expected a score per box")
    return grounding.score(predicted, [t.get("boxes", _boxes, []) for _, t in pairs], scores)


_SCORERS: dict[str, Callable[[Pairs], Figures]] = {
    "grounding": _grounding,
    "classification": _classification,
    "vqa": _vqa,
    "ocr": _ocr,
}
_COCO = ("detection", "segmentation")
TASKS = (*_COCO, "caption", *_SCORERS)


def _texts(value: Any, what: str) -> list[str]:
    found = [fields.string(text, what) for text in fields.items(value, what)]
    if not found:
        raise DataError(f"{what} is empty, expected one text or more")
    return found


def _numbers(value: Any, what: str) -> list[float]:
    return [fields.number(number, what) for number in fields.items(value, what)]


def _boxes(value: Any, what: str) -> list[Box]:
    found = [fields.box(box, what) for box in fields.items(value, what)]
    for x0, y0, x1, y1 in found:
        if x0 > x1 or y0 > y1:
            raise DataError(f"{what}: the box {(x0, y0, x1, y1)} is inverted; expected (x0, y0, x1, y1)")
    return found


def _regions(value: Any, what: str) -> list[tuple[TextRegion, bool]]:
    """Regions, and whether they can be read."""
    found = []
    for item in fields.items(value, what):
        d = fields.mapping(item, what)
        text = fields.string(d.get("text", "" if d.get("illegible") else None), f"{what}: text")
        quad = fields.quad(fields.field(d, "quad", what), f"{what}: quad")
        found.append((TextRegion(text=text, quad=quad), not (d.get("illegible") or text == "###")))
    return found


# COCO


def _coco(predictions: Path, truth: Path, task: str) -> Scored:
    document = fields.mapping(fields.parse_json(fields.read_text(truth), str(truth)), str(truth))
    results = fields.items(fields.parse_json(fields.read_text(predictions), str(predictions)), str(predictions))
    figures: Figures
    try:
        kind: detection.Kind = "segm" if task == "segmentation" else "bbox"
        precision = detection.lvis_ap if detection.is_federated(document) else detection.coco_ap
        figures = precision(document, results, kind)
        if task == "segmentation":
            figures = {**segmentation.coco_score(document, results), **figures}
    except DataError as error:
        raise DataError(f"{predictions} beside {truth}: {error}") from error
    return Scored(figures, len(document["images"]))


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
