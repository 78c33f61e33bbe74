"""Samples that went best, worst, and some at random: photo, answer and truth."""

from __future__ import annotations

import base64
import io
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from florence2 import drawing
from florence2.errors import Florence2Error
from florence2.evaluation.outcomes import Outcome
from florence2.evaluation.report import figures
from florence2.evaluation.report.markup import Html, foreign, join, lines, tag
from florence2.evaluation.samples import Given, Sample
from florence2.results import Answer, Detections, Object, Text
from florence2.results_export import shapes

EACH = 4
"""Samples of each kind, where there are enough."""
WIDTH, HEIGHT, QUALITY = 400, 560, 80
"""Pictures are reduced to fit into these pixels, and stored as JPEG of this quality."""
DRAWN_AREA = 400 * 400
"""Photos are drawn on at this many pixels, the least at which ``drawing`` does not enlarge them: letters stay large."""
LONGEST, MOST_ITEMS, MOST_TRUTHS = 700, 24, 6
"""Characters of a text, labels of an answer, true answers of a sample that are shown."""


@dataclass(frozen=True)
class Chosen:
    best: tuple[int, ...]
    worst: tuple[int, ...]
    others: tuple[int, ...]
    """Drawn by lot."""


def choose(outcome: Outcome, each: int = EACH) -> Chosen:
    """Numbers of samples, each at most once, always the same; equal cases are told apart by lot.

    Samples that ended in an error are not shown; those with nothing to be right about may be among the others.
    """
    lot = random.Random(0)
    answered = [number for number in range(len(outcome.samples)) if number not in outcome.errors]
    lot.shuffle(answered)
    cases = outcome.measured.cases
    known = sorted((n for n in answered if _finite(cases[n])), key=lambda n: -(cases[n] or 0.0))
    number = min(each, math.ceil(len(known) / 3))
    best, worst = known[:number], known[number:][-number:][::-1] if number else []
    others = [n for n in answered if n not in {*best, *worst}]
    return Chosen(tuple(best), tuple(worst), tuple(others[:each]))


def gallery(outcome: Outcome, each: int = EACH) -> Html:
    """The chosen samples under their headings; nothing where there are none."""
    chosen = choose(outcome, each)
    kinds = (("Best", chosen.best), ("Worst", chosen.worst), ("Random", chosen.others))
    wide = not all(isinstance(answer, Text) for answer in outcome.answers)
    parts = [
        lines(
            tag("h4", title),
            tag("div", "\n", lines(*(_card(outcome, n) for n in numbers)), "\n", class_="cards" + " wide" * wide),
        )
        for title, numbers in kinds
        if numbers
    ]
    return lines(*parts)


def _finite(case: float | None) -> bool:
    return case is not None and math.isfinite(case)


def _card(outcome: Outcome, number: int) -> Html:
    sample, answer, case = outcome.samples[number], outcome.answers[number], outcome.measured.cases[number]
    truth = sample.truth[0] if sample.truth else None
    pictures = _pictures(sample, answer, truth)
    name = outcome.measured.case
    score = join([foreign(name), " ", figures.shown(name, case), _unit_after(name)]) if _finite(case) else Html("")
    facts = {
        "prompt": foreign(prompt(sample.task, sample.given)),
        "answer": join([_said(answer), tag("small", " cut off by the token budget") if answer.truncated else ""]),
        "truth": _truths(sample.truth),
        "not counted": _uncounted(sample),
    }
    return tag(
        "article",
        tag("header", foreign(_end(sample.id)), tag("span", score, class_="case")),
        tag("div", *(_figure(*picture) for picture in pictures), class_="pair"),
        tag("dl", *(tag("div", tag("dt", key), tag("dd", value)) for key, value in facts.items() if value)),
        class_="card",
    )


def _unit_after(name: str) -> str:
    return {"%": " %", "×100": " (×100)", "characters": " characters"}.get(figures.unit(name), "")


# Pictures


