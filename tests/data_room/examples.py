"""Records to test with: drawn by hypothesis, and one that says a bit of everything."""

from __future__ import annotations

import functools
import io
from dataclasses import replace
from pathlib import Path

from hypothesis import strategies as st

from florence2.data import targets
from florence2.data.fields import hull
from florence2.data.formats import FORMATS
from florence2.data.jsonl import spelling
from florence2.data.records import Pair, Phrase, Question, Record, Reference, Thing, Words
from florence2.data.yolo import _joined
from tests.tiny_checkpoint import picture

CLASSES = ("cat", "dog", "traffic light", "vélo", "车")


@functools.cache
def image_bytes(width: int, height: int, suffix: str = "PNG") -> bytes:
    stream = io.BytesIO()
    picture(1, (width, height)).save(stream, suffix)
    return stream.getvalue()


def rich_record(**changes: object) -> Record:
    """Something of every kind, all of it sound."""
    record = Record(
        image=image_bytes(80, 60),
        id="one",
        width=80,
        height=60,
        captions=("A cat and a dog.", "Two animals."),
        objects=(
            Thing(label="cat", box=(10, 10, 30, 40), polygons=((10, 10, 30, 10, 20, 40),)),
            Thing(label="cat", box=(40, 12, 60, 50)),
            Thing(label="dog", box=(0, 0, 80, 60), crowd=True),
            Thing(label="dog", box=(50, 20, 78, 58), polygons=((50, 20, 60, 20, 60, 58), (70, 20, 78, 20, 78, 58))),
        ),
        exhaustive=("cat", "dog", "zebra"),
        phrases=(Phrase(text="A cat", boxes=((10, 10, 30, 40),), caption=0, start=0),),
        refs=(Reference(text="the left cat", box=(10, 10, 30, 40), origin="rule"),),
        text=(
            Words(text="STOP", quad=(1, 1, 20, 1, 20, 8, 1, 8)),
            Words(text="GO", quad=(1, 11, 20, 11, 20, 18, 1, 18)),
        ),
        qa=(Question(question="How many cats?", answers=("2", "two"), origin="rule"),),
        pairs=(Pair(prompt="<OD>", answer="cat<loc_1><loc_2><loc_3><loc_4>"),),
        source="drawn",
        split="train",
        extra={"squashed": True},
    )
    return replace(record, **changes)  # type: ignore[arg-type]


quarters = st.integers(0, 80).map(lambda n: n / 4)
words = st.text(st.sampled_from("abcXYZ é,\"'|;中#-"), min_size=1, max_size=12).map(str.strip).filter(bool)


@st.composite
def boxes(draw: st.DrawFn) -> tuple[float, float, float, float]:
    x0, y0 = draw(quarters), draw(quarters)
    return (x0, y0, x0 + draw(quarters) + 0.25, y0 + draw(quarters) + 0.25)


polygons = st.lists(quarters, min_size=6, max_size=10).filter(lambda p: len(p) % 2 == 0).map(tuple)


@st.composite
def things(draw: st.DrawFn) -> Thing:
    return Thing(
        label=draw(st.sampled_from(CLASSES)),
        box=draw(boxes()),
        polygons=tuple(draw(st.lists(polygons, max_size=3))),
        crowd=draw(st.booleans()),
        difficult=draw(st.booleans()),
    )


@st.composite
def data_sets(draw: st.DrawFn, listed: bool = True) -> list[Record]:
    """A few photos of 48 x 52; all share a class list, or none has one."""
    exhaustive = CLASSES if listed or draw(st.booleans()) else None
    ids = draw(st.sampled_from([["a", "b.c", "d e"], ["7", "8", "19"]]))
    return [
        Record(
            image=image_bytes(48, 52, draw(st.sampled_from(["PNG", "JPEG", "WEBP"]))),
            id=id,
            width=48,
            height=52,
            captions=tuple(draw(st.lists(words, max_size=2))),
            objects=(objects := draw(st.none() | st.lists(things(), max_size=3).map(tuple))),
            exhaustive=None if objects is None else exhaustive,
            phrases=tuple(
                draw(
                    st.lists(
                        st.builds(Phrase, text=words, boxes=st.lists(boxes(), min_size=1, max_size=2).map(tuple)),
                        max_size=1,
                    )
                )
            ),
            refs=tuple(draw(st.lists(st.builds(Reference, text=words, box=boxes(), origin=words), max_size=1))),
            text=draw(st.none() | st.lists(st.builds(Words, text=words, quad=_quads), max_size=2).map(tuple)),
            illegible=tuple(draw(st.lists(_quads, max_size=1))),
            qa=tuple(draw(st.lists(_questions, max_size=2))),
            pairs=tuple(draw(st.lists(st.builds(Pair, prompt=words, answer=words), max_size=2))),
            source=draw(st.sampled_from(["", "mine"])),
            split=draw(st.sampled_from(["train", "val", "test"])),
            extra=draw(st.sampled_from([{}, {"squashed": True, "orig_size": [500, 375]}])),
        )
        for id in ids[: draw(st.integers(1, 3))]
    ]


