"""What onnxruntime answers is what PyTorch answers, token for token; and the comparison can fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from florence2 import Florence2, images
from tests.conftest import REPOSITORY
from tests.onnx.conftest import Plant, small_checkpoint
from tests.tiny_checkpoint import picture

PHOTOS = [REPOSITORY / "examples" / "photos" / name for name in ("cat.jpg", "street.jpg", "photographer.jpg")]
MIXED: list[tuple[Any, ...]] = [
    (PHOTOS[0], "<CAPTION>"),
    (PHOTOS[1], "<OD>"),
    (PHOTOS[2], "<CAPTION_TO_PHRASE_GROUNDING>", "a man in a black coat and a dog on the beach"),
    (PHOTOS[0], "<CAPTION_TO_PHRASE_GROUNDING>", "a cat"),
    (PHOTOS[1], "<MORE_DETAILED_CAPTION>"),
    (PHOTOS[2], "<ASK>", "how many people are there?"),
    (PHOTOS[2], "<OCR_WITH_REGION>"),
    (PHOTOS[0], "<REGION_TO_CATEGORY>", [(10, 10, 200, 200), (5, 5, 90, 250)]),
]
PARTS = ("vision_encoder", "embed_tokens", "encoder_model", "decoder_model_merged")


def ids(answers: list[Any]) -> list[tuple[int, ...]]:
    flat = [a for answer in answers for a in (answer if isinstance(answer, list) else [answer])]
    return [answer.raw.token_ids for answer in flat]


def logprobs(answers: list[Any]) -> torch.Tensor:
    flat = [a for answer in answers for a in (answer if isinstance(answer, list) else [answer])]
    return torch.tensor([value for answer in flat for value in answer.raw.logprobs])


def opened(folder: Path, dtype: str = "auto") -> Florence2:
    return Florence2.from_pretrained(folder, runtime="onnx", dtype=dtype)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "text"),
    [("<CAPTION>", None), ("<OD>", None), ("<CAPTION_TO_PHRASE_GROUNDING>", "a man in a black coat")],
)
def test_one_photo(nano: Florence2, nano_onnx: Path, task: str, text: str | None) -> None:
    """A caption with 3 beams, objects greedily in their grammar, phrases with guesses of several tokens."""
    model = opened(nano_onnx)
    for photo in PHOTOS:
        expected, found = (m.run(photo, task, text, raw=True) for m in (nano, model))
        assert ids([found]) == ids([expected])
        assert found.confidence == pytest.approx(expected.confidence, abs=1e-5)
        assert rounded(found.to_dict()) == rounded(expected.to_dict())


def rounded(value: Any) -> Any:
    """The last digits of scores differ."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(inner) for inner in value]
    return round(value, 3) if isinstance(value, float) else value


@pytest.mark.slow
def test_a_batch_of_mixed_tasks(nano: Florence2, nano_onnx: Path) -> None:
    """Prompts of unequal lengths, padded; beams and greedy rows; photos that are done before others."""
    expected, found = (model.run_batch(MIXED, raw=True) for model in (nano, opened(nano_onnx)))
    assert ids(found) == ids(expected)
    assert (logprobs(found) - logprobs(expected)).abs().max() < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"reference": True}, {"temperature": 0.8, "seed": 3}, {"num_beams": 5}])
def test_other_ways_to_decode(nano: Florence2, nano_onnx: Path, options: dict[str, Any]) -> None:
    expected, found = (model.run_batch(MIXED[:3], raw=True, **options) for model in (nano, opened(nano_onnx)))
    assert ids(found) == ids(expected)


@pytest.mark.slow
def test_a_draft_that_is_wrong_in_the_middle(nano: Florence2, nano_onnx: Path) -> None:
    """The cache forgets what was read behind a wrong guess."""
    model = opened(nano_onnx)
    draft = nano.detect(PHOTOS[1], raw=True)
    expected = nano.detect(PHOTOS[2], raw=True)
    assert ids([draft]) != ids([expected])
    assert ids([model.detect(PHOTOS[2], raw=True, draft=draft)]) == ids([expected])


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_a_changed_weight_is_noticed(nano: Florence2, nano_onnx: Path, plant: Plant, part: str) -> None:
    """The planted fault, in each file in turn."""
    expected, found = (model.run_batch(MIXED, raw=True) for model in (nano, opened(plant(nano_onnx, f"{part}.onnx"))))
    assert ids(found) != ids(expected)


