"""Files as other tools write them, by hand: what is in them arrives, and what is broken is named with its place."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from florence2.data import Question, Thing, read, write
from florence2.data.records import Record
from florence2.errors import DataError, MissingDependencyError
from tests.data_room.examples import image_bytes, rich_record


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return tmp_path


def put(path: Path, content: str | bytes | dict[str, Any] | None = None) -> Path:
    """A file; an image of 80 x 60 where nothing is said."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = image_bytes(80, 60, "JPEG" if path.suffix == ".jpg" else "PNG") if content is None else content
    path.write_bytes(
        content
        if isinstance(content, bytes)
        else (content if isinstance(content, str) else json.dumps(content)).encode()
    )
    return path


def parted(source: Path, format: str) -> tuple[list[Record], list[str]]:
    """Records, and the error records as text."""
    data_set = read(source)
    assert data_set.format == format
    found = list(data_set)
    return [r for r in found if not r.error], [f"{r.where}: {r.error}" for r in found if r.error]


# COCO


def coco() -> dict[str, Any]:
    return {
        "info": {"year": 2017},
        "licenses": [],
        "images": [
            {"license": 4, "file_name": "000000397133.jpg", "height": 60, "width": 80, "id": 397133},
            {"license": 1, "file_name": "000000037777.jpg", "height": 60, "width": 80, "id": 37777},
        ],
        "annotations": [
            {
                "segmentation": [[10.0, 10.0, 30.0, 10.0, 30.0, 40.5]],
                "area": 305.0,
                "iscrowd": 0,
                "image_id": 397133,
                "bbox": [10.0, 10.0, 20.0, 30.5],
                "category_id": 44,
                "id": 82445,
            },
            {
                "segmentation": {"counts": [120, 3, 57, 3, 4617], "size": [60, 80]},
                "area": 6,
                "iscrowd": 1,
                "image_id": 397133,
                "bbox": [2, 0, 2, 3],
                "category_id": 1,
                "id": 900100397133,
            },
        ],
        "categories": [
            {"supercategory": "person", "id": 1, "name": "person"},
            {"supercategory": "kitchen", "id": 44, "name": "bottle"},
        ],
    }


def coco_folder(here: Path) -> Path:
    for name in ("000000397133.jpg", "000000037777.jpg"):
        put(here / "val2017" / name)
    put(here / "annotations" / "instances_val2017.json", coco())
    captions = {**coco(), "annotations": [{"image_id": 397133, "id": 370509, "caption": "A man in a kitchen."}]}
    del captions["categories"]
    put(here / "annotations" / "captions_val2017.json", captions)
    return here


def test_coco_as_it_is_downloaded(here: Path) -> None:
    records, broken = parted(coco_folder(here), "coco")
    assert broken == []
    first, second = records
    assert first.image == here / "val2017" / "000000397133.jpg"
    assert (first.id, first.width, first.height, first.captions) == ("397133", 80, 60, ("A man in a kitchen.",))
    assert first.objects == (
        Thing(label="bottle", box=(10, 10, 30, 40.5), polygons=((10, 10, 30, 10, 30, 40.5),)),
        Thing(label="person", box=(2, 0, 4, 3), polygons=((2, 0, 4, 0, 4, 3, 2, 3),), crowd=True),
    )
    assert second.objects == ()  # an explicit negative
    assert first.exhaustive == second.exhaustive == ("person", "bottle")


def test_the_same_object_in_two_files_is_one(here: Path) -> None:
    folder = coco_folder(here)
    put(folder / "annotations" / "person_keypoints_val2017.json", coco())
    records, _ = parted(folder, "coco")
    assert len(records[0].objects or ()) == 2


def test_coco_of_roboflow(here: Path) -> None:
    document = coco()
    document["images"][0]["file_name"] = "a_jpg.rf.1f.jpg"
    put(here / "train" / "a_jpg.rf.1f.jpg")
    put(here / "train" / "_annotations.coco.json", document)
    records, _ = parted(here, "coco")
    assert records[0].load().size == (80, 60)


def test_lvis_says_itself_what_was_looked_for(here: Path) -> None:
    document = coco()
    document["categories"] += [{"id": 7, "name": "zebra"}, {"id": 8, "name": "ant"}]
    document["images"][0].update(neg_category_ids=[7], not_exhaustive_category_ids=[1])
    records, _ = parted(put(here / "lvis.json", document), "coco")
    assert records[0].exhaustive == ("bottle", "zebra")  # people were not all marked, ants not looked for


