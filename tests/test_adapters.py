"""Adapters on the class Florence2: loaded with it or later, switched between, merged, and photos that were encoded."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest

from florence2 import Florence2, save
from florence2.checkpoints import LoraSettings, load_adapter, save_adapter
from florence2.errors import CheckpointError, TaskError
from florence2.results import Text
from tests.checkpoints.adapted import trained
from tests.tiny_checkpoint import picture, tiny_checkpoint

pytest.importorskip("peft", reason="adapters need peft (pip install '.[train]')")

PHOTO = picture()
WORDS = LoraSettings(rank=4, alpha=8, targets=("attention", "head"))
SIGHT = LoraSettings(rank=4, alpha=8, targets=("vision", "projector"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tiny_checkpoint(), tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the language model, in Microsoft's names."""
    model = trained(copy.deepcopy(tiny_checkpoint().model), WORDS)
    return save_adapter(model, tmp_path_factory.mktemp("words") / "it", "microsoft")


@pytest.fixture(scope="module")
def sight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the image encoder, in the native names."""
    model = trained(copy.deepcopy(tiny_checkpoint().model), SIGHT)
    return save_adapter(model, tmp_path_factory.mktemp("sight") / "it", "native")


def caption(model: Florence2) -> Text:
    answer = model.caption(PHOTO, raw=True)
    assert answer.raw is not None
    return answer


@pytest.fixture(scope="module")
def expected(base: Path, words: Path, sight: Path) -> dict[str | None, Text]:
    """What the base says, and what it says with either adapter; all three differ."""
    answers: dict[str | None, Text] = {}
    for name, folder in {None: None, "words": words, "sight": sight}.items():
        with Florence2.from_pretrained(base, device="cpu") as model:
            module = model.model  # plain weights, as a model with adapters has them
            if folder is not None:
                load_adapter(module, folder)
            answers[name] = caption(model)
    assert len({answer.raw.logprobs for answer in answers.values() if answer.raw}) == 3
    return answers


def alike(left: Text, right: Text) -> bool:
    assert left.raw is not None
    assert right.raw is not None
    return left.raw.token_ids == right.raw.token_ids and left.raw.logprobs == pytest.approx(
        right.raw.logprobs, abs=1e-5
    )


def test_with_an_adapter(base: Path, words: Path, expected: dict[str | None, Text]) -> None:
    model = Florence2.from_pretrained(base, adapter=words, device="cpu")
    assert model.adapters == ("default",)
    assert model.adapter == "default"
    assert "adapter 'default'" in repr(model)
    assert alike(caption(model), expected["words"])
    assert not alike(caption(model), expected[None])


def test_several_adapters(base: Path, words: Path, sight: Path, expected: dict[str | None, Text]) -> None:
    model = Florence2.from_pretrained(base, adapter={"words": words, "sight": sight}, device="cpu")
    assert model.adapters == ("words", "sight")
    assert model.adapter == "words"
    for name in ("words", None, "sight", "words", None):
        model.use_adapter(name)
        assert model.adapter == name
        assert alike(caption(model), expected[name])
    assert caption(model) == expected[None]  # to the last bit
    with pytest.raises(CheckpointError, match="no adapter 'other'"):
        model.use_adapter("other")


def test_loaded_later_and_merged(base: Path, sight: Path, expected: dict[str | None, Text], tmp_path: Path) -> None:
    model = Florence2.from_pretrained(base, device="cpu")
    assert (model.adapters, model.adapter) == ((), None)
    model.load_adapter(sight, "sight")
    assert alike(caption(model), expected["sight"])
    model.merge_adapter()
    assert (model.adapters, model.adapter) == ((), None)
    assert "adapter" not in repr(model)
    assert alike(caption(model), expected["sight"])
    save(dataclasses.replace(tiny_checkpoint(), model=model.model), tmp_path / "merged")
    assert alike(caption(Florence2.from_pretrained(tmp_path / "merged", device="cpu")), expected["sight"])


def test_the_head_stays_an_adapter(base: Path, words: Path, expected: dict[str | None, Text]) -> None:
    model = Florence2.from_pretrained(base, adapter=words, device="cpu")
    with pytest.raises(CheckpointError, match="vocabulary projection"):
        model.merge_adapter()
    assert alike(caption(model), expected["words"])


def test_an_encoded_photo_under_other_adapters(base: Path, words: Path, sight: Path) -> None:
    """One encoding serves all adapters that leave the image encoder alone, and is refused by one that does not."""
    model = Florence2.from_pretrained(base, adapter={"words": words, "sight": sight}, device="cpu")
    scene = model.encode(PHOTO)
    model.use_adapter(None)
    assert model.caption(scene) == model.caption(PHOTO)
    model.use_adapter("sight")
    with pytest.raises(TaskError, match=r"with no adapter of the image encoder .* now uses the adapter 'sight'"):
        model.caption(scene)
    own = model.encode(PHOTO)
    assert model.caption(own) == model.caption(PHOTO)
    model.use_adapter("words")
    assert model.caption(scene) == model.caption(PHOTO)
    with pytest.raises(TaskError, match="encode the photo again"):
        model.caption(own)


def test_many_photos(base: Path, words: Path, expected: dict[str | None, Text]) -> None:
    model = Florence2.from_pretrained(base, adapter=words, device="cpu")
    first, second = model.run_batch([(PHOTO, "<CAPTION>"), (picture(1), "<OD>")], raw=True)
    assert isinstance(first, Text)
    assert alike(first, expected["words"])
    assert second is not None


def test_another_base(base: Path, words: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"made for tiny, this is florence2-nano \(width \d+"):
        Florence2.from_pretrained(adapter=words, device="cpu")
    with pytest.raises(CheckpointError, match=r"LoRA adapter .*adapter=folder"):
        Florence2.from_pretrained(words)
