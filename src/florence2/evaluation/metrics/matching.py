"""Which detections are right, and the precision and recall that follow: the core of COCO's and LVIS's evaluation.

Own code for speed: pycocotools does this in Python loops per image, class, size and threshold, 45 s for 5,000 photos
with 100 detections each; here all sizes and thresholds go in one step. The numbers are equal to the last bit.

Source: cocodataset.org, "Detection evaluation"; Gupta et al. (2019), "LVIS".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

Floats = NDArray[numpy.float64]
Bools = NDArray[numpy.bool_]

THRESHOLDS = numpy.linspace(0.5, 0.95, 10)
RECALLS = numpy.linspace(0.0, 1.0, 101)
AREAS = numpy.array(((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10)))
"""All, small, medium, large: square pixels, borders included."""


@dataclass(frozen=True)
class Group:
    """The detections of one class in one image, the best first, and what is there."""

    scores: Floats
    """(D,)"""
    areas: Floats
    """(D,)"""
    overlaps: Floats
    """IoU (D, G), as COCO measures it where the truth is a crowd."""
    true_areas: Floats
    """(G,)"""
    crowd: Bools
    """(G,) Matches any number of detections."""
    ignored: Bools
    """(G,) What matches it is neither right nor wrong. Crowds are ignored too."""
    lenient: bool = False
    """LVIS: the class was not marked to the end here, so a detection that matches nothing is not wrong."""


def curves(groups: Sequence[Group], limits: Sequence[int]) -> tuple[Floats, Floats]:
    """Precision (T, R, A) with the last limit, and recall (T, A, L), of one class over all images; -1 without truth.

    T thresholds, R recalls, A areas; L limits to the number of detections in an image.
    """
    precision = numpy.full((len(THRESHOLDS), len(RECALLS), len(AREAS)), -1.0)
    recall = numpy.full((len(THRESHOLDS), len(AREAS), len(limits)), -1.0)
    wanted = sum((_within(g.true_areas) & ~g.ignored).sum(axis=1) for g in groups) + numpy.zeros(len(AREAS))  # (A,)
    outcomes = [_match(group, limits[-1]) for group in groups]
    scores = numpy.concatenate([group.scores[: limits[-1]] for group in groups] or [numpy.zeros(0)])
    ranks = numpy.concatenate([numpy.arange(len(g.scores[: limits[-1]])) for g in groups] or [numpy.arange(0)])
    order = numpy.argsort(-scores, kind="stable")
    shape = (len(AREAS), len(THRESHOLDS), 0)
    empty: Bools = numpy.zeros(shape, dtype=bool)
    right = numpy.concatenate([right for right, _ in outcomes] or [empty], axis=-1)[..., order]  # (A, T, N)
    wrong = numpy.concatenate([wrong for _, wrong in outcomes] or [empty], axis=-1)[..., order]
    for number, limit in enumerate(limits):
        hits = right[..., ranks[order] < limit].sum(axis=-1)  # (A, T)
        there = wanted > 0
        recall[:, there, number] = (hits[there] / wanted[there, None]).T
    for area in numpy.flatnonzero(wanted > 0):
        precision[..., area] = [
            _interpolated(*hits, wanted[area]) for hits in zip(right[area], wrong[area], strict=True)
        ]
    return precision, recall


@dataclass(frozen=True)
class Ranking:
    """The detections of one class over all images, the best first, things of all sizes."""

    scores: Floats
    """(N,)"""
    images: NDArray[numpy.int64]
    """(N,) the number of the image of each."""
    right: Bools
    """(T, N)"""
    wrong: Bools
    """(T, N) What is neither was found where a crowd is."""
    wanted: Floats
    """(M,) true things in each image."""

    def ap(self, weights: Floats, thresholds: slice = slice(None)) -> Floats:
        """Average precision at some thresholds where image m counts ``weights[m]`` times; -1 without truth."""
        wanted = float(self.wanted @ weights)
        right, wrong = self.right[thresholds], self.wrong[thresholds]
        if wanted <= 0:
            return numpy.full(len(right), -1.0)
        counts = weights[self.images]
        return numpy.array(
            [_interpolated(r * counts, w * counts, wanted).mean() for r, w in zip(right, wrong, strict=True)]
        )


def rank(groups: Sequence[Group], images: Sequence[int], count: int, limit: int) -> Ranking:
    """``images[i]`` is the number, of ``count``, of the image of ``groups[i]``."""
    outcomes = [_match(group, limit) for group in groups]
    empty: Bools = numpy.zeros((len(AREAS), len(THRESHOLDS), 0), dtype=bool)
    scores = numpy.concatenate([group.scores[:limit] for group in groups] or [numpy.zeros(0)])
    order = numpy.argsort(-scores, kind="stable")
    lengths = [len(group.scores[:limit]) for group in groups]
    wanted = numpy.zeros(count)
    for group, image in zip(groups, images, strict=True):
        wanted[image] += (~group.ignored).sum()
    return Ranking(
        scores=scores[order],
        images=numpy.repeat(numpy.array(images, dtype=numpy.int64), lengths)[order],
        right=numpy.concatenate([right for right, _ in outcomes] or [empty], axis=-1)[0][:, order],
        wrong=numpy.concatenate([wrong for _, wrong in outcomes] or [empty], axis=-1)[0][:, order],
        wanted=wanted,
    )


def _within(areas: Floats) -> Bools:
    """(N,) → (A, N): is the size the one asked for?"""
    found: Bools = (areas >= AREAS[:, :1]) & (areas <= AREAS[:, 1:])
    return found


def _match(group: Group, limit: int) -> tuple[Bools, Bools]:
    """Right and wrong (A, T, D); what is neither is left out of the count.

    Each detection in turn takes the free truth that it overlaps most, by the threshold at least; what is ignored only
    where nothing else is left. Of equal overlaps the last is taken, as in COCO's code.
    """
    count = min(len(group.scores), limit)
    shape = (len(AREAS), len(THRESHOLDS), count)
    surplus = numpy.broadcast_to(_within(group.areas[:count])[:, None], shape) & (not group.lenient)
    if not len(group.true_areas):
        return numpy.zeros(shape, dtype=bool), surplus
    ignored = ~_within(group.true_areas) | group.ignored  # (A, G)
    enough = numpy.minimum(THRESHOLDS, 1 - 1e-10)[:, None]  # (T, 1)
    right: Bools = numpy.zeros(shape, dtype=bool)
    matched: Bools = numpy.zeros(shape, dtype=bool)
    taken: Bools = numpy.zeros((*shape[:2], len(group.true_areas)), dtype=bool)  # (A, T, G)
    areas, thresholds = numpy.ogrid[: shape[0], : shape[1]]
    for number in range(count):
        overlap = group.overlaps[number]
        if overlap.max() < enough[0, 0]:
            continue
        free = (overlap >= enough) & ~(taken & ~group.crowd)  # (A, T, G)
        counting = free & ~ignored[:, None]
        choice = numpy.where(counting.any(axis=-1, keepdims=True), counting, free)
        value = numpy.where(choice, overlap, -1.0)
        best = value.shape[-1] - 1 - numpy.argmax(value[..., ::-1], axis=-1)  # (A, T)
        found = free[areas, thresholds, best]
        taken[areas, thresholds, best] |= found
        matched[..., number] = found
        right[..., number] = found & ~ignored[areas, best]
    return right, surplus & ~matched


def _interpolated(right: NDArray[Any], wrong: NDArray[Any], wanted: Any) -> Floats:
    """The best precision at each recall or beyond it: (N,), (N,) how often each is right, wrong → (R,)."""
    hits, misses = numpy.cumsum(right), numpy.cumsum(wrong)
    exact = hits / (hits + misses + numpy.spacing(1))
    best = numpy.maximum.accumulate(exact[::-1])[::-1]
    places = numpy.searchsorted(hits / wanted, RECALLS, side="left")
    found: Floats = numpy.zeros(len(RECALLS))
    reached = places < len(best)
    found[reached] = best[places[reached]]
    return found
