"""Figures of samples: those of ``metrics``, whatever the order, and as functions of how often each sample counts."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, cast

import numpy
import pytest

from florence2.errors import DataError
from florence2.evaluation.measures import MEASURES, measure
from florence2.evaluation.metrics import boxes as overlap
from florence2.evaluation.metrics import captions, classification, detection, grounding, masks, ocr, ptb, segmentation
from florence2.evaluation.metrics import vqa as questions
from florence2.evaluation.outcomes import Figures, Measured
from florence2.results import Detections, Object, Segments, Text
from florence2.results import TextRegions as Regions
from tests.evaluation.asked import Asked, Scores, asked, corners, drawn, found, outline, read, sample, text

A, B, FAR = (0.0, 0.0, 40.0, 40.0), (50.0, 0.0, 90.0, 40.0), (60.0, 60.0, 100.0, 90.0)
NEAR_A = (0.0, 0.0, 40.0, 33.0)  # overlaps A by 0.825
SEEDS = (1, 2, 3)
COUNT = 50
"""Samples of each seed: 150 of each measure, 1,500 in all."""


def ones(given: Asked) -> Any:
    return numpy.ones(len(given.samples))


# By hand

CASES: dict[str, tuple[Asked, Figures, tuple[float | None, ...]]] = {
    "caption": (
        asked(
            "caption",
            ([text("caption", "a cat sits"), text("caption", "the animal")], text("caption", "A cat sits.")),
            ([text("caption", "two dogs run on grass")], text("caption", "Two dogs run on grass")),
        ),
        {"CIDEr": 10 * (3 / 8 + 1) / 2, "BLEU1": 1, "BLEU2": 1, "BLEU3": 1, "BLEU4": 1, "ROUGEL": 1},
        (10 * 3 / 8, 10),  # of two references one is met, of which there are no 4-grams
    ),
    "detection": (
        asked(
            "detection",
            (found("detection", ("cat", A)), found("detection", ("cat", FAR, 0.9), ("cat", NEAR_A, 0.8))),
            (found("detection", ("dog", A)), found("detection", ("cow", A, 1.0))),
            (found("detection"), found("detection")),
        ),
        # Of ten thresholds from 0.5 on, NEAR_A passes seven.
        {"AP": 0.7 * 0.5 / 2, "AP50": 0.25, "AP75": 0.25, "AR1": 0, "AR10": 0.35, "AR100": 0.35},
        (2 / 3, 0, None),
    ),
    "proposals": (
        asked(
            "proposals",
            (found("proposals", ("cat", A), ("dog", B)), found("proposals", ("", B, 0.1), ("?", A, 0.3))),
            (found("proposals"), found("proposals", ("", A, 0.2))),
        ),
        # A is right, then A of the other photo is wrong, then B is right.
        {"AP": (51 * 1 + 50 * 2 / 3) / 101, "AP50": (51 * 1 + 50 * 2 / 3) / 101, "AR1": 0.5, "AR100": 1},
        (1, 0),
    ),
    "closed": (
        asked(
            "closed",
            (
                found("closed", ("cat", A)),
                found("closed", ("cat", A, 0.5), ("cow", A, 0.4), ("cow", B, 0.6), ("pig", B, 0.2)),
            ),
            given=("cat", "dog", "cow", "pig"),
            ignored=(Object(label="pig", box=B),),
        ),
        {"AP": 1, "absent-boxes": 2 / 2, "absent-accuracy": 1 / 2},  # a crowd of pigs is there
        (1,),
    ),
    "grounding": (
        asked(
            "grounding",
            (
                found("grounding", ("a cat", A), ("a dog", B)),
                found("grounding", ("A CAT ", NEAR_A, 0.9), ("a dog", FAR, 0.8), ("a dog", B, 0.2)),
            ),
            (found("grounding", ("a man in red", A), ("a man in red", B)), found("grounding", ("a man", A, 0.3))),
            (found("grounding"), found("grounding", ("a man", A, 0.3))),
        ),
        {"accuracy": 2 / 3, "R@5": 1, "R@10": 1, "merged-accuracy": 1 / 3, "merged-R@5": 2 / 3},
        (0.825 / 2, 1, None),
    ),
    "segmentation": (
        asked(
            "segmentation",
            (outline(corners(A)), outline(corners((0.0, 0.0, 40.0, 20.0)))),
            (outline(corners(A), corners(B)), outline(corners(A), corners(B))),
            (outline(), outline(corners((0.0, 0.0, 10.0, 40.0)))),
        ),
        {
            "mIoU": (0.5 + 1 + 0) / 3,
            "cIoU": (800 + 3200 + 0) / (1600 + 3200 + 400),
            **{f"Pr@{limit}": (1 + (limit == 0.5)) / 3 for limit in (0.5, 0.6, 0.7, 0.8, 0.9)},
        },
        (0.5, 1, 0),
    ),
    "vqa": (
        asked(
            "vqa",
            ([text("vqa", "2")] * 2 + [text("vqa", "many")] * 8, text("vqa", "Two.")),
            ([text("vqa", "blue"), text("vqa", "a red cat")], text("vqa", "a red car")),
        ),
        # Two of ten people: left out one by one, two matches of three eight times, one twice.
        {"accuracy": (8 * 2 / 3 + 2 * 1 / 3) / 10 / 2, "EM": 0.5, "ANLS": 8 / 9 / 2, "Levenshtein": (4 + 1) / 2},
        (0.6, 0),
    ),
    "category": (
        asked(
            "category",
            ([text("category", "feline"), text("category", "cat")], text("category", "cat")),
            (text("category", "dog"), text("category", "cat")),
            (text("category", "cow"), text("category", "Cow")),
        ),
        {"accuracy": 1 / 3, "F1": 1 / 3, "macroF1": (2 / 3 + 0 + 0 + 0) / 4},
        (1, 0, 0),
    ),
    "reading": (
        asked(
            "reading",
            (text("reading", "STOP"), text("reading", " STOP")),
            (text("reading", "go on"), text("reading", "GO")),
            (text("reading", "a"), text("reading", "abcd")),
        ),
        {"accuracy": 1 / 3, "accuracy-nocase": 1 / 3, "CER": (0 + 5 + 3) / 10, "WER": (0 + 2 + 1) / 4},
        (1, 0, 0),
    ),
    "spotting": (
        asked(
            "spotting",
            (read(("stop", A), ("go", B)), read(("STOP", NEAR_A), ("no", B), ("x", FAR))),
            (read(), read()),
            illegible=(corners(FAR),),
        ),
        {
            **{"precision": 1 / 2, "recall": 1 / 2, "F1": 1 / 2},
            **{"det-precision": 1, "det-recall": 1, "det-F1": 1},
        },
        (0.5, None),
    ),
}


@pytest.mark.parametrize("name", MEASURES)
def test_by_hand(name: str) -> None:
    given, figures, cases = CASES[name]
    measured = given.measured()
    assert {key: measured.figures[key] for key in figures} == pytest.approx(figures, abs=1e-9)
    assert measured.cases == pytest.approx(cases, abs=1e-9)


def test_classes_and_judged_and_curve_by_hand() -> None:
    measured = CASES["detection"][0].measured()
    assert measured.classes == {
        "cat": {"count": 1, "AP": pytest.approx(0.35), "AP50": pytest.approx(0.5)},
        "dog": {"count": 1, "AP": 0, "AP50": 0},
    }
    assert [(j.sample, j.score, j.right) for j in measured.judged] == [(0, 0.9, False), (0, 0.8, True)]
    assert [(c.recall, c.precision) for c in measured.curves] == [((0, 0.5), (0, 0.5))]
    names = CASES["category"][0].measured().classes
    assert names == {
        "cat": {"count": 1, "precision": 0.5, "recall": 1},
        "dog": {"count": 1, "precision": None, "recall": 0},
        "cow": {"count": 1, "precision": None, "recall": 0},
    }
    judged = CASES["grounding"][0].measured().judged
    assert [(j.sample, j.score, j.right) for j in judged] == [(0, 0.9, True), (0, 0.8, False), (1, 0.3, True)]


# Beside the functions of ``metrics``


def expected(given: Asked) -> Figures:
    """The figures by the functions of ``metrics``, called here in another way."""
    return _EXPECTED[given.measure](given)


def _texts(given: Asked) -> tuple[list[str], list[list[str]]]:
    said = [cast(Text, answer).text for answer in given.answers]
    return said, [[cast(Text, t).text for t in s.truth] for s in given.samples]


def _tokens(given: Asked) -> tuple[list[list[str]], list[list[list[str]]]]:
    said, true = _texts(given)
    cut = [captions.cut(ptb.tokenize(t)) for t in said]
    return cut, [[captions.cut(ptb.tokenize(t)) for t in several] for several in true]


def _fitted(given: Asked) -> Iterable[tuple[int, Any, Any, Any]]:
    """(number, sample, truth, answer at the size of the truth)"""
    for number, (asked_for, answer) in enumerate(zip(given.samples, given.answers, strict=True)):
        true = asked_for.truth[0]
        yield number, asked_for, true, answer.resized(true.width, true.height)


def _coco(given: Asked, numbers: list[int] | None = None) -> Figures:
    """COCO files of the samples; image ids are ``numbers``."""
    ids = numbers or list(range(len(given.samples)))
    plain = given.measure == "proposals"

    def entries(number: int, answer: Detections) -> list[dict[str, Any]]:
        objects = tuple(replace(o, label="") for o in answer.objects) if plain else answer.objects
        kept = replace(answer, objects=tuple(o for o in objects if o.label in classes))
        return kept.to_coco(image_id=ids[number], category_ids=classes)

    names = sorted({"" if plain else o.label for s in given.samples for o in cast(Detections, s.truth[0]).objects})
    classes = {name: n for n, name in enumerate(names)}
    truth: dict[str, Any] = {"images": [{"id": n} for n in ids], "annotations": []}
    truth["categories"] = [{"id": n, "name": name} for name, n in classes.items()]
    results = []
    for number, asked_for, true, answer in _fitted(given):
        results += entries(number, answer)
        annotations = entries(number, true)
        for entry, area in zip(annotations, asked_for.areas, strict=False):
            entry["area"] = area
        crowds = entries(number, replace(true, objects=asked_for.ignored))
        truth["annotations"] += annotations + [{**entry, "iscrowd": 1} for entry in crowds]
    return {name: value for name, value in detection.coco_ap(truth, results).items() if "-" not in name}


def _closed(given: Asked) -> Figures:
    boxes = classes = empty = 0
    for _, asked_for, true, answer in _fitted(given):
        for label in set(asked_for.given):
            if label in true.labels or label in [o.label for o in asked_for.ignored]:
                continue
            classes += 1
            boxes += answer.labels.count(label)
            empty += label not in answer.labels
    return {**_coco(given), "absent-boxes": boxes / classes, "absent-accuracy": empty / classes}


def _grounding(given: Asked) -> Figures:
    said, true, scores = [], [], []
    for _, _, truth, answer in _fitted(given):
        names = {o.label.lower() for o in truth.objects}
        for name in sorted(names):
            mine = [o for o in answer.objects if o.label.lower() == name or len(names) == 1]
            said.append([o.box for o in mine])
            scores.append([o.score for o in mine])
            true.append([o.box for o in truth.objects if o.label.lower() == name])
    figures = grounding.score(said, true, scores)
    figures["merged-accuracy"] = figures["merged-R@1"]
    return {name: value for name, value in figures.items() if name not in ("R@1", "merged-R@1", "N-acc")}


def _masks(given: Asked) -> Figures:
    pairs = []
    for _, _, true, answer in _fitted(given):
        outlines = ([p for i in a.instances for p in i.polygons] for a in (answer, true))
        pairs.append(tuple(masks.fill(polygons, (true.width, true.height)) for polygons in outlines))
    return {**segmentation.score(cast("list[Any]", pairs))}


def _names(given: Asked) -> Figures:
    said, true = _texts(given)
    single = [s if s in several else several[0] for s, several in zip(said, true, strict=True)]
    return {**classification.score(said, single)}


def _spots(given: Asked) -> Figures:
    pairs = [(answer.regions, true.regions, s.illegible) for _, s, true, answer in _fitted(given)]
    return ocr.spotting(*(list(column) for column in zip(*pairs, strict=True)))


_EXPECTED: dict[str, Callable[[Asked], Figures]] = {
    "caption": lambda given: {**captions.score(*_texts(given))},
    "detection": _coco,
    "proposals": _coco,
    "closed": _closed,
    "grounding": _grounding,
    "segmentation": _masks,
    "vqa": lambda given: {**questions.score(*_texts(given))},
    "category": _names,
    "reading": lambda given: ocr.score(_texts(given)[0], [several[0] for several in _texts(given)[1]]),
    "spotting": _spots,
}


def close(left: Figures, right: Figures, within: float = 1e-12) -> bool:
    return left.keys() == right.keys() and all(_near(left[name], right[name], within) for name in left)


def _near(a: float | None, b: float | None, within: float = 1e-12) -> bool:
    return a is b if a is None or b is None else abs(a - b) <= within


@pytest.mark.parametrize("name", MEASURES)
def test_figures_are_those_of_the_metrics(name: str) -> None:
    for seed in SEEDS:
        given = drawn(name, COUNT, seed)
        measured = given.measured()
        assert close(measured.figures, expected(given))
        swapped = given.answers[20::-1] + given.answers[21:]  # the twin: answers to other samples
        assert not close(measured.figures, expected(replace(given, answers=swapped)))


@pytest.mark.parametrize("name", MEASURES)
def test_statistics_with_all_weights_1_are_the_figures(name: str) -> None:
    for seed in SEEDS:
        for scores in ("apart", "few", "one"):
            given = drawn(name, COUNT, seed, cast(Scores, scores))
            measured = given.measured()
            assert measured.statistics.keys() <= measured.figures.keys()
            found = {key: statistic(ones(given)) for key, statistic in measured.statistics.items()}
            assert close(found, {key: measured.figures[key] for key in found})


@pytest.mark.parametrize("name", MEASURES)
def test_whole_weights_are_samples_said_again(name: str) -> None:
    """But for CIDEr: its idf stays that of all samples, so it is the weighted mean of what each photo has. No two
    scores of a sample are equal here: of such, COCO's rule would let those of the next copy wait."""
    for seed in SEEDS:
        given = drawn(name, COUNT, seed, "few")
        lot = random.Random(seed)
        weights = numpy.array([float(lot.choice((0, 0, 1, 1, 2, 3))) for _ in given.samples])
        again = [n for n, weight in enumerate(weights) for _ in range(int(weight))]
        statistics = given.measured().statistics
        repeated = given.only(again).measured().figures
        if name == "caption":
            each = captions.cider_each(*_tokens(given))
            repeated["CIDEr"] = float(numpy.average(each, weights=weights))
        wanted = {key: repeated[key] for key in statistics}
        assert close({key: statistic(weights) for key, statistic in statistics.items()}, wanted)
        moved = numpy.roll(weights, 1)  # the twin
        assert not close({key: statistic(moved) for key, statistic in statistics.items()}, wanted)