def test_broken_coco(here: Path) -> None:
    document = coco()
    document["annotations"] += [
        {"id": 1, "image_id": 397133, "category_id": 99, "bbox": [0, 0, 1, 1]},
        {"id": 2, "image_id": 397133, "category_id": 1, "bbox": [0, 0, 1]},
        {"id": 3, "image_id": 397133, "category_id": 1, "bbox": [0, 0, "x", 1]},
        {"id": 4, "image_id": 397133, "category_id": 1},
        {"id": 5, "image_id": 397133, "category_id": 1, "segmentation": {"size": [60, 80], "counts": [5]}},
        {"id": 6, "image_id": 5, "category_id": 1, "bbox": [0, 0, 1, 1]},
        {"id": 7, "category_id": 1, "bbox": [0, 0, 1, 1]},
    ]
    document["images"] += [{"id": 9, "width": 80, "height": 60}]
    records, broken = parted(put(here / "set.json", document), "coco")
    assert [len(record.objects or ()) for record in records] == [2, 0]
    text = "\n".join(broken)
    for part in (
        "annotation 1 of image 397133: category_id 99 is not among",
        "annotation 2 of image 397133: bbox has 3 numbers",
        "annotation 3 of image 397133: bbox is 'x', expected a number",
        "annotation 4 of image 397133: it has neither bbox",
        "annotation 5 of image 397133: the runs",
        "1 annotations are of image 5, which is not listed",
        "an annotation without an image_id",
        "has no 'file_name'",
    ):
        assert part in text
    assert len(broken) == 8
    assert text.count(str(here / "set.json")) == 8


def test_written_coco_loads_in_pycocotools(here: Path) -> None:
    COCO = pytest.importorskip("pycocotools.coco").COCO
    write([rich_record(id="17"), rich_record(id="4", objects=())], here / "set", "coco")
    api = COCO(str(here / "set" / "instances.json"))
    assert sorted(api.getImgIds()) == [4, 17]
    found = api.loadAnns(api.getAnnIds(imgIds=[17]))
    assert [annotation["bbox"] for annotation in found][:2] == [[10, 10, 20, 30], [40, 12, 20, 38]]
    assert abs(int(api.annToMask(found[3]).sum()) - (10 + 8) * 38 / 2) <= 2  # two triangles
    assert COCO(str(here / "set" / "captions.json")).getAnnIds(imgIds=[17]) == [1, 2]


# YOLO


def yolo_folder(here: Path, labels: str = "1 0.5 0.5 0.25 0.5\n") -> Path:
    put(here / "data.yaml", "train: ../train/images\nval: ../valid/images\n\nnc: 2\nnames: ['cat', 'traffic light']\n")
    put(here / "train" / "images" / "a.jpg")
    put(here / "train" / "labels" / "a.txt", labels)
    put(here / "valid" / "images" / "b.jpg")
    return here


def test_yolo_of_roboflow(here: Path) -> None:
    records, broken = parted(yolo_folder(here, "1 0.5 0.5 0.25 0.5\n0 0.1 0.1 0.5 0.1 0.5 0.5\n"), "yolo")
    assert broken == []
    box, outline = records[0].objects or ()
    assert box == Thing(label="traffic light", box=(30, 15, 50, 45))
    assert outline.polygons == ((8, 6, 40, 6, 40, 30),)
    assert outline.box == (8, 6, 40, 30)
    assert [(record.split, record.objects == ()) for record in records] == [("train", False), ("val", True)]
    assert records[1].exhaustive == ("cat", "traffic light")


def test_yolo_settings_of_ultralytics(here: Path) -> None:
    put(here / "sets" / "images" / "train" / "a.jpg")
    put(here / "sets" / "labels" / "train" / "a.txt", "7 0.5 0.5 1 1")
    settings = "path: sets\ntrain:\n  - images/train\nval: list.txt\nnames:\n  0: cat\n  7: dog\n"
    put(here / "sets" / "list.txt", "./images/train/a.jpg\n")
    records, broken = parted(put(here / "coco8.yaml", settings), "yolo")
    assert (broken, [record.split for record in records]) == ([], ["train", "val"])
    assert {thing.label for record in records for thing in record.objects or ()} == {"dog"}


def test_yolo_side_by_side(here: Path) -> None:
    put(here / "a.jpg")
    put(here / "a.txt", "0 0.5 0.5 1 1")
    put(here / "classes.txt", "cat\ndog\n")
    records, _ = parted(here, "yolo")
    assert records[0].objects == (Thing(label="cat", box=(0, 0, 80, 60)),)


