"""The peer does the same work: the same stages, on the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers", reason="the peer is transformers' native port")

from florence2 import Florence2
from florence2.speed import peer, stages

pytestmark = pytest.mark.slow


def test_the_peer_has_the_same_stages_and_they_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Florence2.from_pretrained()
    work = stages.Work(tokens=9, detection=12, batches=(2,))
    native = peer.load(model, tmp_path / "native")
    theirs = peer.theirs(native, work)
    assert [s.name for s in theirs] == [s.name for s in stages.ours(model, work)]
    lengths: list[int] = []
    generate = native.model.generate

    def counted(**settings: object) -> object:
        made = generate(**settings)
        lengths.append(made.shape[1] - 1)
        return made

    monkeypatch.setattr(native.model, "generate", counted)
    for stage in theirs:
        lengths.clear()
        with torch.inference_mode():
            stage.call()
        if stage.name in (stages.GREEDY, stages.BEAMS):
            assert lengths == [work.tokens + 1]  # the forced first token is not counted on either side
        elif stage.name in stages.CALLS:
            assert len(lengths) == (len(stages.TASKS) if stage.name == stages.ALL else 1)
        elif stage.name == stages.together(2):
            assert len(lengths) == 1
