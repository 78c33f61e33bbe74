"""The answers that are being written: R decoder rows, their tokens so far, the cache and the constraint.

A search asks for :meth:`Rows.scores`, chooses, and calls :meth:`Rows.extend`; what may be said is decided here,
what is said is decided there. Every row is at the same length, a finished one gets padding.

Source: the order of the rules is that of the reference (log-softmax, n-gram ban, forced first token, forced
last token); the grammar stands between the ban and the forced tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from florence2.config import DecodingPolicy
from florence2.generation.constraints import Constraint
from florence2.generation.drafts import Draft
from florence2.language.quantizer import BINS
from florence2.model.runtime import EncodedRows, Runtime


@dataclass(frozen=True)
class Generated:
    """A finished row."""

    ids: tuple[int, ...]
    """The decoder's start token first, ``</s>`` last; no padding behind it."""
    logprobs: tuple[float, ...]
    """One per id after the first: its log-probability over the full vocabulary (without beams, over what the grammar
    allowed where that was locations only, or one token only), 0 where it was forced."""
    truncated: bool
    """The budget ended it: somewhere in this answer the model's best allowed token did not fit any more."""
    score: float
    """Sum of the log-probabilities / length ** length_penalty, the start token not counted."""


class Rows:
    """R = B * num_beams rows; rows b*num_beams .. read memory row b."""

    def __init__(
        self,
        model: Runtime,
        memory: EncodedRows,
        policy: DecodingPolicy,
        constraint: Constraint | None,
        draft: Draft | None = None,
    ):
        """``draft`` guesses what comes next where there is one row; it saves steps and never changes a choice."""
        text = model.config.text
        R, N = memory.rows * policy.num_beams, policy.max_new_tokens
        device = memory.states.device
        self.model, self.memory, self.policy, self.constraint = model, memory, policy, constraint
        self.eos_id, self.pad_id, self.vocab_size = text.eos_id, text.pad_id, text.vocab_size
        self.cache = model.new_cache(R, N)
        self.ids = torch.full((R, N + 1), text.pad_id, dtype=torch.long, device=device)
        self.ids[:, 0] = text.decoder_start_id
        self.logprobs = torch.zeros(R, N, device=device)
        """Of the token one place to the right in ``ids``."""
        self.finished = torch.zeros(R, dtype=torch.bool, device=device)
        self.truncated = torch.zeros(R, dtype=torch.bool, device=device)
        """The budget forbade the model's best token somewhere in this answer."""
        self.length = 1
        """Ids written, the start token included."""
        self.draft = draft if R == 1 else None
        self.ahead: list[Tensor] = []
        """Logits (1, V) of the next tokens, if the guesses that they stand behind turn out right."""
        self.guessed: list[int] = []
        ends_at_once = N == 1 and policy.forced_eos_id is not None
        if policy.forced_bos_id is not None and not ends_at_once:
            # The forced token needs no look at the model: it is read together with the start token.
            self.ids[:, 1] = policy.forced_bos_id
            self.length = 2

    @property
    def full(self) -> bool:
        return self.length == self.ids.shape[1]

    def scores(self) -> Tensor:
        """(R, V) float32 log-probabilities of the next token: -inf where it may not stand, 0 where it is forced.

        They are those of the full vocabulary; what is forbidden does not raise the rest. Only where a single row per
        photo must write a location, they are those of the location tokens.
        """
        allowed = None if self.constraint is None else self.constraint.allowed()
        if allowed is not None and self._no_choice():
            return torch.zeros_like(allowed, dtype=torch.float32).masked_fill(~allowed, float("-inf"))
        raw = self._logprobs()
        left = self.ids.shape[1] - self.length  # tokens that may still be written, this one included
        size = self.policy.no_repeat_ngram_size
        banned = repeats_ngram(self.ids[:, : self.length], size, raw.shape[1]) if size else None
        scores = _restrict(raw, allowed, banned)
        if self.constraint is not None and allowed is not None and left < self.constraint.patience:
            within = self.constraint.within(left)
            self._note_pressure(scores, within)
            scores = _restrict(raw, allowed & within, banned)
        several = scores.shape[0] > 1  # a single row that is forced does not come here
        if self.constraint is not None and allowed is not None and self.policy.num_beams == 1 and several:
            scores = scores.masked_fill(self.constraint.forced()[:, None] & allowed, 0.0)  # as if it were alone
        if left == 1 and self.policy.forced_eos_id is not None:
            last = torch.zeros_like(scores, dtype=torch.bool)
            last[:, self.policy.forced_eos_id] = True
            self._note_pressure(scores, last)
            scores = torch.zeros_like(scores).masked_fill(~last, float("-inf"))
        return scores

    def _no_choice(self) -> bool:
        """Whether the grammar leaves each row one token. Without beams, which are compared, nobody has to look at the
        model then: it reads the token together with the next one."""
        if self.constraint is None or self.policy.num_beams > 1:
            return False
        if self.constraint.leaves_a_choice(self.finished):
            return False
        if self.ahead:  # looked up by a guess already
            self.ahead.pop(0)
        return True

    def _logprobs(self) -> Tensor:
        """(R, V) float32. The projection to a vocabulary of 51,289 takes as long as the rest of a step of BASE, and
        where only locations may stand it is not made: the other 50,289 are then -inf."""
        if self.constraint is None or self.policy.num_beams > 1:  # beams are compared: over the full vocabulary
            return self._logits(None).float().log_softmax(-1)
        only, words = self.constraint.only_locations()
        if not bool((only | self.finished).all()):
            logits = self._logits(None).float()
            if len(only) > 1:  # some of them may write nothing else
                logits = logits.masked_fill(only[:, None] & self.constraint.no_location, float("-inf"))
            return logits.log_softmax(-1)
        logits = self._logits(words).float()
        if logits.shape[1] > BINS:  # looked up ahead, when nobody knew what would be allowed here
            logits = logits[:, words]
        raw = logits.new_full((logits.shape[0], self.vocab_size), float("-inf"))
        raw[:, words] = logits.log_softmax(-1)
        return raw

    def _logits(self, words: slice | None) -> Tensor:
        """Of the next token, (R, V) or (R, words): already there where a guess was right, else from the model."""
        if self.ahead:
            return self.ahead.pop(0)
        pending = self.ids[:, self.cache.length : self.length]
        if self.draft is not None:
            room = self.ids.shape[1] - self.length - 1
            self.guessed = self.draft.propose(self.ids[0, : self.length].tolist())[: max(0, room)]
            pending = torch.cat([pending, pending.new_tensor([self.guessed])], 1) if self.guessed else pending
        if self.guessed or words is None:
            logits = self.model.decode(pending, self.memory, self.cache)  # (R, n, V)
        else:
            logits = self.model.decode(pending, self.memory, self.cache, words)
        first = logits.shape[1] - len(self.guessed) - 1
        self.ahead = list(logits[:, first + 1 :].unbind(1))
        return logits[:, first]

    def _check_guess(self, tokens: Tensor) -> None:
        """A wrong guess takes back all that was looked up behind it."""
        if not self.guessed:
            return
        if self.guessed.pop(0) != int(tokens[0]):
            self.ahead, self.guessed = [], []
            self.cache.length = self.length

    def extend(self, tokens: Tensor, logprobs: Tensor, parents: Tensor | None = None) -> None:
        """Write one token (R,) and its log-probability (R,) behind each row, or behind the row's parent."""
        if parents is not None:
            n = self.length
            self.ids[:, :n] = self.ids[parents, :n]
            self.logprobs[:, : n - 1] = self.logprobs[parents, : n - 1]
            self.truncated = self.truncated[parents]
            self.cache.reorder(parents)
            if self.constraint is not None:
                self.constraint.reorder(parents)
        self._check_guess(tokens)
        self.ids[:, self.length] = tokens
        self.logprobs[:, self.length - 1] = logprobs
        self.length += 1
        if self.constraint is not None:
            self.constraint.advance(tokens)

    def keep(self, images: Tensor) -> None:
        """Go on with the rows of these images only, (n,) int64."""
        beams = self.policy.num_beams
        rows = (images[:, None] * beams + torch.arange(beams, device=images.device)).flatten()
        self.memory = self.memory.select(images)
        self.cache.select(rows)
        self.ids, self.logprobs = self.ids[rows], self.logprobs[rows]
        self.finished, self.truncated = self.finished[rows], self.truncated[rows]
        if self.constraint is not None:
            self.constraint.keep(rows)

    def _note_pressure(self, scores: Tensor, within: Tensor) -> None:
        best = scores.argmax(-1, keepdim=True)
        self.truncated |= ~within.gather(1, best)[:, 0] & ~self.finished


