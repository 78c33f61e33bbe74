"""Error rates, quads, and text that is found and read."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import numpy
import pytest

from florence2.errors import DataError
from florence2.evaluation.metrics import boxes, ocr, quads
from florence2.results import Quad, TextRegion


def test_rates_by_hand() -> None:
    assert ocr.cer(["STQP"], ["STOP"]) == 0.25
    assert ocr.wer(["a big dog", "cat"], ["a dog", "cat"]) == pytest.approx(1 / 3)
    assert ocr.cer(["", "ab"], ["ab", "ab"]) == 0.5
    assert ocr.wer(["a b c d"], ["a"]) == 3  # beyond 1
    assert ocr.cer([" größe "], ["größe"]) == 0


def test_true_texts_that_are_empty() -> None:
    assert ocr.cer(["a"], [""]) is None
    assert ocr.wer([""], [" "]) is None
    assert ocr.cer(["ab", "ab"], ["", "ab"]) == 1  # two characters too many, of two
    assert ocr.wer(["a b", "c"], ["", "c"]) == 2


def test_word_accuracy() -> None:
    assert ocr.word_accuracy(["Stop", "go "], ["STOP", "go"]) == 0.5
    figures = ocr.score(["Stop", "go "], ["STOP", "go"])
    assert (figures["accuracy"], figures["accuracy-nocase"]) == (0.5, 1)


def edits(a: list[str], b: list[str]) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        row, before = [i], row
        for j, y in enumerate(b, start=1):
            row.append(min(row[-1] + 1, before[j] + 1, before[j - 1] + (x != y)))
    return row[-1]


def test_rates_are_equal_to_jiwer_and_the_definition() -> None:
    jiwer = pytest.importorskip("jiwer")
    rng = random.Random(0)
    faults = 0
    for _ in range(1000):
        pairs = [["".join(rng.choice("ab ü") for _ in range(rng.randrange(8))).strip() for _ in "pt"] for _ in range(3)]
        predicted, truth = [p for p, _ in pairs], [t or "x" for _, t in pairs]
        assert ocr.cer(predicted, truth) == pytest.approx(jiwer.cer(truth, predicted))
        assert ocr.wer(predicted, truth) == pytest.approx(jiwer.wer(truth, predicted))
        wrong = sum(edits(list(t), list(p)) for p, t in zip(predicted, truth, strict=True))
        assert ocr.cer(predicted, truth) == pytest.approx(wrong / sum(map(len, truth)))
        faults += ocr.cer(truth, predicted) != ocr.cer(predicted, truth)
    assert faults  # truth and prediction are not the same


# Quads


def corners(box: tuple[float, float, float, float]) -> list[tuple[float, float]]:
    x0, y0, x1, y1 = box
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def flat(points: list[tuple[float, float]]) -> list[float]:
    return [value for point in points for value in point]


def test_quads_by_hand() -> None:
    square, half = flat(corners((0, 0, 10, 10))), flat(corners((0, 0, 10, 5)))
    assert quads.iou(square, half) == 0.5
    assert quads.inside(half, square) == 1
    assert quads.inside(square, half) == 0.5
    diamond = [5, -5, 15, 5, 5, 15, -5, 5]  # 200 square pixels, around the square of 100
    assert quads.iou(square, diamond) == pytest.approx(0.5)
    assert quads.iou(square, flat(corners((20, 0, 30, 10)))) == 0
    assert quads.iou(square, flat(corners((10, 0, 20, 10)))) == 0


def test_quads_that_are_none() -> None:
    square, line = flat(corners((0, 0, 10, 10))), [0.0, 0, 5, 5, 10, 10, 5, 5]
    assert quads.iou(square, line) == quads.iou(line, line) == quads.inside(line, square) == 0
    crossed = [0.0, 0, 10, 10, 10, 0, 0, 10]  # two corners changed places
    assert quads.iou(square, crossed) == 1


def test_overlap_survives_affine_maps() -> None:
    """Two boxes turned, stretched and sheared together overlap as much as before: the reference is that of boxes."""
    rng = random.Random(0)
    worst = fault = 0.0
    for _ in range(1000):
        a, b = (
            (x, y, x + rng.uniform(1, 30), y + rng.uniform(1, 30))
            for x, y in [(rng.uniform(0, 20), rng.uniform(0, 20)) for _ in "ab"]
        )
        angle, stretch, shear = rng.uniform(0, 7), rng.uniform(0.2, 5), rng.uniform(-1, 1)
        away = rng.choice([0, 1000])

        def moved(x: float, y: float) -> tuple[float, float]:
            x, y = stretch * (x + shear * y), y  # noqa: B023
            turned = x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)  # noqa: B023
            return turned[0] + away, turned[1] - away  # noqa: B023

        one, two = ([moved(*point) for point in corners(box)] for box in (a, b))
        turned = rng.randrange(4)
        found = quads.iou(flat(one[turned:] + one[:turned]), flat(two[::-1]))
        worst = max(worst, abs(found - boxes.iou(a, b)))
        fault = max(fault, abs(quads.iou(flat(one), flat([*two[:3], (two[3][0] + 1, two[3][1])])) - boxes.iou(a, b)))
    assert worst < 1e-6
    assert fault > 1e-3


def test_any_two_quads_are_equal_to_scipy() -> None:
    spatial, optimize = pytest.importorskip("scipy.spatial"), pytest.importorskip("scipy.optimize")
    rng = numpy.random.default_rng(0)
    seen = 0
    for _ in range(200):
        a, b = rng.uniform(0, 10, (2, 4, 2))
        hulls = [spatial.ConvexHull(points) for points in (a, b)]
        sides = numpy.concatenate([hull.equations for hull in hulls])
        # the point farthest inside of both, from which scipy can cut the half-planes
        found = optimize.linprog(
            [0, 0, -1],
            A_ub=numpy.c_[sides[:, :2], numpy.ones(len(sides))],
            b_ub=-sides[:, 2],
            bounds=[(None, None)] * 3,
        )
        if found.x[2] > 1e-3:
            cut = spatial.HalfspaceIntersection(sides, found.x[:2])
            shared = spatial.ConvexHull(cut.intersections).volume  # the area, in two dimensions
            expected = shared / (hulls[0].volume + hulls[1].volume - shared)
            assert quads.iou(a.ravel().tolist(), b.ravel().tolist()) == pytest.approx(expected, abs=1e-9)
            seen += 1
        elif found.x[2] < -1e-3:
            assert quads.iou(a.ravel().tolist(), b.ravel().tolist()) == 0
    assert seen > 50


# Found and read


def region(text: str, x: float, side: float = 10) -> TextRegion:
    quad: Any = tuple(flat(corners((x, 0, x + side, side))))
    return TextRegion(text=text, quad=quad)


def test_spotting_by_hand() -> None:
    truth = [[region("STOP", 0), region("go", 20)], [region("a", 0)]]
    found = [[region("stop", 0), region("GO!", 20), region("x", 50)], []]
    figures = ocr.spotting(found, truth)
    assert figures["precision"] == pytest.approx(1 / 3)
    assert figures["recall"] == pytest.approx(1 / 3)
    assert figures["F1"] == pytest.approx(1 / 3)
    assert (figures["det-precision"], figures["det-recall"]) == pytest.approx((2 / 3, 2 / 3))


def test_half_is_not_enough() -> None:
    assert ocr.spotting([[region("a", 0, 10)]], [[region("a", 0, 14)]])["F1"] == 1  # 100 of 196
    assert ocr.spotting([[region("a", 0, 10)]], [[region("a", 0, 15)]])["F1"] == 0


def test_each_word_counts_once() -> None:
    twice = [[region("a", 0), region("a", 0.5)]]
    figures = ocr.spotting(twice, [[region("a", 0)]])
    assert (figures["precision"], figures["recall"]) == (0.5, 1)


def test_illegible_text_is_neither() -> None:
    illegible: list[list[Quad]] = [[region("", 50, 20).quad]]
    found = [[region("a", 0), region("b", 52)]]
    assert ocr.spotting(found, [[region("a", 0)]], illegible)["F1"] == 1
    assert ocr.spotting(found, [[region("a", 0)]])["F1"] == pytest.approx(2 / 3)
    beside = [[region("a", 0), region("b", 66)]]  # 4 of 10 lie inside
    assert ocr.spotting(beside, [[region("a", 0)]], illegible)["F1"] == pytest.approx(2 / 3)


def test_nothing_found_and_nothing_there() -> None:
    assert ocr.spotting([[]], [[region("a", 0)]])["F1"] == 0
    figures = ocr.spotting([[region("a", 0)]], [[]])
    assert (figures["precision"], figures["recall"], figures["F1"]) == (0, None, 0)
    assert set(ocr.spotting([[]], [[]]).values()) == {None}


def test_matching_is_as_good_as_can_be() -> None:
    rng = random.Random(0)
    short = 0
    for _ in range(300):
        pairs = {(rng.randrange(4), rng.randrange(4)) for _ in range(rng.randrange(9))}
        best = max(sum((i, j) in pairs for i, j in enumerate(order)) for order in itertools.permutations(range(4)))
        assert len(ocr.assignment(pairs)) == best
        greedy: set[tuple[int, int]] = set()
        for i, j in sorted(pairs):
            if not any(i == a or j == b for a, b in greedy):
                greedy.add((i, j))
        short += len(greedy) < best
    assert short  # taking the first is not enough


def test_order_does_not_matter() -> None:
    rng = random.Random(4)
    truth = [[region(rng.choice("ab"), rng.uniform(0, 30)) for _ in range(3)] for _ in range(20)]
    found = [[region(rng.choice("abA"), rng.uniform(0, 30)) for _ in range(4)] for _ in range(20)]
    order = rng.sample(range(20), 20)
    turned = ocr.spotting([rng.sample(found[n], 4) for n in order], [truth[n][::-1] for n in order])
    assert turned == ocr.spotting(found, truth)
    texts = [r.text for several in found for r in several]
    moved = texts[1:] + texts[:1]
    assert ocr.score(texts[::-1], moved[::-1]) == ocr.score(texts, moved)


def test_mistakes_are_explained() -> None:
    for metric in (ocr.cer, ocr.wer, ocr.word_accuracy, ocr.spotting):
        with pytest.raises(DataError, match="no texts"):
            metric([], [])
        with pytest.raises(DataError, match="1 predictions of 0 samples"):
            metric(["a"], [])  # type: ignore[list-item]
    with pytest.raises(DataError, match="illegible regions of 2 photos"):
        ocr.spotting([[]], [[]], [[], []])