def test_a_figure_that_does_not_exist_in_a_draw_is_none() -> None:
    for name, missing in (("detection", "AP"), ("closed", "AP"), ("grounding", "accuracy"), ("spotting", "F1")):
        given = CASES[name][0]
        assert given.measured().statistics[missing](numpy.zeros(len(given.samples))) is None
    closed = replace(CASES["closed"][0], samples=(replace(CASES["closed"][0].samples[0], given=("cat",)),)).measured()
    assert closed.figures["absent-boxes"] is None
    assert closed.statistics["absent-boxes"](numpy.ones(1)) is None


# The order


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("scores", ["few", "one"])
def test_the_order_of_the_samples_changes_nothing(name: str, scores: Scores) -> None:
    for seed in SEEDS[:2]:
        given = drawn(name, COUNT, seed, scores)
        order = random.Random(seed).sample(range(COUNT), COUNT)
        here, there = given.measured(), given.only(order).measured()
        assert there.figures == here.figures  # to the last bit
        assert (there.classes, there.curves) == (here.classes, here.curves)
        assert there.cases == tuple(here.cases[n] for n in order)
        judged = sorted((order[j.sample], j.score, j.right) for j in there.judged)
        assert judged == sorted((j.sample, j.score, j.right) for j in here.judged)
        weights = numpy.array([float(n % 3) for n in range(COUNT)])
        for key, statistic in here.statistics.items():
            assert there.statistics[key](weights[order]) == statistic(weights)


