from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from florence2.model.dropout import dropout


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.93])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_rate_and_the_scale(rate: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    n = 400_000
    made = dropout(torch.ones(n, dtype=dtype), rate)
    assert made.dtype == dtype
    share = float((made == 0).float().mean())
    error = (rate * (1 - rate) / n) ** 0.5
    assert abs(share - rate) < 5 * error
    assert abs(share - rate - 0.01) > 5 * error  # another rate would be noticed
    assert_close(made.max().float(), torch.tensor(1 / (1 - rate)), rtol=1e-2, atol=0)


def test_numbers_are_dropped_independently() -> None:
    """Neighbours share a random word: their joint frequency is that of independent draws."""
    torch.manual_seed(1)
    gone = dropout(torch.ones(100_001), 0.5) == 0
    for distance in (1, 2, 3, 4):
        both = (gone[distance:] & gone[:-distance]).float().mean()
        assert abs(float(both) - 0.25) < 5 * (0.25 * 0.75 / 1e5) ** 0.5


def test_the_gradient_is_that_of_the_mask() -> None:
    x = torch.randn(3, 5, 7).transpose(0, 2).requires_grad_()
    made = dropout(x, 0.3)
    made.sum().backward()
    assert x.grad is not None
    assert_close(made, x * x.grad)
    assert set(x.grad.eq(0).flatten().tolist()) == {True, False}


def test_nothing_and_everything() -> None:
    x = torch.randn(4, 4)
    assert dropout(x, 0.0) is x
    assert torch.equal(dropout(x, 1.0), torch.zeros(4, 4))
    assert dropout(x[:0], 0.5).shape == (0, 4)


def test_a_seed_gives_the_same_again() -> None:
    def draw(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return dropout(torch.ones(50), 0.5)

    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))
