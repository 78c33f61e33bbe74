"""The floors of ARCHITECTURE.md: a room imports, when it is loaded, only from its own floor and those below."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "florence2"

FLOORS = {
    "errors": 0,
    "optional": 0,
    "config": 0,
    "results": 0,
    "results_export": 0,
    "model": 1,
    "language": 1,
    "images": 1,
    "checkpoints": 2,
    "onnx": 2,
    "compiled": 2,
    "generation": 2,
    "drawing": 2,
    "inputs": 3,
    "engine": 3,
    "feeding": 3,
    "batches": 3,
    "pipeline": 3,
    "data": 4,
    "training": 4,
    "evaluation": 4,
    "speed": 4,
    "cli": 5,
    "__main__": 5,
    "__init__": 6,  # names everything, lazily
}
BESIDE = {"model": {"language", "images"}, "language": {"model", "images"}, "images": {"model", "language"}}
"""Rooms of one floor that know nothing of each other."""


def room_of(module: str) -> str:
    """ "florence2.language.tasks" → "language"; "florence2" itself → "__init__"."""
    return module.split(".")[1] if "." in module else "__init__"


def imports(text: str) -> set[str]:
    """Rooms that a file imports when it is loaded: not inside functions, not for type checking only."""
    found: set[str] = set()

    def visit(body: list[ast.stmt]) -> None:
        for node in body:
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "florence2":
                whole = node.module == "florence2"
                found.update(alias.name if whole else room_of(node.module) for alias in node.names)
            elif isinstance(node, ast.Import):
                found.update(room_of(a.name) for a in node.names if a.name.split(".")[0] == "florence2")
            elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
                visit(node.body + node.orelse)

    visit(ast.parse(text).body)
    return {name if name in FLOORS else "__init__" for name in found}


def trespasses(room: str, text: str) -> set[str]:
    return {
        other
        for other in imports(text)
        if other != room and (FLOORS[other] > FLOORS[room] or other in BESIDE.get(room, set()))
    }


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_down(path: Path) -> None:
    room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    assert trespasses(room, path.read_text(encoding="utf-8")) == set()


def test_a_wrong_import_is_noticed() -> None:
    assert trespasses("model", "from florence2.pipeline import Florence2") == {"pipeline"}
    assert trespasses("language", "from florence2.model import Memory") == {"model"}
    assert trespasses("engine", "from florence2.cli.run import Wish") == {"cli"}
    assert trespasses("results", "def draw():\n    from florence2.drawing import draw") == set()
