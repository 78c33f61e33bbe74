"""A file of weights does not lie in memory beside the model that was made of it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from florence2.checkpoints import load
from florence2.checkpoints import weights as files

LOADER = importlib.import_module("florence2.checkpoints.load")  # the package has a function of that name
linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="reads /proc and gives pages back on Linux only"
)


def resident(file: Path) -> int:
    """Kilobytes of a file that this process holds in memory."""
    held, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ", 1)[0] and ":" not in line.split(" ", 1)[0]:
            inside = line.endswith(str(file))
        elif inside and line.startswith("Rss:"):
            held += int(line.split()[1])
    return held


@linux
def test_what_was_copied_is_given_back_and_can_be_read_again(tmp_path: Path) -> None:
    file = tmp_path / "big.safetensors"
    save_file({"a": torch.arange(500_000.0), "b": torch.ones(500_000)}, file)
    with safe_open(str(file), framework="pt") as opened:
        a, b = opened.get_tensor("a"), opened.get_tensor("b")
    total = a.sum() + b.sum()
    assert resident(file) > 3500
    files.give_back(a)
    assert 1500 < resident(file) < 2500
    files.give_back(b)
    assert resident(file) < 100
    assert a.sum() + b.sum() == total


@linux
def test_loading_gives_all_of_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in bytes; twin: a pickle's memory may be the only copy, and is kept."""
    given: list[int] = []
    monkeypatch.setattr(LOADER, "give_back", lambda tensor: given.append(tensor.numel()))
    loaded = load(device="cpu")
    assert sum(given) == sum(t.numel() for t in loaded.model.state_dict().values())


def test_a_pickle_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from florence2 import checkpoints

    checkpoints.save(load(device="cpu"), tmp_path / "it", layout="microsoft")
    with safe_open(str(tmp_path / "it" / "model.safetensors"), framework="pt") as opened:
        torch.save({name: opened.get_tensor(name) for name in opened.keys()}, tmp_path / "it" / "pytorch_model.bin")  # noqa: SIM118
    (tmp_path / "it" / "model.safetensors").unlink()
    monkeypatch.setattr(LOADER, "give_back", lambda tensor: pytest.fail("given back"))
    assert load(tmp_path / "it", device="cpu").layout == "microsoft"
