"""An answer drawn on its photo: boxes, outlines, quads, labels; texts and long labels in a band below.

    draw(answer, photo) -> PIL.Image
    contact_sheet([(title, picture), ...]) -> PIL.Image

Everything scales with the photo, so that labels read the same on a thumbnail and on 24 megapixels; photos too small
to be written on are enlarged. Labels stand on plates of the object's colour, keep inside the picture, and make room
for each other. Colours are Okabe and Ito's, which colour-blind people can tell apart ("Color Universal Design",
2008); a label has the same colour in every picture, unless two labels of one picture claim it.

The font is Pillow's own, which knows English letters only. Where a text needs more (Chinese, Cyrillic, accents), a
common font of the system is used if there is one; characters that it lacks appear as empty boxes, never as an error.
Give ``font`` the path of a font file to choose for yourself.
"""

from __future__ import annotations

import functools
import math
import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

from PIL import Image, ImageDraw, ImageFont

from florence2 import images
from florence2.errors import ImageError
from florence2.results import Answer, Box, Text, TextRegions
from florence2.results_export import Shape, shapes

FontPath = str | os.PathLike[str]
Point = tuple[float, float]

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442")
TEXT_COLOUR = PALETTE[0]
PAPER, INK, FAINT = "#FBFBF9", "#1C1C1E", "#85858A"
HALO = (0, 0, 0, 90)
"""A dark rim around every line: seen on photos of the line's own colour."""
SYSTEM_FONTS = (
    *("NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "DroidSansFallbackFull.ttf"),  # Linux
    *("Arial Unicode.ttf", "PingFang.ttc", "Hiragino Sans GB.ttc"),  # macOS
    *("msyh.ttc", "YuGothM.ttc", "malgun.ttf"),  # Windows
    "DejaVuSans.ttf",
)
"""Looked for in this order where a text is not plain English: Chinese first, then at least accents and Cyrillic."""
LONGEST_PLATE = 30
"""Labels of more characters go into the band, and their plates hold a number."""


def draw(answer: Answer, photo: images.Photo, *, font: FontPath | None = None) -> Image.Image:
    """The photo with the answer on it: at least as large as the photo, a band below where there is text to show.

    A photo of another size than the one asked about is fine: the answer is scaled to it.
    """
    picture = _large_enough(images.load(photo))
    found = shapes(answer.resized(*picture.size))
    style = _Style.of(picture, font or _font_for(str(answer)), len(found))
    if isinstance(answer, Text):
        paragraphs = [_printable(line) for line in answer.text.splitlines()]
        return _with_band(picture, _paragraphs([*filter(None, paragraphs)] or ["(no text)"], answer, style), style)
    if not found:
        return _with_band(picture, [_Line("nothing found", FAINT)], style)

    marks = _marks(found, isinstance(answer, TextRegions), picture.width, style)
    canvas = _draw_outlines(picture, marks, filled=not isinstance(answer, TextRegions), style=style)
    _draw_plates(canvas, marks, style)
    legend = [_Line(mark.legend, INK, mark.colour, mark.plate, mark.score) for mark in marks if mark.legend]
    if answer.truncated:
        legend.append(_Line("cut off by the token budget", FAINT))
    return _with_band(canvas, legend, style) if legend else canvas


def contact_sheet(
    items: Sequence[tuple[str, Image.Image]], columns: int = 3, width: int = 480, font: FontPath | None = None
) -> Image.Image:
    """Pictures in rows of ``columns``, each ``width`` pixels wide (at most twice as high) under its title."""
    if not items or columns < 1:
        raise ImageError(f"a contact sheet needs pictures and columns; got {len(items)} pictures, {columns} columns")
    columns = min(columns, len(items))
    gap, size = width // 24, width / 26
    letters = _font(font or _font_for(" ".join(title for title, _ in items)), size)
    title_height = round(size * 1.9)
    cells = [
        (_fit(_printable(title), letters, width), _fit_in(picture.convert("RGB"), width, 2 * width))
        for title, picture in items
    ]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [title_height + max(picture.height for _, picture in row) for row in rows]
    sheet = Image.new("RGB", (columns * (width + gap) + gap, sum(heights) + gap * (len(rows) + 1)), PAPER)
    pencil = ImageDraw.Draw(sheet)
    top = gap
    for row, height in zip(rows, heights, strict=True):
        for column, (title, picture) in enumerate(row):
            left = gap + column * (width + gap)
            pencil.text((left, top + title_height * 0.62), title, INK, letters, anchor="ls")
            sheet.paste(picture, (left, top + title_height))
        top += height + gap
    return sheet


# What is drawn how


@dataclass(frozen=True)
class _Style:
    """Sizes in pixels, from the size of the picture."""

    font: ImageFont.FreeTypeFont
    line: int
    """Width of outlines."""
    pad: int
    """Between the letters and the rim of their plate."""
    fine: int
    """Shapes are drawn this many times larger, then reduced: smooth edges."""

    @classmethod
    def of(cls, picture: Image.Image, font: FontPath | None, objects: int) -> _Style:
        side = math.sqrt(picture.width * picture.height)
        crowd = max(0.75, min(1.0, math.sqrt(16 / max(objects, 1))))  # many labels must be small ones
        letters = _font(font, max(11, 0.027 * side * crowd))
        return cls(letters, max(2, round(side / 190)), max(3, round(side / 130)), 1 if side > 2000 else 2)

    @property
    def row(self) -> int:
        """Height of a line of text."""
        return sum(self.font.getmetrics())

    def plate_size(self, text: str) -> tuple[int, int]:
        return math.ceil(self.font.getlength(text)) + 2 * self.pad, self.row + self.pad


@dataclass(frozen=True)
class _Mark:
    """A shape with its looks."""

    shape: Shape
    colour: str
    plate: str
    """What stands on the plate; no plate where it is empty."""
    legend: str
    """What the band says about it; nothing where it is empty."""
    score: str


@dataclass(frozen=True)
class _Line:
    """One entry of the band."""

    text: str
    colour: str
    chip_colour: str = ""
    chip: str = ""
    """A small plate in front."""
    note: str = ""
    """Behind the text, in a fainter colour."""


def _marks(found: Sequence[Shape], is_text: bool, width: int, style: _Style) -> list[_Mark]:
    labels = [_printable(shape.label) for shape in found]
    scores = ["" if shape.score == 1 else f"{shape.score:.2f}" for shape in found]  # exactly 1 was never measured
    names = [f"{label} {score}".strip() for label, score in zip(labels, scores, strict=True)]
    numbered = is_text or any(
        len(label) > LONGEST_PLATE or style.plate_size(name)[0] > width
        for label, name in zip(labels, names, strict=True)
    )
    if is_text:
        colours = [TEXT_COLOUR] * len(found)
    elif numbered or not any(labels):  # labels say little: tell neighbours apart
        colours = [PALETTE[number % len(PALETTE)] for number in range(len(found))]
    else:
        by_label = _colours(labels)
        colours = [by_label[label] for label in labels]
    plates = [str(number) for number in range(1, len(found) + 1)] if numbered else names
    legends = [label or "-" for label in labels] if numbered else [""] * len(found)
    return [_Mark(*parts) for parts in zip(found, colours, plates, legends, scores, strict=True)]


def _colours(labels: Iterable[str]) -> dict[str, str]:
    """Each label's own colour, or the next that is free in this picture."""
    chosen: dict[str, str] = {}
    for label in labels:
        if label not in chosen:
            free = [colour for colour in PALETTE if list(chosen.values()).count(colour) <= len(chosen) // len(PALETTE)]
            first = zlib.crc32(label.encode()) % len(PALETTE)
            wish = [PALETTE[(first + step) % len(PALETTE)] for step in range(len(PALETTE))]
            chosen[label] = next(colour for colour in wish if colour in free)
    return chosen


def _readable_on(colour: str) -> str:
    """Black or white, whichever contrasts more (WCAG relative luminance)."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#FFFFFF" if luminance < 0.179 else "#111111"


# Outlines


def _draw_outlines(picture: Image.Image, marks: Sequence[_Mark], filled: bool, style: _Style) -> Image.Image:
    """Fills below, lines above, large objects below small ones."""
    fine = style.fine
    order = sorted(marks, key=lambda mark: -_area(mark.shape.box))
    fills = Image.new("RGBA", (picture.width * fine, picture.height * fine))
    lines = fills.copy()
    fill_pencil, line_pencil = ImageDraw.Draw(fills), ImageDraw.Draw(lines)
    for mark in order:
        opacity = 96 if mark.shape.outlines else 22
        for outline in mark.shape.outlines or (_rectangle(mark.shape.box, picture.size, style.line),):
            points = [(x * fine, y * fine) for x, y in zip(outline[0::2], outline[1::2], strict=True)]
            if filled and len(points) > 2:
                fill_pencil.polygon(points, (*_rgb(mark.colour), opacity))
            for colour, width in ((HALO, style.line + 2 * max(1, style.line // 4)), (_rgb(mark.colour), style.line)):
                _closed_line(line_pencil, points, colour, width * fine)
    canvas = picture.convert("RGBA")
    for layer in (fills, lines):
        canvas.alpha_composite(layer.reduce(fine) if fine > 1 else layer)
    return canvas.convert("RGB")


def _closed_line(pencil: ImageDraw.ImageDraw, points: list[Point], colour: tuple[int, ...], width: int) -> None:
    """A line through all points and back, with round corners."""
    pencil.line([*points, points[0]], colour, width)
    radius = width / 2 - 0.5
    for x, y in points:
        pencil.ellipse((x - radius, y - radius, x + radius, y + radius), colour)


def _rectangle(box: Box, size: tuple[int, int], line: int) -> tuple[float, ...]:
    """The box's corners, moved inwards where half of the line would fall out of the picture."""
    half = line / 2
    x0, x1 = (min(max(x, half), size[0] - half) for x in (box[0], box[2]))
    y0, y1 = (min(max(y, half), size[1] - half) for y in (box[1], box[3]))
    return (x0, y0, x1, y0, x1, y1, x0, y1)


# Plates


def _draw_plates(canvas: Image.Image, marks: Sequence[_Mark], style: _Style) -> list[Box]:
    """All plates, in the order of the answer; returns where they are."""
    placed: list[Box] = []
    for mark in marks:
        if mark.plate:
            place = _place(mark, marks, placed, canvas.size, style)
            placed.append(place)
            _plate(canvas, mark.plate, mark.colour, (round(place[0]), round(place[1])), style)
    return placed


def _plate(canvas: Image.Image, text: str, colour: str, corner: tuple[int, int], style: _Style) -> None:
    width, height = style.plate_size(text)
    fine = style.fine
    shape = Image.new("L", (width * fine, height * fine))
    ImageDraw.Draw(shape).rounded_rectangle((0, 0, width * fine - 1, height * fine - 1), style.pad * fine * 0.7, 255)
    canvas.paste(Image.new("RGB", (width, height), colour), corner, shape.reduce(fine) if fine > 1 else shape)
    baseline = corner[1] + style.pad / 2 + style.font.getmetrics()[0]
    letters = (corner[0] + style.pad, baseline)
    ImageDraw.Draw(canvas).text(letters, text, _readable_on(colour), style.font, anchor="ls")


def _place(mark: _Mark, marks: Sequence[_Mark], placed: Sequence[Box], size: tuple[int, int], style: _Style) -> Box:
    """Where the plate goes: the first place along the box that hides nothing, else the one that hides least.

    Hiding another plate weighs most, then hiding all of another object.
    """
    width, height = style.plate_size(mark.plate)
    x0, y0, x1, y1 = mark.shape.box
    rim = style.line / 2
    left, right = x0 - rim, x1 + rim - width
    above, below = y0 - rim - height, y1 + rim
    corners: list[Point] = [(left, above), (left, y0 - rim), (right, above), (right, y0 - rim)]
    corners += [(left, below), (left, y1 + rim - height), (right, below), (right, y1 + rim - height)]
    steps = range(1, 1 + min(24, int((y1 - y0) // height)))
    corners += [(x, y0 + step * height) for step in steps for x in (left, right)]
    if mark.legend:  # a number beside its line of text hides no letters
        middle = (y0 + y1 - height) / 2
        corners = [(x0 - style.line - width, middle), (x1 + style.line, middle), *corners]
    best, least = (0.0, 0.0, 0.0, 0.0), math.inf
    for number, (x, y) in enumerate(corners):
        inside_x, inside_y = max(0, min(x, size[0] - width)), max(0, min(y, size[1] - height))
        plate = (inside_x, inside_y, inside_x + width, inside_y + height)
        moved = abs(inside_x - x) + abs(inside_y - y)
        hidden_plates = sum(_overlap(plate, other) for other in placed) / (width * height)
        hidden_objects = sum(
            _overlap(plate, other.shape.box) / max(1.0, _area(other.shape.box)) for other in marks if other is not mark
        )
        cost = 20 * hidden_plates + 2 * hidden_objects + 0.1 * number + moved / height
        if cost < least:
            best, least = plate, cost
    return best


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _overlap(a: Box, b: Box) -> float:
    return _area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))


# The band below


def _paragraphs(paragraphs: Sequence[str], answer: Text, style: _Style) -> list[_Line]:
    lines = [_Line(text, INK if answer.text.strip() else FAINT) for text in paragraphs]
    return [*lines, _Line("cut off by the token budget", FAINT)] if answer.truncated else lines


def _with_band(picture: Image.Image, lines: Sequence[_Line], style: _Style) -> Image.Image:
    """The picture with text below it, in as many columns as its entries allow."""
    margin, gap = 2 * style.pad, 3 * style.pad
    width = max(picture.width, 16 * style.row)
    room = width - 2 * margin
    indent = max((style.plate_size(line.chip)[0] + style.pad for line in lines if line.chip), default=0)
    widest = max(style.font.getlength(f"{line.text} {line.note}") for line in lines) + indent
    columns = max(1, min(int((room + gap) // (widest + gap)), len(lines))) if indent else 1
    column_width = (room + gap) // columns - gap
    wrapped = [(line, _wrap(f"{line.text} {line.note}", style.font, column_width - indent)) for line in lines]
    row, space = round(style.row * 1.08), round(1.6 * style.pad)
    heights = [len(texts) * row + space for _, texts in wrapped]
    per_column = math.ceil(len(lines) / columns)
    starts = range(0, len(lines), per_column)
    band = max(sum(heights[start : start + per_column]) for start in starts) + 2 * margin - space

    sheet = Image.new("RGB", (width, picture.height + band), PAPER)
    sheet.paste(picture, ((width - picture.width) // 2, 0))
    pencil = ImageDraw.Draw(sheet)
    for column, start in enumerate(starts):
        left, top = margin + column * (column_width + gap), picture.height + margin
        for line, texts in wrapped[start : start + per_column]:
            if line.chip:
                _plate(sheet, line.chip, line.chip_colour, (round(left), top - style.pad // 2), style)
            for number, text in enumerate(texts):
                note = line.note if number == len(texts) - 1 and text.endswith(line.note) else ""
                text = text.removesuffix(note)
                at = left + indent, top + style.font.getmetrics()[0]
                pencil.text(at, text, line.colour, style.font, anchor="ls")
                pencil.text((at[0] + style.font.getlength(text), at[1]), note, FAINT, style.font, anchor="ls")
                top += row
            top += space
    return sheet


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Lines of at most ``width`` pixels, broken between words, and inside words that are longer than a line."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


# Fonts and sizes


def _font_for(text: str) -> str | None:
    return None if text.isascii() else _system_font()


@functools.cache
def _system_font() -> str | None:
    for name in SYSTEM_FONTS:
        try:
            return str(ImageFont.truetype(name).path)
        except OSError:
            continue  # not on this system
    return None


def _font(path: FontPath | None, size: float) -> ImageFont.FreeTypeFont:
    if path is None:
        return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size))
    try:
        return ImageFont.truetype(os.fspath(path), size)
    except OSError as error:
        raise ImageError(
            f"{os.fspath(path)} cannot be read as a font ({error}); give the path of a TTF or OTF"
        ) from error


def _printable(text: str) -> str:
    """One line without control characters and halves of characters."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _fit(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The text, its end replaced by dots where it is too long."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."


def _large_enough(picture: Image.Image) -> Image.Image:
    """Enlarged until there is room for labels: as many pixels as 400 x 400."""
    factor = 400 / math.sqrt(picture.width * picture.height)
    if factor <= 1:
        return picture
    size = (math.ceil(picture.width * factor), math.ceil(picture.height * factor))
    return picture.resize(size, Image.Resampling.BICUBIC)


def _fit_in(picture: Image.Image, width: int, height: int) -> Image.Image:
    factor = min(width / picture.width, height / picture.height)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
