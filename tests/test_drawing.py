"""Drawings: the right places and colours, labels that stay readable, and no photo or text that breaks them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFont

from florence2 import drawing
from florence2.errors import ImageError
from florence2.results import Answer, Box, Detections, Instance, Object, Segments, Text, TextRegion, TextRegions


def photo(width: int = 640, height: int = 480, colour: str = "#808080") -> Image.Image:
    return Image.new("RGB", (width, height), colour)


def detections(*items: tuple[str, Box], width: int = 640, height: int = 480, score: float = 0.9) -> Detections:
    objects = tuple(Object(label=label, box=box, score=score) for label, box in items)
    return Detections(task="<OD>", width=width, height=height, objects=objects)


def pixels_like(picture: Image.Image, colour: str, tolerance: int = 12) -> np.ndarray:
    wanted = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    return (np.abs(np.asarray(picture, np.int16) - wanted) <= tolerance).all(-1)


def extent(mask: np.ndarray) -> Box:
    ys, xs = np.nonzero(mask)
    return float(xs.min()), float(ys.min()), float(xs.max()), float(ys.max())


BOX: Box = (200, 100, 500, 400)
CAT = detections(("cat", BOX))
MASK = Segments(
    task="x",
    width=640,
    height=480,
    instances=(Instance(label="cat", polygons=((200, 100, 500, 100, 500, 400, 200, 400),), score=0.9),),
)
WORDS = TextRegions(
    task="x",
    width=640,
    height=480,
    regions=(
        TextRegion(text="STOP", quad=(200, 100, 500, 100, 500, 160, 200, 160), score=0.8),
        TextRegion(text="停车", quad=(200, 200, 500, 220, 500, 280, 200, 260), score=0.7),
    ),
)
CAPTION = Text(task="<CAPTION>", width=640, height=480, text="A cat sits on a mat.")
KINDS = (CAT, MASK, WORDS, CAPTION)


@pytest.mark.parametrize("answer", KINDS)
@pytest.mark.parametrize("size", [(640, 480), (64, 48), (1, 1), (1500, 20), (20, 1500), (2600, 1800)])
def test_every_kind_on_every_size(answer: Answer, size: tuple[int, int]) -> None:
    given_photo = photo(*size)
    before = given_photo.tobytes()
    picture = answer.draw(given_photo)
    assert picture.mode == "RGB"
    assert picture.width >= size[0]
    assert picture.height >= size[1]
    assert given_photo.tobytes() == before
    assert picture.tobytes() == answer.draw(given_photo).tobytes()  # the same picture each time


def test_the_box_is_where_it_says_in_its_colour() -> None:
    picture = CAT.draw(photo())
    colour = next(colour for colour in drawing.PALETTE if pixels_like(picture, colour).any())
    x0, _, x1, y1 = extent(pixels_like(picture, colour))
    assert (x0, x1, y1) == pytest.approx((BOX[0], BOX[2], BOX[3]), abs=3)
    halved = CAT.draw(photo(320, 240).resize((1280, 960)))  # the same scene at twice the size
    assert extent(pixels_like(halved, colour))[2:] == pytest.approx((1000, 800), abs=5)


def test_boxes_at_the_border_keep_their_lines() -> None:
    picture = np.asarray(detections(("", (-5, 0, 640, 490)), score=1.0).draw(photo()), np.int16)
    for edge in (picture[240, 1], picture[240, -2], picture[1, 320], picture[-2, 320]):
        assert np.abs(edge - 128).max() > 60


def test_masks_let_the_photo_through() -> None:
    stripes = Image.fromarray((np.indices((480, 640))[1] // 8 % 2 * 120 + 60).astype(np.uint8)).convert("RGB")
    inside = np.asarray(MASK.draw(stripes), np.int16)[250, 230:470]
    assert np.abs(inside - np.asarray(stripes, np.int16)[250, 230:470]).max() > 20  # tinted
    assert np.abs(inside[0] - inside[8]).max() > 50  # and still striped


def test_a_label_has_its_colour_everywhere_and_labels_differ() -> None:
    def colours(*labels: str) -> dict[str, str]:
        return drawing._colours(labels)

    alone = colours("cat")["cat"]
    assert colours("cat", "dog", "tree")["cat"] == alone
    many = [f"label {number}" for number in range(len(drawing.PALETTE))]
    assert len(set(colours(*many).values())) == len(drawing.PALETTE)
    more = colours(*many, *(f"more {number}" for number in range(len(drawing.PALETTE))))
    assert sorted(more.values()) == sorted(drawing.PALETTE * 2)


@pytest.mark.parametrize("colour", drawing.PALETTE)
def test_letters_contrast_with_their_plate(colour: str) -> None:
    def luminance(value: str) -> float:
        linear = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
            for c in (int(value[p : p + 2], 16) / 255 for p in (1, 3, 5))
        ]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    light, dark = sorted((luminance(colour), luminance(drawing._readable_on(colour))), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5  # WCAG AA


# Plates


def places(answer: Detections | TextRegions, size: tuple[int, int]) -> list[Box]:
    found = drawing.shapes(answer)
    style = drawing._Style.of(photo(*size), None, len(found))
    return drawing._draw_plates(
        photo(*size), drawing._marks(found, isinstance(answer, TextRegions), size[0], style), style
    )


boxes = st.tuples(st.floats(-20, 660), st.floats(-20, 500), st.floats(-20, 660), st.floats(-20, 500)).map(
    lambda c: (min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3]))
)


@settings(max_examples=40)
@given(st.lists(boxes, min_size=1, max_size=8))
def test_plates_keep_inside_the_picture(found: list[Box]) -> None:
    for x0, y0, x1, y1 in places(detections(*(("person", box) for box in found)), (640, 480)):
        assert 0 <= x0 < x1 <= 640
        assert 0 <= y0 < y1 <= 480


def test_plates_make_room_for_each_other() -> None:
    same = detections(*[("person", BOX)] * 8)
    crowd = detections(*(("dog", (x, y, x + 60, y + 60)) for x in range(0, 640, 90) for y in range(0, 440, 70)))
    for answer in (same, crowd):
        found = places(answer, (640, 480))
        assert len(found) == len(answer)
        assert all(drawing._overlap(a, b) == 0 for place, a in enumerate(found) for b in found[:place])


def test_numbers_stand_beside_the_words_not_on_them() -> None:
    for plate, region in zip(places(WORDS, (640, 480)), WORDS.regions, strict=True):
        assert drawing._overlap(plate, region.box) == 0


def test_labels_grow_with_the_photo() -> None:
    heights = [places(detections(("cat", BOX)), size)[0] for size in ((640, 480), (2560, 1920))]
    small, large = (y1 - y0 for _, y0, _, y1 in heights)
    assert large == pytest.approx(4 * small, rel=0.1)


def test_long_labels_move_into_the_band() -> None:
    short, long = detections(("cat", BOX)), detections(("a cat that sits on a mat and looks at you", BOX))
    assert short.draw(photo()).size == (640, 480)
    assert long.draw(photo()).height > 480


def test_scores_of_exactly_one_are_not_shown() -> None:
    found = drawing.shapes(detections(("cat", BOX), score=1.0)) + drawing.shapes(CAT)
    style = drawing._Style.of(photo(), None, 2)
    assert [mark.plate for mark in drawing._marks(found, False, 640, style)] == ["cat", "cat 0.90"]


# Texts


def test_the_caption_stands_below_the_photo() -> None:
    picture = CAPTION.draw(photo())
    assert np.array_equal(np.asarray(picture)[:480], np.asarray(photo()))
    band = np.asarray(picture.convert("L"))[480:]
    assert band.max() > 240
    assert band.min() < 60
    longer = Text(task="x", width=640, height=480, text="A cat sits on a mat. " * 30).draw(photo())
    assert longer.width == 640
    assert longer.height > picture.height + 100


@pytest.mark.parametrize("answer", [detections(), Text(task="x", width=640, height=480, text="  \n")])
def test_nothing_found_is_said(answer: Answer) -> None:
    assert answer.draw(photo()).height > 480


def test_what_was_cut_off_is_said() -> None:
    for whole in (CAT, CAPTION):
        cut = type(whole).from_dict({**whole.to_dict(), "truncated": True})
        assert cut.draw(photo()).height > whole.draw(photo()).height


@settings(max_examples=40)
@given(st.text(max_size=40), st.floats(20, 300))
def test_wrapped_lines_fit_and_lose_nothing(text: str, width: float) -> None:
    font = drawing._font(None, 15)
    clean = drawing._printable(text)
    lines = drawing._wrap(clean, font, width)
    assert "".join(lines).replace(" ", "") == clean.replace(" ", "")
    assert all(font.getlength(line) <= width or len(line) == 1 for line in lines)


@settings(max_examples=15)
@given(st.text(st.characters(), max_size=30))
def test_no_text_breaks_a_drawing(text: str) -> None:
    picture = photo(200, 100)
    for answer in (
        detections((text, (20, 20, 80, 80)), width=200, height=100),
        TextRegions(task="x", width=200, height=100, regions=(TextRegion(text=text, quad=(1, 1, 9, 1, 9, 9, 1, 9)),)),
        Text(task="x", width=200, height=100, text=text),
    ):
        assert answer.draw(picture).width >= 200


@pytest.mark.parametrize("text", ["红色的汽车停在路边", "café Straße", "مرحبا", "\ud800\0\t", "🦊"])
def test_other_scripts(text: str) -> None:
    assert Text(task="x", width=640, height=480, text=text).draw(photo()).height > 480


def test_own_font(tmp_path: Path) -> None:
    path = tmp_path / "letters.ttf"
    own = ImageFont.load_default(12)
    assert isinstance(own, ImageFont.FreeTypeFont)
    path.write_bytes(own.path.getvalue())  # type: ignore[attr-defined]
    assert pixels_like(CAT.draw(photo(), font=path), "#808080").mean() > 0.5
    with pytest.raises(ImageError, match=r"none\.ttf cannot be read as a font"):
        CAT.draw(photo(), font="none.ttf")


def test_only_objects_above_the_score() -> None:
    assert CAT.draw(photo(), min_score=0.95).height > 480  # nothing found
    assert CAT.draw(photo(), min_score=0.85).size == (640, 480)


# Contact sheets


def test_contact_sheet() -> None:
    items = [(f"picture {number}", photo(100, 50, "#0072B2")) for number in range(5)]
    sheet = drawing.contact_sheet(items, columns=2, width=240)
    assert sheet.width == 2 * 240 + 3 * 10
    assert pixels_like(sheet, "#0072B2", 2).sum() == 5 * 240 * 120
    one = drawing.contact_sheet([("x" * 500, photo(10, 4000, "#0072B2"))], columns=3, width=240)
    assert one.width == 240 + 2 * 10
    assert one.height < 600


def test_contact_sheet_of_nothing() -> None:
    with pytest.raises(ImageError, match="0 pictures"):
        drawing.contact_sheet([])
