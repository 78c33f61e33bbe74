"""Printed texts: quads hold the ink, letters are in the font, words are what the vocabulary says."""

from __future__ import annotations

import io
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image, ImageFont

from florence2.data.scenes import Scenes, SceneSettings, colours, fonts, texts, vocabulary
from florence2.errors import DataError
from tests.data_room.scenes.conftest import inside

SIZE = (420, 300)
WHITE = (255, 255, 255)


@pytest.fixture(scope="module")
def own_font(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one font file: the one that Pillow brings."""
    font = ImageFont.load_default(20)
    assert isinstance(font, ImageFont.FreeTypeFont)
    assert isinstance(font.path, io.BytesIO)
    folder = tmp_path_factory.mktemp("fonts")
    (folder / "own.ttf").write_bytes(font.path.getvalue())
    return folder


def printed(seed: int) -> tuple[Any, texts.Piece, texts.Print]:
    """(ink mask (H, W), the piece, how it was set) of a text without a plate on white; shadows are no ink."""
    rng = random.Random(seed)
    while True:
        text = texts.compose((), (fonts.PILLOWS,), SIZE, rng)
        canvas = Image.new("RGB", SIZE, WHITE)
        if text and not (piece := texts.paint(canvas, text, 20, 30, rng)).plate:
            off = 255 * 3 - numpy.asarray(canvas).astype(int).sum(2)
            return off > 0.55 * off.max(), piece, text


def held(ink: Any, quads: list[tuple[float, ...]], shift: tuple[float, float] = (0, 0)) -> float:
    """Share of the ink that lies in the quads."""
    return float((ink & inside(quads, SIZE, shift)).sum() / ink.sum())


def test_quads_hold_the_ink_and_little_else() -> None:
    slanted = 0
    for seed in range(40):
        ink, piece, text = printed(seed)
        quads = [words.quad for words in piece.words]
        assert held(ink, quads) > 0.97
        height = min(abs(quad[7] - quad[1]) for quad in quads)
        assert held(ink, quads, shift=(0.5 * height, 0.5 * height)) < 0.8  # a fault is noticed
        ys, xs = numpy.nonzero(ink)
        around = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        assert numpy.abs(numpy.array(around) - piece.box).max() < 0.1 * (piece.box[2] - piece.box[0]) + 4
        slanted += text.fine > 1
    assert 10 < slanted < 35


def test_upright_quads_are_tight() -> None:
    for seed in range(60):
        ink, piece, text = printed(seed)
        if text.fine == 1:
            ys, xs = numpy.nonzero(ink)
            assert numpy.abs(numpy.array((xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)) - piece.box).max() <= 1


def test_quads_begin_at_the_first_letter() -> None:
    for seed in range(40):
        _, piece, _ = printed(seed)
        for words in piece.words:
            x0, y0, x1, y1, x2, y2, x3, y3 = words.quad
            assert (x0 < x1, x3 < x2, y0 < y3, y1 < y2) == (True, True, True, True)


def test_ink_is_legible() -> None:
    """Plain grounds of all greys: letters differ enough, on the ground or on a plate."""
    rng = random.Random(4)
    for grey in range(0, 256, 15):
        text = None
        while text is None:
            text = texts.compose((), (fonts.PILLOWS,), SIZE, rng)
        canvas = Image.new("RGB", SIZE, (grey, grey, grey))
        piece = texts.paint(canvas, text, 10, 10, rng)
        inner = canvas.crop(tuple(round(v) for v in piece.box))
        shades = inner.getcolors(200_000) or []
        common = max(shades)[1]
        assert isinstance(common, tuple)
        best = max(colours.contrast((common[0], common[1], common[2]), c) for _, c in shades if isinstance(c, tuple))  # type: ignore[arg-type]
        assert best >= texts.LEGIBLE


def test_signs_are_where_they_are_said_to_be() -> None:
    rng = random.Random(6)
    found = 0
    while found < 10:
        text = texts.compose((), (fonts.PILLOWS,), SIZE, rng)
        if text is None:
            continue
        canvas = Image.new("RGB", SIZE, (120, 160, 200))
        piece = texts.paint(canvas, text, 25, 15, rng)
        if piece.plate:
            changed = numpy.abs(numpy.asarray(canvas).astype(int) - (120, 160, 200)).sum(2) > 30
            ys, xs = numpy.nonzero(changed)
            around = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
            assert numpy.abs(numpy.array(around) - piece.box).max() <= 0.06 * (piece.box[2] - piece.box[0]) + 3
            found += 1


# Fonts


def test_a_font_without_the_letters_is_not_used(own_font: Path) -> None:
    path = str(own_font / "own.ttf")
    assert fonts.find([own_font]) == (fonts.PILLOWS, path)
    assert fonts.has(path, "a")
    assert fonts.has(path, " ")
    assert not fonts.has(path, "中")
    assert not fonts.has(path, "\u0007")
    assert fonts.choose((path,), "Stop", random.Random(0)) == path
    assert fonts.choose((path,), "Stop 中", random.Random(0)) is None


def test_a_vocabulary_that_no_font_can_print(own_font: Path, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("停止\n", encoding="utf-8")
    settings = SceneSettings(vocabulary="words.txt", fonts=(str(own_font),), words=(1, 1))
    with pytest.raises(DataError, match="no font has all letters of '停止"):
        Scenes(settings, root=tmp_path)[0]


def test_symbol_fonts_are_told(own_font: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(own_font / "own.ttf")
    assert fonts._plain.__wrapped__(path)
    look = fonts._look
    noise = numpy.random.default_rng(0)
    monkeypatch.setattr(fonts, "_look", lambda p, c: look(p, c) if p == fonts.PILLOWS else noise.random(256))
    assert not fonts._plain.__wrapped__(path)
    monkeypatch.setattr(fonts, "_look", lambda p, c: look(p, c.upper() if p != fonts.PILLOWS else c))
    assert not fonts._plain.__wrapped__(path)  # capitals only
    (own_font / "broken.ttf").write_bytes(b"no font")
    assert not fonts._plain.__wrapped__(str(own_font / "broken.ttf"))


def test_a_folder_without_fonts(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder with fonts"):
        fonts.find([tmp_path])


def test_scenes_print_in_the_fonts_of_a_folder(own_font: Path) -> None:
    settings = SceneSettings(count=6, words=(2, 2), objects=(0, 1), fonts=(str(own_font),))
    assert sum(len(record.text or ()) for record, _ in Scenes(settings)) >= 12
    same = [picture.tobytes() for _, picture in Scenes(replace(settings, fonts=(str(own_font),)))]
    assert same == [picture.tobytes() for _, picture in Scenes(settings)]


# Vocabulary


def test_lines_are_printed_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("Mind the gap\n\n  No   exit \nWay out\n", encoding="utf-8-sig")
    lines = vocabulary.read(tmp_path / "lines.txt")
    assert lines == ("Mind the gap", "No exit", "Way out")
    scenes = Scenes(SceneSettings(count=30, words=(1, 2), vocabulary="lines.txt"), root=tmp_path)
    assert {words.text for record, _ in scenes for words in record.text or ()} == set(lines)
    long = ("this is a line that is far too long for any picture of the usual size",)
    part = vocabulary.printed(long, random.Random(0))
    assert len(part) <= vocabulary.LONGEST
    assert part in long[0]


@pytest.mark.parametrize("content", [None, b"", b"\n \n", b"\xff\xfe\xfa"])
def test_a_vocabulary_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "words.txt").write_bytes(content)
    with pytest.raises(DataError, match="the vocabulary"):
        Scenes(SceneSettings(vocabulary="words.txt"), root=tmp_path)[0]


def test_made_up_texts_vary() -> None:
    rng = random.Random(0)
    found = [vocabulary.printed((), rng) for _ in range(600)]
    assert len(set(found)) > 400
    for kind in (r"[A-Z]+", r"[a-z]+", r"\d+", r"\$\d+\.\d\d", r"\d+:\d\d( [AP]M)?", r"\d{4}-\d\d-\d\d", r"[A-Z]+-\d+"):
        assert any(re.fullmatch(kind, text) for text in found), kind
    assert all(text == text.strip() and text.isascii() and "<" not in text for text in found)
