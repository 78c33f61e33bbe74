"""The languages of the answers. Each is regular over few token classes and written here once; all else follows.

    text            what the tokenizer calls words            ``<loc_0>`` .. ``<loc_999>``     location
    ``<poly>`` ``</poly>`` ``<sep>``    around and between polygons           ``</s>``         end

A grammar is put together from combinators: ``many(LABEL, some(BOX))`` is the answer of object detection.
:func:`compile` numbers the places where a token is read (Glushkov's construction: one state per place, no empty
moves) and gives an :class:`Automaton`. It constrains decoding (two gathers per step, see :class:`TensorAutomaton`),
checks training targets (:meth:`Automaton.accepts`) and cuts ids into segments for the parser
(:meth:`Automaton.segments`). A closed list of labels becomes a trie in the place of free text.

A grammar must never need to look ahead: where two places could read the next token, compiling fails.

Source: Florence-2 (arXiv 2311.06242), section 4.1 and appendix; Glushkov (1961), "The abstract theory of automata".
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from florence2.errors import TaskError
from florence2.language.automaton import (
    BOS,
    CLASS_NAMES,
    END_POLY,
    EOS,
    LOCATION,
    OTHER,
    POLY,
    SEP,
    TEXT,
    class_name,
)
from florence2.language.automaton import Automaton as Automaton
from florence2.language.automaton import TensorAutomaton as TensorAutomaton
from florence2.language.quantizer import BINS

if TYPE_CHECKING:
    from florence2.language.tokenizer import Tokenizer


@dataclass(frozen=True)
class Leaf:
    """One token of a class. A location may write a register, or must not be below one (``floor``)."""

    token_class: int
    store: int = -1
    floor: int = -1
    boundary: bool = False
    """An object, a box or a point is complete behind this token."""


@dataclass(frozen=True)
class Words:
    """One or more text tokens; with a closed label list, one of the labels."""


@dataclass(frozen=True)
class Capture:
    """A part that the parser hands out as one segment of this ``kind``."""

    kind: str
    body: Grammar


@dataclass(frozen=True)
class Chain:
    parts: tuple[Grammar, ...]


@dataclass(frozen=True)
class Choice:
    parts: tuple[Grammar, ...]


@dataclass(frozen=True)
class Repeat:
    body: Grammar
    skippable: bool
    endless: bool


Grammar = Leaf | Words | Capture | Chain | Choice | Repeat


def seq(*parts: Grammar) -> Grammar:
    """All parts, one after the other."""
    return parts[0] if len(parts) == 1 else Chain(parts)


def either(*parts: Grammar) -> Grammar:
    """One of the parts."""
    return Choice(parts)


def maybe(*parts: Grammar) -> Grammar:
    """The parts, or nothing."""
    return Repeat(seq(*parts), skippable=True, endless=False)


def many(*parts: Grammar) -> Grammar:
    """The parts, any number of times."""
    return Repeat(seq(*parts), skippable=True, endless=True)


def some(*parts: Grammar) -> Grammar:
    """The parts, at least once."""
    return Repeat(seq(*parts), skippable=False, endless=True)


def capture(kind: str, *parts: Grammar) -> Grammar:
    """The parts as one segment of the answer."""
    return Capture(kind, seq(*parts))


_COORDINATE, _LAST_COORDINATE = Leaf(LOCATION), Leaf(LOCATION, boundary=True)
_POINT = (_COORDINATE, _LAST_COORDINATE)

LABEL = capture("label", Words())
BOX = capture(
    "box",  # x0 y0 x1 y1, with x1 >= x0 and y1 >= y0
    *(Leaf(LOCATION, store=0), Leaf(LOCATION, store=1)),
    *(Leaf(LOCATION, floor=0), Leaf(LOCATION, floor=1, boundary=True)),
)
QUAD = capture("quad", *[_COORDINATE] * 7, _LAST_COORDINATE)
POLYGON = capture("polygon", *[_COORDINATE] * 5, _LAST_COORDINATE, many(*_POINT))
INSTANCE = seq(POLYGON, many(capture("sep", Leaf(SEP)), POLYGON))
MARKED_INSTANCE = seq(capture("poly", Leaf(POLY)), INSTANCE, capture("end_poly", Leaf(END_POLY, boundary=True)))

PLAIN_TEXT = capture("text", Words())
"""Captions, categories, answers to questions."""
OPTIONAL_TEXT = maybe(PLAIN_TEXT)
"""The text of a photo, which may hold none."""
ECHO = maybe(capture("echo", *[_COORDINATE] * 3, _LAST_COORDINATE))
REGION_TEXT = seq(PLAIN_TEXT, ECHO)
"""What is said of a region; the published models repeat the region behind it."""
OPTIONAL_REGION_TEXT = maybe(PLAIN_TEXT, ECHO)
BOXES = many(BOX)
LABELLED_BOXES = many(LABEL, some(BOX))
QUADS = many(LABEL, QUAD)
POLYGONS = maybe(either(INSTANCE, some(MARKED_INSTANCE)))
"""One instance plainly, several in marks."""
OPEN_VOCABULARY = many(LABEL, either(some(BOX), some(MARKED_INSTANCE)))


def kinds(grammar: Grammar) -> frozenset[str]:
    """The kinds of segments that answers of this grammar are made of."""
    match grammar:
        case Capture(kind, _):
            return frozenset({kind})
        case Chain(parts) | Choice(parts):
            return frozenset().union(*map(kinds, parts))
        case Repeat(body):
            return kinds(body)
    return frozenset()


def spell(grammar: Grammar) -> str:
    """The grammar as a regular expression over segments, e.g. ``(label box+)*``."""
    match grammar:
        case Capture(kind, _):
            return kind
        case Chain(parts):
            return " ".join(map(spell, parts))
        case Choice(parts):
            return "(" + " | ".join(map(spell, parts)) + ")"
        case Repeat(body, skippable, endless):
            inner = spell(body)
            sign = ("*" if endless else "?") if skippable else "+"
            return (f"({inner})" if isinstance(body, Chain) else inner) + sign
        case Leaf(token_class):
            return CLASS_NAMES[token_class]
    return "words"


def compile(grammar: Grammar, tokenizer: Tokenizer, labels: Iterable[str] | None = None) -> Automaton:
    """The automaton of ``grammar`` over the ids of ``tokenizer``. With ``labels``, texts are one of them.

    Raises TaskError where the grammar is ambiguous, has no labels to close, or the list is empty.
    """
    return _compiled(grammar, tokenizer, None if labels is None else tuple(labels))


@functools.lru_cache(maxsize=64)
def _compiled(grammar: Grammar, tokenizer: Tokenizer, labels: tuple[str, ...] | None) -> Automaton:
    closed = None if labels is None else _closed(labels, tokenizer)
    if closed is not None and not kinds(grammar) & {"label", "text"}:
        raise TaskError(f"answers of the form {spell(grammar)} hold no labels; leave out the label list")
    class_of = _base_classes(tokenizer)
    trie_class: dict[int, int] = {}
    for ids in closed or ():
        for id in ids:
            trie_class.setdefault(id, len(CLASS_NAMES) + len(trie_class))
    for id, token_class in trie_class.items():
        class_of[id] = token_class
    places = _Places(None if closed is None else [[trie_class[id] for id in ids] for ids in closed])
    # The large model writes two more <s> before structured answers.
    opening = maybe(Leaf(BOS), maybe(Leaf(BOS)))
    places.build(Chain((opening, grammar, Leaf(EOS))))
    return Automaton(
        edges=tuple(places.edges),
        kind=tuple(places.kind),
        accepting=tuple(leaf.token_class == EOS for leaf in places.leaf),
        boundary=tuple(leaf.boundary for leaf in places.leaf),
        store=tuple(_read_from(places, lambda leaf: leaf.store)),
        floor=tuple(_read_from(places, lambda leaf: leaf.floor)),
        distance=tuple(_distances(places.edges, len(places.edges) - 1)),
        classes=len(CLASS_NAMES) + len(trie_class),
        class_of=tuple(class_of),
        labels=closed,
        bos_id=tokenizer.bos_id,
        pad_id=tokenizer.pad_id,
        eos_id=tokenizer.eos_id,
        first_location_id=tokenizer.first_location_id,
    )


@dataclass
class _Part:
    """Glushkov's three sets of a part: where it may begin, where it may end, may it be empty."""

    first: list[int]
    last: list[int]
    empty: bool


