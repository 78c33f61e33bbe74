"""Every Python block and every ``florence2`` command of the READMEs and guides runs, as a newcomer would run it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from florence2.language import tasks

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "README.zh-CN.md"]
GUIDES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))
RECIPES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs" / "recipes").glob("finetune-*.md"))
NEEDS_NETWORK = re.compile(r'from_pretrained\("microsoft|microsoft/Florence-2')


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def commands(page: str) -> list[str]:
    """The ``$ florence2 ...`` lines that need no network."""
    lines = [line for block in blocks(page, "console") for line in block.splitlines()]
    found = [line.removeprefix("$ ") for line in lines if line.startswith("$ florence2 ")]
    return [line for line in found if not NEEDS_NETWORK.search(line)]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_python_blocks(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    runnable = [
        block for block in blocks(page, "python") if not re.search(r'^model = .*\("microsoft', block, re.MULTILINE)
    ]
    assert len(runnable) >= 2
    names: dict[str, object] = {}
    for block in runnable:
        exec(compile(block, page, "exec"), names)
    assert {"model", "scene", "answers"} <= set(names)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in GUIDES if blocks(page, "python")])
def test_guides(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(tasks, "_tasks", dict(tasks._tasks))  # what a guide registers is forgotten behind it
    monkeypatch.setattr(tasks, "_names", dict(tasks._names))
    names: dict[str, object] = {}
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), names)
    assert names


@pytest.mark.slow
@pytest.mark.parametrize("command", sorted({command for page in PAGES for command in commands(page)}))
def test_commands(command: str, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    result = subprocess.run(
        [sys.executable, "-m", *shlex.split(re.split(" [|>] ", command)[0])],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("page", RECIPES)
def test_pages_of_recipes(page: str, tmp_path: Path) -> None:
    """The data of each page is made, checked and shown as it says; its training is explained, which reads data too."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    found = [*commands(page), f"florence2 train recipes/{Path(page).stem}.toml --explain"]
    assert f"florence2 train recipes/{Path(page).stem}.toml" in (ROOT / page).read_text(encoding="utf-8")
    for command in found:
        words = [sys.executable, "-m", *shlex.split(command)]
        result = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
        assert result.returncode == 0, f"{command}: {result.stderr}"


@pytest.mark.parametrize("page", [*PAGES, *GUIDES, *RECIPES])
def test_links_and_pictures_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (ROOT / page).parent.joinpath(target).exists()] == []


def test_both_pages_tell_the_same() -> None:
    english, chinese = PAGES
    assert len(blocks(english, "python")) == len(blocks(chinese, "python"))
    assert commands(english) == commands(chinese)
