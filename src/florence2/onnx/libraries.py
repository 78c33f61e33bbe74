"""The libraries behind ONNX, imported when they are needed."""

from __future__ import annotations

from typing import Any

from florence2 import optional


def library(name: str) -> Any:
    """The module of this name, e.g. "onnxruntime"; MissingDependencyError with the command that installs it."""
    return optional.library(name, 'this needs {}, which is not installed; pip install "florence2[onnx]"')
