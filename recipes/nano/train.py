"""Phases 2 and 3: the language model learns on stored feature maps, then the whole model learns together.

``text`` trains the projector and BART on the feature maps that the distillation stored, while the image encoder is still
being distilled: the encoder's output is trained to be such a map, so the two fit together later. ``joint`` puts them
together and trains everything on pixels. Several answers per photo share one image, answers to one prompt share one memory.

    python train.py tokenizer RUN
    python train.py text RUN --minutes 40 --maps map32.f16
    python train.py joint RUN --minutes 50 --encoder RUN/muon.pt --text RUN/text.pt
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import data
import targets
from distill import CHANNELS, MEAN, STD, Bf16Steps, clip, geometry, open_maps, photometric, save, schedule, to_tensor
from florence2.config import NANO
from florence2.language.tokenizer import Tokenizer
from florence2.model import Florence2Model, initialise

SHARE = {"flickr8k": 1.0, "coco": 0.8, "voc2012": 1.0, "ccp": 0.6, "camvid": 0.6, "icdar2015": 0.4, "sroie": 0.15}
SHARE |= {"funsd": 0.15, "iiit5k": 0.3, "icdar2015_words": 0.3}
"""How often a photo of each source is drawn."""
SPREAD = torch.arange(-32, 33, 4)
"""A location token also counts its neighbours as nearly right: a Gaussian over these offsets, in bins."""
SPREAD_WEIGHTS = (-0.5 * (SPREAD / 12.0) ** 2).softmax(0)


def held_out(index: int) -> bool:
    """Photos of the training packs that only measure."""
    return index % 40 == 7


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
            near = (n[place, None] + SPREAD).clamp(0, 999) + first_location
            smooth = nll.clone()
            smooth[place] = -(logprobs[place].gather(1, near) * SPREAD_WEIGHTS).sum(1)
            soft.append(smooth)
            exact.append(nll.detach())
            tokens.append(truth)
        return torch.cat(soft), torch.cat(exact), torch.cat(tokens)


def pad(rows: list[list[int]], value: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])


class Course:
    """Photos with their annotations, drawn at random and as fixed examples for measuring."""

    def __init__(self, run: Path, seed: int) -> None:
        self.records, self.photos = data.load(run)
        targets.prepare(self.records)
        self.classes: dict[str, list[str]] = {}
        for record in self.records:
            names = self.classes.setdefault(record.get("exhaustive_classes", ""), [])
            names += {o["label"] for o in record["objects"] if not o.get("pseudo")} - set(names)
        self.tokenizer = Tokenizer.load(run / "tokenizer")
        self.teacher = targets.Teacher(self.tokenizer)
        self.rng = random.Random(seed)
        self.shares = [0.0 if held_out(i) else SHARE[r["source"]] for i, r in enumerate(self.records)]

    def pairs(self, index: int, pixels: tuple[int, ...], mirrored: bool, count: int, rng: random.Random) -> list:
        crop = [v / data.SIDE for v in pixels]
        return self.teacher.pairs(targets.view(self.records[index], crop, mirrored, self.classes), count, rng)

    def from_crops(self, crops: int, batch: int, count: int) -> Iterator[tuple[np.ndarray, Batch]]:
        """Batches of stored crops; text photos only whole, others as they come."""
        chosen: list[int] = []
        drawn: list[list[targets.Pair]] = []
        while True:
            j = self.rng.randrange(crops)
            index, pixels, mirrored = geometry(len(self.records), j)
            if self.rng.random() > self.shares[index]:
                continue
            if pairs := self.pairs(index, pixels, mirrored, count, self.rng):
                chosen.append(j)
                drawn.append(pairs)
            if len(chosen) == batch:
                yield np.array(chosen), Batch(drawn)
                chosen, drawn = [], []

    def from_photos(self, batch: int, count: int) -> Iterator[tuple[Tensor, Batch]]:
        """Batches of pixels (B, 3, 224, 224) in 0..1: half of the photos whole, half cut to 50-100 %, mirrored or not."""
        crops: list[np.ndarray] = []
        drawn: list[list[targets.Pair]] = []
        indices = range(len(self.records))
        while True:
            index = self.rng.choices(indices, self.shares)[0]
            side, words = data.SIDE, "text" in self.records[index]
            w = h = side
            if not words and self.rng.random() < 0.5:
                area, ratio = self.rng.uniform(0.5, 1.0), math.exp(self.rng.uniform(-0.2, 0.2))
                w, h = (min(side, round(side * math.sqrt(area * r))) for r in (ratio, 1 / ratio))
            x, y = self.rng.randint(0, side - w), self.rng.randint(0, side - h)
            place = index, (x, y, x + w, y + h), not words and self.rng.random() < 0.5
            if pairs := self.pairs(*place, count, self.rng):
                crops.append(clip(self.photos, *place))
                drawn.append(pairs)
            if len(crops) == batch:
                yield to_tensor(crops), Batch(drawn)
                crops, drawn = [], []

    def fixed(self, photos: int, count: int = 6) -> list[tuple[int, list[targets.Pair]]]:
        """The same held-out photos and pairs every time."""
        rng = random.Random(1)
        whole = (0, 0, data.SIDE, data.SIDE)
        indices = [i for i, r in enumerate(self.records) if held_out(i) and "text" not in r]
        rng.shuffle(indices)
        return [(i, self.pairs(i, whole, False, count, rng)) for i in indices[:photos]]


@torch.inference_mode()
def measure(model: Florence2Model, image_tokens: Tensor, examples: list, course: Course) -> dict[str, list[float]]:
    """NLL per token with the right photo and with another one, by what the answer is made of. No difference: blind."""
    batch = Batch([pairs for _, pairs in examples])
    first = course.tokenizer.first_location_id
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


def train_text(run: Path, minutes: float, maps: str, start: Path | None, name: str, batch: int, lr: float) -> None:
    course = Course(run, seed=1)
    crops = json.loads((run / "taught.json").read_text())["crops"]
    stored = open_maps(run, crops)[1] if maps == "map32.f16" else np.load(run / maps, mmap_mode="r")
    sample = torch.from_numpy(open_maps(run, crops)[1][:1024].astype(np.float32)).flatten(0, 2)
    mean, std = sample.mean(0), sample.std(0) + 1e-3

    def image_tokens(chosen: np.ndarray) -> Tensor:
        x = torch.from_numpy(stored[chosen].astype(np.float32))
        x = (x - mean) / std if maps == "map32.f16" else x
        return model.projector(widen(x).bfloat16()[:, None])

    model = new_model(course)
    if start:
        model.load_state_dict(torch.load(start)["model"])
    matrices = [k for k, v in model.named_parameters() if v.ndim == 2 and ("layers" in k or "projection" in k)]
    model.vision.requires_grad_(False)
    steps = Bf16Steps(model, matrices, lr)
    examples = course.fixed(200)
    held = np.array([i for i, _ in examples])

    def ready() -> int:
        return json.loads((run / "taught.json").read_text())["ready"] if maps == "map32.f16" else len(stored)

    batches = course.from_crops(ready(), batch, 4)
    loop = Loop(run, name, minutes, steps, model)
    while loop.goes_on():
        if loop.step % 500 == 499:
            batches = course.from_crops(ready(), batch, 4)
        chosen, drawn = next(batches)
        soft, exact, _ = drawn.losses(model, image_tokens(chosen), course.tokenizer.first_location_id)
        soft.mean().backward()
        loop.update({"loss": soft.mean().item(), "nll": exact.mean().item()}, len(chosen))
        if loop.due():
            loop.note(measure(model, image_tokens(held), examples, course))


class Loop:
    """Clock, learning rate, running average of the weights, log and checkpoint of a training run."""

    def __init__(self, run: Path, name: str, minutes: float, steps: Bf16Steps, model: Florence2Model) -> None:
        self.path, self.minutes, self.steps, self.model = run / name, minutes, steps, model
        self.average = {k: v.clone() for k, v in steps.master.items()}
        self.log = self.path.with_suffix(".jsonl").open("a")
        self.began = self.noted = time.time()
        self.step = self.images = 0
        self.sums: dict[str, float] = {}
        self.counted = 0

    @property
    def elapsed(self) -> float:
        return (time.time() - self.began) / 60

    def goes_on(self) -> bool:
        if self.elapsed < self.minutes:
            return True
        self.keep()
        return False

    def update(self, losses: dict[str, float], images: int) -> None:
        self.steps.step(schedule(self.step, self.elapsed / self.minutes, warmup=200))
        self.step += 1
        self.images += images
        self.counted += 1
        decay = min(0.999, self.step / (self.step + 10))
        for k, v in self.steps.master.items():
            self.average[k].lerp_(v, 1 - decay)
        for k, v in losses.items():
            self.sums[k] = self.sums.get(k, 0.0) + v

    def due(self) -> bool:
        return time.time() - self.noted > 90

    def note(self, measured: dict[str, list[float]]) -> None:
        line = {"minutes": round(self.elapsed, 2), "step": self.step, "images": self.images}
        line |= {k: round(v / self.counted, 4) for k, v in self.sums.items()} | measured
        print(json.dumps(line), file=self.log, flush=True)
        self.sums, self.counted, self.noted = {}, 0, time.time()
        self.keep()

    def keep(self) -> None:
        state = {k: v.float() for k, v in self.model.state_dict().items()} | self.average
        save(self.path.with_suffix(".pt"), {"model": state, "step": self.step, "minutes": self.elapsed})


def train_tokenizer(run: Path) -> None:
    """8,000 tokens from all captions, labels, questions and texts of the training photos, and the prompts."""
    records, _ = data.load(run)
    targets.prepare(records)
    texts = [prompt for prompt in targets.PROMPTS.values() for _ in range(50)]
    for r in records:
        texts += r["captions"]
        texts += [p["phrase"].lower() for p in r.get("phrases", [])]
        texts += [o["label"] for o in r["objects"]] + [q["text"] for q in r.get("refs", [])]
        texts += [t["text"] for t in r.get("text", [])]
        for q in r.get("qa", []):
            texts += [q["question"], *q["answers"][:1]]
    Tokenizer.train(texts, NANO.text.vocab_size).save(run / "tokenizer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    phases = parser.add_subparsers(dest="phase", required=True)
    phases.add_parser("tokenizer").add_argument("run", type=Path)
    one = phases.add_parser("text")
    one.add_argument("run", type=Path)
    one.add_argument("--minutes", type=float, default=40)
    one.add_argument("--maps", default="map32.f16")
    one.add_argument("--start", type=Path)
    one.add_argument("--name", default="text")
    one.add_argument("--batch", type=int, default=16)
    one.add_argument("--lr", type=float, default=1e-3)
    a = parser.parse_args()
    if a.phase == "tokenizer":
        train_tokenizer(a.run)
    elif a.phase == "text":
        train_text(a.run, a.minutes, a.maps, a.start, a.name, a.batch, a.lr)


if __name__ == "__main__":
    main()
