"""A data set, a model and a recipe so small that whole runs take a second or two."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from florence2 import checkpoints
from florence2.data import Question, Record, Thing, Words, write
from florence2.training import Recipe, Watcher
from florence2.training.events import Plan, Progressed, Validated
from tests.tiny_checkpoint import picture, tiny_checkpoint

SIZE = (90, 60)


def records(folder: Path, count: int = 8) -> list[Record]:
    """Pictures with a caption, a box and a text each, no two alike."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for i in range(count):
        path = folder / f"{i}.png"
        picture(i, SIZE).save(path)
        x = 5.0 + 5 * i
        outline = (x, 5.0, x + 30, 5.0, x + 30, 50.0, x, 50.0)
        made.append(
            Record(
                image=path,
                id=f"photo{i}",
                width=SIZE[0],
                height=SIZE[1],
                captions=(f"a man and {i} dogs",),
                objects=(Thing(label="dog", box=(x, 5.0, x + 30, 50.0), polygons=(outline,)),),
                exhaustive=("dog", "cat"),
                text=(Words(text=f"w{i}", quad=(x, 5.0, x + 9, 5.0, x + 9, 12.0, x, 12.0)),),
                qa=(Question(question="how many dogs?", answers=(str(i),)),),
            )
        )
    return made


def prepare(folder: Path, still: bool = False) -> None:
    """``folder/data`` and ``folder/model``; a ``still`` model drops nothing at random."""
    write(records(folder / "pictures"), folder / "data", "records")
    checkpoint = tiny_checkpoint()
    if still:
        text = dataclasses.replace(checkpoint.config.text, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0)
        vision = dataclasses.replace(checkpoint.config.vision, drop_path=0.0)
        config = dataclasses.replace(checkpoint.config, text=text, vision=vision)
        checkpoint = dataclasses.replace(checkpoint, config=config)
    checkpoints.save(checkpoint, folder / "model")


def recipe(folder: Path, name: str = "run", **tables: Any) -> Recipe:
    """Four steps of four photos; ``tables`` replace or add tables."""
    table: dict[str, Any] = {
        "output": str(folder / name),
        "model": {"source": str(folder / "model")},
        "data": {"small": {"path": str(folder / "data")}},
        "schedule": {"steps": 4, "warmup": 1},
        "batch": {"images": 4, "targets": 3},
        "optimizer": {"lr": 1e-3},
        "save": {"every": 2},
        "log": {"every": 1, "tensorboard": False},
    }
    return Recipe.from_dict({**table, **tables})


class Notes(Watcher):
    """Everything that was said."""

    def __init__(self) -> None:
        self.plans: list[Plan] = []
        self.reports: list[Progressed] = []
        self.validations: list[Validated] = []

    def begin(self, plan: Plan) -> None:
        self.plans.append(plan)

    def progressed(self, progress: Progressed) -> None:
        self.reports.append(progress)

    def validated(self, validated: Validated) -> None:
        self.validations.append(validated)

    @property
    def losses(self) -> list[float]:
        return [report.loss for report in self.reports]
