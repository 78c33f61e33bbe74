"""One row per photo: the best token each time, or a drawn one."""

from __future__ import annotations

import torch
from torch import Tensor

from florence2.config import DecodingPolicy
from florence2.generation.rows import Generated, Rows


class Greedy:
    """Greedy search, or sampling where the policy has a temperature."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.lengths = torch.full_like(rows.ids[:, 0], rows.length)  # (B,), start token included
        self.noise = Noise(rows.policy.seed) if rows.policy.temperature > 0 else None

    def step(self) -> Tensor:
        """Write one token behind each row; (B,) True where the answer is finished."""
        rows = self.rows
        scores = rows.scores()  # (B, V)
        ranking = scores if self.noise is None else self.noise.disturb(temper(scores, rows.policy))
        tokens = ranking.argmax(-1)
        logprobs = scores.gather(1, tokens[:, None])[:, 0]
        self.lengths += ~rows.finished
        if len(tokens) > 1:  # a single answer is asked no further when it is finished
            tokens = tokens.masked_fill(rows.finished, rows.pad_id)
            logprobs = logprobs.masked_fill(rows.finished, 0.0)
        rows.extend(tokens, logprobs)
        rows.finished = rows.finished | (tokens == rows.eos_id)
        return rows.finished

    def keep(self, images: Tensor) -> None:
        self.lengths = self.lengths[images]
        self.rows.keep(images)

    def answers(self) -> list[list[Generated]]:
        """One answer per photo, in a list of its own."""
        rows, penalty = self.rows, self.rows.policy.length_penalty
        columns = (rows.ids, rows.logprobs, self.lengths, rows.truncated)
        return [
            [
                Generated(
                    tuple(ids[:length]),
                    tuple(logprobs[: length - 1]),
                    truncated,
                    sum(logprobs[: length - 1]) / (length - 1) ** penalty,
                )
            ]
            for ids, logprobs, length, truncated in zip(*(column.tolist() for column in columns), strict=True)
        ]


class Noise:
    """Turns an argmax into a draw: argmax(log p + Gumbel noise) is distributed as p.

    With a seed all rows get the same noise, so that an answer depends on the photo and the seed and not on
    what else is in the batch; without one every row gets its own. It is drawn on the CPU, the same for all devices.
    """

    def __init__(self, seed: int | None) -> None:
        self.shared = seed is not None
        self.generator = torch.Generator()
        if seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(seed)

    def disturb(self, scores: Tensor) -> Tensor:
        rows = 1 if self.shared else scores.shape[0]
        exponential = torch.empty(rows, scores.shape[1]).exponential_(generator=self.generator)
        return scores - exponential.log().to(scores.device)


def temper(scores: Tensor, policy: DecodingPolicy) -> Tensor:
    """Log-probabilities sharpened or flattened, then the tail cut off: -inf outside of top_k and top_p."""
    scores = scores / policy.temperature
    if 0 < policy.top_k < scores.shape[-1]:
        weakest = scores.topk(policy.top_k, dim=-1).values[:, -1:]
        scores = scores.masked_fill(scores < weakest, float("-inf"))
    if policy.top_p < 1:
        ranked, order = scores.softmax(-1).sort(dim=-1, descending=True)
        # A token stays while the tokens before it have not reached top_p, so the first always stays.
        outside = ranked.cumsum(-1) - ranked >= policy.top_p
        scores = scores.masked_fill(outside.gather(-1, order.argsort(-1)), float("-inf"))
    return scores
