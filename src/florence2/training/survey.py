"""What the data of a recipe holds, counted in one pass: nothing is written, and only a sample is kept in memory."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from florence2.data import formats
from florence2.data.check import Example, Problem, Report, check
from florence2.data.records import Record
from florence2.data.scenes import Scenes
from florence2.data.targets import Choices, Target, pairs
from florence2.errors import Florence2Error
from florence2.language.tokenizer import Tokenizer
from florence2.training.batch import Limits
from florence2.training.mixture import choose
from florence2.training.recipe import DataChoice, Recipe
from florence2.training.sources import expand, is_held_out

SAMPLE = 300
"""Records of a source whose photos are opened and whose answers are read."""
SCENES = 60
"""The same of composed scenes: each has to be drawn."""
DRAWS = 4000
"""Answers are drawn about so many photos to find how often each task is asked."""

Doing = Callable[[str, int], None]


@dataclass
class Survey:
    """What one source holds for one recipe."""

    name: str
    recognised: str
    """What it is, in words."""
    records: int = 0
    """That can be read."""
    to_learn: int = 0
    """Of these, the ones that teach something and are not held out."""
    held_out: int = 0
    targets: Counter[str] = field(default_factory=Counter)
    """Per task, of the records to learn from."""
    estimated: bool = False
    """Whether ``targets`` are reckoned from a sample."""
    asked: dict[str, float] = field(default_factory=dict)
    """Answers per photo and task, as the recipe draws them."""
    examples: dict[str, Example] = field(default_factory=dict)
    """One target of each task."""
    longest: Counter[str] = field(default_factory=Counter)
    """Tokens of the longest target of each task in the sample."""
    left_out: tuple[str, ...] = ()
    """Tasks that the sample could teach and the recipe does not name."""
    report: Report = field(default_factory=Report)
    """All entries that cannot be read, and the check of some records."""


@dataclass(frozen=True)
class _Lessons:
    """How a recipe makes targets of a source's records."""

    tasks: dict[str, float]
    choices: Choices
    per_photo: int

    def of(self, record: Record) -> list[Target]:
        try:
            return pairs(record, tuple(self.tasks) or None, self.choices)
        except Florence2Error:
            return []  # the check tells why, where it looks at this record


def survey(recipe: Recipe, name: str, choice: DataChoice, tokenizer: Tokenizer, limits: Limits, doing: Doing) -> Survey:
    """Raises DataError where there is no data set, or none that is recognised."""
    choices = Choices(choice.order, recipe.seed, choice.negatives, choice.max_points)
    lessons = _Lessons(choice.task_weights, choices, recipe.batch.targets)
    if choice.scenes is not None:
        found, sample = _of_scenes(name, choice, lessons)
    else:
        found, sample = _of_dataset(name, choice, lessons, tokenizer, limits, doing)
    _read_answers(found, sample, lessons, tokenizer)
    return found


def _of_dataset(
    name: str, choice: DataChoice, lessons: _Lessons, tokenizer: Tokenizer, limits: Limits, doing: Doing
) -> tuple[Survey, list[Record]]:
    """The survey, and a sample of the records to learn from."""
    dataset = formats.read(expand(choice.path), choice.format or None)
    found, rng = Survey(name, dataset.recognised), random.Random(0)
    sample: list[Record] = []
    checked: list[Record] = []
    for number, record in enumerate(islice(dataset, choice.limit)):
        if number % 1000 == 0:
            doing(f"reading {name}", number)
        if record.error:
            found.report.problems.append(Problem(record.where, record.id, "entry", record.error))
            continue
        _keep(checked, record, found.records, rng)
        found.records += 1
        targets = lessons.of(record)
        if targets and is_held_out(record.id, choice.hold_out):
            found.held_out += 1
        elif targets:
            _keep(sample, record, found.to_learn, rng)
            found.to_learn += 1
            found.targets.update(target.task for target in targets)
    doing(f"checking {name}", 0)
    tasks, most = tuple(lessons.tasks) or None, (limits.answer, limits.prompt)
    found.report.add(
        check(checked, tokenizer, task=tasks, choices=lessons.choices, max_tokens=most[0], max_prompt=most[1])
    )
    return found, sample


def _of_scenes(name: str, choice: DataChoice, lessons: _Lessons) -> tuple[Survey, list[Record]]:
    """All scenes are taken to teach; some are drawn."""
    assert choice.scenes is not None
    scenes = Scenes(choice.scenes)
    numbers = [number for number in range(len(scenes)) if not is_held_out(str(number), choice.hold_out)]
    out = len(scenes) - len(numbers)
    found = Survey(name, "composed scenes", records=len(scenes), to_learn=len(numbers), held_out=out)
    sample = [scenes[number][0] for number in numbers[:: max(1, len(numbers) // SCENES)][:SCENES]]
    counted = Counter(target.task for record in sample for target in lessons.of(record))
    found.estimated = len(sample) < len(numbers)
    found.targets = Counter({task: round(count / len(sample) * len(numbers)) for task, count in counted.items()})
    return found, sample


def _keep(sample: list[Record], record: Record, before: int, rng: random.Random) -> None:
    """Each of the records that came so far is equally likely to be in the sample.

    Source: Vitter (1985), "Random sampling with a reservoir", algorithm R.
    """
    if before < SAMPLE:
        sample.append(record)
    elif (place := rng.randrange(before + 1)) < SAMPLE:
        sample[place] = record


def _read_answers(found: Survey, sample: Sequence[Record], lessons: _Lessons, tokenizer: Tokenizer) -> None:
    """What is asked and answered about the records of a sample."""
    taught = [lessons.of(record) for record in sample]
    rounds, rng = -(-DRAWS // max(1, len(sample))), random.Random(0)
    for targets in taught:
        for _ in range(rounds):
            for target in choose(targets, lessons.tasks, lessons.per_photo, rng):
                found.asked[target.task] = found.asked.get(target.task, 0.0) + 1 / (rounds * len(sample))
        for target in targets:
            try:
                ids = target.ids(tokenizer)
            except Florence2Error:
                continue  # the check tells why
            found.longest[target.task] = max(found.longest[target.task], len(ids))
            if target.task not in found.examples:
                found.examples[target.task] = Example(target.prefix, target.suffix(tokenizer))
    if lessons.tasks:
        could = dict.fromkeys(target.task for record in sample for target in pairs(record, None, lessons.choices))
        found.left_out = tuple(task for task in could if task not in lessons.tasks)
