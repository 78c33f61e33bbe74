"""Microsoft's values for the language: all of them where the golden folder is, else the part that tests carry.

Each comparison gives the cases that disagree, so that its planted-fault twin can show that it finds some.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

Case = dict[str, Any]

CARRIED: dict[str, list[Case]] = json.loads(
    (Path(__file__).parent.parent / "data" / "microsoft.json").read_text(encoding="utf-8")
)


def read(golden: Path, name: str) -> Any:
    return json.loads((golden / f"{name}.json").read_text(encoding="utf-8"))


def disagreeing(cases: list[Case], agrees: Callable[[Case], bool]) -> list[Case]:
    return [case for case in cases if not agrees(case)]


def close(found: Any, expected: Any) -> bool:
    """Equal, numbers to 1e-6 relative."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(close(found[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(close, found, expected))
    if isinstance(expected, float):
        return math.isclose(found, expected, rel_tol=1e-6, abs_tol=1e-9)
    return bool(found == expected)
