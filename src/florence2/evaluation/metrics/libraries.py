"""Optional libraries, imported when a metric needs them."""

from __future__ import annotations

from typing import Any

from florence2 import optional


def library(name: str, install: str = "pip install 'florence2[eval]'") -> Any:
    """The module of this name, e.g. "pycocotools.mask"; MissingDependencyError with the command that installs it."""
    return optional.library(name, f"this metric needs {{}}; {install}")
