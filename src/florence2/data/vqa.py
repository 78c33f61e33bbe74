"""Questions and answers: VQA v2 and DocVQA.

VQA v2 ("vqa"): ``*questions*.json`` and, where answers are public, ``*annotations*.json`` beside it. Of the ten
answers that people gave, each is kept once, the most frequent first. Images are called after their ids
(``COCO_val2014_000000000042.jpg``), in the folder of the questions or one below.

DocVQA ("docvqa"): one JSON file with ``data``: question, answers, image.

Written: ``questions.json`` and ``annotations.json``, with the names of the images under ``images``; or ``docvqa.json``;
and ``images/``.

Source: visualqa.org, "Download"; docvqa.org, "SP-DocVQA".
"""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from florence2.data import fields
from florence2.data.files import ImageFolder, find_image, images_in, numbered_ids
from florence2.data.records import Place, Question, Record, broken, entry
from florence2.errors import DataError
from florence2.images import measure


def _documents(source: Path) -> Iterator[Path]:
    yield from [source] if source.is_file() else sorted([*source.glob("*.json"), *source.glob("*/*.json")])


def _mentions(path: Path, *keys: bytes) -> bool:
    """Are the keys in the first or last 64 KB of a JSON file? The large lists lie between them."""
    if path.suffix != ".json":
        return False
    with path.open("rb") as stream:
        ends = stream.read(1 << 16)
        stream.seek(max(0, path.stat().st_size - (1 << 16)))
        ends += stream.read()
    return all(key in ends for key in keys)


# VQA v2


def recognise(source: Path) -> str | None:
    found = _question_files(source)
    return f"VQA questions in {', '.join(map(str, found))}" if found else None


def read(source: Path) -> Iterator[Record]:
    for path in _question_files(source):
        try:
            document = fields.mapping(fields.parse_json(fields.read_text(path), str(path)), str(path))
            answers = _answers(path)
            yield from _records(path, document, answers)
        except DataError as error:
            yield broken(Place(str(path)), error)


def _question_files(source: Path) -> list[Path]:
    return [path for path in _documents(source) if _mentions(path, b'"questions"')]


def _answers(questions: Path) -> dict[Any, tuple[str, ...]]:
    """By question id; of the annotation file whose name fits, or of all beside the questions."""
    beside = [p for p in sorted(questions.parent.glob("*.json")) if _mentions(p, b'"annotations"', b'"question_id"')]
    split = re.findall(r"(?:train|val|test)\w*(?=_|$)", questions.stem)
    fitting = [path for path in beside if split and split[-1] in path.stem] or beside
    found: dict[Any, tuple[str, ...]] = {}
    for path in fitting:
        document = fields.mapping(fields.parse_json(fields.read_text(path), str(path)), str(path))
        for value in fields.items(document["annotations"], "annotations"):
            annotation = fields.mapping(value, "an annotation")
            id = fields.field(annotation, "question_id", "an annotation")
            found[id] = _ranked(annotation, f"the answers to question {id} in {path}")
    return found


def _ranked(annotation: dict[str, Any], what: str) -> tuple[str, ...]:
    """Each answer once: the official one, then by the number of people who gave it."""
    given = fields.items(annotation.get("answers", []), what)
    counts = Counter(fields.string(a.get("answer") if isinstance(a, dict) else a, what) for a in given)
    best = [fields.string(annotation["multiple_choice_answer"], what)] if "multiple_choice_answer" in annotation else []
    return tuple(dict.fromkeys([*best, *(answer for answer, _ in counts.most_common())]))


def _records(path: Path, document: dict[str, Any], answers: dict[Any, tuple[str, ...]]) -> Iterator[Record]:
    named = {
        image["id"]: image for image in fields.items(document.get("images", []), "images") if isinstance(image, dict)
    }
    by_image: dict[Any, list[Question]] = {id: [] for id in named}
    for value in fields.items(document["questions"], "questions"):
        try:
            d = fields.mapping(value, "a question")
            image = fields.field(d, "image_id", "a question")
            text = fields.string(fields.field(d, "question", "a question"), "question")
            given = answers.get(d.get("question_id"), ())
        except DataError as error:
            yield broken(Place(str(path)), error)
            continue
        by_image.setdefault(image, []).append(Question(question=text, answers=given))
    files = {} if named else _by_number(path.parent)
    for id, questions in by_image.items():
        place = Place(f"{path} (image {id})")
        yield entry(place, functools.partial(_asked, id, named.get(id, {}), files, tuple(questions), path, place))


