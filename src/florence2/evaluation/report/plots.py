"""Plots as SVG for an HTML page: precision and recall, reliability, histograms.

Colours are the page's own CSS variables, so plots follow its light and dark dress; texts from data stay outside, where
the browser sets them. Nothing in the SVG depends on the time, on chance or on the user's matplotlib settings.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import numpy

from florence2.errors import MissingDependencyError
from florence2.evaluation.metrics import calibration
from florence2.evaluation.metrics.libraries import library
from florence2.evaluation.outcomes import Curve, Judged
from florence2.evaluation.report.markup import Html, text

INK, FAINT, GRID, MAIN, GAP = "#010101", "#020202", "#030303", "#040404", "#050505"
_VARIABLES = {INK: "--ink", FAINT: "--faint", GRID: "--line", MAIN: "--main", GAP: "--gap"}
"""Stand-ins that become variables of the page."""
SERIES = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#8F6FC9")
"""Of single classes: those of Okabe and Ito's that are seen on white and on black and are not blue, and a violet."""

PALE = 0.45
"""Opacity of the gaps of a reliability diagram."""

_SETTINGS = {
    "svg.fonttype": "none",
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.color": FAINT,
    "ytick.labelcolor": INK,
}


def require() -> None:
    """Raises MissingDependencyError, with the command that installs it, where matplotlib is not there."""
    try:
        library("matplotlib")
    except MissingDependencyError as error:
        raise MissingDependencyError(
            "the plots of the report need matplotlib; pip install 'florence2[eval]'"
        ) from error


def precision_recall(curves: Sequence[Curve], name: str) -> Html:
    """The first curve thick, the others in the colours of SERIES."""

    def paint(figure: Any) -> None:
        axes = _square(figure.subplots(), "recall", "precision")
        for number, curve in reversed(list(enumerate(curves))):  # the first on top
            colour, width = (MAIN, 2.4) if number == 0 else (SERIES[(number - 1) % len(SERIES)], 1.3)
            axes.plot(curve.recall, curve.precision, color=colour, linewidth=width, solid_joinstyle="round")

    return _svg(paint, (4.2, 4.0), name, "Precision over recall")


def reliability(judged: Sequence[Judged], name: str) -> Html:
    """How often what was said with a confidence is right, in 15 bins of equal width, and below how many there are.

    What is missing to the confidence is in the colour of gaps; what is beyond it is pale.

    Raises DataError for a score outside of [0, 1].
    """
    bins = calibration.reliability([j.score for j in judged], [j.right for j in judged])
    width = 1 / 15
    middles = [(min(14, max(0, int(numpy.ceil(b.confidence / width - 1e-9)) - 1)) + 0.5) * width for b in bins]

    def paint(figure: Any) -> None:
        axes, below = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True)
        _square(axes, "", "share that is right")
        kept = [min(b.accuracy, b.confidence) for b in bins]
        for colour, opacity, parts in (
            (MAIN, 1.0, kept),
            (GAP, PALE, [b.confidence - least for b, least in zip(bins, kept, strict=True)]),
            (MAIN, PALE, [b.accuracy - least for b, least in zip(bins, kept, strict=True)]),
        ):
            bottom = None if parts is kept else kept
            axes.bar(middles, parts, width * 0.9, bottom=bottom, color=colour, alpha=opacity, linewidth=0)
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1.2, linestyle=(0, (4, 3)))
        below.bar(middles, [b.count for b in bins], width * 0.9, color=FAINT)
        below.set(xlabel="confidence", ylabel="number")
        below.grid(visible=False)
        _whole_numbers(below, most=2)

    return _svg(paint, (4.2, 4.9), name, "How often answers are right, by confidence")


def histogram(values: Sequence[float], top: float, name: str) -> Html:
    """How many samples have which value, from 0 to ``top``."""

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        axes.hist(values, bins=20 if len(values) >= 60 else 10, range=(0, top), color=MAIN, rwidth=0.9)
        axes.set(xlim=(0, top), xlabel="how right", ylabel="samples")
        axes.grid(visible=False, axis="x")
        _whole_numbers(axes, most=5)

    return _svg(paint, (4.2, 2.8), name, "How many samples are how right")


def _square(axes: Any, xlabel: str, ylabel: str) -> Any:
    ticks = [0, 0.2, 0.4, 0.6, 0.8, 1]
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel=xlabel, ylabel=ylabel, xticks=ticks, yticks=ticks)
    return axes


def _whole_numbers(axes: Any, most: int) -> None:
    axes.yaxis.set_major_locator(library("matplotlib.ticker").MaxNLocator(most, integer=True))


def _svg(paint: Any, size: tuple[float, float], name: str, label: str) -> Html:
    """What ``paint`` puts on a figure of this size in inches, as an element for a page."""
    style, figures = library("matplotlib.style"), library("matplotlib.figure")
    stream = io.BytesIO()
    # The salt makes the ids of every plot of a page its own, and always the same.
    with style.context(["default", {**_SETTINGS, "svg.hashsalt": name}]):
        figure = figures.Figure(figsize=size, layout="constrained")
        paint(figure)
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    return _for_page(stream.getvalue().decode(), label)


def _for_page(svg: str, label: str) -> Html:
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="[A-Za-z][\w.]*_\d+"', "", svg)  # of groups: the same in every plot, and nobody refers to them
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>", rf'<svg \1 role="img" aria-label="{text(label)}">', svg)
    svg = svg.replace("xlink:href=", "href=")
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return Html(re.sub(r"\n\s*", "\n", svg))
