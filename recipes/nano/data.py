"""Photos and answers of the data packs, ready for training: every photo squashed to 224x224, once, in one array.

A pack is a tar of ``<id>.webp`` and ``<id>.json`` pairs (the data folder's own README describes the fields).
``pack`` decodes the training packs into ``photos.npy`` (N, 224, 224, 3) and ``records.json``; the other scripts read
those two. A training photo that also occurs in the evaluation packs, by id or by its pixels, stops the run.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import json
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE = 224
Record = dict[str, Any]


def pack(data: Path, run: Path) -> None:
    """Decode ``data/train`` into ``run/photos.npy`` and ``run/records.json``; refuse photos of ``data/eval``."""
    evaluation = {key for record, photo in read_packs(data / "eval") for key in (record["id"], fingerprint(photo))}
    records, photos = [], []
    for record, photo in read_packs(data / "train"):
        if record["id"] in evaluation or fingerprint(photo) in evaluation:
            raise SystemExit(f"{record['id']} is in the training and in the evaluation packs; nothing was trained")
        records.append(record)
        photos.append(np.asarray(photo.resize((SIDE, SIDE), Image.Resampling.BICUBIC)))
    pseudo = read_pseudo_boxes(data / "pseudo" / "coco80_fused3.jsonl.gz")
    for record in records:
        record["pseudo"] = pseudo.get(record["id"], [])
    run.mkdir(parents=True, exist_ok=True)
    np.save(run / "photos.npy", np.stack(photos))
    (run / "records.json").write_text(json.dumps(records))


def read_packs(folder: Path) -> Iterator[tuple[Record, Image.Image]]:
    """Each (record, photo) of the tars of a folder, in the order of their names."""
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            parts: dict[str, bytes] = {}
            for member in tar:
                parts[Path(member.name).suffix] = tar.extractfile(member).read()
                if len(parts) == 2:
                    yield json.loads(parts[".json"]), Image.open(io.BytesIO(parts[".webp"])).convert("RGB")
                    parts = {}


def read_pseudo_boxes(path: Path) -> dict[str, list[Record]]:
    """Machine-made boxes of photos that have no complete truth: id → [{label, bbox, score}]."""
    found = {}
    with gzip.open(path, "rt") as lines:
        for line in lines:
            row = json.loads(line)
            boxes = zip(row["labels"], row["boxes"], row["scores"], strict=True)
            found[row["id"]] = [{"label": a, "bbox": b, "score": c} for a, b, c in boxes]
    return found


def fingerprint(photo: Image.Image) -> str:
    return hashlib.blake2b(photo.tobytes(), digest_size=16).hexdigest()


def load(run: Path) -> tuple[list[Record], np.ndarray]:
    """The records and the photos (N, 224, 224, 3) uint8 of a run folder."""
    return json.loads((run / "records.json").read_text()), np.load(run / "photos.npy", mmap_mode="r")


def render(words: list[str], background: np.ndarray, rng: random.Random) -> tuple[np.ndarray, list[Record]]:
    """Up to three large lines of text on a plain colour or a dimmed photo: (224, 224, 3) and [{text, quad}] in 0..1."""
    picture = Image.fromarray(np.ascontiguousarray(background))
    colour = tuple(rng.randrange(256) for _ in range(3))
    picture = Image.blend(picture, Image.new("RGB", picture.size, colour), rng.choice((0.6, 0.8, 1.0)))
    light = sum(np.asarray(picture).mean((0, 1))) > 384
    ink = tuple(rng.randrange(0, 90) if light else rng.randrange(165, 256) for _ in range(3))
    pen, texts = ImageDraw.Draw(picture), []
    lines = len(words)
    for i, word in enumerate(words):
        font = ImageFont.truetype(str(rng.choice(fonts())), 100)
        width, height = font.getbbox(word)[2:]
        scale = min(rng.uniform(0.6, 0.98) * SIDE / width, rng.uniform(0.5, 0.95) * SIDE / lines / height)
        font = font.font_variant(size=max(12, int(100 * scale)))
        left, top, right, bottom = font.getbbox(word)
        x = rng.uniform(0, max(0.0, SIDE - (right - left)))
        y = SIDE / lines * i + rng.uniform(0, max(0.0, SIDE / lines - (bottom - top)))
        pen.text((x - left, y - top), word, ink, font)
        x0, y0, x1, y1 = x / SIDE, y / SIDE, (x + right - left) / SIDE, (y + bottom - top) / SIDE
        texts.append({"text": word, "quad": [min(v, 1.0) for v in (x0, y0, x1, y0, x1, y1, x0, y1)]})
    return np.asarray(picture), texts


@functools.cache
def fonts() -> list[Path]:
    found = sorted(Path("/usr/share/fonts").rglob("*.ttf"))
    if not found:
        raise SystemExit("no TrueType font under /usr/share/fonts; install one, such as the package fonts-dejavu-core")
    return found
