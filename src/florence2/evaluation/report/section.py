"""What the page says about one benchmark: protocol, figures, plots, classes, errors, pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from florence2.evaluation.benchmarks.records import Published
from florence2.evaluation.metrics import calibration
from florence2.evaluation.outcomes import Curve, Judged, Outcome
from florence2.evaluation.report import figures, plots
from florence2.evaluation.report.gallery import gallery
from florence2.evaluation.report.markup import (
    Html,
    body_rows,
    folded,
    foreign,
    frame,
    head_row,
    join,
    lines,
    table,
    tag,
)

Mark = Callable[[str], Html]
"""From a source to the mark of its footnote."""

SHOWN_CLASSES = 12
"""Tables of more classes are folded."""
SHOWN_ERRORS, MOST_ERRORS = 5, 200
"""More errors than the first are folded; more than the second are counted, not listed."""
ENOUGH_CASES = 8
"""A histogram of fewer says nothing."""


def section(outcome: Outcome, name: str, mark: Mark) -> Html:
    """``name`` is the benchmark's own on this page: the target of links, and the salt of its plots."""
    benchmark = outcome.benchmark
    return tag(
        "section",
        "\n",
        lines(
            tag("h3", foreign(benchmark.title), " ", templated_badge() if benchmark.templated else ""),
            tag(
                "p", tag("code", benchmark.name), f" · {size(outcome)} · ", tag("code", benchmark.task), class_="faint"
            ),
            tag("p", benchmark.protocol) if benchmark.protocol else "",
            _troubles(outcome),
            _figures(outcome, mark),
            _plots(outcome, name),
            _classes(outcome),
            _errors(outcome),
            gallery(outcome),
        ),
        "\n",
        class_="benchmark",
        id=name,
    )


def templated_badge() -> Html:
    return tag("span", "templated", class_="badge", title="Questions or expressions that a program wrote")


def size(outcome: Outcome) -> str:
    photos = len({sample.photo for sample in outcome.samples})
    return f"{figures.many(len(outcome.samples), 'sample')} of {figures.many(photos, 'photo')}"


def _troubles(outcome: Outcome) -> Html:
    """What the figures do not show: answers that were cut off or partly left out."""
    cut = sum(answer.truncated for answer in outcome.answers)
    dropped = sum(bool(answer.dropped) for answer in outcome.answers)
    parts = [
        f"{figures.many(cut, 'answer was', 'answers were')} cut off by the token budget" if cut else "",
        f"of {figures.many(dropped, 'answer')} parts made no sense and were left out" if dropped else "",
    ]
    said = "; ".join(filter(None, parts))
    return tag("p", said[0].upper() + said[1:] + ".", class_="faint") if said else Html("")


# Figures


def _figures(outcome: Outcome, mark: Mark) -> Html:
    """Ours with intervals, the blind ones, and a column for each model whose numbers are published."""
    ours, blind, paper = outcome.measured.figures, outcome.blind, outcome.benchmark.paper
    models = list(dict.fromkeys(p.model for p in paper))
    head = [tag("span", "figure"), "measured", "95 % interval", *(["blind"] if blind is not None else [])]
    main = outcome.benchmark.main
    names = list(dict.fromkeys([*([main] if main in ours else []), *ours, *(p.figure for p in paper)]))

    def row(name: str) -> list[str]:
        printed = {p.model: join([figures.shown(name, p.value), mark(p.source)]) for p in paper if p.figure == name}
        return [
            figures.titled(name),
            figures.shown(name, ours.get(name)),
            figures.interval(name, outcome.intervals.get(name)),
            *([figures.shown(name, blind.get(name))] if blind is not None else []),
            *(printed.get(model, figures.MISSING) for model in models),
        ]

    rows = [
        Html(body_rows([row(name)]).replace("<tr>", '<tr class="main">')) if name == main else body_rows([row(name)])
        for name in names
    ]
    return frame(head_row([*head, *map(foreign, models)]), tag("tbody", "\n", lines(*rows), "\n"))


def published(paper: Sequence[Published], main: str, mark: Mark) -> Html:
    """The printed numbers of the main figure, or of what was printed instead; one model a line."""
    wanted = [p for p in paper if p.figure == main] or list(paper)
    said = [
        join(
            [
                foreign(p.model),
                " " if p.figure == main else join([" ", foreign(p.figure), " "]),
                tag("b", figures.shown(p.figure, p.value)),
                mark(p.source),
            ]
        )
        for p in wanted
    ]
    return join(said, tag("br")) if said else Html(figures.MISSING)


# Plots