class _Places:
    """The places of a grammar, each a state; place 0 is the start, the last one is behind ``</s>``."""

    def __init__(self, labels: list[list[int]] | None) -> None:
        self.labels = labels  # as token classes
        self.edges: list[dict[int, tuple[int, bool]]] = [{}]
        self.kind = [""]
        self.leaf = [Leaf(OTHER)]

    def build(self, grammar: Grammar) -> None:
        part = self.part(grammar, "")
        self.connect([0], part.first, begins=True)

    def part(self, node: Grammar, kind: str) -> _Part:
        """The part below ``node``, whose tokens belong to segments of ``kind`` (empty: not captured yet)."""
        begins = not kind  # a way between two captures begins a segment, a way inside of one continues it
        match node:
            case Leaf():
                place = self.place(node, kind)
                return _Part([place], [place], False)
            case Words():
                return self.words(kind)
            case Capture(inner, body):
                return self.part(body, inner)
            case Chain(parts):
                whole = _Part([], [], True)
                for child in parts:
                    part = self.part(child, kind)
                    self.connect(whole.last, part.first, begins)
                    whole = _Part(
                        whole.first + (part.first if whole.empty else []),
                        part.last + (whole.last if part.empty else []),
                        whole.empty and part.empty,
                    )
                return whole
            case Choice(parts):
                built = [self.part(child, kind) for child in parts]
                first = [place for part in built for place in part.first]
                last = [place for part in built for place in part.last]
                return _Part(first, last, any(part.empty for part in built))
            case Repeat(body, skippable, endless):
                part = self.part(body, kind)
                if endless:
                    self.connect(part.last, part.first, begins)
                return _Part(part.first, part.last, part.empty or skippable)

    def words(self, kind: str) -> _Part:
        if self.labels is None:
            return self.part(some(Leaf(TEXT)), kind)
        trie: dict[int, tuple[int, bool]] = {}
        last = []
        for label in self.labels:
            edges, place = trie, -1
            for token_class in label:
                if token_class not in edges:
                    edges[token_class] = (self.place(Leaf(token_class), kind), False)
                place = edges[token_class][0]
                edges = self.edges[place]
            last.append(place)
        return _Part([place for place, _ in trie.values()], last, False)

    def place(self, leaf: Leaf, kind: str) -> int:
        self.edges.append({})
        self.kind.append(kind)
        self.leaf.append(leaf)
        return len(self.edges) - 1

    def connect(self, sources: Iterable[int], targets: Iterable[int], begins: bool) -> None:
        for source in sources:
            for target in targets:
                token_class = self.leaf[target].token_class
                if self.edges[source].setdefault(token_class, (target, begins)) != (target, begins):
                    name = class_name(token_class)
                    raise TaskError(
                        f"the grammar is ambiguous: a {name} token behind {self.kind[source] or 'the start'} can be "
                        f"read as {self.kind[target] or name} in two ways; change it so that one token decides"
                    )


