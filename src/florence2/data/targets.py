"""What a record can teach: (prompt, answer) pairs of all tasks.

Answers are the typed results of ``results.py``, and become ids through ``language.answers.format``, so a target is
well-formed by construction: a ``<loc_1000>`` or half a box cannot be written. Pairs that the data brings as texts are
kept as they are; ``check.py`` finds out what is wrong with them before training does.

    <CAPTION>                             one target per caption
    <OD>, <REGION_PROPOSAL>               all objects that are no crowd; an explicit negative gives the empty answer
    <OPEN_VOCABULARY_DETECTION>           one target per class, and for some classes that are known to be absent
    <REGION_TO_CATEGORY>, <REGION_TO_SEGMENTATION>      one per object
    <CAPTION_TO_PHRASE_GROUNDING>         one per caption with phrases, one per referring expression
    <DENSE_REGION_CAPTION>                phrases and referring expressions with their boxes
    <REGION_TO_DESCRIPTION>               those that mean one box
    <REFERRING_EXPRESSION_SEGMENTATION>   referring expressions with an outline, of their own or of the object they mean
    <OCR>, <OCR_WITH_REGION>, <REGION_TO_OCR>           texts with quads
    <VQA>, <DocVQA>, <ASK>                one per question, the best answer

<DETAILED_CAPTION>, <MORE_DETAILED_CAPTION>, <DocVQA> and <ASK> are taught only when named: nothing tells how detailed
a caption is, and one question under three prompts is the same lesson thrice.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from florence2.data.records import Place, Record, Reference, Thing
from florence2.errors import DataError, TaskError
from florence2.language import answers, tasks
from florence2.language.quantizer import quantize
from florence2.language.tasks import TASKS, Task
from florence2.results import (
    Answer,
    Box,
    Detections,
    Instance,
    Object,
    Polygon,
    Segments,
    Text,
    TextRegion,
    TextRegions,
)

if TYPE_CHECKING:
    from florence2.language.tokenizer import Tokenizer

Order = Literal["given", "random", "raster", "area"]
"""Of boxes in an answer: as in the file; drawn by seed; from the top left, row by row; the largest first."""
ORDERS: tuple[Order, ...] = ("given", "random", "raster", "area")
ONLY_WHEN_NAMED = frozenset(("<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>", "<DocVQA>", "<ASK>"))
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Target:
    """One lesson. ``prompt`` is what the model is fed; ``prefix`` is how it is asked for: task token and input."""

    task: str
    """The task token; empty where a pair's prompt is of no known task."""
    prompt: str
    prefix: str
    answer: Answer | str
    """A string where the data brought the answer as text, location tokens included."""
    place: Place | None = None

    def ids(self, tokenizer: Tokenizer) -> list[int]:
        """``<s>`` .. ``</s>``. Raises TaskError or BoxError where the task cannot say the answer."""
        if isinstance(self.answer, str):
            return [tokenizer.bos_id, *tokenizer.encode(self.answer), tokenizer.eos_id]
        return answers.format(self.answer, self.task, tokenizer)

    def suffix(self, tokenizer: Tokenizer) -> str:
        """The answer as text, as other trainers write it."""
        return self.answer if isinstance(self.answer, str) else tokenizer.decode(self.ids(tokenizer)[1:-1])


@dataclass(frozen=True)
class Choices:
    """How answers are put together."""

    order: Order = "given"
    seed: int = 0
    """With the record's id, decides what is drawn: the same in every epoch, process and worker."""
    negatives: int = 1
    """Absent classes that open-vocabulary detection is asked for, per record that lists its classes."""
    max_points: int | None = None
    """Outlines of more points are thinned out; the position table ends somewhere."""

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise DataError(f"the order of boxes is {self.order!r}, expected one of {', '.join(ORDERS)}")
        if self.max_points is not None and self.max_points < 3:
            raise DataError(f"an outline needs 3 points, max_points is {self.max_points}")


