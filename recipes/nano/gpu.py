"""Both phases on one GPU in half an hour: distillation, then everything together.

The photos are decoded once and stay on the GPU as bytes; crops, mirrors and colours are made there, the teacher looks
at every crop again, and processes of the CPU write the answers. bfloat16 by autocast, the encoder compiled.

    python gpu.py PACKS TEACHER RUN --distill 8 --joint 17
    python gpu.py PACKS TEACHER RUN --joint 25 --start CHECKPOINT

``PACKS`` is the data folder with ``train/`` and ``eval/``; what is there of the packs is what is learned from, so that
a first call can begin while others still arrive. The weights leave as ``RUN/joint.pt`` and, for narrow lines, in pieces
``RUN/joint.pt.000`` ... of 16 MiB (``cat RUN/joint.pt.* > joint.pt``); ``train.py store`` makes a checkpoint of them.
Without a GPU it runs all the same, to be tried.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import data
import distill
import numpy as np
import torch
import torch.nn.functional as F
import train
from course import CROPS, Course, Drawn
from distill import CHANNELS, MEAN, STD, Objective, Steps, Student, geometry, photometric, schedule
from lessons import Lessons
from torch import Tensor

from florence2.language.tokenizer import Tokenizer

PIECE = 16 * 2**20
"""Bytes."""


class Board:
    """All photos as bytes on the device."""

    def __init__(self, photos: np.ndarray, device: torch.device) -> None:
        self.photos = torch.from_numpy(np.array(photos)).to(device)  # (N, 224, 224, 3)
        self.device = device

    def crops(self, numbers: list[int]) -> Tensor:
        """The stored crops' twins: number j as ``distill.geometry`` cuts it, (B, 3, 224, 224) in [0, 1]."""
        cuts = [geometry(len(self.photos), j) for j in numbers]
        boxes = torch.tensor([box for _, box, _ in cuts], device=self.device) / data.SIDE  # (B, 4)
        mirrored = torch.tensor([m for _, _, m in cuts], device=self.device)
        low, high = boxes[:, :2], boxes[:, 2:]
        scale = high - low
        theta = torch.zeros(len(cuts), 2, 3, device=self.device)
        theta[:, 0, 0] = torch.where(mirrored, -scale[:, 0], scale[:, 0])
        theta[:, 1, 1] = scale[:, 1]
        theta[:, :, 2] = low + high - 1
        chosen = self.photos[[index for index, _, _ in cuts]].permute(0, 3, 1, 2).float() / 255
        grid = F.affine_grid(theta, list(chosen.shape), align_corners=False)
        return F.grid_sample(chosen, grid, padding_mode="border", align_corners=False)

    def pictures(self, drawn: Drawn) -> Tensor:
        """Of a step of the joint phase: crops, and the pictures that were made on the spot."""
        made = [i for i, j in enumerate(drawn.crops) if j < 0]
        pixels = self.crops([max(j, 0) for j in drawn.crops])
        if made:
            stack = torch.from_numpy(np.stack([drawn.pictures[i] for i in made])).to(self.device)
            pixels[made] = stack.permute(0, 3, 1, 2).float() / 255
        return pixels


class Writers(torch.utils.data.IterableDataset):
    """What the joint phase draws, in processes of the CPU: each has its own course."""

    def __init__(self, run: Path, packs: Path, batch: int) -> None:
        self.run, self.packs, self.batch = run, packs, batch

    def __iter__(self) -> Iterator[tuple[Drawn, train.Batch]]:
        worker = torch.utils.data.get_worker_info()
        course = Course(self.run, 1 + (worker.id if worker else 0), self.packs / "train")
        began = time.time()
        for drawn in course.batches(CROPS, self.batch, 4, made=True):
            course.progress = min(1.0, (time.time() - began) / 900)
            yield drawn, train.Batch(drawn.pairs)


@dataclass
class Eyes:
    """The encoder and what it looks with."""

    board: Board
    device: torch.device

    def normalise(self, pixels: Tensor) -> Tensor:
        x = (pixels - MEAN.to(self.device)) / STD.to(self.device)
        return x.contiguous(memory_format=torch.channels_last)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")


def distil(eyes: Eyes, teacher: torch.nn.Module, a: argparse.Namespace) -> dict[str, Tensor]:
    """Phase 1: the averaged weights of the encoder."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    objective = objective_of(eyes, teacher)
    student = Student()
    distill.initialise(student.encoder)
    student = student.to(eyes.device, memory_format=torch.channels_last)
    steps = Steps(student, a.lr, lambda name: name.startswith("encoder"), dtype=torch.float32)
    average = {k: v.clone() for k, v in steps.master.items()}
    forward = torch.compile(student) if a.compile else student
    began, step, noted = time.time(), 0, time.time()
    while (elapsed := (time.time() - began) / 60) < a.distill:
        pixels = eyes.board.crops(rng.integers(distill.HELD_OUT, CROPS, a.batch).tolist())
        truth = look(eyes, teacher, pixels)
        with eyes.autocast():
            outputs = forward(eyes.normalise(photometric(pixels)))
        losses = objective(outputs, truth)
        losses["total"].backward()
        steps.step(schedule(step, elapsed / a.distill))
        step += 1
        for k, v in steps.master.items():
            average[k].lerp_(v, 1 - min(0.998, step / (step + 10)))
        if time.time() - noted > a.every:
            noted = time.time()
            print(f"distil {elapsed:.1f} min, {step * a.batch} crops, map {losses['map32'].item():.3f}", flush=True)
    print(f"distilled on {step * a.batch} crops", flush=True)
    return average


@torch.no_grad()
def look(eyes: Eyes, teacher: torch.nn.Module, pixels: Tensor) -> list[Tensor]:
    """The teacher's two maps, channels last."""
    with eyes.autocast():
        maps = teacher.forward_intermediates(pixels * 2 - 1, intermediates_only=True)
    return [x.permute(0, 2, 3, 1) for x in maps[-2:]]


