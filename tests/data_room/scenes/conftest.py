"""What several tests of scenes need: pixels inside of outlines, scenes with their pictures encoded."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy
from PIL import Image, ImageDraw

from florence2.data import Record
from florence2.data.scenes import Scenes


def inside(polygons: Iterable[tuple[float, ...]], size: tuple[int, int], shift: tuple[float, float] = (0, 0)) -> Any:
    """(H, W) bool: pixels that lie in one of the polygons, drawn eight times as fine."""
    fine = 8
    canvas = Image.new("L", (size[0] * fine, size[1] * fine))
    for polygon in polygons:
        points = zip(polygon[0::2], polygon[1::2], strict=True)
        moved = [((x + shift[0]) * fine - 0.5, (y + shift[1]) * fine - 0.5) for x, y in points]
        ImageDraw.Draw(canvas).polygon(moved, 255)
    return numpy.asarray(canvas.reduce(fine)) >= 128


def overlap(a: Any, b: Any) -> float:
    """Intersection over union of two masks."""
    return float((a & b).sum() / max(1, (a | b).sum()))


def encoded(scenes: Scenes, numbers: Iterable[int]) -> list[Record]:
    """Records with their pictures as PNG."""
    records = []
    for number in numbers:
        record, picture = scenes[number]
        stream = io.BytesIO()
        picture.save(stream, "PNG", compress_level=1)
        records.append(replace(record, image=stream.getvalue()))
    return records
