"""What the embedded model can do, measured on the evaluation packs, each number beside its blind line.

The blind line is the same score with another photo's image: what the model would reach by knowing the language and the
data but not looking. A score at its blind line means that the model does not see.

    python evaluate.py CHECKPOINT DATA --json numbers.json
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import data
import targets
from PIL import Image
from pycocotools import mask as masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from florence2 import Florence2
from florence2.results import Box

Photo = tuple[dict[str, Any], Image.Image]
Packs = dict[str, list[Photo]]
Score = tuple[float, float]
"""With the right photo, with another one."""
Rows = Iterator[tuple[str, Score]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint")
    parser.add_argument("data", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--photos", type=int, default=400, help="at most so many examples per task")
    a = parser.parse_args()
    model = Florence2.from_pretrained(a.checkpoint)
    packs: Packs = {}
    for record, photo in data.read_packs(a.data / "eval"):
        packs.setdefault(record["source"], []).append((record, photo))
    began, cpu, rows = time.time(), os.times(), []
    for measure in MEASURES:
        for name, (right, blind) in measure(model, packs, a.photos):
            rows.append({"measure": name, "score": round(right, 4), "blind": round(blind, 4)})
            print(f"{name:58} {right:7.3f}   blind {blind:7.3f}", flush=True)
    used = os.times()
    seconds = {"wall": time.time() - began, "cpu": used.user + used.system - cpu.user - cpu.system}
    print(f"{seconds['wall']:.0f} s, {seconds['cpu']:.0f} s of CPU")
    if a.json:
        report = {"parameters": sum(p.numel() for p in model.model.parameters()), "rows": rows, "seconds": seconds}
        a.json.write_text(json.dumps(report, indent=1) + "\n")


def answers(model: Florence2, items: list[tuple[Image.Image, str, Any]]) -> list[Any]:
    return list(model.run_batch([item if item[2] is not None else item[:2] for item in items], batch_size=16))


def both(model: Florence2, asked: list[tuple[Image.Image, str, Any]]) -> tuple[list[Any], list[Any]]:
    """Answers with the right photo and with the photo of the next example, stretched to the same size."""
    moved = [asked[(i + 1) % len(asked)][0].resize(asked[i][0].size) for i in range(len(asked))]
    blind = [(photo, task, given) for photo, (_, task, given) in zip(moved, asked, strict=True)]
    return answers(model, asked), answers(model, blind)


def captions(model: Florence2, packs: Packs, most: int) -> Rows:
    photos = packs["flickr8k"][:most]
    said = [a.text for a in answers(model, [(photo, "<CAPTION>", None) for _, photo in photos])]
    references = [record["captions"] for record, _ in photos]
    yield "caption, CIDEr-D, Flickr8k", (cider(said, references), cider(said[1:] + said[:1], references))
    yield "caption, part that are different from each other", (len(set(said)) / len(said), 1 / len(said))


def detection(model: Florence2, packs: Packs, most: int) -> Rows:
    photos = packs["coco"][:most]
    names = sorted({o["label"] for record, _ in photos for o in record["objects"]})
    truth = []
    for i, (record, _) in enumerate(photos):
        for o in record["objects"]:
            x0, y0, x1, y1 = o["bbox"]
            row = {"id": len(truth) + 1, "image_id": i, "category_id": names.index(o["label"])}
            row |= {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": size(o["bbox"]), "iscrowd": int(o.get("iscrowd", 0))}
            truth.append(row)
    found = answers(model, [(photo, "<OD>", None) for _, photo in photos])
    scores = []
    for shift in (0, 1):
        results = []
        for i, (_, photo) in enumerate(photos):
            answer = found[(i + shift) % len(found)]
            sx, sy = photo.width / answer.width, photo.height / answer.height
            for o in answer.objects:
                x0, y0, x1, y1 = o.box
                if o.label in names:
                    box = [x0 * sx, y0 * sy, (x1 - x0) * sx, (y1 - y0) * sy]
                    results.append({"image_id": i, "category_id": names.index(o.label), "bbox": box, "score": o.score})
        scores.append(average_precision(truth, results, names, [p.size for _, p in photos]))
    right, blind = scores
    yield "detection, mAP 0.5:0.95, COCO", (right[0], blind[0])
    yield "detection, AP50 of person, COCO", (right[1], blind[1])


def average_precision(truth: list[Any], results: list[Any], names: list[str], sizes: list[Any]) -> Score:
    """(mAP, AP50 of person) by pycocotools."""
    if not results:
        return 0.0, 0.0
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i, "width": w, "height": h} for i, (w, h) in enumerate(sizes)],
            "annotations": truth,
            "categories": [{"id": i, "name": name} for i, name in enumerate(names)],
        }
        coco.createIndex()
        run = COCOeval(coco, coco.loadRes(results), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    precision = run.eval["precision"][0, :, names.index("person"), 0, -1]
    return float(run.stats[0]), float(precision[precision > -1].mean())


def phrase_grounding(model: Florence2, packs: Packs, most: int) -> Rows:
    rng = random.Random(0)
    asked, truth = [], []
    for record, photo in packs["flickr8k"]:
        if record.get("phrases"):
            p = rng.choice(record["phrases"])
            asked.append((photo, "<CAPTION_TO_PHRASE_GROUNDING>", p["phrase"].lower()))
            truth.append(p["boxes"])
    yield "phrase grounding, first box at 0.5, Flickr8k", overlaps(model, asked[:most], truth)


def templated_references(model: Florence2, packs: Packs, most: int) -> Rows:
    rng = random.Random(0)
    asked, truth = [], []
    for record, photo in packs["coco"] + packs["voc2012"]:
        if record.get("refs"):
            r = rng.choice(record["refs"])
            asked.append((photo, "<CAPTION_TO_PHRASE_GROUNDING>", r["text"]))
            truth.append([r["bbox"]])
    yield "templated references, first box at 0.5, COCO and VOC", overlaps(model, asked[:most], truth)


def overlaps(model: Florence2, asked: list[tuple[Image.Image, str, Any]], truth: list[list[Box]]) -> Score:
    """Part of the first boxes that overlap a true one by half."""

    def right(answer: Any, boxes: list[Box]) -> bool:
        return bool(answer.objects) and max(overlap(answer.objects[0].box, b) for b in boxes) >= 0.5

    seen, blind = both(model, asked)
    score = [sum(right(a, t) for a, t in zip(found, truth, strict=False)) / len(asked) for found in (seen, blind)]
    return score[0], score[1]


def region_category(model: Florence2, packs: Packs, most: int) -> Rows:
    """Boxes of 2 % of the photo and more, at most one of each class per photo."""
    rng = random.Random(0)
    asked, truth = [], []
    for record, photo in packs["coco"]:
        big = {o["label"]: o for o in record["objects"] if size(o["bbox"]) > 0.02 * photo.width * photo.height}
        for label in rng.sample(sorted(big), min(2, len(big))):
            asked.append((photo, "<REGION_TO_CATEGORY>", tuple(inside(big[label]["bbox"], photo))))
            truth.append(label)
    yield "region to category, top-1 of 80, COCO", matches(model, asked[:most], [[t] for t in truth])


def questions(model: Florence2, packs: Packs, most: int) -> Rows:
    for origin, name in (("rule", "templated questions, exact"), ("okvqa", "human questions (OK-VQA), exact")):
        found = []
        for record, photo in packs["coco"] + packs["voc2012"]:
            found += [(photo, q) for q in record.get("qa", []) if q["origin"] == origin]
        random.Random(0).shuffle(found)
        asked = [(photo, "<ASK>", q["question"]) for photo, q in found[:most]]
        yield name, matches(model, asked, [q["answers"] for _, q in found[:most]])


def words(model: Florence2, packs: Packs, most: int) -> Rows:
    photos = (packs["iiit5k"] + packs["icdar2015_words"])[:most]
    truth = [[record["text"][0]["text"]] for record, _ in photos]
    yield "word reading, exact without case", matches(model, [(p, "<OCR>", None) for _, p in photos], truth)


def matches(model: Florence2, asked: list[tuple[Image.Image, str, Any]], truth: list[list[str]]) -> Score:
    """Part of the answers that equal a true one, letters and digits only."""

    def plain(text: str) -> str:
        return re.sub(r"[\W_]+", "", text.lower())

    seen, blind = both(model, asked)
    score = []
    for found in (seen, blind):
        hits = [plain(a.text) in {plain(t) for t in ts} for a, ts in zip(found, truth, strict=False)]
        score.append(sum(hits) / len(hits))
    return score[0], score[1]


def region_masks(model: Florence2, packs: Packs, most: int) -> Rows:
    rng = random.Random(0)
    asked, truth = [], []
    for record, photo in packs["coco"] + packs["voc2012"]:
        big = [
            o for o in record["objects"] if o.get("polygons") and size(o["bbox"]) > 0.02 * photo.width * photo.height
        ]
        if big:
            o = rng.choice(big)
            asked.append((photo, "<REGION_TO_SEGMENTATION>", tuple(inside(o["bbox"], photo))))
            truth.append(o["polygons"])
    asked = asked[:most]
    score = []
    for found in both(model, asked):
        total = 0.0
        for answer, polygons, (photo, _, _) in zip(found, truth, asked, strict=False):
            mine = [list(p) for instance in answer.instances for p in instance.polygons if len(p) >= 6]
            if mine:
                a, b = (masks.merge(masks.frPyObjects(p, photo.height, photo.width)) for p in (mine, polygons))
                total += float(masks.iou([a], [b], [0])[0, 0])
        score.append(total / len(asked))
    yield "region to segmentation, mean overlap, COCO and VOC", (score[0], score[1])


MEASURES = (
    captions,
    detection,
    phrase_grounding,
    templated_references,
    region_category,
    region_masks,
    questions,
    words,
)


def inside(box: Box, photo: Image.Image) -> Box:
    x0, y0, x1, y1 = box
    return max(0.0, x0), max(0.0, y0), min(float(photo.width), x1), min(float(photo.height), y1)


def size(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def overlap(a: Box, b: Box) -> float:
    """Intersection over union."""
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, w) * max(0.0, h)
    return shared / (size(a) + size(b) - shared)


def cider(said: list[str], references: list[list[str]]) -> float:
    """CIDEr-D (arXiv 1411.5726, section 8), times its usual 10: clipped tf-idf cosine of n-grams with a length penalty.

    Our own implementation: words are runs of letters and digits (the published one uses the PTB tokenizer), idf is from
    the references given here. So the numbers compare with each other and not with published tables.
    """

    def grams(text: str) -> list[Counter[tuple[str, ...]]]:
        tokens = re.findall(r"\w+", targets.tidy(text).lower())
        return [Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)) for n in (1, 2, 3, 4)]

    true = [[grams(r) for r in rs] for rs in references]
    seen: Counter[tuple[str, ...]] = Counter()
    for rs in true:
        seen.update({g for r in rs for counter in r for g in counter})
    idf = {g: math.log(len(references) / n) for g, n in seen.items()}
    unseen = math.log(len(references))

    def vector(counter: Counter[tuple[str, ...]]) -> dict[tuple[str, ...], float]:
        return {g: n * idf.get(g, unseen) for g, n in counter.items()}

    def norm(v: dict[tuple[str, ...], float]) -> float:
        return math.sqrt(sum(x * x for x in v.values())) or 1.0

    total = 0.0
    for text, rs in zip(said, true, strict=True):
        mine = grams(text)
        for r in rs:
            gap = sum(mine[0].values()) - sum(r[0].values())
            for n in range(4):
                a, b = vector(mine[n]), vector(r[n])
                dot = sum(min(a[g], b[g]) * b[g] for g in a if g in b)
                total += dot / (norm(a) * norm(b)) * math.exp(-(gap**2) / 72) / 4 / len(rs)
    return 10 * total / len(said)


if __name__ == "__main__":
    main()
