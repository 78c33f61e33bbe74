"""The little English that is needed: plurals, articles, lists, words for places and texts."""

from __future__ import annotations

from florence2.data.scenes.texts import Piece

PLACES = {
    "top left": ("in the top left corner", "in the upper left corner", "at the top left"),
    "top right": ("in the top right corner", "in the upper right corner", "at the top right"),
    "bottom left": ("in the bottom left corner", "in the lower left corner", "at the bottom left"),
    "bottom right": ("in the bottom right corner", "in the lower right corner", "at the bottom right"),
    "left": ("on the left", "on the left side", "at the left side"),
    "right": ("on the right", "on the right side", "at the right side"),
    "top": ("at the top", "near the top", "in the upper part"),
    "bottom": ("at the bottom", "near the bottom", "in the lower part"),
    "middle": ("in the middle", "in the center"),
}
BESIDE = {
    "left": ("to the left of", "left of", "on the left of"),
    "right": ("to the right of", "right of", "on the right of"),
    "above": ("above", "over"),
    "below": ("below", "under", "beneath"),
}

_FEW = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_PLURALS = {
    "fish": "fish",
    "leaf": "leaves",
    "person": "people",
    "man": "men",
    "woman": "women",
    "child": "children",
    "mouse": "mice",
    "knife": "knives",
    "sheep": "sheep",
    "aircraft": "aircraft",
    "ice cream": "ice creams",
    "goose": "geese",
    "shelf": "shelves",
}
_SEVERAL_ALREADY = frozenset(("scissors", "skis", "pants", "glasses", "shorts", "jeans", "sunglasses", "trousers"))


def plural(label: str) -> str:
    head, _, last = label.rpartition(" ")
    if label in _PLURALS or last in _PLURALS:
        return _PLURALS.get(label) or f"{head} {_PLURALS[last]}".strip()
    if last in _SEVERAL_ALREADY:
        return label
    if last.endswith(("s", "x", "z", "ch", "sh")):
        return f"{label}es"
    if last.endswith("y") and last[-2:-1] not in tuple("aeiou"):
        return f"{label[:-1]}ies"
    return f"{label}s"


def number_word(count: int) -> str:
    return _FEW[count] if count < len(_FEW) else str(count)


def counted(count: int, one: str, several: str) -> str:
    """ "one car", "two cars", "14 cars"."""
    return f"{number_word(count)} {one if count == 1 else several}"


def with_article(words: str) -> str:
    """ "a car", "an umbrella"."""
    if words.rpartition(" ")[2] in _SEVERAL_ALREADY:
        return f"some {words}"
    return f"{'an' if words[0].lower() in 'aeiou' else 'a'} {words}"


def printed(piece: Piece) -> str:
    """What a text is: a number, a word, words."""
    text = piece.text
    if not any(letter.isalpha() for letter in text):
        return "number" if text.replace(",", "").replace(".", "").isdigit() else "text"
    return "word" if text.isalpha() else "words" if " " in text else "text"
