"""A model folder, photos, and a way to run the command line inside of this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from florence2 import save
from florence2.cli import app
from tests.tiny_checkpoint import picture, tiny_checkpoint

Run = Callable[..., Result]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tiny_checkpoint(), tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with photos/a.png, photos/b.jpg and photos/deep/c.png."""
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    picture(1).save(folder / "a.png")
    picture(2, (60, 80)).save(folder / "b.jpg")
    picture(3).save(folder / "deep" / "c.png")
    (folder / "notes.txt").write_text("not a photo")
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture(scope="session")
def call() -> Run:
    """``call("run", "a.png")`` runs the command; anything that is not an exit code is raised here."""

    def run(*arguments: object, input: str | None = None) -> Result:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=input)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def documents(result: Result) -> list[dict[str, Any]]:
    """The JSON lines of stdout; every line must be one."""
    return [json.loads(line) for line in result.stdout.splitlines()]
