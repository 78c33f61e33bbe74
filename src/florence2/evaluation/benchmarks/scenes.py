"""Composed pictures as benchmarks: what is in them is known exactly, and nobody can have seen them before.

    scenes/lines                    one printed line that fills its picture; <OCR>
    scenes/referring-segmentation   things cut out of the packs' photos, an expression that means one; its outline
    scenes/region-segmentation      the same scenes, the outline of what is in a box

The pictures are decided by their numbers alone, on one machine: the fonts to print with are those of the system. The
things are cut out of the packs in the data folder, so scenes of evaluation packs show things that no training saw.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from PIL import Image

from florence2.data.records import Record, Words
from florence2.data.scenes import Scenes, SceneSettings
from florence2.evaluation.benchmarks import packs
from florence2.evaluation.benchmarks.records import Benchmark
from florence2.evaluation.samples import Sample
from florence2.results import Box, Text

GROUP = "scenes"
SEED = 20231110
"""Not that of any recipe."""
COUNT = 200
"""Scenes of each kind."""
PRINTED = SceneSettings(count=4 * COUNT, seed=SEED, size=(640, 640), objects=(0, 0), words=(1, 1))
"""Not in every scene does a text find room."""
COMPOSED = SceneSettings(count=COUNT, seed=SEED, objects=(1, 4), words=(0, 0))
RIM = 0.15
"""Of a line's height, left free around it."""


def _lines(folder: Path) -> Iterator[Sample]:
    return itertools.islice(_printed(), COUNT)


def _printed() -> Iterator[Sample]:
    for record, picture in Scenes(PRINTED):
        if not record.text:
            continue
        line, cut = record.text[0], _around(record.text[0], picture)
        width, height = cut.size
        whole = (0.0, 0.0, width, 0.0, width, height, 0.0, height)
        words = (Words(text=line.text, quad=whole),)
        shown = Record(image=_png(cut), id=record.id, width=width, height=height, text=words, source=record.source)
        truth = Text(task="<OCR>", width=width, height=height, text=line.text)
        yield Sample(id=f"{record.id}#line", record=shown, task="<OCR>", truth=(truth,))


def _around(line: Words, picture: Image.Image) -> Image.Image:
    xs, ys = line.quad[0::2], line.quad[1::2]
    rim = RIM * (max(ys) - min(ys))
    box: Box = (min(xs) - rim, min(ys) - rim, max(xs) + rim, max(ys) + rim)
    left, top, right, bottom = (round(v) for v in box)
    return picture.crop((max(0, left), max(0, top), min(picture.width, right), min(picture.height, bottom)))


def _composed(ask: packs.Teacher) -> Callable[[Path], Iterator[Sample]]:
    def samples(folder: Path) -> Iterator[Sample]:
        for record, picture in Scenes(replace(COMPOSED, cutouts=(str(folder),))):
            yield from ask(replace(record, image=_png(picture)))

    return samples


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _outlined(name: str, title: str, task: str, ask: packs.Teacher, protocol: str) -> Benchmark:
    return Benchmark(
        name=f"{GROUP}/{name}",
        title=title,
        task=task,
        measure="segmentation",
        main="mIoU",
        protocol=protocol,
        read=_composed(ask),
        templated=True,
    )


BENCHMARKS: tuple[Benchmark, ...] = (
    Benchmark(
        name=f"{GROUP}/lines",
        title="Printed lines",
        task="<OCR>",
        measure="reading",
        main="accuracy-nocase",
        protocol="A line of a composed scene and a rim of 15 % of its height; it must be right as a whole, case aside. "
        "Words, numbers, dates and prices of up to 32 letters, in the fonts of this machine.",
        read=_lines,
        templated=True,
    ),
    _outlined(
        "referring-segmentation", "Expression to outline, composed scenes", "<REFERRING_EXPRESSION_SEGMENTATION>",
        packs.referred(templated=True),
        "Things cut out of the packs in the data folder, on drawn grounds; a templated expression means one.",
    ),
    _outlined(
        "region-segmentation", "Region to outline, composed scenes", "<REGION_TO_SEGMENTATION>", packs.outlines,
        "The same scenes; the outline of what is in a box of 2 % of the picture or more.",
    ),
)  # fmt: skip
