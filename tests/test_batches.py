"""Many photos: the next are made ready while the model works, never too many, in order, and each is read once."""

from __future__ import annotations

import gc
import itertools
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from florence2 import ErrorRecord, Florence2, batches, feeding, images
from florence2.config import ImageConfig
from florence2.engine import Engine, Scene
from florence2.errors import ImageError
from florence2.feeding import Feed
from florence2.results import Text
from tests.tiny_checkpoint import picture, tiny_checkpoint

WINDOW = 4
PATIENCE = 60
"""Seconds after which something that never happens is given up."""


class Counted(Engine):
    """An engine without a model: the answer to a photo is its width. It counts and can be watched at work."""

    def __init__(self) -> None:
        self.config: Any = SimpleNamespace(image=ImageConfig(size=(8, 8)))
        self.encoded: list[int] = []
        self.at_work: Any = lambda number: None
        self.windows = 0

    def encode(self, pictures: Sequence[Image.Image], size: Any = None, pixels: Any = None) -> list[Scene]:
        assert all(value.shape == (8, 8, 3) for value in pixels)
        self.encoded += [one.width for one in pictures]
        return [Scene(torch.zeros(1, 1, 1), one) for one in pictures]

    def prepare(self, *_: Any) -> list[Any]:
        return []

    def respond(self, asked: Any, options: Any) -> list[Any]:
        self.at_work(self.windows)
        self.windows += 1
        return [
            Text(task="", width=1, height=1, text=str(scene.size[0])).with_photo(scene.photo) for scene, *_ in asked
        ]


def photos(folder: Path, count: int) -> list[Path]:
    """Files of pictures that are 1, 2, 3 ... pixels wide."""
    paths = [folder / f"{i}.png" for i in range(1, count + 1)]
    for i, path in enumerate(paths, 1):
        Image.new("RGB", (i, 1)).save(path)
    return paths


def said(answers: Any) -> list[str]:
    return [str(answer.error) if isinstance(answer, ErrorRecord) else answer.text for answer in answers]


def feeding_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("florence2-feed")]


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Image.Image]]:
    """The pictures that were read, in any order."""
    read: list[weakref.ref[Image.Image]] = []
    load = images.load

    def watched(photo: Any) -> Image.Image:
        found = load(photo)
        read.append(weakref.ref(found))
        return found

    monkeypatch.setattr(images, "load", watched)
    return read


def alive(pictures: Sequence[weakref.ref[Image.Image]]) -> int:
    gc.collect()
    return sum(one() is not None for one in list(pictures))


# Ahead of the model


