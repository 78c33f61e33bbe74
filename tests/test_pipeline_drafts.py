"""Answers that are guessed ahead, from their prompt or from an earlier answer: nothing changes but the steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from florence2 import Answer, Florence2
from florence2.engine import Engine
from florence2.errors import TaskError
from florence2.model import Florence2Model

PHOTOS = Path(__file__).parent.parent / "examples" / "photos"
CAPTION = "A man in a black coat takes a picture of a building with a camera on a stand near a river"


@pytest.fixture(scope="module")
def model() -> Florence2:
    return Florence2.from_pretrained()


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], tuple[Any, int]]:
    """Calls, and counts the looks of the decoder."""
    count = 0
    decode = Florence2Model.decode

    def counted(self: Florence2Model, *arguments: Any) -> Any:
        nonlocal count
        count += 1
        return decode(self, *arguments)

    monkeypatch.setattr(Florence2Model, "decode", counted)

    def run(call: Callable[[], Any]) -> tuple[Any, int]:
        nonlocal count
        count = 0
        return call(), count

    return run


Steps = Callable[[Callable[[], Any]], tuple[Any, int]]


def same(a: Answer, b: Answer) -> bool:
    """The same tokens and, up to rounding, the same scores."""
    assert a.raw is not None
    assert b.raw is not None
    return a.raw.token_ids == b.raw.token_ids and a.raw.logprobs == pytest.approx(b.raw.logprobs, abs=1e-4)


def test_a_grounded_caption_takes_fewer_steps(model: Florence2, steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = PHOTOS / "photographer.jpg"
    drafted, few = steps(lambda: model.ground(photo, CAPTION, num_beams=1, raw=True))
    monkeypatch.setattr(Engine, "_draft", lambda self, rows, options: None)
    plain, many = steps(lambda: model.ground(photo, CAPTION, num_beams=1, raw=True))
    assert same(drafted, plain)
    assert few < many == len(plain.raw.token_ids) - 2


def test_the_next_frame_takes_a_fraction_of_the_steps(model: Florence2, steps: Steps) -> None:
    photo, other = PHOTOS / "photographer.jpg", PHOTOS / "coffee.jpg"
    first, many = steps(lambda: model.detect(photo, num_beams=1, raw=True))
    again, few = steps(lambda: model.detect(photo, num_beams=1, raw=True, draft=first))
    assert same(again, first)
    assert few <= many // 3
    elsewhere = model.detect(other, num_beams=1, raw=True)
    assert same(model.detect(other, num_beams=1, raw=True, draft=first), elsewhere)  # a bad guess


def test_beams_and_batches_do_not_guess(model: Florence2) -> None:
    photo = PHOTOS / "photographer.jpg"
    first = model.detect(photo, raw=True)
    assert same(model.detect(photo, raw=True, draft=first), first)
    both = model.run_batch([(photo, "<OD>"), (photo, "<OD>")], num_beams=1, raw=True, draft=first)
    assert same(both[0], both[1])  # type: ignore[arg-type]


def test_an_answer_without_tokens_is_no_draft(model: Florence2) -> None:
    photo = PHOTOS / "photographer.jpg"
    with pytest.raises(TaskError, match="make that answer with raw=True"):
        model.detect(photo, draft=model.detect(photo))
