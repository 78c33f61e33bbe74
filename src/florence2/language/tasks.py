"""The tasks: each is a prompt, what it takes, the grammar of its answer and the type of its result.

The 15 tasks of Florence-2, free questions, and whatever a third party registers:

    register(Task("<COUNT>", "How many {input} are there?", takes="text", grammar=PLAIN_TEXT, result=Text))

Source: Florence-2 (arXiv 2311.06242), appendix A; the prompts are those of the published processor.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from florence2.errors import BoxError, TaskError
from florence2.language import grammar as g
from florence2.language.quantizer import BINS
from florence2.results import Answer, Detections, Segments, Text, TextRegions

Takes = Literal["nothing", "text", "boxes", "labels"]


@dataclass(frozen=True)
class Task:
    """One thing to ask of a photo. ``prompt`` holds ``{input}`` where the text, the region or the labels go."""

    name: str
    """The task token, e.g. "<OD>"."""
    prompt: str
    grammar: g.Grammar
    result: type[Answer]
    takes: Takes = "nothing"
    aliases: tuple[str, ...] = ()
    """Other names that ``get`` knows the task by; the name without its brackets always is one."""
    summary: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            raise TaskError("a task needs a name, such as '<COUNT>'")
        if self.result not in (Text, Detections, Segments, TextRegions):
            raise TaskError(
                f"{self.name} gives {self.result!r}; expected one of Text, Detections, Segments, TextRegions"
            )
        if (self.takes == "nothing") == ("{input}" in self.prompt):
            wanted = "must not hold" if self.takes == "nothing" else "must hold"
            raise TaskError(f"{self.name} takes {self.takes}, so its prompt {wanted} {{input}}: {self.prompt!r}")

    @property
    def policy(self) -> Literal["text", "reading", "structured"]:
        """How the answer is searched for: text as shipped, everything with coordinates under its grammar. A text that
        may be empty is one that stands in the photo, where the same letters come again."""
        if self.result is not Text:
            return "structured"
        return "reading" if self.grammar in (g.OPTIONAL_TEXT, g.OPTIONAL_REGION_TEXT) else "text"

    def fill(
        self,
        text: str | None = None,
        *,
        region: Sequence[int] | None = None,
        labels: Sequence[str] | None = None,
    ) -> str:
        """The prompt. ``region`` is (x0, y0, x1, y1) in bins; ``labels`` may also be given as one ``text``."""
        given = {"text": text, "boxes": region, "labels": labels}
        accepted = {"nothing": (), "text": ("text",), "boxes": ("boxes",), "labels": ("labels", "text")}[self.takes]
        for kind, value in given.items():
            if value is not None and kind not in accepted:
                raise TaskError(f"{self.name} takes {self.takes}, but {kind} were given ({value!r}); leave them out")
        if self.takes == "nothing":
            return self.prompt
        if self.takes == "boxes":
            return self._put(_region_text(self.name, region))
        words = "<and>".join(labels) if labels is not None else text
        if words is None or not words.strip() or (labels is not None and not all(label.strip() for label in labels)):
            what = "a text" if self.takes == "text" else "one or more labels"
            raise TaskError(f"{self.name} needs {what}, found {labels if labels is not None else text!r}")
        return self._put(words)

    def _put(self, words: str) -> str:
        return self.prompt.replace("{input}", words)


def _region_text(name: str, region: Sequence[int] | None) -> str:
    if region is None:
        raise TaskError(f"{name} needs a box; give box=(x0, y0, x1, y1) in pixels")
    bins = list(region)
    if len(bins) != 4 or not all(isinstance(n, int) and 0 <= n < BINS for n in bins):
        raise BoxError(f"{name} needs a region of four bins from 0 to {BINS - 1}, found {region!r}")
    if bins[0] > bins[2] or bins[1] > bins[3]:
        raise BoxError(
            f"the region {region!r} of {name} is inverted; expected (x0, y0, x1, y1) with x0 <= x1, y0 <= y1"
        )
    return "".join(f"<loc_{n}>" for n in bins)


_BUILT_IN = (
    Task(
        "<CAPTION>",
        "What does the image describe?",
        g.PLAIN_TEXT,
        Text,
        aliases=("caption",),
        summary="one sentence about the photo",
    ),
    Task(
        "<DETAILED_CAPTION>",
        "Describe in detail what is shown in the image.",
        g.PLAIN_TEXT,
        Text,
        aliases=("detailed_caption",),
        summary="a few sentences",
    ),
    Task(
        "<MORE_DETAILED_CAPTION>",
        "Describe with a paragraph what is shown in the image.",
        g.PLAIN_TEXT,
        Text,
        aliases=("more_detailed_caption",),
        summary="a paragraph",
    ),
    Task(
        "<OD>",
        "Locate the objects with category name in the image.",
        g.LABELLED_BOXES,
        Detections,
        aliases=("detect", "object_detection"),
        summary="objects with class names",
    ),
    Task(
        "<DENSE_REGION_CAPTION>",
        "Locate the objects in the image, with their descriptions.",
        g.LABELLED_BOXES,
        Detections,
        aliases=("describe_regions", "dense_captions"),
        summary="regions with descriptions",
    ),
    Task(
        "<REGION_PROPOSAL>",
        "Locate the region proposals in the image.",
        g.BOXES,
        Detections,
        aliases=("propose",),
        summary="boxes without names",
    ),
    Task(
        "<OCR>",
        "What is the text in the image?",
        g.OPTIONAL_TEXT,
        Text,
        aliases=("read",),
        summary="the text of the photo",
    ),
    Task(
        "<OCR_WITH_REGION>",
        "What is the text in the image, with regions?",
        g.QUADS,
        TextRegions,
        aliases=("read_regions",),
        summary="words or lines with quads",
    ),
    Task(
        "<CAPTION_TO_PHRASE_GROUNDING>",
        "Locate the phrases in the caption: {input}",
        g.LABELLED_BOXES,
        Detections,
        takes="text",
        aliases=("ground", "phrase_grounding"),
        summary="the things that a caption names, with boxes",
    ),
    Task(
        "<REFERRING_EXPRESSION_SEGMENTATION>",
        "Locate {input} in the image with mask",
        g.POLYGONS,
        Segments,
        takes="text",
        aliases=("segment",),
        summary="the outline of what an expression means",
    ),
    Task(
        "<REGION_TO_SEGMENTATION>",
        "What is the polygon mask of region {input}",
        g.POLYGONS,
        Segments,
        takes="boxes",
        aliases=("segment_region",),
        summary="the outline of what is in a box",
    ),
    Task(
        "<OPEN_VOCABULARY_DETECTION>",
        "Locate {input} in the image.",
        g.OPEN_VOCABULARY,
        Detections,
        takes="labels",
        aliases=("find", "open_vocabulary"),
        summary="objects of the given names",
    ),
    Task(
        "<REGION_TO_CATEGORY>",
        "What is the region {input}?",
        g.REGION_TEXT,
        Text,
        takes="boxes",
        aliases=("classify",),
        summary="the class name of a box",
    ),
    Task(
        "<REGION_TO_DESCRIPTION>",
        "What does the region {input} describe?",
        g.REGION_TEXT,
        Text,
        takes="boxes",
        aliases=("describe",),
        summary="a description of a box",
    ),
    Task(
        "<REGION_TO_OCR>",
        "What text is in the region {input}?",
        g.OPTIONAL_REGION_TEXT,
        Text,
        takes="boxes",
        aliases=("read_region",),
        summary="the text in a box",
    ),
    # Fine-tuned checkpoints know these two from training; Microsoft passes unknown tokens through as text.
    Task(
        "<VQA>",
        "<VQA>{input}",
        g.PLAIN_TEXT,
        Text,
        takes="text",
        summary="an answer to a question (checkpoints fine-tuned with this token)",
    ),
    Task(
        "<DocVQA>",
        "<DocVQA>{input}",
        g.PLAIN_TEXT,
        Text,
        takes="text",
        summary="an answer to a question about a document (checkpoints fine-tuned with this token)",
    ),
    Task(
        "<ASK>",
        "{input}",
        g.PLAIN_TEXT,
        Text,
        takes="text",
        aliases=("ask", "question"),
        summary="an answer to a question, which is the whole prompt",
    ),
)

_tasks: dict[str, Task] = {}
_names: dict[str, str] = {}
TASKS: Mapping[str, Task] = MappingProxyType(_tasks)
"""All tasks by their token, the built-in ones first."""


def register(task: Task) -> Task:
    """Makes a task known to ``get``, and with it to the whole library. A taken name or alias is refused."""
    names = dict.fromkeys([_key(task.name), *map(_key, task.aliases)])
    for name in names:
        if name in _names:
            raise TaskError(f"{task.name}: the name {name!r} already belongs to {_names[name]}; choose another")
    _tasks[task.name] = task
    _names.update(dict.fromkeys(names, task.name))
    return task


def get(name: str | Task) -> Task:
    """The task of a token ("<OD>"), its bare name ("OD", "od") or an alias ("detect")."""
    if isinstance(name, Task):
        return name
    if not isinstance(name, str):
        raise TaskError(f"a task is named by a text such as '<OD>', found {name!r}")
    if _key(name) in _names:
        return _tasks[_names[_key(name)]]
    near = difflib.get_close_matches(_key(name), _names, n=3)
    suggestion = " or ".join(dict.fromkeys(_names[match] for match in near))
    raise TaskError(
        f"there is no task {name!r}; "
        + (f"did you mean {suggestion}? " if suggestion else "")
        + f"Known: {', '.join(_tasks)}"
    )


def microsoft_prompt(text: str) -> str:
    """What Microsoft's processor makes of one text: a task token, a token with its input, or the text itself.

    Raises TaskError, in Microsoft's words, where a token that takes no input does not stand alone.
    """
    for token in _MICROSOFT_ORDER:
        task = _tasks[token]
        if token not in text:
            continue
        if task.takes != "nothing":
            return task.prompt.replace("{input}", text.replace(token, ""))
        if text != token:
            raise TaskError(f"Task token {token} should be the only token in the text.")
        return task.prompt
    return text


def _key(name: str) -> str:
    return name.strip().strip("<>").lower().replace("-", "_").replace(" ", "_")


# The order decides where a text holds several tokens; those that stand alone come first.
_MICROSOFT_ORDER = (
    *("<OCR>", "<OCR_WITH_REGION>", "<CAPTION>", "<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>"),
    *("<OD>", "<DENSE_REGION_CAPTION>", "<REGION_PROPOSAL>"),
    *("<CAPTION_TO_PHRASE_GROUNDING>", "<REFERRING_EXPRESSION_SEGMENTATION>", "<REGION_TO_SEGMENTATION>"),
    *("<OPEN_VOCABULARY_DETECTION>", "<REGION_TO_CATEGORY>", "<REGION_TO_DESCRIPTION>", "<REGION_TO_OCR>"),
)

for _task in _BUILT_IN:
    register(_task)
