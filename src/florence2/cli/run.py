"""``florence2 run``: photos in, answers out as text, JSON and pictures."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from florence2.cli import common
from florence2.errors import Florence2Error, TaskError
from florence2.results import Answer

if TYPE_CHECKING:
    from florence2.engine import Options, Scene
    from florence2.language.tasks import Task
    from florence2.pipeline import Florence2

CLOSED_BY_LABELS = ("<OD>", "<OPEN_VOCABULARY_DETECTION>", "<REGION_TO_CATEGORY>")
QUESTION = "what is in the picture?"
"""What ``--all`` asks the free question tasks where no --text is given: a caption is no question."""


def run(
    photos: Annotated[list[str], typer.Argument(help="Files, folders or globs.", show_default=False)],
    task: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--task", "-t", help="caption, OD, '<OD>' ...; repeat it. See: florence2 tasks."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Run every task.")] = False,
    text: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="What to ground, segment, find or ask."),
    ] = None,
    box: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="x0,y0,x1,y1 in pixels; repeat it for an answer per box.", metavar="x0,y0,x1,y1"),
    ] = None,
    labels: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Closed list for detection and classification.", metavar="A,B"),
    ] = None,
    model: common.Model = None,
    adapter: common.Adapter = None,
    device: common.Device = "auto",
    dtype: common.Dtype = "auto",
    runtime: Annotated[
        common.Runtime, typer.Option(help="torch, or onnx for an export: florence2 export writes one.")
    ] = common.Runtime.torch,
    min_score: Annotated[float, typer.Option(help="Leave out objects that score less.", min=0, max=1)] = 0.0,
    beams: Annotated[Optional[int], typer.Option(help="Beams of the search.", min=1)] = None,  # noqa: UP045
    max_new_tokens: Annotated[Optional[int], typer.Option(help="Budget per answer.", min=1)] = None,  # noqa: UP045
    reference: Annotated[
        bool, typer.Option("--reference", help="Decode token for token as Microsoft ships it.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON document per photo on stdout, nothing else.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="With the token ids of each answer, in JSON.")] = False,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="Folder for pictures and JSON.", metavar="DIR", file_okay=False),
    ] = None,
) -> None:
    """Ask photos anything: captions, objects, outlines, text.

    Without --task the photo is captioned and its objects are found.

    \b
      florence2 run photo.jpg
      florence2 run photos/ --task caption --task OD --json > answers.jsonl
      florence2 run photo.jpg --task ground --text "a man with a red guitar" -o out
      florence2 run street.jpg --labels person,dog --min-score 0.3
      florence2 run page.png --task read_region --box 10,20,400,80
      florence2 run photo.jpg --all -o out --model microsoft/Florence-2-base
      florence2 run form.png --task ocr --model microsoft/Florence-2-base --adapter ./forms

    --all takes the text and the box that it needs from --text and --box, else from the caption and the first
    detection of the same photo. A photo that cannot be read gives an error record, the others are answered all the
    same, and the exit code is 1.
    """
    wish = Wish(task or [], every, text, common.boxes(box or []), labels)
    names = common.expand(photos)
    options = _options(reference, min_score, raw, beams, max_new_tokens)
    stems = _stems(names)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
    failed = 0
    with common.load(model, device, dtype, adapter, runtime) as loaded:
        for name in _with_progress(names, json):
            try:
                scene = loaded.encode(name)
                answers = wish.answers(loaded, scene, options)
                document = document_of(name, scene, loaded.name, answers, raw)
            except Florence2Error as error:
                failed += 1
                scene, answers, document = None, {}, _error_document(name, error)
            if json:
                sys.stdout.write(common.to_json(document) + "\n")
                sys.stdout.flush()
            else:
                _print(name, answers, document)
            if output is not None:
                _write(output, stems[name], scene, answers, document)
    if output is not None:
        typer.echo(f"pictures and JSON are in {output}", err=True)
    if failed:
        typer.echo(f"{failed} of {len(names)} photos could not be answered", err=True)
        raise typer.Exit(1)


class Wish:
    """Which tasks with which inputs, from the options of the command; mistakes are found before a model is loaded."""

    def __init__(
        self,
        names: Sequence[str],
        every: bool,
        text: str | None,
        boxes: Sequence[tuple[float, ...]],
        labels: str | None,
    ) -> None:
        from florence2 import inputs
        from florence2.language.tasks import TASKS, get

        if every and names:
            raise TaskError("--all runs every task already; leave --task out, or --all")
        self.text, self.boxes = text, boxes
        self.labels = None if labels is None else inputs.as_labels([part for part in labels.split(",") if part.strip()])
        default = ["<CAPTION>", "<OD>"] if self.labels is None else ["<OPEN_VOCABULARY_DETECTION>"]
        chosen = list(TASKS) if every else list(names) or default
        self.tasks = list({task.name: task for task in map(get, chosen)}.values())
        taken = {task.takes for task in self.tasks}
        for given, option, takes in ((text, "--text", {"text", "labels"}), (boxes, "--box", {"boxes"})):
            if given and not taken & takes:
                raise TaskError(f"none of the tasks {self._spoken()} takes {option}; see florence2 tasks")
        if self.labels is not None and not any(task.name in CLOSED_BY_LABELS for task in self.tasks):
            raise TaskError(f"--labels goes with {', '.join(CLOSED_BY_LABELS)}, found {self._spoken()}")
        if every:
            return
        for task in self.tasks:
            inputs.ask(task, **self._input(task, self.text, self.boxes))

    def answers(self, model: Florence2, scene: Scene, options: Options) -> dict[str, Any]:
        """The answers by task token; the photo is encoded already."""
        alone = [task for task in self.tasks if task.takes == "nothing"]
        found = dict(zip([t.name for t in alone], self._many(model, scene, alone, options), strict=True))
        text, boxes = self.text, self.boxes
        if text is None and "<CAPTION>" in found:
            text = " ".join(str(found["<CAPTION>"]).split())[:200] or "the main object"  # a prompt has limited room
        if not boxes and "<OD>" in found:
            seen = [box for box in found["<OD>"].boxes if box[0] < box[2] and box[1] < box[3]]
            boxes = [seen[0] if seen else (0, 0, *scene.size)]
        rest = [task for task in self.tasks if task.takes != "nothing"]
        found |= zip([t.name for t in rest], self._many(model, scene, rest, options, text, boxes), strict=True)
        return {task.name: found[task.name] for task in self.tasks}

    def _many(
        self,
        model: Florence2,
        scene: Scene,
        tasks: Iterable[Task],
        options: Options,
        text: str | None = None,
        boxes: Sequence[Sequence[float]] = (),
    ) -> list[Any]:
        return model.run_many(scene, [(task, self._input(task, text, boxes)) for task in tasks], **options)

    def _input(self, task: Task, text: str | None, boxes: Sequence[Sequence[float]]) -> dict[str, Any]:
        """What of the given inputs this task takes."""
        chosen: dict[str, Any] = {}
        if self.labels is not None and task.name in CLOSED_BY_LABELS:
            chosen["labels"] = self.labels
        if task.takes == "text" or (task.takes == "labels" and "labels" not in chosen):
            is_question = task.prompt.removeprefix(task.name) == "{input}"
            chosen["text"] = QUESTION if is_question and self.text is None and text is not None else text
        if task.takes == "boxes" and boxes:
            chosen["box"] = boxes[0] if len(boxes) == 1 else boxes
        return chosen

    def _spoken(self) -> str:
        return ", ".join(task.name for task in self.tasks)


def _options(reference: bool, min_score: float, raw: bool, beams: int | None, budget: int | None) -> Options:
    options: Options = {"reference": reference, "min_score": min_score, "raw": raw}
    if beams is not None:
        options["num_beams"] = beams
    if budget is not None:
        options["max_new_tokens"] = budget
    return options


def document_of(name: str, scene: Scene, model: str, answers: dict[str, Any], raw: bool = False) -> dict[str, Any]:
    """What ``--json`` prints for a photo."""
    results = {
        task: [_result(a, raw) for a in got] if isinstance(got, list) else _result(got, raw)
        for task, got in answers.items()
    }
    width, height = scene.size
    return {"image": name, "width": width, "height": height, "model": model, "results": results}


def _result(answer: Answer, raw: bool) -> dict[str, Any]:
    result = answer.to_dict()
    if raw and answer.raw is not None:
        result["raw"] = {"token_ids": list(answer.raw.token_ids), "text": answer.raw.text}
    return result


def _error_document(name: str, error: Florence2Error) -> dict[str, Any]:
    return {"image": name, "error": error.to_dict()}


def _stems(names: Sequence[str]) -> dict[str, str]:
    """A file name for the answers of each photo; photos of one name in several folders are numbered."""
    stems: dict[str, str] = {}
    used: set[str] = set()
    for name in names:
        stem = plain = Path(name).stem
        number = 1
        while stem in used:
            number += 1
            stem = f"{plain}-{number}"
        used.add(stem)
        stems[name] = stem
    return stems


def _with_progress(names: Sequence[str], json: bool) -> Iterable[str]:
    """A bar on stderr where there is more than one photo, and where it would not run through the answers."""
    if len(names) < 2 or (json and sys.stdout.isatty()):
        yield from names
        return
    from rich.console import Console
    from rich.progress import Progress

    # Only lines for people may be led around the bar; redirected output goes where it was sent.
    redirect = sys.stdout.isatty()
    with Progress(console=Console(stderr=True), transient=True, redirect_stdout=redirect, redirect_stderr=False) as bar:
        yield from bar.track(names, description="photos")


def _print(name: str, answers: dict[str, Any], document: dict[str, Any]) -> None:
    typer.secho(name, bold=True)
    if "error" in document:
        typer.secho(f"  {document['error']['message']}", fg="red")
    for task, got in answers.items():
        for answer in got if isinstance(got, list) else [got]:
            first, *rest = common.lines(answer)
            typer.echo(f"  {task}")
            for line in (first, *rest):
                typer.echo(f"      {line}")


def _write(output: Path, stem: str, scene: Scene | None, answers: dict[str, Any], document: dict[str, Any]) -> None:
    """``<stem>.json``, and ``<stem>.<task>.png`` for each answer (numbered where there are several boxes)."""
    (output / f"{stem}.json").write_text(common.to_json(document) + "\n", encoding="utf-8")
    if scene is None:
        return
    from florence2.drawing import draw

    for task, got in answers.items():
        slug = task.strip("<>").lower()
        several = isinstance(got, list)
        for number, answer in enumerate(got if several else [got], start=1):
            ending = f"{slug}.{number}.png" if several else f"{slug}.png"
            draw(answer, scene.photo).save(output / f"{stem}.{ending}")
