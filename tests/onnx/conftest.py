"""Exports, each made once per run: of the embedded model by us, of a tiny one by us and by transformers."""

from __future__ import annotations

import copy
import dataclasses
import functools
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import florence2.onnx
from florence2 import Florence2
from florence2.checkpoints import Checkpoint
from florence2.cli import app
from tests.model.tiny import tiny_model
from tests.tiny_checkpoint import tiny_checkpoint

pytest.importorskip("onnx", reason="exports need onnx (pip install '.[onnx]')")
pytest.importorskip("onnxruntime", reason="exports need onnxruntime (pip install '.[onnx]')")

writer: Any = sys.modules[florence2.onnx.export.__module__]
Plant = Callable[..., Path]

# What the tracer tells itself, thousands of lines per graph, is not worth keeping for reports.
logging.getLogger("torch.__trace").propagate = False


@dataclass(frozen=True)
class Exported:
    """What ``florence2 export nano FOLDER --int8`` left behind. Tracing takes most of a minute: it is done once."""

    folder: Path
    said: str
    parts: dict[str, Any]
    """The graphs before the decoder was merged."""

    def again(self, model: object) -> dict[str, Any]:
        """In the place of ``trace``."""
        return copy.deepcopy(self.parts)


@pytest.fixture(scope="session")
def exported(nano_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("onnx") / "nano-onnx"
    traced: list[dict[str, Any]] = []
    trace = writer.trace

    def keep(model: Any) -> dict[str, Any]:
        traced.append(trace(model))
        return copy.deepcopy(traced[0])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "trace", keep)
        result = CliRunner().invoke(app, ["export", str(nano_path), str(folder), "--int8"])
    assert result.exit_code == 0, result.output
    return Exported(folder, result.stdout, traced[0])


@pytest.fixture(scope="session")
def nano_onnx(exported: Exported) -> Path:
    """The embedded model in float32 and int8."""
    return exported.folder


@pytest.fixture(scope="session")
def pair_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as transformers' native port, traced by the tests themselves."""
    pytest.importorskip("transformers", reason="needs transformers (pip install '.[dev]')")
    from tests.onnx.elsewhere import export_pair

    return export_pair(small_checkpoint(), tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="session")
def merged_onnx(pair_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.onnx.elsewhere import merge_pair

    return merge_pair(pair_onnx, tmp_path_factory.mktemp("merged") / "tiny")


@pytest.fixture(scope="session")
def nano(nano_path: Path) -> Iterator[Florence2]:
    with Florence2.from_pretrained(nano_path, dtype="float32", device="cpu") as model:
        yield model


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    """``plant(folder, file)``: the folder again, linked, with half of the largest weight of ``file`` zero."""

    def planted(folder: Path, file: str) -> Path:
        import numpy as np
        import onnx
        from onnx import numpy_helper

        copy = linked(folder, tmp_path / f"planted-{file}")
        path = copy / "onnx" / file
        proto = onnx.load(path)
        tensors = list(proto.graph.initializer)
        for node in proto.graph.node:
            for attribute in node.attribute:
                tensors += attribute.g.initializer
        weights = [t for t in tensors if t.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.INT8)]
        matrix = max(weights, key=lambda t: np.prod(t.dims))
        changed = numpy_helper.to_array(matrix).copy()
        changed[: len(changed) // 2] = 0
        matrix.CopyFrom(numpy_helper.from_array(changed, matrix.name))
        path.unlink()
        onnx.save(proto, path)
        return copy

    return planted


@functools.cache
def small_checkpoint() -> Checkpoint:
    """The tiny model with an image encoder of two stages: half of what a tracer has to walk through."""
    checkpoint = tiny_checkpoint()
    vision = dataclasses.replace(
        checkpoint.config.vision,
        **{"dims": (8, 16), "depths": (1, 1), "heads": (1, 2), "groups": (2, 4)},
        **{"patch_kernels": (7, 3), "patch_strides": (4, 4), "patch_paddings": (3, 1), "patch_prenorm": (False, True)},
    )
    config = dataclasses.replace(checkpoint.config, vision=vision)
    return dataclasses.replace(checkpoint, model=tiny_model(1, config), config=config)


def linked(folder: Path, target: Path) -> Path:
    """A folder of links to the files of an export, in which some can be replaced."""
    for path in folder.rglob("*"):
        if path.is_file():
            place = target / path.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(path)
    return target