def test_the_order_of_tied_scores_would_matter_to_coco() -> None:
    """The twin: with image ids as they come, the figure depends on them; ours is one of those."""
    given = drawn("detection", COUNT, 1, "one")
    values = [cast(float, _coco(given, random.Random(n).sample(range(COUNT), COUNT))["AP"]) for n in range(20)]
    assert max(values) - min(values) > 1e-3
    assert min(values) - 0.02 < cast(float, given.measured().figures["AP"]) < max(values) + 0.02


# Perfect and by chance

MAIN: dict[str, tuple[str, float, float]] = {
    "caption": ("CIDEr", 10, 2.5),
    "detection": ("AP", 1, 0.1),
    "proposals": ("AP", 1, 0.1),
    "closed": ("AP", 1, 0.1),
    "grounding": ("accuracy", 1, 0.3),
    "segmentation": ("mIoU", 1, 0.5),  # nothing for nothing is right
    "vqa": ("EM", 1, 0.3),
    "category": ("accuracy", 1, 0.5),
    "reading": ("accuracy-nocase", 1, 0.2),
    "spotting": ("F1", 1, 0.1),
}
"""The main figure, the best there is, and what other samples' answers do not reach."""


@pytest.mark.parametrize("name", MEASURES)
def test_the_truth_is_perfect_and_other_samples_answers_are_not(name: str) -> None:
    given = drawn(name, 2 * COUNT, 1, right=True)
    if name == "caption":  # one reference of four words or more each: with several no caption is like all
        keep = [n for n, s in enumerate(given.samples) if len(cast(Text, s.truth[0]).text.split()) > 3]
        given = given.only(keep)
        given = replace(given, samples=tuple(replace(s, truth=s.truth[:1]) for s in given.samples))
    if name == "spotting":
        given = replace(given, samples=tuple(replace(s, illegible=()) for s in given.samples))
    main, best, chance = MAIN[name]
    right = given.measured()
    assert right.figures[main] == pytest.approx(best)
    if name != "vqa":  # where few of many people gave the first answer
        assert all(case == pytest.approx(best) for case in right.cases if case is not None)
    assert all(j.right for j in right.judged)
    shifted = replace(given, answers=given.answers[1:] + given.answers[:1]).measured()
    assert cast(float, shifted.figures[main]) < chance
    errors = {key for key in right.figures if key in ("CER", "WER", "Levenshtein", "absent-boxes")}
    assert all(right.figures[key] == 0 for key in errors)
    assert all(cast(float, shifted.figures[key]) >= 0 for key in errors)


