"""Runs benchmarks: asks, remembers every answer at once, measures, and can be stopped anywhere.

    RUN/run.json                        what was asked of whom; a run is only gone on with where it is the same
    RUN/answers/packs-caption.jsonl     one line per chunk of samples, in order; "blind" of it with other photos
    RUN/report.json, RUN/report.html    the figures

Samples are asked in chunks that depend on the samples alone, and a chunk is written when it is answered. So a run that
was stopped asks the rest in the same chunks and ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from florence2.checkpoints.calibration import Calibration
from florence2.errors import DataError, Florence2Error
from florence2.evaluation import bootstrap
from florence2.evaluation.answerers import Answerer
from florence2.evaluation.benchmarks.records import Benchmark
from florence2.evaluation.measures import measure
from florence2.evaluation.outcomes import Outcome
from florence2.evaluation.samples import Sample
from florence2.language import tasks
from florence2.results import Answer

CHUNK = 32
"""Samples that are asked together, at least; the samples of one photo are never parted."""
LIMIT_SEED = 0

Watch = Callable[[str, int, int], None]
"""(title of the benchmark, samples answered, samples in all)"""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is asked. ``limit``: at most so many samples of each benchmark, drawn once and for all."""

    benchmarks: tuple[Benchmark, ...]
    data: Path
    limit: int | None = None
    blind: bool = False
    """Also ask about the photo of the next record in place of each: what is right then was not seen."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "benchmarks": [benchmark.name for benchmark in self.benchmarks],
            "data": str(self.data),
            "limit": self.limit,
            "blind": self.blind,
        }

    def samples(self, benchmark: Benchmark) -> tuple[Sample, ...]:
        """Raises DataError where there are none, or an id occurs twice."""
        every = list(benchmark.samples(self.data))
        if not every:
            raise DataError(f"{self.data} holds nothing that {benchmark.name} could ask; see its protocol in the guide")
        ids = {sample.id for sample in every}
        if len(ids) != len(every):
            raise DataError(f"{len(every) - len(ids)} ids of {benchmark.name} in {self.data} occur more than once")
        if self.limit is not None and self.limit < len(every):
            kept = sorted(random.Random(LIMIT_SEED).sample(range(len(every)), self.limit))
            every = [every[number] for number in kept]
        return tuple(every)


def possible(benchmarks: Sequence[Benchmark], data: Path) -> tuple[list[Benchmark], list[Benchmark]]:
    """Those of a group that the data has questions for, and the others. Raises DataError where it has none for any."""
    asking = [benchmark for benchmark in benchmarks if next(benchmark.samples(data), None) is not None]
    if not asking:
        raise DataError(f"{data} holds nothing that {', '.join(b.name for b in benchmarks)} could ask")
    return asking, [benchmark for benchmark in benchmarks if benchmark not in asking]


@dataclass(frozen=True)
class Given:
    """The answers to the samples of one benchmark."""

    answers: tuple[Answer, ...]
    errors: Mapping[int, str] = field(default_factory=dict)


def run(
    plan: Plan,
    answerer: Answerer,
    folder: Path,
    watch: Watch = lambda *_: None,
    calibration: Calibration | None = None,
) -> list[Outcome]:
    """Answers everything that is not answered yet in ``folder``, and measures all.

    ``calibration`` is what the answerer applied to its scores; the report then shows what it does to them.

    Raises DataError where the folder holds another run, or the data is not there. A sample that cannot be answered
    counts as the empty answer and is listed in ``Outcome.errors``.
    """
    begin(plan, answerer, folder)
    if calibration is not None:
        calibration.save(folder)
    outcomes = []
    for benchmark in plan.benchmarks:
        samples = plan.samples(benchmark)
        given = ask(benchmark, samples, answerer, folder, watch)
        unseen = None
        if plan.blind and len({sample.photo for sample in samples}) > 1:
            unseen = ask(benchmark, samples, answerer, folder, watch, blind=True)
        outcomes.append(outcome(benchmark, samples, given, unseen, calibration))
    return outcomes


def begin(plan: Plan, answerer: Answerer, folder: Path) -> None:
    """Writes down what is asked of whom. Raises DataError where the folder holds something else."""
    wanted = json.loads(json.dumps({"answerer": answerer.describe(), **plan.to_dict()}))
    notes = folder / "run.json"
    if notes.exists():
        before = read_notes(folder)
        # More benchmarks of the same model are the same run.
        changed = [name for name in ("answerer", "limit", "data") if before.get(name) != wanted[name]]
        if changed:
            raise DataError(
                f"{folder} holds another run: its {changed[0]} is {json.dumps(before.get(changed[0]))}, here it is "
                f"{json.dumps(wanted[changed[0]])}; give another folder"
            )
        names = [*before["benchmarks"], *(n for n in wanted["benchmarks"] if n not in before["benchmarks"])]
        wanted |= {"benchmarks": names, "blind": before["blind"] or wanted["blind"]}
    elif folder.exists() and any(folder.iterdir()):
        raise DataError(f"{folder} is not empty and holds no run; give another folder")
    _write(notes, json.dumps(wanted, indent=1, ensure_ascii=False) + "\n")


def read_notes(folder: Path) -> dict[str, Any]:
    """What a folder says it holds. Raises DataError where it holds no run."""
    try:
        notes = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} holds no run of florence2 evaluate ({error})") from error
    if not isinstance(notes, dict) or not {"answerer", "benchmarks", "data", "limit", "blind"} <= notes.keys():
        raise DataError(f"{folder / 'run.json'} is not what florence2 evaluate writes")
    return notes


# Asking


def ask(
    benchmark: Benchmark,
    samples: Sequence[Sample],
    answerer: Answerer,
    folder: Path,
    watch: Watch,
    blind: bool = False,
) -> Given:
    path = _answers_path(folder, benchmark, blind)
    parts = chunks(samples)
    cut_off_half_a_line(path)
    done = read_answers(path, parts)
    others = _next_photos(samples) if blind else {}
    title = f"{benchmark.title} (other photos)" if blind else benchmark.title
    answered = sum(len(part) for part in parts[: len(done)])
    watch(title, answered, len(samples))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for part in parts[len(done) :]:
            found = _ask_chunk(part, others, answerer)
            file.write(_line(part, found) + "\n")
            file.flush()
            os.fsync(file.fileno())
            done.append(found)
            answered += len(part)
            watch(title, answered, len(samples))
    return _given(samples, done)


def _given(samples: Sequence[Sample], found: Sequence[Sequence[Answer | str]]) -> Given:
    """An error counts as the empty answer."""
    flat = [item for part in found for item in part]
    answers = (_empty(sample) if isinstance(item, str) else item for sample, item in zip(samples, flat, strict=True))
    return Given(tuple(answers), {number: item for number, item in enumerate(flat) if isinstance(item, str)})


def chunks(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Neighbours, CHUNK or more; whole photos."""
    parts: list[list[Sample]] = []
    for sample in samples:
        if not parts or (len(parts[-1]) >= CHUNK and parts[-1][-1].photo != sample.photo):
            parts.append([])
        parts[-1].append(sample)
    return parts


