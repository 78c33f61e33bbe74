"""Phase 1: the image encoder learns to see from a small classifier, without a single label.

The student is the DaViT of the NANO preset. The first 192 channels of its last map are trained to BE the teacher's
last map, standardised, and the rest to be zero: a language model that learned on stored teacher maps then takes the
student's map as it is. The teacher's own last layers turn the student's map into class probabilities for a second
loss, and a linear head that is thrown away gives a hint at stride 16.

Two processes share the work: ``teach`` runs the teacher over crops of the photos and stores what it sees, ``learn``
trains on all crops stored so far. Crop number j is a function of j alone, so both sides cut the same pixels; the first
crops are the whole photos.

    python distill.py pack  DATA RUN
    python distill.py teach RUN TEACHER.safetensors --crops 80000
    python distill.py learn RUN TEACHER.safetensors --minutes 55
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import data
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from florence2.config import NANO
from florence2.model.davit import DaViT, initialise

MEAN, STD = (torch.tensor(v).view(1, 3, 1, 1) for v in (NANO.image.mean, NANO.image.std))
CHANNELS = 192  # of the teacher's last map
HELD_OUT = 256  # crops 0..255, whole photos: never trained on, they give the validation loss


class Student(nn.Module):
    """The encoder and its throw-away head."""

    def __init__(self) -> None:
        super().__init__()
        dims = NANO.vision.dims
        self.encoder = DaViT(NANO.vision)
        self.head16 = nn.Linear(dims[1], 96)
        nn.init.normal_(self.head16.weight, std=0.02)
        nn.init.zeros_(self.head16.bias)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, 224, 224) → standardised teacher map (B, 14, 14, 96), own last map (B, 7, 7, 256)."""
        x = pixels.permute(0, 2, 3, 1)
        maps = []
        for stage in self.encoder.stages:
            x = stage(x)
            maps.append(x)
        return self.head16(maps[1]), maps[3]


@functools.cache
def load_teacher(path: Path) -> nn.Module:
    """MobileNet-EdgeTPU of timm, in evaluation mode; the folder of the weights explains the two odd lines."""
    library = torch.library.Library("torchvision", "DEF")  # a torchvision built for another torch fails on import
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    load_teacher.library = library  # the operator lives as long as this object
    import timm
    from safetensors.torch import load_file

    model = timm.create_model("mobilenet_edgetpu_100", pretrained=False, pad_type="same", bn_eps=1e-3)
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()})
    model.blocks[0][0].bn1.act = nn.Identity()
    return model.eval().requires_grad_(False)