def _closed(labels: tuple[str, ...], tokenizer: Tokenizer) -> dict[tuple[int, ...], str]:
    if not labels:
        raise TaskError("the list of labels is empty; give at least one, or none at all for free labels")
    closed: dict[tuple[int, ...], str] = {}
    for label in labels:
        if not isinstance(label, str) or not label.strip():
            raise TaskError(f"{label!r} is no label; expected words")
        closed.setdefault(tuple(tokenizer.encode_plain(label.strip())), label)
    return closed


def _base_classes(tokenizer: Tokenizer) -> list[int]:
    class_of = [TEXT] * tokenizer.vocab_size
    for id in tokenizer.special_ids:
        class_of[id] = OTHER
    class_of[tokenizer.first_location_id : tokenizer.first_location_id + BINS] = [LOCATION] * BINS
    class_of[tokenizer.poly_id], class_of[tokenizer.end_poly_id] = POLY, END_POLY
    class_of[tokenizer.sep_id] = SEP
    class_of[tokenizer.bos_id], class_of[tokenizer.eos_id] = BOS, EOS
    return class_of


def _read_from(places: _Places, value: Any) -> list[int]:
    """Per state, what the location read from there is told; -1 where none is read."""
    return [value(places.leaf[edges[LOCATION][0]]) if LOCATION in edges else -1 for edges in places.edges]


def _distances(edges: list[dict[int, tuple[int, bool]]], final: int) -> list[int]:
    """Tokens on the shortest way from each state to ``final`` (breadth first, backwards)."""
    sources: list[list[int]] = [[] for _ in edges]
    for source, ways in enumerate(edges):
        for target, _ in ways.values():
            sources[target].append(source)
    distance = [-1] * len(edges)
    distance[final] = 0
    queue = deque([final])
    while queue:
        target = queue.popleft()
        for source in sources[target]:
            if distance[source] < 0:
                distance[source] = distance[target] + 1
                queue.append(source)
    return distance
