"""The data of a recipe, read, checked and made ready to be drawn from.

Everything is read once into ``RUN/data/NAME.records`` (see ``store.py``). Then it is decided which records teach
anything, which are held out for validation, and what is wrong: the pre-flight, before the first step.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from florence2.data import formats
from florence2.data.augment import Augment
from florence2.data.check import Problem, Report, check
from florence2.data.records import Record
from florence2.data.scenes import Scenes
from florence2.data.targets import Choices, pairs
from florence2.errors import ConfigError, DataError, Florence2Error
from florence2.language.tokenizer import Tokenizer
from florence2.training import store
from florence2.training.batch import Limits
from florence2.training.mixture import Photos, Source
from florence2.training.recipe import DataChoice, Recipe
from florence2.training.snapshots import write_durably

Numbers = npt.NDArray[np.int_]
Progress = Callable[[str, int], None]
"""Told what is being done and how many records of it are done."""


@dataclass
class Prepared:
    """What a recipe's data has become."""

    sources: list[Source] = field(default_factory=list)
    held_out: list[Source] = field(default_factory=list)
    """For validation: what training sources hold out, and the data sets of ``validation.data``."""
    report: Report = field(default_factory=Report)


@dataclass(frozen=True)
class Loaded:
    """The records of a store, with their photos."""

    records: store.RecordStore

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, number: int) -> tuple[Record, Image.Image]:
        record = self.records[number]
        return record, record.load()


@dataclass(frozen=True)
class Some:
    """Some of a sequence."""

    photos: Photos
    numbers: Numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, number: int) -> tuple[Record, Image.Image]:
        return self.photos[int(self.numbers[number])]


def prepare(
    recipe: Recipe, folder: Path, tokenizer: Tokenizer, limits: Limits, progress: Progress, fresh: bool = True
) -> Prepared:
    """Reads, checks and sorts all data. ``fresh=False`` takes what an earlier start of the run left in ``folder``.

    Raises DataError where the data has problems and the recipe does not say that they are skipped, where a source
    holds nothing to learn, and where it has changed since the run began.
    """
    desk, prepared = _Desk(recipe, folder, tokenizer, limits, progress, fresh), Prepared()
    for name, choice in recipe.data.items():
        kept, held = desk.source(name, name, choice, prepared.report)
        prepared.sources.append(kept)
        if len(held.photos):
            prepared.held_out.append(held)
    for name, choice in recipe.validation.data.items():
        kept, _ = desk.source(name, f"validation-{name}", choice, prepared.report)
        prepared.held_out.append(dataclasses.replace(kept, augment=Augment()))
    if recipe.preflight.problems == "stop" and not prepared.report.ok:
        raise DataError(
            f"{prepared.report}\nNothing was trained. Mend the data, or leave such records out with "
            'preflight.problems = "skip"'
        )
    return prepared


def expand(path: str) -> Path:
    """With ``~`` and ``$NAME`` replaced. Raises ConfigError for a name that is not set."""
    expanded = os.path.expanduser(os.path.expandvars(path))
    if "$" in expanded:
        raise ConfigError(f"the path {path} names a variable that is not set; export it, or write the path")
    return Path(expanded)