@pytest.mark.parametrize("ahead", [0, 1])
def test_the_next_photos_are_read_while_the_model_works(
    ahead: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ahead=0, the planted fault, the second window has not begun when the model is at the first."""
    second = threading.Event()
    load = images.load

    def watched(photo: Any) -> Image.Image:
        found = load(photo)
        if found.width == WINDOW + 1:
            second.set()
        return found

    monkeypatch.setattr(images, "load", watched)
    begun: list[bool] = []
    engine = Counted()
    engine.at_work = lambda number: begun.append(second.wait(PATIENCE if ahead else 0)) if number == 0 else None
    items = [(path, "od") for path in photos(tmp_path, 2 * WINDOW)]
    assert said(batches.stream(engine, items, WINDOW, "raise", {}, ahead)) == [str(i) for i in range(1, 9)]
    assert begun == [ahead == 1]


def most_under_way(ahead: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Photos that were begun and not encoded, at most, while an endless stream is read."""
    engine, begun, most = Counted(), 0, 0
    start = Feed.start

    def counted(self: Feed, *arguments: Any) -> None:
        nonlocal begun, most
        begun += 1
        most = max(most, begun - len(engine.encoded))
        start(self, *arguments)

    monkeypatch.setattr(Feed, "start", counted)
    paths = itertools.cycle(photos(folder, 20 * WINDOW))
    answers = batches.stream(engine, ((path, "od") for path in paths), WINDOW, "raise", {}, ahead)
    assert len(list(itertools.islice(answers, 30 * WINDOW))) == 30 * WINDOW
    assert begun == (30 + ahead) * WINDOW
    return most


def test_two_windows_are_under_way_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert most_under_way(batches.AHEAD, tmp_path, monkeypatch) == 2 * WINDOW


def test_more_under_way_would_be_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert most_under_way(3, tmp_path, monkeypatch) == 4 * WINDOW


def test_many_photos_are_never_in_memory_together(tmp_path: Path, loads: list[Any]) -> None:
    engine, seen = Counted(), []
    engine.at_work = lambda number: seen.append(alive(loads))
    items = [(path, "od") for path in photos(tmp_path, 100)]
    answers = batches.run(engine, items, WINDOW, "raise", {})
    assert len(loads) == 100
    assert max(seen) <= 2 * WINDOW
    assert alive(loads) == 0  # answers to paths know the path
    assert answers[41].draw().width >= 42


def test_answers_that_kept_their_pictures_would_be_noticed(
    tmp_path: Path, loads: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_lightly", lambda answer, photo: answer)
    answers = batches.run(Counted(), [(path, "od") for path in photos(tmp_path, 40)], WINDOW, "raise", {})
    assert len(answers) == alive(loads) == 40


def test_what_an_answer_is_drawn_on(tmp_path: Path) -> None:
    (path,) = photos(tmp_path, 1)
    for given, kept in ((path, str(path)), (str(path), str(path)), (path.read_bytes(), path.read_bytes())):
        assert batches.run(Counted(), [(given, "od")], 1, "raise", {})[0]._photo == kept
    opened = Image.open(path)
    assert isinstance(batches.run(Counted(), [(opened, "od")], 1, "raise", {})[0]._photo, Image.Image)


# Each photo once


def test_photos_that_come_back_are_read_once_and_released(tmp_path: Path, loads: list[Any]) -> None:
    """Task by task over all photos: worked off photo by photo, so that none waits for its second turn."""
    engine, seen = Counted(), []
    engine.at_work = lambda number: seen.append(alive(loads))
    paths = photos(tmp_path, 40)
    items = [(path, task) for task in ("od", "caption") for path in paths]
    assert said(batches.run(engine, items, WINDOW, "raise", {})) == [str(i) for i in range(1, 41)] * 2
    assert sorted(engine.encoded) == list(range(1, 41))
    assert len(loads) == 40
    assert max(seen) <= 3 * WINDOW  # two under way, and one that is still asked about


def test_without_bringing_them_together_all_would_wait(
    tmp_path: Path, loads: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_photos_together", lambda items, batch_size: list(range(len(items))))
    engine, seen = Counted(), []
    engine.at_work = lambda number: seen.append(alive(loads))
    items = [(path, task) for task in ("od", "caption") for path in photos(tmp_path, 40)]
    batches.run(engine, items, WINDOW, "raise", {})
    assert max(seen) == 40


def test_neighbours_stay_where_they_are() -> None:
    one, two, three = "a.jpg", "b.jpg", "c.jpg"
    near = [(one, "od"), (two, "od"), (one, "ocr"), (two, "ocr"), "no item", (three, "od")]
    assert batches._photos_together(near, 4) == [0, 1, 2, 3, 4, 5]
    far = [(one, "od"), (two, "od"), (three, "od"), (one, "ocr")]
    assert batches._photos_together(far, 2) == [0, 1, 3, 2]


# Order, errors, ends


def test_errors_stand_in_their_place(tmp_path: Path) -> None:
    paths: list[Any] = photos(tmp_path, 12)
    paths[6] = tmp_path / "nowhere.png"
    items = [(path, "od") for path in paths]
    recorded = batches.run(Counted(), items, WINDOW, "record", {})
    assert [i for i, answer in enumerate(recorded) if isinstance(answer, ErrorRecord)] == [6]
    answers = batches.stream(Counted(), items, WINDOW, "raise", {})
    assert said(itertools.islice(answers, 6)) == ["1", "2", "3", "4", "5", "6"]
    with pytest.raises(ImageError, match=r"nowhere\.png does not exist"):
        next(answers)
    assert feeding_threads() == []


def test_what_the_source_raises_comes_behind_the_answers_before_it(tmp_path: Path) -> None:
    def items() -> Iterator[Any]:
        yield from ((path, "od") for path in photos(tmp_path, 6))
        raise OSError("the disk is gone")

    answers = batches.stream(Counted(), items(), WINDOW, "record", {})
    assert said(itertools.islice(answers, 6)) == ["1", "2", "3", "4", "5", "6"]
    with pytest.raises(OSError, match="the disk is gone"):
        next(answers)
    assert list(answers) == []


def test_a_closed_stream_leaves_no_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = itertools.cycle(photos(tmp_path, 20))
    answers = batches.stream(Counted(), ((path, "od") for path in paths), WINDOW, "raise", {})
    next(answers)
    assert feeding_threads()
    answers.close()  # type: ignore[attr-defined]
    assert feeding_threads() == []


def test_threads_that_stay_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Feed] = []
    monkeypatch.setattr(Feed, "__exit__", lambda self, *_: made.append(self))
    list(batches.stream(Counted(), [(path, "od") for path in photos(tmp_path, 4)], WINDOW, "raise", {}))
    assert feeding_threads()
    made[0]._pool.shutdown()
    assert feeding_threads() == []


def test_an_engine_that_fails_leaves_no_thread(tmp_path: Path) -> None:
    engine = Counted()
    engine.at_work = lambda number: {}["gone"]
    with pytest.raises(KeyError, match="gone"):
        batches.run(engine, [(path, "od") for path in photos(tmp_path, 20)], WINDOW, "raise", {})
    assert feeding_threads() == []


# The same answers as without threads


@pytest.fixture(scope="module")
def model() -> Florence2:
    return Florence2(tiny_checkpoint())


ITEMS: list[Any] = [
    *((picture(seed, (60 + 7 * seed, 50 + seed)), "caption") for seed in range(7)),
    (picture(8), "ground", "a red guitar"),
    (picture(9), "describe", [(5.0, 5.0, 50.0, 50.0), (0.0, 0.0, 20.0, 20.0)]),
    (picture(10), "od"),
]


def in_line(model: Florence2, items: Sequence[Any], batch_size: int) -> list[Any]:
    """Read, resize, encode, answer, window after window."""
    answers: list[Any] = []
    for start in range(0, len(items), batch_size):
        window = items[start : start + batch_size]
        scenes = model.engine.encode([images.load(photo) for photo, *_ in window])
        asked = [(scene, batches.request(tuple(task))) for scene, (_, *task) in zip(scenes, window, strict=True)]
        rows = [(scene, request, model.engine.prepare(scene, request, {})) for scene, request in asked]
        answers += model.engine.respond(rows, {"raw": True})
    return answers


def test_answers_are_those_without_threads_bit_for_bit(model: Florence2, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = in_line(model, ITEMS, 3)
    assert model.run_batch(ITEMS, batch_size=3, raw=True) == wanted
    assert list(model.stream(ITEMS, batch_size=3, raw=True, ahead=2)) == wanted


def test_photos_that_change_places_are_noticed(model: Florence2, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted fault: each photo of a window gets the one that was begun before it."""
    take, waiting = Feed.take, []

    def late(self: Feed, key: Any) -> Any:
        waiting.append(take(self, key))
        return waiting[max(0, len(waiting) - 2)]

    wanted = in_line(model, ITEMS, 3)
    monkeypatch.setattr(Feed, "take", late)
    assert model.run_batch(ITEMS, batch_size=3, raw=True) != wanted


def test_pixels_are_those_of_a_whole_batch() -> None:
    form = ImageConfig(size=(65, 43))
    pictures = [picture(seed, (50 + seed, 70)) for seed in range(4)]
    made = [feeding.ready(one, form) for one in pictures]
    alone = images.normalise([one.pixels for one in made if isinstance(one, feeding.Ready)], form)
    assert torch.equal(alone, images.to_pixel_values(pictures, form))
    assert isinstance(feeding.ready("nowhere.png", form), ImageError)


# Unequal prompts


def padding(lengths: Sequence[int], rows: int) -> int:
    """Tokens of padding where so many prompts are read together."""
    parts = [lengths[i : i + rows] for i in range(0, len(lengths), rows)]
    return sum(max(part) - length for part in parts for length in part)


def test_prompts_of_like_lengths_share_a_batch(model: Florence2, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    pad = Engine._padded

    def watched(self: Engine, prompts: Sequence[tuple[int, ...]]) -> Any:
        lengths.extend(map(len, prompts))
        return pad(self, prompts)

    monkeypatch.setattr(Engine, "_padded", watched)
    texts = ["a dog", "a man holding a red guitar and a dog and a cat on the mat"] * 4
    asked = [("ground", text) for text in texts]
    alone = [model.run(picture(), *each, num_beams=1, raw=True) for each in asked]
    as_asked = list(lengths)
    lengths.clear()
    monkeypatch.setattr(model.engine, "rows", 4)
    assert [ids(answer) for answer in model.run_many(picture(), asked, num_beams=1, raw=True)] == list(map(ids, alone))
    assert sorted(lengths) == sorted(as_asked)
    assert padding(lengths, 4) == 0
    assert padding(as_asked, 4) > 0  # what the order of asking would have cost


def ids(answer: Any) -> tuple[int, ...]:
    return answer.raw.token_ids
