"""The page as a whole: what was evaluated, the summary of all benchmarks, the sections, the sources."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from florence2.errors import DataError
from florence2.evaluation.outcomes import Outcome
from florence2.evaluation.report import figures, plots
from florence2.evaluation.report.markup import Html, body_rows, foreign, frame, head_row, join, lines, tag
from florence2.evaluation.report.section import published, section, templated_badge
from florence2.evaluation.report.style import CSS

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""The browser itself refuses to load anything."""

_HUMAN, _TEMPLATED = "Written by people", "Templated: questions or expressions that a program wrote"


@dataclass(frozen=True, kw_only=True)
class Header:
    model: str
    """Who answered."""
    details: Mapping[str, object]
    """Model, options, versions: shown as a small table."""
    command: str
    """What makes this report again."""


def write(outcomes: Sequence[Outcome], header: Header, path: Path) -> None:
    """The report of these outcomes as one HTML file that needs nothing else.

    An older file is replaced when the new one is whole. Photos are loaded one after the other; one that cannot be
    loaded leaves a placeholder. Raises MissingDependencyError without matplotlib; DataError without outcomes, for a
    score outside of [0, 1], and where the file cannot be written.
    """
    plots.require()
    if not outcomes:
        raise DataError("there is nothing to report; give the outcome of at least one benchmark")
    page = _page(outcomes, header)
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(page.encode())
        os.replace(part, path)
    except OSError as error:
        raise DataError(f"the report cannot be written to {path} ({error.strerror}); name another file") from error


def _page(outcomes: Sequence[Outcome], header: Header) -> str:
    sources = _Sources()
    named = [(f"benchmark-{number}", outcome) for number, outcome in enumerate(_in_order(outcomes), start=1)]
    # Notes are numbered in the order of the page, so the parts are made in this order.
    title = f"Evaluation of {header.model}"
    parts = [
        tag("h1", "Evaluation of ", foreign(header.model)),
        tag("p", _extent(outcomes), class_="faint"),
        tag("h2", "Summary"),
        _summary(named, sources),
        _legend(outcomes),
        tag("h2", "Benchmarks"),
        *(section(outcome, name, sources.mark) for name, outcome in named),
    ]
    parts += [
        sources.listed(),
        tag("h2", "How this was made"),
        _details(header.details),
        tag("p", "The command that makes this report again:"),
        tag("pre", tag("code", header.command)),
    ]
    head = lines(
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("title", title),
        tag("style", Html(CSS)),
    )
    body = tag("main", "\n", lines(*parts), "\n")
    return (
        "<!DOCTYPE html>\n"
        + tag("html", "\n", tag("head", "\n", head, "\n"), "\n", tag("body", "\n", body, "\n"), "\n", lang="en")
        + "\n"
    )


def _in_order(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """What people wrote first, what programs wrote after it."""
    return sorted(outcomes, key=lambda outcome: outcome.benchmark.templated)


def _extent(outcomes: Sequence[Outcome]) -> str:
    samples = figures.many(sum(len(outcome.samples) for outcome in outcomes), "sample")
    return f"{figures.many(len(outcomes), 'benchmark')}, {samples}"


class _Sources:
    """Footnotes: each source has one number, that of its first mention."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def mark(self, source: str) -> Html:
        number = self._numbers.setdefault(source, len(self._numbers) + 1)
        return tag("sup", tag("a", str(number), href=f"#source-{number}"))

    def listed(self) -> Html:
        if not self._numbers:
            return Html("")
        items = (tag("li", foreign(source), id=f"source-{number}") for source, number in self._numbers.items())
        return lines(tag("h2", "Sources of published numbers"), tag("ol", *items, class_="sources"))


# Summary


def _summary(named: Sequence[tuple[str, Outcome]], sources: _Sources) -> Html:
    outcomes = [outcome for _, outcome in named]
    blind = any(outcome.blind is not None for outcome in outcomes)
    errors = any(outcome.errors for outcome in outcomes)
    head = ["benchmark", "figure", "measured", "95 % interval", *(["blind"] if blind else []), "published"]
    head += ["samples", "photos", *(["errors"] if errors else [])]
    grouped: list[Html] = []
    mixed = len({outcome.benchmark.templated for outcome in outcomes}) == 2
    for templated, title in ((False, _HUMAN), (True, _TEMPLATED)):
        rows = [_row(n, o, sources, errors, blind) for n, o in named if o.benchmark.templated == templated]
        if rows:
            heading = tag("tr", tag("th", title, colspan=str(len(head)), scope="rowgroup"), class_="group")
            shown = lines(heading if mixed or templated else "", body_rows(rows))
            grouped.append(tag("tbody", "\n", shown, "\n"))
    return frame(head_row(head), *grouped, class_="summary")


def _row(name: str, outcome: Outcome, sources: _Sources, errors: bool, blind: bool) -> list[str]:
    benchmark, main = outcome.benchmark, outcome.benchmark.main
    link = tag("a", foreign(benchmark.title), href=f"#{name}")
    found = figures.number(len(outcome.errors)) if outcome.errors else figures.MISSING
    return [
        join([link, " ", templated_badge()]) if benchmark.templated else link,
        figures.titled(main),
        tag("b", figures.shown(main, outcome.measured.figures.get(main))),
        figures.interval(main, outcome.intervals.get(main)),
        *([figures.shown(main, outcome.blind.get(main) if outcome.blind else None)] if blind else []),
        published(benchmark.paper, main, sources.mark),
        figures.number(len(outcome.samples)),
        figures.number(len({sample.photo for sample in outcome.samples})),
        *([tag("span", found, class_="bad" if outcome.errors else "")] if errors else []),
    ]


def _legend(outcomes: Sequence[Outcome]) -> Html:
    """How to read the figures; only what this page has."""
    said = ["Intervals are 95 % bootstrap intervals over photos."]
    if any(outcome.blind is not None for outcome in outcomes):
        said.append("Blind: the same questions asked about other photos, which is what can be had without looking.")
    if any(outcome.benchmark.paper for outcome in outcomes):
        said.append("Published numbers are as printed in the sources below; protocols may differ as each section says.")
    said.append("↓: less is better. –: does not exist.")
    return tag("p", " ".join(said), class_="faint")


# Details


def _details(details: Mapping[str, object]) -> Html:
    rows = [[foreign(name), _value(value)] for name, value in details.items()]
    return frame(tag("tbody", "\n", body_rows(rows), "\n"), class_="words") if rows else Html("")


def _value(value: object) -> Html:
    if isinstance(value, Mapping):
        return join((join([foreign(str(key)), " = ", _value(inner)]) for key, inner in value.items()), ", ")
    if isinstance(value, str):
        return foreign(value)
    return foreign(json.dumps(value, ensure_ascii=False, default=str))