# What cases, judged and curves are


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("scores", ["few", "one"])
def test_cases_are_in_range_and_none_where_there_is_nothing(name: str, scores: Scores) -> None:
    given = drawn(name, COUNT, 4, scores)
    measured = given.measured()
    assert len(measured.cases) == COUNT
    assert all(case is None or 0 <= case <= (10 if name == "caption" else 1) for case in measured.cases)
    assert all(0 <= j.score <= 1 and 0 <= j.sample < COUNT for j in measured.judged)
    nothing = [case is None for case in measured.cases]
    assert nothing == [_nothing(given, n) for n in range(COUNT)]
    assert any(nothing) == (name in ("detection", "proposals", "closed", "grounding", "spotting"))


def _nothing(given: Asked, number: int) -> bool:
    """By another way: is there nothing that could be right or wrong?"""
    alone = given.only([number])
    true, said = alone.samples[0].truth[0], alone.answers[0].resized(128, 96)
    if isinstance(true, Detections) and isinstance(said, Detections):
        if given.measure == "grounding":
            return not true.objects
        known = {o.label for s in given.samples for o in cast(Detections, s.truth[0]).objects}
        plain = given.measure == "proposals"
        crowds = alone.samples[0].ignored

        def in_a_crowd(object: Object) -> bool:
            """The part of the box that lies in a crowd is what COCO goes by."""
            return any(
                (plain or c.label == object.label) and _shared(c.box, object.box) >= 0.5 * overlap.area(object.box)
                for c in crowds
            )

        return not true.objects and all((not plain and o.label not in known) or in_a_crowd(o) for o in said.objects)
    if isinstance(true, Regions) and isinstance(said, Regions):
        return not true.regions and not ocr.spot(said.regions, (), alone.samples[0].illegible).counted
    return False


