"""Several rows per photo: beam search by the rules of the reference.

The rules are those of transformers 4.46, which Microsoft's code runs with. Per photo and step the 2K best
continuations of its K beams are walked by rank: ``</s>`` makes a finished answer if its rank is below K, and the
best K others go on. A photo keeps its K best finished answers and is done when there are K of them and, without
early stopping, none of the continuations could still beat the worst. The walk is a handful of sorts here,
over all photos together.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from florence2.generation.rows import Generated, Rows

DEAD = float("-inf")
"""Sum of a beam that stands for nothing: a place not yet filled, or a way that the grammar has closed."""


class Beams:
    """K = policy.num_beams rows per photo."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.K = rows.policy.num_beams
        R = rows.ids.shape[0]
        # All beams begin alike: until the first choice only one of them is alive.
        self.sums = rows.logprobs.new_full((R // self.K, self.K), DEAD)  # (B, K), best first
        self.sums[:, 0] = 0.0
        self.done = torch.zeros_like(self.sums[:, 0], dtype=torch.bool)
        self.best = self._finished(self.sums.new_full(self.sums.shape, DEAD), torch.arange(R, device=rows.ids.device))

    def step(self) -> Tensor:
        """Write one token behind each beam; (B,) True where the photo is done."""
        rows, K = self.rows, self.K
        scores = rows.scores()  # (B*K, V)
        B, V = self.sums.shape[0], scores.shape[1]
        totals = self.sums[:, :, None] + scores.view(B, K, V)
        ranked, index = totals.view(B, K * V).topk(2 * K, dim=-1)  # (B, 2K)
        tokens = index % V
        parents = index // V + K * torch.arange(B, device=index.device)[:, None]
        logprobs = scores[parents, tokens]

        ends = tokens == rows.eos_id
        weighted = (
            ranked / rows.length**rows.policy.length_penalty
        )  # the length with this token, without the start token
        finished = weighted[:, :K].masked_fill(~ends[:, :K] | self.done[:, None], DEAD)
        if (finished > DEAD).any():
            self.best = self.best.merged(self._finished(finished, parents[:, :K], tokens[:, :K], logprobs[:, :K]))
        worst = self.best.scores[:, -1]
        settled = worst > DEAD
        if not rows.policy.early_stopping:
            settled &= worst >= weighted[:, 0]

        onward = ends.int().argsort(dim=-1, stable=True)[:, :K]  # the best K that go on, in their order
        self.sums = ranked.masked_fill(ends, DEAD).gather(1, onward)
        self.done = self.done | settled | (self.sums[:, 0] == DEAD)
        rows.extend(*(column.gather(1, onward).flatten() for column in (tokens, logprobs, parents)))
        return self.done

    def keep(self, images: Tensor) -> None:
        """Go on with these photos only, (n,) int64."""
        self.sums, self.done = self.sums[images], self.done[images]
        self.best = Hypotheses(*(getattr(self.best, field.name)[images] for field in fields(Hypotheses)))
        self.rows.keep(images)

    def answers(self) -> list[list[Generated]]:
        """Per photo its answers, best first. Where it is not done the beams as they stand are answers too."""
        unfinished = self.sums / (self.rows.length - 1) ** self.rows.policy.length_penalty
        unfinished = unfinished.masked_fill(self.done[:, None], DEAD)
        everyone = torch.arange(self.sums.numel(), device=self.sums.device)
        return self.best.merged(self._finished(unfinished, everyone)).read()

    def _finished(
        self, scores: Tensor, parents: Tensor, tokens: Tensor | None = None, logprobs: Tensor | None = None
    ) -> Hypotheses:
        """Rows ``parents`` (B, K), with one token more where ``tokens`` are given, as answers with these scores."""
        rows, n = self.rows, self.rows.length
        parents = parents.view_as(scores)
        ids, sums = rows.ids[parents], rows.logprobs[parents]
        if tokens is not None and logprobs is not None:
            ids[:, :, n], sums[:, :, n - 1] = tokens, logprobs
            n += 1
        return Hypotheses(scores, ids, sums, torch.full_like(parents, n), rows.truncated[parents])


@dataclass(frozen=True)
class Hypotheses:
    """The K best finished answers of each photo, best first; places without one have the score -inf."""

    scores: Tensor  # (B, K)
    ids: Tensor  # (B, K, N+1)
    logprobs: Tensor  # (B, K, N)
    lengths: Tensor  # (B, K), start token included
    truncated: Tensor  # (B, K)

    def merged(self, others: Hypotheses) -> Hypotheses:
        """The best K of both; an older answer comes before a newer one of the same score."""
        together = [torch.cat([getattr(self, f.name), getattr(others, f.name)], dim=1) for f in fields(self)]
        order = together[0].argsort(dim=1, descending=True, stable=True)[:, : self.scores.shape[1]]
        photos = torch.arange(order.shape[0], device=order.device)[:, None]
        return Hypotheses(*(column[photos, order] for column in together))

    def read(self) -> list[list[Generated]]:
        """Per photo its answers, best first."""
        columns = (getattr(self, field.name).tolist() for field in fields(self))
        return [
            [
                Generated(tuple(ids[:length]), tuple(logprobs[: length - 1]), truncated, score)
                for score, ids, logprobs, length, truncated in zip(*photo, strict=True)
                if score > DEAD
            ]
            for photo in zip(*columns, strict=True)
        ]
