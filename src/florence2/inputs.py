"""What a user asks, checked and turned into prompts.

    ask(task, text, box, labels)     -> Request    everything that can be said without the photo
    prompts(request, size, ...)      -> [Prompt]   boxes checked against the photo, ids ready for the model

Every mistake is found here, before any weight is touched, and named with what was expected.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from florence2.errors import BoxError, TaskError
from florence2.language import tasks
from florence2.language.grammar import kinds
from florence2.language.quantizer import quantize
from florence2.language.tasks import Task
from florence2.results import Box, Detections

if TYPE_CHECKING:
    from florence2.language.tokenizer import Tokenizer

ROUNDING = 0.5
"""Pixels that a box may stick out of the photo: other tools round, and convert from width and height."""


@dataclass(frozen=True)
class Request:
    """One task with its input, not yet tied to a photo."""

    task: Task
    text: str | None = None
    boxes: tuple[Box, ...] | None = None
    labels: tuple[str, ...] | None = None
    """The only words that the answer may hold."""
    answers: Literal["one", "per box", "merged"] = "one"
    """One answer, a list with one answer per box, or one answer put together from a prompt per label."""


@dataclass(frozen=True)
class Prompt:
    """One row for the model."""

    task: Task
    ids: tuple[int, ...]
    labels: tuple[str, ...] | None
    """The only words that the answer may hold; None leaves them open."""


def ask(
    task: str | Task,
    text: str | None = None,
    box: Box | Sequence[Box] | None = None,
    labels: Sequence[str] | None = None,
) -> Request:
    """Check that a task gets the input that it takes, and nothing else. Raises TaskError or BoxError."""
    known = task if isinstance(task, Task) else tasks.get(_a_string(task, "a task"))
    if text is not None and known.takes not in ("text", "labels"):
        raise TaskError(f"{known.name} takes {_INPUT[known.takes]}, found the text {text!r}; leave the text out")
    if box is not None and known.takes != "boxes":
        raise TaskError(f"{known.name} takes {_INPUT[known.takes]}, found a box; leave the box out")
    if labels is not None and not takes_labels(known):
        raise TaskError(f"the answers of {known.name} hold no words that labels could close; leave labels out")
    if text is not None and not _a_string(text, f"the text of {known.name}").strip():
        raise TaskError(f"the text of {known.name} is empty; say what to look for")
    closed = None if labels is None else as_labels(labels)
    if known.takes == "boxes" and box is not None:
        boxes, many = as_boxes(box)
        return Request(known, boxes=boxes, labels=closed, answers="per box" if many else "one")
    if known.takes == "nothing" or text is not None:
        return Request(known, text=text, labels=closed)
    if known.takes == "labels" and closed is not None:
        return Request(known, labels=closed, answers="merged" if known.result is Detections else "one")
    raise TaskError(f"{known.name} needs {_INPUT[known.takes]}; {_EXAMPLES[known.takes].format(known.name)}")


def prompts(request: Request, size: tuple[int, int], tokenizer: Tokenizer, room: int) -> list[Prompt]:
    """The rows that answer ``request`` on a photo of ``size`` (width, height); ``room`` is the longest prompt."""
    task, closed = request.task, request.labels
    for label in closed or ():
        _check_carried(label, tokenizer)
    if request.boxes is not None:
        for box in request.boxes:
            check_inside(box, size)
        rows = [_prompt(task, task.fill(region=quantize(box, size)), closed, tokenizer) for box in request.boxes]
    elif request.answers == "merged":
        rows = [_prompt(task, task.fill(labels=[label]), (label,), tokenizer) for label in closed or ()]
    elif task.takes == "labels" and request.text is None:
        rows = [_prompt(task, task.fill(labels=closed), closed, tokenizer)]
    else:
        rows = [_prompt(task, task.fill(text=request.text), closed, tokenizer)]
    for row in rows:
        if len(row.ids) > room:
            raise TaskError(
                f"the prompt of {task.name} has {len(row.ids)} tokens, this model has room for {room}; shorten the text"
            )
    return rows


def _prompt(task: Task, text: str, labels: tuple[str, ...] | None, tokenizer: Tokenizer) -> Prompt:
    return Prompt(task, tuple(tokenizer.encode_prompt(text)), labels)


def takes_labels(task: Task) -> bool:
    """Whether the answer holds words, so that a closed list can stand in their place."""
    return bool(kinds(task.grammar) & {"label", "text"})


def as_boxes(box: Any) -> tuple[tuple[Box, ...], bool]:
    """One box or many, as tuples or arrays -> (boxes, whether many were given). Raises BoxError."""
    plain = box.tolist() if hasattr(box, "tolist") else box
    if isinstance(plain, (str, bytes)) or not isinstance(plain, Iterable):
        raise BoxError(f"a box is (x0, y0, x1, y1) in pixels, found {box!r}")
    items = list(plain)
    if items and all(_is_number(item) for item in items):
        return (as_box(items),), False
    return tuple(as_box(item) for item in items), True


def as_box(box: Any) -> Box:
    """Four finite numbers, not inverted, not empty. Raises BoxError."""
    plain = box.tolist() if hasattr(box, "tolist") else box
    if not isinstance(plain, (list, tuple)) or len(plain) != 4 or not all(_is_number(v) for v in plain):
        raise BoxError(f"a box is four numbers (x0, y0, x1, y1) in pixels, found {box!r}")
    x0, y0, x1, y1 = (float(v) for v in plain)
    if not all(math.isfinite(v) for v in (x0, y0, x1, y1)):
        raise BoxError(f"the box {_shown((x0, y0, x1, y1))} holds NaN or infinity; expected pixels")
    if x1 < x0 or y1 < y0:
        raise BoxError(
            f"the box {_shown((x0, y0, x1, y1))} is inverted; expected (x0, y0, x1, y1) with x0 < x1 and y0 < y1"
            " (is it x, y, width, height?)"
        )
    if x1 == x0 or y1 == y0:
        raise BoxError(f"the box {_shown((x0, y0, x1, y1))} is empty; it must be wider and higher than nothing")
    return (x0, y0, x1, y1)


def check_inside(box: Box, size: tuple[int, int]) -> None:
    """A box must lie in the photo, up to half a pixel of rounding. Raises BoxError."""
    width, height = size
    x0, y0, x1, y1 = box
    if x0 < -ROUNDING or y0 < -ROUNDING or x1 > width + ROUNDING or y1 > height + ROUNDING:
        raise BoxError(
            f"the box {_shown(box)} reaches outside the photo, which is {width} x {height} pixels; "
            "give pixels of the photo as it is shown upright, and cut the box at its edges"
        )


def as_labels(labels: Any) -> tuple[str, ...]:
    """A list of names without repetitions, in the order given. Raises TaskError."""
    if isinstance(labels, str):
        raise TaskError(f"labels is a list of names, found the string {labels!r}; write labels=[{labels!r}]")
    names = [_a_string(label, "a label").strip() for label in labels]
    if not names:
        raise TaskError("labels is empty; name at least one, or leave labels out to find everything")
    if "" in names:
        raise TaskError(f"label {names.index('') + 1} of {len(names)} is empty; give each label a name")
    return tuple(dict.fromkeys(names))


def _check_carried(label: str, tokenizer: Tokenizer) -> None:
    """A label must come back from the tokenizer unchanged, and must not hold the marks of the answer language."""
    if tokenizer.special_ids & set(tokenizer.encode(label)):
        raise TaskError(f"the label {label!r} holds a mark of the model's own language, like <and>; use plain words")
    ids = tokenizer.encode_plain(label)
    if tokenizer.unk_id in ids or tokenizer.decode(ids) != label:
        raise TaskError(f"the tokenizer of this model cannot write the label {label!r}; use other characters")


_INPUT = {"nothing": "no input", "text": "a text", "boxes": "a box", "labels": "a text or labels"}
_EXAMPLES = {
    "text": 'e.g. run(photo, "{}", "a red car")',
    "boxes": 'e.g. run(photo, "{}", box=(x0, y0, x1, y1)) in pixels',
    "labels": 'e.g. run(photo, "{}", labels=["car", "wheel"])',
}


def _a_string(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise TaskError(f"{what} is a string, found {type(value).__name__} {value!r}")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)  # NumPy's numbers are Real too


def _shown(box: Box) -> str:
    return "(" + ", ".join(f"{v:g}" for v in box) + ")"
