"""Every command and block of docs/onnx.md, as a reader would run them: the export, then what uses it."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

import florence2.onnx
from tests.cli.conftest import Run, call  # noqa: F401  (a fixture)
from tests.conftest import REPOSITORY
from tests.onnx.conftest import Exported, Plant

GUIDE = (REPOSITORY / "docs" / "onnx.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_guide(
    call: Run,  # noqa: F811
    exported: Exported,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples")
    (tmp_path / "nano-onnx").symlink_to(exported.folder)
    monkeypatch.chdir(tmp_path)
    shown = "\n".join(re.findall(r"```console\n(.*?)```", GUIDE, re.DOTALL))
    first, *others = re.findall(r"^\$ florence2 (.*)$", shown, re.MULTILINE)
    assert first == "export nano nano-onnx --int8"  # what the fixture ran
    files = re.findall(r"MB  (onnx/\S+)", shown)
    assert re.findall(r"MB  (onnx/\S+)", exported.said) == files
    assert sorted(files) == sorted(str(path.relative_to("nano-onnx")) for path in Path("nano-onnx").glob("onnx/*.onnx"))
    assert "float32: the same tokens as in PyTorch" in exported.said
    for command in others:
        result = call(*shlex.split(command))
        assert result.exit_code == 0, result.stderr
        assert "cat" in result.stdout
    names: dict[str, object] = {}
    for block in re.findall(r"```python no-run\n(.*?)```", GUIDE, re.DOTALL):
        exec(compile(block, "docs/onnx.md", "exec"), names)
    assert len(names["answers"]) == 2  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_command_says_where_an_export_is_wrong(
    call: Run,  # noqa: F811
    nano_path: Path,
    nano_onnx: Path,
    plant: Plant,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The planted fault: a weight of what was written is another."""
    faulty = plant(nano_onnx, "encoder_model.onnx")

    def wrong(checkpoint: object, folder: Path, int8: bool, overwrite: bool) -> dict[str, int]:
        shutil.copytree(faulty, folder, symlinks=True)
        return {"onnx/encoder_model.onnx": 1}

    monkeypatch.setattr(florence2.onnx, "export", wrong)
    result = call("export", nano_path, tmp_path / "out")
    assert result.exit_code == 1, result.stdout
    assert "logits differ by up to" in result.stdout
