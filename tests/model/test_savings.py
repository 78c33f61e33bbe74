"""What the model does not do: counted in operations, never in seconds."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from florence2.config import TextConfig, VisionConfig
from florence2.model import Cache, DaViT, davit
from florence2.model import linear as door
from florence2.model.davit import ChannelAttention, WindowAttention
from florence2.model.linear import Linear, linear_gelu


class Operations(TorchDispatchMode):
    """Counts what reaches the kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        self.numbers: Counter[str] = Counter()
        """That each kind of operation gave."""
        self.largest = 0
        """Numbers of the largest result."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.count[name] += 1
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.numbers[name] += made.numel()
            self.largest = max(self.largest, made.numel())
        return made


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


@pytest.mark.parametrize(("parents", "copied"), [([0, 1, 2], 0), ([0, 0, 2], 1), ([2, 1, 0], 2)])
def test_beams_that_go_on_from_themselves_are_not_copied(parents: list[int], copied: int) -> None:
    cache = Cache(TextConfig(decoder_layers=2, encoder_heads=1, decoder_heads=1, d_model=4), 3, 5, torch.zeros(1))
    for numbers in (cache.keys, cache.values):
        numbers[:] = torch.arange(3)[:, None, None, None]
    cache.length = 4
    with Operations() as seen:
        cache.reorder(torch.tensor(parents))
    assert cache.keys[1, :, 0, 3, 0].tolist() == cache.values[0, :, 0, 0, 0].tolist() == parents
    assert seen.numbers["index"] == (copied and copied + 2 * 2 * copied * 4 * 4)  # places, and keys and values


def test_a_large_map_is_worked_through_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same map, and no intermediate result that is much larger than it; twin: in one part there is one."""
    config = VisionConfig(
        dims=(32, 32), depths=(1, 1), heads=(2, 2), groups=(2, 2), window=4, patch_kernels=(3, 3),
        patch_strides=(2, 1), patch_paddings=(1, 1), patch_prenorm=(False, True),
    )  # fmt: skip
    torch.manual_seed(0)
    encoder = DaViT(config).eval()
    pixels = torch.randn(2, 3, 60, 44)
    found, largest = [], []
    for room in (2**30, 2**14):
        monkeypatch.setattr(davit, "ROOM", room)
        with torch.inference_mode(), Operations() as seen:
            found.append(encoder(pixels))
        largest.append(seen.largest)
    size = found[0].numel()
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)
    assert largest[0] >= 4 * size
    assert largest[1] <= 1.2 * size


@pytest.mark.parametrize("branch", [WindowAttention(32, 2, 4), ChannelAttention(32, 4), davit.MLP(32)])
def test_a_branch_adds_its_results_part_by_part(branch: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of the map that they belong to: none is copied there first. Twin: without one it is a map itself."""
    monkeypatch.setattr(davit, "ROOM", 2**12)
    x, onto = torch.randn(2, 8, 8, 32), torch.randn(2, 8, 8, 32)
    with torch.no_grad():
        expected = onto + branch(x)
        with Operations() as seen:
            made = branch(x, onto=onto)
        assert made.data_ptr() == onto.data_ptr()
        torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-5)
        added = seen.numbers["add_"]
        assert seen.count["add_"] > 1
        assert added == x.numel()
        alone = branch(x)
        assert alone.data_ptr() not in (x.data_ptr(), onto.data_ptr())


def test_training_keeps_the_map_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(davit, "ROOM", 1)
    assert davit.parts(torch.zeros(10), 3) == 1
    with torch.no_grad():
        assert davit.parts(torch.zeros(10), 3) == 120