def _ask_chunk(part: Sequence[Sample], others: Mapping[str, Sample], answerer: Answerer) -> list[Answer | str]:
    """Answers, or what went wrong. Photos are opened here and forgotten again."""
    photos: dict[str, Image.Image | Florence2Error] = {}
    for sample in part:
        if sample.photo not in photos:
            photos[sample.photo] = _photo(sample, others.get(sample.photo))
    shown = [(sample, photos[sample.photo]) for sample in part]
    asked = [(sample, photo) for sample, photo in shown if isinstance(photo, Image.Image)]
    given = iter(answerer.answer([s for s, _ in asked], [p for _, p in asked]) if asked else [])
    found = [next(given) if isinstance(photo, Image.Image) else photo for _, photo in shown]
    return [f"{type(item).__name__}: {item}" if isinstance(item, Florence2Error) else item for item in found]


def _photo(sample: Sample, other: Sample | None) -> Image.Image | Florence2Error:
    try:
        if other is None:
            return sample.record.load()
        return other.record.load().resize((sample.record.width, sample.record.height), Image.Resampling.BICUBIC)
    except Florence2Error as error:
        return error


def _next_photos(samples: Sequence[Sample]) -> dict[str, Sample]:
    """Photo → a sample of the next photo, round and round."""
    firsts = list({sample.photo: sample for sample in reversed(samples)}.values())[::-1]
    return {sample.photo: firsts[(n + 1) % len(firsts)] for n, sample in enumerate(firsts)}


def _empty(sample: Sample) -> Answer:
    kind = tasks.get(sample.task).result
    return kind(task=sample.task, width=sample.record.width, height=sample.record.height, confidence=0.0)


# Remembering


def _answers_path(folder: Path, benchmark: Benchmark, blind: bool) -> Path:
    ending = ".blind.jsonl" if blind else ".jsonl"
    return folder / "answers" / (benchmark.name.replace("/", "-") + ending)


