"""Tensors in, tensors out: DaViT, the projector, BART, and the three joined."""

from florence2.model.bart import Cache, Memory
from florence2.model.davit import DaViT
from florence2.model.florence2 import Florence2Model, Output, count, initialise

__all__ = ["Cache", "DaViT", "Florence2Model", "Memory", "Output", "count", "initialise"]
