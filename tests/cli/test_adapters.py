"""Adapters on the command line: ``run --adapter``, ``convert --adapter`` and ``info`` of an adapter."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from florence2 import Florence2
from florence2.checkpoints import LoraSettings, load, save_adapter
from tests.checkpoints.adapted import trained
from tests.cli.conftest import Run, documents
from tests.tiny_checkpoint import picture, tiny_checkpoint

pytest.importorskip("peft", reason="adapters need peft (pip install '.[train]')")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = LoraSettings(rank=4, alpha=8, targets=("attention", "vision"))
    model = trained(copy.deepcopy(tiny_checkpoint().model), settings)
    return save_adapter(model, tmp_path_factory.mktemp("adapter") / "forms", "native", base="owner/tiny")


def test_run(call: Run, photos: Path, tiny_folder: Path, adapter: Path) -> None:
    arguments = ("run", photos / "a.png", "-t", "caption", "-m", tiny_folder, "--device", "cpu", "--json")
    (plain,) = documents(call(*arguments))
    (adapted,) = documents(call(*arguments, "--adapter", adapter))
    assert adapted != plain
    model = Florence2.from_pretrained(tiny_folder, adapter=adapter, device="cpu")
    assert adapted["results"]["<CAPTION>"] == model.caption(picture(1)).to_dict()


def test_run_with_what_is_no_adapter(call: Run, photos: Path, tiny_folder: Path) -> None:
    result = call("run", photos / "a.png", "-m", tiny_folder, "--adapter", tiny_folder)
    assert result.exit_code == 2
    assert "not an adapter" in result.stderr


def test_convert_merges(call: Run, tiny_folder: Path, adapter: Path, tmp_path: Path) -> None:
    result = call("convert", tiny_folder, tmp_path / "merged", "--adapter", adapter, "--layout", "microsoft")
    assert result.exit_code == 0, result.stderr
    assert f"with {adapter} merged into it" in result.stdout
    assert load(tmp_path / "merged").layout == "microsoft"
    merged, adapted, plain = (
        model.caption(picture(1), raw=True).raw
        for model in (
            Florence2.from_pretrained(tmp_path / "merged", device="cpu"),
            Florence2.from_pretrained(tiny_folder, adapter=adapter, device="cpu"),
            Florence2.from_pretrained(tiny_folder, device="cpu"),
        )
    )
    assert merged is not None
    assert adapted is not None
    assert plain is not None
    assert merged.token_ids == adapted.token_ids
    assert merged.logprobs == pytest.approx(adapted.logprobs, abs=1e-5)
    assert merged.logprobs != pytest.approx(plain.logprobs, abs=1e-3)


def test_convert_keeps_the_precision(call: Run, tiny_folder: Path, adapter: Path, tmp_path: Path) -> None:
    assert call("convert", tiny_folder, tmp_path / "half", "--dtype", "float16").exit_code == 0
    result = call("convert", tmp_path / "half", tmp_path / "merged", "--adapter", adapter)
    assert "float16" in result.stdout


def test_info(call: Run, adapter: Path) -> None:
    result = call("info", adapter)
    assert result.exit_code == 0, result.stderr
    facts = json.loads(call("info", adapter, "--json").stdout)
    assert (facts["adapter"], facts["layout"], facts["made for"]) == ("forms", "native", "owner/tiny")
    assert (facts["rank"], facts["alpha"], facts["method"], facts["can be merged"]) == ("4", "8", "LoRA", "yes")
    assert facts["  text.decoder.layers.cross_attention.q"] == "2"
    assert facts["whole tensors"] == "none"
    for word in facts:
        assert word in result.stdout


def test_info_of_an_adapter_on_the_head(call: Run, tmp_path: Path) -> None:
    settings = LoraSettings(rank=2, alpha=3, targets=("head",), rslora=True)
    save_adapter(trained(copy.deepcopy(tiny_checkpoint().model), settings), tmp_path / "it")
    facts = json.loads(call("info", tmp_path / "it", "--json").stdout)
    assert facts["method"] == "LoRA, rank-stabilised"
    assert facts["can be merged"].startswith("no")
    result = call("convert", tmp_path / "it", tmp_path / "out")
    assert result.exit_code == 2
    assert "adapter=folder" in result.stderr
