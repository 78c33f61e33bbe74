"""Questions: VQA v2, TextVQA, VizWiz and DocVQA, all val. One sample per question, those of a photo together.

``data.vqa`` reads two of these for training, where each answer is kept once; here the answers of all people count, as
often as they were given.

Sources: Goyal et al. (2017), "VQA v2"; Singh et al. (2019), "TextVQA"; Gurari et al. (2018), "VizWiz"; Mathew et al.
(2021), "DocVQA".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from florence2.data import fields
from florence2.errors import DataError
from florence2.evaluation.benchmarks.captions import TEXTVQA_PHOTOS, VAL2014
from florence2.evaluation.benchmarks.records import Benchmark, Needed
from florence2.evaluation.benchmarks.sources import (
    checked,
    document,
    entry,
    listed,
    located,
    name_of,
    photo,
    size_of,
    texts,
    tuned,
)
from florence2.evaluation.samples import Sample

VQA, DOCVQA = "<VQA>", "<DocVQA>"

VQA_QUESTIONS = Needed(
    "vqav2/v2_OpenEnded_mscoco_val2014_questions.json | v2_OpenEnded_mscoco_val2014_questions.json",
    "the questions of VQA v2 val: v2_OpenEnded_mscoco_val2014_questions.json (visualqa.org)",
)
VQA_ANSWERS = Needed(
    "vqav2/v2_mscoco_val2014_annotations.json | v2_mscoco_val2014_annotations.json",
    "the answers of VQA v2 val: v2_mscoco_val2014_annotations.json (visualqa.org)",
)
TEXTVQA = Needed(
    "textvqa/TextVQA_0.5.1_val.json | TextVQA_0.5.1_val.json",
    "the questions and answers of TextVQA val: TextVQA_0.5.1_val.json (textvqa.org)",
)
VIZWIZ = Needed(
    "vizwiz/Annotations/val.json | vizwiz/val.json | Annotations/val.json | val.json",
    "the questions and answers of VizWiz-VQA val: val.json out of Annotations.zip (vizwiz.org)",
)
VIZWIZ_PHOTOS = Needed("vizwiz/val | val", "the photos of VizWiz-VQA val: val.zip, unpacked (vizwiz.org)")
DOCVQA_QUESTIONS = Needed(
    "docvqa/val_v1.0_withQT.json | docvqa/val_v1.0.json | docvqa/spdocvqa_qas/val_v1.0_withQT.json "
    "| spdocvqa_qas/val_v1.0_withQT.json | val_v1.0_withQT.json | val_v1.0.json",
    "the questions and answers of DocVQA val: val_v1.0_withQT.json (Single Page Document VQA, docvqa.org)",
)
DOCVQA_PHOTOS = Needed(
    "docvqa/spdocvqa_images | docvqa/documents | spdocvqa_images | documents",
    "the pages of DocVQA: spdocvqa_images.tar.gz, unpacked (Single Page Document VQA, docvqa.org)",
)


@dataclass(frozen=True)
class _Asked:
    """One question as a file has it."""

    id: str
    question: str
    answers: tuple[str, ...]
    image: Path
    size: tuple[int, int] | None
    where: str


def _vqav2(folder: Path) -> Iterator[_Asked]:
    path, photos = located(folder, VQA_QUESTIONS), located(folder, VAL2014)
    answers = _answers(located(folder, VQA_ANSWERS))
    for number, value in enumerate(listed(document(path), "questions", path)):
        where = f"question {number}"
        with entry(path, where):
            d = fields.mapping(value, "it")
            id = name_of(d, "question_id", "it")
            if id not in answers:
                raise DataError(f"question_id {id} has no entry in {located(folder, VQA_ANSWERS)}")
            image = photos / f"COCO_val2014_{fields.whole(fields.field(d, 'image_id', 'it'), 'image_id'):012d}.jpg"
            asked = _Asked(id, _question(d), answers[id], image, None, where)
        yield asked


def _answers(path: Path) -> dict[str, tuple[str, ...]]:
    """By question_id."""
    found: dict[str, tuple[str, ...]] = {}
    for number, value in enumerate(listed(document(path), "annotations", path)):
        with entry(path, f"annotation {number}"):
            d = fields.mapping(value, "it")
            found[name_of(d, "question_id", "it")] = _given(d)
    return found


def _textvqa(folder: Path) -> Iterator[_Asked]:
    path, photos = located(folder, TEXTVQA), located(folder, TEXTVQA_PHOTOS)
    for number, value in enumerate(listed(document(path), "data", path)):
        where = f"entry {number}"
        with entry(path, where):
            d = fields.mapping(value, "it")
            image = photos / f"{name_of(d, 'image_id', 'it')}.jpg"
            size = size_of(d, "image_width", "image_height")
            asked = _Asked(name_of(d, "question_id", "it"), _question(d), _given(d), image, size, where)
        yield asked


def _vizwiz(folder: Path) -> Iterator[_Asked]:
    path, photos = located(folder, VIZWIZ), located(folder, VIZWIZ_PHOTOS)
    for number, value in enumerate(fields.items(fields.parse_json(fields.read_text(path), str(path)), str(path))):
        where = f"entry {number}"
        with entry(path, where):
            d = fields.mapping(value, "it")
            image = photos / fields.string(fields.field(d, "image", "it"), "image")
            asked = _Asked(image.stem, _question(d), _given(d), image, None, where)  # one question per photo
        yield asked


def _docvqa(folder: Path) -> Iterator[_Asked]:
    path, photos = located(folder, DOCVQA_QUESTIONS), located(folder, DOCVQA_PHOTOS)
    for number, value in enumerate(listed(document(path), "data", path)):
        where = f"entry {number}"
        with entry(path, where):
            d = fields.mapping(value, "it")
            name = fields.string(fields.field(d, "image", "it"), "image")  # documents/..., wherever it was unpacked
            image = photos / name.rpartition("/")[2]
            asked = _Asked(name_of(d, "questionId", "it"), _question(d), _given(d), image, None, where)
        yield asked


def _question(values: dict[str, Any]) -> str:
    return fields.string(fields.field(values, "question", "it"), "question")


def _given(values: dict[str, Any]) -> tuple[str, ...]:
    """The answers of all people, as often as they gave them: texts, or entries with a text and how sure they were."""
    several = fields.items(fields.field(values, "answers", "it"), "answers")
    return tuple(fields.string(a.get("answer") if isinstance(a, dict) else a, "an answer") for a in several)


def _samples(
    folder: Path, asked: Callable[[Path], Iterator[_Asked]], file: Needed, task: str, source: str
) -> Iterator[Sample]:
    path = located(folder, file)
    of_photo: dict[Path, list[_Asked]] = {}
    for question in asked(folder):
        of_photo.setdefault(question.image, []).append(question)
    for image, questions in of_photo.items():
        with entry(path, questions[0].where):
            record = photo(image, image.stem, source, "val", questions[0].size)
        for question in questions:
            with entry(path, question.where):
                truth = texts(record, task, question.answers, "answers")
            yield Sample(id=question.id, record=record, task=task, given=question.question, truth=truth)


def _reader(
    asked: Callable[[Path], Iterator[_Asked]], file: Needed, task: str, source: str
) -> Callable[[Path], Iterator[Sample]]:
    return partial(checked, read=partial(_samples, asked=asked, file=file, task=task, source=source), file=file)


_AGREEMENT = (
    "VQA accuracy: min(1, matches / 3) over leaving out each of the ten people, answers normalised as VQA defines it. "
)
_SPLIT = "The paper's figures are of test-dev, whose answers are secret; those here are of val, other questions. "
_PROMPT = (
    "Asked is <VQA> and the question, which only models fine-tuned with that token know; how the paper asked is not "
    "known here."
)
_TEST_DEV = "table 5, of test-dev"

BENCHMARKS: tuple[Benchmark, ...] = (
    Benchmark(
        name="vqav2",
        title="VQA v2, val",
        task=VQA,
        measure="vqa",
        main="accuracy",
        protocol=_AGREEMENT + _SPLIT + _PROMPT,
        read=_reader(_vqav2, VQA_QUESTIONS, VQA, "VQA v2"),
        needs=(VQA_QUESTIONS, VQA_ANSWERS, VAL2014),
        paper=tuned("accuracy", 79.7, 81.7, _TEST_DEV),
    ),
    Benchmark(
        name="textvqa",
        title="TextVQA, val",
        task=VQA,
        measure="vqa",
        main="accuracy",
        protocol=_AGREEMENT + "No text that an OCR system read is given. " + _SPLIT + _PROMPT,
        read=_reader(_textvqa, TEXTVQA, VQA, "TextVQA"),
        needs=(TEXTVQA, TEXTVQA_PHOTOS),
        paper=tuned("accuracy", 63.6, 73.5, _TEST_DEV),
    ),
    Benchmark(
        name="vizwiz",
        title="VizWiz, val",
        task=VQA,
        measure="vqa",
        main="accuracy",
        protocol=_AGREEMENT
        + "Where people found that a question cannot be answered, 'unanswerable' is their answer and "
        "right. " + _SPLIT + _PROMPT,
        read=_reader(_vizwiz, VIZWIZ, VQA, "VizWiz"),
        needs=(VIZWIZ, VIZWIZ_PHOTOS),
        paper=tuned("accuracy", 63.6, 72.6, _TEST_DEV),
    ),
    Benchmark(
        name="docvqa",
        title="DocVQA, val",
        task=DOCVQA,
        measure="vqa",
        main="ANLS",
        protocol="ANLS: likeness of the answer to the nearest true one, by edits; below 0.5 it is 0, case does not "
        "count. The leaderboard is of the test split, whose answers are secret. No figures of the paper are known. "
        "Asked is <DocVQA> and the question, which only models fine-tuned with that token know.",
        read=_reader(_docvqa, DOCVQA_QUESTIONS, DOCVQA, "DocVQA"),
        needs=(DOCVQA_QUESTIONS, DOCVQA_PHOTOS),
    ),
)
