"""Records as pictures: every kind of annotation drawn on its photo, on one sheet; as they are, or as training sees them
after augmentation."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from florence2 import drawing
from florence2.data.augment import Augment
from florence2.data.augment import augment as changed
from florence2.data.records import Record
from florence2.errors import DataError, ImageError
from florence2.results import Answer, Detections, Object, Text, TextRegion, TextRegions

if TYPE_CHECKING:
    from PIL import Image


def contact_sheet(
    records: Iterable[Record], most: int = 12, columns: int = 4, augment: Augment | None = None, seed: int = 0
) -> Image.Image:
    """The first ``most`` pictures of records that can be drawn; one record gives one picture per kind of annotation.

    With ``augment``, photos and annotations are changed first, the same for the same ``seed``. Raises DataError where
    there is nothing to draw.
    """
    how = augment or Augment()
    pictures = itertools.islice((picture for record in records for picture in _pictures(record, how, seed)), most)
    items = list(pictures)
    if not items:
        raise DataError("there is no record that can be drawn; `florence2 data check` says what is wrong with them")
    return drawing.contact_sheet(items, columns)


def _pictures(record: Record, how: Augment, seed: int) -> Iterator[tuple[str, Image.Image]]:
    if record.error:
        return
    try:
        photo = record.load()
    except ImageError:
        return  # the pre-flight's to report; a sheet shows what there is
    record, photo = changed(record, photo, how, random.Random(f"{seed} {record.id}"))
    for kind, answer in _answers(record):
        yield f"{record.id}: {kind}", drawing.draw(answer, photo)


def _answers(record: Record) -> Iterator[tuple[str, Answer]]:
    """The annotations in the types that can be drawn."""
    width, height = record.width, record.height

    def boxes(objects: Iterable[Object]) -> Detections:
        return Detections(task="<OD>", width=width, height=height, objects=tuple(objects))

    if record.objects is not None:
        things = (Object(label=_name(t.label, t.crowd), box=t.box, polygons=t.polygons) for t in record.objects)
        yield "objects", boxes(things)
    if record.phrases:
        yield "phrases", boxes(Object(label=p.text, box=box) for p in record.phrases for box in p.boxes)
    if record.refs:
        yield "references", boxes(Object(label=r.text, box=r.box, polygons=r.polygons) for r in record.refs)
    if record.text is not None:
        regions = [TextRegion(text=words.text, quad=words.quad) for words in record.text]
        regions += [TextRegion(text="(illegible)", quad=quad) for quad in record.illegible]
        yield "text", TextRegions(task="<OCR_WITH_REGION>", width=width, height=height, regions=tuple(regions))
    words = [*record.captions, *(f"{q.question} {' / '.join(q.answers[:3])}" for q in record.qa)]
    words += [f"{pair.prompt} -> {pair.answer}" for pair in record.pairs]
    if words:
        yield "words", Text(task="<CAPTION>", width=width, height=height, text="\n".join(words))


def _name(label: str, crowd: bool) -> str:
    return f"{label} (crowd)" if crowd else label