def pairs(
    record: Record, task: Task | str | Iterable[Task | str] | None = None, choices: Choices | None = None
) -> list[Target]:
    """All targets of a record: for one task, for several, or for all that it can teach and its explicit pairs.

    With tasks, explicit pairs are those whose prompt belongs to one of them. Raises DataError for an error record.
    """
    names = wanted(task)
    found = [t for name in names for t in taught(record, name, choices)]
    return found + [t for t in explicit(record) if task is None or t.task in names]


def wanted(task: Task | str | Iterable[Task | str] | None) -> list[str]:
    """The tokens of one task or several; of all that annotations can teach where none is named."""
    if task is None:
        return [name for name in _TEACHERS if name not in ONLY_WHEN_NAMED]
    return [tasks.get(name).name for name in ([task] if isinstance(task, (str, Task)) else task)]


def taught(record: Record, name: str, choices: Choices | None = None) -> list[Target]:
    """What the annotations of a record teach the task of this token; nothing for a task that only pairs can teach."""
    record.require()
    return list(_TEACHERS[name](_Lesson(record, choices or Choices()))) if name in _TEACHERS else []


def explicit(record: Record) -> list[Target]:
    """The pairs that the data brought along, their prompts filled in as the published processor does."""
    record.require()
    found = []
    for pair in record.pairs:
        name, prompt = resolve(pair.prompt)
        place = pair.place or record.place
        found.append(Target(task=name, prompt=prompt, prefix=pair.prompt, answer=pair.answer, place=place))
    return found


def resolve(prefix: str) -> tuple[str, str]:
    """(task token, prompt) of a text that a user calls prompt or prefix: a token, a token with input, or a prompt."""
    for name, task in TASKS.items():
        if prefix.startswith(name):
            given = prefix[len(name) :]
            if task.takes == "nothing":
                return (name, task.prompt) if not given.strip() else ("", prefix)
            return name, task.prompt.replace("{input}", given)
    for name, task in TASKS.items():
        pattern = re.escape(task.prompt).replace(re.escape("{input}"), "(.+)")
        if task.prompt != "{input}" and re.fullmatch(pattern, prefix, re.DOTALL):
            return name, prefix
    return "", prefix


@dataclass(frozen=True)
class _Lesson:
    record: Record
    choices: Choices

    @property
    def size(self) -> tuple[int, int]:
        return self.record.width, self.record.height

    def target(self, name: str, answer: Answer, text: str | None = None, box: Box | None = None) -> Target:
        task = tasks.get(name)
        if box is not None:
            region = quantize(box, self.size)
            prompt, given = task.fill(region=region), "".join(f"<loc_{n}>" for n in region)
        else:
            prompt, given = task.fill(text), text or ""
        return Target(task=name, prompt=prompt, prefix=name + given, answer=answer, place=self.record.place)

    def random(self, purpose: str) -> random.Random:
        return random.Random(f"{self.choices.seed} {self.record.id} {purpose}")

    def ordered(self, things: Sequence[T], box_of: Callable[[T], Box]) -> list[T]:
        match self.choices.order:
            case "random":
                return self.random("order").sample(things, len(things))
            case "raster":
                return sorted(things, key=lambda thing: (box_of(thing)[1], box_of(thing)[0]))
            case "area":
                return sorted(things, key=lambda thing: -_area(box_of(thing)))
        return list(things)

    def things(self) -> list[Thing]:
        return self.ordered([thing for thing in self.record.objects or () if not thing.crowd], lambda thing: thing.box)

    def outline(self, polygons: tuple[Polygon, ...]) -> tuple[Polygon, ...]:
        limit = self.choices.max_points
        return polygons if limit is None else tuple(thin_out(polygon, limit) for polygon in polygons)

    def text(self, name: str, words: str) -> Text:
        return Text(task=name, width=self.size[0], height=self.size[1], text=words)

    def detections(self, name: str, found: Iterable[tuple[str, Box]]) -> Detections:
        objects = tuple(Object(label=label, box=box) for label, box in found)
        return Detections(task=name, width=self.size[0], height=self.size[1], objects=objects)

    def segments(self, name: str, polygons: tuple[Polygon, ...]) -> Segments:
        instances = (Instance(label="", polygons=self.outline(polygons)),)
        return Segments(task=name, width=self.size[0], height=self.size[1], instances=instances)