def test_broken_yolo(here: Path) -> None:
    labels = "1 0.5 0.5 0.25 0.5\n9 0.5 0.5 1 1\n0 0.5 0.5 1\ncat 0 0 1 1\n0 0.5 half 1 1\n0 0 0 1 0 1 1 0\n"
    folder = yolo_folder(here, labels)
    put(folder / "train" / "images" / "broken.jpg", b"\xff\xd8 cut off")
    records, broken = parted(folder, "yolo")
    where = str(folder / "train" / "labels" / "a.txt")
    assert [line.removeprefix(where) for line in broken[:5]] == [
        ":2: class 9 is not among the 2 names",
        ":3: found 3 coordinates, expected 4 of a box or at least 6 of an outline",
        ":4: the class is 'cat', expected a number",
        ":5: a coordinate is 'half', expected a number",
        ":6: found 7 coordinates; an outline has as many x as y",
    ]
    assert "broken.jpg" in broken[5]
    assert [len(record.objects or ()) for record in records] == [1, 0]


def test_yolo_without_images(here: Path) -> None:
    put(here / "data.yaml", "train: train/images\nnames: [cat]\n")
    _, broken = parted(here, "yolo")
    assert "holds no images" in broken[0]


def test_written_yolo_and_voc_load_in_supervision(here: Path) -> None:
    supervision = pytest.importorskip("supervision")
    boxes = (Thing(label="cat", box=(10, 10, 30, 40)), Thing(label="dog", box=(0, 5, 80, 60)))
    record = rich_record(objects=boxes, exhaustive=("cat", "dog"))
    write([record], here / "yolo", "yolo")
    loaded = supervision.DetectionDataset.from_yolo(
        images_directory_path=str(here / "yolo/images/train"),
        annotations_directory_path=str(here / "yolo/labels/train"),
        data_yaml_path=str(here / "yolo/data.yaml"),
    )
    (_, _, found), *_ = loaded
    assert [loaded.classes[i] for i in found.class_id] == ["cat", "dog"]
    assert found.xyxy.round(3).tolist() == [[10, 10, 30, 40], [0, 5, 80, 60]]
    write([record], here / "voc", "voc")
    loaded = supervision.DetectionDataset.from_pascal_voc(
        images_directory_path=str(here / "voc/JPEGImages"), annotations_directory_path=str(here / "voc/Annotations")
    )
    (_, _, found), *_ = loaded
    assert [loaded.classes[i] for i in found.class_id] == ["cat", "dog"]
    assert found.xyxy.round(3).tolist() == [[10, 10, 30, 40], [0, 5, 80, 60]]


# Pascal VOC

VOC = """<annotation>
	<folder>VOC2012</folder>
	<filename>2007_000027.jpg</filename>
	<source><database>The VOC2007 Database</database></source>
	<size><width>80</width><height>60</height><depth>3</depth></size>
	<segmented>0</segmented>
	<object>
		<name>person</name>
		<pose>Unspecified</pose>
		<truncated>0</truncated>
		<difficult>1</difficult>
		<bndbox><xmin>1</xmin><ymin>11</ymin><xmax>80</xmax><ymax>51</ymax></bndbox>
		<part><name>head</name><bndbox><xmin>2</xmin><ymin>12</ymin><xmax>9</xmax><ymax>20</ymax></bndbox></part>
	</object>
	%s
</annotation>
"""


def test_voc(here: Path) -> None:
    put(here / "JPEGImages" / "2007_000027.jpg")
    outline = "<polygon><x1>2</x1><y1>2</y1><x2>10.5</x2><y2>2</y2><x3>10.5</x3><y3>9</y3></polygon>"
    box = "<bndbox><xmin>0</xmin><ymin>2</ymin><xmax>10</xmax><ymax>8</ymax></bndbox>"
    drawn = f"<object><name>cat</name>{box}{outline}</object>"
    put(here / "Annotations" / "2007_000027.xml", VOC % drawn)
    (record,), broken = parted(here, "voc")
    assert broken == []
    assert record.image == here / "JPEGImages" / "2007_000027.jpg"
    assert record.objects == (
        Thing(label="person", box=(0, 10, 80, 51), difficult=True),
        Thing(label="cat", box=(0, 1, 10, 8), polygons=((1, 1, 9.5, 1, 9.5, 8),)),
    )
    assert record.exhaustive is None
    put(here / "labels.txt", "person\ncat\ndog\n")
    assert parted(here, "voc")[0][0].exhaustive == ("person", "cat", "dog")