def repeats_ngram(ids: Tensor, size: int, vocab_size: int) -> Tensor:
    """(R, V) True for tokens that would complete a run of ``size`` ids that (R, L) ``ids`` already contains."""
    banned = torch.zeros(ids.shape[0], vocab_size + 1, dtype=torch.bool, device=ids.device)
    if ids.shape[1] >= size:
        windows = ids.unfold(1, size, 1)  # (R, L-size+1, size)
        start = ids[:, ids.shape[1] - size + 1 :]  # (R, size-1): what stands before the next token
        same = (windows[:, :, :-1] == start[:, None]).all(-1)
        # Runs that do not match write into the extra column, which is cut off: no index appears with two values.
        banned.scatter_(1, torch.where(same, windows[:, :, -1], vocab_size), True)
    return banned[:, :vocab_size]


def _restrict(raw: Tensor, allowed: Tensor | None, banned: Tensor | None) -> Tensor:
    """-inf outside of ``allowed`` and inside of ``banned``; the ban yields where it would leave nothing."""
    if banned is not None and allowed is not None:
        both = allowed & ~banned
        allowed = torch.where(both.any(-1, keepdim=True), both, allowed)
    elif banned is not None:
        allowed = ~banned
    return raw if allowed is None else torch.where(allowed, raw, float("-inf"))
