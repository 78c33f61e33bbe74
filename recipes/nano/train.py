"""Phases 2 and 3: the language model learns on stored feature maps, then the whole model learns together.

``text`` trains the projector and BART on the feature maps that the distillation stored, while the image encoder is
still being distilled: the encoder's output is trained to be such a map, so the two fit together later. ``joint`` puts
them together and trains everything on pixels. Several answers share one photo, answers to one prompt share one memory.

    python train.py tokenizer RUN
    python train.py text RUN --minutes 40
    python train.py joint RUN --minutes 50 --start RUN/text.pt --encoder RUN/distilled.pt --packs DATA/train
    python train.py store RUN RUN/joint.pt FOLDER
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import data
import numpy as np
import targets
import torch
import torch.nn.functional as F
from course import CROPS, Course, Drawn
from distill import (
    CHANNELS,
    MEAN,
    STD,
    Steps,
    arithmetic,
    cut,
    photometric,
    save,
    schedule,
    stored,
    to_tensor,
)
from lessons import Lessons
from torch import Tensor

from florence2 import checkpoints
from florence2.config import NANO
from florence2.language.tokenizer import Tokenizer
from florence2.model import Florence2Model, initialise

SPREAD = torch.arange(-45, 46, 5)
SPREAD_WEIGHTS = (-0.5 * (SPREAD / 15.0) ** 2).softmax(0)
"""A location token counts its neighbours as nearly right: a Gaussian over these offsets, in bins, mirrored at the
border and shifted at random. Without it bins 0 and 999, where many boxes begin and end, win every doubtful case."""


TOGETHER = 10
"""Steps between two averages of the weights, where several processes train."""


class Batch:
    """Pairs of several photos as tensors: U prompts (photo and prompt text unique), R answers."""

    def __init__(self, drawn: list[list[targets.Pair]]) -> None:
        rows: dict[tuple[int, tuple[int, ...]], int] = {}
        answers: list[tuple[list[int], int]] = []
        for photo, pairs in enumerate(drawn):
            for prompt, answer in pairs:
                row = rows.setdefault((photo, tuple(prompt)), len(rows))
                answers.append((answer, row))
        answers.sort(key=lambda pair: len(pair[0]))
        self.photos = torch.tensor([photo for photo, _ in rows])  # (U,)
        self.prompts = pad([list(prompt) for _, prompt in rows], NANO.text.pad_id)  # (U, N)
        self.mask = pad([[1] * len(prompt) for _, prompt in rows], 0).bool()
        half = (2 * len(answers) + 2) // 3  # the longest third by itself: less padding
        self.parts = [
            (pad([ids for ids, _ in part], -100), torch.tensor([row for _, row in part]))
            for part in (answers[:half], answers[half:])
            if part
        ]

    def to(self, device: torch.device) -> Batch:
        self.photos, self.prompts, self.mask = (x.to(device) for x in (self.photos, self.prompts, self.mask))
        self.parts = [(labels.to(device), rows.to(device)) for labels, rows in self.parts]
        return self

    def losses(self, model: Florence2Model, image_tokens: Tensor, first_location: int) -> tuple[Tensor, Tensor, Tensor]:
        """Per answer token: smoothed loss, exact negative log-likelihood, the token. (T,) each."""
        memory = model.encode(image_tokens[self.photos], self.prompts, self.mask)
        soft, exact, tokens = [], [], []
        for labels, rows in self.parts:
            hidden = model.text.decode(model.shift_right(labels), memory.select(rows))
            counted = labels != -100
            counted[:, 0] = False  # <s> is forced
            logprobs = model.text.project(hidden[counted]).float().log_softmax(-1)  # (T, V)
            truth = labels[counted]
            nll = -logprobs.gather(1, truth[:, None])[:, 0]
            n = truth - first_location
            place = (n >= 0) & (n < 1000)
            near = (n[place, None] + SPREAD.to(n.device) + torch.randint(-2, 3, ()).item()).abs()
            near = torch.where(near > 999, 2 * 999 - near, near) + first_location
            smooth = nll.clone()
            smooth[place] = -(logprobs[place].gather(1, near) * SPREAD_WEIGHTS.to(n.device)).sum(1)
            soft.append(smooth)
            exact.append(nll.detach())
            tokens.append(truth)
        return torch.cat(soft), torch.cat(exact), torch.cat(tokens)


def pad(rows: list[list[int]], value: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])


@torch.inference_mode()
def measure(model: Florence2Model, image_tokens: Tensor, examples: list, course: Course) -> dict[str, list[float]]:
    """NLL per token with the right photo and with another one, by what the answer is made of. No difference: blind."""
    batch = Batch([pairs for _, pairs in examples]).to(image_tokens.device)
    first = course.first_location
    sums = []
    for tokens in (image_tokens, image_tokens.roll(1, 0)):
        _, nll, truth = batch.losses(model, tokens, first)
        place = (truth >= first) & (truth < first + 1000)
        sums.append([nll[~place].mean().item(), nll[place].mean().item()])
    words, places = zip(*sums, strict=True)
    return {"words": [round(v, 4) for v in words], "places": [round(v, 4) for v in places]}


def smooth_locations(model: Florence2Model, first: int) -> None:
    """Start the 1,000 location embeddings as waves, so that neighbours begin alike and learn from each other."""
    n = torch.arange(1000)[:, None] / 1000
    waves = 2.0 ** torch.arange(-1, 6)[None]
    features = torch.cat([(math.pi * n * waves).sin(), (math.pi * n * waves).cos()], 1)  # (1000, 14)
    with torch.no_grad():
        rows = features @ torch.randn(features.shape[1], model.config.text.d_model)
        model.text.shared.weight[first : first + 1000] = 0.02 * rows / rows.std()


def new_model(course: Course) -> Florence2Model:
    torch.manual_seed(0)
    model = initialise(Florence2Model(NANO))
    smooth_locations(model, course.tokenizer.first_location_id)
    return model


def widen(maps: Tensor) -> Tensor:
    """Stored maps (B, 7, 7, 192) as the encoder gives them, (B, 7, 7, C): the other channels are zero."""
    return F.pad(maps, (0, NANO.vision.dims[-1] - CHANNELS))


class TeacherMaps:
    """The teacher's maps of stored crops, standardised."""

    def __init__(self, run: Path) -> None:
        self.ready = json.loads((run / "taught.json").read_text())["ready"]
        self.maps = stored(run)[1]
        sample = torch.from_numpy(self.maps[:1024].astype(np.float32)).flatten(0, 2)
        self.mean, self.std = sample.mean(0), sample.std(0) + 1e-3

    def __call__(self, crops: list[int]) -> Tensor:
        """(B, 7, 7, 192)"""
        return (torch.from_numpy(self.maps[crops].astype(np.float32)) - self.mean) / self.std