def test_broken_voc(here: Path) -> None:
    put(here / "2007_000027.jpg")
    objects = "<object><name>cat</name></object><object><bndbox/></object>"
    objects += (
        "<object><name>cat</name><bndbox><xmin>left</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></object>"
    )
    put(here / "2007_000027.xml", VOC % objects)
    put(here / "cut.xml", VOC[:200])
    (record,), broken = parted(here, "voc")
    assert len(record.objects or ()) == 1
    for part in (
        "object 2: it has no <bndbox>",
        "object 3: it has no <name>",
        "object 4: xmin is 'left'",
        "cut.xml:5: it is no XML",
    ):
        assert any(part in line for line in broken), broken


# LabelMe


def labelme(*shapes: dict[str, Any], **changes: Any) -> dict[str, Any]:
    common = {"group_id": None, "description": "", "flags": {}}
    document = {"version": "5.4.1", "flags": {}, "shapes": [{**common, **shape} for shape in shapes]}
    return {**document, "imagePath": "a.jpg", "imageData": None, "imageHeight": 60, "imageWidth": 80, **changes}


def test_labelme(here: Path) -> None:
    put(here / "a.jpg")
    box = {"label": "cat", "shape_type": "rectangle", "points": [[30, 40], [10, 10]]}
    part = {"label": "dog", "shape_type": "polygon", "group_id": 3, "points": [[1, 1], [5, 1], [5, 5]]}
    other = {**part, "points": [[11, 1], [15, 1], [15, 5]]}
    put(here / "a.json", labelme(box, part, other))
    (record,), broken = parted(here, "labelme")
    assert broken == []
    assert record.objects == (
        Thing(label="cat", box=(10, 10, 30, 40)),
        Thing(label="dog", box=(1, 1, 15, 5), polygons=((1, 1, 5, 1, 5, 5), (11, 1, 15, 1, 15, 5))),
    )


def test_labelme_with_its_image_inside(here: Path) -> None:
    inside = base64.b64encode(image_bytes(80, 60)).decode()
    put(here / "a.json", labelme(imagePath="gone.png", imageData=inside))
    (record,), _ = parted(here, "labelme")
    assert record.load().size == (80, 60)
    assert record.objects == ()


def test_broken_labelme(here: Path) -> None:
    put(here / "a.jpg")
    circle = {"label": "cat", "shape_type": "circle", "points": [[30, 40], [10, 10]]}
    put(here / "a.json", labelme(circle, {"shape_type": "polygon", "points": []}, {"label": "x", "points": [[1, "a"]]}))
    put(here / "b.json", '{"shapes": [')
    (record,), broken = parted(here, "labelme")
    assert record.objects == ()
    for part in (
        "shape 1: a circle is neither",
        "shape 2: a shape has no 'label'",
        "shape 3: a point is 'a'",
        "is no JSON",
    ):
        assert any(part in line for line in broken), broken


# JSON lines


