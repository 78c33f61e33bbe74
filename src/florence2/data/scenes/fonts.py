"""Fonts to print with: those of the system or of given folders, and the one that Pillow brings.

A font is used for a text only where it has all its letters. Symbol fonts, which show pictures where letters should be,
are told by their Latin letters looking like nobody else's.
"""

from __future__ import annotations

import functools
import os
import random
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy
from PIL import Image, ImageDraw, ImageFont, features

from florence2.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Look = NDArray[numpy.float64]

Font = ImageFont.FreeTypeFont
PILLOWS = ""
"""Stands for the font that Pillow brings, where else a path stands."""
SUFFIXES = (".ttf", ".otf", ".ttc")
NOWHERE = "\U0010fffe"
"""A character that no font has: what is shown for it is shown for all that are missing."""
ALIKE = {"AEHTRSaegnost": 0.2, ".:-/": 0.3, "$": 0.3}
"""Letters and signs, and the least mean correlation with Pillow's own. Letters of common fonts have 0.25 (a narrow
italic) to 0.8, symbols under 0.1; mathematical fonts of TeX have other signs in their places."""
CASED = "aegr"
"""Small letters whose capitals look different; in fonts of capitals only, they do not, and "Stop" would read "STOP"."""


def find(folders: Sequence[Path] = ()) -> tuple[str, ...]:
    """Paths of all fonts; Pillow's own is the first.

    Raises DataError for a folder that is missing or holds no font.
    """
    found: list[str] = []
    for folder in folders:
        inside = _in_folder(folder)
        if not inside:
            raise DataError(f"{folder} is no folder with fonts ({', '.join(SUFFIXES)})")
        found += inside
    if not folders:
        found = [path for folder in _system_folders() for path in _in_folder(folder)]
    return (PILLOWS, *found)


@functools.lru_cache(512)
def load(path: str, size: int) -> Font:
    """The font at so many pixels."""
    if path == PILLOWS:
        font = ImageFont.load_default(size)
        if not isinstance(font, ImageFont.FreeTypeFont):
            raise DataError("this Pillow was built without FreeType, no text can be printed; pip install -U pillow")
        return font
    return ImageFont.truetype(path, size)


def choose(fonts: Sequence[str], text: str, rng: random.Random) -> str | None:
    """A font that has all letters of the text, and no pictures instead of them; None where there is none."""
    if _needs_shaping(text) and not features.check("raqm"):
        return None
    for path in rng.sample(fonts, len(fonts)):
        if _plain(path) and all(has(path, letter) for letter in set(text)):
            return path
    return None


@functools.lru_cache(65536)
def has(path: str, letter: str) -> bool:
    """Whether a font has a letter of its own for this character."""
    if letter == " ":
        return True
    if unicodedata.category(letter)[0] in "CZ":
        return False
    shown, missing = (bytes(load(path, 24).getmask(c)) for c in (letter, NOWHERE))
    return any(shown) and shown != missing


def _needs_shaping(text: str) -> bool:
    """Letters that run from right to left, join or pile up: Pillow sets them with libraqm only."""
    return any(unicodedata.bidirectional(c) in ("R", "AL") or unicodedata.category(c) in ("Mn", "Mc") for c in text)


def _in_folder(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(str(path) for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def _system_folders() -> list[Path]:
    if sys.platform == "win32":
        local = Path(os.environ.get("LOCALAPPDATA", "")) / "Microsoft" / "Windows" / "Fonts"
        return [Path(os.environ.get("WINDIR", r"C:\Windows")) / "Fonts", local]
    home = Path.home()
    if sys.platform == "darwin":
        return [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library" / "Fonts"]
    return [Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), home / ".local/share/fonts", home / ".fonts"]


@functools.lru_cache(4096)
def _plain(path: str) -> bool:
    """Whether letters look like letters, small ones unlike capitals; False for a file that FreeType cannot show."""
    try:
        for group, least in ALIKE.items():
            alike = [_correlation(_look(path, c), _look(PILLOWS, c)) for c in group if has(path, c)]
            if alike and float(numpy.mean(alike)) < least:
                return False
        capitals = [_correlation(_look(path, c), _look(path, c.upper())) for c in CASED if has(path, c)]
    except OSError:
        return False
    return min(capitals, default=0.0) < 0.9  # no letters at all: a font of another script


def _correlation(a: Look, b: Look) -> float:
    return float(numpy.corrcoef(a, b)[0, 1])


def _look(path: str, letter: str) -> Look:
    """(256,) the letter in a square of 16 x 16, whatever its own proportions."""
    font = load(path, 48)
    x0, y0, x1, y1 = font.getbbox(letter)
    tile = Image.new("L", (max(1, round(x1 - x0)), max(1, round(y1 - y0))))
    ImageDraw.Draw(tile).text((-x0, -y0), letter, 255, font)
    return numpy.asarray(tile.resize((16, 16), Image.Resampling.BOX), dtype=float).ravel()