def _shared(a: Any, b: Any) -> float:
    return max(min(a[2], b[2]) - max(a[0], b[0]), 0.0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)


@pytest.mark.parametrize("name", MEASURES)
def test_judged_agree_with_the_figures(name: str) -> None:
    given = drawn(name, COUNT, 5)
    measured = given.measured()
    right = sum(j.right for j in measured.judged)
    figures = measured.figures
    if name in ("detection", "proposals", "closed"):
        # Precision and recall at IoU 0.5, matched here by hand.
        matched, counted, wanted = _matched(given)
        assert (right, len(measured.judged)) == (matched, counted)
        assert measured.curves[0].recall[-1] == pytest.approx(matched / wanted)
        assert measured.curves[0].precision[-1] == pytest.approx(matched / counted)
    elif name == "grounding":
        phrases = sum(len({o.label.lower() for o in cast(Detections, s.truth[0]).objects}) for s in given.samples)
        assert figures["accuracy"] == pytest.approx(right / phrases)
    elif name == "segmentation":
        single = [n for n, a in enumerate(given.answers) if len(cast(Segments, a).instances) == 1]
        assert [j.sample for j in measured.judged] == single
        assert right == sum(cast(float, measured.cases[n]) >= 0.5 for n in single)
    elif name == "spotting":
        assert figures["precision"] == pytest.approx(right / len(measured.judged))
    elif name == "caption":
        assert measured.judged == ()
    else:
        main = {"vqa": "EM", "category": "accuracy", "reading": "accuracy-nocase"}[name]
        assert figures[main] == pytest.approx(right / COUNT)
        assert [j.score for j in measured.judged] == [answer.confidence for answer in given.answers]