# One function per kind of lesson


def _captions(name: str) -> Callable[[_Lesson], Iterator[Target]]:
    def teach(lesson: _Lesson) -> Iterator[Target]:
        for caption in lesson.record.captions:
            yield lesson.target(name, lesson.text(name, caption))

    return teach


def _questions(name: str) -> Callable[[_Lesson], Iterator[Target]]:
    def teach(lesson: _Lesson) -> Iterator[Target]:
        for question in lesson.record.qa:
            if question.answers:
                yield lesson.target(name, lesson.text(name, question.answers[0]), question.question)

    return teach


def _objects(lesson: _Lesson) -> Iterator[Target]:
    if lesson.record.objects is not None:
        found = [(thing.label, thing.box) for thing in lesson.things()]
        yield lesson.target("<OD>", lesson.detections("<OD>", found))


def _proposals(lesson: _Lesson) -> Iterator[Target]:
    if lesson.record.objects is not None:
        found = [("", thing.box) for thing in lesson.things()]
        yield lesson.target("<REGION_PROPOSAL>", lesson.detections("<REGION_PROPOSAL>", found))


def _open_vocabulary(lesson: _Lesson) -> Iterator[Target]:
    name, things = "<OPEN_VOCABULARY_DETECTION>", lesson.things()
    present = dict.fromkeys(thing.label for thing in lesson.record.objects or ())
    absent = [label for label in lesson.record.exhaustive or () if label not in present]
    drawn = lesson.random("negatives").sample(absent, min(lesson.choices.negatives, len(absent)))
    for label in (*present, *drawn):
        found = [(thing.label, thing.box) for thing in things if thing.label == label]
        if found or label in drawn:  # a class of which there are crowds only is neither
            yield lesson.target(name, lesson.detections(name, found), label)


def _categories(lesson: _Lesson) -> Iterator[Target]:
    name = "<REGION_TO_CATEGORY>"
    for thing in lesson.things():
        yield lesson.target(name, lesson.text(name, thing.label), box=thing.box)


def _masks(lesson: _Lesson) -> Iterator[Target]:
    name = "<REGION_TO_SEGMENTATION>"
    for thing in lesson.things():
        if thing.polygons:
            yield lesson.target(name, lesson.segments(name, thing.polygons), box=thing.box)


def _grounding(lesson: _Lesson) -> Iterator[Target]:
    name, record = "<CAPTION_TO_PHRASE_GROUNDING>", lesson.record
    numbers = dict.fromkeys(phrase.caption for phrase in record.phrases if phrase.caption is not None)
    for number in numbers:
        if not 0 <= number < len(record.captions):
            raise DataError(f"{record.where}: a phrase is from caption {number}, there are {len(record.captions)}")
        found = [(p.text, box) for p in record.phrases if p.caption == number for box in _in_order(lesson, p.boxes)]
        yield lesson.target(name, lesson.detections(name, found), record.captions[number])
    for phrase in record.phrases:
        if phrase.caption is None:
            found = [(phrase.text, box) for box in _in_order(lesson, phrase.boxes)]
            yield lesson.target(name, lesson.detections(name, found), phrase.text)
    for ref in record.refs:
        yield lesson.target(name, lesson.detections(name, [(ref.text, ref.box)]), ref.text)


def _in_order(lesson: _Lesson, boxes: tuple[Box, ...]) -> list[Box]:
    return lesson.ordered(boxes, lambda box: box)


def _dense(lesson: _Lesson) -> Iterator[Target]:
    record = lesson.record
    found = [(p.text, box) for p in record.phrases for box in p.boxes] + [(r.text, r.box) for r in record.refs]
    if found:
        ordered = lesson.ordered(found, lambda pair: pair[1])
        yield lesson.target("<DENSE_REGION_CAPTION>", lesson.detections("<DENSE_REGION_CAPTION>", ordered))


