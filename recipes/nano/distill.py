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
    index = int(rng.integers(HELD_OUT, photos))
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
    teacher = load_teacher(weights).bfloat16().to(memory_format=torch.channels_last)
    files = open_maps(run, crops)
    state = run / "taught.json"
    first = json.loads(state.read_text())["ready"] if state.exists() else 0
    with torch.inference_mode():
        for start in range(first, crops, batch):
            chosen = range(start, min(start + batch, crops))
            pixels = (to_tensor([cut(photos, j) for j in chosen]) * 2 - 1).bfloat16()
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
    """The three losses. Maps are standardised per channel with the statistics of the first whole photos."""

    def __init__(self, run: Path, weights: Path) -> None:
        self.teacher = load_teacher(weights)
        self.maps = open_maps(run, json.loads((run / "taught.json").read_text())["crops"])
        self.stats = []
        for file in self.maps:
            sample = torch.from_numpy(file[:1024].astype(np.float32)).flatten(0, 2)
            self.stats.append((sample.mean(0), sample.std(0) + 1e-3))

    def classify(self, map32: Tensor) -> Tensor:
        """Teacher logits of a (B, 7, 7, 192) map, in the teacher's own scale."""
        return self.teacher.forward_head(self.teacher.bn2(self.teacher.conv_head(map32.permute(0, 3, 1, 2))))

    def __call__(self, outputs: tuple[Tensor, Tensor], chosen: np.ndarray) -> dict[str, Tensor]:
        truth = [torch.from_numpy(file[chosen].astype(np.float32)) for file in self.maps]
        hint, own = outputs[0].float(), outputs[1].float()
        seen, free = own[..., :CHANNELS], own[..., CHANNELS:]
        losses = {"free": free.pow(2).mean()}
        for name, y, t, (mean, std) in zip(("map16", "map32"), (hint, seen), truth, self.stats, strict=True):
            losses[name] = F.mse_loss(y, (t - mean) / std)
        mean, std = self.stats[1]
        said = self.classify(seen * std + mean)
        with torch.no_grad():
            want = self.classify(truth[1])
        T = 2.0
        losses["classes"] = F.kl_div(
            (said / T).log_softmax(-1), (want / T).log_softmax(-1), log_target=True, reduction="batchmean"
        )
        pooled = (seen.mean((1, 2)), ((truth[1] - mean) / std).mean((1, 2)))
        losses["pooled"] = F.mse_loss(*pooled) / 0.25  # a pooled map varies less than its cells
        losses["total"] = 0.3 * losses["map16"] + losses["map32"] + 0.5 * losses["pooled"] + 0.5 * losses["classes"]
        losses["total"] = losses["total"] + 0.1 * losses["free"]
        return losses


def learn(run: Path, weights: Path, minutes: float, optimizer: str, batch: int, lr: float, name: str) -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    _, photos = data.load(run)
    objective = Objective(run, weights)
    student = Student()
    initialise(student.encoder)
    student = student.to(memory_format=torch.channels_last)
    steps = Bf16Steps(student, lr, lambda name: optimizer == "muon" and name.startswith("encoder"))
    average = {k: v.clone() for k, v in steps.master.items()}
    began, step, log = time.time(), 0, (run / f"{name}.jsonl").open("a")
    sums: dict[str, float] = {}
    last_note = began
    while (elapsed := (time.time() - began) / 60) < minutes:
        ready = json.loads((run / "taught.json").read_text())["ready"]
        chosen = np.sort(rng.integers(HELD_OUT, ready, batch))
        pixels = photometric(to_tensor([cut(photos, j) for j in chosen]))
        outputs = student(((pixels - MEAN) / STD).bfloat16().contiguous(memory_format=torch.channels_last))
        losses = objective(outputs, chosen)
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
            note["held_out"] = evaluate(objective, photos, average)
            print(json.dumps(note), file=log, flush=True)
            sums, last_note = {"from": step}, time.time()
            save(run / f"{name}.pt", {"student": average, "step": step, "minutes": elapsed})
    save(run / f"{name}.pt", {"student": average, "step": step, "minutes": elapsed, "finished": True})


def evaluate(objective: Objective, photos: np.ndarray, weights: dict[str, Tensor]) -> dict[str, float]:
    """Losses of the averaged weights on the held-out whole photos."""
    copy = Student()
    copy.load_state_dict(weights)
    copy = copy.bfloat16().to(memory_format=torch.channels_last).eval()
    sums: dict[str, float] = {}
    with torch.inference_mode():
        for start in range(0, HELD_OUT, 64):
            chosen = np.arange(start, start + 64)
            pixels = (to_tensor([cut(photos, j) for j in chosen]) - MEAN) / STD
            for k, v in objective(copy(pixels.bfloat16()), chosen).items():
                sums[k] = round(sums.get(k, 0.0) + v.item() * 64 / HELD_OUT, 4)
    return sums


def photometric(pixels: Tensor) -> Tensor:
    """Random brightness, contrast and colour; the teacher saw the crop as it is."""
    B = len(pixels)
    gain = 1 + 0.25 * (2 * torch.rand(B, 1, 1, 1) - 1) + 0.08 * (2 * torch.rand(B, 3, 1, 1) - 1)
    mean = pixels.mean((1, 2, 3), keepdim=True)
    return ((pixels - mean) * gain + mean + 0.1 * (2 * torch.rand(B, 1, 1, 1) - 1)).clamp(0, 1)


def schedule(step: int, progress: float, warmup: int = 100) -> float:
    """Linear warm-up, then a cosine to 2 % over the planned time."""
    return min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


class Bf16Steps:
    """bf16 weights for the arithmetic, fp32 copies for the optimiser: twice the speed of fp32 on this kind of CPU."""

    def __init__(self, model: nn.Module, lr: float, muon: Callable[[str], bool], slow: str = "none") -> None:
        """Muon makes the steps of the matrices that ``muon`` names orthogonal, AdamW moves the rest; names that begin
        with ``slow`` learn at a tenth of the rate."""
        self.model = model
        self.master = {k: v.detach().clone().float() for k, v in model.named_parameters() if v.requires_grad}
        model.bfloat16()
        orthogonal, usual = [], []
        for begins in (True, False):
            rate = lr / 10 if begins else lr
            mine = {k: v for k, v in self.master.items() if k.startswith(slow) == begins}
            matrices = [v for k, v in mine.items() if v.ndim == 2 and muon(k)]
            others = [v for k, v in mine.items() if v.ndim > 1 and not (v.ndim == 2 and muon(k))]
            vectors = [v for v in mine.values() if v.ndim == 1]
            orthogonal.append({"params": matrices, "lr": 2 * rate})
            usual.append({"params": others, "lr": rate, "weight_decay": 0.05})
            usual.append({"params": vectors, "lr": rate, "weight_decay": 0.0})
        orthogonal, usual = ([g for g in groups if g["params"]] for groups in (orthogonal, usual))
        self.optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(usual, betas=(0.9, 0.98))]
        if orthogonal:
            settings = {"weight_decay": 0.05, "momentum": 0.95, "ns_steps": 4, "adjust_lr_fn": "match_rms_adamw"}
            self.optimizers.append(torch.optim.Muon(orthogonal, **settings))
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
        with torch.no_grad():
            for k, p in parameters.items():
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