def train_text(course: Course, loop_of: Callable[..., Loop], maps: TeacherMaps, start: Path | None, lr: float) -> None:
    """Projector and BART on the teacher's maps in place of the encoder's."""
    model = new_model(course)
    if start:
        model.load_state_dict(load_weights(start))
    model.vision.requires_grad_(False)
    loop = loop_of(Steps(model, lr, is_hidden_matrix), model)
    batches = course.batches(maps.ready, loop.batch, 4, made=False)
    examples = course.fixed(200)

    def image_tokens(crops: list[int]) -> Tensor:
        return model.projector(widen(maps(crops)).to(arithmetic())[:, None])

    while loop.goes_on():
        drawn = next(batches)
        soft, exact, _ = Batch(drawn.pairs).losses(model, image_tokens(drawn.crops), course.first_location)
        soft.mean().backward()
        loop.update({"loss": soft.mean().item(), "nll": exact.mean().item()})
        if loop.due():
            loop.note(measure(model, image_tokens([i for i, _ in examples]), examples, course))


def train_joint(
    course: Course,
    loop_of: Callable[..., Loop],
    maps: TeacherMaps | None,
    start: Path | None,
    encoder: Path | None,
    lr: float,
    encoder_rate: float,
    lessons: Lessons,
) -> None:
    """Everything on pixels. The encoder is held to the teacher's maps, where there are any, and learns slowly: answers
    alone wear it down."""
    model = new_model(course)
    model.lessons = lessons
    if start:
        model.load_state_dict(model.state_dict() | load_weights(start))
    if encoder:
        load_encoder(model, encoder)
    model.to(memory_format=torch.channels_last)
    loop = loop_of(Steps(model, lr, is_hidden_matrix, slow="vision.", slower=encoder_rate), model)
    batches = course.batches(CROPS, loop.batch, 4, made=True)
    taught = maps.ready if maps else 0
    examples = course.fixed(200)

    def see(pixels: Tensor) -> Tensor:
        x = ((pixels - MEAN) / STD).to(arithmetic()).contiguous(memory_format=torch.channels_last)
        return model.vision(x)  # (B, 7, 7, C)

    while loop.goes_on():
        course.progress = loop.agreed / loop.minutes
        drawn = next(batches)
        pictures = [cut(course.photos, j) if p is None else p for j, p in zip(drawn.crops, drawn.pictures, strict=True)]
        seen = see(photometric(to_tensor(pictures)))
        held = [i for i, j in enumerate(drawn.crops) if 0 <= j < taught]
        kept = torch.zeros(())
        if held:
            kept = F.mse_loss(seen[held, ..., :CHANNELS].float(), maps([drawn.crops[i] for i in held]))
        loss, losses = joint_loss(model, seen, kept, drawn, Batch(drawn.pairs), course.first_location)
        loss.backward()
        loop.update({name: value.item() for name, value in losses.items()})
        if loop.due():
            with torch.inference_mode():
                held = to_tensor([course.photos[i] for i, _ in examples])
                tokens = torch.cat([model.projector(see(part)[:, None]) for part in held.split(50)])
            loop.note(measure(model, tokens, examples, course))


