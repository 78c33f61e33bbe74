"""Many photos, many tasks, any order: a few at a time through the model, each photo encoded once, nothing lost."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

from PIL import Image

from florence2 import images, inputs
from florence2.engine import Engine, Options, Scene
from florence2.errors import Florence2Error, TaskError
from florence2.inputs import Request
from florence2.language.tasks import Task
from florence2.results import Answer


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
    """All items are known: a photo is remembered until its last one."""
    last = {_key(_split(item)[0]): i for i, item in enumerate(items) if _is_item(item)}
    return list(_answers(engine, items, batch_size, on_error, options, last))


def stream(
    engine: Engine, items: Iterable[Any], batch_size: int, on_error: str, options: Options
) -> Iterator[Answer | list[Answer] | ErrorRecord]:
    """Items come one after another: a photo is remembered through the next batch."""
    return _answers(engine, items, batch_size, on_error, options, None)


def _answers(
    engine: Engine,
    items: Iterable[Any],
    batch_size: int,
    on_error: str,
    options: Options,
    last: Mapping[Any, int] | None,
) -> Iterator[Answer | list[Answer] | ErrorRecord]:
    if batch_size < 1:
        raise TaskError(f"batch_size is at least 1, found {batch_size}")
    if on_error not in ("raise", "record"):
        raise TaskError(f'on_error is "raise" or "record", found {on_error!r}')
    return _windows(engine, iter(items), batch_size, on_error == "record", options, last)


def _windows(
    engine: Engine,
    items: Iterator[Any],
    batch_size: int,
    record: bool,
    options: Options,
    last: Mapping[Any, int] | None,
) -> Iterator[Answer | list[Answer] | ErrorRecord]:
    remembered: dict[Any, tuple[Any, Scene | Florence2Error]] = {}  # the photo too: its id is the key
    done = 0
    while window := list(islice(items, batch_size)):
        remembered |= _scenes(engine, [_split(item)[0] for item in window if _is_item(item)], remembered)
        rows: list[tuple[Scene, Request, list[inputs.Prompt]]] = []
        places: list[int | ErrorRecord] = []
        for item in window:
            try:
                photo, asked = _checked(item)
                scene = remembered[_key(photo)][1]
                if isinstance(scene, Florence2Error):
                    raise scene
                rows.append((scene, asked, engine.prepare(scene, asked, options)))
                places.append(len(rows) - 1)
            except Florence2Error as error:
                if not record:
                    raise
                places.append(ErrorRecord(_image_name(item), _task_name(item), error))
        found = engine.respond(rows, options)
        for place in places:
            yield found[place] if isinstance(place, int) else place
        done += len(window)
        if last is not None:
            remembered = {key: kept for key, kept in remembered.items() if last[key] >= done}
        else:
            used = {_key(_split(item)[0]) for item in window if _is_item(item)}
            remembered = {key: kept for key, kept in remembered.items() if key in used}


def _scenes(
    engine: Engine, photos: Sequence[Any], known: Mapping[Any, Any]
) -> dict[Any, tuple[Any, Scene | Florence2Error]]:
    """Photos that are not known yet, in one call of the image encoder; a broken one keeps its error."""
    new = {_key(photo): photo for photo in photos if _key(photo) not in known}
    with ThreadPoolExecutor(min(len(new), os.cpu_count() or 1) or 1) as pool:  # Pillow decodes without the lock
        loaded = dict(zip(new, pool.map(_load, new.values()), strict=True))
    pictures = {key: found for key, found in loaded.items() if isinstance(found, Image.Image)}
    encoded: dict[Any, Any] = dict(zip(pictures, engine.encode(list(pictures.values())), strict=True))
    return {key: (photo, encoded[key] if key in encoded else loaded[key]) for key, photo in new.items()}


def _load(photo: Any) -> Any:
    if isinstance(photo, Scene):
        return photo
    try:
        return images.load(photo)
    except Florence2Error as error:
        return error


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