def _plots(outcome: Outcome, name: str) -> Html:
    measured = outcome.measured
    shown = [
        _precision_recall(outcome, f"{name}-pr") if measured.curves else "",
        _reliability("Reliability before calibration", outcome.uncalibrated, f"{name}-before")
        if outcome.uncalibrated
        else "",
        _reliability(
            "Reliability" if outcome.uncalibrated is None else "Reliability after calibration",
            measured.judged,
            f"{name}-reliability",
        )
        if measured.judged
        else "",
        _histogram(outcome, f"{name}-cases"),
    ]
    drawn = [tag("figure", plot) for plot in shown if plot]
    return tag("div", "\n", lines(*drawn), "\n", class_="plots") if drawn else Html("")


def _precision_recall(outcome: Outcome, name: str) -> Html:
    first, *classes = outcome.measured.curves
    counts = {label: of.get("count") or 0 for label, of in outcome.measured.classes.items()}
    chosen: list[Curve] = sorted(classes, key=lambda curve: -counts.get(curve.name, 0))[: len(plots.SERIES)]
    left_out = "" if len(chosen) == len(classes) else f"; the {len(chosen)} most frequent of {len(classes)} classes"
    colours = ("var(--main)", *plots.SERIES)
    return lines(
        tag("figcaption", tag("b", "Precision over recall"), f" at IoU 0.5{left_out}"),
        plots.precision_recall([first, *chosen], name),
        _key((colour, 1.0, curve.name) for colour, curve in zip(colours, [first, *chosen], strict=False)),
    )


def _reliability(title: str, judged: Sequence[Judged], name: str) -> Html:
    confidences, right = [j.score for j in judged], [j.right for j in judged]
    ece, brier = calibration.ece(confidences, right), calibration.brier(confidences, right)
    said = f" ECE {100 * ece:.1f} %, Brier {brier:.3f}, {figures.many(len(judged), 'judgement')}"
    gaps = (("var(--gap)", plots.PALE, "too sure"), ("var(--main)", plots.PALE, "too unsure"))
    return lines(tag("figcaption", tag("b", title), tag("br"), said), plots.reliability(judged, name), _key(gaps))


def _key(entries: Iterable[tuple[str, float, str]]) -> Html:
    """Which colour, of which opacity, is what."""
    return tag(
        "ul",
        *(
            tag("li", tag("i", style=f"background: {colour}; opacity: {opacity:g}"), foreign(meaning))
            for colour, opacity, meaning in entries
        ),
        class_="key",
    )


def _histogram(outcome: Outcome, name: str) -> Html:
    """Where there is more to see than the mean says."""
    case = outcome.measured.case
    values = [value * figures.factor(case) for value in outcome.measured.cases if value is not None]
    if len(values) < ENOUGH_CASES or len(set(values)) < 3:
        return Html("")
    top = max(100.0, *values)
    said = f" of {figures.many(len(values), 'sample')}"
    return lines(tag("figcaption", tag("b", figures.titled(case)), said), plots.histogram(values, top, name))


# Classes and errors


def _classes(outcome: Outcome) -> Html:
    classes = outcome.measured.classes
    if not classes:
        return Html("")
    names = [n for n in dict.fromkeys(name for of in classes.values() for name in of) if n != "count"]
    ordered = sorted(classes.items(), key=lambda item: (-(item[1].get("count") or 0), item[0]))
    listed = table(
        ["class", "number", *map(figures.titled, names)],
        [
            [
                foreign(label),
                figures.shown("count", of.get("count")),
                *(figures.shown(name, of.get(name)) for name in names),
            ]
            for label, of in ordered
        ],
    )
    title = figures.many(len(classes), "class", "classes")
    return folded(title, listed, open_=len(classes) <= SHOWN_CLASSES)


def _errors(outcome: Outcome) -> Html:
    errors = sorted(outcome.errors.items())
    if not errors:
        return Html("")
    rows = [[foreign(outcome.samples[number].id), foreign(message)] for number, message in errors[:MOST_ERRORS]]
    left_out = len(errors) - len(rows)
    listed = lines(
        _kinds(outcome) if left_out else "",
        table(["sample", "error"], rows, "words"),
        tag("p", f"and {figures.number(left_out)} more", class_="faint") if left_out else "",
    )
    title = tag("span", figures.many(len(errors), "error"), class_="bad")
    return folded(title, listed, open_=len(errors) <= SHOWN_ERRORS)


def _kinds(outcome: Outcome) -> Html:
    """The most frequent messages, where there are too many to list."""
    counted = Counter(outcome.errors.values()).most_common(5)
    return table(["message", "number"], [[foreign(text), figures.number(count)] for text, count in counted])