@pytest.mark.slow
def test_int8_stays_close(nano: Florence2, nano_onnx: Path) -> None:
    drift = drift_of(nano, opened(nano_onnx, "int8"))
    assert drift["image tokens"] < 0.06  # root mean square; the tokens themselves are near 1
    assert drift["logits"] < 0.06  # of the largest logit
    sizes = {
        format: sum((nano_onnx / "onnx" / f"{part}{ending}.onnx").stat().st_size for part in PARTS)
        for format, ending in (("float32", ""), ("int8", "_int8"))
    }
    assert sizes["int8"] < 0.32 * sizes["float32"]


@pytest.mark.slow
def test_int8_with_a_fault_does_not(nano: Florence2, nano_onnx: Path, plant: Plant) -> None:
    for part, measured in (("vision_encoder", "image tokens"), ("decoder_model_merged", "logits")):
        drift = drift_of(nano, opened(plant(nano_onnx, f"{part}_int8.onnx"), "int8"))
        assert drift[measured] > 0.06


@torch.inference_mode()
def drift_of(nano: Florence2, model: Florence2) -> dict[str, float]:
    """How far numbers are from PyTorch's: on three photos, and the caption's first tokens."""
    pixels = images.to_pixel_values([images.load(photo) for photo in PHOTOS], nano.config.image)
    prompt = torch.tensor([nano.tokenizer.encode("<s>What does the image describe?</s>")] * 3)
    written = torch.tensor([[2, 0, *nano.tokenizer.encode("A man is standing in a street.")]] * 3)
    kept = []
    for runtime in (nano.engine.runtime, model.engine.runtime):
        tokens = runtime.encode_image(pixels)
        memory = runtime.encode(tokens, prompt)
        kept.append((tokens, runtime.decode(written, memory, runtime.new_cache(3, written.shape[1]))))
    (tokens, logits), (other_tokens, other_logits) = kept
    return {
        "image tokens": float((tokens - other_tokens).square().mean().sqrt()),
        "logits": float((logits - other_logits).abs().max() / logits.abs().max()),
    }


@pytest.mark.slow
def test_float32_numbers(nano: Florence2, nano_onnx: Path) -> None:
    drift = drift_of(nano, opened(nano_onnx))
    assert drift["image tokens"] < 1e-5
    assert drift["logits"] < 1e-5


# Exports made elsewhere

TINY_ITEMS = [
    (picture(1), "<CAPTION>"),
    (picture(2), "<OD>"),
    (picture(1), "<CAPTION_TO_PHRASE_GROUNDING>", "a man holding a red guitar"),
    (picture(3, (50, 80)), "<OD>"),
    (picture(4), "<REGION_PROPOSAL>"),
]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["pair_onnx", "merged_onnx"])
def test_exports_made_elsewhere(request: pytest.FixtureRequest, form: str) -> None:
    """The pair of decoders and the merged one of transformers' own model, whose graphs read one token at once."""
    folder: Path = request.getfixturevalue(form)
    expected, found = (
        model.run_batch(TINY_ITEMS, raw=True) for model in (Florence2(small_checkpoint()), opened(folder))
    )
    assert ids(found) == ids(expected)
    assert (logprobs(found) - logprobs(expected)).abs().max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("form", "part"), [("pair_onnx", "decoder_with_past_model"), ("merged_onnx", "encoder_model")])
def test_a_fault_in_a_foreign_export_is_noticed(
    request: pytest.FixtureRequest, plant: Plant, form: str, part: str
) -> None:
    folder = plant(request.getfixturevalue(form), f"{part}.onnx")
    expected, found = (
        model.run_batch(TINY_ITEMS, raw=True) for model in (Florence2(small_checkpoint()), opened(folder))
    )
    assert ids(found) != ids(expected)


@pytest.mark.slow
def test_a_foreign_decoder_that_is_given_several_tokens_is_noticed(
    pair_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why exports made elsewhere get one token at a time: theirs were traced with one."""
    model = opened(pair_onnx)
    assert model.engine.runtime.decoder.several is False  # type: ignore[attr-defined]
    monkeypatch.setattr(model.engine.runtime.decoder, "several", True)  # type: ignore[attr-defined]
    memory = model.engine.runtime.encode(None, torch.tensor([[0, 5, 6, 2]]))
    cache = model.engine.runtime.new_cache(1, 8)
    model.engine.runtime.decode(torch.tensor([[2, 0]]), memory, cache)
    try:
        together = model.engine.runtime.decode(torch.tensor([[7, 8, 9]]), memory, cache)
    except Exception:
        return
    monkeypatch.undo()
    cache = model.engine.runtime.new_cache(1, 8)
    model.engine.runtime.decode(torch.tensor([[2, 0]]), memory, cache)
    apart = model.engine.runtime.decode(torch.tensor([[7, 8, 9]]), memory, cache)
    assert not torch.allclose(together, apart, atol=1e-4)
