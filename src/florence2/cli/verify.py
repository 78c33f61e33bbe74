"""``florence2 verify``: do the official weights give the published answers on this machine?"""

from __future__ import annotations

import difflib
import importlib.resources
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional
from urllib.parse import urlparse

import typer

from florence2.cli import common
from florence2.errors import CheckpointError, Florence2Error, ImageError
from florence2.results import Answer, Box, Detections, Segments

if TYPE_CHECKING:
    from florence2.pipeline import Florence2

ENOUGH = 0.9
"""Half precision and another image resizing move single tokens; below this share something is wrong."""


@dataclass(frozen=True)
class Published:
    """An answer that others have published, as a fact."""

    model: str
    converted: str
    image: str
    task: str
    text: str | None
    answer: str
    source: str

    @property
    def photo(self) -> str:
        return Path(urlparse(self.image).path).name

    @property
    def budget(self) -> int:
        """Tokens that the answer was given, as far as its source says so."""
        found = re.search(r"max_new_tokens (\d+)", self.source)
        return int(found[1]) if found else 1024


@dataclass(frozen=True)
class Agreement:
    tokens: float
    """Share of equal tokens, in order."""
    iou: float | None
    """Mean over the published boxes of the best box with the same label; None where there are no boxes."""

    @property
    def good(self) -> bool:
        return max(self.tokens, self.iou or 0.0) >= ENOUGH


def verify(
    model: Annotated[str, typer.Argument(help="Hub id, or folder of the official weights.", show_default=False)],
    photos: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder with the photos, where there is no network.", exists=True, file_okay=False),
    ] = None,
    device: common.Device = "auto",
    dtype: common.Dtype = "float32",
) -> None:
    """Run the published answers of the official models.

    Prints how far this machine agrees with each. The answers are carried in the package; weights and photos come from
    the hub, or from folders.

    \b
      florence2 verify microsoft/Florence-2-base
      florence2 verify ./Florence-2-large --photos ./photos

    Exit code 0: all agree; 1: some differ; 2: something is missing, and it is said what.
    """
    missing: list[str] = []
    loaded = None
    try:
        loaded = common.load(model, device, dtype)
    except CheckpointError as error:
        missing.append(f"the weights: {error}")
    chosen = published_for(loaded, model) if loaded else published()
    paths = {}
    for entry in {entry.photo: entry for entry in chosen}.values():
        try:
            paths[entry.photo] = _fetch(entry, photos, cached_only=bool(missing))  # one long wait is enough
        except ImageError as error:
            missing.append(f"the photo {entry.photo}: {error}")
    if missing or loaded is None:
        raise Florence2Error("cannot verify. Missing are\n  " + "\n  ".join(missing))
    differing = 0
    for entry in chosen:
        agreement = compare(loaded, entry, paths[entry.photo])
        differing += not agreement.good
        boxes = "" if agreement.iou is None else f", boxes IoU {agreement.iou:.3f}"
        verdict = "equal  " if agreement.tokens == 1 else "agrees " if agreement.good else "DIFFERS"
        asked = entry.task + (f" {entry.text!r}" if entry.text else "")
        typer.echo(f"{verdict}  {agreement.tokens:6.1%} of tokens{boxes}  {entry.photo}  {asked}")
    typer.echo(f"{len(chosen) - differing} of {len(chosen)} published answers agree ({loaded!r})")
    if differing:
        raise typer.Exit(1)


def published() -> list[Published]:
    """All answers that the package carries."""
    file = importlib.resources.files("florence2") / "assets" / "published_answers.json"
    return [Published(**entry) for entry in json.loads(file.read_text(encoding="utf-8"))["answers"]]


def published_for(loaded: Florence2, named: str) -> list[Published]:
    """The answers of this model, by its id, else by its width: a folder may have any name."""
    everything = published()
    by_name = [entry for entry in everything if named in (entry.model, entry.converted)]
    width = {768: "microsoft/Florence-2-base", 1024: "microsoft/Florence-2-large"}.get(loaded.config.text.d_model)
    chosen = by_name or [entry for entry in everything if entry.model == width]
    if not chosen or (not by_name and re.search(r"-ft\b", named)):
        known = ", ".join(sorted({entry.model for entry in everything}))
        raise Florence2Error(f"no answers of {named} have been published that we know of; there are some of {known}")
    return chosen


def compare(model: Florence2, entry: Published, photo: Path) -> Agreement:
    """One published answer beside ours, decoded as the checkpoint ships."""
    scene = model.encode(photo)
    given: dict[str, Any] = {"labels": None, "reference": True, "raw": True, "max_new_tokens": entry.budget}
    ours = model.run(scene, entry.task, entry.text, **given)
    theirs_ids = model.tokenizer.encode(entry.answer)
    return agreement(ours, theirs_ids, model)


def agreement(ours: Answer, theirs_ids: Sequence[int], model: Florence2) -> Agreement:
    from florence2.language import answers

    theirs = answers.parse(theirs_ids, ours.task, (ours.width, ours.height), model.tokenizer)
    # Published answers are texts, and a text can be cut into tokens in several ways: ours goes through text as well.
    ours_ids = tuple(model.tokenizer.encode(ours.raw.text)) if ours.raw else ()
    tokens = difflib.SequenceMatcher(None, ours_ids, tuple(theirs_ids), autojunk=False).ratio()
    wanted, found = _boxes(theirs), _boxes(ours)
    if not wanted:
        return Agreement(tokens, None)
    best = [max((_overlap(box, other) for name, other in found if name == label), default=0.0) for label, box in wanted]
    return Agreement(tokens, sum(best) / len(best))


def _boxes(answer: Answer) -> list[tuple[str, Box]]:
    if isinstance(answer, Detections):
        return [(item.label, item.box) for item in answer.objects]
    if isinstance(answer, Segments):
        return [(item.label, item.box) for item in answer.instances]
    return []


def _overlap(a: Box, b: Box) -> float:
    from florence2.evaluation.metrics import boxes

    return 1.0 if a == b else boxes.iou(a, b)  # bins can leave a box without an area; it still equals itself


def _fetch(entry: Published, folder: Path | None, cached_only: bool) -> Path:
    """The photo from a folder, else from the data set of the hub that it was published in."""
    if folder is not None:
        if not (folder / entry.photo).is_file():
            raise ImageError(f"it is not in {folder}; it can be fetched from {entry.image}")
        return folder / entry.photo
    found = re.fullmatch(r"https://huggingface.co/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", entry.image)
    if not found:
        raise ImageError(f"fetch it from {entry.image} and give its folder with --photos")
    from huggingface_hub import hf_hub_download

    try:
        return Path(
            hf_hub_download(found[1], found[3], revision=found[2], repo_type="dataset", local_files_only=cached_only)
        )
    except Exception as error:  # the hub and the transport below it have families of errors of their own
        raise ImageError(
            f"it is not in the cache of this machine and the hub gave {type(error).__name__}; fetch it elsewhere from "
            f"{entry.image} and give its folder with --photos"
        ) from error