def _descriptions(lesson: _Lesson) -> Iterator[Target]:
    """Words that mean several boxes ("two dogs") describe none of them."""
    name, record = "<REGION_TO_DESCRIPTION>", lesson.record
    alone = [(phrase.text, phrase.boxes[0]) for phrase in record.phrases if len(phrase.boxes) == 1]
    for text, box in alone + [(ref.text, ref.box) for ref in record.refs]:
        yield lesson.target(name, lesson.text(name, text), box=box)


def _referred_masks(lesson: _Lesson) -> Iterator[Target]:
    name = "<REFERRING_EXPRESSION_SEGMENTATION>"
    for ref in lesson.record.refs:
        polygons = ref.polygons or _meant(ref, lesson.record.objects or ())
        if polygons:
            yield lesson.target(name, lesson.segments(name, polygons), ref.text)


def _meant(ref: Reference, things: Iterable[Thing]) -> tuple[Polygon, ...]:
    """The outline of the object that has the expression's box."""
    for thing in things:
        if thing.polygons and all(abs(a - b) < 1 for a, b in zip(thing.box, ref.box, strict=True)):
            return thing.polygons
    return ()


def _all_text(lesson: _Lesson) -> Iterator[Target]:
    if lesson.record.text is not None and not lesson.record.illegible:  # else there is more than anybody could say
        yield lesson.target("<OCR>", lesson.text("<OCR>", " ".join(words.text for words in lesson.record.text)))


def _text_regions(lesson: _Lesson) -> Iterator[Target]:
    if lesson.record.text is None:
        return
    found = lesson.ordered(lesson.record.text, lambda words: _around(words.quad))
    regions = tuple(TextRegion(text=words.text, quad=words.quad) for words in found)
    answer = TextRegions(task="<OCR_WITH_REGION>", width=lesson.size[0], height=lesson.size[1], regions=regions)
    yield lesson.target("<OCR_WITH_REGION>", answer)


def _region_text(lesson: _Lesson) -> Iterator[Target]:
    name = "<REGION_TO_OCR>"
    for words in lesson.record.text or ():
        yield lesson.target(name, lesson.text(name, words.text), box=_around(words.quad))


_TEACHERS: dict[str, Callable[[_Lesson], Iterator[Target]]] = {
    "<CAPTION>": _captions("<CAPTION>"),
    "<DETAILED_CAPTION>": _captions("<DETAILED_CAPTION>"),
    "<MORE_DETAILED_CAPTION>": _captions("<MORE_DETAILED_CAPTION>"),
    "<OD>": _objects,
    "<DENSE_REGION_CAPTION>": _dense,
    "<REGION_PROPOSAL>": _proposals,
    "<OCR>": _all_text,
    "<OCR_WITH_REGION>": _text_regions,
    "<CAPTION_TO_PHRASE_GROUNDING>": _grounding,
    "<REFERRING_EXPRESSION_SEGMENTATION>": _referred_masks,
    "<REGION_TO_SEGMENTATION>": _masks,
    "<OPEN_VOCABULARY_DETECTION>": _open_vocabulary,
    "<REGION_TO_CATEGORY>": _categories,
    "<REGION_TO_DESCRIPTION>": _descriptions,
    "<REGION_TO_OCR>": _region_text,
    "<VQA>": _questions("<VQA>"),
    "<DocVQA>": _questions("<DocVQA>"),
    "<ASK>": _questions("<ASK>"),
}


# Shapes


def thin_out(polygon: Polygon, most: int) -> Polygon:
    """At most ``most`` points: again and again the point goes that cuts off the smallest triangle.

    Source: Visvalingam and Whyatt (1993), "Line generalisation by repeated elimination of points".
    """
    points = list(zip(polygon[0::2], polygon[1::2], strict=False))
    while len(points) > max(most, 3):
        corners = zip([points[-1], *points[:-1]], points, [*points[1:], points[0]], strict=True)
        cut = [abs((b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1])) for a, b, c in corners]
        del points[cut.index(min(cut))]
    return tuple(value for point in points for value in point)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _around(quad: tuple[float, ...]) -> Box:
    if not all(map(math.isfinite, quad)):
        raise TaskError(f"the quad {quad} is not finite")
    return (min(quad[0::2]), min(quad[1::2]), max(quad[0::2]), max(quad[1::2]))