def geometry(photos: int, j: int) -> tuple[int, tuple[int, int, int, int], bool]:
    """Crop number j of so many photos: which photo, which pixels (x0, y0, x1, y1), mirrored or not.

    The whole photos for j < photos, then 30-100 % of a photo's area, mirrored half the time.
    """
    if j < photos:
        return j, (0, 0, data.SIDE, data.SIDE), False
    rng = np.random.default_rng(j)
    index = int(rng.integers(min(HELD_OUT, photos // 50), photos))
    area, ratio = rng.uniform(0.3, 1.0), math.exp(rng.uniform(-0.25, 0.25))
    w = min(data.SIDE, round(data.SIDE * math.sqrt(area * ratio)))
    h = min(data.SIDE, round(data.SIDE * math.sqrt(area / ratio)))
    x, y = int(rng.integers(0, data.SIDE - w + 1)), int(rng.integers(0, data.SIDE - h + 1))
    return index, (x, y, x + w, y + h), bool(rng.random() < 0.5)


def cut(photos: np.ndarray, j: int) -> np.ndarray:
    """Crop number j as (224, 224, 3)."""
    return clip(photos, *geometry(len(photos), j))


def clip(photos: np.ndarray, index: int, pixels: tuple[int, int, int, int], mirrored: bool) -> np.ndarray:
    x0, y0, x1, y1 = pixels
    crop = photos[index][y0:y1, x0:x1]
    if mirrored:
        crop = crop[:, ::-1]
    if crop.shape[:2] == (data.SIDE, data.SIDE):
        return np.ascontiguousarray(crop)
    return np.asarray(Image.fromarray(np.ascontiguousarray(crop)).resize((data.SIDE,) * 2, Image.Resampling.BILINEAR))


def to_tensor(crops: list[np.ndarray]) -> Tensor:
    """uint8 HWC pictures → (B, 3, H, W) in [0, 1], channels last."""
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255


def teach(run: Path, weights: Path, crops: int, batch: int = 32) -> None:
    """Store the teacher's maps of the crops; ``taught.json`` says how many are ready; a next run goes on there."""
    _, photos = data.load(run)
    teacher = load_teacher(weights).to(arithmetic()).to(memory_format=torch.channels_last)
    files = open_maps(run, crops)
    state = run / "taught.json"
    first = json.loads(state.read_text())["ready"] if state.exists() else 0
    with torch.inference_mode():
        for start in range(first, crops, batch):
            chosen = range(start, min(start + batch, crops))
            pixels = (to_tensor([cut(photos, j) for j in chosen]) * 2 - 1).to(arithmetic())
            maps = teacher.forward_intermediates(pixels, intermediates_only=True)
            for file, x in zip(files, maps[-2:], strict=True):
                file[chosen.start : chosen.stop] = x.permute(0, 2, 3, 1).half().numpy()
            write_atomically(state, json.dumps({"ready": chosen.stop, "crops": crops}).encode())


def open_maps(run: Path, crops: int) -> tuple[np.ndarray, np.ndarray]:
    """The teacher's maps of all crops, (crops, 14, 14, 96) and (crops, 7, 7, 192) fp16, on disk."""

    def one(name: str, side: int, channels: int) -> np.ndarray:
        path = run / f"{name}.f16"
        return np.memmap(path, np.float16, "r+" if path.exists() else "w+", shape=(crops, side, side, channels))

    return one("map16", 14, 96), one("map32", 7, 192)


class Objective:
    """The losses of the encoder's maps beside the teacher's, which are standardised per channel."""

    def __init__(self, teacher: nn.Module, sample: list[Tensor]) -> None:
        """``sample``: the teacher's two maps of some photos, (B, 14, 14, 96) and (B, 7, 7, 192), for the statistics."""
        self.teacher = teacher
        self.stats = []
        for maps in sample:
            flat = maps.float().flatten(0, 2)
            self.stats.append((flat.mean(0), flat.std(0) + 1e-3))

    @classmethod
    def of_stored(cls, run: Path, weights: Path) -> Objective:
        """With the maps that ``teach`` stored."""
        return cls(load_teacher(weights), [torch.from_numpy(file[:1024].astype(np.float32)) for file in stored(run)])

    def standardise(self, maps: list[Tensor]) -> list[Tensor]:
        return [(x.float() - mean) / std for x, (mean, std) in zip(maps, self.stats, strict=True)]

    def classify(self, map32: Tensor) -> Tensor:
        """Teacher logits of a (B, 7, 7, 192) map, in the teacher's own scale."""
        return self.teacher.forward_head(self.teacher.bn2(self.teacher.conv_head(map32.permute(0, 3, 1, 2))))

    def __call__(self, outputs: tuple[Tensor, Tensor], truth: list[Tensor]) -> dict[str, Tensor]:
        hint, own = outputs[0].float(), outputs[1].float()
        seen, free = own[..., :CHANNELS], own[..., CHANNELS:]
        want16, want32 = self.standardise(truth)
        losses = {"free": free.pow(2).mean(), "map16": F.mse_loss(hint, want16), "map32": F.mse_loss(seen, want32)}
        mean, std = self.stats[1]
        said = self.classify(seen * std + mean)
        with torch.no_grad():
            want = self.classify(truth[1].float())
        T = 2.0
        losses["classes"] = F.kl_div(
            (said / T).log_softmax(-1), (want / T).log_softmax(-1), log_target=True, reduction="batchmean"
        )
        pooled = (seen.mean((1, 2)), want32.mean((1, 2)))
        losses["pooled"] = F.mse_loss(*pooled) / 0.25  # a pooled map varies less than its cells
        losses["total"] = 0.3 * losses["map16"] + losses["map32"] + 0.5 * losses["pooled"] + 0.5 * losses["classes"]
        losses["total"] = losses["total"] + 0.1 * losses["free"]
        return losses


def stored(run: Path) -> tuple[np.ndarray, np.ndarray]:
    return open_maps(run, json.loads((run / "taught.json").read_text())["crops"])


def learn(run: Path, weights: Path, minutes: float, optimizer: str, batch: int, lr: float, name: str) -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    _, photos = data.load(run)
    objective, files = Objective.of_stored(run, weights), stored(run)
    student = Student()
    initialise(student.encoder)
    student = student.to(memory_format=torch.channels_last)
    steps = Steps(student, lr, lambda name: optimizer == "muon" and name.startswith("encoder"))
    average = {k: v.clone() for k, v in steps.master.items()}
    began, step, log = time.time(), 0, (run / f"{name}.jsonl").open("a")
    sums: dict[str, float] = {}
    last_note = began
    while (elapsed := (time.time() - began) / 60) < minutes:
        ready = json.loads((run / "taught.json").read_text())["ready"]
        chosen = np.sort(rng.integers(HELD_OUT, ready, batch))
        pixels = photometric(to_tensor([cut(photos, j) for j in chosen]))
        outputs = student(((pixels - MEAN) / STD).to(arithmetic()).contiguous(memory_format=torch.channels_last))
        losses = objective(outputs, [torch.from_numpy(file[chosen].astype(np.float32)) for file in files])
        losses["total"].backward()
        steps.step(schedule(step, elapsed / minutes))
        step += 1
        decay = min(0.998, step / (step + 10))
        for k, v in steps.master.items():
            average[k].lerp_(v, 1 - decay)
        for k, v in losses.items():
            sums[k] = sums.get(k, 0.0) + v.item()
        if time.time() - last_note > 60:
            n = step - int(sums.pop("from", 0))
            note = {"minutes": round(elapsed, 2), "step": step, "images": step * batch, "crops": ready}
            note |= {k: round(v / n, 4) for k, v in sums.items()}
            note["held_out"] = evaluate(objective, files, photos, average)
            print(json.dumps(note), file=log, flush=True)
            sums, last_note = {"from": step}, time.time()
            save(run / f"{name}.pt", {"student": average, "step": step, "minutes": elapsed})
    save(run / f"{name}.pt", {"student": average, "step": step, "minutes": elapsed, "finished": True})


def evaluate(objective: Objective, files: tuple, photos: np.ndarray, weights: dict[str, Tensor]) -> dict[str, float]:
    """Losses of the averaged weights on the held-out whole photos."""
    copy = Student()
    copy.load_state_dict(weights)
    copy = copy.to(arithmetic()).to(memory_format=torch.channels_last).eval()
    sums: dict[str, float] = {}
    with torch.inference_mode():
        for start in range(0, HELD_OUT, 64):
            chosen = np.arange(start, start + 64)
            pixels = (to_tensor([cut(photos, j) for j in chosen]) - MEAN) / STD
            truth = [torch.from_numpy(file[chosen].astype(np.float32)) for file in files]
            for k, v in objective(copy(pixels.to(arithmetic())), truth).items():
                sums[k] = round(sums.get(k, 0.0) + v.item() * 64 / HELD_OUT, 4)
    return sums


def photometric(pixels: Tensor) -> Tensor:
    """Random brightness, contrast and colour; the teacher saw the crop as it is."""
    B = len(pixels)
    gain = 1 + 0.25 * (2 * torch.rand(B, 1, 1, 1) - 1) + 0.08 * (2 * torch.rand(B, 3, 1, 1) - 1)
    lift = 0.1 * (2 * torch.rand(B, 1, 1, 1) - 1)
    mean = pixels.mean((1, 2, 3), keepdim=True)
    return ((pixels - mean) * gain.to(pixels.device) + mean + lift.to(pixels.device)).clamp(0, 1)


def schedule(step: int, progress: float, warmup: int = 100) -> float:
    """Linear warm-up, then a cosine to 2 % over the planned time."""
    return min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


@functools.cache
def arithmetic() -> torch.dtype:
    """bfloat16 where this machine multiplies faster in it: twice as fast where a CPU can, half as fast elsewhere."""
    took = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.ones(1024, 1024, dtype=dtype)
        for _ in range(4):
            began = time.perf_counter()
            a @ a
            took[dtype] = min(took.get(dtype, math.inf), time.perf_counter() - began)
    return min(took, key=took.get)


class Muon(torch.optim.Optimizer):
    """Momentum made orthogonal, for matrices (Jordan et al. 2024; the scale that fits AdamW's rates: Liu et al. 2025).

    torch.optim.Muon always multiplies in bfloat16, which is slow on CPUs without it; here it is ``arithmetic()``, and
    all matrices of one shape go together.
    """

    def __init__(self, params: list[dict], weight_decay: float = 0.05, momentum: float = 0.95, ns_steps: int = 4):
        super().__init__(params, {"weight_decay": weight_decay, "momentum": momentum, "ns_steps": ns_steps})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                shapes.setdefault(p.shape, []).append(p)
            for (rows, columns), alike in shapes.items():
                steps = []
                for p in alike:
                    state = self.state[p].setdefault("momentum", torch.zeros_like(p))
                    state.lerp_(p.grad, 1 - group["momentum"])
                    steps.append(p.grad.lerp(state, group["momentum"]))
                turned = orthogonal(torch.stack(steps), group["ns_steps"])
                rate = group["lr"] * 0.2 * math.sqrt(max(rows, columns))
                for p, step in zip(alike, turned, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).add_(step, alpha=-rate)


def orthogonal(x: Tensor, steps: int) -> Tensor:
    """(N, m, n) matrices with all singular values near 1, by the quintic Newton-Schulz iteration of Muon."""
    wide = x.shape[-2] <= x.shape[-1]
    y = (x if wide else x.mT).to(torch.bfloat16 if x.is_cuda else arithmetic())
    y = y / y.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    for _ in range(steps):
        square = y @ y.mT
        y = 3.4445 * y + (-4.7750 * square + 2.0315 * square @ square) @ y
    return (y if wide else y.mT).to(x.dtype)


class Steps:
    """Weights in the faster number format for the arithmetic, fp32 copies for the optimiser."""

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        muon: Callable[[str], bool],
        slow: str = "none",
        slower: float = 0.1,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Muon makes the steps of the matrices that ``muon`` names orthogonal, AdamW moves the rest; names that begin
        with ``slow`` learn at ``slower`` times the rate."""
        self.model = model
        self.master = {k: v.detach().clone().float() for k, v in model.named_parameters() if v.requires_grad}
        model.to(dtype or arithmetic())
        turned, usual = [], []
        for begins in (True, False):
            rate = lr * slower if begins else lr
            mine = {k: v for k, v in self.master.items() if k.startswith(slow) == begins}
            matrices = [v for k, v in mine.items() if v.ndim == 2 and muon(k)]
            others = [v for k, v in mine.items() if v.ndim > 1 and not (v.ndim == 2 and muon(k))]
            vectors = [v for v in mine.values() if v.ndim == 1]
            turned.append({"params": matrices, "lr": 2 * rate})
            usual.append({"params": others, "lr": rate, "weight_decay": 0.05})
            usual.append({"params": vectors, "lr": rate, "weight_decay": 0.0})
        turned, usual = ([g for g in groups if g["params"]] for groups in (turned, usual))
        self.optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(usual, betas=(0.9, 0.98))]
        if turned:
            self.optimizers.append(Muon(turned))
        self.peaks = [[g["lr"] for g in o.param_groups] for o in self.optimizers]

    def step(self, scale: float) -> None:
        parameters = {k: p for k, p in self.model.named_parameters() if p.requires_grad}
        for k, p in parameters.items():
            self.master[k].grad = p.grad.float()
            p.grad = None
        nn.utils.clip_grad_norm_(self.master.values(), 1.0)
        for o, peaks in zip(self.optimizers, self.peaks, strict=True):
            for g, peak in zip(o.param_groups, peaks, strict=True):
                g["lr"] = peak * scale
            o.step()
        self._hand_over()

    def meet(self, clock: float) -> float:
        """Average the weights of all processes (local SGD; Stich 2018), and their clocks, so that all end together."""
        flat = torch.cat([*(v.flatten() for v in self.master.values()), torch.tensor([clock])])
        torch.distributed.all_reduce(flat)
        flat /= torch.distributed.get_world_size()
        sizes = [v.numel() for v in self.master.values()]
        with torch.no_grad():
            for v, mean in zip(self.master.values(), flat[:-1].split(sizes), strict=True):
                v.copy_(mean.view_as(v))
        self._hand_over()
        return flat[-1].item()

    def _hand_over(self) -> None:
        with torch.no_grad():
            for k, p in self.model.named_parameters():
                if k in self.master:
                    p.copy_(self.master[k])


def save(path: Path, state: object) -> None:
    """Write beside the file and rename, so that a reader never meets half a file."""
    torch.save(state, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def write_atomically(path: Path, content: bytes) -> None:
    path.with_suffix(".tmp").write_bytes(content)
    os.replace(path.with_suffix(".tmp"), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    steps = parser.add_subparsers(dest="step", required=True)
    one = steps.add_parser("pack")
    one.add_argument("data", type=Path)
    one.add_argument("run", type=Path)
    for name in ("teach", "learn"):
        one = steps.add_parser(name)
        one.add_argument("run", type=Path)
        one.add_argument("teacher", type=Path)
        if name == "teach":
            one.add_argument("--crops", type=int, default=80_000)
        else:
            one.add_argument("--minutes", type=float, default=55)
            one.add_argument("--optimizer", choices=("muon", "adamw"), default="muon")
            one.add_argument("--batch", type=int, default=32)
            one.add_argument("--lr", type=float, default=1e-3)
            one.add_argument("--name", default="distilled")
    a = parser.parse_args()
    if a.step == "pack":
        data.pack(a.data, a.run)
    elif a.step == "teach":
        teach(a.run, a.teacher, a.crops)
    else:
        learn(a.run, a.teacher, a.minutes, a.optimizer, a.batch, a.lr, a.name)


if __name__ == "__main__":
    main()
