"""Values from files that others wrote: each is what it should be, or a DataError says what was found.

Only the form is checked here (numbers are numbers, a box has four of them). Whether a box lies in its photo or a
polygon has enough points is the pre-flight's question (``check.py``): a reader must not hide what it would report.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from florence2.errors import DataError
from florence2.results import Box, Quad

Points = tuple[float, ...]


def number(value: Any, what: str) -> float:
    """A finite number; a text that holds one counts."""
    found = _as_float(value)
    if not math.isfinite(found):
        raise DataError(f"{what} is {_short(value)}, expected a number")
    return found


def _as_float(value: Any) -> float:
    """NaN for what is no number."""
    if not isinstance(value, (int, float, str)) or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


def whole(value: Any, what: str) -> int:
    found = number(value, what)
    if not found.is_integer():
        raise DataError(f"{what} is {_short(value)}, expected a whole number")
    return int(found)


def string(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{what} is {_short(value)}, expected a text")
    return value


def mapping(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{what} is {_short(value)}, expected an object with named fields")
    return value


def items(value: Any, what: str) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise DataError(f"{what} is {_short(value)}, expected a list")
    return list(value)


def field(record: dict[str, Any], name: str, what: str) -> Any:
    """A field that must be there."""
    if name not in record:
        raise DataError(f"{what} has no {name!r}; it holds {', '.join(map(str, record)) or 'nothing'}")
    return record[name]


def only(record: dict[str, Any], known: frozenset[str], what: str) -> None:
    """No field is passed over in silence."""
    if unknown := record.keys() - known:
        raise DataError(f"{what} has the unknown field {sorted(unknown)[0]!r}; known are {', '.join(sorted(known))}")


def points(value: Any, what: str) -> Points:
    """x, y, x, y, ..."""
    return tuple(number(v, what) for v in items(value, what))


def box(value: Any, what: str) -> Box:
    """(x0, y0, x1, y1)"""
    found = points(value, what)
    if len(found) != 4:
        raise DataError(f"{what} has {len(found)} numbers, expected the four of (x0, y0, x1, y1)")
    return (found[0], found[1], found[2], found[3])


def quad(value: Any, what: str) -> Quad:
    found = points(value, what)
    if len(found) != 8:
        raise DataError(f"{what} has {len(found)} numbers, expected the eight of four corners")
    return (found[0], found[1], found[2], found[3], found[4], found[5], found[6], found[7])


def hull(shapes: tuple[Points, ...]) -> Box:
    """The box around all points."""
    xs = [x for shape in shapes for x in shape[0::2]]
    ys = [y for shape in shapes for y in shape[1::2]]
    if not xs or not ys:
        raise DataError("an outline without points has no box around it")
    return (min(xs), min(ys), max(xs), max(ys))


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 text (byte {error.start}); save it as UTF-8") from error


def parse_json(text: str | bytes, name: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{name} is no JSON ({error})") from error


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
