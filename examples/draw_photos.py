"""Draws the two self-made pictures of examples/photos: a street corner with signs, and a receipt on a table.

python examples/draw_photos.py examples/photos
"""

from __future__ import annotations

import math
import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter, ImageFont

SCALE = 2  # drawn at twice the size and reduced: smooth edges


def font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size * SCALE)


def gradient(size: tuple[int, int], top: tuple[int, int, int], bottom: tuple[int, int, int]) -> Image.Image:
    mask = Image.linear_gradient("L").resize(size)
    return Image.composite(Image.new("RGB", size, bottom), Image.new("RGB", size, top), mask)


def grain(image: Image.Image, strength: int, seed: int) -> Image.Image:
    """A little noise, the same every time: no camera takes even colours."""
    chance = random.Random(seed)
    noise = Image.frombytes("L", image.size, chance.randbytes(image.width * image.height))
    noise = noise.filter(ImageFilter.GaussianBlur(1)).convert("RGB")
    return Image.blend(image, noise, strength / 255)


def street() -> Image.Image:
    width, height = 640 * SCALE, 448 * SCALE
    image = gradient((width, height), (120, 172, 222), (226, 238, 246))
    pencil = ImageDraw.Draw(image)

    def box(x0: float, y0: float, x1: float, y1: float, fill: str, radius: float = 0, **more: object) -> None:
        corners = [x0 * SCALE, y0 * SCALE, x1 * SCALE, y1 * SCALE]
        pencil.rounded_rectangle(corners, radius * SCALE, fill, **more)  # type: ignore[arg-type]

    def disc(x: float, y: float, radius: float, fill: str) -> None:
        pencil.circle((x * SCALE, y * SCALE), radius * SCALE, fill)

    def words(x: float, y: float, text: str, size: float, fill: str) -> None:
        pencil.text((x * SCALE, y * SCALE), text, fill, font(size), anchor="mm", stroke_width=size / 22)

    def poly(points: list[tuple[float, float]], fill: str) -> None:
        pencil.polygon([(x * SCALE, y * SCALE) for x, y in points], fill)

    # Houses, pavement, road
    for x, wide, tall, wall in ((-10, 150, 210, "#b5654a"), (140, 120, 170, "#d9c6a5"), (260, 150, 230, "#8d9aa6")):
        box(x, 330 - tall, x + wide, 330, wall)
        for row in range(1 if x == 140 else int(tall // 55)):  # the bakery has its sign and door below
            for column in range(int(wide // 45)):
                left, top = x + 16 + column * 44, 350 - tall + row * 52
                box(left, top, left + 24, top + 32, "#33475b", outline="#f2ede4", width=2 * SCALE)
    box(178, 272, 214, 330, "#6b4226")
    box(150, 246, 250, 268, "#2f6f62", 3)
    words(200, 257, "BAKERY", 15, "#fffbe8")
    box(0, 330, 640, 352, "#b9b4aa")
    box(0, 352, 640, 448, "#4c4f54")
    for x in range(-20, 640, 90):
        poly([(x, 398), (x + 50, 398), (x + 44, 404), (x - 6, 404)], "#e9e4d0")

    # A tree
    box(452, 226, 466, 332, "#5d4030")
    for x, y, radius in ((430, 210, 40), (488, 212, 42), (459, 172, 50), (459, 224, 38)):
        disc(x, y, radius, "#3f7d45")
    for x, y, radius in ((436, 196, 24), (470, 160, 26), (492, 202, 20)):
        disc(x, y, radius, "#57995a")

    # A red car
    poly([(72, 352), (96, 316), (182, 316), (214, 352)], "#a81f24")
    poly([(84, 350), (102, 322), (136, 322), (136, 350)], "#bfe0ee")
    poly([(142, 350), (142, 322), (178, 322), (200, 350)], "#bfe0ee")
    box(40, 348, 250, 388, "#c62a2f", 12)
    box(236, 356, 250, 366, "#ffe9a8", 3)
    box(40, 356, 48, 368, "#ff8b7a", 2)
    for x in (86, 204):
        disc(x, 388, 20, "#1d1f22")
        disc(x, 388, 9, "#c9ccd1")

    # The signs
    box(556, 60, 564, 372, "#8c9299")
    radius, middle = 58, (560, 208)
    for size, fill in ((radius, "#ffffff"), (radius - 4, "#c1121f")):
        corners = [math.radians(22.5 + 45 * corner) for corner in range(8)]
        poly([(middle[0] + size * math.cos(a), middle[1] + size * math.sin(a)) for a in corners], fill)
    words(*middle, "STOP", 35, "#ffffff")
    box(484, 58, 632, 98, "#ffffff", 6)
    box(487, 61, 629, 95, "#0b6e4f", 4)
    words(558, 78, "ELM STREET", 21, "#ffffff")
    image = image.reduce(SCALE)
    return grain(image.filter(ImageFilter.GaussianBlur(0.4)), 14, seed=1)


RECEIPT = (
    ("Coffee Corner", None),
    ("12 Elm Street", None),
    ("", None),
    ("2 Espresso", "5.00"),
    ("1 Cappuccino", "3.80"),
    ("1 Apple cake", "4.20"),
    ("1 Water", "2.00"),
    ("", ""),
    ("TOTAL", "15.00"),
    ("Cash", "20.00"),
    ("Change", "5.00"),
    ("", None),
    ("Thank you!", None),
)


def receipt() -> Image.Image:
    width, height = 300 * SCALE, 440 * SCALE
    paper = gradient((width, height), (252, 251, 246), (238, 236, 228)).convert("RGBA")
    pencil = ImageDraw.Draw(paper)
    ink = "#2b2b33"
    y = 34 * SCALE
    for number, (text, price) in enumerate(RECEIPT):
        size = 25 if number == 0 else 22 if text == "TOTAL" else 19
        if price == "":
            pencil.line([(24 * SCALE, y), (width - 24 * SCALE, y)], ink, SCALE)
        elif price is None:
            pencil.text((width / 2, y), text, ink, font(size), anchor="mm")
        else:
            pencil.text((26 * SCALE, y), text, ink, font(size), anchor="lm")
            pencil.text((width - 26 * SCALE, y), price, ink, font(size), anchor="rm")
        y += (36 if text else 18) * SCALE
    turned = paper.rotate(4, Image.Resampling.BICUBIC, expand=True)

    table = gradient((480 * SCALE, 560 * SCALE), (122, 84, 56), (96, 64, 42))
    boards = ImageDraw.Draw(table)
    chance = random.Random(7)
    for x in range(0, table.width, 120 * SCALE):
        boards.line([(x, 0), (x, table.height)], "#4a3020", 3 * SCALE)
        for _ in range(26):
            at, top = x + chance.randrange(120 * SCALE), chance.randrange(table.height)
            boards.line([(at, top), (at + chance.randrange(-6, 6), top + 220 * SCALE)], "#6d4a31", SCALE)
    place = ((table.width - turned.width) // 2, (table.height - turned.height) // 2)
    shadow = Image.new("L", table.size)
    shadow.paste(turned.getchannel("A").point(lambda value: value * 0.6), (place[0] + 14, place[1] + 20))
    shadow = shadow.filter(ImageFilter.GaussianBlur(9 * SCALE))
    table.paste("#1b100a", mask=shadow)
    table.paste(turned, place, turned)
    return grain(table.reduce(SCALE).filter(ImageFilter.GaussianBlur(0.4)), 10, seed=2)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in (("street", street()), ("receipt", receipt())):
        image.save(folder / f"{name}.jpg", quality=88, optimize=True)


if __name__ == "__main__":
    main()
