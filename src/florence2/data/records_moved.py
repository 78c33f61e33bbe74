"""Records whose photo was mirrored, or is seen through a window: what stays true moves along, the rest is left out.

    mirror(record)                 left is right, in places and in texts
    seen(record, view, visible)    a crop, or the whole photo in a larger frame; ``first_seen`` tries several

The rules are in the table of ``augment.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from florence2.data import pair_texts, views, wording
from florence2.data.fields import hull
from florence2.data.pair_texts import Shape, Written
from florence2.data.records import Pair, Phrase, Record, Thing
from florence2.data.views import View
from florence2.results import Box, Polygon, Quad, Text

BLIND = 0.7
"""Share of a photo of which nothing is known that must be left for its captions to stay true."""
WORD_SHOWS = 0.9
"""Share of a word that must be left for it to be read."""
LEGIBLE = 8.0
"""Pixels that a word is high at least, where the photo was put smaller."""


def mirror(record: Record) -> Record | None:
    """The record of the mirrored photo; None where it would not be true."""
    if record.text or record.illegible or not wording.may_be_mirrored(_texts(record)):
        return None
    view = views.mirror(record.width, record.height)
    written = pair_texts.parse_all(record.pairs, (record.width, record.height))
    if written is None or not all(map(pair_texts.may_be_mirrored, written)):
        return None
    pairs = _written(written, view, lambda shape: shape.values, wording.mirrored)
    return None if pairs is None else _moved(record, view, pairs, wording.mirrored)


def _texts(record: Record) -> Iterator[str]:
    yield from record.captions
    yield from (thing.label for thing in record.objects or ())
    yield from (phrase.text for phrase in record.phrases)
    yield from (ref.text for ref in record.refs)
    for asked in record.qa:
        yield asked.question
        yield from asked.answers


def _moved(record: Record, view: View, pairs: tuple[Pair, ...], words: Callable[[str], str]) -> Record:
    """Every shape and every text of the record, except for its pairs."""

    def outlines(polygons: tuple[Polygon, ...]) -> tuple[Polygon, ...]:
        return tuple(map(view.polygon, polygons))

    def start(phrase: Phrase) -> int | None:
        if phrase.start is None or phrase.caption is None or words is _same:
            return phrase.start
        return wording.mirrored_start(record.captions[phrase.caption], phrase.start)

    return replace(
        record,
        width=view.width,
        height=view.height,
        captions=tuple(map(words, record.captions)),
        objects=None
        if record.objects is None
        else tuple(
            replace(t, label=words(t.label), box=view.box(t.box), polygons=outlines(t.polygons)) for t in record.objects
        ),
        exhaustive=None if record.exhaustive is None else tuple(map(words, record.exhaustive)),
        phrases=tuple(
            replace(p, text=words(p.text), boxes=tuple(map(view.box, p.boxes)), start=start(p)) for p in record.phrases
        ),
        refs=tuple(
            replace(r, text=words(r.text), box=view.box(r.box), polygons=outlines(r.polygons)) for r in record.refs
        ),
        text=None if record.text is None else tuple(replace(w, quad=view.quad(w.quad)) for w in record.text),
        illegible=tuple(map(view.quad, record.illegible)),
        qa=tuple(replace(q, question=words(q.question), answers=tuple(map(words, q.answers))) for q in record.qa),
        pairs=pairs,
    )


def _same(text: str) -> str:
    return text


def _written(
    written: list[Written], view: View, cut: Callable[[Shape], tuple[float, ...]], words: Callable[[str], str]
) -> tuple[Pair, ...] | None:
    """All pairs, their places cut, then moved; None where one of them cannot be written."""

    def move(shape: Shape) -> tuple[float, ...]:
        values = cut(shape)
        match shape.kind:
            case "box":
                return view.box((values[0], values[1], values[2], values[3]))
            case "quad":
                return view.quad(_quad(values))
        return view.polygon(values)

    found = [pair_texts.write(each, (view.width, view.height), move, words) for each in written]
    pairs = tuple(pair for pair in found if pair is not None)
    return pairs if len(pairs) == len(found) else None


# The record in a window: a crop, or a larger frame around the photo


def seen(record: Record, view: View, visible: float) -> Record | None:
    """The record of what ``view`` shows; None where too little is left, or a pair would become untrue."""
    found = first_seen(record, [view], visible)
    return found and found[0]


def first_seen(record: Record, drawn: Iterable[View], visible: float) -> tuple[Record, View] | None:
    """The first of several views that shows enough, and the record of it."""
    written = pair_texts.parse_all(record.pairs, (record.width, record.height))
    if written is None:
        return None
    for view in drawn:
        if (shown := _seen(record, written, view, visible)) is not None:
            return shown, view
    return None


def _seen(record: Record, written: list[Written], view: View, visible: float) -> Record | None:
    sight = _look(record, written, view, visible)
    if not all(_pair_holds(each, sight) for each in written):
        return None
    pairs = _written(written, view, sight.cut_shape, _same)
    if pairs is None:
        return None
    captions, phrases = _captions(record, sight)
    objects = None if record.objects is None else tuple(_things(record.objects, sight))
    read = [words for words in record.text or () if sight.reads(words.quad)]
    unread = [words.quad for words in record.text or () if not sight.reads(words.quad)]
    left = replace(
        record,
        captions=captions,
        objects=objects,
        exhaustive=_exhaustive(record, sight),
        phrases=phrases,
        refs=tuple(
            replace(ref, box=sight.parts[ref.box].box, polygons=sight.outlines(ref.polygons))
            for ref in record.refs
            if _still_true(ref.text, (ref.box,), sight)
        ),
        text=None if record.text is None else tuple(replace(words, quad=sight.clamp(words.quad)) for words in read),
        illegible=tuple(rest for quad in (*unread, *record.illegible) for rest in sight.remnant(quad)),
        qa=tuple(
            asked
            for asked in record.qa
            if sight.answers_hold and not wording.says_where("\n".join((asked.question, *asked.answers)))
        ),
    )
    return None if _emptied(record, left) else _moved(left, view, pairs, _same)


@dataclass(frozen=True)
class _Part:
    """What shows of a place, in pixels of the old photo."""

    share: float
    """Of its outlines; of its box where it has none."""
    box: Box
    box_share: float


@dataclass(frozen=True)
class _Sight:
    """What a view shows of a record."""

    view: View
    photo: Box
    visible: float
    parts: dict[tuple[float, ...], _Part]
    """By the values of the box, quad or outline."""
    lost: bool
    cut: bool

    @property
    def captions_hold(self) -> bool:
        if self.parts:
            return not self.lost
        return not self.view.cuts or self.view.width * self.view.height >= BLIND * views.box_area(self.photo)

    @property
    def answers_hold(self) -> bool:
        return not self.lost and (bool(self.parts) or not self.view.cuts)

    def shows(self, values: tuple[float, ...]) -> bool:
        return self.parts[values].share >= self.visible and self.parts[values].share > 0

    def reads(self, values: tuple[float, ...]) -> bool:
        """A quad, or the box of a printed text."""
        scale = min(self.view.scale)
        return self.parts[values].share >= WORD_SHOWS and (scale == 1 or scale * _letters(values) >= LEGIBLE)

    def stays(self, values: tuple[float, ...]) -> bool:
        """In its part of the picture."""
        return views.place(hull((values,)), self.photo) == views.place(self.parts[values].box, self.view.window)

    def outlines(self, polygons: tuple[Polygon, ...]) -> tuple[Polygon, ...]:
        clipped = (views.clip_polygon(polygon, self.view.window) for polygon in polygons)
        return tuple(filter(None, clipped)) if self.view.cuts else polygons

    def clamp(self, quad: Quad) -> Quad:
        if not self.view.cuts:
            return quad
        x0, y0, x1, y1 = self.view.window
        return _quad(tuple(min(max(v, (x0, y0)[n % 2]), (x1, y1)[n % 2]) for n, v in enumerate(quad)))

    def remnant(self, quad: Quad) -> list[Quad]:
        """What shows of a quad that nobody needs to read: the upright box around it."""
        if not self.view.cuts:
            return [quad]
        rest = views.clip_polygon(quad, self.view.window)
        if not rest:
            return []
        x0, y0, x1, y1 = hull((rest,))
        return [(x0, y0, x1, y0, x1, y1, x0, y1)]

    def cut_shape(self, shape: Shape) -> tuple[float, ...]:
        match shape.kind:
            case "box":
                return self.parts[shape.values].box
            case "quad":
                return self.clamp(_quad(shape.values))
        return self.outlines((shape.values,))[0]


def _look(record: Record, written: list[Written], view: View, visible: float) -> _Sight:
    """Every place is judged once: an expression loses its box where the object loses it."""
    photo, window = (0.0, 0.0, float(record.width), float(record.height)), view.window
    parts: dict[tuple[float, ...], _Part] = {}

    def add(values: tuple[float, ...], polygons: tuple[Polygon, ...] = ()) -> None:
        if values not in parts:
            box = values if len(values) == 4 else hull((values,))
            parts[values] = _part(box, polygons, photo, window) if view.cuts else _Part(1.0, box, 1.0)

    for thing in record.objects or ():
        add(thing.box, thing.polygons)
    for ref in record.refs:
        add(ref.box, ref.polygons)
    for phrase in record.phrases:
        for box in phrase.boxes:
            add(box)
    quads = [words.quad for words in record.text or ()]
    for quad in quads:
        add(quad, (quad,))
    for shape in (shape for each in written for shape in each.shapes):
        add(shape.values, () if shape.kind == "box" else (shape.values,))
    sight = _Sight(view, photo, visible, parts, lost=False, cut=any(part.box_share < 1 for part in parts.values()))
    lost = not all(map(sight.shows, parts)) or not all(map(sight.reads, quads))
    return replace(sight, lost=lost)


def _part(box: Box, polygons: tuple[Polygon, ...], photo: Box, window: Box) -> _Part:
    """What a window that cuts shows of a box and its outlines."""
    shown = views.clip_box(box, window)
    whole = views.box_area(views.clip_box(box, photo))
    box_share = views.box_area(shown) / whole if whole else 0.0
    outline = sum(views.polygon_area(views.clip_polygon(polygon, photo)) for polygon in polygons)
    if not outline or not box_share:
        return _Part(box_share, shown, box_share)
    clipped = [rest for rest in (views.clip_polygon(polygon, window) for polygon in polygons) if rest]
    share = sum(map(views.polygon_area, clipped)) / outline
    if clipped and box_share < 1:  # what is left of the object may be smaller than what is left of its box
        tight = views.clip_box(shown, hull(tuple(clipped)))
        shown = tight if views.box_area(tight) else shown
    return _Part(share, shown, box_share)


def _things(things: tuple[Thing, ...], sight: _Sight) -> Iterator[Thing]:
    for thing in things:
        outlines = sight.outlines(thing.polygons)
        if sight.shows(thing.box) and bool(outlines) == bool(thing.polygons):
            yield replace(thing, box=sight.parts[thing.box].box, polygons=outlines)


def _exhaustive(record: Record, sight: _Sight) -> tuple[str, ...] | None:
    """Without the classes of which something shows that is no object any more: neither present nor absent."""
    slivers = {
        thing.label
        for thing in record.objects or ()
        if sight.parts[thing.box].box_share > 0 and not sight.shows(thing.box)
    }
    return tuple(name for name in record.exhaustive or () if name not in slivers) or None


def _captions(record: Record, sight: _Sight) -> tuple[tuple[str, ...], tuple[Phrase, ...]]:
    """Those that are still true, and their phrases under their new numbers."""
    numbers: dict[int, int] = {}
    for number, caption in enumerate(record.captions):
        own = [phrase for phrase in record.phrases if phrase.caption == number]
        holds = all(_keeps_boxes(p.text, p.boxes, sight) for p in own) if own else sight.captions_hold
        if holds and not wording.says_where(caption):
            numbers[number] = len(numbers)
    phrases = []
    for phrase in record.phrases:
        alone = phrase.caption is None and _still_true(phrase.text, phrase.boxes, sight)
        if alone or phrase.caption in numbers:
            boxes = tuple(sight.parts[box].box for box in phrase.boxes if sight.shows(box))
            phrases.append(replace(phrase, boxes=boxes, caption=None if alone else numbers[phrase.caption or 0]))
    return tuple(record.captions[number] for number in numbers), tuple(phrases)


def _keeps_boxes(text: str, boxes: tuple[tuple[float, ...], ...], sight: _Sight) -> bool:
    """At least one of them; all, where the text counts them."""
    shown = [sight.shows(box) for box in boxes]
    return all(shown) or (any(shown) and not wording.counts(text))


def _still_true(text: str, boxes: tuple[tuple[float, ...], ...], sight: _Sight) -> bool:
    """What is said of these boxes alone."""
    if not _keeps_boxes(text, boxes, sight):
        return False
    if wording.says_where(text) and (sight.lost or not all(map(sight.stays, boxes))):
        return False
    return not (wording.ranks(text) and (sight.lost or sight.cut))


def _pair_holds(written: Written, sight: _Sight) -> bool:
    shapes = [shape.values for shape in written.shapes]
    if written.task.name in pair_texts.PRINTED:
        return all(map(sight.shows, shapes)) if written.says_nothing else bool(shapes) and all(map(sight.reads, shapes))
    if written.task.result is Text and not shapes:
        holds = sight.captions_hold if written.task.takes == "nothing" else sight.answers_hold
        return holds and not wording.says_where(written.words)
    return all(map(sight.shows, shapes)) and _still_true(written.words, tuple(shapes), sight)


def _emptied(before: Record, after: Record) -> bool:
    """All objects or all words went, or there is nothing left to learn."""

    def objects(record: Record) -> bool:
        return any(not thing.crowd for thing in record.objects or ())

    def lessons(record: Record) -> bool:
        found = record.captions or record.phrases or record.refs or record.qa or record.pairs
        return bool(found) or record.objects is not None or record.text is not None

    pairs = ((objects(before), objects(after)), (before.text, after.text), (lessons(before), lessons(after)))
    return any(was and not is_ for was, is_ in pairs)


def _letters(values: tuple[float, ...]) -> float:
    """The height of a printed text: of a quad, which begins at the text's own top left, or of a box."""
    if len(values) == 4:
        return values[3] - values[1]
    x0, y0, x1, y1, x2, y2, x3, y3 = values
    return (math.dist((x0, y0), (x3, y3)) + math.dist((x1, y1), (x2, y2))) / 2


def _quad(values: tuple[float, ...]) -> Quad:
    a, b, c, d, e, f, g, h = values
    return (a, b, c, d, e, f, g, h)
