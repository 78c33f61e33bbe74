"""Any folder of packs (tars of photos and records) as benchmarks: each task that the annotations allow.

What people wrote and what templates made (``origin`` "rule" or "scene") are benchmarks of their own. Questions are
drawn by the id of the record alone, so every run asks the same.

    packs/caption                   one caption beside those of people; <CAPTION>
    packs/phrases                   one phrase of people and its boxes; <CAPTION_TO_PHRASE_GROUNDING>
    packs/captions-grounded         a whole caption, all its phrases
    packs/expressions               an expression of people and its box
    packs/references                a templated expression and its box
    packs/detection                 all objects, where a class list is known to be complete; <OD>
    packs/closed                    labels that are there and two that are not; <OPEN_VOCABULARY_DETECTION>
    packs/proposals                 <REGION_PROPOSAL>
    packs/region-category           the name of a box of 2 % of the photo or more; <REGION_TO_CATEGORY>
    packs/region-segmentation       the outline of such a box; <REGION_TO_SEGMENTATION>
    packs/expression-segmentation   an expression of people and the outline that it means
    packs/referring-segmentation    a templated expression and the outline that it means
    packs/words                     photos of one word; <OCR>
    packs/text                      all text of street photos and documents; <OCR>
    packs/text-regions              words or lines with quads, street and documents; <OCR_WITH_REGION>
    packs/region-text               the text in a box; <REGION_TO_OCR>
    packs/questions                 questions of people; <ASK>
    packs/questions-templated       questions that templates made

Of one data set alone: packs/caption@flickr8k.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from florence2.data import read
from florence2.data.records import Record, Thing
from florence2.data.targets import Choices, taught
from florence2.errors import DataError
from florence2.evaluation.benchmarks.records import Benchmark
from florence2.evaluation.samples import Given, Sample
from florence2.results import Answer, Box, Detections, Object, Text

GROUP = "packs"
LARGE = 0.02
"""Part of the photo that a box must cover: smaller things are a few pixels in a pack."""
ABSENT = 2
"""Classes that are not there, asked per photo."""
MOST = 2
"""Questions, boxes and expressions of one photo, at most: no photo shall count for many."""
TEMPLATES = ("rule", "scene")
"""Origins of what a program wrote: rules over boxes, composed scenes."""

Teacher = Callable[[Record], Iterator[Sample]]


def _captions(record: Record) -> Iterator[Sample]:
    if record.captions:
        truth = tuple(_text(record, "<CAPTION>", caption) for caption in record.captions)
        yield _sample(record, "caption", "<CAPTION>", None, *truth)


def _phrases(record: Record) -> Iterator[Sample]:
    name = "<CAPTION_TO_PHRASE_GROUNDING>"
    found = [number for number, phrase in enumerate(record.phrases) if phrase.boxes]
    for number in _some(found, record, "phrases"):
        phrase = record.phrases[number]
        truth = _detections(record, name, [(phrase.text, _inside(box, record)) for box in phrase.boxes])
        yield _sample(record, f"phrase{number}", name, phrase.text, truth)


def _grounded(record: Record) -> Iterator[Sample]:
    name = "<CAPTION_TO_PHRASE_GROUNDING>"
    for number in dict.fromkeys(phrase.caption for phrase in record.phrases if phrase.caption is not None):
        if not 0 <= number < len(record.captions):
            raise DataError(f"{record.where}: a phrase is from caption {number}, there are {len(record.captions)}")
        found = [(p.text, _inside(box, record)) for p in record.phrases if p.caption == number for box in p.boxes]
        yield _sample(record, f"caption{number}", name, record.captions[number], _detections(record, name, found))


def _references(templated: bool) -> Teacher:
    name = "<CAPTION_TO_PHRASE_GROUNDING>"

    def ask(record: Record) -> Iterator[Sample]:
        numbers = [n for n, ref in enumerate(record.refs) if (ref.origin in TEMPLATES) == templated]
        for number in _some(numbers, record, "references"):
            ref = record.refs[number]
            truth = _detections(record, name, [(ref.text, _inside(ref.box, record))])
            yield _sample(record, f"reference{number}", name, ref.text, truth)

    return ask


def _objects(name: str) -> Teacher:
    def ask(record: Record) -> Iterator[Sample]:
        if record.objects is not None and record.exhaustive and not _regions_of_classes(record):
            labelled = [(thing.label if name == "<OD>" else "", thing) for thing in record.objects]
            yield _with_crowds(record, "objects", name, None, labelled)

    return ask


def _closed(record: Record) -> Iterator[Sample]:
    if record.objects is None or not record.exhaustive or _regions_of_classes(record):
        return
    present = sorted({thing.label for thing in record.objects})
    absent = sorted(set(record.exhaustive) - set(present))
    asked = (*present, *_draw(absent, ABSENT, record, "absent"))
    if asked:
        things = [(thing.label, thing) for thing in record.objects]
        yield _with_crowds(record, "closed", "<OPEN_VOCABULARY_DETECTION>", tuple(asked), things)


def _categories(record: Record) -> Iterator[Sample]:
    name = "<REGION_TO_CATEGORY>"
    for number, thing in _large(record, "categories"):
        truth = _text(record, name, thing.label)
        yield _sample(record, f"object{number}", name, _inside(thing.box, record), truth)


def outlines(record: Record) -> Iterator[Sample]:
    name = "<REGION_TO_SEGMENTATION>"
    for number, thing in _large(record, "outlines", outlined=True):
        for target in taught(_only(record, thing), name, Choices()):
            yield _sample(record, f"object{number}", name, _inside(thing.box, record), _answer(target.answer))


def referred(templated: bool) -> Teacher:
    name = "<REFERRING_EXPRESSION_SEGMENTATION>"

    def ask(record: Record) -> Iterator[Sample]:
        kept = tuple(ref for ref in record.refs if (ref.origin in TEMPLATES) == templated)
        targets = taught(replace(record, refs=kept), name, Choices())
        for number in _some(range(len(targets)), record, "referred"):
            expression = targets[number].prefix[len(name) :]
            yield _sample(record, f"expression{number}", name, expression, _answer(targets[number].answer))

    return ask


def _words(record: Record) -> Iterator[Sample]:
    if record.text is not None and len(record.text) == 1 and _is_crop(record):
        yield _sample(record, "word", "<OCR>", None, _text(record, "<OCR>", record.text[0].text))


def _whole_text(record: Record) -> Iterator[Sample]:
    if record.text and not _is_crop(record):
        for target in taught(record, "<OCR>", Choices()):
            yield _sample(record, "text", "<OCR>", None, _answer(target.answer))


def _text_regions(record: Record) -> Iterator[Sample]:
    name = "<OCR_WITH_REGION>"
    if record.text and not _is_crop(record):
        for target in taught(record, name, Choices()):
            yield Sample(
                id=f"{record.id}#regions",
                record=record,
                task=name,
                truth=(_answer(target.answer),),
                illegible=record.illegible,
            )


def _region_text(record: Record) -> Iterator[Sample]:
    name = "<REGION_TO_OCR>"
    if record.text and not _is_crop(record):
        for number in _some(range(len(record.text)), record, "region text"):
            words = record.text[number]
            xs, ys = words.quad[0::2], words.quad[1::2]
            box = _inside((min(xs), min(ys), max(xs), max(ys)), record)
            yield _sample(record, f"text{number}", name, box, _text(record, name, words.text))


def _questions(templated: bool) -> Teacher:
    def ask(record: Record) -> Iterator[Sample]:
        numbers = [n for n, q in enumerate(record.qa) if q.answers and (q.origin in TEMPLATES) == templated]
        for number in _draw(numbers, MOST, record, f"questions {templated}"):
            question = record.qa[number]
            truth = tuple(_text(record, "<ASK>", answer) for answer in question.answers)
            yield _sample(record, f"question{number}", "<ASK>", question.question, *truth)

    return ask


# What the questions share


def _sample(record: Record, name: str, task: str, given: Given, *truth: Answer) -> Sample:
    return Sample(id=f"{record.id}#{name}", record=record, task=task, given=given, truth=truth)


def _with_crowds(record: Record, name: str, task: str, given: Given, things: Sequence[tuple[str, Thing]]) -> Sample:
    true = [(label, _inside(thing.box, record)) for label, thing in things if not _uncounted(thing)]
    ignored = tuple(Object(label=label, box=_inside(t.box, record)) for label, t in things if _uncounted(t))
    return Sample(
        id=f"{record.id}#{name}",
        record=record,
        task=task,
        given=given,
        truth=(_detections(record, task, true),),
        ignored=ignored,
        classes=record.exhaustive or (),
    )


def _uncounted(thing: Thing) -> bool:
    return thing.crowd or thing.difficult


def _text(record: Record, task: str, text: str) -> Text:
    return Text(task=task, width=record.width, height=record.height, text=text)


def _detections(record: Record, task: str, found: Sequence[tuple[str, Box]]) -> Detections:
    objects = tuple(Object(label=label, box=box) for label, box in found)
    return Detections(task=task, width=record.width, height=record.height, objects=objects)


def _answer(answer: Answer | str) -> Answer:
    if isinstance(answer, str):
        raise DataError(f"the answer {answer!r:.60} is a text; packs hold annotations")
    return answer


def _only(record: Record, thing: Thing) -> Record:
    return Record(image=None, id=record.id, width=record.width, height=record.height, objects=(thing,))


def _inside(box: Box, record: Record) -> Box:
    """Boxes may stick out of the photo by rounding."""
    x0, y0, x1, y1 = box
    width, height = float(record.width), float(record.height)
    return (min(max(0.0, x0), width), min(max(0.0, y0), height), max(min(width, x1), 0.0), max(min(height, y1), 0.0))


def _large(record: Record, purpose: str, outlined: bool = False) -> list[tuple[int, Thing]]:
    """At most one thing of each class, drawn; whole classes of one region (clothes, streets) too."""
    found: dict[str, list[tuple[int, Thing]]] = {}
    for number, thing in enumerate(record.objects or ()):
        x0, y0, x1, y1 = _inside(thing.box, record)
        large = (x1 - x0) * (y1 - y0) >= LARGE * record.width * record.height
        if large and not _uncounted(thing) and (thing.polygons or not outlined):
            found.setdefault(thing.label, []).append((number, thing))
    labels = _draw(sorted(found), MOST, record, purpose)
    return sorted((_draw(found[label], 1, record, purpose + label)[0] for label in labels), key=lambda pair: pair[0])


def _regions_of_classes(record: Record) -> bool:
    """Objects that are whole classes ("shoes", "road"), not things that can be counted."""
    return record.source in ("ccp", "camvid")


def _is_crop(record: Record) -> bool:
    """A picture of one word and nothing else: its quad is the picture."""
    words = record.text or ()
    if len(words) != 1:
        return False
    xs, ys = words[0].quad[0::2], words[0].quad[1::2]
    covered = (max(xs) - min(xs)) * (max(ys) - min(ys))
    return covered >= 0.8 * record.width * record.height


def _some(numbers: Sequence[int], record: Record, purpose: str) -> list[int]:
    return sorted(_draw(numbers, MOST, record, purpose))


def _draw(things: Sequence[object], most: int, record: Record, purpose: str) -> list:  # type: ignore[type-arg]
    """The same for a record in every run."""
    return random.Random(f"{record.id} {purpose}").sample(list(things), min(most, len(things)))


# The records


def of_source(benchmark: Benchmark, source: str) -> Benchmark:
    """The photos of one data set alone: "packs/caption@flickr8k"."""

    def samples(folder: Path) -> Iterator[Sample]:
        return (sample for sample in benchmark.read(folder) if sample.record.source == source)

    return replace(benchmark, name=f"{benchmark.name}@{source}", title=f"{benchmark.title}, {source}", read=samples)


def _reader(ask: Teacher) -> Callable[[Path], Iterator[Sample]]:
    def samples(folder: Path) -> Iterator[Sample]:
        for record in read(folder, "packs"):
            record.require()
            yield from ask(record)

    return samples


def _benchmark(
    name: str, title: str, task: str, measure: str, main: str, ask: Teacher, protocol: str, templated: bool = False
) -> Benchmark:
    return Benchmark(
        name=f"{GROUP}/{name}",
        title=title,
        task=task,
        measure=measure,
        main=main,
        protocol=protocol,
        read=_reader(ask),
        templated=templated,
    )


GROUND, OVD = "<CAPTION_TO_PHRASE_GROUNDING>", "<OPEN_VOCABULARY_DETECTION>"
BENCHMARKS: tuple[Benchmark, ...] = (
    _benchmark(
        "caption", "Captions", "<CAPTION>", "caption", "CIDEr", _captions,
        "One caption per photo beside all captions of people; CIDEr-D with the idf of these references.",
    ),
    _benchmark(
        "phrases", "Phrases of people", GROUND, "grounding", "accuracy", _phrases,
        "A phrase is the whole prompt; right where the best box overlaps a true one by 0.5. At most two per photo.",
    ),
    _benchmark(
        "captions-grounded", "Phrases within captions", GROUND, "grounding", "accuracy", _grounded,
        "A whole caption is the prompt; a phrase has the boxes that carry its words, any of its true boxes counts.",
    ),
    _benchmark(
        "expressions", "Expressions of people", GROUND, "grounding", "accuracy", _references(templated=False),
        "A referring expression is the prompt; right where the best box overlaps by 0.5. At most two per photo.",
    ),
    _benchmark(
        "references", "Templated expressions", GROUND, "grounding", "accuracy", _references(templated=True),
        "A templated expression is the prompt; right where the best box overlaps by 0.5. At most two per photo.",
        templated=True,
    ),
    _benchmark(
        "detection", "Detection", "<OD>", "detection", "AP", _objects("<OD>"),
        "COCO's AP over photos whose class list is complete; crowds, difficult things and classes of other lists count "
        "neither way.",
    ),
    _benchmark(
        "closed", "Detection of given labels", OVD, "closed", "AP", _closed,
        "Asked for every class that is there and two that are not; absent-boxes: boxes per absent class.",
    ),
    _benchmark(
        "proposals", "Region proposals", "<REGION_PROPOSAL>", "proposals", "AR100", _objects("<REGION_PROPOSAL>"),
        "COCO's AP and AR of the boxes, whatever they are called.",
    ),
    _benchmark(
        "region-category", "Region to category", "<REGION_TO_CATEGORY>", "category", "accuracy", _categories,
        "Boxes of 2 % of the photo and more, at most two per photo, of different classes; the very name counts.",
    ),
    _benchmark(
        "region-segmentation", "Region to outline", "<REGION_TO_SEGMENTATION>", "segmentation", "mIoU", outlines,
        "Boxes of 2 % of the photo and more with an outline, at most two per photo, of different classes.",
    ),
    _benchmark(
        "expression-segmentation", "Expression of people to outline", "<REFERRING_EXPRESSION_SEGMENTATION>",
        "segmentation", "mIoU", referred(templated=False),
        "A referring expression; the truth is its outline, or that of the object with its box. At most two per photo.",
    ),
    _benchmark(
        "referring-segmentation", "Templated expression to outline", "<REFERRING_EXPRESSION_SEGMENTATION>",
        "segmentation", "mIoU", referred(templated=True),
        "A templated expression; the truth is the outline of the object that has its box. At most two per photo.",
        templated=True,
    ),
    _benchmark(
        "words", "Pictures of one word", "<OCR>", "reading", "accuracy-nocase", _words,
        "The whole word must be right, case aside.",
    ),
    _benchmark(
        "text", "All text of a photo", "<OCR>", "reading", "CER", _whole_text,
        "Words or lines in the order of the annotations, joined by spaces; edits of characters by the true length. "
        "Photos with illegible text are not asked.",
    ),
    _benchmark(
        "text-regions", "Text with regions", "<OCR_WITH_REGION>", "spotting", "F1", _text_regions,
        "ICDAR 2015 end to end: overlap above 0.5 and the same text, case aside; illegible text counts neither way.",
    ),
    _benchmark(
        "region-text", "Text of a region", "<REGION_TO_OCR>", "reading", "accuracy-nocase", _region_text,
        "The text in a box, at most two per photo; it must be right as a whole, case aside.",
    ),
    _benchmark(
        "questions", "Questions of people", "<ASK>", "vqa", "EM", _questions(templated=False),
        "At most two per photo; right where it is one of the answers of people, normalised as VQA does. Packs keep "
        "each answer once, so VQA's own accuracy, which counts people, says little here.",
    ),
    _benchmark(
        "questions-templated", "Templated questions", "<ASK>", "vqa", "EM", _questions(templated=True),
        "Questions that a template made of the boxes, at most two per photo.",
        templated=True,
    ),
)  # fmt: skip
