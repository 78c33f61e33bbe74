"""Photos and answers of the data packs, ready for training: every photo squashed to 224x224, once, in one array.

A pack is a tar of ``<id>.webp`` and ``<id>.json`` pairs (the data folder's own README describes the fields).
``pack`` decodes the training packs into ``photos.npy`` (N, 224, 224, 3) and ``records.json``; the other scripts read
those two. A training photo that also occurs in the evaluation packs, by id or by its pixels, stops the run.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import json
import math
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from florence2.data.scenes import fonts

SIDE = 224
FONTS = fonts.find()
FILLED = 0.65
"""How often a line alone fills the picture, as it does in a cut that is squashed to a square."""
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
    """Lines of text on a plain colour or a dimmed photo: (224, 224, 3) and [{text, quad, letters}] in 0..1, where
    ``letters`` are the centres (letter, x, y).

    One line alone mostly fills the picture, long or short, as the squashed photo of a line does. Ink and ground differ
    in light, the whole is turned and slanted a little within the picture, and often as coarse, blurred or noisy as
    small photos are.
    """
    shade = rng.randrange(256)
    ink_shade = rng.choice([v for v in range(256) if abs(v - shade) > 80])
    ground, ink = (tuple(min(255, max(0, v + rng.randrange(-40, 41))) for _ in range(3)) for v in (shade, ink_shade))
    photo = Image.fromarray(np.ascontiguousarray(background))
    picture = Image.blend(photo, Image.new("RGB", photo.size, ground), rng.choice((0.7, 0.85, 1.0)))
    letters = Image.new("L", picture.size)
    boxes, middles = [], []
    for i, word in enumerate(words):
        font = fonts.load(fonts.choose(FONTS, word, rng) or fonts.PILLOWS, 64)
        left, top, right, bottom = font.getbbox(word)
        upright = Image.new("L", (right - left, bottom - top))
        ImageDraw.Draw(upright).text((-left, -top), word, 255, font)
        row = SIDE / len(words)
        if len(words) == 1 and rng.random() < FILLED:
            width, height = rng.uniform(0.75, 0.98) * SIDE, rng.uniform(0.55, 0.92) * SIDE
        else:
            width = rng.uniform(0.55, 0.96) * SIDE * min(1.0, 0.25 + 0.15 * len(word))
            stretch = rng.uniform(1, 3) if len(words) == 1 else rng.uniform(0.9, 1.5)
            height = max(12.0, min(width * upright.height / upright.width * stretch, 0.85 * row))
        x, y = rng.uniform(0, SIDE - width), row * i + rng.uniform(0, row - height)
        letters.paste(upright.resize((round(width), round(height)), Image.Resampling.BILINEAR), (round(x), round(y)))
        boxes.append((x, y, x + width, y + height))
        ends = [font.getlength(word[:n]) - left for n in range(len(word) + 1)]
        middles.append([x + width * (a + b) / 2 / upright.width for a, b in itertools.pairwise(ends)])
    turn, slant, middle = math.radians(rng.gauss(0, 3)), rng.gauss(0, 0.12), SIDE / 2
    there = np.array([[math.cos(turn), -math.sin(turn) - slant], [math.sin(turn), math.cos(turn)]])
    corners = np.array([(x, y) for x0, y0, x1, y1 in boxes for x in (x0, x1) for y in (y0, y1)]) - middle
    turned = corners @ there.T
    shrunk = np.minimum(1, 0.98 * SIDE / np.ptp(turned, axis=0))  # nothing that is turned loses a letter at the border
    there, turned = there * shrunk[:, None], turned * shrunk
    centre = np.clip(middle, 0.01 * SIDE - turned.min(0), 0.99 * SIDE - turned.max(0))
    back = np.linalg.inv(there)
    shift = middle - back @ centre
    coefficients = (*back[0], shift[0], *back[1], shift[1])
    letters = letters.transform(letters.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    picture.paste(Image.new("RGB", picture.size, ink), mask=letters)
    texts = []

    def moved(points: list[tuple[float, float]]) -> np.ndarray:
        return ((np.array(points) - middle) @ there.T + centre) / SIDE

    for word, (x0, y0, x1, y1), xs in zip(words, boxes, middles, strict=True):
        quad = moved([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
        centres = moved([(x, (y0 + y1) / 2) for x in xs]).tolist()
        letters = [(letter, x, y) for letter, (x, y) in zip(word, centres, strict=True)]
        texts.append({"text": word, "quad": [float(v) for v in quad.clip(0, 1).ravel()], "letters": letters})
    return worsen(picture, rng), texts


def worsen(picture: Image.Image, rng: random.Random) -> np.ndarray:
    """The picture as a small or bad photo shows it, half the time."""
    if rng.random() < 0.5:
        coarse = rng.randrange(36, 120)
        picture = picture.resize((coarse, coarse), Image.Resampling.BOX).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    if rng.random() < 0.3:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 2.5)))
    pixels = np.asarray(picture)
    if rng.random() < 0.3:
        noise = np.random.default_rng(rng.getrandbits(32)).normal(0, rng.uniform(3, 20), pixels.shape)
        pixels = (pixels + noise).clip(0, 255).astype(np.uint8)
    return pixels


def jitter(photo: np.ndarray, rng: random.Random) -> np.ndarray:
    """A photo of one word, framed, turned and slanted a little differently; edges repeat."""
    scale = [1 + rng.uniform(-0.12, 0.06) for _ in range(2)]
    turn, slant, middle = math.radians(rng.gauss(0, 3)), rng.gauss(0, 0.1), SIDE / 2
    back = np.array([[scale[0], slant - turn], [turn, scale[1]]])
    shift = middle - back @ (middle, middle) + [rng.gauss(0, 5), rng.gauss(0, 5)]
    rim = 32
    wide = Image.fromarray(np.pad(photo, ((rim, rim), (rim, rim), (0, 0)), mode="edge"))
    coefficients = (*back[0], shift[0] + rim, *back[1], shift[1] + rim)
    return worsen(wide.transform((SIDE, SIDE), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR), rng)