_quads = st.tuples(*[quarters] * 8)
_questions = st.builds(
    Question,
    question=words,
    answers=st.lists(words, max_size=3, unique=True).map(tuple),
    origin=st.sampled_from(["", "rule"]),
)


def kept(records: list[Record], *formats: str) -> list[Record]:
    """What is left of records that went through all these formats, by what the formats promise to hold."""
    holds = frozenset.intersection(*(FORMATS[name].holds for name in formats))
    taken = [record for record in records if all(FORMATS[name].takes(record) for name in formats)]
    left = [_kept(record, holds) for record in taken]
    if "jsonl" in formats:  # which says everything in pairs
        others = [FORMATS[name].holds for name in formats if name != "jsonl"]
        if all("pairs" in other for other in others):
            left = [replace(bare, pairs=_as_pairs(record)) for bare, record in zip(left, taken, strict=True)]
    if formats[0] == "yolo":  # which knows no photo outside of a split
        left = [replace(record, split=record.split or "train") for record in left]
    return [record for record in left if FORMATS[formats[0]].takes(record)]


def _as_pairs(record: Record) -> tuple[Pair, ...]:
    return tuple(Pair(prompt=lesson.prefix, answer=lesson.suffix(spelling())) for lesson in targets.pairs(record))


def _kept(record: Record, holds: frozenset[str]) -> Record:
    pairs = record.pairs if "pairs" in holds else ()
    text = record.text if "texts with quads" in holds else None
    if text == () and "photos without text" not in holds:
        text = None
    with_origins = "origins" in holds
    return replace(
        record,
        captions=record.captions if "captions" in holds else (),
        objects=None
        if record.objects is None or "objects" not in holds
        else tuple(_thing(t, holds) for t in record.objects),
        exhaustive=record.exhaustive if "class lists" in holds else None,
        phrases=record.phrases if "phrases" in holds else (),
        refs=record.refs if "referring expressions" in holds else (),
        text=text,
        illegible=record.illegible if "illegible texts" in holds else (),
        qa=tuple(q if with_origins else replace(q, origin="") for q in record.qa) if "questions" in holds else (),
        pairs=pairs,
        source=record.source if "sources" in holds else "",
        split=record.split if "splits" in holds else "",
        extra=record.extra if "further fields" in holds else {},
    )


def _thing(thing: Thing, holds: frozenset[str]) -> Thing:
    polygons = thing.polygons
    if polygons and "outlines of several parts" not in holds:
        polygons = (_joined(polygons),)
    box = hull(polygons) if polygons and "boxes that differ from their outline" not in holds else thing.box
    return Thing(
        label=thing.label,
        box=box,
        polygons=polygons,
        crowd=thing.crowd and "crowd marks" in holds,
        difficult=thing.difficult and "difficult marks" in holds,
    )


def comparable(record: Record) -> Record:
    """Without what differs by rights: where the image lies, the last digits of coordinates, the order of classes."""
    assert isinstance(record.image, (bytes, Path))

    def rounded(values: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(round(value * 100) / 100 for value in values)

    return replace(
        record,
        image=record.image_bytes(),
        objects=None
        if record.objects is None
        else tuple(replace(t, box=rounded(t.box), polygons=tuple(map(rounded, t.polygons))) for t in record.objects),
        exhaustive=None if record.exhaustive is None else tuple(sorted(record.exhaustive)),
    )


def by_id(records: list[Record]) -> list[Record]:
    return sorted(map(comparable, records), key=lambda record: record.id)
