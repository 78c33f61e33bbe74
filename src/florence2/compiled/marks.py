"""What PyTorch's compiler is told about sizes."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import torch
from torch import Tensor


def any_size(tensor: Tensor, *dims: int) -> Tensor:
    """The tensor, which PyTorch shall compile for any size of these dimensions; 1 stays a kind of its own."""
    for dim in dims:
        torch._dynamo.maybe_mark_dynamic(tensor, dim)
    return tensor


def failures() -> tuple[type[Exception], ...]:
    """What PyTorch raises where it cannot compile; nothing where nothing was compiled in this process."""
    exceptions = sys.modules.get("torch._dynamo.exc")
    return () if exceptions is None else (exceptions.TorchDynamoException,)


@contextlib.contextmanager
def no_coincidences() -> Iterator[None]:
    """Sizes that happen to be equal while something is compiled are not taken for one and the same."""
    from torch.fx.experimental import _config

    with _config.patch(use_duck_shape=False):  # type: ignore[attr-defined]
        yield
