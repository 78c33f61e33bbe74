"""The tiny random model of the golden set, loaded through our own door."""

from __future__ import annotations

from pathlib import Path

from florence2.checkpoints.load import load
from florence2.model import Florence2Model


def load_reference(golden: Path) -> Florence2Model:
    """Microsoft layout, fp32, eval mode."""
    checkpoint = load(golden, dtype="float32", device="cpu")
    assert checkpoint.layout == "microsoft"
    return checkpoint.model
