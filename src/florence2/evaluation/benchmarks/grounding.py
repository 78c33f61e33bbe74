"""Words that mean boxes: Flickr30k Entities (test), and RefCOCO, RefCOCO+, RefCOCOg as referring expressions.

Flickr30k Entities in its own files: ``Sentences/<photo>.txt`` with a caption per line, whose phrases are written
``[/EN#<chain>/<kind> words]``; ``Annotations/<photo>.xml`` with the boxes of the chains; ``test.txt``.

Sources: Plummer et al. (2015), "Flickr30k Entities"; for the expressions see ``refer.py``.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from florence2.data import fields
from florence2.errors import DataError
from florence2.evaluation.benchmarks import refer
from florence2.evaluation.benchmarks.records import Benchmark, Needed
from florence2.evaluation.benchmarks.sources import box_of, checked, entry, located, photo, tuned, zero_shot
from florence2.evaluation.samples import Sample
from florence2.results import Box, Detections, Object

TASK = "<CAPTION_TO_PHRASE_GROUNDING>"

_FROM = "out of annotations.zip (BryanPlummer/flickr30k_entities on GitHub)"
SENTENCES = Needed("flickr30k/Sentences | Sentences", f"the captions with marked phrases: the folder Sentences {_FROM}")
ANNOTATIONS = Needed("flickr30k/Annotations | Annotations", f"the boxes of the phrases: the folder Annotations {_FROM}")
TEST = Needed(
    "flickr30k/test.txt | test.txt",
    "the names of the test photos: test.txt (BryanPlummer/flickr30k_entities on GitHub)",
)
FLICKR_PHOTOS = Needed(
    "flickr30k/flickr30k-images | flickr30k-images",
    "the photos of Flickr30k: flickr30k-images (on request from the University of Illinois, Denotation Graph)",
)

# Flickr30k Entities

_PHRASE = re.compile(r"\[/EN#(\d+)/\S+\s(.*?)\](?=\s|$)")


def _flickr(folder: Path) -> Iterator[Sample]:
    names = [line.strip() for line in fields.read_text(located(folder, TEST)).splitlines()]
    sentences, annotations = located(folder, SENTENCES), located(folder, ANNOTATIONS)
    photos = located(folder, FLICKR_PHOTOS)
    for name in filter(None, names):
        size, boxes = _chains(annotations / f"{name}.xml")
        record = photo(photos / f"{name}.jpg", name, "Flickr30k", "test", size)
        path = sentences / f"{name}.txt"
        for number, line in enumerate(filter(str.strip, fields.read_text(path).splitlines())):
            with entry(path, f"caption {number}"):
                caption, phrases = _told(line)
            found: dict[str, dict[Box, None]] = {}
            for words, chain in phrases:
                if chain in boxes:
                    found.setdefault(words, {}).update(dict.fromkeys(boxes[chain]))
            objects = tuple(Object(label=words, box=box) for words, several in found.items() for box in several)
            if objects:
                truth = Detections(task=TASK, width=record.width, height=record.height, objects=objects)
                yield Sample(id=f"{name}#{number}", record=record, task=TASK, given=caption, truth=(truth,))


def _told(line: str) -> tuple[str, list[tuple[str, str]]]:
    """A caption without its marks, and (words, chain) of each phrase."""
    phrases = [(" ".join(match[2].split()), match[1]) for match in _PHRASE.finditer(line)]
    caption = " ".join(_PHRASE.sub(r"\2", line).split())
    if "[/EN#" in caption:
        raise DataError(f"a phrase is not marked as [/EN#<chain>/<kind> words]: {caption[:80]!r}")
    return caption, [phrase for phrase in phrases if phrase[0]]


def _chains(path: Path) -> tuple[tuple[int, int], dict[str, list[Box]]]:
    """The size of the photo, and the boxes of each chain that has some."""
    try:
        root = ET.fromstring(fields.read_text(path))
    except ET.ParseError as error:
        raise DataError(f"{path}:{error.position[0]} is no XML ({error}); copy the file again") from error
    boxes: dict[str, list[Box]] = {}
    with entry(path, "size"):
        width, height = (fields.whole(root.findtext(f"size/{side}"), side) for side in ("width", "height"))
    for number, element in enumerate(root.findall("object")):
        corners = element.find("bndbox")
        if corners is None:  # the whole scene, or not to be seen
            continue
        with entry(path, f"object {number}"):
            box = _box(corners, (width, height))
            chains = [(name.text or "").strip() for name in element.findall("name")]
            if not all(chains) or not chains:
                raise DataError("it has no <name>")
        for chain in chains:
            boxes.setdefault(chain, []).append(box)
    return (width, height), boxes


def _box(corners: ET.Element, size: tuple[int, int]) -> Box:
    """Pixels are counted from 1. All four less 1, as the data set's own reader has it and evaluations take it."""
    x0, y0, x1, y1 = (fields.number(corners.findtext(tag), tag) - 1 for tag in ("xmin", "ymin", "xmax", "ymax"))
    if x0 > x1 or y0 > y1 or x0 >= size[0] or y0 >= size[1]:
        found = tuple(corners.findtext(tag) for tag in ("xmin", "ymin", "xmax", "ymax"))
        raise DataError(f"the box {found} is inverted, or outside its photo of {size[0]} x {size[1]}")
    return (max(x0, 0.0), max(y0, 0.0), min(x1, float(size[0])), min(y1, float(size[1])))


