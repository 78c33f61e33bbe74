"""The scripts that made the embedded model run from packs to a checkpoint that answers, on a few composed scenes."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from florence2 import Florence2
from florence2.data import Record, Words, write
from florence2.data.scenes import Scenes, SceneSettings

ROOT = Path(__file__).parents[2]
RECIPES, NANO = ROOT / "recipes" / "nano", ROOT / "src" / "florence2" / "assets" / "nano"
sys.path.insert(0, str(RECIPES))

pytestmark = pytest.mark.slow
LESSONS = ("--places", 0.2, "--letters", 0.5)
SHORT = ("--minutes", 0.1, "--batch", 2, "--processes", 2, *LESSONS)


def webp(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=80)
    return file.getvalue()


def records(first: int, count: int, source: str) -> Iterator[Record]:
    scenes = Scenes(SceneSettings(count=first + count, seed=3, size=(224, 224), objects=(1, 3), words=(0, 0)))
    for number in range(first, first + count):
        record, picture = scenes[number]
        yield replace(record, image=webp(picture), source=source, text=None, exhaustive=None)


def word(text: str, number: int) -> Record:
    """A picture of one word."""
    scenes = Scenes(SceneSettings(count=number + 1, seed=4, size=(64, 64), objects=(0, 0), words=(0, 0)))
    record, picture = scenes[number]
    quad = (0.0, 0.0, 64.0, 0.0, 64.0, 64.0, 0.0, 64.0)
    return replace(
        record, image=webp(picture), source="iiit5k", text=(Words(text=text, quad=quad),), objects=None, exhaustive=None
    )


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder as the recipe wants it, of drawn scenes under the names of real sources."""
    folder = tmp_path_factory.mktemp("data")
    train = [
        *records(0, 14, "flickr8k"),
        *records(20, 14, "voc2012"),
        *(word(t, i) for i, t in enumerate(["EXIT", "go"])),
    ]
    write(train, folder / "train" / "made-000.tar", "packs")
    write(records(40, 4, "coco"), folder / "eval" / "made-000.tar", "packs")
    (folder / "pseudo").mkdir()
    with gzip.open(folder / "pseudo" / "coco80_fused3.jsonl.gz", "wt") as lines:
        box = {"id": train[0].id, "labels": ["dog"], "boxes": [[10, 10, 100, 120]], "scores": [0.9]}
        lines.write(json.dumps(box) + "\n")
    return folder


def script(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(RECIPES / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_from_packs_to_a_checkpoint_that_answers(packs: Path, tmp_path: Path) -> None:
    run, made = tmp_path / "run", tmp_path / "made"
    for name, *arguments in (
        ("distill.py", "pack", packs, run),
        ("train.py", "tokenizer", run, "--like", NANO),
        (
            "train.py",
            "joint",
            run,
            "--packs",
            packs / "train",
            "--start",
            NANO,
            *SHORT,
        ),
        ("train.py", "store", run, run / "joint.pt", made),
    ):
        done = script(name, *arguments)
        assert done.returncode == 0, done.stderr[-2000:]
    learned = Florence2.from_pretrained(made)
    shipped = Florence2.from_pretrained(NANO)
    weights, before = learned.model.state_dict(), shipped.model.state_dict()
    assert any(not torch.equal(weights[name], before[name]) for name in before)
    answer = learned.run(Image.open(io.BytesIO(next(records(50, 1, "coco")).image_bytes())), "<CAPTION>")
    assert answer.text


def test_a_photo_of_the_evaluation_stops_the_run(packs: Path, tmp_path: Path) -> None:
    """By its pixels, under another name and another id."""
    mixed = tmp_path / "data"
    (mixed / "pseudo").mkdir(parents=True)
    (mixed / "pseudo" / "coco80_fused3.jsonl.gz").write_bytes(
        (packs / "pseudo" / "coco80_fused3.jsonl.gz").read_bytes()
    )
    seen = next(records(2, 1, "coco"))
    write(records(0, 4, "voc2012"), mixed / "train" / "a.tar", "packs")
    write([replace(seen, id="of-another-name")], mixed / "eval" / "b.tar", "packs")
    done = script("distill.py", "pack", mixed, tmp_path / "run")
    assert done.returncode != 0
    assert "in the training and in the evaluation packs" in done.stderr
    assert not (tmp_path / "run" / "photos.npy").exists()


class Teacher(nn.Module):
    """Has the shape of the classifier; the weights of the real one are not in the repository."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 96, 16, 16), nn.Conv2d(96, 192, 2, 2)
        self.conv_head, self.bn2, self.classes = nn.Conv2d(192, 64, 1), nn.Identity(), nn.Linear(64, 10)

    def forward_intermediates(self, x: Tensor, intermediates_only: bool) -> list[Tensor]:
        assert intermediates_only
        middle = self.stem(x).relu()
        return [middle, self.deep(middle)]

    def forward_head(self, x: Tensor) -> Tensor:
        scores: Tensor = self.classes(x.mean((2, 3)))
        return scores


def test_the_half_hour_on_a_gpu_in_seconds_on_a_cpu(packs: Path, tmp_path: Path, monkeypatch: Any) -> None:
    import distill
    import gpu

    torch.manual_seed(0)
    teacher = Teacher().eval().requires_grad_(False)
    monkeypatch.setattr(distill, "load_teacher", lambda path: teacher)
    monkeypatch.setattr(distill, "HELD_OUT", 2)
    monkeypatch.setattr(gpu, "PIECE", 2**20)
    run = tmp_path / "run"
    arguments = [packs, "teacher.safetensors", run, "--tokenizer", NANO, "--distill", 0.03, "--joint", 0.05]
    arguments += ["--batch", 2, "--workers", 0, "--examples", 1, "--every", 1, "--no-compile", *LESSONS]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *map(str, arguments)])
    gpu.main()
    log = [json.loads(line) for line in (run / "joint.jsonl").read_text().splitlines()]
    assert log[-1]["step"] >= 1
    pieces = sorted(run.glob("joint.pt.*"))
    assert b"".join(p.read_bytes() for p in pieces) == (run / "joint.pt").read_bytes()
    assert max(p.stat().st_size for p in pieces) <= gpu.PIECE


def test_crops_on_the_gpu_are_those_of_the_processor(packs: Path) -> None:
    """The same pixels but for the interpolation; twin: the mirrored crop is another."""
    import data
    import distill
    import gpu
    import numpy as np

    photos = np.stack([np.asarray(photo.resize((224, 224))) for _, photo in data.read_packs(packs / "train")][:4])
    numbers = [0, 3, *range(10, 22)]
    here = gpu.Board(photos, torch.device("cpu")).crops(numbers)
    there = distill.to_tensor([distill.cut(photos, j) for j in numbers])
    apart = (here - there).abs().mean((1, 2, 3))
    turned = (here.flip(3) - there).abs().mean((1, 2, 3))
    assert apart.max() < 0.02
    assert turned.min() > 1.5 * apart.max()
