"""Eleven colours that have one name each, and how far two colours are apart.

Names and their borders: Berlin and Kay (1969), "Basic Color Terms"; the ranges leave gaps, so that nobody would call a
shade by its neighbour's name.
"""

from __future__ import annotations

import colorsys
import random

RGB = tuple[int, int, int]
Range = tuple[float, float]

_NAMED: dict[str, tuple[Range, Range, Range]] = {
    "red": ((-6, 5), (0.82, 0.95), (0.74, 0.92)),
    "orange": ((25, 32), (0.88, 1.0), (0.92, 1.0)),
    "yellow": ((50, 56), (0.75, 0.95), (0.93, 1.0)),
    "green": ((105, 142), (0.6, 0.9), (0.48, 0.75)),
    "blue": ((212, 230), (0.72, 0.95), (0.62, 0.92)),
    "purple": ((272, 286), (0.6, 0.85), (0.5, 0.72)),
    "pink": ((326, 340), (0.34, 0.5), (0.96, 1.0)),
    "brown": ((20, 27), (0.6, 0.75), (0.38, 0.5)),
    "black": ((0, 360), (0.0, 0.12), (0.05, 0.13)),
    "white": ((0, 360), (0.0, 0.03), (0.95, 1.0)),
    "gray": ((0, 360), (0.0, 0.06), (0.45, 0.6)),
}
"""Name -> hue in degrees, saturation, value."""
COLOURS = tuple(_NAMED)


def shade(name: str, rng: random.Random) -> RGB:
    """One of the many shades that go by this name."""
    hue, saturation, value = (rng.uniform(*span) for span in _NAMED[name])
    return _rgb(hue, saturation, value)


def tint(rng: random.Random, value: Range = (0.6, 0.97), saturation: Range = (0.0, 0.4)) -> RGB:
    """A quiet colour of no particular name, for grounds."""
    return _rgb(rng.uniform(0, 360), rng.uniform(*saturation), rng.uniform(*value))


def _rgb(hue: float, saturation: float, value: float) -> RGB:
    red, green, blue = colorsys.hsv_to_rgb(hue / 360 % 1, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def mix(colour: RGB, other: RGB, share: float) -> RGB:
    """``share`` of the other colour in the first."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))
    return red, green, blue


def distance(a: RGB, b: RGB) -> float:
    """How different two colours look, about 0 to 765. Source: "Colour metric", compuphase.com ("redmean")."""
    mean = (a[0] + b[0]) / 2
    red, green, blue = ((x - y) ** 2 for x, y in zip(a, b, strict=True))
    return float(((2 + mean / 256) * red + 4 * green + (2 + (255 - mean) / 256) * blue) ** 0.5)


def contrast(a: RGB, b: RGB) -> float:
    """1 to 21, as the web's rules for legible text have it (WCAG 2, contrast ratio)."""
    high, low = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: RGB) -> float:
    linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
