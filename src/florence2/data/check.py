"""Pre-flight: what is wrong with training data, found before a training run finds it.

Every record is looked at as the trainer will see it: the photo is opened, boxes and outlines must lie in it, and every
target is formatted, tokenised, parsed back and compared. What does not survive this round trip would teach the model
something that nobody could read from it.

    entry     a part of a file that cannot be read           text     empty, or with marks of the answer language in it
    image     missing, broken, of another size               target   malformed, or parsed back as something else
    box, outline   outside, inverted, empty, odd             length   longer than the position table
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from florence2.data.records import Record
from florence2.data.targets import Choices, Target, explicit, taught, wanted
from florence2.errors import DataError, Florence2Error, ImageError
from florence2.language import answers, grammar, tasks
from florence2.language.quantizer import BINS, dequantize, quantize
from florence2.results import Answer, Detections, Segments, Text, TextRegions

if TYPE_CHECKING:
    from florence2.language.tokenizer import Tokenizer

SLACK = 1.0
"""Pixels that a coordinate may lie outside: rounding of other tools."""
SHOWN = 40
"""Problems in the text form of a report; the JSON holds all."""


@dataclass(frozen=True)
class Problem:
    place: str
    """File and line."""
    record: str
    kind: str
    message: str

    def __str__(self) -> str:
        return f"{self.place} ({self.record}) {self.kind}: {self.message}"


@dataclass(frozen=True)
class Example:
    """A target as text."""

    prefix: str
    suffix: str


@dataclass
class Report:
    records: int = 0
    targets: Counter[str] = field(default_factory=Counter)
    """Per task token; the empty token counts pairs of no known task."""
    longest: Counter[str] = field(default_factory=Counter)
    """Tokens of the longest target of each task."""
    examples: dict[str, Example] = field(default_factory=dict)
    """The first target of each task."""
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def add(self, other: Report) -> None:
        """Joins what was found elsewhere."""
        self.records += other.records
        self.targets += other.targets
        for task, tokens in other.longest.items():
            self.longest[task] = max(self.longest[task], tokens)
        self.examples = {**other.examples, **self.examples}
        self.problems += other.problems

    def require(self) -> None:
        """Raises DataError where there is a problem."""
        if self.problems:
            raise DataError(f"the data has {len(self.problems)} problems, the first: {self.problems[0]}")

    def to_dict(self) -> dict[str, Any]:
        return {
            "records": self.records,
            "targets": dict(self.targets),
            "longest": dict(self.longest),
            "examples": {task: [example.prefix, example.suffix] for task, example in self.examples.items()},
            "problems": [dict(vars(problem)) for problem in self.problems],
        }

    def __str__(self) -> str:
        lines = [f"{self.records} records, {self.targets.total()} targets"]
        for task, count in self.targets.items():
            example = self.examples.get(task)
            shown = f"{_short(example.prefix)} -> {_short(example.suffix) or '(nothing)'}" if example else ""
            lines.append(f"  {task or '(no known task)'}: {count}, at most {self.longest[task]} tokens; {shown}")
        kinds = Counter(problem.kind for problem in self.problems)
        counted = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        lines.append(f"{len(self.problems)} problems: {counted}" if self.problems else "no problems")
        lines += [f"  {problem}" for problem in self.problems[:SHOWN]]
        more = len(self.problems) - SHOWN
        return "\n".join([*lines, *([f"  ... and {more} more"] if more > 0 else [])])


def check(
    records: Iterable[Record],
    tokenizer: Tokenizer,
    *,
    task: str | Iterable[str] | None = None,
    choices: Choices | None = None,
    limit: int | None = None,
    max_tokens: int = 1024,
    max_prompt: int = 1024 - 577,
) -> Report:
    """Looks at all records, or the first ``limit`` ones. The defaults of the two lengths are those of Florence-2 base:
    1,024 positions, of which an image takes 577."""
    report = Report()
    task = task if task is None or isinstance(task, str) else tuple(task)
    for record in itertools.islice(records, limit):
        report.records += 1
        for problem in _of_record(record):
            report.problems.append(problem)
        if record.error:
            continue
        flaws = [*_of_shapes(record), *_of_texts(record, tokenizer)]
        report.problems += [Problem(record.where, record.id, kind, message) for kind, message in flaws]
        for target in _targets(record, task, choices, bool(flaws)):
            if isinstance(target, str):
                report.problems.append(Problem(record.where, record.id, "target", target))
                continue
            for kind, message in _of_target(target, tokenizer, report, max_tokens, max_prompt):
                place = str(target.place or record.where)
                report.problems.append(Problem(place, record.id, kind, f"{_short(target.prefix)}: {message}"))
    return report


def _targets(
    record: Record, task: str | Iterable[str] | None, choices: Choices | None, flawed: bool
) -> Iterator[Target | str]:
    """All targets, or why some cannot be made. Annotations with flaws are not tried: they would be named twice."""
    names = wanted(task)
    for name in names if not flawed else ():
        try:
            yield from taught(record, name, choices)
        except Florence2Error as error:
            yield str(error)
    yield from (target for target in explicit(record) if task is None or target.task in names)


def _of_record(record: Record) -> Iterator[Problem]:
    if record.error:
        yield Problem(record.where, record.id, "entry", record.error)
        return
    try:
        size = record.load().size
    except ImageError as error:
        yield Problem(record.where, record.id, "image", str(error))
        return
    if size != (record.width, record.height):
        found, said = f"{size[0]} x {size[1]}", f"{record.width} x {record.height}"
        yield Problem(
            record.where, record.id, "image", f"it is {found} (turned upright), the annotations are for {said}"
        )


Flaw = tuple[str, str]
"""Kind and message."""


def _of_shapes(record: Record) -> Iterator[Flaw]:
    size = record.width, record.height
    for thing in record.objects or ():
        yield from _of_box(thing.box, f"the box of {thing.label!r}", size)
        for polygon in thing.polygons:
            yield from _of_outline(polygon, f"an outline of {thing.label!r}", size)
    for phrase in record.phrases:
        for box in phrase.boxes:
            yield from _of_box(box, f"a box of the phrase {phrase.text!r}", size)
    for ref in record.refs:
        yield from _of_box(ref.box, f"the box of {ref.text!r}", size)
        for polygon in ref.polygons:
            yield from _of_outline(polygon, f"an outline of {ref.text!r}", size)
    for words in record.text or ():
        yield from _of_outline(words.quad, f"the quad of {words.text!r}", size)


def _of_box(box: tuple[float, ...], what: str, size: tuple[int, int]) -> Iterator[Flaw]:
    x0, y0, x1, y1 = box
    shown = "({:g}, {:g}, {:g}, {:g})".format(*box)
    if x0 > x1 or y0 > y1:
        yield "box", f"{what} is inverted: {shown}; expected (x0, y0, x1, y1) with x0 < x1, y0 < y1"
    elif x0 == x1 or y0 == y1:
        yield "box", f"{what} is empty: {shown}"
    elif not _inside(box, size):
        yield "box", f"{what} lies outside the {size[0]} x {size[1]} photo: {shown}"


def _of_outline(polygon: tuple[float, ...], what: str, size: tuple[int, int]) -> Iterator[Flaw]:
    if len(polygon) % 2:
        yield "outline", f"{what} has {len(polygon)} numbers, expected as many x as y"
    elif len(polygon) < 6:
        yield "outline", f"{what} has {len(polygon) // 2} points, expected at least 3"
    elif not _inside(polygon, size):
        yield "outline", f"{what} lies outside the {size[0]} x {size[1]} photo"


def _inside(values: tuple[float, ...], size: tuple[int, int]) -> bool:
    return all(-SLACK <= value <= size[i % 2] + SLACK for i, value in enumerate(values))  # NaN is not


def _of_texts(record: Record, tokenizer: Tokenizer) -> Iterator[Flaw]:
    texts = [("a caption", text) for text in record.captions]
    texts += [("a label", thing.label) for thing in record.objects or ()]
    texts += [("a phrase", phrase.text) for phrase in record.phrases]
    texts += [("a referring expression", ref.text) for ref in record.refs]
    texts += [("a text", words.text) for words in record.text or ()]
    for asked in record.qa:
        texts += [("a question", asked.question), *(("an answer", answer) for answer in asked.answers)]
    for what, text in texts:
        if not text.strip():
            yield "text", f"{what} is empty"
            continue
        try:
            marks = [tokenizer.token_text(id) for id in tokenizer.encode(text) if id in tokenizer.special_ids]
        except Florence2Error as error:
            yield "text", f"{what} cannot be tokenised: {error}"
            continue
        marks += _LOCATION.findall(text)
        if marks:
            yield "text", f"{what} holds {marks[0]}, a mark of the answer language: {_short(text)!r}"


_LOCATION = re.compile(r"<loc_-?\d+>")


def _of_target(target: Target, tokenizer: Tokenizer, report: Report, most: int, most_prompt: int) -> Iterator[Flaw]:
    try:
        ids = target.ids(tokenizer)
        prompt = tokenizer.encode_prompt(target.prompt)
    except Florence2Error as error:
        yield "target", str(error)
        return
    report.targets[target.task] += 1
    report.longest[target.task] = max(report.longest[target.task], len(ids))
    if target.task not in report.examples:
        report.examples[target.task] = Example(target.prefix, target.suffix(tokenizer))
    if len(ids) > most:
        yield "length", f"the target has {len(ids)} tokens, the position table {most}; thin it out or split it"
    if len(prompt) > most_prompt:
        yield "length", f"the prompt has {len(prompt)} tokens, beside the image there is room for {most_prompt}"
    if isinstance(target.answer, str):
        yield from _of_text_target(target, target.answer, ids, tokenizer)
        return
    found = answers.parse(ids, target.task, (target.answer.width, target.answer.height), tokenizer)
    if found.dropped or _said(found) != _said(on_grid(target.answer)):
        yield "target", f"it is parsed back as {_short(str(found))!r}, not as {_short(str(target.answer))!r}"


def _of_text_target(target: Target, answer: str, ids: list[int], tokenizer: Tokenizer) -> Iterator[Flaw]:
    beyond = [mark for mark in _LOCATION.findall(answer) if not 0 <= int(mark[5:-1]) < BINS]
    if beyond:
        yield "target", f"{beyond[0]} is not in the vocabulary: bins run from 0 to {BINS - 1}"
    elif not target.task and not answer.strip():
        yield "target", "the answer is empty"
    elif target.task:
        task = tasks.get(target.task)
        problem = grammar.compile(task.grammar, tokenizer).rejection(ids)
        empty = answer == "" and task.result is not Text  # nothing was found: as good an answer as any
        if problem and not empty:
            shown = f"{problem}; its answers are {grammar.spell(task.grammar)}"
            yield "target", f"{_short(answer)!r} is no answer of {target.task}: {shown}"


def on_grid(answer: Answer) -> Answer:
    """The answer as its tokens will say it: coordinates in the middle of their bins, texts without outer blanks."""
    size = answer.width, answer.height

    def moved(values: Any) -> Any:
        return tuple(dequantize(quantize(values, size), size))

    match answer:
        case Text():
            return dataclasses.replace(answer, text=answer.text.strip())
        case Detections():
            objects = tuple(
                dataclasses.replace(item, label=item.label.strip(), box=moved(item.box)) for item in answer.objects
            )
            return dataclasses.replace(answer, objects=objects)
        case Segments():
            instances = tuple(
                dataclasses.replace(item, polygons=tuple(map(moved, item.polygons))) for item in answer.instances
            )
            return dataclasses.replace(answer, instances=instances)
        case TextRegions():
            regions = tuple(
                dataclasses.replace(item, text=item.text.strip(), quad=moved(item.quad)) for item in answer.regions
            )
            return dataclasses.replace(answer, regions=regions)
    return answer


def _said(answer: Answer) -> Any:
    """What is compared: everything but scores and remarks."""
    match answer:
        case Text():
            return answer.text
        case Detections():
            return [(item.label, item.box) for item in answer.objects]
        case Segments():
            return [(item.label, item.polygons) for item in answer.instances]
        case TextRegions():
            return [(item.text, item.quad) for item in answer.regions]
    return None


def _short(text: str, most: int = 90) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 3] + "..."
