"""The published benchmarks, read from miniature data sets in their official layouts."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from florence2 import images
from florence2.data import coco
from florence2.data.records import Record
from florence2.errors import DataError, ImageError
from florence2.evaluation import score_answers
from florence2.evaluation.benchmarks import captions, detection, grounding, questions, refer, segmentation, sources
from florence2.evaluation.benchmarks.records import Benchmark
from florence2.evaluation.measures import measure
from florence2.evaluation.samples import Sample
from florence2.language import tasks
from florence2.results import Answer, Detections, Segments, Text

ALL: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for module in (captions, detection, grounding, segmentation, questions)
    for benchmark in module.BENCHMARKS
}
REFER = ("refcoco", "refcoco+", "refcocog")
SIZE = (80, 60)

# Miniature data sets


def draw(path: Path, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    photo = Image.new("RGB", size, "white")
    ImageDraw.Draw(photo).rectangle((10, 10, 40, 30), fill="red")
    photo.save(path)


def dump(value: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def change(path: Path, alter: Callable[[Any], None]) -> None:
    value = json.loads(path.read_text(encoding="utf-8"))
    alter(value)
    dump(value, path)


def make_captions(root: Path) -> None:
    for number in (1, 2, 3):
        draw(root / f"coco/val2014/COCO_val2014_{number:012d}.jpg")
    entries = [
        {
            "filepath": "val2014",
            "filename": f"COCO_val2014_{number:012d}.jpg",
            "split": split,
            "imgid": number - 1,
            "cocoid": number,
            "sentids": [number],
            "sentences": [
                {"tokens": ["a", "box"], "raw": f"A box {n}.", "imgid": number - 1, "sentid": number * 10 + n}
                for n in range(5 + number)
            ],
        }
        for number, split in ((1, "test"), (2, "restval"), (3, "test"))
    ]
    dump({"images": entries, "dataset": "coco"}, root / "coco/dataset_coco.json")

    for name in ("0013ea2087020901", "0024fdb7a34e11b0"):
        draw(root / f"nocaps/images/{name}.jpg")
    nocaps = [
        {"id": 0, "file_name": "0013ea2087020901.jpg", "width": 80, "height": 60, "domain": "near-domain"},
        {"id": 1, "file_name": "0024fdb7a34e11b0.jpg", "width": 80, "height": 60, "domain": "out-domain"},
    ]
    told = [{"id": n, "image_id": n % 2, "caption": f"A red box, {n}."} for n in range(20)]
    dump(
        {"licenses": [], "info": {}, "images": nocaps, "annotations": told},
        root / "nocaps/nocaps_val_4500_captions.json",
    )

    for name in ("003a8ae2ef43b901", "00a4e2c1f1d3a5b2"):
        draw(root / f"textvqa/train_images/{name}.jpg")
    texts = [
        {
            "image_id": name,
            "image_width": 80,
            "image_height": 60,
            "image_path": f"train/{name}.jpg",
            "caption_id": number,
            "caption_str": f"A box that says {number % 5}",
            "reference_strs": [f"A box that says {n}" for n in range(5)],
        }
        for number, name in enumerate(["003a8ae2ef43b901"] * 5 + ["00a4e2c1f1d3a5b2"] * 5)
    ]
    dump(
        {"dataset_type": "val", "dataset_name": "textcaps", "data": texts},
        root / "textcaps/TextCaps_0.1_val.json",
    )


CATEGORIES = [{"id": 1, "name": "person"}, {"id": 90, "name": "toothbrush"}]
RUNS = {"size": [60, 80], "counts": [0, 600, 4200]}
"""The first ten columns."""


def make_detection(root: Path) -> None:
    entries = []
    for number in (139, 285, 632):
        draw(root / f"coco/val2017/{number:012d}.jpg")
        entries.append({"id": number, "file_name": f"{number:012d}.jpg", "width": 80, "height": 60})
    objects = [
        {"id": 1, "image_id": 285, "category_id": 90, "bbox": [10, 10, 30, 20], "area": 450.5, "iscrowd": 0},
        {"id": 2, "image_id": 139, "category_id": 1, "bbox": [0.5, 1.25, 20, 30], "area": 77.0, "iscrowd": 0},
        {"id": 3, "image_id": 139, "category_id": 1, "bbox": [0, 0, 10, 60], "area": 600, "iscrowd": 1},
        {"id": 4, "image_id": 139, "category_id": 90, "bbox": [40, 0, 40, 60], "area": 9.0, "iscrowd": 0},
    ]
    outlines: list[Any] = [[[10, 10, 40, 10, 40, 30]], [[1, 2, 20, 2, 20, 30]], RUNS, [[40, 0, 80, 0, 80, 60]]]
    for entry, outline in zip(objects, outlines, strict=True):
        entry["segmentation"] = outline
    document = {"info": {}, "images": entries, "annotations": objects, "categories": CATEGORIES}
    dump(document, root / "coco/annotations/instances_val2017.json")


SENTENCES = """\
[/EN#1/people Two young guys] with [/EN#2/bodyparts shaggy hair] look at [/EN#3/bodyparts their hands] in [/EN#8/scene the yard] .
[/EN#1/people Two men] in [/EN#5/clothing/other green shirts] stand , [/EN#0/notvisual it] rains .
Nobody is [/EN#0/notvisual anywhere] . [/EN#1/people ]
[/EN#6/people A man] in [/EN#5/clothing a blue shirt] beside [/EN#7/people A man] .
"""  # noqa: E501
NOTES = """\
<annotation><filename>1000.jpg</filename><size><width>80</width><height>60</height><depth>3</depth></size>
<object><name>1</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>21</xmax><ymax>31</ymax></bndbox></object>
<object><name>1</name><name>6</name>
  <bndbox><xmin>31</xmin><ymin>1</ymin><xmax>61</xmax><ymax>41</ymax></bndbox></object>
<object><name>5</name><bndbox><xmin>0</xmin><ymin>3</ymin><xmax>80</xmax><ymax>60</ymax></bndbox></object>
<object><name>7</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>
<object><name>8</name><scene>1</scene><nobndbox>0</nobndbox></object>
<object><name>3</name><scene>0</scene><nobndbox>1</nobndbox></object>
</annotation>
"""


def make_flickr(root: Path) -> None:
    folder = root / "flickr30k"
    for name in ("1000", "2000"):
        draw(folder / f"flickr30k-images/{name}.jpg")
        for kind, text in ((f"Sentences/{name}.txt", SENTENCES), (f"Annotations/{name}.xml", NOTES)):
            (folder / kind).parent.mkdir(exist_ok=True)
            (folder / kind).write_text(text, encoding="utf-8")
    (folder / "test.txt").write_text("2000\n1000\n", encoding="utf-8")


def python2(value: Any, encoding: str = "utf-8") -> bytes:
    """The pickle that Python 2 writes of plain values: its texts are byte strings."""

    def code(value: Any) -> bytes:
        if isinstance(value, str):
            text = value.encode(encoding)
            return b"T" + struct.pack("<i", len(text)) + text
        if isinstance(value, int):
            return b"J" + struct.pack("<i", value)
        if isinstance(value, list):
            return b"](" + b"".join(map(code, value)) + b"e"
        return b"}(" + b"".join(code(key) + code(item) for key, item in value.items()) + b"u"

    return b"\x80\x02" + code(value) + b"."


def refs(splits: tuple[str, ...]) -> list[dict[str, Any]]:
    """Two photos in turn, so that those of one do not stand together."""
    found = []
    for number, split in enumerate(splits * 4):
        image = 30 + splits.index(split) * 2 + number // len(splits) % 2
        found.append(
            {
                "ref_id": number,
                "ann_id": 1000 + image * 10 + number % 2,
                "image_id": image,
                "category_id": 1,
                "file_name": f"COCO_train2014_{image:012d}_{number}.jpg",
                "split": split,
                "sent_ids": [number * 2, number * 2 + 1],
                "sentences": [
                    {
                        "sent_id": number * 2 + n,
                        "sent": f"the café on the {side}",
                        "raw": f"The café on the {side}!!",
                        "tokens": ["the", "café", "on", "the", side],
                    }
                    for n, side in enumerate(("left", "right"))
                ],
            }
        )
    return found


def make_refer(root: Path) -> None:
    for image in range(30, 38):
        draw(root / f"coco/train2014/COCO_train2014_{image:012d}.jpg")
    for dataset in REFER:
        name, splits = "refs(unc).p", ("val", "testA", "testB", "train")
        if dataset == "refcocog":
            name, splits = "refs(umd).p", ("val", "test", "train")
        entries = [
            {"id": image, "file_name": f"COCO_train2014_{image:012d}.jpg", "width": 80, "height": 60}
            for image in range(30, 38)
        ]
        objects = [
            {
                "id": 1000 + image * 10 + n,
                "image_id": image,
                "category_id": 1,
                "iscrowd": 0,
                "bbox": [10 * n, 0, 10, 60] if n else [10.5, 10, 30, 20],
                "area": 600,
                "segmentation": [[0, 0, 10, 0, 10, 30], [0, 40, 10, 40, 10, 60, 0, 60]] if n else RUNS,
            }
            for image in range(30, 38)
            for n in (0, 1)
        ]
        dump(
            {"images": entries, "annotations": objects, "categories": CATEGORIES},
            root / dataset / "instances.json",
        )
        (root / dataset / name).write_bytes(python2(refs(splits)))


def make_questions(root: Path) -> None:
    people = ["red"] * 6 + ["dark red"] * 3 + ["blue"]
    answers = [{"answer": a, "answer_confidence": "yes", "answer_id": n} for n, a in enumerate(people, 1)]
    for number in (1, 3):
        draw(root / f"coco/val2014/COCO_val2014_{number:012d}.jpg")
    asked = [
        {"image_id": image, "question": "What color is it?", "question_id": image * 1000 + n}
        for n, image in itertools.product(range(2), (1, 3))
    ]
    dump(
        {"questions": asked, "data_subtype": "val2014"},
        root / "vqav2/v2_OpenEnded_mscoco_val2014_questions.json",
    )
    given = [
        {
            "question_id": q["question_id"],
            "image_id": q["image_id"],
            "multiple_choice_answer": "red",
            "answers": answers,
        }
        for q in reversed(asked)
    ]
    dump({"annotations": given}, root / "vqav2/v2_mscoco_val2014_annotations.json")

    draw(root / "textvqa/train_images/003a8ae2ef43b901.jpg")
    data = [
        {
            "question": "what does it say?",
            "image_id": "003a8ae2ef43b901",
            "question_id": 34602 + n,
            "image_width": 80,
            "image_height": 60,
            "answers": people,
        }
        for n in range(2)
    ]
    dump(
        {"dataset_type": "val", "dataset_version": "0.5.1", "data": data},
        root / "textvqa/TextVQA_0.5.1_val.json",
    )

    for n in range(2):
        draw(root / f"vizwiz/val/VizWiz_val_0000000{n}.jpg", (60, 80))
    seen = [
        {
            "image": f"VizWiz_val_0000000{n}.jpg",
            "question": "What is this?",
            "answers": [{k: v for k, v in a.items() if k != "answer_id"} for a in answers],
            "answer_type": "other",
            "answerable": 1,
        }
        for n in range(2)
    ]
    dump(seen, root / "vizwiz/Annotations/val.json")

    for name in ("pybv0228_81", "snbx0223_2"):
        draw(root / f"docvqa/spdocvqa_images/{name}.png", (100, 140))
    pages = [
        {
            "questionId": 49153 + n,
            "question": "What is the date?",
            "image": f"documents/{name}.png",
            "docId": 14465,
            "answers": ["1/8/93", "January 8"],
            "data_split": "val",
        }
        for n, name in enumerate(("pybv0228_81", "snbx0223_2", "pybv0228_81"))
    ]
    dump(
        {"dataset_name": "SP-DocVQA", "dataset_split": "val", "data": pages},
        root / "docvqa/val_v1.0_withQT.json",
    )


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("library")
    for make in (make_captions, make_detection, make_flickr, make_refer, make_questions):
        make(root)
    return root


@pytest.fixture
def own(library: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(library, tmp_path / "own"))


def read(name: str, root: Path) -> list[Sample]:
    return list(ALL[name].samples(root))


# All of them


def test_the_names() -> None:
    expressions = [f"{d}-{s}" for d in REFER[:2] for s in ("val", "testA", "testB")] + ["refcocog-val", "refcocog-test"]
    boxes = ["coco-detection", "flickr30k-entities", *expressions, "refcoco-val-res"]
    assert list(ALL) == ["coco-caption", "nocaps", "textcaps", *boxes, "vqav2", "textvqa", "vizwiz", "docvqa"]
    assert sum(len(m.BENCHMARKS) for m in (captions, detection, grounding, segmentation, questions)) == len(ALL)


@pytest.mark.parametrize("name", ALL)
def test_the_samples(name: str, library: Path) -> None:
    benchmark, samples = ALL[name], read(name, library)
    assert samples == read(name, library)
    assert len({sample.id for sample in samples}) == len(samples) > 1
    photos = [photo for photo, _ in itertools.groupby(sample.photo for sample in samples)]
    assert len(photos) == len(set(photos))  # those of a photo stand together
    task = tasks.get(benchmark.task)
    for sample in samples:
        record = sample.record
        assert (sample.task, record.error) == (benchmark.task, "")
        assert isinstance(record.image, Path)
        assert (record.width, record.height) == images.measure(record.image)
        assert (sample.given is None) == (task.takes == "nothing")
        for truth in sample.truth:
            assert type(truth) is task.result
            assert truth.task == sample.task
            assert (truth.width, truth.height) == (record.width, record.height)
        assert len(sample.truth) == 1 or task.result is Text
        for x, y in corners(sample):
            assert 0 <= x <= record.width
            assert 0 <= y <= record.height
    assert next(pickle.loads(pickle.dumps(benchmark)).samples(library)) == samples[0]  # another process may read


def corners(sample: Sample) -> list[tuple[float, float]]:
    found: list[tuple[float, float]] = []
    for truth in sample.truth:
        if isinstance(truth, Detections):
            found += [box[i : i + 2] for box in truth.boxes for i in (0, 2)]  # type: ignore[misc]
            assert all(x0 <= x1 and y0 <= y1 for x0, y0, x1, y1 in truth.boxes)
        if isinstance(truth, Segments):
            found += [p[i : i + 2] for t in truth.instances for p in t.polygons for i in range(0, len(p), 2)]  # type: ignore[misc]
    return found + [item.box[i : i + 2] for item in sample.ignored for i in (0, 2)]  # type: ignore[misc]


@pytest.mark.parametrize("name", ALL)
def test_what_is_missing_is_named(name: str, own: Path, tmp_path: Path) -> None:
    benchmark = ALL[name]
    with pytest.raises(DataError) as caught:
        benchmark.samples(tmp_path / "nothing")
    for need in benchmark.needs:
        assert str(tmp_path / "nothing" / need.path.split(" | ")[0]) in str(caught.value)
        assert need.what in str(caught.value)
    for need in benchmark.needs:
        place = sources.located(own, need)
        hidden = place.with_name("hidden")
        place.rename(hidden)
        with pytest.raises(DataError) as one:
            benchmark.samples(own)
        assert [n for n in benchmark.needs if n.what in str(one.value)] == [need]
        hidden.rename(place)


@pytest.mark.parametrize("name", ALL)
def test_the_folder_of_one_data_set_will_do(name: str, own: Path, tmp_path: Path) -> None:
    """The last place of each file is below the folder of that data set alone."""
    expected = [sample.id for sample in read(name, own)]
    alone = tmp_path / "alone"
    for need in ALL[name].needs:
        target = alone / need.path.split(" | ")[-1]
        target.parent.mkdir(parents=True, exist_ok=True)
        sources.located(own, need).rename(target)
    assert [sample.id for sample in read(name, alone)] == expected


@pytest.mark.parametrize("name", [n for n in ALL if n not in ("coco-caption", "vqav2", "vizwiz", "docvqa")])
def test_photos_are_not_opened_where_their_size_is_told(
    name: str, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> tuple[int, int]:
        raise ImageError(f"{path} was opened")

    monkeypatch.setattr(sources, "measure", refuse)
    monkeypatch.setattr(coco, "measure", refuse)
    assert read(name, library)


def test_photos_are_measured_one_after_the_other(own: Path) -> None:
    (own / "coco/val2014/COCO_val2014_000000000003.jpg").unlink()
    samples = ALL["coco-caption"].samples(own)
    assert next(samples).id == "1"
    with pytest.raises(DataError, match=r"dataset_coco\.json \(image 2\): .*COCO_val2014_000000000003\.jpg"):
        next(samples)


# One by one


def said(sample: Sample) -> list[str]:
    return [truth.text for truth in sample.truth if isinstance(truth, Text)]


def found(sample: Sample) -> list[tuple[str, tuple[float, ...]]]:
    (truth,) = sample.truth
    assert isinstance(truth, Detections)
    return [(item.label, item.box) for item in truth.objects]


def test_captions(library: Path) -> None:
    first, second = read("coco-caption", library)
    assert (first.id, second.id) == ("1", "3")  # the other is for training
    assert said(first) == [f"A box {n}." for n in range(6)]
    assert len(second.truth) == 8

    nocaps = read("nocaps", library)
    assert [sample.id for sample in nocaps] == ["0", "1"]
    assert said(nocaps[1]) == [f"A red box, {n}." for n in range(1, 20, 2)]

    textcaps = read("textcaps", library)
    assert [sample.id for sample in textcaps] == ["003a8ae2ef43b901", "00a4e2c1f1d3a5b2"]  # once, not per caption
    assert said(textcaps[0]) == [f"A box that says {n}" for n in range(5)]


def test_detection(library: Path) -> None:
    both, one, empty = read("coco-detection", library)
    assert found(both) == [("person", (0.5, 1.25, 20.5, 31.25)), ("toothbrush", (40, 0, 80, 60))]
    assert both.areas == (77.0, 9.0)  # of the masks, in the order of the objects
    assert [(item.label, item.box) for item in both.ignored] == [("person", (0, 0, 10, 60))]
    assert (found(one), one.areas, one.ignored) == ([("toothbrush", (10, 10, 40, 30))], (450.5,), ())
    assert (empty.id, found(empty)) == ("632", [])  # a photo without objects is asked too
    truths = [sample.truth[0] for sample in (both, one, empty)]
    assert score_answers(truths, truths, "<OD>")["AP"] == pytest.approx(1)


def test_flickr(library: Path) -> None:
    samples = read("flickr30k-entities", library)
    assert [sample.id for sample in samples] == ["2000#0", "2000#1", "2000#3", "1000#0", "1000#1", "1000#3"]
    guys, men, man = samples[:3]
    assert guys.given == "Two young guys with shaggy hair look at their hands in the yard ."
    a, b = (0.0, 0.0, 20.0, 30.0), (30.0, 0.0, 60.0, 40.0)
    assert found(guys) == [("Two young guys", a), ("Two young guys", b)]  # what is no box is left out
    assert men.given == "Two men in green shirts stand , it rains ."
    assert found(men) == [("Two men", a), ("Two men", b), ("green shirts", (0.0, 2.0, 79.0, 59.0))]
    assert found(man) == [("A man", b), ("A man", (4.0, 4.0, 8.0, 8.0)), ("a blue shirt", (0.0, 2.0, 79.0, 59.0))]


@pytest.mark.parametrize("dataset", REFER)
def test_expressions(dataset: str, library: Path) -> None:
    val = read(f"{dataset}-val", library)
    assert len(val) == 8
    assert {sample.photo for sample in val} == {"30", "31"}
    assert val[0].given == "the café on the left"  # not raw
    assert found(val[0]) == [("the café on the left", (10.5, 10, 40.5, 30))]
    assert val[0].id == "0"
    others = read("refcocog-test" if dataset == "refcocog" else f"{dataset}-testA", library)
    assert {sample.photo for sample in others} == {"32", "33"}
    odd = next(sample for sample in others if sample.id == "2")  # the second ref, with the second object of its photo
    assert found(odd) == [("the café on the left", (10, 0, 20, 60))]
    assert not {sample.id for sample in val} & {sample.id for sample in others}


def test_masks(own: Path) -> None:
    change(own / "refcoco/instances.json", lambda d: d["annotations"][2].update(segmentation=[[0, 0, 9, 0, 9, 9]]))
    samples = read("refcoco-val-res", own)
    assert [sample.id for sample in samples] == [sample.id for sample in read("refcoco-val", own)]
    outlines = {sample.photo: sample.truth[0] for sample in samples}
    assert all(isinstance(truth, Segments) for truth in outlines.values())
    (runs,) = outlines["30"].instances  # type: ignore[attr-defined]
    assert (runs.label, runs.box) == ("the café on the right", (0, 0, 10, 60))
    (triangle,) = outlines["31"].instances  # type: ignore[attr-defined]
    assert triangle.polygons == ((0, 0, 9, 0, 9, 9),)
    truths = [sample.truth[0] for sample in samples]
    assert score_answers(truths, truths, segmentation.TASK)["mIoU"] == 1


def test_questions(library: Path) -> None:
    people = ["red"] * 6 + ["dark red"] * 3 + ["blue"]
    for name in ("vqav2", "textvqa", "vizwiz"):
        for sample in read(name, library):
            assert said(sample) == people  # every person counts
    asked = read("vqav2", library)
    assert [sample.id for sample in asked] == ["1000", "1001", "3000", "3001"]
    assert asked[0].given == "What color is it?"
    assert [sample.id for sample in read("textvqa", library)] == ["34602", "34603"]
    assert [sample.id for sample in read("vizwiz", library)] == ["VizWiz_val_00000000", "VizWiz_val_00000001"]
    pages = read("docvqa", library)
    assert [(sample.id, sample.photo) for sample in pages] == [
        ("49153", "pybv0228_81"),
        ("49155", "pybv0228_81"),
        ("49154", "snbx0223_2"),
    ]
    assert (said(pages[0]), pages[0].task) == (["1/8/93", "January 8"], "<DocVQA>")


# Broken files


def lacking(*path: Any) -> Callable[[Any], None]:
    """Without the last key."""

    def alter(value: Any) -> None:
        for key in path[:-1]:
            value = value[key]
        del value[path[-1]]

    return alter


def having(value: Any, *path: Any) -> Callable[[Any], None]:
    def alter(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return alter


KARPATHY, NOCAPS = "coco/dataset_coco.json", "nocaps/nocaps_val_4500_captions.json"
INSTANCES, REFCOCO = "coco/annotations/instances_val2017.json", "refcoco/instances.json"
TEXTCAPS, TEXTVQA, VIZWIZ = (
    "textcaps/TextCaps_0.1_val.json",
    "textvqa/TextVQA_0.5.1_val.json",
    "vizwiz/Annotations/val.json",
)
ASKED, GIVEN = "vqav2/v2_OpenEnded_mscoco_val2014_questions.json", "vqav2/v2_mscoco_val2014_annotations.json"
DOCVQA = "docvqa/val_v1.0_withQT.json"
BROKEN = [
    ("coco-caption", KARPATHY, lacking("images", 2, "sentences"), "image 2"),
    ("coco-caption", KARPATHY, having([], "images", 2, "sentences"), "image 2.*no captions"),
    ("coco-caption", KARPATHY, having(7, "images", 0, "sentences", 1, "raw"), "image 0.*raw is 7"),
    ("coco-caption", KARPATHY, having(1, "images", 2, "cocoid"), "sample 1 occurs twice"),
    ("coco-caption", KARPATHY, having([], "images"), "no sample"),
    ("nocaps", NOCAPS, lacking("images", 1, "file_name"), "file_name"),
    ("nocaps", NOCAPS, having(9, "annotations", 1, "image_id"), "image 9, which is not listed"),
    ("nocaps", NOCAPS, having([], "annotations"), "image 0.*no captions"),
    ("textcaps", TEXTCAPS, having("x", "data", 5, "reference_strs"), "entry 5.*reference_strs"),
    ("textcaps", TEXTCAPS, having(0, "data", 5, "image_width"), "entry 5.*0 x 60"),
    ("coco-detection", INSTANCES, having([10, 10, -3, 20], "annotations", 0, "bbox"), "annotation 1 of image 285"),
    (
        "coco-detection",
        INSTANCES,
        having([90, 10, 3, 20], "annotations", 0, "bbox"),
        "annotation 1 .*outside its photo",
    ),
    ("coco-detection", INSTANCES, having(3, "annotations", 0, "category_id"), "annotation 1 .*category_id 3"),
    ("coco-detection", INSTANCES, lacking("annotations", 3, "area"), "annotation 4 .*area"),
    ("coco-detection", INSTANCES, having(7, "annotations", 0, "image_id"), "image 7, which is not listed"),
    ("coco-detection", INSTANCES, having("a", "images", 1, "width"), "image 1.*width"),
    ("refcoco-val", REFCOCO, lacking("annotations", 0), "refs.*ref 0.*annotation 1300"),
    ("refcoco-val", REFCOCO, lacking("images", 0), "no image 30"),
    ("refcoco-val", REFCOCO, having([1, 2], "annotations", 0, "bbox"), "annotation 1300.*bbox"),
    ("refcoco-val", REFCOCO, having(31, "annotations", 0, "image_id"), "ref 0.*of another"),
    ("refcoco-val-res", REFCOCO, having([[1, 2]], "annotations", 0, "segmentation"), "annotation 1300.*outline"),
    ("refcoco-val-res", REFCOCO, having(9, "images", 0, "width"), "annotation 1300.*80 x 60"),
    ("vqav2", ASKED, lacking("questions", 1, "question"), "question 1.*'question'"),
    ("vqav2", GIVEN, lacking("annotations", 3), "questions.json .question 0.*has no entry"),
    ("vqav2", GIVEN, having([], "annotations", 3, "answers"), "question 0.*no answers"),
    ("vqav2", GIVEN, having([{"a": 1}], "annotations", 3, "answers"), "annotation 3.*an answer"),
    ("textvqa", TEXTVQA, having("red", "data", 1, "answers"), "entry 1.*answers"),
    ("vizwiz", VIZWIZ, lacking(1, "image"), "entry 1.*image"),
    ("docvqa", DOCVQA, lacking("data", 2, "questionId"), "entry 2.*questionId"),
    ("docvqa", DOCVQA, having("documents/gone.png", "data", 1, "image"), "entry 1.*gone.png"),
]


@pytest.mark.parametrize(("name", "file", "alter", "message"), BROKEN)
def test_a_broken_entry_is_named(name: str, file: str, alter: Callable[[Any], None], message: str, own: Path) -> None:
    change(own / file, alter)
    with pytest.raises(DataError, match=f"(?s).*{message}") as caught:
        read(name, own)
    assert Path(file).parent.name in str(caught.value)


@pytest.mark.parametrize(("name", "file"), sorted({(name, file) for name, file, _, _ in BROKEN}))
def test_a_file_that_was_cut_off_is_named(name: str, file: str, own: Path) -> None:
    text = (own / file).read_text(encoding="utf-8")
    for length in (0, 1, len(text) // 2, len(text) - 1):
        (own / file).write_text(text[:length], encoding="utf-8")
        with pytest.raises(DataError, match=Path(file).name):
            read(name, own)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("Sentences/2000.txt", "[/EN#1/people Two men]", "[/EN#1/people Two men", r"2000\.txt \(caption 1\)"),
        ("Annotations/2000.xml", "</annotation>", "", r"2000\.xml:\d+ is no XML"),
        ("Annotations/2000.xml", "<width>80</width>", "", r"2000\.xml \(size\): width"),
        ("Annotations/2000.xml", "<xmax>21</xmax>", "<xmax>far</xmax>", r"2000\.xml \(object 0\): xmax"),
        ("Annotations/2000.xml", "<xmin>31</xmin>", "<xmin>91</xmin>", r"2000\.xml \(object 1\): .*inverted"),
        ("Annotations/2000.xml", "<name>5</name>", "", r"2000\.xml \(object 2\): .*<name>"),
        ("test.txt", "1000", "3000", r"3000\.xml cannot be read"),
        ("test.txt", "2000\n1000\n", "\n", r"test\.txt holds no sample"),
    ],
)
def test_broken_flickr(file: str, old: str, new: str, message: str, own: Path) -> None:
    path = own / "flickr30k" / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read("flickr30k-entities", own)


# Pickles


class Planted:
    """Runs a command where it is unpickled without care."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_holds_code_is_refused(protocol: int, own: Path, tmp_path: Path) -> None:
    entries: list[Any] = [*refs(("val",)), {"split": "val", "extra": Planted(tmp_path / "planted")}]
    content = pickle.dumps(entries, protocol)
    (own / "refcoco/refs(unc).p").write_bytes(content)
    for name in ("refcoco-val", "refcoco-val-res"):
        with pytest.raises(DataError, match=r"refs\(unc\)\.p holds code: .*mkdir"):
            read(name, own)
    assert not (tmp_path / "planted").exists()
    pickle.loads(content)
    assert (tmp_path / "planted").exists()  # it was no dud


def test_even_harmless_names_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "refs.p"
    for value in (complex(1, 2), range(3), Path("x")):
        path.write_bytes(pickle.dumps([value]))
        with pytest.raises(DataError, match="holds code"):
            refer.unpickled(path)


def test_pickles_of_python_2_and_3(tmp_path: Path) -> None:
    path, value = tmp_path / "refs.p", [{"sent": "the café", "split": "val", "ref_id": 3}]
    for content in (python2(value), python2(value, "latin1"), *(pickle.dumps(value, p) for p in range(6))):
        path.write_bytes(content)
        assert refer.unpickled(path) == value


def test_a_pickle_that_was_cut_off_is_named(tmp_path: Path) -> None:
    path = tmp_path / "refs.p"
    for whole in (python2(refs(("val",))[:1]), pickle.dumps(refs(("val",))[:1], 0)):
        for length in range(len(whole)):
            path.write_bytes(whole[:length])
            with pytest.raises(DataError, match=r"refs\.p"):
                refer.unpickled(path)


def test_refs_of_other_splits_are_named(own: Path) -> None:
    (own / "refcoco/refs(unc).p").write_bytes(python2(refs(("val", "train"))))
    with pytest.raises(DataError, match=r"refs\(unc\)\.p has no expressions of testA; it has those of train, val"):
        read("refcoco-testA", own)


def test_records_carry_their_source(library: Path) -> None:
    def of(name: str) -> Record:
        return read(name, library)[0].record

    assert (of("refcocog-test").source, of("refcocog-test").split) == ("RefCOCOg", "test")
    assert (of("nocaps").source, of("nocaps").split) == ("NoCaps", "val")


# The paper

MODELS = ("Florence-2-B", "Florence-2-L", "Florence-2-B-ft", "Florence-2-L-ft")
TABLE = {  # percent, as in tables 4, 5 and 6; None: not printed
    "coco-caption": (133.0, 135.6, 140.0, 143.3),
    "nocaps": (118.7, 120.8, 116.7, 124.9),
    "textcaps": (70.1, 72.8, 143.9, 151.1),
    "coco-detection": (34.7, 37.5, 41.4, 43.4),
    "flickr30k-entities": (83.6, 84.4, 84.0, 85.2),
    "refcoco-val": (53.9, 56.3, 92.6, 93.4),
    "refcoco-testA": (58.4, 61.6, 94.8, 95.3),
    "refcoco-testB": (49.7, 51.4, 91.5, 92.0),
    "refcoco+-val": (51.5, 53.6, 86.8, 88.3),
    "refcoco+-testA": (56.4, 57.9, 91.7, 92.9),
    "refcoco+-testB": (47.9, 49.9, 82.2, 83.6),
    "refcocog-val": (66.3, 68.0, 89.8, 91.2),
    "refcocog-test": (65.1, 67.0, 82.2, 91.7),
    "refcoco-val-res": (34.6, 35.8, 78.0, 80.5),
    "vqav2": (None, None, 79.7, 81.7),
    "textvqa": (None, None, 63.6, 73.5),
    "vizwiz": (None, None, 63.6, 72.6),
    "docvqa": (None, None, None, None),
}
TUNED_TABLES = {5: ("coco-caption", "nocaps", "textcaps", "vqav2", "textvqa", "vizwiz")}


@pytest.mark.parametrize("name", ALL)
def test_the_numbers_of_the_paper(name: str) -> None:
    benchmark = ALL[name]
    expected = {model: value for model, value in zip(MODELS, TABLE[name], strict=True) if value is not None}
    assert {p.model: round(p.value * 100, 6) for p in benchmark.paper} == expected
    assert len(benchmark.paper) == len(expected)
    for printed in benchmark.paper:
        assert printed.figure == benchmark.main
        table = 4 if not printed.model.endswith("-ft") else 5 if name in TUNED_TABLES[5] else 6
        assert printed.source.startswith(f"Florence-2 (arXiv 2311.06242), table {table}")


def test_what_is_doubtful_is_said() -> None:
    doubtful = [(b.name, p.model) for b in ALL.values() for p in b.paper if "slip" in p.source]
    assert doubtful == [("refcocog-test", "Florence-2-B-ft")]
    assert "doubtful" in ALL["refcocog-test"].protocol
    for name in ("vqav2", "textvqa", "vizwiz"):
        assert "test-dev" in ALL[name].protocol
        assert all("test-dev" in p.source for p in ALL[name].paper)
    assert all(protocol in ALL["flickr30k-entities"].protocol for protocol in ("ANY-BOX", "MERGED-BOXES"))


@pytest.mark.parametrize("name", ALL)
def test_truth_is_perfect_and_nothing_is_not(name: str, library: Path) -> None:
    """A caption beside several of people cannot have CIDEr 10, and where people disagree no answer agrees with all: of
    these BLEU and the exact match are 1."""
    benchmark = ALL[name]
    samples = read(name, library)
    truth = measure(benchmark.measure, samples, [sample.truth[0] for sample in samples]).figures
    silent = [dataclasses.replace(sample.truth[0], **nothing(sample.truth[0])) for sample in samples]
    nought = measure(benchmark.measure, samples, silent).figures
    figure = {"caption": "BLEU1", "vqa": "EM"}.get(benchmark.measure, benchmark.main)
    assert truth[figure] == pytest.approx(1)
    assert nought[figure] == pytest.approx(0, abs=1e-6)


def nothing(answer: Answer) -> dict[str, Any]:
    return {answer.items_field: ()} if answer.items_field else {"text": ""}