def _pictures(sample: Sample, answer: Answer, truth: Answer | None) -> list[tuple[str, Html | str]]:
    """Titles, and pictures as data URIs or what to say in their place. A Text has one, with the box asked about."""
    titles: Mapping[str, Answer | None]
    if isinstance(answer, Text) and (truth is None or isinstance(truth, Text)):
        titles = {"": _asked(sample)}
    else:
        titles = {"answer": answer, "truth": truth}
    try:
        photo = _reduced(sample.record.load())
    except (Florence2Error, OSError):
        return [(title, "the photo cannot be loaded") for title in titles]
    return [(title, _picture(shown, photo)) for title, shown in titles.items()]


def _picture(answer: Answer | None, photo: Image.Image) -> Html | str:
    """The photo and what is to be seen on it, as a data URI; or what to say in its place."""
    try:
        drawn = photo if answer is None else drawing.draw(answer, photo)
    except Florence2Error:
        return "the answer cannot be drawn"
    factor = min(1.0, WIDTH / drawn.width, HEIGHT / drawn.height)
    size = max(1, round(drawn.width * factor)), max(1, round(drawn.height * factor))
    stream = io.BytesIO()
    drawn.resize(size, Image.Resampling.LANCZOS).save(stream, "JPEG", quality=QUALITY, optimize=True)
    return Html("data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode())


def _asked(sample: Sample) -> Answer | None:
    """The box that the question is about, as something to draw."""
    if not _is_box(sample.given):
        return None
    size = {"width": sample.record.width, "height": sample.record.height}
    return Detections(task=sample.task, objects=(Object(label="", box=sample.given),), **size)  # type: ignore[arg-type]


def _reduced(photo: Image.Image) -> Image.Image:
    factor = math.sqrt(DRAWN_AREA / (photo.width * photo.height))
    size = max(1, math.ceil(photo.width * factor)), max(1, math.ceil(photo.height * factor))
    return photo.resize(size, Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.BICUBIC)


def _figure(title: str, picture: Html | str) -> Html:
    caption = tag("figcaption", title) if title else ""
    if isinstance(picture, Html):
        return tag("figure", caption, tag("img", src=picture, alt=title or "photo"))
    return tag("figure", caption, tag("div", picture, class_="placeholder"))


# Texts


def prompt(task: str, given: Given) -> str:
    """The task token and what was given with it, boxes in pixels."""
    if given is None:
        return task
    if isinstance(given, str):
        return _cut(f"{task} {given}".strip())
    if _is_box(given):
        return f"{task} ({', '.join(f'{float(value):.0f}' for value in given)})"
    return _cut(f"{task} {', '.join(map(str, given))}")


def _is_box(given: Given) -> bool:
    return isinstance(given, tuple) and len(given) == 4 and not any(isinstance(value, str) for value in given)


def _truths(truths: Sequence[Answer]) -> Html:
    if not truths:
        return Html("")
    said = [_said(truth) for truth in truths[:MOST_TRUTHS]]
    if len(truths) > MOST_TRUTHS:
        said.append(tag("small", f"and {len(truths) - MOST_TRUTHS} more"))
    return said[0] if len(said) == 1 else tag("ul", *(tag("li", each) for each in said))


def _said(answer: Answer) -> Html:
    """A text, or the labels with their scores."""
    if isinstance(answer, Text):
        return foreign(_cut(answer.text)) if answer.text.strip() else tag("small", "(no text)")
    found = shapes(answer)
    if not found:
        return tag("small", "(nothing)")
    if not any(shape.label.strip() for shape in found):
        return Html(figures.many(len(found), "region"))
    said = [
        join([foreign(_cut(shape.label.strip() or "–", 160)), "" if shape.score == 1 else f" {shape.score:.2f}"])
        for shape in found[:MOST_ITEMS]
    ]
    if len(found) > MOST_ITEMS:
        said.append(tag("small", f"and {len(found) - MOST_ITEMS} more"))
    return join(said, " · ")


def _uncounted(sample: Sample) -> str:
    parts = [(len(sample.ignored), "region that is ignored", "regions that are ignored")]
    parts.append((len(sample.illegible), "illegible text", "illegible texts"))
    return ", ".join(figures.many(number, one, several) for number, one, several in parts if number)


def _cut(text: str, longest: int = LONGEST) -> str:
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


def _end(name: str, longest: int = 60) -> str:
    """Names that are too long differ at their ends."""
    return name if len(name) <= longest else "…" + name[1 - longest :]
