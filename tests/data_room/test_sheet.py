"""The contact sheet: a picture per kind of annotation, as records are or as augmentation makes them."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from florence2 import drawing
from florence2.data import Place, contact_sheet
from florence2.data.augment import Augment
from florence2.data.records import broken
from florence2.errors import DataError
from florence2.results import Answer, Detections, TextRegions
from tests.data_room.examples import rich_record

Drawn = list[tuple[Answer, tuple[int, int]]]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """What is drawn, and the size of the photo that it is drawn on."""
    found: Drawn = []
    draw = drawing.draw

    def noting(answer: Answer, photo: Image.Image) -> Image.Image:
        found.append((answer, photo.size))
        return draw(answer, photo)

    monkeypatch.setattr(drawing, "draw", noting)
    return found


def test_every_kind_is_drawn(drawn: Drawn) -> None:
    record = rich_record(illegible=((30, 1, 50, 1, 50, 8, 30, 8),))
    contact_sheet([broken(Place("a", 3), "no bbox"), rich_record(image=Path("gone.png")), record])
    assert [type(answer).__name__ for answer, _ in drawn] == ["Detections"] * 3 + ["TextRegions", "Text"]
    regions = next(answer for answer, _ in drawn if isinstance(answer, TextRegions)).regions
    assert [region.text for region in regions] == ["STOP", "GO", "(illegible)"]


def test_at_most_so_many() -> None:
    few, more = (contact_sheet([rich_record()] * 9, most, columns=2) for most in (2, 6))
    assert few.width == more.width
    assert few.height < more.height


def test_nothing_to_draw() -> None:
    with pytest.raises(DataError, match="no record that can be drawn"):
        contact_sheet([broken(Place("a", 3), "no bbox")])


def test_records_as_training_sees_them(drawn: Drawn) -> None:
    records = [rich_record(id=id, text=None, pairs=()) for id in "abcd"]
    plain = contact_sheet(records).tobytes()
    assert contact_sheet(records, augment=Augment()).tobytes() == plain
    drawn.clear()
    how = Augment(flip=0.5, crop=1)
    first = contact_sheet(records, augment=how, seed=1).tobytes()
    assert len({size for _, size in drawn}) == 4  # each record has a crop of its own
    for answer, size in drawn:
        assert (answer.width, answer.height) == size
        if isinstance(answer, Detections):
            assert all(0 <= item.box[0] < item.box[2] <= size[0] for item in answer.objects)
    assert contact_sheet(records, augment=how, seed=1).tobytes() == first
    assert contact_sheet(records, augment=how, seed=2).tobytes() != first