def _matched(given: Asked) -> tuple[int, int, int]:
    """(right, counted, true) at IoU 0.5: the best score takes the free truth that it overlaps most."""
    right = counted = wanted = 0
    known = {o.label for s in given.samples for o in cast(Detections, s.truth[0]).objects}
    for _, asked_for, true, answer in _fitted(given):
        free = list(true.objects)
        wanted += len(free)
        for item in sorted(answer.objects, key=lambda o: -o.score):
            same = (lambda o: True) if given.measure == "proposals" else (lambda o, label=item.label: o.label == label)
            if given.measure != "proposals" and item.label not in known:
                continue
            best = max((o for o in free if same(o)), key=lambda o: overlap.iou(o.box, item.box), default=None)
            if best is not None and overlap.iou(best.box, item.box) >= 0.5:
                free.remove(best)
                right, counted = right + 1, counted + 1
                continue
            crowds = [o for o in asked_for.ignored if same(o)]
            if not any(_shared(c.box, item.box) >= 0.5 * overlap.area(item.box) for c in crowds):
                counted += 1
    return right, counted, wanted


@pytest.mark.parametrize("name", ["detection", "proposals", "closed"])
def test_recall_of_a_curve_never_falls(name: str) -> None:
    for count, scores in ((5, "few"), (COUNT, "one"), (4 * COUNT, "apart")):
        (curve,) = drawn(name, count, 6, cast(Scores, scores)).measured().curves
        assert len(curve.recall) == len(curve.precision) <= 101
        assert list(curve.recall) == sorted(curve.recall)
        assert all(0 <= value <= 1 for value in (*curve.recall, *curve.precision))


# Edges


