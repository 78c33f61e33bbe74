"""Captions: COCO (Karpathy's test split), NoCaps and TextCaps (both val). One sample per photo.

Sources: Karpathy and Fei-Fei (2015); Agrawal et al. (2019), "nocaps"; Sidorov et al. (2020), "TextCaps".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from florence2.data import coco, fields
from florence2.data.records import Record
from florence2.errors import DataError
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
    zero_shot,
)
from florence2.evaluation.samples import Sample

TASK = "<CAPTION>"

KARPATHY = Needed(
    "coco/dataset_coco.json | dataset_coco.json",
    "Karpathy's splits of the COCO captions: dataset_coco.json out of caption_datasets.zip "
    "(Andrej Karpathy, Deep Visual-Semantic Alignments)",
)
VAL2014 = Needed("coco/val2014 | val2014", "the photos of COCO val2014: val2014.zip, unpacked (cocodataset.org)")
NOCAPS = Needed(
    "nocaps/nocaps_val_4500_captions.json | nocaps_val_4500_captions.json",
    "the captions of NoCaps val: nocaps_val_4500_captions.json (nocaps.org)",
)
NOCAPS_PHOTOS = Needed(
    "nocaps/images | images",
    "the 4,500 photos of NoCaps val, which are of Open Images; each one's address is its coco_url in "
    "nocaps_val_4500_captions.json (nocaps.org)",
)
TEXTCAPS = Needed(
    "textcaps/TextCaps_0.1_val.json | TextCaps_0.1_val.json",
    "the captions of TextCaps val: TextCaps_0.1_val.json (textvqa.org/textcaps)",
)
TEXTVQA_PHOTOS = Needed(
    "textvqa/train_images | textcaps/train_images | train_images",
    "the photos of TextVQA and TextCaps, train and val: train_val_images.zip, unpacked (textvqa.org)",
)


def _coco(folder: Path) -> Iterator[Sample]:
    path, photos = located(folder, KARPATHY), located(folder, VAL2014)
    for number, value in enumerate(listed(document(path), "images", path)):
        with entry(path, f"image {number}"):
            d = fields.mapping(value, "it")
            if fields.field(d, "split", "it") != "test":
                continue
            name, part = (fields.string(fields.field(d, key, "it"), key) for key in ("filename", "filepath"))
            record = photo(photos.parent / part / name, name_of(d, "cocoid", "it"), "COCO", "test")
            sentences = [fields.mapping(s, "a sentence") for s in fields.items(d.get("sentences"), "sentences")]
            raw = [fields.string(fields.field(s, "raw", "a sentence"), "raw") for s in sentences]
            sample = _sample(record, raw)
        yield sample


def _nocaps(folder: Path) -> Iterator[Sample]:
    path = located(folder, NOCAPS)
    if not path.is_file():
        raise DataError(f"{path} is missing: {NOCAPS.what}")
    for record in coco.read(path):
        record.require()
        with entry(path, f"image {record.id}"):
            sample = _sample(replace(record, source="NoCaps", split="val"), record.captions)
        yield sample


def _textcaps(folder: Path) -> Iterator[Sample]:
    path, photos = located(folder, TEXTCAPS), located(folder, TEXTVQA_PHOTOS)
    seen: set[str] = set()
    for number, value in enumerate(listed(document(path), "data", path)):
        with entry(path, f"entry {number}"):
            d = fields.mapping(value, "it")
            id = fields.string(fields.field(d, "image_id", "it"), "image_id")
            if id in seen:  # an entry per caption, each with all captions of its photo
                continue
            seen.add(id)
            record = photo(photos / f"{id}.jpg", id, "TextCaps", "val", size_of(d, "image_width", "image_height"))
            given = fields.items(fields.field(d, "reference_strs", "it"), "reference_strs")
            sample = _sample(record, [fields.string(text, "a caption") for text in given])
        yield sample


def _sample(record: Record, captions: Sequence[str]) -> Sample:
    return Sample(id=record.id, record=record, task=TASK, truth=texts(record, TASK, captions, "captions"))


_COUNTED = (
    "CIDEr-D over all references of each photo, words cut as the Penn Treebank does, document frequencies from the "
    "references themselves: what the field prints as CIDEr, here from 0 to 10 instead of percent. "
)
_ASKED = "Asked is <CAPTION>; how the paper asked, and with how many beams, is not known here."

BENCHMARKS: tuple[Benchmark, ...] = (
    Benchmark(
        name="coco-caption",
        title="COCO captions, Karpathy test",
        task=TASK,
        measure="caption",
        main="CIDEr",
        protocol=_COUNTED + "All references count, also where a photo has more than five. " + _ASKED,
        read=partial(checked, read=_coco, file=KARPATHY),
        needs=(KARPATHY, VAL2014),
        paper=zero_shot("CIDEr", 133.0, 135.6) + tuned("CIDEr", 140.0, 143.3, "table 5"),
    ),
    Benchmark(
        name="nocaps",
        title="NoCaps, val",
        task=TASK,
        measure="caption",
        main="CIDEr",
        protocol=_COUNTED + "All domains (in, near, out) together, document frequencies too. " + _ASKED,
        read=partial(checked, read=_nocaps, file=NOCAPS),
        needs=(NOCAPS, NOCAPS_PHOTOS),
        paper=zero_shot("CIDEr", 118.7, 120.8) + tuned("CIDEr", 116.7, 124.9, "table 5"),
    ),
    Benchmark(
        name="textcaps",
        title="TextCaps, val",
        task=TASK,
        measure="caption",
        main="CIDEr",
        protocol=_COUNTED + "No text that an OCR system read is given. " + _ASKED,
        read=partial(checked, read=_textcaps, file=TEXTCAPS),
        needs=(TEXTCAPS, TEXTVQA_PHOTOS),
        paper=zero_shot("CIDEr", 70.1, 72.8) + tuned("CIDEr", 143.9, 151.1, "table 5"),
    ),
)
