"""Optional libraries, imported when they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from florence2.errors import MissingDependencyError


def library(name: str) -> Any:
    """The module of this name, e.g. "onnxruntime"; MissingDependencyError with the command that installs it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        root = name.split(".")[0]
        if error.name is None or error.name.split(".")[0] != root:  # it is there but broken: its own message says more
            raise
        raise MissingDependencyError(
            f'this needs {root}, which is not installed; pip install "florence2[onnx]"'
        ) from error