def detection_of(*pairs: tuple[Detections, Detections], **fields: Any) -> Measured:
    return asked("detection", *pairs, **fields).measured()


@pytest.mark.parametrize("name", MEASURES)
def test_nothing_found_is_the_worst(name: str) -> None:
    given, _, _ = CASES[name]
    empty = {
        "found": found(name),
        "text": text(name, ""),
        "outline": outline(),
        "read": read(),
    }[{Detections: "found", Text: "text", Segments: "outline", Regions: "read"}[type(given.answers[0])]]  # type: ignore[index]
    measured = replace(given, answers=(empty,) * len(given.samples)).measured()
    worst = {"CER": 1, "WER": 1, "mIoU": 1 / 3, "absent-boxes": 0, "absent-accuracy": 1}
    for key, value in measured.figures.items():
        if value is not None and key != "Levenshtein":
            near_nothing = 1 / 3 if key.startswith("Pr@") else worst.get(key, 0)  # nothing for nothing in one of three
            assert value == pytest.approx(near_nothing, abs=1e-6), key


def test_truth_that_is_empty_everywhere() -> None:
    for name in ("detection", "proposals"):
        given = asked(name, (found(name), found(name, ("cat", A))), (found(name), found(name)))
        measured = given.measured()
        assert measured.figures == {"AP": None, "AP50": None, "AP75": None, "AR100": None}
        assert (measured.statistics, measured.judged, measured.curves, measured.classes) == ({}, (), (), {})
        assert measured.cases[1] is None
    closed = asked("closed", (found("closed"), found("closed", ("cat", A))), given=("cat", "dog")).measured()
    assert closed.figures["AP"] is None
    assert (closed.figures["absent-boxes"], closed.figures["absent-accuracy"]) == (0.5, 0.5)
    grounded = asked("grounding", (found("grounding"), found("grounding", ("a cat", A)))).measured()
    assert set(grounded.figures.values()) == {None}
    spotted = asked("spotting", (read(), read())).measured()
    assert set(spotted.figures.values()) == {None}
    nothing = asked("segmentation", (outline(), outline())).measured()
    assert set(nothing.figures.values()) == {1.0}
    assert {statistic(numpy.ones(1)) for statistic in nothing.statistics.values()} == {1.0}
    unread = asked("reading", (text("reading", ""), text("reading", "abc"))).measured()
    assert unread.figures == {"accuracy": 0, "accuracy-nocase": 0, "CER": None, "WER": None}
    assert unread.cases == (0,)


def test_crowds_count_neither_way() -> None:
    pair = (found("detection", ("cat", A)), found("detection", ("cat", A, 0.5), ("cat", B, 0.9), ("dog", B, 0.9)))
    crowd = (Object(label="cat", box=B),)
    assert detection_of(pair).figures["AP"] == pytest.approx(0.5)
    measured = detection_of(pair, ignored=crowd)
    assert measured.figures["AP"] == pytest.approx(1)
    assert measured.cases == (1,)
    assert len(measured.judged) == 1
    assert detection_of(pair, ignored=(Object(label="dog", box=B),)).figures["AP"] == pytest.approx(0.5)  # the twin
    boxes = asked("proposals", (found("proposals", ("", A)), found("proposals", ("", A, 0.5), ("", B, 0.9))))
    assert boxes.measured().figures["AP"] == pytest.approx(0.5)
    crowded = replace(boxes, samples=tuple(replace(s, ignored=crowd) for s in boxes.samples))
    assert crowded.measured().figures["AP"] == pytest.approx(1)


def test_areas_decide_what_is_small() -> None:
    pair = (found("detection", ("cat", A)), found("detection", ("cat", A)))
    assert sized(detection_of(pair)) == {"APs": None, "APm": pytest.approx(1), "APl": None}
    assert sized(detection_of(pair, areas=(100.0,))) == {"APs": pytest.approx(1), "APm": None, "APl": None}
    with pytest.raises(DataError, match=r"photo0#0 has 2 areas of 1 true objects"):
        detection_of(pair, areas=(1.0, 2.0))


def sized(measured: Measured) -> Figures:
    return {name: measured.figures[name] for name in ("APs", "APm", "APl")}