def joint_loss(
    model: Florence2Model, seen: Tensor, kept: Tensor, drawn: Drawn, batch: Batch, first_location: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """What the answers, the teacher's maps (``kept``) and the lessons say about the maps ``seen``, (B, 7, 7, C): the
    sum to be lowered, and its parts."""
    soft, exact, _ = batch.losses(model, model.projector(seen[:, None]), first_location)
    learned, each = model.lessons.loss(seen, drawn)
    parts = {"loss": soft.mean(), "nll": exact.mean(), "map32": kept, **each}
    return parts["loss"] + 0.5 * kept + learned, parts


def load_weights(path: Path) -> dict[str, Tensor]:
    """Weights of a training state of these scripts, or of a stored checkpoint (a folder)."""
    if path.is_dir():
        return checkpoints.load(path, dtype="float32", device="cpu").model.state_dict()
    state: dict[str, Tensor] = torch.load(path)["model"]
    return state


def load_encoder(model: Florence2Model, path: Path) -> None:
    """Put the student of the distillation in the place of the image encoder."""
    student = torch.load(path)["student"]
    prefix = "encoder."
    model.vision.load_state_dict({k[len(prefix) :]: v for k, v in student.items() if k.startswith(prefix)})


def store(course_run: Path, weights: Path, encoder: Path | None, folder: Path) -> None:
    """Write a training state as a checkpoint that anybody can load: half precision, the averaged weights."""
    model = Florence2Model(NANO)
    trained = load_weights(weights)
    model.load_state_dict({k: trained[k] for k in model.state_dict()})  # without the lessons' heads
    if encoder:
        load_encoder(model, encoder)
    tokenizer = Tokenizer.load(course_run / "tokenizer")
    made = checkpoints.Checkpoint(model, tokenizer, NANO, "florence2", str(weights))
    checkpoints.save(made, folder, dtype="float16", overwrite=True)


def is_hidden_matrix(name: str) -> bool:
    """Weights that turn one hidden state into another; embeddings, positions and vectors learn by AdamW."""
    return name.startswith("vision.stages") or "layers." in name or "projection" in name


class Loop:
    """Clock, learning rate, running average of the weights, log and checkpoint of a training run."""

    every = 240
    """Seconds between two lines of the log."""

    def __init__(self, path: Path, minutes: float, batch: int, steps: Steps, model: Florence2Model) -> None:
        self.path, self.minutes, self.batch, self.steps, self.model = path, minutes, batch, steps, model
        self.average = {k: v.clone() for k, v in steps.master.items()}
        self.began = self.noted = time.time()
        self.together = torch.distributed.is_initialized()
        self.first = not self.together or torch.distributed.get_rank() == 0
        self.log = self.path.with_suffix(".jsonl").open("a") if self.first else None
        self.agreed = 0.0
        self.step = self.images = 0
        self.sums: dict[str, float] = {}
        self.counted = 0

    @property
    def elapsed(self) -> float:
        return (time.time() - self.began) / 60

    def goes_on(self) -> bool:
        if self.agreed < self.minutes:
            return True
        self.keep()
        return False

    def update(self, losses: dict[str, float]) -> None:
        self.steps.step(schedule(self.step, self.agreed / self.minutes, warmup=60))
        self.step += 1
        if not self.together:
            self.agreed = self.elapsed
        elif self.step % TOGETHER == 0:
            self.agreed = self.steps.meet(self.elapsed)
        self.images += self.batch
        self.counted += 1
        decay = min(0.999, self.step / (self.step + 10))
        for k, v in self.steps.master.items():
            self.average[k].lerp_(v, 1 - decay)
        for k, v in losses.items():
            self.sums[k] = self.sums.get(k, 0.0) + v

    def due(self) -> bool:
        return self.first and time.time() - self.noted > self.every

    def note(self, measured: dict[str, list[float]]) -> None:
        line = {"minutes": round(self.elapsed, 2), "step": self.step, "images": self.images}
        line |= {k: round(v / self.counted, 4) for k, v in self.sums.items()} | measured
        print(json.dumps(line), file=self.log, flush=True)
        self.sums, self.counted, self.noted = {}, 0, time.time()
        self.keep()

    def keep(self) -> None:
        if not self.first:
            return
        state = {k: v.float().cpu() for k, v in ({**self.model.state_dict()} | self.average).items()}
        save(self.path.with_suffix(".pt"), {"model": state, "step": self.step, "minutes": self.elapsed})


def train_tokenizer(run: Path) -> None:
    """8,000 tokens from everything that is said about the training photos, and from the prompts."""
    records, _ = data.load(run)
    targets.prepare(records)
    Tokenizer.train(targets.all_texts(records), NANO.text.vocab_size).save(run / "tokenizer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    phases = parser.add_subparsers(dest="phase", required=True)
    one = phases.add_parser("tokenizer")
    one.add_argument("run", type=Path)
    one.add_argument("--like", type=Path, help="take the tokenizer of this checkpoint, to go on from its weights")
    for name in ("text", "joint"):
        one = phases.add_parser(name)
        one.add_argument("run", type=Path)
        one.add_argument("--minutes", type=float, default=40)
        one.add_argument("--start", type=Path, help="an earlier run's weights, or a stored checkpoint")
        one.add_argument("--batch", type=int, default=16)
        one.add_argument("--lr", type=float, default=1e-3 if name == "text" else 5e-4)
        one.add_argument("--seed", type=int, default=1)
        one.add_argument("--name", default=name)
        one.add_argument("--processes", type=int, default=1, help="each on one core; the weights are averaged")
        if name == "joint":
            one.add_argument(
                "--packs", type=Path, required=True, help="folder of the training packs, to cut objects out"
            )
            one.add_argument("--encoder", type=Path, help="weights of the distillation")
            one.add_argument("--encoder-rate", type=float, default=0.3, help="of the encoder, in parts of --lr")
            Lessons.options(one)
    one = phases.add_parser("store")
    one.add_argument("run", type=Path)
    one.add_argument("weights", type=Path)
    one.add_argument("folder", type=Path)
    one.add_argument("--encoder", type=Path)
    a = parser.parse_args()
    if a.phase == "tokenizer":
        return Tokenizer.load(a.like).save(a.run / "tokenizer") if a.like else train_tokenizer(a.run)
    if a.phase == "store":
        return store(a.run, a.weights, a.encoder, a.folder)
    if a.processes == 1:
        return phase(a)
    (a.run / f"{a.name}.meeting").unlink(missing_ok=True)
    torch.multiprocessing.spawn(one_of_many, (a,), a.processes)


def one_of_many(rank: int, a: argparse.Namespace) -> None:
    """A process with its own photos and its own optimiser; the weights are averaged every few steps."""
    torch.set_num_threads(1)
    meeting = f"file://{(a.run / a.name).absolute()}.meeting"
    torch.distributed.init_process_group("gloo", meeting, rank=rank, world_size=a.processes)
    a.seed += 1000 * rank
    phase(a)
    torch.distributed.destroy_process_group()


def phase(a: argparse.Namespace) -> None:
    course, maps = (
        Course(a.run, a.seed, a.packs if a.phase == "joint" else None),
        TeacherMaps(a.run) if (a.run / "taught.json").exists() else None,
    )
    loop_of = functools.partial(Loop, a.run / a.name, a.minutes, a.batch)
    if a.phase == "text":
        train_text(course, loop_of, maps, a.start, a.lr)
    else:
        taught = Lessons(NANO.vision.dims[-1], a.places, a.letters)
        train_joint(course, loop_of, maps, a.start, a.encoder, a.lr, a.encoder_rate, taught)


if __name__ == "__main__":
    main()
