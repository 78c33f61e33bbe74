"""The tiny random model of the golden set, loaded through our own door."""

from __future__ import annotations

from pathlib import Path

from florence2.checkpoints.load import load_model
from florence2.model import Florence2Model


def load_reference(golden: Path) -> Florence2Model:
    """Microsoft layout, fp32, eval mode. The folder holds no tokenizer of the model's size: only the model is read."""
    model, _config, layout = load_model(golden)
    assert layout == "microsoft"
    return model