def _by_number(folder: Path) -> dict[int, Path]:
    """Images by the number at the end of their names."""
    found = ((re.search(r"(\d+)$", image.stem), image) for image in images_in(folder))
    return {int(match[1]): image for match, image in found if match}


def _asked(
    id: Any, named: dict[str, Any], files: dict[int, Path], questions: tuple[Question, ...], path: Path, place: Place
) -> Record:
    if "file_name" in named:
        image = path.parent / fields.string(named["file_name"], "file_name")
    elif str(id).isdigit() and int(id) in files:
        image = files[int(id)]
    else:
        raise DataError(f"no image below {path.parent} is called by the number {id}")
    width, height = measure(image)
    record_id = str(named.get("record_id", id))
    return Record(image=image, id=record_id, width=width, height=height, qa=questions, place=place)


def write(records: Iterable[Record], target: Path) -> None:
    kept = list(records)
    folder = ImageFolder(target / "images")
    images: list[dict[str, Any]] = []
    questions: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for record, id in zip(kept, numbered_ids(kept), strict=True):
        images.append({"id": id, "file_name": f"images/{folder.add(record)}", "record_id": record.id})
        for asked in record.qa:
            number = len(questions) + 1
            questions.append({"image_id": id, "question": asked.question, "question_id": number})
            if asked.answers:
                given = [
                    {"answer": a, "answer_confidence": "yes", "answer_id": n} for n, a in enumerate(asked.answers, 1)
                ]
                annotations.append(
                    {
                        "image_id": id,
                        "question_id": number,
                        "multiple_choice_answer": asked.answers[0],
                        "answers": given,
                    }
                )
    _dump({"images": images, "questions": questions}, target / "questions.json")
    _dump({"annotations": annotations}, target / "annotations.json")


# DocVQA


def recognise_docvqa(source: Path) -> str | None:
    found = _docvqa_files(source)
    return f"DocVQA questions in {', '.join(map(str, found))}" if found else None


def _docvqa_files(source: Path) -> list[Path]:
    return [path for path in _documents(source) if _mentions(path, b'"data"', b'"questionId"', b'"question"')]


def read_docvqa(source: Path) -> Iterator[Record]:
    for path in _docvqa_files(source):
        records: dict[str, Record] = {}
        try:
            document = fields.mapping(fields.parse_json(fields.read_text(path), str(path)), str(path))
            asked = fields.items(fields.field(document, "data", str(path)), "data")
        except DataError as error:
            yield broken(Place(str(path)), error)
            continue
        for value in asked:
            number = value.get("questionId") if isinstance(value, dict) else None
            place = Place(f"{path} (question {number})")
            record = entry(place, functools.partial(_document, value, path, place))
            if record.error:
                yield record
            elif str(record.image) in records:
                known = records[str(record.image)]
                records[str(record.image)] = replace(known, qa=known.qa + record.qa)
            else:
                records[str(record.image)] = record
        yield from records.values()


def _document(value: Any, path: Path, place: Place) -> Record:
    d = fields.mapping(value, "a question")
    name = fields.string(fields.field(d, "image", "a question"), "image")
    image = find_image(name, [path.parent, path.parent / "images", path.parent.parent])
    text = fields.string(fields.field(d, "question", "a question"), "question")
    answers = tuple(fields.string(a, "an answer") for a in fields.items(d.get("answers", []), "answers"))
    width, height = measure(image)
    qa = (Question(question=text, answers=answers),)
    return Record(image=image, id=image.stem, width=width, height=height, qa=qa, place=place)


def write_docvqa(records: Iterable[Record], target: Path) -> None:
    folder = ImageFolder(target / "images")
    data: list[dict[str, Any]] = []
    for record in records:
        name = f"images/{folder.add(record)}"
        for asked in record.qa:
            entry = {
                "questionId": len(data) + 1,
                "question": asked.question,
                "image": name,
                "answers": list(asked.answers),
            }
            data.append(entry)
    _dump({"dataset_name": "SP-DocVQA", "data": data}, target / "docvqa.json")


def _dump(document: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
