"""Optional libraries, imported when they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from florence2.errors import MissingDependencyError


def library(name: str, missing: str) -> Any:
    """The module of this name, e.g. "pycocotools.mask". MissingDependencyError where it is not installed, which says
    ``missing`` with the library in the place of {}."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        root = name.split(".")[0]
        if error.name is None or error.name.split(".")[0] != root:  # it is there but broken: its own message says more
            raise
        raise MissingDependencyError(missing.format(root)) from error