def test_a_box_that_is_said_twice_is_wrong_the_second_time() -> None:
    true = found("detection", ("cat", A), ("cat", B))
    measured = detection_of((true, found("detection", ("cat", A, 0.9), ("cat", A, 0.9), ("cat", B, 0.5))))
    assert measured.figures["AP50"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert measured.cases == (pytest.approx(2 * 2 / 5),)
    twice = asked("spotting", (read(("stop", A)), read(("stop", A), ("stop", A)))).measured()
    assert (twice.figures["precision"], twice.figures["recall"]) == (0.5, 1)
    same = asked("grounding", (found("grounding", ("a cat", A)), found("grounding", ("a cat", A), ("a cat", A))))
    assert same.measured().figures["accuracy"] == 1


def test_unicode_is_compared_as_it_is() -> None:
    pair = (found("detection", ("vélo", A), ("犬", B)), found("detection", ("vélo", A), ("犬", B)))
    assert detection_of(pair).figures["AP"] == pytest.approx(1)
    decomposed = found("detection", ("ve\u0301lo", A), ("犬", B))
    assert detection_of((pair[0], decomposed)).figures["AP"] == pytest.approx(0.5)
    read_ = asked("reading", (text("reading", "STRASSE café"), text("reading", "straße CAFÉ"))).measured()
    assert (read_.figures["accuracy"], read_.figures["accuracy-nocase"]) == (0, 1)
    folded = asked("grounding", (found("grounding", ("Straße", A), ("x", B)), found("grounding", ("STRASSE", A))))
    assert folded.measured().figures["accuracy"] == 0.5


@pytest.mark.parametrize("name", MEASURES)
def test_other_sizes_are_compared_at_the_size_of_the_truth(name: str) -> None:
    given, figures, cases = CASES[name]
    resized = replace(given, answers=tuple(answer.resized(64, 384) for answer in given.answers)).measured()
    assert {key: resized.figures[key] for key in figures} == pytest.approx(figures, abs=1e-9)
    assert resized.cases == pytest.approx(cases, abs=1e-9)
    if not isinstance(given.answers[0], Text):  # the twin: only another size is claimed
        claimed = tuple(replace(answer, width=64, height=384) for answer in given.answers)
        assert replace(given, answers=claimed).measured().figures != resized.figures


def test_mistakes_are_explained() -> None:
    good = found("detection", ("cat", A))
    one = sample("detection", 0, good)
    for name, samples, answers, words in (
        ("precision", [one], [good], r"no measure 'precision'; known are caption, detection"),
        ("detection", [one], [], r"0 answers to 1 samples"),
        ("detection", [], [], r"no answers to score"),
        ("detection", [replace(one, truth=())], [good], r"sample 0 of <OD> has no true answer"),
        ("detection", [replace(one, truth=(good, good))], [good], r"sample 0 has 2 true answers"),
        ("detection", [one], [text("detection", "cat")], r"holds a Text, expected a Detections"),
        ("detection", [one], [found("detection", ("cat", (0, 0, math.nan, 1)))], r"the bbox of result 0"),
        ("closed", [replace(one, given=None)], [good], r"photo0#0 gives None, expected the labels"),
        ("closed", [replace(one, given="cat")], [good], r"photo0#0 gives 'cat', expected the labels"),
    ):
        with pytest.raises(DataError, match=words):
            measure(name, samples, answers)  # type: ignore[arg-type]


def test_classes_that_nobody_looked_for_count_neither_way() -> None:
    """A photo of one class list beside a photo of another: what the other list alone knows is not wrong here."""
    given = asked(
        "detection",
        (found("detection", ("dog", A)), found("detection", ("dog", A, 0.9), ("book", FAR, 0.95))),
        (found("detection", ("book", FAR)), found("detection", ("book", FAR, 0.5))),
    )
    looked = replace(given, samples=(replace(given.samples[0], classes=("dog", "cat")), given.samples[1]))
    assert looked.measured().figures["AP"] == pytest.approx(1)
    assert given.measured().figures["AP"] == pytest.approx(0.75)  # the twin: the wrong book comes first
