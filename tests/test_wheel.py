"""The built wheel holds all that an answer needs: no repository, no network, any working folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this repository, built without the network."""
    pytest.importorskip("setuptools", reason="building the wheel needs setuptools (pip install '.[dev]')")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*command, "--wheel-dir", str(folder)], check=True, capture_output=True, cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.mark.slow
def test_contents(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "florence2/py.typed" in names
    assert "florence2/assets/nano/model.safetensors" in names
    assert "florence2/assets/nano/README.md" in names
    assert not [name for name in names if name.startswith(("tests/", "recipes/", "benchmarks/", "examples/"))]


@pytest.mark.slow
def test_answers_every_task_from_anywhere(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(next((ROOT / "examples" / "photos").glob("*.jpg")).read_bytes())
    environment = {**os.environ, "PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1"}
    where = subprocess.run(
        [sys.executable, "-c", "import florence2; print(florence2.__file__)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=environment,
    )
    assert where.stdout.startswith(str(site))
    result = subprocess.run(
        [sys.executable, "-m", "florence2", "run", "photo.jpg", "--all", "--json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert len(document["results"]) >= 15
    assert document["results"]["<CAPTION>"]["text"]
