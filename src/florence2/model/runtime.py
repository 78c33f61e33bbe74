"""What decoding asks of a model, wherever it is computed: Florence2Model in PyTorch, or an export in onnxruntime."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from florence2.config import Florence2Config


class EncodedRows(Protocol):
    """B encoded (photo, prompt) pairs; see :class:`florence2.model.Memory`."""

    @property
    def rows(self) -> int: ...
    @property
    def states(self) -> Tensor: ...
    def select(self, rows: Tensor) -> EncodedRows: ...


class Runtime(Protocol):
    """Memories and caches are those that the same runtime made."""

    config: Florence2Config

    def encode_image(self, pixel_values: Tensor) -> Tensor: ...
    def encode(self, image_tokens: Tensor | None, prompt_ids: Tensor, prompt_mask: Tensor | None = None) -> Any: ...
    def new_cache(self, rows: int, max_length: int) -> Any: ...
    def decode(self, ids: Tensor, memory: Any, cache: Any = None, words: slice | None = None) -> Tensor: ...
