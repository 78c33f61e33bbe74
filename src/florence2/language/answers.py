"""Token ids <-> typed results, through the grammar of the task.

    parse    ids -> segments (cut by the automaton) -> result in pixels, with scores; never raises on ids
    format   result -> segments -> ids ``<s> .. </s>``; ``parse(format(x)) == x`` for results on the grid of bins

A score is exp of a mean log-probability: of the label's tokens, of the location tokens, and their geometric mean.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from florence2.errors import BoxError, TaskError
from florence2.language import grammar as g
from florence2.language import tasks
from florence2.language.automaton import Automaton, Dropped, Segment
from florence2.language.quantizer import dequantize, quantize
from florence2.language.tasks import Task
from florence2.results import (
    Answer,
    Box,
    Detections,
    Instance,
    Object,
    Polygon,
    Quad,
    Raw,
    Segments,
    Text,
    TextRegion,
    TextRegions,
)

if TYPE_CHECKING:
    from florence2.language.tokenizer import Tokenizer

Size = tuple[int, int]
"""(width, height) of the photo, pixels."""


def parse(
    ids: Sequence[int],
    task: Task | str,
    size: Size,
    tokenizer: Tokenizer,
    logprobs: Sequence[float] | None = None,
    *,
    labels: Iterable[str] | None = None,
    truncated: bool = False,
    keep_raw: bool = False,
) -> Answer:
    """The result that ``ids`` mean. Any ids will do; what makes no sense is named in ``dropped``.

    ``logprobs`` holds one entry per id behind the start token (0 where a token was forced). ``labels`` is the closed
    list that the answer was held to; the result then holds the labels as written there. ``truncated`` says that the
    token budget ended the answer.
    """
    task = tasks.get(task)
    if logprobs is not None and len(logprobs) != max(len(ids) - 1, 0):
        raise TaskError(
            f"{len(logprobs)} log-probabilities for {len(ids)} ids; expected one per id behind the start token"
        )
    automaton = g.compile(task.grammar, tokenizer, labels)
    segments, dropped = automaton.segments(ids)
    reader = _Reader(ids, size, tokenizer, automaton.labels, logprobs)
    answer = _READERS[task.result](reader, segments, task.name)
    return dataclasses.replace(
        answer,
        confidence=_confidence(ids, logprobs, automaton, truncated),
        truncated=truncated,
        dropped=tuple(_describe(item, ids, tokenizer) for item in dropped),
        raw=_raw(ids, logprobs, tokenizer) if keep_raw else None,
    )


def format(answer: Answer, task: Task | str, tokenizer: Tokenizer) -> list[int]:
    """The ids ``<s> .. </s>`` that mean ``answer``: a training target, or what a perfect model would write.

    Raises TaskError where the answer is not one that the task can give, BoxError for an inverted box.
    """
    task = tasks.get(task)
    if not isinstance(answer, task.result):
        raise TaskError(f"{task.name} gives {task.result.__name__}, found {type(answer).__name__}")
    writer = _Writer((answer.width, answer.height), tokenizer, g.kinds(task.grammar))
    ids = [tokenizer.bos_id, *writer.write(answer), tokenizer.eos_id]
    problem = g.compile(task.grammar, tokenizer).rejection(ids)
    if problem is not None and ids != [tokenizer.bos_id, tokenizer.eos_id]:  # an empty answer is always sayable
        raise TaskError(f"{task.name} cannot say this answer: {problem}; its answers are {g.spell(task.grammar)}")
    return ids


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Reads single segments: text, pixels, scores."""

    ids: Sequence[int]
    size: Size
    tokenizer: Tokenizer
    labels: dict[tuple[int, ...], str] | None
    logprobs: Sequence[float] | None

    def text(self, *segments: Segment) -> str:
        tokens = tuple(self.ids[i] for segment in segments for i in segment.positions)
        if self.labels is not None and tokens in self.labels:
            return self.labels[tokens]
        return self.tokenizer.decode(tokens).strip()

    def pixels(self, segment: Segment) -> tuple[float, ...]:
        first = self.tokenizer.first_location_id
        return tuple(dequantize([self.ids[i] - first for i in segment.positions], self.size))

    def scores(self, label: Segment | None, shape: Sequence[Segment]) -> tuple[float, float, float]:
        """Of the label, of the locations, and of both; 1 where nothing is known."""
        label_score, box_score = self._score([label] if label else []), self._score(shape)
        return label_score, box_score, math.sqrt(label_score * box_score) if label else box_score

    def _score(self, segments: Sequence[Segment]) -> float:
        if self.logprobs is None:
            return 1.0
        return _probability([self.logprobs[i - 1] for segment in segments for i in segment.positions if i > 0])