@dataclass(frozen=True)
class _Desk:
    """What all sources of a recipe are prepared with."""

    recipe: Recipe
    folder: Path
    tokenizer: Tokenizer
    limits: Limits
    progress: Progress
    fresh: bool

    def source(self, name: str, file: str, choice: DataChoice, report: Report) -> tuple[Source, Source]:
        """(what is drawn from, what is held out)."""
        photos: Photos
        if choice.scenes is not None:
            photos, every = Scenes(choice.scenes), np.arange(choice.scenes.count)
            out = np.array([is_held_out(str(n), choice.hold_out) for n in every], bool)
            kept, held = every[~out], every[out]
        else:
            photos, kept, held = self._stored(name, file, choice, report)
        if not len(kept):
            wanted = ", ".join(choice.task_weights) or "any task"
            problems = "" if report.ok else f"; {report.problems[0]}"
            raise DataError(
                f"data.{name}: none of its records can teach {wanted}{problems}; "
                "`florence2 data check` shows what is there"
            )
        choices = self._choices(choice)
        augment = choice.augment or self.recipe.augment
        drawn = Source(name, Some(photos, kept), choice.task_weights, choice.weight, augment, choices)
        return drawn, Source(name, Some(photos, held), choice.task_weights, choices=choices)

    def _stored(self, name: str, file: str, choice: DataChoice, report: Report) -> tuple[Photos, Numbers, Numbers]:
        """The records of a data set, and the numbers of those to train on and those held out."""
        path, notes = self.folder / f"{file}.records", self.folder / f"{file}.json"
        source = expand(choice.path)
        print_ = _fingerprint(source)
        if not self.fresh and notes.is_file():
            known = json.loads(notes.read_text())
            if known["fingerprint"] != print_:
                raise DataError(f"data.{name}: {source} has changed since this run began; train on it in another run")
            return Loaded(store.RecordStore(path)), np.array(known["kept"], int), np.array(known["held"], int)
        dataset = formats.read(source, choice.format or None)
        records = store.write(self._readable(dataset, choice.limit, report, name), path)
        bad = self._check(records, choice, report, name)
        numbers: tuple[list[int], list[int]] = ([], [])
        for number in range(len(records)):
            if number % 1000 == 0:
                self.progress(f"sorting {name}", number)
            record = records[number]
            if number not in bad and _teaches(record, choice):
                numbers[is_held_out(record.id, choice.hold_out)].append(number)
        write_durably(notes, json.dumps({"fingerprint": print_, "kept": numbers[0], "held": numbers[1]}))
        return Loaded(records), np.array(numbers[0], int), np.array(numbers[1], int)

    def _readable(self, records: Iterable[Record], limit: int | None, report: Report, name: str) -> Iterator[Record]:
        """Those that can be read; the others are problems."""
        for number, record in enumerate(itertools.islice(records, limit)):
            if number % 1000 == 0:
                self.progress(f"reading {name}", number)
            if record.error:
                report.records += 1
                report.problems.append(Problem(record.where, record.id, "entry", record.error))
            else:
                yield record

    def _check(self, records: store.RecordStore, choice: DataChoice, report: Report, name: str) -> set[int]:
        """Looks at the records that the recipe wants to be looked at; returns the numbers of those with problems."""
        total, wanted = len(records), self.recipe.preflight.records
        every = self.recipe.preflight.problems == "skip" or wanted == 0 or wanted >= total
        bad = set()
        for done, number in enumerate(range(total) if every else np.linspace(0, total - 1, wanted).astype(int)):
            if done % 1000 == 0:
                self.progress(f"checking {name}", done)
            found = check(
                [records[int(number)]],
                self.tokenizer,
                task=tuple(choice.task_weights) or None,
                choices=self._choices(choice),
                max_tokens=self.limits.answer,
                max_prompt=self.limits.prompt,
            )
            report.add(found)
            if not found.ok:
                bad.add(int(number))
        return bad

    def _choices(self, choice: DataChoice) -> Choices:
        return Choices(choice.order, self.recipe.seed, choice.negatives, choice.max_points)


def _teaches(record: Record, choice: DataChoice) -> bool:
    try:
        return bool(pairs(record, tuple(choice.task_weights) or None))
    except Florence2Error:
        return False  # the pre-flight has named it, if it was looked at


def is_held_out(id: str, share: float) -> bool:
    """The same records in every run, whatever is added to the data."""
    number = int.from_bytes(hashlib.blake2b(id.encode("utf-8", "replace"), digest_size=8).digest(), "big")
    return number / 2**64 < share


def _fingerprint(source: Path) -> list[Any]:
    """Names, sizes and times of a file, or of what lies in a folder."""
    if not source.exists():
        raise DataError(f"{source} does not exist; give the file or folder of a data set")
    paths = sorted(source.iterdir()) if source.is_dir() else [source]
    return [[path.name, path.stat().st_size if path.is_file() else 0, path.stat().st_mtime_ns] for path in paths]
