"""Files <-> models: Microsoft's checkpoints, transformers' and our own, read and written."""

from florence2.checkpoints.load import Checkpoint, load
from florence2.checkpoints.save import save

__all__ = ["Checkpoint", "load", "save"]
