"""Many photos, many tasks, any order: a few at a time through the model, each photo encoded once, nothing lost.

Items go through in windows of ``batch_size``. While the model works on one, the photos of the next are read and resized
on threads. So the photos of two windows are in memory, whatever the number of items.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from florence2 import inputs
from florence2.engine import Engine, Options, Scene
from florence2.errors import Florence2Error, TaskError
from florence2.feeding import Feed, Ready
from florence2.inputs import Request
from florence2.language.tasks import Task
from florence2.results import Answer

AHEAD = 1
"""Windows that are read, and their photos made ready, while the model works on the one before."""


@dataclass(frozen=True)
class ErrorRecord:
    """Stands where an answer would, for an item that could not be answered."""

    image: str
    """The path, or what kind of object the photo was."""
    task: str
    error: Florence2Error

    def to_dict(self) -> dict[str, Any]:
        return {"image": self.image, "task": self.task, "error": self.error.to_dict()}


def request(task: Any) -> Request:
    """A task, or (task, input): a text, a box, boxes or labels, told by its kind, or a dict where there are two."""
    if isinstance(task, (str, Task)):
        return inputs.ask(task)
    if not isinstance(task, (tuple, list)) or not 1 <= len(task) <= 2:
        raise TaskError(f'a task is a name or (name, input), e.g. "caption" or ("ground", "a dog"); found {task!r}')
    name, given = task if len(task) == 2 else (task[0], None)
    if given is None:
        return inputs.ask(name)
    if isinstance(given, str):
        return inputs.ask(name, text=given)
    if isinstance(given, Mapping):
        unknown = sorted(set(given) - {"text", "box", "labels"})
        if unknown:
            raise TaskError(f"unknown input {unknown[0]!r} of {name}; known: text, box, labels")
        return inputs.ask(name, **given)
    if isinstance(given, (list, tuple)) and given and all(isinstance(item, str) for item in given):
        return inputs.ask(name, labels=given)
    return inputs.ask(name, box=given)


def run(
    engine: Engine, items: Sequence[Any], batch_size: int, on_error: str, options: Options
) -> list[Answer | list[Answer] | ErrorRecord]:
    """All items are known: those of one photo are brought together, and it is remembered until its last one."""
    _check(batch_size, on_error, AHEAD)
    order = _photos_together(items, batch_size)
    ordered = [items[i] for i in order]
    last = {_key(_split(item)[0]): i for i, item in enumerate(ordered) if _is_item(item)}
    found = _windows(engine, iter(ordered), batch_size, on_error == "record", options, last, AHEAD)
    answers = dict(zip(order, found, strict=True))
    return [answers[i] for i in range(len(items))]


def stream(
    engine: Engine, items: Iterable[Any], batch_size: int, on_error: str, options: Options, ahead: int = AHEAD
) -> Iterator[Answer | list[Answer] | ErrorRecord]:
    """Items come one after another: a photo is remembered as long as a window that is read asks about it."""
    _check(batch_size, on_error, ahead)
    return _windows(engine, iter(items), batch_size, on_error == "record", options, None, ahead)


def _check(batch_size: int, on_error: str, ahead: int) -> None:
    if batch_size < 1:
        raise TaskError(f"batch_size is at least 1, found {batch_size}")
    if on_error not in ("raise", "record"):
        raise TaskError(f'on_error is "raise" or "record", found {on_error!r}')
    if ahead < 0:
        raise TaskError(f"ahead is at least 0, found {ahead}")


def _photos_together(items: Sequence[Any], batch_size: int) -> list[int]:
    """The order of work: items whose photo occurs first in the same window, and all its later ones, are neighbours.

    So no photo waits in memory for an item at the far end, and where photos come one after another nothing moves.
    """
    first: dict[Any, int] = {}
    window = [
        first.setdefault(_key(_split(item)[0]), i // batch_size) if _is_item(item) else i // batch_size
        for i, item in enumerate(items)
    ]
    return sorted(range(len(items)), key=window.__getitem__)


@dataclass(frozen=True)
class Window:
    """Items that are answered together."""

    items: list[Any]
    photos: dict[Any, Any]
    """By key."""
    failure: Exception | None
    """What their source raised behind the last one."""


def _read(items: Iterator[Any], batch_size: int) -> Iterator[Window]:
    """Windows of a source. Where it raises, what came before is a window still."""
    while True:
        taken: list[Any] = []
        failure = None
        try:
            taken.extend(islice(items, batch_size))
        except Exception as error:
            failure = error
        if taken or failure:
            photos = {_key(photo): photo for photo, _ in map(_split, filter(_is_item, taken))}
            yield Window(taken, photos, failure)
        if len(taken) < batch_size:
            return


def _windows(
    engine: Engine,
    items: Iterator[Any],
    batch_size: int,
    record: bool,
    options: Options,
    last: Mapping[Any, int] | None,
    ahead: int,
) -> Iterator[Answer | list[Answer] | ErrorRecord]:
    """Answers in order. At most ``1 + ahead`` windows are read and not answered yet, and their photos under way."""
    remembered: dict[Any, tuple[Any, Scene | Florence2Error]] = {}  # the photo too: its id is the key
    source = _read(items, batch_size)
    waiting: deque[Window] = deque()
    done = 0
    with Feed(engine.config.image) as feed:
        while True:
            for window in islice(source, 1 + ahead - len(waiting)):
                waiting.append(window)
                for key, photo in window.photos.items():
                    if key not in remembered:
                        feed.start(key, photo)
            if not waiting:
                return
            here = {key for window in waiting for key in window.photos}
            remembered = {
                key: kept for key, kept in remembered.items() if key in here or (last is not None and last[key] >= done)
            }
            window = waiting.popleft()
            remembered |= _scenes(engine, feed, {k: p for k, p in window.photos.items() if k not in remembered})
            yield from _answers(engine, window, remembered, record, options)
            if window.failure is not None:
                raise window.failure
            done += len(window.items)


def _scenes(engine: Engine, feed: Feed, photos: Mapping[Any, Any]) -> dict[Any, tuple[Any, Scene | Florence2Error]]:
    """Photos that are under way, in one call of the image encoder; a broken one keeps its error."""
    taken = {key: feed.take(key) for key in photos}
    ready = {key: photo for key, photo in taken.items() if isinstance(photo, Ready)}
    encoded = engine.encode([r.picture for r in ready.values()], pixels=[r.pixels for r in ready.values()])
    found: dict[Any, Any] = {**taken, **dict(zip(ready, encoded, strict=True))}
    return {key: (photo, found[key]) for key, photo in photos.items()}


def _answers(
    engine: Engine,
    window: Window,
    remembered: Mapping[Any, tuple[Any, Scene | Florence2Error]],
    record: bool,
    options: Options,
) -> Iterator[Answer | list[Answer] | ErrorRecord]:
    """Of one window; its first error is raised behind the answers before it, or each is recorded in its place."""
    rows: list[tuple[Scene, Request, list[inputs.Prompt]]] = []
    places: list[Any] = []  # the photo of an answer, or the record of an error
    failure = None
    for item in window.items:
        try:
            photo, asked = _checked(item)
            scene = remembered[_key(photo)][1]
            if isinstance(scene, Florence2Error):
                raise scene
            rows.append((scene, asked, engine.prepare(scene, asked, options)))
            places.append(photo)
        except Florence2Error as error:
            if not record:
                failure = error
                break
            places.append(ErrorRecord(_image_name(item), _task_name(item), error))
    found = iter(engine.respond(rows, options))
    for place in places:
        yield place if isinstance(place, ErrorRecord) else _lightly(next(found), place)
    if failure is not None:
        raise failure


def _lightly(answer: Any, photo: Any) -> Any:
    """The answer, drawn on its photo as it was given where that needs less memory than the decoded picture."""
    if isinstance(answer, list):
        return [_lightly(each, photo) for each in answer]
    if isinstance(photo, (str, os.PathLike)):
        return answer.with_photo(os.path.abspath(os.fsdecode(photo)))
    return answer.with_photo(photo) if isinstance(photo, bytes) else answer


def _is_item(item: Any) -> bool:
    return isinstance(item, (tuple, list)) and 2 <= len(item) <= 3


def _split(item: Any) -> tuple[Any, Any]:
    """(photo, task with its input)"""
    photo, *task = item
    return photo, tuple(task)


def _checked(item: Any) -> tuple[Any, Request]:
    if not _is_item(item):
        raise TaskError(f"an item is (photo, task) or (photo, task, input), found {type(item).__name__} {item!r:.100}")
    photo, task = _split(item)
    return photo, request(task)


def _key(photo: Any) -> Any:
    """The same path or the same object is the same photo."""
    return os.fspath(photo) if isinstance(photo, (str, os.PathLike)) else id(photo)


def _image_name(item: Any) -> str:
    photo = _split(item)[0] if _is_item(item) else item
    return os.fspath(photo) if isinstance(photo, (str, os.PathLike)) else type(photo).__name__


def _task_name(item: Any) -> str:
    task = item[1] if _is_item(item) else None
    return task.name if isinstance(task, Task) else str(task)
