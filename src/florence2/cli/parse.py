"""``florence2 parse``: answers made by any runtime → typed results. Needs no model and no PyTorch."""

from __future__ import annotations

import importlib.resources
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from florence2.cli import common
from florence2.errors import AnswerError, Florence2Error

Read = Callable[[str, str, "tuple[int, int]"], "dict[str, Any]"]


def parse(
    file: Annotated[str, typer.Argument(help="JSON lines; - is stdin.", metavar="FILE")] = "-",
    reference: Annotated[
        bool, typer.Option("--reference", help="The shape and the quirks of Microsoft's own post-processing.")
    ] = False,
) -> None:
    """Turn answers of any runtime into typed results.

    Answers of transformers, vLLM, ONNX and others come as JSON lines, with the size of the photo in pixels:

    \b
      {"task": "<OD>", "text": "car<loc_52><loc_332><loc_932><loc_774>", "width": 640, "height": 480}

    One JSON line goes out for each. The special tokens around the text may be there or not.

    \b
      florence2 parse answers.jsonl > results.jsonl
      echo '{"task": "<CAPTION>", "text": "a dog", "width": 640, "height": 480}' | florence2 parse

    A line that cannot be read gives {"line": 3, "error": {...}} in its place, and the exit code is 1 at the end.
    """
    read = _as_microsoft if reference else _typed()
    failed = 0
    for number, line in enumerate(_lines(file), start=1):
        if not line.strip():
            continue
        try:
            result = read(*_fields(line))
        except Florence2Error as error:
            failed += 1
            result = {"line": number, "error": {**error.to_dict(), "message": f"line {number}: {error}"}}
        sys.stdout.write(common.to_json(result) + "\n")
    if failed:
        typer.echo(f"{failed} lines could not be read", err=True)
        raise typer.Exit(1)


def _lines(file: str) -> Iterator[str]:
    if file == "-":
        yield from sys.stdin
        return
    try:
        with Path(file).open(encoding="utf-8", errors="replace") as stream:
            yield from stream
    except OSError as error:
        raise AnswerError(
            f"{file} cannot be read ({error.strerror}); give a file of JSON lines, or - for stdin"
        ) from error


def _fields(line: str) -> tuple[str, str, tuple[int, int]]:
    """(text, task, (width, height)) of a line, or AnswerError with what is wrong with it."""
    try:
        record = json.loads(line)
    except ValueError as error:
        raise AnswerError(f"not JSON ({error}); expected one object per line") from error
    if not isinstance(record, dict):
        raise AnswerError(f"found a {type(record).__name__}, expected an object with task, text, width and height")
    missing = [name for name in ("task", "text", "width", "height") if name not in record]
    if missing:
        raise AnswerError(f"{' and '.join(missing)} missing; expected task, text, width and height")
    for name in ("task", "text"):
        if not isinstance(record[name], str):
            raise AnswerError(f"{name} is {record[name]!r}, expected a string")
    for name in ("width", "height"):
        value = record[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise AnswerError(f"{name} is {value!r}, expected a whole number of pixels")
    return record["text"], record["task"], (record["width"], record["height"])


def _as_microsoft(text: str, task: str, size: tuple[int, int]) -> dict[str, Any]:
    from florence2.language import compat

    return compat.microsoft_parse(text, task, size)  # which takes any task it does not know for plain text


def _typed() -> Read:
    """Any Florence-2 tokenizer reads the same from a text, so the embedded one does."""
    from florence2.language import answers, tasks
    from florence2.language.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(str(importlib.resources.files("florence2") / "assets" / "nano"))
    opening, closing = {tokenizer.bos_id, tokenizer.eos_id}, {tokenizer.eos_id, tokenizer.pad_id}

    def read(text: str, task: str, size: tuple[int, int]) -> dict[str, Any]:
        ids = tokenizer.encode(text)
        while ids and ids[-1] in closing:
            ids.pop()
        start = next((i for i, id in enumerate(ids) if id not in opening), len(ids))
        whole = [tokenizer.eos_id, tokenizer.bos_id, *ids[start:], tokenizer.eos_id]
        return answers.parse(whole, tasks.get(task), size, tokenizer).to_dict()

    return read
