"""Drawn photos → tensors: each photo once, each prompt about it once, each answer once.

    P photos ──encode_image──▶ image tokens ──(photo_of)──▶ U prompts ──encode──▶ memory ──(prompt_of)──▶ R answers

Answers to one prompt share its memory, prompts about one photo share its image tokens. Padding of labels is -100: it
never counts. Answers are padded in two groups, short and long, since one long answer would make all others as long.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from florence2.data.targets import Target
from florence2.errors import Florence2Error
from florence2.language.tokenizer import Tokenizer
from florence2.model.florence2 import IGNORE
from florence2.training.mixture import Drawn

LONGER = 1.5
"""The long answers get a group of their own where they are so much longer than the rest."""


@dataclass(frozen=True)
class Lesson:
    """One target as ids."""

    task: str
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    """``<s>`` .. ``</s>``"""


@dataclass(frozen=True)
class Sample:
    """One photo and its lessons, ready to be put into a batch."""

    slot: int
    where: str
    """Place of its record, for messages."""
    pixels: Tensor
    """(3, H, W) uint8"""
    lessons: tuple[Lesson, ...]
    skipped: tuple[str, ...] = ()
    """What could not be used."""


@dataclass(frozen=True)
class Limits:
    """Room in the position tables."""

    prompt: int
    answer: int


def sample(slot: int, drawn: Drawn, size: tuple[int, int], tokenizer: Tokenizer, limits: Limits) -> Sample:
    """``size`` is (height, width). Targets that are too long for the tables, or cannot be said, are named as skipped.

    Raises Florence2Error where nothing is left.
    """
    lessons, skipped = [], list(drawn.skipped)
    for target in drawn.targets:
        try:
            lessons.append(_lesson(target, tokenizer, limits))
        except Florence2Error as error:
            skipped.append(f"{target.place or drawn.record.where}: {error}")
    if not lessons:
        raise Florence2Error(f"{drawn.record.where}: no target can be used; {skipped[-1]}")
    return Sample(slot, drawn.record.where, pixels_of(drawn.photo, size), tuple(lessons), tuple(skipped))


def pixels_of(photo: Image.Image, size: tuple[int, int]) -> Tensor:
    """An RGB picture squashed to (height, width) as ``images.to_pixel_values`` does, (3, H, W) uint8."""
    height, width = size
    squashed = photo.resize((width, height), Image.Resampling.BICUBIC)
    flat = torch.frombuffer(bytearray(squashed.tobytes()), dtype=torch.uint8)
    return flat.view(height, width, 3).permute(2, 0, 1).contiguous()


def _lesson(target: Target, tokenizer: Tokenizer, limits: Limits) -> Lesson:
    prompt, answer = tokenizer.encode_prompt(target.prompt), target.ids(tokenizer)
    if len(prompt) > limits.prompt or len(answer) > limits.answer:
        raise Florence2Error(
            f"{target.task or target.prefix}: {len(prompt)} tokens in the prompt, {len(answer)} in the answer; there "
            f"is room for {limits.prompt} and {limits.answer}"
        )
    return Lesson(target.task, tuple(prompt), tuple(answer))


@dataclass(frozen=True)
class Answers:
    """R answers of similar length."""

    labels: Tensor
    """(R, L), -100 behind the end"""
    prompt_of: Tensor
    """(R,) which prompt each answers"""
    task_of: Tensor
    """(R,) number of its task in ``Batch.tasks``"""


@dataclass(frozen=True)
class Batch:
    pixels: Tensor
    """(P, 3, H, W) uint8"""
    prompts: Tensor
    """(U, N)"""
    prompt_mask: Tensor
    """(U, N) bool"""
    photo_of: Tensor
    """(U,) which photo each prompt is about"""
    answers: tuple[Answers, ...]
    tasks: tuple[str, ...]
    """Names of tasks, the same in all batches of a run"""
    samples: tuple[Sample, ...] = field(repr=False, default=())
    """What it was made of, without the pixels"""

    @property
    def tokens(self) -> int:
        """Labels that count."""
        return sum(int((part.labels != IGNORE).sum()) for part in self.answers)

    @property
    def images(self) -> int:
        return self.pixels.shape[0]

    def to(self, device: torch.device) -> Batch:
        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        parts = tuple(Answers(move(a.labels), move(a.prompt_of), move(a.task_of)) for a in self.answers)
        return dataclasses.replace(
            self,
            pixels=move(self.pixels),
            prompts=move(self.prompts),
            prompt_mask=move(self.prompt_mask),
            photo_of=move(self.photo_of),
            answers=parts,
        )


def collate(samples: Sequence[Sample], tasks: Sequence[str], pad_id: int, grouped: bool = True) -> Batch:
    """``tasks`` are the names that count apart; the last one, "", takes all others.

    ``grouped=False`` pads all answers together: processes that share sharded weights must make the same calls.
    """
    rows: dict[tuple[int, tuple[int, ...]], int] = {}
    answers: list[tuple[tuple[int, ...], int, int]] = []
    for photo, one in enumerate(samples):
        for lesson in one.lessons:
            row = rows.setdefault((photo, lesson.prompt), len(rows))
            task = tasks.index(lesson.task) if lesson.task in tasks else len(tasks) - 1
            answers.append((lesson.answer, row, task))
    answers.sort(key=lambda answer: len(answer[0]))
    cut = _cut([len(ids) for ids, _, _ in answers]) if grouped else len(answers)
    parts = [
        Answers(
            pad([ids for ids, _, _ in part], IGNORE),
            torch.tensor([row for _, row, _ in part]),
            torch.tensor([task for _, _, task in part]),
        )
        for part in (answers[:cut], answers[cut:])
        if part
    ]
    prompts = [prompt for _, prompt in rows]
    return Batch(
        pixels=torch.stack([one.pixels for one in samples]),
        prompts=pad(prompts, pad_id),
        prompt_mask=pad([[1] * len(prompt) for prompt in prompts], 0).bool(),
        photo_of=torch.tensor([photo for photo, _ in rows]),
        answers=tuple(parts),
        tasks=tuple(tasks),
        samples=tuple(dataclasses.replace(one, pixels=one.pixels[:0]) for one in samples),
    )


def pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """(rows, longest) int64"""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])


def _cut(lengths: list[int]) -> int:
    """Where to cut ascending lengths in two so that least is padded; at the end where that saves little."""
    whole = len(lengths) * lengths[-1]
    best = min(range(1, len(lengths) + 1), key=lambda cut: cut * lengths[cut - 1] + (len(lengths) - cut) * lengths[-1])
    padded = best * lengths[best - 1] + (len(lengths) - best) * lengths[-1]
    return best if whole > LONGER * padded else len(lengths)
