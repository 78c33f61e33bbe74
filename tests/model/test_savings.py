"""What the model does not do: counted in operations, never in seconds."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from florence2.model import linear as door
from florence2.model.davit import WindowAttention
from florence2.model.linear import Linear, linear_gelu


class Operations(TorchDispatchMode):
    """Counts what reaches the kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("side", "pads"), [(24, 0), (23, 1)])
def test_a_map_that_fits_the_windows_is_not_padded(side: int, pads: int) -> None:
    attention = WindowAttention(32, 2, 12)
    with torch.inference_mode(), Operations() as seen:
        attention(torch.randn(1, side, side, 32))
    assert seen.count["constant_pad_nd"] + seen.count["pad"] == pads


@pytest.mark.skipif(not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this PyTorch is built without oneDNN")
def test_a_gelu_costs_no_pass_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "_fewest_rows", lambda: 8)
    layer = Linear(16, 64)
    x = torch.randn(9, 16)
    with torch.no_grad(), Operations() as seen:
        made = linear_gelu(layer, x)
    assert seen.count["gelu"] == 0
    torch.testing.assert_close(made, nn.functional.gelu(nn.functional.linear(x, layer.weight, layer.bias)))
    with torch.no_grad(), Operations() as seen:
        linear_gelu(layer, x[:7])  # too few rows for it to be worth it
    assert seen.count["gelu"] == 1


def test_with_gradients_it_is_the_plain_one() -> None:
    layer = Linear(16, 64)
    linear_gelu(layer, torch.randn(9, 16)).sum().backward()
    assert layer.weight.grad is not None