def test_pairs_of_roboflow(here: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        put(here / "valid" / name)
    lines = [
        {"image": "a.jpg", "prefix": "<OD>", "suffix": "cat<loc_1><loc_2><loc_3><loc_4>"},
        {"image": "a.jpg", "prefix": "<CAPTION>", "suffix": "A cat."},
        {"image": "b.jpg", "prefix": "<OD>", "suffix": ""},
    ]
    put(here / "valid" / "annotations.jsonl", "\n".join(map(json.dumps, lines)))
    records, broken = parted(here, "jsonl")
    assert broken == []
    assert [(record.id, record.split, len(record.pairs)) for record in records] == [("a", "val", 2), ("b", "val", 1)]
    assert str(records[0].pairs[1].place) == f"{here / 'valid' / 'annotations.jsonl'}:2"


def test_broken_lines(here: Path) -> None:
    put(here / "a.jpg")
    put(here / "cut.jpg", image_bytes(80, 60)[:20])
    good = json.dumps({"image": "a.jpg", "prefix": "<OD>", "suffix": ""})
    lines = [
        good,
        '{"image": "a.jpg", "prefix"',
        good.replace("a.jpg", "gone.jpg"),
        '{"image": "a.jpg", "prefix": "<OD>"}',
        good.replace('""', "7"),
        good[:-1] + ', "label": 1}',
        "",
        good.replace("a.jpg", "cut.jpg"),
        "[]",
    ]
    put(here / "annotations.jsonl", "\n".join(lines))
    records, broken = parted(here, "jsonl")
    assert len(records) == 1
    file = str(here / "annotations.jsonl")
    for place, part in (
        (2, "is no JSON"),
        (3, "gone.jpg"),
        (4, "has no 'suffix'"),
        (5, "suffix is 7, expected a text"),
        (6, "unknown field 'label'"),
        (8, "cut.jpg ends after 20 bytes, before the picture is complete (truncated PNG)"),
        (9, "expected an object"),
    ):
        assert any(line.startswith(f"{file}:{place}: ") and part in line for line in broken), (place, broken)
    assert len(broken) == 7


def test_broken_records(here: Path) -> None:
    write([rich_record(id="a")], here / "set", "records")
    path = here / "set" / "records.jsonl"
    line = json.loads(path.read_text())
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"objects": [{"label": "cat"}]}, "has no 'bbox'"),
        ({"objects": [{"label": 3, "bbox": [0, 0, 1, 1]}]}, "label is 3"),
        ({"objects": [{"label": "cat", "bbox": [0, 0, 1, 1], "colour": "red"}]}, "unknown field 'colour'"),
        ({"objects": {"bbox": []}}, "expected a list"),
        ({"text": [{"text": "GO", "quad": [1, 2, 3]}]}, "quad has 3 numbers"),
        ({"qa": [{"question": "why?"}]}, "has no 'answers'"),
        ({"width": "wide"}, "width is 'wide'"),
        ({"captions": [None]}, "a caption is None"),
    ]
    path.write_text("\n".join(json.dumps({**line, **changes}) for changes, _ in wrong) + "\n" + json.dumps(line))
    records, broken = parted(here / "set", "records")
    assert len(records) == 1
    for number, (_, part) in enumerate(wrong, start=1):
        assert broken[number - 1].startswith(f"{path}:{number}: ")
        assert part in broken[number - 1]


# Captions


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("captions.txt", 'image,caption\na.jpg,A child in a pink dress .\na.jpg,"A girl, going in ."\n'),
        (
            "results.csv",
            "image_name| comment_number| comment\na.jpg| 0| A child in a pink dress .\na.jpg| 1| A girl, going in .\n",
        ),
        ("Flickr8k.token.txt", "a.jpg#0\tA child in a pink dress .\na.jpg#1\tA girl, going in .\n"),
        ("metadata.csv", '\ufefffile_name,text\r\na.jpg,A child in a pink dress .\r\na.jpg,"A girl, going in ."\r\n'),
    ],
)
def test_tables_of_captions(here: Path, name: str, content: str) -> None:
    put(here / "a.jpg")
    put(here / name, content)
    (record,), broken = parted(here, "captions")
    assert broken == []
    assert record.captions == ("A child in a pink dress .", "A girl, going in .")


def test_broken_table(here: Path) -> None:
    put(here / "images" / "a.jpg")
    put(here / "captions.csv", "file_name,caption\na.jpg,fine\na.jpg\ngone.jpg,lost\n,nameless\n")
    (record,), broken = parted(here, "captions")
    assert record.captions == ("fine",)
    file = str(here / "captions.csv")
    assert [line.removeprefix(file)[:3] for line in broken] == [":3:", ":4:", ":5:"]


def test_text_files_beside_images(here: Path) -> None:
    put(here / "10_dog" / "a.png")
    put(here / "10_dog" / "a.txt", "a dog, running, grass\n")
    put(here / "10_dog" / "b.png")
    records, _ = parted(here, "txt")
    assert [record.captions for record in records] == [("a dog, running, grass",), ()]


# Questions


def test_vqa_v2(here: Path) -> None:
    put(here / "val2014" / "COCO_val2014_000000000042.jpg")
    asked = [{"image_id": 42, "question": "Is it a dog?", "question_id": 42000}]
    asked += [{"image_id": 42, "question": "What colour?", "question_id": 42001}]
    asked += [{"image_id": 77, "question": "Where?", "question_id": 77000}]
    put(
        here / "v2_OpenEnded_mscoco_val2014_questions.json", {"info": {}, "data_subtype": "val2014", "questions": asked}
    )
    given = ["yes", "no", "yes", "dunno", "no", "no"]
    answers = [{"answer": text, "answer_confidence": "yes", "answer_id": n} for n, text in enumerate(given)]
    annotation = {"question_id": 42000, "image_id": 42, "multiple_choice_answer": "no", "answers": answers}
    put(here / "v2_mscoco_val2014_annotations.json", {"info": {}, "annotations": [annotation]})
    (record,), broken = parted(here, "vqa")
    assert record.qa == (
        Question(question="Is it a dog?", answers=("no", "yes", "dunno")),
        Question(question="What colour?", answers=()),
    )
    assert len(broken) == 1
    assert "is called by the number 77" in broken[0]