def objective_of(eyes: Eyes, teacher: torch.nn.Module) -> Objective:
    whole = range(min(1024, len(eyes.board.photos)))
    maps = [look(eyes, teacher, eyes.board.crops(list(whole[i : i + 128]))) for i in whole[::128]]
    return Objective(teacher, [torch.cat(same) for same in zip(*maps, strict=True)])


def learn_all(eyes: Eyes, teacher: torch.nn.Module, encoder: dict[str, Tensor] | None, a: argparse.Namespace) -> None:
    """Phase 2 and 3 in one: all tasks on pixels, the encoder held to the teacher's maps."""
    course = Course(a.run, 1)
    model = train.new_model(course)
    model.lessons = Lessons(train.NANO.vision.dims[-1], a.places, a.letters)
    if a.start:
        model.load_state_dict(model.state_dict() | train.load_weights(a.start))
    if encoder:
        model.vision.load_state_dict({k[8:]: v for k, v in encoder.items() if k.startswith("encoder.")})
    model.to(eyes.device, memory_format=torch.channels_last).train()
    objective = objective_of(eyes, teacher)
    steps = Steps(model, a.lr, train.is_hidden_matrix, slow="vision.", slower=a.encoder_rate, dtype=torch.float32)
    loop = train.Loop(a.run / "joint", a.joint, a.batch, steps, model)
    loop.every = a.every
    vision = torch.compile(model.vision) if a.compile else model.vision
    writers = torch.utils.data.DataLoader(
        Writers(a.run, a.packs, a.batch),
        batch_size=None,
        num_workers=a.workers,
        prefetch_factor=4 if a.workers else None,
    )
    examples = course.fixed(a.examples)
    drawn_batches = iter(writers)
    while loop.goes_on():
        drawn, batch = next(drawn_batches)
        pixels = eyes.board.pictures(drawn)
        _, truth = objective.standardise(look(eyes, teacher, pixels))
        with eyes.autocast():
            seen = vision(eyes.normalise(photometric(pixels)))
            photos = torch.tensor([j >= 0 for j in drawn.crops], device=eyes.device)
            kept = (
                F.mse_loss(seen[photos][..., :CHANNELS].float(), truth[photos]) if photos.any() else seen.new_zeros(())
            )
            loss, losses = train.joint_loss(model, seen, kept, drawn, batch.to(eyes.device), course.first_location)
        loss.backward()
        loop.update({name: value.item() for name, value in losses.items()})
        if loop.due():
            loop.note(measured(eyes, model, examples, course))
    loop.note(measured(eyes, model, examples, course))


@torch.inference_mode()
def measured(eyes: Eyes, model: train.Florence2Model, examples: list, course: Course) -> dict[str, list[float]]:
    with eyes.autocast():
        whole = eyes.board.crops([index for index, _ in examples])
        tokens = model.projector(model.vision(eyes.normalise(whole))[:, None])
        return train.measure(model, tokens, examples, course)


def in_pieces(path: Path) -> None:
    content = path.read_bytes()
    for number, start in enumerate(range(0, len(content), PIECE)):
        path.with_name(f"{path.name}.{number:03d}").write_bytes(content[start : start + PIECE])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("packs", type=Path, help="data folder with train/, eval/ and pseudo/")
    parser.add_argument("teacher", type=Path, help="weights of the classifier")
    parser.add_argument("run", type=Path)
    parser.add_argument("--distill", type=float, default=0, help="minutes of phase 1")
    parser.add_argument("--joint", type=float, default=17, help="minutes of the joint phase")
    parser.add_argument("--start", type=Path, help="a checkpoint to go on from")
    parser.add_argument(
        "--tokenizer", type=Path, help="a checkpoint whose tokenizer is taken; one is trained otherwise"
    )
    parser.add_argument("--batch", type=int, default=192)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--encoder-rate", type=float, default=0.3)
    Lessons.options(parser)
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--every", type=float, default=30, help="seconds between two lines of the log")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=torch.cuda.is_available())
    a = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("high")
    data.pack(a.packs, a.run)
    if place := a.tokenizer or a.start:
        Tokenizer.load(place).save(a.run / "tokenizer")
    else:
        train.train_tokenizer(a.run)
    teacher = distill.load_teacher(a.teacher).to(device, memory_format=torch.channels_last)
    eyes = Eyes(Board(data.load(a.run)[1], device), device)
    encoder = distil(eyes, teacher, a) if a.distill else None
    learn_all(eyes, teacher, encoder, a)
    in_pieces(a.run / "joint.pt")


if __name__ == "__main__":
    main()
