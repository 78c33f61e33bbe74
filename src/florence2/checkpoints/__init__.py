"""Files <-> models: Microsoft's checkpoints, transformers' and our own, read and written; adapters upon them."""

from florence2.checkpoints.adapters import LoraSettings, add_adapter, load_adapter, merge_adapter, save_adapter
from florence2.checkpoints.load import Checkpoint, load
from florence2.checkpoints.save import save
from florence2.checkpoints.vocabulary import extend_vocabulary

__all__ = [
    "Checkpoint",
    "load",
    "save",
    "extend_vocabulary",
    "LoraSettings",
    "add_adapter",
    "load_adapter",
    "merge_adapter",
    "save_adapter",
]
