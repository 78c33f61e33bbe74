"""What things stand on: drawn grounds of many kinds, or photos."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from florence2 import images
from florence2.data.files import images_in
from florence2.data.scenes.colours import RGB, distance, mix, shade, tint
from florence2.errors import DataError

Size = tuple[int, int]
REMEMBERED = 64
"""Photos that are kept decoded; more than this many would fill the memory of every process."""


@dataclass(frozen=True)
class Ground:
    picture: Image.Image
    """RGB."""
    words: str = ""
    """What it is, in words, where it has a plain name."""
    known: bool = True
    """Whether it surely shows nothing; of a photo nobody knows."""


def drawn(size: Size, rng: random.Random) -> Ground:
    """A ground of one of the kinds below."""
    kind: Callable[[Size, random.Random], Ground] = rng.choices(tuple(_KINDS), tuple(_KINDS.values()))[0]
    return kind(size, rng)


def photo(files: Sequence[Path], size: Size, rng: random.Random) -> Ground:
    """A part of one of the photos, in its own proportions, perhaps mirrored."""
    picture = _decoded(rng.choice(files), max(size))
    scale = max(size[0] / picture.width, size[1] / picture.height)
    part = rng.uniform(0.6, 1.0) * scale  # of the largest part that fits
    width, height = size[0] / scale * part / scale, size[1] / scale * part / scale
    width, height = min(width, picture.width), min(height, picture.height)
    left, top = rng.uniform(0, picture.width - width), rng.uniform(0, picture.height - height)
    ground = picture.resize(size, Image.Resampling.BILINEAR, (left, top, left + width, top + height))
    if rng.random() < 0.5:
        ground = ImageOps.mirror(ground)
    return Ground(ground, known=False)


def photos(folders: Sequence[Path]) -> tuple[Path, ...]:
    """All photos of the folders, in order. Raises DataError for a folder that is missing or holds none."""
    found: list[Path] = []
    for folder in folders:
        inside = list(images_in(folder)) if folder.is_dir() else []
        if not inside:
            raise DataError(f"{folder} is no folder with photos; backgrounds are folders of JPEG, PNG or WebP files")
        found += inside
    return tuple(found)


@functools.lru_cache(REMEMBERED)
def _decoded(path: Path, side: int) -> Image.Image:
    """Not much larger than it is needed."""
    picture = images.load(path)
    scale = 2 * side / max(picture.size)
    return (
        picture
        if scale >= 1
        else picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
    )


# Kinds


def _plain(size: Size, rng: random.Random) -> Ground:
    name = rng.choice(("white", "gray", "black", "blue", "green", "yellow", "pink", "purple", "red", "orange", "brown"))
    return Ground(Image.new("RGB", size, shade(name, rng)), f"a plain {name} background")


def _quiet(size: Size, rng: random.Random) -> Ground:
    return Ground(Image.new("RGB", size, tint(rng)), "a plain background")


def _gradient(size: Size, rng: random.Random) -> Ground:
    first, second = _two(rng, 0.8)
    if rng.random() < 0.3:
        return Ground(_between(Image.radial_gradient("L"), first, second).resize(size, Image.Resampling.BILINEAR))
    width, height = size
    angle = rng.uniform(0, 2 * math.pi)
    dx, dy = math.cos(angle) * 255 / math.hypot(*size), math.sin(angle) * 255 / math.hypot(*size)
    ramp = Image.linear_gradient("L")
    middle = 128 - dx * width / 2 - dy * height / 2
    turned = ramp.transform(size, Image.Transform.AFFINE, (0, 0, 128, dx, dy, middle), Image.Resampling.NEAREST)
    return Ground(_between(turned, first, second))


def _noise(size: Size, rng: random.Random) -> Ground:
    cell = rng.choice((1, 2, 4, 8, 16, 40))
    grain = _grain(size, cell, rng)
    first, second = _two(rng, 0.22 if cell < 8 else 0.5)
    return Ground(_between(grain, first, second))


def _stripes(size: Size, rng: random.Random) -> Ground:
    first, second = _told_apart(rng, 0.45)
    period = rng.uniform(0.05, 0.2) * min(size)
    share = rng.randint(3, 5)
    tile = Image.new("L", (8, 1))
    tile.paste(255, (0, 0, share, 1))
    angle = rng.choice((0.0, math.pi / 2, math.pi / 4, -math.pi / 4))
    return Ground(_tiled(tile, size, period, angle, first, second), "a striped background")


def _checks(size: Size, rng: random.Random) -> Ground:
    first, second = _told_apart(rng, 0.35)
    tile = Image.frombytes("L", (2, 2), b"\x00\xff\xff\x00")
    period = rng.uniform(0.1, 0.3) * min(size)
    return Ground(_tiled(tile, size, period, rng.choice((0.0, math.pi / 4)), first, second), "a checkered background")


def _blobs(size: Size, rng: random.Random) -> Ground:
    """A few quiet colours that run into each other."""
    base = tint(rng)
    count = rng.randint(3, 7)
    spots = [mix(base, tint(rng, (0.3, 0.97), (0.0, 0.7)), 0.6) for _ in range(count * count)]
    small = Image.frombytes("RGB", (count, count), bytes(value for spot in spots for value in spot))
    return Ground(small.resize(size, Image.Resampling.BICUBIC), "a blurred background")


def _paper(size: Size, rng: random.Random) -> Ground:
    """A sheet, perhaps ruled."""
    sheet = tint(rng, (0.9, 1.0), (0.0, 0.12))
    picture = _between(_grain(size, 1, rng), mix(sheet, (90, 80, 60), 0.1), sheet)
    if rng.random() < 0.4:
        step = round(rng.uniform(0.06, 0.12) * size[1])
        ink = mix(sheet, (90, 120, 200), 0.4)
        for y in range(step, size[1], step):
            picture.paste(ink, (0, y, size[0], y + max(1, size[1] // 320)))
        return Ground(picture, "lined paper")
    return Ground(picture, "paper")


def _horizon(size: Size, rng: random.Random) -> Ground:
    """Sky above, land below, of any colours."""
    line = round(rng.uniform(0.45, 0.8) * size[1])
    sky, land = _two(rng, 0.7)
    picture = Image.new("RGB", size, land)
    upper = _between(
        Image.linear_gradient("L").resize((size[0], line)), mix(sky, land, 0.1), mix(sky, (255, 255, 255), 0.35)
    )
    picture.paste(upper, (0, 0))
    return Ground(picture)


_KINDS: dict[Callable[[Size, random.Random], Ground], float] = {
    _plain: 3,
    _quiet: 2,
    _gradient: 3,
    _noise: 2,
    _stripes: 1.5,
    _checks: 1,
    _blobs: 2.5,
    _paper: 1.5,
    _horizon: 1.5,
}
"""How often each is drawn, among the others."""


# Tools


def _two(rng: random.Random, strength: float) -> tuple[RGB, RGB]:
    """Two colours, the farther apart the greater ``strength`` is."""
    dark = rng.random() < 0.25
    value = (0.12, 0.45) if dark else (0.55, 1.0)
    first = tint(rng, value, (0.0, 0.55))
    return first, mix(first, tint(rng, (0.1, 1.0), (0.0, 0.6)), strength)


def _told_apart(rng: random.Random, strength: float) -> tuple[RGB, RGB]:
    """Two colours that make a pattern which is surely seen."""
    first, second = _two(rng, strength)
    while distance(first, second) < 50:
        first, second = _two(rng, strength)
    return first, second


def _between(grey: Image.Image, first: RGB, second: RGB) -> Image.Image:
    """Black becomes the first colour, white the second."""
    tables = ([round(a + (b - a) * v / 255) for v in range(256)] for a, b in zip(first, second, strict=True))
    return Image.merge("RGB", [grey.point(table) for table in tables])


def _grain(size: Size, cell: int, rng: random.Random) -> Image.Image:
    """Noise in cells of so many pixels."""
    width, height = -(-size[0] // cell), -(-size[1] // cell)
    grain = Image.frombytes("L", (width, height), rng.randbytes(width * height))
    return grain if cell == 1 else grain.resize(size, Image.Resampling.BICUBIC)


def _tiled(tile: Image.Image, size: Size, period: float, angle: float, first: RGB, second: RGB) -> Image.Image:
    """The tile again and again, ``period`` pixels wide, turned."""
    times = math.ceil(1.5 * (size[0] + size[1]) / period) + 1
    wide = Image.new("L", (tile.width * times, tile.height * (times if tile.height > 1 else 1)))
    for x in range(0, wide.width, tile.width):
        for y in range(0, wide.height, tile.height):
            wide.paste(tile, (x, y))
    scale = tile.width / period
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    middle = (
        wide.width / 2 - cos * size[0] / 2 - sin * size[1] / 2,
        wide.height / 2 + sin * size[0] / 2 - cos * size[1] / 2,
    )
    rows = (-sin, cos, middle[1]) if tile.height > 1 else (0.0, 0.0, 0.5)
    grey = wide.transform(size, Image.Transform.AFFINE, (cos, sin, middle[0], *rows), Image.Resampling.NEAREST)
    return _between(grey, first, second)
