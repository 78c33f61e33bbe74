"""Properties that must hold whatever the weights are."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.testing import assert_close

from florence2.config import BASE, LARGE, NANO, Florence2Config
from florence2.errors import ConfigError, ImageError
from florence2.model import Florence2Model
from florence2.model.bart import additive_mask
from florence2.model.davit import Block, WindowAttention
from tests.model.tiny import TINY, tiny_model

# --- sizes ------------------------------------------------------------------------------------------------------

# FLORENCE2.md section 1.6, computed from the published configurations; buffers are not counted.
COUNTS = {
    "base": (BASE, 90_368_000, 839_168, 140_206_848, 231_414_016),
    "large": (LARGE, 360_632_320, 2_201_600, 413_631_488, 776_465_408),
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts(name: str) -> None:
    config, vision, projector, text, total = COUNTS[name]
    with torch.device("meta"):
        model = Florence2Model(config)

    def count(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    assert (count(model.vision), count(model.projector), count(model.text)) == (vision, projector, text)
    assert count(model) == total


def test_nano_fits_its_budget() -> None:
    with torch.device("meta"):
        model = Florence2Model(NANO)
    size = sum(p.numel() for p in model.parameters()) + sum(b.numel() for b in model.buffers())
    assert 7e6 < size < 12.5e6  # two bytes each: at most 25 MB in fp16


def test_large_with_1024_positions() -> None:
    config = dataclasses.replace(LARGE, text=dataclasses.replace(LARGE.text, max_positions=1024))
    with torch.device("meta"):
        model = Florence2Model(config)
    assert sum(p.numel() for p in model.parameters()) == 770_173_952


# --- images -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(64, 64), (40, 100), (33, 65), (160, 32)])
def test_image_tokens_are_frames_plus_positions(height: int, width: int) -> None:
    model = tiny_model()
    with torch.no_grad():
        tokens = model.encode_image(torch.randn(2, 3, 3, height, width))
    h, w = -(-height // 32), -(-width // 32)
    assert tokens.shape == (2, 3 + h * w, TINY.text.d_model)


def test_four_dimensions_mean_one_frame() -> None:
    model, x = tiny_model(), torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        assert_close(model.encode_image(x), model.encode_image(x[:, None]))


def test_photos_of_a_batch_do_not_mix() -> None:
    model, x = tiny_model(), torch.randn(3, 1, 3, 70, 50)
    with torch.no_grad():
        together = model.encode_image(x)
        for i in range(3):
            assert_close(together[i : i + 1], model.encode_image(x[i : i + 1]), atol=1e-5, rtol=1e-4)


def test_1600_pixels_are_the_most() -> None:
    model = tiny_model()
    with torch.no_grad():
        assert model.encode_image(torch.zeros(1, 3, 1600, 32)).shape[1] == 1 + 50
        with pytest.raises(ImageError, match="at most 1600 px"):
            model.encode_image(torch.zeros(1, 3, 1632, 32))
        with pytest.raises(ImageError, match="fewer frames"):
            model.encode_image(torch.zeros(1, 5, 3, 32, 32))


def test_training_and_inference_paths_of_attention_agree() -> None:
    """Under autograd the CPU uses plain matrix products, without it mostly the fused kernel."""
    model, x = tiny_model(), torch.randn(2, 3, 70, 100)
    ids, labels = torch.randint(4, 1200, (2, 6)), torch.randint(4, 1200, (2, 9))
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1, 4:] = False
    with_grad = model(x, ids, mask, labels=labels)
    with torch.no_grad():
        without = model(x, ids, mask, labels=labels)
    assert_close(with_grad.logits.detach(), without.logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("part", ["vision", "encoder", "decoder"])
def test_gradient_checkpointing_changes_nothing(part: str) -> None:
    def gradients(checkpointing: bool) -> list[torch.Tensor]:
        model = tiny_model()
        module = model.vision if part == "vision" else getattr(model.text, part)
        module.gradient_checkpointing = checkpointing
        torch.manual_seed(1)
        loss = model(torch.randn(1, 3, 64, 64), torch.arange(4, 9)[None], labels=torch.arange(4, 12)[None]).loss
        loss.backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    for plain, recomputed in zip(gradients(False), gradients(True), strict=True):
        assert_close(plain, recomputed)


def test_drop_path_only_in_training() -> None:
    model, x = tiny_model(), torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model.vision(x), model.vision(x))
        model.train()
        torch.manual_seed(0)
        assert not torch.equal(model.vision(x), model.vision(x))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_drop_path_drops_is_not_computed_and_not_missed(seed: int) -> None:
    """Same draws, same numbers and gradients as with everything computed and the dropped samples set to zero."""
    torch.manual_seed(seed)
    block = Block(8, WindowAttention(8, 2, 3), drop_path=0.5).train()
    x = torch.randn(5, 6, 6, 8, requires_grad=True)
    torch.manual_seed(seed)
    first, second = torch.rand(5) < 0.5, torch.rand(5) < 0.5
    assert not first.all()
    assert first.any()

    def masked(x: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        x = x + block.conv1(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = x + block.attention(block.norm1(x)) * 2 * first[:, None, None, None]
        x = x + block.conv2(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + block.mlp(block.norm2(x)) * 2 * second[:, None, None, None]

    leaves = [x, *block.parameters()]
    torch.manual_seed(seed)
    ours, expected = block(x), masked(x, first, second)
    assert_close(ours, expected)
    for mine, other in zip(
        torch.autograd.grad(ours.square().sum(), leaves),
        torch.autograd.grad(expected.square().sum(), leaves),
        strict=True,
    ):
        assert_close(mine, other, atol=1e-4, rtol=1e-4)
    assert (ours - masked(x, ~first, second)).abs().max() > 0.01


# --- prompts and answers ----------------------------------------------------------------------------------------


def inputs(rows: int = 2, prompt: int = 6, answer: int = 7) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randn(rows, 3, 64, 64, generator=generator)
    ids = torch.randint(4, 1200, (rows, prompt), generator=generator)
    answers = torch.randint(4, 1200, (rows, answer), generator=generator)
    return pixels, ids, answers


def test_padding_of_a_prompt_never_changes_an_answer() -> None:
    model = tiny_model()
    pixels, ids, answers = inputs()
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1, 3:] = False
    with torch.no_grad():
        padded = model(pixels, ids, mask, decoder_ids=answers).logits
        alone = model(pixels[1:], ids[1:, :3], decoder_ids=answers[1:]).logits
        other = ids.clone()
        other[1, 3:] = 17  # what stands in the padding must not matter
        assert_close(padded, model(pixels, other, mask, decoder_ids=answers).logits)
        unmasked = model(pixels, ids, decoder_ids=answers).logits
    assert_close(padded[1:], alone, atol=1e-4, rtol=1e-4)
    assert (unmasked[1] - alone[0]).abs().max() > 1e-2  # and without the mask it does


@pytest.mark.parametrize("chunks", [[1] * 7, [3, 1, 3], [7], [1, 6]])
def test_cache_equals_no_cache(chunks: list[int]) -> None:
    model = tiny_model()
    pixels, ids, answers = inputs()
    with torch.no_grad():
        memory = model.encode(model.encode_image(pixels), ids)
        whole = model.decode(answers, memory)
        cache = model.new_cache(rows=2, max_length=7)
        steps, start = [], 0
        for n in chunks:
            steps.append(model.decode(answers[:, start : start + n], memory, cache))
            start += n
    assert cache.length == 7
    assert_close(torch.cat(steps, 1), whole, atol=1e-4, rtol=1e-4)


def test_rows_share_a_memory_row_without_copies() -> None:
    model = tiny_model()
    pixels, ids, _ = inputs(rows=2)
    beams = torch.randint(4, 1200, (6, 5), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        memory = model.encode(model.encode_image(pixels), ids, torch.tensor([[True] * 6, [True] * 4 + [False] * 2]))
        shared = model.decode(beams, memory, model.new_cache(6, 5))
        copied = model.decode(beams, memory.select(torch.tensor([0, 0, 0, 1, 1, 1])), model.new_cache(6, 5))
    assert_close(shared, copied, atol=1e-5, rtol=1e-4)


def test_reorder_goes_on_from_the_parents() -> None:
    model = tiny_model()
    pixels, ids, _ = inputs(rows=1)
    beams = torch.randint(4, 1200, (3, 6), generator=torch.Generator().manual_seed(5))
    parents = torch.tensor([2, 0, 2])
    with torch.no_grad():
        memory = model.encode(model.encode_image(pixels), ids)
        cache = model.new_cache(3, 6)
        model.decode(beams[:, :5], memory, cache)
        cache.reorder(parents)
        stepped = model.decode(beams[:, 5:], memory, cache)
        whole = model.decode(torch.cat([beams[parents, :5], beams[:, 5:]], 1), memory)[:, 5:]
    assert_close(stepped, whole, atol=1e-4, rtol=1e-4)


def test_loss_ignores_minus_100() -> None:
    model = tiny_model()
    pixels, ids, answers = inputs()
    labels = answers.clone()
    labels[1, 4:] = -100
    output = model(pixels, ids, labels=labels)
    logprobs = output.logits.log_softmax(-1)
    counted = labels != -100
    expected = -logprobs.gather(-1, answers[..., None]).squeeze(-1)[counted].mean()
    assert_close(output.loss, expected)
    assert torch.equal(model.shift_right(labels)[1], torch.tensor([2, *answers[1, :4].tolist(), 1, 1]))


def test_forward_needs_an_answer() -> None:
    with pytest.raises(ValueError, match="labels, or decoder_ids"):
        tiny_model()(None, torch.tensor([[4, 5]]))


def test_some_vocabulary_rows_only() -> None:
    model, rows = tiny_model(), torch.tensor([5, 1100, 7])
    model.text.logits_bias.normal_()
    hidden = torch.randn(2, 1, TINY.text.d_model)
    with torch.no_grad():
        assert_close(model.text.project(hidden, rows), model.text.project(hidden)[..., rows])


def test_too_long_a_sequence_names_the_limit() -> None:
    model = tiny_model()
    with pytest.raises(ConfigError, match="ends at 96"):
        model.encode(None, torch.full((1, 97), 5))


def test_half_precision_states_are_kept_finite() -> None:
    from florence2.model.bart import _clamp_half

    x = torch.tensor([1.0, float("inf"), float("-inf")], dtype=torch.float16)
    assert _clamp_half(x).tolist() == [1.0, 64512.0, -64512.0]
    full = x.float()
    assert _clamp_half(full) is full


def test_additive_mask() -> None:
    mask = additive_mask(torch.tensor([[True, False]]), torch.bfloat16)
    assert mask.shape == (1, 1, 1, 2)
    assert mask.flatten().tolist() == [0.0, float("-inf")]


def test_config_round_trip_and_strictness() -> None:
    import json

    for config in (NANO, BASE, LARGE, TINY):
        assert Florence2Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ConfigError, match="window_size"):
        Florence2Config.from_dict({"vision": {"window_size": 12}})
    with pytest.raises(ConfigError, match="visual"):
        Florence2Config.from_dict({"visual": {}})
    with pytest.raises(ConfigError, match="one per stage"):
        dataclasses.replace(BASE.vision, heads=(4, 8))