# Referring expressions


def _expressions(folder: Path, dataset: str, split: str) -> Iterator[Sample]:
    for expression in refer.read(folder, dataset, split):
        record = expression.record
        with entry(expression.path, expression.where):
            box = box_of(expression.annotation, (record.width, record.height))
        truth = Detections(
            task=TASK,
            width=record.width,
            height=record.height,
            objects=(Object(label=expression.text, box=box),),
        )
        yield Sample(id=expression.id, record=record, task=TASK, given=expression.text, truth=(truth,))


_PAPER = {
    ("refcoco", "val"): (53.9, 56.3, 92.6, 93.4),
    ("refcoco", "testA"): (58.4, 61.6, 94.8, 95.3),
    ("refcoco", "testB"): (49.7, 51.4, 91.5, 92.0),
    ("refcoco+", "val"): (51.5, 53.6, 86.8, 88.3),
    ("refcoco+", "testA"): (56.4, 57.9, 91.7, 92.9),
    ("refcoco+", "testB"): (47.9, 49.9, 82.2, 83.6),
    ("refcocog", "val"): (66.3, 68.0, 89.8, 91.2),
    ("refcocog", "test"): (65.1, 67.0, 82.2, 91.7),
}
"""Zero-shot base and large, fine-tuned base and large."""
_DOUBT = " and the model card; looks like a slip, as val is 89.8"


def _referring(dataset: str, split: str) -> Benchmark:
    base, large, base_ft, large_ft = _PAPER[dataset, split]
    doubtful = (dataset, split) == ("refcocog", "test")
    doubt = "The 82.2 that the paper prints for B-ft is doubtful: val is 89.8. " if doubtful else ""
    return Benchmark(
        name=f"{dataset}-{split}",
        title=f"{refer.TITLES[dataset]}, {split}",
        task=TASK,
        measure="grounding",
        main="accuracy",
        protocol="One question per expression, given as the caption whose phrases are to be found; right where the "
        "best box overlaps the true one by IoU 0.5 or more (Acc@0.5, P@1). The published processor has no task for "
        f"referring expressions; how the paper asked is not known here. {doubt}Expressions as lichengunc/refer cleaned "
        f"them (sent), splits of {refer.PARTITIONS[dataset].upper()}.",
        read=partial(checked, read=partial(_expressions, dataset=dataset, split=split), file=refer.refs_of(dataset)),
        needs=refer.needs(dataset),
        paper=zero_shot("accuracy", base, large)
        + tuned("accuracy", base_ft, large_ft, "table 6", _DOUBT if doubtful else ""),
    )


BENCHMARKS: tuple[Benchmark, ...] = (
    Benchmark(
        name="flickr30k-entities",
        title="Flickr30k Entities, test",
        task=TASK,
        measure="grounding",
        main="accuracy",
        protocol="The whole caption is given; of each phrase the best box is taken. accuracy is R@1 by ANY-BOX: right "
        "at IoU 0.5 or more with any box of the phrase. merged-accuracy is R@1 by MERGED-BOXES: with the box around "
        "all of them. The paper prints R@1; by which of the two is not known here. Phrases without boxes (scenes, "
        "things not to be seen) are left out as usual; the captions that UNRELATED_CAPTIONS lists are kept. Unlike "
        "usual, words that stand twice in a caption count once, with the boxes of both, as answers do not tell them "
        "apart. Captions are given as the data set cuts them, with a blank before each full stop. Boxes are those of "
        "the data set's own reader: all corners less 1.",
        read=partial(checked, read=_flickr, file=TEST),
        needs=(SENTENCES, ANNOTATIONS, TEST, FLICKR_PHOTOS),
        paper=zero_shot("accuracy", 83.6, 84.4) + tuned("accuracy", 84.0, 85.2, "table 6"),
    ),
    *(_referring(dataset, split) for dataset, split in _PAPER),
)
