"""The tiny random model of the golden set, loaded through our own door."""

from __future__ import annotations

from pathlib import Path

from florence2.checkpoints.load import load
from florence2.model import Florence2Model


def load_reference(golden: Path, packed: bool = False) -> Florence2Model:
    """Microsoft layout, fp32, eval mode; or ``packed`` for answering as this processor does it."""
    checkpoint = load(golden, dtype="float32", device="cpu", packed=packed)
    assert checkpoint.layout == "microsoft"
    return checkpoint.model
