"""Figures as the field prints them: parts of 1 in percent, CIDEr times 100, distances and numbers as they are."""

from __future__ import annotations

import math

from florence2.evaluation.report.markup import Html, join, tag

MISSING = "–"
_ERRORS = ("CER", "WER", "ECE", "Brier", "Levenshtein", "boxes")
"""Of these, less is better."""


def _base(name: str) -> str:
    """The figure behind its variants: "line-CER" → "CER"."""
    return name.split("-")[-1]


def unit(name: str) -> str:
    """ "%", "×100", "characters", "per class"; nothing for a number of things."""
    if name == "count":
        return ""
    if name == "absent-boxes":
        return "per class"
    if "CIDEr" in name:
        return "×100"
    return "characters" if "Levenshtein" in name else "%"


def factor(name: str) -> int:
    """What a value is multiplied with before it is printed."""
    return 100 if unit(name) in ("%", "×100") else 1


def shown(name: str, value: float | None) -> str:
    """One decimal for percent and CIDEr, two for distances, none for numbers of things."""
    if value is None or not math.isfinite(value):
        return MISSING
    if not unit(name):
        return number(round(value))
    printed = f"{value * factor(name):.{1 if factor(name) == 100 else 2}f}"
    return printed.removeprefix("-") if float(printed) == 0 else printed.replace("-", "\N{MINUS SIGN}")


def interval(name: str, borders: tuple[float, float] | None) -> str:
    """ "[34.1, 38.9]" """
    if borders is None or not all(map(math.isfinite, borders)):
        return MISSING
    return f"[{shown(name, borders[0])}, {shown(name, borders[1])}]"


def titled(name: str) -> Html:
    """The name with its unit, and an arrow where less is better."""
    notes = " ".join(filter(None, [unit(name), "↓" if _base(name) in _ERRORS else ""]))
    return join([tag("bdi", name), *([" ", tag("small", notes)] if notes else [])])


def number(value: int) -> str:
    """ "40 504", with a thin space that no line is broken at."""
    return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def many(value: int, one: str, several: str = "") -> str:
    """ "1 photo", "3 photos" """
    return f"{number(value)} {one if value == 1 else several or one + 's'}"
