"""A folder of packs as benchmarks: what is asked of which photo, and that the truth is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import pytest

from florence2.data import Phrase, Question, Record, Reference, Thing, Words, write
from florence2.errors import DataError
from florence2.evaluation import bootstrap, runner
from florence2.evaluation.answerers import Truth
from florence2.evaluation.benchmarks import BENCHMARKS, find, packs
from florence2.evaluation.measures import measure
from florence2.evaluation.runner import Plan
from florence2.evaluation.samples import Sample
from florence2.language import tasks
from florence2.results import Box, Detections, Quad, Segments, Text
from florence2.results import TextRegions as Regions
from tests.data_room.examples import image_bytes

NAMES = [benchmark.name for benchmark in packs.BENCHMARKS]
CLASSES = ("cat", "dog", "bird", "zebra", "cow", "horse")
CAT, DOG, SMALL = (10.0, 10.0, 30.0, 40.0), (50.0, 20.0, 78.0, 58.0), (0.0, 0.0, 5.0, 5.0)


def quad(box: Box) -> Quad:
    x0, y0, x1, y1 = box
    return (x0, y0, x1, y0, x1, y1, x0, y1)


def record(id: str, **fields: Any) -> Record:
    return Record(**{"image": image_bytes(80, 60), "id": id, "width": 80, "height": 60, "source": "mine", **fields})


def thing(label: str, box: Box, **fields: Any) -> Thing:
    return Thing(label=label, box=box, **fields)


RICH = record(
    "rich",
    captions=("A cat and a dog.", "Two animals."),
    objects=(
        thing("cat", CAT, polygons=(quad(CAT),)),
        thing("cat", SMALL, polygons=(quad(SMALL),)),
        thing("dog", DOG),
        thing("dog", (0.0, 0.0, 80.0, 60.0), crowd=True, polygons=(quad(DOG),)),
        thing("bird", (0.0, 40.0, 40.0, 62.0), difficult=True),
    ),
    exhaustive=CLASSES,
    phrases=(
        Phrase(text="A cat", boxes=(CAT,), caption=0, start=0),
        Phrase(text="a dog", boxes=(DOG, (50.0, 20.0, 81.0, 60.5)), caption=0, start=10),
    ),
    refs=(
        Reference(text="the left cat", box=CAT, origin="rule"),
        Reference(text="the upper cat", box=SMALL, origin="scene"),
        Reference(text="that lovely cat", box=CAT),
        Reference(text="my dog", box=DOG, origin="people"),  # has no outline
    ),
    text=(Words(text="STOP", quad=quad((1, 1, 20, 8))), Words(text="GO", quad=quad((1, 11, 20, 18)))),
    illegible=(quad((60, 1, 79, 8)),),
    qa=(
        Question(question="How many cats?", answers=("2", "two"), origin="rule"),
        Question(question="Is it big?", answers=("no",), origin="scene"),
        Question(question="Why?", answers=("because",), origin="okvqa"),
        Question(question="Who?", answers=("a cat",)),
        Question(question="A secret?", answers=()),
    ),
)
WORD = record("word", text=(Words(text="Hello", quad=quad((2, 1, 79, 59))),), source="words")
EMPTY = record("empty", objects=(), exhaustive=CLASSES, text=())
UNKNOWN = record("unknown", objects=(thing("cow", CAT),), captions=("A cow",), source="other")
CLOTHES = record("clothes", objects=(thing("shoes", CAT, polygons=(quad(CAT),)),), exhaustive=("shoes",), source="ccp")
MANY = record(
    "many",
    objects=tuple(thing(label, CAT, polygons=(quad(CAT),)) for label in (*CLASSES, "cat", "cat")),
    exhaustive=(*CLASSES, "pig", "hen", "fox", "owl"),
    phrases=tuple(Phrase(text=f"phrase {n}", boxes=(CAT,)) for n in range(9)),
    refs=tuple(Reference(text=f"ref {n}", box=CAT, origin=("rule", "")[n % 2]) for n in range(12)),
    qa=tuple(Question(question=f"{n}?", answers=(str(n),), origin=("rule", "")[n % 2]) for n in range(12)),
    text=tuple(Words(text=f"w{n}", quad=quad((n, n, n + 9, n + 5))) for n in range(9)),
)
ALL = (RICH, WORD, EMPTY, UNKNOWN, CLOTHES, MANY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("packs") / "data", ALL)


def made(folder: Path, records: Sequence[Record]) -> Path:
    assert not write(records, folder, "packs").skipped
    return folder


def samples(folder: Path, name: str) -> list[Sample]:
    (benchmark,) = find(name)
    return list(benchmark.samples(folder))


def of(folder: Path, name: str, photo: str) -> list[Sample]:
    return [sample for sample in samples(folder, name) if sample.photo == photo]


def photos(folder: Path, name: str) -> set[str]:
    return {sample.photo for sample in samples(folder, name)}


def asked(found: Sequence[Sample]) -> list[object]:
    return [(s.id, s.task, s.given, s.truth, s.ignored, s.illegible) for s in found]


def truth(sample: Sample) -> Any:
    assert len(sample.truth) == 1
    return sample.truth[0]


# What holds of all


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_what_the_benchmark_says(folder: Path, name: str) -> None:
    (benchmark,) = find(name)
    found = samples(folder, name)
    assert found
    task = tasks.get(benchmark.task)
    kinds = {"nothing": type(None), "text": str, "boxes": tuple, "labels": tuple}
    for sample in found:
        assert sample.task == benchmark.task
        assert type(sample.given) is kinds[task.takes]
        assert all(type(answer) is task.result for answer in sample.truth)
        assert all((answer.width, answer.height) == (80, 60) for answer in sample.truth)
        assert sample.record.load().size == (80, 60)
        for answer in sample.truth:
            if isinstance(answer, Detections):
                assert all(0 <= x0 <= x1 <= 80 and 0 <= y0 <= y1 <= 60 for x0, y0, x1, y1 in answer.boxes)
    assert len({sample.id for sample in found}) == len(found)
    assert all(sample.id.startswith(f"{sample.photo}#") for sample in found)
    runs = [photo for photo, _ in groupby(found, key=lambda sample: sample.photo)]
    assert len(runs) == len(set(runs))  # the samples of a photo stand together


@pytest.mark.parametrize("name", NAMES)
def test_the_same_is_asked_in_every_run_whatever_else_there_is(folder: Path, name: str, tmp_path: Path) -> None:
    found = samples(folder, name)
    assert asked(samples(folder, name)) == asked(found)
    turned = samples(made(tmp_path / "turned", ALL[::-1]), name)
    assert sorted(map(str, asked(turned))) == sorted(map(str, asked(found)))
    for photo in {sample.photo for sample in found}:
        alone = made(tmp_path / photo, [r for r in ALL if r.id == photo])
        assert asked(samples(alone, name)) == asked([sample for sample in found if sample.photo == photo])


def test_other_photos_are_asked_other_questions(tmp_path: Path) -> None:
    """The twin: what is drawn does depend on the photo."""
    folder = made(tmp_path / "data", [replace(MANY, id=f"photo{n}") for n in range(9)])
    for name in ("phrases", "references", "expressions", "closed", "region-text", "questions", "questions-templated"):
        assert len({str([s.given for s in of(folder, f"packs/{name}", f"photo{n}")]) for n in range(9)}) > 3


@pytest.mark.parametrize("name", NAMES)
def test_no_photo_counts_for_many(folder: Path, name: str) -> None:
    counts = {"caption": 0, "captions-grounded": 0, "words": 0}  # it has no captions
    counts |= {"detection": 1, "closed": 1, "proposals": 1, "text-regions": 1, "text": 1}
    assert len(of(folder, name, "many")) == counts.get(name.removeprefix("packs/"), packs.MOST)


@pytest.mark.parametrize("name", NAMES)
def test_the_truth_is_perfect_here_too(folder: Path, name: str) -> None:
    """Of captions, where a photo has several, no caption is like all: there each is one of the true ones."""
    (benchmark,) = find(name)
    found = samples(folder, name)
    answers = [sample.truth[0] for sample in found]
    figures = measure(benchmark.measure, found, answers).figures
    if name == "packs/caption":
        assert figures["BLEU1"] == pytest.approx(1)
    else:
        assert figures[benchmark.main] == pytest.approx(0 if benchmark.main in ERRORS else 1)
    silent = [tasks.get(s.task).result(task=s.task, width=80, height=60) for s in found]  # the twin
    assert measure(benchmark.measure, found, silent).figures[benchmark.main] == (1 if benchmark.main in ERRORS else 0)


# One by one


def test_captions(folder: Path) -> None:
    found = samples(folder, "packs/caption")
    assert {s.photo: [cast(Text, t).text for t in s.truth] for s in found} == {
        "rich": ["A cat and a dog.", "Two animals."],
        "unknown": ["A cow"],
    }


def test_phrases_of_people(folder: Path) -> None:
    found = of(folder, "packs/phrases", "rich")
    assert {s.given: truth(s).boxes for s in found} == {
        "A cat": [CAT],
        "a dog": [DOG, (50.0, 20.0, 80.0, 60.0)],  # cut off at the edge of the photo
    }
    assert all(set(truth(s).labels) == {s.given} for s in found)
    assert photos(folder, "packs/phrases") == {"rich", "many"}


def test_phrases_without_a_box_are_not_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    phrases = (*(Phrase(text=f"air {n}", boxes=()) for n in range(9)), *RICH.phrases)
    monkeypatch.setattr(packs, "read", lambda *_: [replace(RICH, phrases=phrases)])
    assert {s.given for s in samples(tmp_path, "packs/phrases")} == {"A cat", "a dog"}


def test_captions_with_all_their_phrases(folder: Path) -> None:
    (found,) = samples(folder, "packs/captions-grounded")
    assert (found.id, found.given) == ("rich#caption0", "A cat and a dog.")
    assert truth(found).labels == ["A cat", "a dog", "a dog"]


def test_phrases_of_a_caption_that_is_not_there(tmp_path: Path) -> None:
    broken = replace(RICH, phrases=(Phrase(text="A cat", boxes=(CAT,), caption=2),))
    with pytest.raises(DataError, match=r"rich: a phrase is from caption 2, there are 2"):
        samples(made(tmp_path / "data", [broken]), "packs/captions-grounded")


def test_people_and_templates_are_never_mixed(folder: Path) -> None:
    pairs = (
        ("references", "expressions", {"the left cat", "the upper cat"}, {"that lovely cat", "my dog"}),
        ("referring-segmentation", "expression-segmentation", {"the left cat", "the upper cat"}, {"that lovely cat"}),
        ("questions-templated", "questions", {"How many cats?", "Is it big?"}, {"Why?", "Who?"}),
    )
    for templated, of_people, rules, words in pairs:
        assert {s.given for s in of(folder, f"packs/{templated}", "rich")} == rules
        assert {s.given for s in of(folder, f"packs/{of_people}", "rich")} == words
        assert [BENCHMARKS[f"packs/{name}"].templated for name in (templated, of_people)] == [True, False]
        drawn = [{s.given for s in of(folder, f"packs/{name}", "many")} for name in (templated, of_people)]
        assert drawn[0].isdisjoint(drawn[1])


def test_all_answers_to_a_question_are_right(folder: Path) -> None:
    found = {s.given: [cast(Text, t).text for t in s.truth] for s in of(folder, "packs/questions-templated", "rich")}
    assert found == {"How many cats?": ["2", "two"], "Is it big?": ["no"]}


@pytest.mark.parametrize(("name", "labels"), [("detection", ["cat", "cat", "dog"]), ("proposals", ["", "", ""])])
def test_detection_where_the_class_list_is_complete(folder: Path, name: str, labels: list[str]) -> None:
    name = f"packs/{name}"
    assert photos(folder, name) == {"rich", "empty", "many"}  # not where nobody looked, nor of regions of clothes
    (found,) = of(folder, name, "rich")
    assert (truth(found).labels, truth(found).boxes) == (labels, [CAT, SMALL, DOG])
    assert [(o.label, o.box) for o in found.ignored] == [
        ("dog" if labels[0] else "", (0, 0, 80, 60)),
        ("bird" if labels[0] else "", (0, 40, 40, 60)),
    ]
    (empty,) = of(folder, name, "empty")
    assert (truth(empty).objects, empty.ignored) == ((), ())


def test_crowds_and_difficult_things_count_neither_way(folder: Path) -> None:
    (found,) = of(folder, "packs/detection", "rich")
    right = truth(found)
    crowds = replace(right, objects=(*found.ignored, *right.objects))
    assert measure("detection", [found], [crowds]).figures["AP"] == pytest.approx(1)
    counted = replace(found, ignored=())  # the twin
    assert cast(float, measure("detection", [counted], [crowds]).figures["AP"]) < 0.9


def test_absent_classes_are_absent(folder: Path) -> None:
    for photo, listed in (("rich", CLASSES), ("empty", CLASSES), ("many", MANY.exhaustive or ())):
        (found,) = of(folder, "packs/closed", photo)
        assert isinstance(found.given, tuple)
        there = {thing.label for thing in found.record.objects or ()}
        absent = [label for label in found.given if label not in there]
        assert len(absent) == packs.ABSENT == len(set(absent))
        assert there <= set(cast("tuple[str, ...]", found.given))
        assert set(cast("list[str]", absent)) <= set(listed) - there
    assert photos(folder, "packs/closed") == {"rich", "empty", "many"}


def test_a_class_of_which_there_is_only_a_crowd_is_not_absent(folder: Path) -> None:
    (found,) = of(folder, "packs/closed", "rich")
    assert "bird" in cast("tuple[str, ...]", found.given)
    bird = next(o for o in found.ignored if o.label == "bird")
    figures = measure("closed", [found], [replace(truth(found), objects=(bird,))]).figures
    assert (figures["absent-boxes"], figures["absent-accuracy"]) == (0, 1)


def test_regions_are_large_and_of_different_classes(folder: Path) -> None:
    (cat, dog) = of(folder, "packs/region-category", "rich")
    assert [(s.given, truth(s).text) for s in (cat, dog)] == [(CAT, "cat"), (DOG, "dog")]
    assert len({truth(s).text for s in of(folder, "packs/region-category", "many")}) == packs.MOST
    (outline,) = of(folder, "packs/region-segmentation", "rich")  # the dog has no outline, and a crowd is none
    assert (outline.given, truth(outline).instances[0].polygons) == (CAT, (quad(CAT),))
    assert photos(folder, "packs/region-segmentation") == {"rich", "clothes", "many"}
    assert photos(folder, "packs/region-category") == {"rich", "unknown", "clothes", "many"}


def test_boxes_outside_of_the_photo_are_not_large(tmp_path: Path) -> None:
    away = replace(RICH, objects=(thing("cat", (90.0, 70.0, 150.0, 120.0)), thing("dog", (-90.0, -70.0, -5.0, -5.0))))
    folder = made(tmp_path / "data", [away])
    assert samples(folder, "packs/region-category") == []
    (found,) = samples(folder, "packs/detection")
    assert truth(found).boxes == [(80, 60, 80, 60), (0, 0, 0, 0)]


def test_an_expression_means_the_outline_of_its_object(folder: Path) -> None:
    found = {s.given: truth(s) for s in of(folder, "packs/referring-segmentation", "rich")}
    assert found.keys() == {"the left cat", "the upper cat"}
    assert cast(Segments, found["the upper cat"]).instances[0].polygons == (quad(SMALL),)


def test_pictures_of_one_word_are_told_from_photos_with_text(folder: Path, tmp_path: Path) -> None:
    assert [(s.photo, truth(s).text) for s in samples(folder, "packs/words")] == [("word", "Hello")]
    assert photos(folder, "packs/text-regions") == photos(folder, "packs/region-text") == {"rich", "many"}
    (found,) = of(folder, "packs/text-regions", "rich")
    assert [(r.text, r.quad) for r in cast(Regions, truth(found)).regions] == [
        ("STOP", quad((1, 1, 20, 8))),
        ("GO", quad((1, 11, 20, 18))),
    ]
    assert found.illegible == (quad((60, 1, 79, 8)),)
    street = replace(WORD, text=(Words(text="Hello", quad=quad((2, 1, 40, 59))),))  # one word, but not all there is
    other = made(tmp_path / "data", [street])
    assert samples(other, "packs/words") == []
    assert len(samples(other, "packs/text-regions")) == len(samples(other, "packs/region-text")) == 1


def test_the_text_of_a_region_is_that_of_its_box(folder: Path) -> None:
    found = {truth(s).text: s.given for s in of(folder, "packs/region-text", "rich")}
    assert found == {"STOP": (1, 1, 20, 8), "GO": (1, 11, 20, 18)}


# Names


def test_the_photos_of_one_data_set(folder: Path) -> None:
    (benchmark,) = find("packs/caption@other")
    assert (benchmark.name, benchmark.title) == ("packs/caption@other", "Captions, other")
    assert [s.photo for s in benchmark.samples(folder)] == ["unknown"]
    several = find("packs@mine")
    assert [b.name for b in several] == [f"{name}@mine" for name in NAMES]
    assert {s.photo for b in several for s in b.samples(folder)} == {"rich", "empty", "many"}
    with pytest.raises(DataError, match=r"coco-detection is one data set already; leave @other out"):
        find("coco-detection@other")


def test_names_that_are_not_known_have_a_nearest() -> None:
    assert [b.name for b in find("packs")] == NAMES
    for wrong, near in (("packs/captoin", "packs/caption"), ("packs/referencs@mine", "packs/references")):
        with pytest.raises(DataError, match=rf"no benchmark '{wrong.partition('@')[0]}'; did you mean '{near}'\?"):
            find(wrong)
    with pytest.raises(DataError, match=r"no benchmark 'xyzzy'\. Known are "):
        find("xyzzy")


# What cannot be asked


def samples_of_plan(folder: Path, name: str) -> tuple[Sample, ...]:
    (benchmark,) = find(name)
    return Plan(benchmarks=(benchmark,), data=folder).samples(benchmark)


@pytest.mark.parametrize("name", [*NAMES, "packs/caption@nobody"])
def test_nothing_to_ask_is_said(name: str, tmp_path: Path) -> None:
    folder = made(tmp_path / "data", [record("bare")])
    with pytest.raises(DataError, match=rf"data holds nothing that {name} could ask"):
        samples_of_plan(folder, name)


def test_two_photos_of_one_id_are_noticed(tmp_path: Path) -> None:
    folder = made(tmp_path / "data", [RICH, replace(RICH, captions=("Another.",))])
    with pytest.raises(DataError, match=r"1 ids of packs/caption in .* occur more than once"):
        samples_of_plan(folder, "packs/caption")


def test_folders_that_are_no_packs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing does not exist"):
        samples(tmp_path / "nothing", "packs/caption")
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match=r"other is no data set of the format packs"):
        samples(tmp_path / "other", "packs/caption")
    folder = made(tmp_path / "data", ALL)
    (tar,) = folder.iterdir()
    tar.write_bytes(tar.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"the tar cannot be read to its end"):
        samples(folder, "packs/caption")


ERRORS = ("CER",)
"""Main figures of which less is better."""

# On real photos

NONE_HERE = ("packs/expressions", "packs/expression-segmentation")
"""The shared packs hold no expressions of people."""


@pytest.mark.parametrize("name", NAMES)
def test_the_truth_is_perfect_on_real_photos(
    name: str, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The main figure is 1. For captions it cannot be 10, as each has one of five references: of these BLEU and ROUGE
    are 1, since that reference is among them."""
    data = shared / "data" / "eval"
    if not data.is_dir():
        pytest.skip("the shared folder holds no packs for evaluation")
    monkeypatch.setattr(bootstrap, "DRAWS", 3)
    (benchmark,) = find(name)
    plan = Plan(benchmarks=(benchmark,), data=data, limit=20)
    if name in NONE_HERE:
        with pytest.raises(DataError, match=f"holds nothing that {name} could ask"):
            runner.run(plan, Truth(), tmp_path / "run")
        return
    (outcome,) = runner.run(plan, Truth(), tmp_path / "run")
    assert (len(outcome.samples), outcome.errors) == (20, {})
    assert len({sample.photo for sample in outcome.samples}) > 10
    figures = outcome.measured.figures
    others = outcome.answers[1:] + outcome.answers[:1]  # the twin
    worse = measure(benchmark.measure, outcome.samples, others).figures
    for figure in ("BLEU4", "ROUGEL") if benchmark.measure == "caption" else (benchmark.main,):
        perfect = 0 if figure in ERRORS else 1
        assert figures[figure] == pytest.approx(perfect)
        assert abs(cast(float, worse[figure]) - perfect) > 0.4