def _read_text(reader: _Reader, segments: list[Segment], task: str) -> Text:
    words = [segment for segment in segments if segment.kind == "text"]
    return Text(task=task, width=reader.size[0], height=reader.size[1], text=reader.text(*words))


def _read_detections(reader: _Reader, segments: list[Segment], task: str) -> Detections:
    objects = []
    for label, shape in _things(segments):
        outlined = shape[0].kind == "polygon"
        polygons = tuple(map(reader.pixels, shape)) if outlined else ()
        label_score, box_score, score = reader.scores(label, shape)
        objects.append(
            Object(
                label=reader.text(label) if label else "",
                box=_hull(polygons if outlined else [reader.pixels(shape[0])]),
                score=score,
                label_score=label_score,
                box_score=box_score,
                polygons=polygons,
            )
        )
    return Detections(task=task, width=reader.size[0], height=reader.size[1], objects=tuple(objects))


def _read_segments(reader: _Reader, segments: list[Segment], task: str) -> Segments:
    instances = tuple(
        Instance(
            label=reader.text(label) if label else "",
            polygons=tuple(map(reader.pixels, shape)),
            score=reader.scores(label, shape)[2],
        )
        for label, shape in _things(segments)
    )
    return Segments(task=task, width=reader.size[0], height=reader.size[1], instances=instances)


def _read_regions(reader: _Reader, segments: list[Segment], task: str) -> TextRegions:
    regions = []
    for label, shape in _things(segments):
        x0, y0, x1, y1, x2, y2, x3, y3 = reader.pixels(shape[0])
        regions.append(
            TextRegion(
                text=reader.text(label) if label else "",
                quad=(x0, y0, x1, y1, x2, y2, x3, y3),
                score=reader.scores(label, shape)[2],
            )
        )
    return TextRegions(task=task, width=reader.size[0], height=reader.size[1], regions=tuple(regions))


_READERS: dict[type[Answer], Callable[[_Reader, list[Segment], str], Answer]] = {
    Text: _read_text,
    Detections: _read_detections,
    Segments: _read_segments,
    TextRegions: _read_regions,
}


def _things(segments: list[Segment]) -> list[tuple[Segment | None, list[Segment]]]:
    """Each box, quad or set of polygons with the label it belongs to; ``<sep>`` joins polygons to one set."""
    things: list[tuple[Segment | None, list[Segment]]] = []
    label, joins = None, False
    for segment in segments:
        if segment.kind == "label":
            label = segment
        elif segment.kind in ("box", "quad", "polygon"):
            if joins:
                things[-1][1].append(segment)
            else:
                things.append((label, [segment]))
        joins = segment.kind == "sep"
    return things


def _hull(shapes: Sequence[Sequence[float]]) -> Box:
    """The box around all points; it also turns a box that was written backwards."""
    xs = [x for shape in shapes for x in shape[0::2]]
    ys = [y for shape in shapes for y in shape[1::2]]
    return (min(xs), min(ys), max(xs), max(ys))


def _probability(logprobs: Sequence[float]) -> float:
    """exp of the mean, in [0, 1]; 1 for no tokens at all."""
    if not logprobs:
        return 1.0
    mean = sum(logprobs) / len(logprobs)
    return 0.0 if math.isnan(mean) else math.exp(min(mean, 0.0))


