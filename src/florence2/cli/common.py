"""What several commands share: the options for a model, the list of photos, and how answers look in a terminal."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from florence2.errors import TaskError
from florence2.results import Answer

if TYPE_CHECKING:
    from florence2.pipeline import Florence2

SUFFIXES = frozenset(
    (
        ".jpg",
        ".jpeg",
        ".jfif",
        ".png",
        ".webp",
        ".bmp",
        ".gif",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".jp2",
        ".avif",
        ".heic",
    )
)
"""What counts as a photo when a folder is given; a file that is named is always tried."""

Model = Annotated[
    Optional[str],  # noqa: UP045  typer reads this at run time, also on Python 3.10
    typer.Option("--model", "-m", help="Folder or hub id, e.g. microsoft/Florence-2-base. Default: the embedded one."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps ...")]
Adapter = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--adapter", help="LoRA adapter for the model: folder or hub id, of any layout.", show_default=False),
]
Dtype = Annotated[str, typer.Option(help="auto, float32, float16, bfloat16 or int8.")]


class Runtime(str, Enum):
    torch = "torch"
    onnx = "onnx"


def load(
    model: str | None,
    device: str = "auto",
    dtype: str = "auto",
    adapter: str | None = None,
    runtime: Runtime = Runtime.torch,
) -> Florence2:
    """The model of a command; this is where PyTorch is imported."""
    from florence2.pipeline import Florence2

    return Florence2.from_pretrained(source(model), adapter=adapter, device=device, dtype=dtype, runtime=runtime.value)


def source(model: str | None) -> str | None:
    """What --model names; the embedded model (None) where it names nothing, or "nano" and there is no such folder."""
    return None if model == "nano" and not os.path.exists(model) else model


def expand(given: Sequence[str]) -> list[str]:
    """Files as they are, folders with all photos below them, globs; each once, in order.

    Raises TaskError for a folder or a pattern without photos. A file that does not exist stays in the list: it becomes
    an error record of its own.
    """
    found: list[str] = []
    for name in given:
        if os.path.isdir(name):
            inside = sorted(str(path) for path in Path(name).rglob("*") if path.suffix.lower() in SUFFIXES)
            if not inside:
                raise TaskError(f"the folder {name} holds no photos ({', '.join(sorted(SUFFIXES))})")
            found += inside
        elif not os.path.exists(name) and glob.has_magic(name):
            matches = sorted(path for path in glob.glob(name, recursive=True) if os.path.isfile(path))
            if not matches:
                raise TaskError(f"no file matches {name}; check the pattern")
            found += matches
        else:
            found.append(name)
    return list(dict.fromkeys(found))


def boxes(written: Sequence[str]) -> list[tuple[float, ...]]:
    """ "x0,y0,x1,y1" as the command line writes boxes → numbers; what they mean is checked later."""
    parsed = []
    for text in written:
        try:
            parsed.append(tuple(float(part) for part in text.split(",")))
        except ValueError as error:
            raise TaskError(f"--box {text}: expected four numbers x0,y0,x1,y1 in pixels, e.g. 10,20,200,180") from error
        if len(parsed[-1]) != 4:
            raise TaskError(f"--box {text}: found {len(parsed[-1])} numbers, expected x0,y0,x1,y1 in pixels")
    return parsed


def to_json(document: Any) -> str:
    """One line."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False)


def lines(answer: Answer, limit: int = 12) -> list[str]:
    """An answer for people: its text, or one line per object, the first ``limit``; nothing that steers a terminal."""
    rows = ["".join(c if c.isprintable() else "�" for c in row) for row in str(answer).splitlines()] or ["(nothing)"]
    more = [f"... and {len(rows) - limit} more"] if len(rows) > limit else []
    return rows[:limit] + more + (["(cut off by the token budget)"] if answer.truncated else [])