def _line(part: Sequence[Sample], found: Sequence[Answer | str]) -> str:
    entries = [
        {"id": sample.id, "error": item} if isinstance(item, str) else {"id": sample.id, "answer": item.to_dict()}
        for sample, item in zip(part, found, strict=True)
    ]
    return json.dumps({"samples": _digest(part), "answers": entries}, ensure_ascii=False)


def cut_off_half_a_line(path: Path) -> None:
    """A run that was killed may have left one at the end."""
    content = path.read_bytes() if path.exists() else b""
    end = content.rfind(b"\n") + 1
    if end != len(content):
        with path.open("r+b") as file:
            file.truncate(end)


def read_answers(path: Path, parts: Sequence[Sequence[Sample]], whole: bool = False) -> list[list[Answer | str]]:
    """The chunks that were answered.

    Raises DataError where the answers are to other samples; with ``whole`` also where some are missing.
    """
    content = path.read_bytes() if path.exists() else b""
    lines = content[: content.rfind(b"\n") + 1].decode("utf-8").splitlines()
    if whole and len(lines) < len(parts):
        raise DataError(
            f"{path} has {len(lines)} of {len(parts)} chunks of answers: the run is not finished; start it again"
        )
    if len(lines) > len(parts):
        raise DataError(
            f"{path} has {len(lines)} chunks of answers, expected {len(parts)}; the data or the run differs"
        )
    found: list[list[Answer | str]] = []
    for number, (line, part) in enumerate(zip(lines, parts, strict=False), start=1):
        try:
            document = json.loads(line)
            entries = document["answers"]
            same = document["samples"] == _digest(part) and [e["id"] for e in entries] == [s.id for s in part]
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{path}:{number} is not what florence2 evaluate writes ({error})") from error
        if not same:
            raise DataError(
                f"{path}:{number} answers other questions than those of the data now; the data has changed, give "
                "another folder"
            )
        found.append([e["error"] if "error" in e else Answer.from_dict(e["answer"]) for e in entries])
    return found


def _digest(part: Sequence[Sample]) -> str:
    """Of what is asked and what is right."""
    told = []
    for s in part:
        uncounted = ([(item.label, item.box) for item in s.ignored], s.areas, s.classes, s.illegible)
        told.append((s.id, s.task, s.given, [answer.to_dict() for answer in s.truth], uncounted))
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def _write(path: Path, content: str) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(content, encoding="utf-8")
    os.replace(part, path)


# Measuring


def outcome(
    benchmark: Benchmark,
    samples: Sequence[Sample],
    given: Given,
    unseen: Given | None = None,
    calibration: Calibration | None = None,
    intervals: bool = True,
) -> Outcome:
    measured = measure(benchmark.measure, samples, given.answers)
    photos = [sample.photo for sample in samples]
    borders = {
        name: found
        for name, statistic in measured.statistics.items()
        if intervals and (found := bootstrap.interval(statistic, photos)) is not None
    }
    curve = calibration.curves.get(benchmark.task) if calibration is not None else None
    before = tuple(replace(j, score=curve.score(j.score)) for j in measured.judged) if curve else None
    return Outcome(
        benchmark=benchmark,
        samples=tuple(samples),
        answers=given.answers,
        errors=given.errors,
        measured=measured,
        intervals=borders,
        blind=None if unseen is None else measure(benchmark.measure, samples, unseen.answers).figures,
        uncalibrated=before,
    )


def stored(
    folder: Path,
    find: Callable[[str], list[Benchmark]],
    data: Path | None = None,
    names: Sequence[str] | None = None,
    intervals: bool = True,
) -> Iterator[Outcome]:
    """The outcomes of a finished run, from its answers and its data; no model is needed.

    ``data`` replaces the folder that the run found its data in, ``names`` are benchmarks of it. Intervals take time.
    Raises DataError where answers are missing.
    """
    notes, calibration = read_notes(folder), Calibration.load(folder)
    wanted = tuple(b for name in (notes["benchmarks"] if names is None else names) for b in find(name))
    plan = Plan(benchmarks=wanted, data=data or Path(notes["data"]), limit=notes["limit"], blind=notes["blind"])
    for benchmark in wanted:
        samples = plan.samples(benchmark)
        seen, unseen = (_answers_path(folder, benchmark, blind) for blind in (False, True))
        yield outcome(
            benchmark,
            samples,
            _given(samples, read_answers(seen, chunks(samples), whole=True)),
            _given(samples, read_answers(unseen, chunks(samples), whole=True)) if unseen.exists() else None,
            calibration,
            intervals,
        )
