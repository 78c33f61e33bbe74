"""Which number format "auto" takes, and that it says so."""

from __future__ import annotations

import logging

import pytest
import torch

from florence2 import checkpoints
from florence2.checkpoints import formats
from florence2.checkpoints.formats import choose
from florence2.errors import ConfigError

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SMALL = {"a": torch.zeros(2, dtype=torch.float16)}
LARGE = {"a": torch.zeros(1, dtype=torch.float16).expand(formats.LARGE)}


@pytest.mark.parametrize(
    ("able", "tensors", "chosen"),
    [(True, LARGE, torch.bfloat16), (True, SMALL, torch.float32), (False, LARGE, torch.float32)],
)
def test_a_cpu(monkeypatch: pytest.MonkeyPatch, able: bool, tensors: dict, chosen: torch.dtype) -> None:
    monkeypatch.setattr(formats, "multiplies_bfloat16", lambda: able)
    found = choose("auto", CPU, tensors)
    assert (found.dtype, found.int8) == (chosen, False)


def test_a_gpu_computes_as_the_model_was_trained() -> None:
    assert choose("auto", GPU, SMALL).dtype == torch.float16
    assert choose("auto", GPU, {"a": torch.zeros(1, dtype=torch.bfloat16)}).dtype == torch.bfloat16


def test_what_is_asked_for_is_taken() -> None:
    assert choose("float16", CPU, LARGE).dtype == torch.float16
    assert choose("int8", CPU, LARGE).int8
    with pytest.raises(ConfigError, match=r"int4.*int8"):
        choose("int4", CPU, LARGE)


def test_the_log_says_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="florence2"):
        loaded = checkpoints.load(device="cpu")
    assert "runs in float32 on cpu: exact" in caplog.text
    assert loaded.format.startswith("exact")


def test_the_processor_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert not formats.multiplies_bfloat16()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert formats.multiplies_bfloat16()