def _confidence(ids: Sequence[int], logprobs: Sequence[float] | None, automaton: Automaton, truncated: bool) -> float:
    """exp of the mean over the answer and its ``</s>``, without what was forced: ``<s>``, ``</s>`` at the budget."""
    if logprobs is None:
        return 1.0
    body = [i for i in automaton.body(ids) if i > 0]
    ends = [n for n, i in enumerate(body) if ids[i] == automaton.eos_id]
    if ends:
        forced = truncated and logprobs[body[ends[0]] - 1] == 0
        body = body[: ends[0] + (0 if forced else 1)]
    return _probability([logprobs[i - 1] for i in body])


def _describe(item: Dropped, ids: Sequence[int], tokenizer: Tokenizer) -> str:
    text = tokenizer.decode([ids[i] for i in item.positions])
    if len(text) > 80:
        text = text[:60] + f"... ({len(item.positions)} tokens)"
    return f"{item.reason}: {text!r} at token {item.positions[0]}"


def _raw(ids: Sequence[int], logprobs: Sequence[float] | None, tokenizer: Tokenizer) -> Raw:
    return Raw(token_ids=tuple(ids), text=tokenizer.decode(ids), logprobs=tuple(logprobs or ()))


@dataclasses.dataclass(frozen=True)
class _Writer:
    """Writes results as the segments that the grammar knows (``kinds``)."""

    size: Size
    tokenizer: Tokenizer
    kinds: frozenset[str]

    def write(self, answer: Answer) -> list[int]:
        match answer:
            case Text():
                return self.tokenizer.encode_plain(answer.text.strip())
            case Detections():
                return self.detections(answer.objects)
            case Segments():
                return self.instances(answer.instances)
            case TextRegions():
                return [
                    id
                    for region in answer.regions
                    for id in (*self.label(region.text), *self.locations("quad", region.quad))
                ]
        raise TaskError(f"{type(answer).__name__} is no kind of answer that can be written as tokens")

    def detections(self, objects: Iterable[Object]) -> list[int]:
        """Neighbours of one name share the label: ``car box box dog box``."""
        ids: list[int] = []
        for (label, outlined), group in groupby(objects, key=lambda item: (item.label, bool(item.polygons))):
            ids += self.label(label)
            for item in group:
                ids += self.marked(item.polygons) if outlined else self.box(item.box)
        return ids

    def instances(self, instances: Sequence[Instance]) -> list[int]:
        """One outline plainly, several in marks; in marks too where a label says whose it is."""
        ids: list[int] = []
        for label, group in groupby(instances, key=lambda item: item.label):
            ids += self.label(label)
            for item in group:
                plain = len(instances) == 1 and "label" not in self.kinds
                ids += self.outline(item.polygons) if plain else self.marked(item.polygons)
        return ids

    def label(self, text: str) -> list[int]:
        if ("label" in self.kinds) != bool(text.strip()):
            if text.strip():
                raise TaskError(f"the task has no labels, found {text!r}; leave the label empty")
            raise TaskError("the task needs a label for each object, found an empty one")
        return self.tokenizer.encode_plain(text.strip())

    def box(self, box: Box) -> list[int]:
        x0, y0, x1, y1 = box
        if x0 > x1 or y0 > y1:
            raise BoxError(f"the box {box} is inverted; expected (x0, y0, x1, y1) with x0 <= x1 and y0 <= y1")
        return self.locations("box", box)

    def marked(self, polygons: Sequence[Polygon]) -> list[int]:
        return [self.tokenizer.poly_id, *self.outline(polygons), self.tokenizer.end_poly_id]

    def outline(self, polygons: Sequence[Polygon]) -> list[int]:
        ids: list[int] = []
        for polygon in polygons:
            ids += [self.tokenizer.sep_id] if ids else []
            ids += self.locations("polygon", polygon)
        return ids

    def locations(self, kind: str, values: Polygon | Box | Quad) -> list[int]:
        if kind not in self.kinds:
            raise TaskError(f"the task's answers hold no {kind}; found {values}")
        return [self.tokenizer.location_id(n) for n in quantize(values, self.size)]
