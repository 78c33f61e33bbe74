"""Guesses of what comes next: right ones save looks at the model, wrong ones change nothing.

Several tokens are read in one step and each is compared with what the search chooses there. So the answer is that of
the search without guesses; the steps are fewer. Source: speculative decoding (Leviathan et al. 2023), with the prompt
(prompt lookup, Saxena 2023) or an earlier answer in the place of a small model.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from typing import Protocol

FORCED = 2
"""The start token and ``<s>``."""
AHEAD = 6
"""Tokens that are guessed at once, at most. Up to three cost a processor a tenth more than none, six half more."""
BOX = 4
"""Locations of a box."""
DETERMINERS = (
    "a an the his her their its this that these those some many several other another one two three four five six"
)
OPENING = re.compile(
    rf"\b(?:{DETERMINERS.replace(' ', '|')})\b|(?:(?<=\bwith )|(?<=\band )|(?<=\bof )|(?<=\bwearing ))\w",
    re.IGNORECASE,
)
"""Where a phrase that names things is likely to begin, in English."""
BEHIND = (
    "and are at behind beside by eating from holding in into is looking near next on or over parked playing riding "
    "sitting standing that through to under walking was wearing were which while who with"
)
CLOSING = re.compile(rf"(?<=\w)(?=[,.;:!?]|\s(?:{BEHIND.replace(' ', '|')})\b)", re.IGNORECASE)
"""Where it is likely to end: what is guessed behind that is read for nothing."""


class Draft(Protocol):
    def propose(self, written: Sequence[int]) -> list[int]:
        """The tokens that may follow ``written`` (the start token included); none where there is no idea."""
        ...


class FromText:
    """Answers that repeat words of a given text, such as the phrases of a caption: what follows them there.

    Words are compared as text: the same word has other ids at the beginning of a phrase than within the caption.
    """

    def __init__(
        self,
        text: str,
        encode: Callable[[str], list[int]],
        decode: Callable[[list[int]], str],
        is_word: Callable[[int], bool],
    ) -> None:
        """``is_word`` tells ids that write text; all others end a phrase."""
        self.text, self.encode, self.decode, self.is_word = text, encode, decode, is_word

    def propose(self, written: Sequence[int]) -> list[int]:
        if len(written) == FORCED:
            return self._guess(0)
        if not self.is_word(written[-1]) and not self._between_boxes(written):
            return []
        place: int | None = None  # in the text, where the answer may go on
        end = 0
        for words, run in itertools.groupby(written[FORCED:], self.is_word):
            ids = list(run)
            if words:  # looked for behind the last place, so that phrases go through the text
                said = self.decode(ids)
                found = self.text.find(said, end)
                found = self.text.find(said) if found < 0 else found
                end = found + len(said) if found >= 0 else end
                place = end if found >= 0 else None
        if not self.is_word(written[-1]):
            place = self._next_phrase(end)
        return [] if place is None else self._guess(place)

    def _between_boxes(self, written: Sequence[int]) -> bool:
        locations = itertools.takewhile(lambda id: not self.is_word(id), reversed(written[FORCED:]))
        return sum(1 for _ in locations) % BOX == 0

    def _guess(self, place: int) -> list[int]:
        """The words of the text from there to where a phrase is likely to end."""
        closing = CLOSING.search(self.text, place + 1)  # one that stands at the very place is behind us
        return self.encode(self.text[place : closing.start() if closing else None])[:AHEAD]

    def _next_phrase(self, end: int) -> int | None:
        """Where the text may go on to be grounded behind a box: at the next article, number or the like."""
        found = OPENING.search(self.text, end)
        return found.start() if found else None


class FromAnswer:
    """Answers that hardly differ from an earlier one, such as that of a video's last frame: the same place there."""

    def __init__(self, answer: Sequence[int]) -> None:
        self.answer = list(answer)

    def propose(self, written: Sequence[int]) -> list[int]:
        """What stands there behind as many tokens, where the last written one stands there too."""
        n = len(written)
        if n < len(self.answer) and written[-1] == self.answer[n - 1]:
            return self.answer[n : n + AHEAD]
        return []
