"""Photos and answers of the data packs, ready for training: every photo squashed to 224x224, once, in one array.

A pack is a tar of ``<id>.webp`` and ``<id>.json`` pairs (the data folder's own README describes the fields).
``pack`` decodes the training packs into ``photos.npy`` (N, 224, 224, 3) and ``records.json``; everything else here reads
those two. A training photo that also occurs in the evaluation packs, by id or by the bytes of its pixels, stops the run.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

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
