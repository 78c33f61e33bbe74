"""HTML that cannot be written unescaped: a plain string inside a tag is text, only ``Html`` is markup."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

_VOID = ("meta", "img", "br")
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""What HTML forbids or UTF-8 cannot write."""


class Html(str):
    """Markup, as opposed to text."""


def text(content: str) -> Html:
    """Text as markup: escaped, without the characters that a file of HTML cannot hold."""
    if isinstance(content, Html):
        return content
    return Html(html.escape(_UNPRINTABLE.sub("\ufffd", content.replace("\r\n", "\n"))))


def foreign(content: str) -> Html:
    """Text from data, in any script: its direction is its own and does not leak into what stands beside it."""
    return tag("bdi", content)


def tag(name: str, /, *children: str, **attributes: str | bool) -> Html:
    """An element. ``class_`` is written class; an attribute that is False or empty is left out, but ``alt`` is not."""
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{text(str(value))}"')
        for key, value in attributes.items()
        if value or (key == "alt" and value is not False)
    )
    if name in _VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(children)}</{name}>")


def join(parts: Iterable[str], between: str = "") -> Html:
    """Texts and markup, one after the other."""
    return Html(text(between).join(map(text, parts)))


def lines(*parts: str) -> Html:
    """Each on a line of the file; empty ones are left out."""
    return join(filter(None, parts), "\n")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], class_: str = "") -> Html:
    """A table that scrolls by itself where it is too wide; the first cell of a row names the row."""
    return frame(head_row(head), tag("tbody", "\n", body_rows(rows), "\n"), class_=class_)


def frame(*parts: str, class_: str = "") -> Html:
    return tag("div", tag("table", "\n", lines(*parts), "\n", class_=class_), class_="scroll")


def head_row(cells: Sequence[str]) -> Html:
    return tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in cells)))


def body_rows(rows: Iterable[Sequence[str]]) -> Html:
    return lines(
        *(tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in rows),
    )


def folded(summary: str, content: str, *, open_: bool = False) -> Html:
    """What a reader may unfold."""
    return tag("details", tag("summary", summary), "\n", content, open=open_)
