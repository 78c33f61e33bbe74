"""How good the model is on records that it does not learn from: loss and accuracy of tokens, and whole answers.

The same records, prompts and targets every time, in the same order, so that figures of one run can be compared.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import nn

from florence2.checkpoints import Checkpoint
from florence2.data.targets import Target, pairs
from florence2.errors import Florence2Error
from florence2.language import tasks
from florence2.language.quantizer import BINS, dequantize
from florence2.language.tokenizer import Tokenizer
from florence2.pipeline import Florence2
from florence2.results import Answer
from florence2.training.batch import Batch, Limits, Sample, collate, sample
from florence2.training.mixture import Drawn, Source, choose
from florence2.training.world import World

TARGETS = 8
"""Per record, at most."""

Doing = Callable[[str, int], None]


@dataclass(frozen=True)
class Validation:
    sources: Sequence[Source]
    records: int
    """At most, per source."""
    tokenizer: Tokenizer
    limits: Limits
    tasks: tuple[str, ...]
    size: tuple[int, int]
    batch: int

    def __len__(self) -> int:
        return sum(min(self.records, len(source.photos)) for source in self.sources)

    def examples(self) -> Iterator[Drawn]:
        """Spread evenly over each source."""
        for source in self.sources:
            total = len(source.photos)
            for i in range(min(self.records, total)):
                record, photo = source.photos[i * total // min(self.records, total)]
                found = pairs(record, tuple(source.tasks) or None, source.choices)
                targets = choose(found, source.tasks, TARGETS, random.Random(record.id))
                if targets:
                    yield Drawn(source.name, record, photo, targets)

    def losses(
        self,
        module: nn.Module,
        world: World,
        autocast: Callable[[], contextlib.AbstractContextManager[None]],
        doing: Doing,
    ) -> dict[str, float]:
        """Mean loss of an answer token and share of tokens that were the most likely ones, over all and per task.

        Each process looks at its own part (at everything, where the weights are sharded: then all must make the same
        calls). All must call it, and all get the same figures. The module is left in evaluation mode.
        """
        sums = torch.zeros(3, len(self.tasks), dtype=torch.float64, device="cpu")
        module.eval()
        alone = World(world.device) if world.shards else world
        with torch.no_grad():
            for batch in self._batches(alone, doing):
                with autocast():
                    losses = module(batch.to(world.device))
                for row, values in zip(sums, (losses.per_task, losses.tokens, losses.right), strict=True):
                    row += values.double().cpu()
        sums = alone.sum(sums.to(world.device, torch.float32 if world.device.type == "mps" else torch.float64)).cpu()
        loss, tokens, right = (row.tolist() for row in sums)
        if not sum(tokens):
            return {}
        figures = {"loss": sum(loss) / sum(tokens), "token accuracy": sum(right) / sum(tokens)}
        for i, name in enumerate(self.tasks):
            if tokens[i]:
                figures |= {f"{name} loss": loss[i] / tokens[i], f"{name} token accuracy": right[i] / tokens[i]}
        return figures

    def answers(self, checkpoint: Checkpoint, doing: Doing) -> dict[str, float]:
        """The figures of each task's metric, from answers that the model gives by itself, greedily."""
        from florence2.evaluation.answers import score_answers

        model = Florence2(checkpoint)
        asked: list[tuple[Image.Image, str, object]] = []
        truths: list[tuple[str, list[Answer]]] = []
        for drawn in self.examples():
            for targets in _by_prefix(drawn.targets).values():
                known = [target.answer for target in targets if isinstance(target.answer, Answer)]
                if known and targets[0].task:
                    asked.append((drawn.photo, targets[0].task, _input(targets[0], drawn.photo.size)))
                    truths.append((targets[0].task, known))
        given: dict[str, list[Answer]] = {}
        true: dict[str, list[Answer | Sequence[Answer]]] = {}
        items = [(photo, task) if given_ is None else (photo, task, given_) for photo, task, given_ in asked]
        for number, (answer, (task, known)) in enumerate(zip(model.stream(items, num_beams=1), truths, strict=True)):
            if number % 50 == 0:
                doing("answering", number)
            if not isinstance(answer, Answer):
                raise Florence2Error(f"an answer of {task} could not be made in the validation: {answer}")
            given.setdefault(task, []).append(answer)
            true.setdefault(task, []).append(known if len(known) > 1 else known[0])
        return {
            f"{task} {name}": value
            for task in given
            for name, value in score_answers(given[task], true[task], task).items()
        }

    def _batches(self, world: World, doing: Doing) -> Iterator[Batch]:
        waiting: list[Sample] = []
        for number, drawn in enumerate(self.examples()):
            if number % 100 == 0:
                doing("validating", number)
            if number % world.size == world.rank:
                waiting.append(sample(number, drawn, self.size, self.tokenizer, self.limits))
            if len(waiting) == self.batch:
                yield collate(waiting, self.tasks, self.tokenizer.pad_id, grouped=not world.shards)
                waiting = []
        if waiting:
            yield collate(waiting, self.tasks, self.tokenizer.pad_id, grouped=not world.shards)


def _by_prefix(targets: Sequence[Target]) -> dict[str, list[Target]]:
    """Several captions of one photo are references of one answer."""
    found: dict[str, list[Target]] = {}
    for target in targets:
        found.setdefault(target.prefix, []).append(target)
    return found


def _input(target: Target, size: tuple[int, int]) -> object:
    """What the pipeline takes beside the task: a text, a box in pixels, or nothing."""
    task, rest = tasks.get(target.task), target.prefix[len(target.task) :]
    if task.takes == "nothing":
        return None
    if task.takes == "boxes":
        x0, y0, x1, y1 = dequantize([int(n) for n in rest.replace("<loc_", " ").replace(">", " ").split()], size)
        # A box within one bin must not be empty; a quarter of a bin stays in it.
        return x0, y0, max(x1, x0 + size[0] / (4 * BINS)), max(y1, y0 + size[1] / (4 * BINS))
    return rest
