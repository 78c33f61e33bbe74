"""Microsoft's own post-processing of an answer's text, quirk for quirk, for people who switch.

``answers.parse`` is what this library uses; it works on ids. This module works on text, as the published processor
does, and keeps what users of that processor may rely on by accident: labels lose every character outside of ASCII,
a broken ``<loc_2>dog`` gives the label ``loc_2>dog``, the first label of OCR begins with ``</s>``, scores drift behind
text that belongs to no object. Only the speed differs: every scan here is linear in the length of the text.

Behaviour measured on the processor of ``microsoft/Florence-2-large`` at 00d2f15.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from florence2.errors import TaskError
from florence2.language.quantizer import dequantize

if TYPE_CHECKING:
    from florence2.language.tokenizer import Tokenizer

Size = tuple[int, int]
"""(width, height) of the photo, pixels."""

ANSWER_TYPES = {
    "<OCR>": "pure_text",
    "<OCR_WITH_REGION>": "ocr",
    "<CAPTION>": "pure_text",
    "<DETAILED_CAPTION>": "pure_text",
    "<MORE_DETAILED_CAPTION>": "pure_text",
    "<OD>": "description_with_bboxes",
    "<DENSE_REGION_CAPTION>": "description_with_bboxes",
    "<REGION_PROPOSAL>": "bboxes",
    "<CAPTION_TO_PHRASE_GROUNDING>": "phrase_grounding",
    "<REFERRING_EXPRESSION_SEGMENTATION>": "polygons",
    "<REGION_TO_SEGMENTATION>": "polygons",
    "<OPEN_VOCABULARY_DETECTION>": "description_with_bboxes_or_polygons",
    "<REGION_TO_CATEGORY>": "pure_text",
    "<REGION_TO_DESCRIPTION>": "pure_text",
    "<REGION_TO_OCR>": "pure_text",
}
"""How the text of each task is read; every other task is pure text."""

_PRONOUNS = (
    "it I me mine you your yours he him his she her hers they them their theirs one oneself we us our ours its myself "
    "yourself himself herself itself ourselves yourselves themselves this that these those who whom whose which what "
    "all another any anybody anyone anything each everybody everyone everything few many nobody none several some "
    "somebody someone something"
)
_VAGUE = ("image", "images", "the image", "the", "a", "an", "a group", "other objects", "lots", "a set")
NOT_GROUNDED = frozenset([*_PRONOUNS.split(), "each other", "one another", *_VAGUE])
"""Phrases that grounding leaves out."""

_LOCATION = re.compile(r"<loc_(\d+)>")
_LOCATIONS = re.compile(r"(?:<loc_\d+>)+")
_MARKS = re.compile(r"(?:<loc_\d+>|<sep>|<poly>|</poly>)+")
_MARK = re.compile(r"<loc_\d+>|<sep>|<poly>|</poly>")
_QUAD = re.compile(r"(?:<loc_\d+>){8}")
_OUTLINE_BEGIN = re.compile(r"<loc_|<poly>")
_BROKEN_LOCATION = re.compile(r"loc_\d+>")


def microsoft_parse(text: str, task: str, size: Size) -> dict[str, Any]:
    """``{task: answer}`` as ``post_process_generation(text, task, image_size=size)`` gives it."""
    return {task: _parse(text, task, size, None)}


def microsoft_parse_ids(
    ids: Sequence[int], task: str, size: Size, tokenizer: Tokenizer, scores: Sequence[float] | None = None
) -> dict[str, Any]:
    """The same from ids (the first one is dropped), with log-probabilities: detections then carry "scores"."""
    if scores is not None and len(scores) != max(len(ids) - 1, 0):
        raise TaskError(f"{len(scores)} scores for {len(ids)} ids; expected one per id behind the first")
    pieces = [tokenizer.token_text(id) for id in ids[1:]]
    spans, end = [], 0
    for piece in pieces:
        spans.append((end, end + len(piece)))
        end += len(piece)
    return {task: _parse("".join(pieces), task, size, None if scores is None else (spans, scores))}


def description_with_polygons(text: str, size: Size) -> list[dict[str, Any]]:
    """Instances ``{"cat_name", "polygons"}`` of labelled outlines; no task uses this type by itself."""
    instances = []
    for chunk in _phrases(_clean(text), _MARKS, _MARK):
        description = (
            _BROKEN_LOCATION.sub("", chunk.text, count=1) if _BROKEN_LOCATION.match(chunk.text) else chunk.text
        )
        instances += _outlines(description, size)
    return instances


_Scores = tuple[list[tuple[int, int]], Sequence[float]]
"""Per token its range of characters, and its log-probability."""


def _parse(text: str, task: str, size: Size, scores: _Scores | None) -> Any:
    match ANSWER_TYPES.get(task, "pure_text"):
        case "ocr":
            return _ocr(text, size)
        case "description_with_bboxes":
            return _boxes(_described_boxes(text, size, scores))
        case "phrase_grounding":
            return _boxes([box for box in _described_boxes(text, size) if box["phrase"] not in NOT_GROUNDED])
        case "bboxes":
            return _boxes(_bare_boxes(text, size))
        case "polygons":
            runs = (run.group() for run in _MARKS.finditer(_clean(text)) if _at_least_four(run.group(), _MARK))
            return _polygons([instance for run in runs for instance in _outlines(run, size)])
        case "description_with_bboxes_or_polygons":
            outlined = "<poly>" in text
            boxes = _boxes([] if outlined else _described_boxes(text, size))
            polygons = _polygons(description_with_polygons(text, size) if outlined else [])
            return {
                "bboxes": boxes["bboxes"],
                "bboxes_labels": boxes["labels"],
                "polygons": polygons["polygons"],
                "polygons_labels": polygons["labels"],
            }
    return text.replace("<s>", "").replace("</s>", "")


def _boxes(instances: list[dict[str, Any]]) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "bboxes": [instance["bbox"] for instance in instances],
        "labels": [instance["label"] for instance in instances],
    }
    if instances and "score" in instances[0]:
        answer["scores"] = [instance["score"] for instance in instances]
    return answer


def _polygons(instances: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "polygons": [instance["polygons"] for instance in instances],
        "labels": [instance["cat_name"] for instance in instances],
    }


def _described_boxes(text: str, size: Size, scores: _Scores | None = None) -> list[dict[str, Any]]:
    instances = []
    cursor = 3 if text.startswith("<s>") else 0  # where Microsoft believes the chunk to begin
    for chunk in _phrases(_clean(text), _LOCATIONS, _LOCATION):
        phrase = _one_line(chunk.text[: chunk.marks])
        if phrase is not None:
            locations = list(_LOCATION.finditer(chunk.text, chunk.marks))
            for four in _groups(locations, 4):
                instance: dict[str, Any] = {
                    "bbox": dequantize([_bin(location) for location in four], size),
                    "label": phrase.encode("ascii", "ignore").decode(),
                    "phrase": phrase,
                }
                if scores is not None:
                    instance["score"] = _score(cursor + four[0].start(), cursor + four[3].end(), scores)
                instances.append(instance)
        cursor += len(chunk.text)
    return instances


def _bare_boxes(text: str, size: Size) -> list[dict[str, Any]]:
    return [
        {"bbox": dequantize([_bin(location) for location in four], size), "label": ""}
        for run in _LOCATIONS.finditer(_clean(text))
        for four in _groups(list(_LOCATION.finditer(run.group())), 4)
    ]


def _ocr(text: str, size: Size) -> dict[str, Any]:
    """The shortest text before eight locations; it may itself hold locations, but no line break."""
    text = text.replace("<s>", "")
    quads, labels = [], []
    begin = 0
    while quad := _QUAD.search(text, begin + 1):
        line = text.rfind("\n", begin, quad.start()) + 1
        if line > begin:
            begin = line
            continue
        quads.append(dequantize([_bin(location) for location in _LOCATION.finditer(quad.group())], size))
        labels.append(text[begin : quad.start()])
        begin = quad.end()
    return {"quad_boxes": quads, "labels": labels}


def _outlines(chunk: str, size: Size) -> list[dict[str, Any]]:
    """The instances of a label (often empty) and the marks behind it."""
    begin = _OUTLINE_BEGIN.search(chunk)
    label = _one_line(chunk[: begin.start()]) if begin else None
    if label is None:
        return []
    marked = "<poly>" in chunk and "</poly>" in chunk
    instances = []
    for outline in _marked_outlines(chunk) if marked else [chunk]:
        polygons = []
        for run in _LOCATIONS.finditer(outline):
            if run.end() == len(outline) or outline.startswith("<sep>", run.end()):
                bins = [_bin(location) for location in _LOCATION.finditer(run.group())]
                polygons.append(dequantize(bins[: len(bins) // 2 * 2], size))
        if polygons:
            instances.append({"cat_name": label, "polygons": polygons})
    return instances


def _marked_outlines(chunk: str) -> Iterator[str]:
    """What stands between each ``<poly>`` and the next ``</poly>``."""
    end = 0
    while (begin := chunk.find("<poly>", end)) >= 0 and (end := chunk.find("</poly>", begin)) >= 0:
        yield chunk[begin + len("<poly>") : end]


@dataclass(frozen=True)
class _Chunk:
    text: str
    marks: int
    """Where the phrase ends and its marks begin."""


def _phrases(text: str, marks: re.Pattern[str], mark: re.Pattern[str]) -> Iterator[_Chunk]:
    """Every phrase (no ``<`` in it) with the four or more marks directly behind it, left to right.

    Where no phrase stands before the marks, the inside of the first one passes for it: ``loc_5>``.
    """
    behind = 0
    for run in marks.finditer(text):
        begin = max(behind, text.rfind("<", behind, run.start()) + 1)
        first = run.start()
        if begin == first:
            broken = mark.match(text, first)
            begin, first = first + 1, broken.end() if broken else first
        if _at_least_four(text[first : run.end()], mark):
            yield _Chunk(text[begin : run.end()], first - begin)
            behind = run.end()


def _one_line(phrase: str) -> str | None:
    """The phrase without the blanks around it; None where a line break is left behind the leading ones."""
    phrase = phrase.lstrip()
    return None if "\n" in phrase else phrase.rstrip()


def _score(begin: int, end: int, scores: _Scores) -> float:
    spans, logprobs = scores
    inside = [value for (first, last), value in zip(spans, logprobs, strict=True) if first < end and last > begin]
    return math.exp(sum(inside) / len(inside)) if inside else math.nan


def _clean(text: str) -> str:
    return text.replace("<s>", "").replace("</s>", "").replace("<pad>", "")


def _at_least_four(text: str, mark: re.Pattern[str]) -> bool:
    return sum(1 for _ in zip(mark.finditer(text), range(4), strict=False)) == 4


def _groups(items: list[re.Match[str]], n: int) -> Iterator[list[re.Match[str]]]:
    for i in range(0, len(items) - n + 1, n):
        yield items[i : i + n]


def _bin(location: re.Match[str]) -> int:
    """The number of a location; what is longer than any number that a tensor holds stays below its limit."""
    digits = location.group(1)
    return min(int(digits), 10**15) if len(digits) < 4000 else 10**15
