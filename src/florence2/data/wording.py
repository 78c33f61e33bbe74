"""What a text claims about places, so that it can be kept true, or left out, when its photo changes.

    mirrored("the LEFT-hand cup")  ->  "the RIGHT-hand cup"

English, and 左 and 右. In other languages no word for a side is found: photos with such texts must not be mirrored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_SWAPPED = {"left": "right", "Left": "Right", "LEFT": "RIGHT", "左": "右"}
_SWAPPED |= {there: here for here, there in _SWAPPED.items()}
_COMPOUND = r"(?i:most|hand|handed|hander|wards?|side)"
_SIDE = re.compile(
    rf"(?<![A-Za-z])(?:left|Left|LEFT|right|Right|RIGHT)(?=(?:{_COMPOUND})?(?![A-Za-z]))|左|右"
)  # not in "bright", "rights", "leftovers"
_LONGER = re.compile(rf"[-_ ]?{_COMPOUND}(?![A-Za-z])")

_MARKED_AS_SIDE = re.compile(
    r"(?<![a-z'])(?:the|on|to|at|from|of|towards?|far|extreme|top|bottom|upper|lower|front|back|rear|his|her|its|their"
    r"|your|my|turn|turning|facing|looking)[ _-]+$",
    re.IGNORECASE,
)
"""Before "left" or "right": whatever follows, it is a side."""
_NO_SIDE_BEHIND = re.compile(
    r"(?<![a-z'])(?:is|are|was|were|be|been|being|has|have|had|having|just|all|not|that's|it's)[ _-]+$",
    re.IGNORECASE,
)
_NO_SIDE_BEFORE = re.compile(
    r"[ _-]+(?:an?|the|his|her|its|their|in|on|at|by|to|towards?|with|for|into|through|out|over|under|up|down|off|about"
    r"|around|above|below|beneath|behind|beside|before|after|near|next|past|along|across|against|inside|outside|between"
    r"|now|away|here|there|then|alone|open|unattended|angle[sd]?)(?![a-z'])",
    re.IGNORECASE,
)

_NEVER_MIRRORED = re.compile(
    r"""["“”«»]|clockwise|左右|右左|(?<![a-z])(?:says?|said|saying|reads|written|spell\w*|words?|letters?|text|numbers?
    |numbered|logos?|license\ plates?|licence\ plates?|what\ time)(?![a-z])""",
    re.IGNORECASE | re.VERBOSE,
)
_PLACES = re.compile(
    r"(?<![a-z])(?:(?:left|right)(?:most|hand|handed|wards?|side)?|top|topmost|bottom|bottommost|upper|lower|middle"
    r"|cent(?:er|re|ral)|corners?)(?![a-z])|左|右",
    re.IGNORECASE,
)
_RANKS = re.compile(
    r"(?<![a-z])(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|last|next|\d+(?:st|nd|rd|th)|[a-z]*most"
    r"|(?:larg|small|bigg|tall|short|long|wid|thinn|near|clos|farth|furth|high|low|dark|bright|light)est|only|other"
    r"|another|than)(?![a-z])",
    re.IGNORECASE,
)
_COUNTS = re.compile(
    r"(?<![a-z])(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\d+|both|pair|couple|trio|all|each|every)"
    r"(?![a-z])",
    re.IGNORECASE,
)


def mirrored(text: str) -> str:
    """The text with its sides swapped; its own inverse."""
    return _SIDE.sub(lambda match: _SWAPPED[match[0]], text)


def mirrored_start(text: str, start: int) -> int:
    """Where the letter at ``start`` of ``text`` stands in ``mirrored(text)``."""
    return start + sum(len(_SWAPPED[m[0]]) - len(m[0]) for m in _SIDE.finditer(text) if m.end() <= start)


def may_be_mirrored(texts: Iterable[str]) -> bool:
    """False where a text speaks of something printed or of a sense of turning, which a mirror image shows reversed,
    and where "left" or "right" is likely to be no side ("has left", "right next to"): nobody can swap these safely.

    The same for texts and for their mirrored forms.
    """
    joined = "\n".join(texts)
    return not _NEVER_MIRRORED.search(joined) and not any(_doubtful(joined, match) for match in _SIDE.finditer(joined))


def _doubtful(text: str, match: re.Match[str]) -> bool:
    if _LONGER.match(text, match.end()):
        return False
    if text[: match.start()].endswith(", ") and text.startswith("?", match.end()):  # "It is a dog, right?"
        return True
    before = max(0, match.start() - 20), match.start()
    if _MARKED_AS_SIDE.search(text, *before):
        return False
    return bool(_NO_SIDE_BEHIND.search(text, *before) or _NO_SIDE_BEFORE.match(text, match.end()))


def says_where(text: str) -> bool:
    """It names a part of the picture, or a side: "top left", "in the corner"."""
    return _PLACES.search(text) is not None


def ranks(text: str) -> bool:
    """It compares with others: "the second", "the largest", "the other"."""
    return _RANKS.search(text) is not None


def counts(text: str) -> bool:
    """It says how many: "two dogs", "both"."""
    return _COUNTS.search(text) is not None
