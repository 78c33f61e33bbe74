"""Explicit pairs, prompts and answers as texts, whose ``<loc_12>`` move with the photo.

A text is cut at its location tokens into words and shapes, as the grammar of its task has them: runs of fours are
boxes, of eight are quads, longer ones are outlines. Bins become pixels, move, and become bins again. Text that is not
such a plain list (another task, half a box, a mark that belongs to no vocabulary) is not touched: ``parse`` gives
None, and whoever asked must leave the photo where it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from florence2.data import wording
from florence2.data.records import Pair
from florence2.data.targets import resolve
from florence2.language import grammar as g
from florence2.language import tasks
from florence2.language.quantizer import BINS, dequantize, quantize
from florence2.language.tasks import Task

Kind = Literal["box", "quad", "polygon"]
PRINTED = frozenset(("<OCR>", "<OCR_WITH_REGION>", "<REGION_TO_OCR>", "<DocVQA>"))
"""Tasks whose answers are printed in the photo."""


@dataclass(frozen=True)
class Shape:
    kind: Kind
    values: tuple[float, ...]
    """Pixels."""


Part = str | Shape


@dataclass(frozen=True)
class Written:
    """A pair in parts."""

    pair: Pair
    task: Task
    prompt: tuple[Part, ...]
    answer: tuple[Part, ...]

    @property
    def shapes(self) -> list[Shape]:
        return [part for part in (*self.prompt, *self.answer) if isinstance(part, Shape)]

    @property
    def words(self) -> str:
        """All but the locations, one part per line."""
        return "\n".join(part for part in (*self.prompt, *self.answer) if isinstance(part, str))

    @property
    def says_nothing(self) -> bool:
        return not self.pair.answer.strip()


def parse(pair: Pair, size: tuple[int, int]) -> Written | None:
    """The pair in parts, locations in pixels of a photo of ``size``; None where it is no plain list of its task."""
    name, _ = resolve(pair.prompt)
    if not name:
        return None
    task = tasks.get(name)
    prompt = _parts(pair.prompt, frozenset(("box",) if task.takes == "boxes" else ()), size)
    answer = _parts(pair.answer, g.kinds(task.grammar), size)
    if prompt is None or answer is None:
        return None
    if task.takes == "boxes" and sum(isinstance(part, Shape) for part in prompt) != 1:
        return None
    return Written(pair, task, prompt, answer)


def parse_all(pairs: Iterable[Pair], size: tuple[int, int]) -> list[Written] | None:
    """None where one of them is None."""
    found = [parse(pair, size) for pair in pairs]
    whole = [written for written in found if written is not None]
    return whole if len(whole) == len(found) else None


def write(
    written: Written, size: tuple[int, int], move: Callable[[Shape], tuple[float, ...]], words: Callable[[str], str]
) -> Pair | None:
    """The pair again, in a photo of ``size``; None where its prompt would no longer be of its task."""

    def text(parts: tuple[Part, ...]) -> str:
        return "".join(words(part) if isinstance(part, str) else _locations(move(part), size) for part in parts)

    prompt = text(written.prompt)
    if resolve(prompt)[0] != written.task.name:
        return None
    return replace(written.pair, prompt=prompt, answer=text(written.answer))


def may_be_mirrored(written: Written) -> bool:
    """Not where something printed is read, nor where sides cannot be swapped safely."""
    if written.task.name in PRINTED and not written.says_nothing:
        return False
    return wording.may_be_mirrored([written.words])


_RUN = re.compile(r"((?:<loc_\d+>)+|<poly>|</poly>|<sep>)")
_NUMBER = re.compile(r"\d+")


def _parts(text: str, kinds: frozenset[str], size: tuple[int, int]) -> tuple[Part, ...] | None:
    parts: list[Part] = []
    marked = False
    for piece in filter(None, _RUN.split(text)):
        if piece.startswith("<loc_"):
            shapes = list(_shapes(piece, _kind(kinds, marked), size))
            if not shapes:
                return None
            parts += shapes
        elif "<loc_" in piece:  # a location that is no number
            return None
        else:
            marked = (marked or piece == "<poly>") and piece != "</poly>"
            parts.append(piece)
    return tuple(parts)


def _kind(kinds: frozenset[str], marked: bool) -> Kind | None:
    """What a run of locations is, in an answer of these kinds of segments; marks say that outlines follow."""
    if "polygon" in kinds and (marked or "box" not in kinds):
        return "polygon"
    if "box" in kinds or "echo" in kinds:
        return "box"
    return "quad" if "quad" in kinds else None


def _shapes(run: str, kind: Kind | None, size: tuple[int, int]) -> Iterator[Shape]:
    """Nothing where the run is no such shape."""
    bins = [int(number) for number in _NUMBER.findall(run)]
    fits = {"box": len(bins) % 4 == 0, "quad": len(bins) == 8, "polygon": len(bins) >= 6 and len(bins) % 2 == 0}
    if kind is None or not fits[kind] or max(bins) >= BINS:
        return
    step = 4 if kind == "box" else len(bins)
    chunks = [bins[start : start + step] for start in range(0, len(bins), step)]
    if kind == "box" and any(x0 > x1 or y0 > y1 for x0, y0, x1, y1 in chunks):
        return
    for chunk in chunks:
        yield Shape(kind, tuple(dequantize(chunk, size)))


def _locations(values: tuple[float, ...], size: tuple[int, int]) -> str:
    return "".join(f"<loc_{number}>" for number in quantize(values, size))