def test_docvqa(here: Path) -> None:
    put(here / "documents" / "pybv0228_81.png")
    entry = {"questionId": 337, "question": "What is the date?", "image": "documents/pybv0228_81.png", "docId": 279}
    entries = [{**entry, "answers": ["1/8/93"]}, {**entry, "questionId": 338, "question": "Who?"}, {"questionId": 5}]
    document = {"dataset_name": "SP-DocVQA", "dataset_split": "train", "data": entries}
    put(here / "train_v1.0_withQT.json", document)
    (record,), broken = parted(here, "docvqa")
    assert record.qa == (
        Question(question="What is the date?", answers=("1/8/93",)),
        Question(question="Who?", answers=()),
    )
    assert ["question 5" in line for line in broken] == [True]


# WebDataset and Parquet


def test_a_tar_of_img2dataset(here: Path) -> None:
    import tarfile

    for name, content in (
        ("000001.jpg", None),
        ("000001.json", {"caption": "a dog", "key": "000001", "status": "success", "width": 80, "height": 60}),
        ("000001.txt", "a dog"),
        ("000002.json", {}),
        ("000003.jpg", None),
        ("000003.json", "{"),
    ):
        put(here / "files" / name, content)
    with tarfile.open(here / "00000.tar", "w") as tar:
        for path in sorted((here / "files").iterdir()):
            tar.add(path, path.name)
    (record,), broken = parted(here / "00000.tar", "packs")
    assert (record.id, record.captions, record.extra["key"]) == ("000001", ("a dog",), "000001")
    assert ["000002: there is no image" in broken[0], "000003: 000003.json is no JSON" in broken[1]] == [True, True]


def test_a_tar_that_ends_early(here: Path) -> None:
    write([rich_record(id=f"p{n}") for n in range(3)], here / "whole.tar", "packs")
    (here / "cut.tar").write_bytes((here / "whole.tar").read_bytes()[:3500])
    _, broken = parted(here / "cut.tar", "packs")
    assert any("copy the file again" in line for line in broken)


def test_parquet_of_datasets(here: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    image = {"bytes": image_bytes(80, 60), "path": "dog.png"}
    rows = [
        {"image": image, "text": "a dog", "question": "what?", "answers": ["dog", "a dog"], "licence": "cc"},
        {"image": None, "text": "lost", "question": None, "answers": None, "licence": None},
    ]
    parquet.write_table(arrow.Table.from_pylist(rows), here / "train.parquet")
    (record,), broken = parted(here, "parquet")
    assert (record.id, record.captions, record.extra) == ("dog", ("a dog",), {"licence": "cc"})
    assert record.qa == (Question(question="what?", answers=("dog", "a dog")),)
    assert "row 1" in broken[0]
    put(here / "train.parquet", b"PAR1 nothing")
    _, broken = parted(here, "parquet")
    assert "no Parquet file" in broken[0]


def test_parquet_without_pyarrow_names_the_command(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    put(here / "a.parquet", b"PAR1")
    with pytest.raises(MissingDependencyError, match=r"pip install 'florence2\[train\]'"):
        list(read(here))


# What is nothing


def test_what_is_not_recognised(here: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read(here / "gone")
    with pytest.raises(DataError, match="not recognised; known are packs"):
        read(here)
    with pytest.raises(DataError, match="no data set of the format coco"):
        read(here, "coco")
    with pytest.raises(DataError, match="there is no format 'cocoa'"):
        read(here, "cocoa")
    put(here / "x.json", {"a": 1})
    with pytest.raises(DataError, match="not recognised"):
        read(here / "x.json")


def test_photos_stand_upright(here: Path) -> None:
    """Sizes from the head of a file are those of the photo as it is loaded."""
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("RGB", (80, 60))
    (here / "images").mkdir()
    image.save(here / "images" / "a.jpg", exif=exif)
    put(here / "captions.csv", "file_name,caption\nimages/a.jpg,turned\n")
    (record,), _ = parted(here, "captions")
    assert (record.width, record.height) == record.load().size == (60, 80)
