"""What a photo teaches: (prompt, answer) pairs of all tasks, written in the tokens of Florence-2.

A ``View`` is a photo as one training step sees it (cropped, mirrored) with its annotations moved along, in parts of
the view (0..1). ``Teacher.pairs`` draws some of the tasks that the view's annotations can answer and writes both sides
as ids: a label and then its boxes, polygons separated by ``<sep>``, a text and then its quad. The prompts are those of
``florence2.language.tasks``, and the grammar of the task must accept every answer.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from florence2.language import grammar
from florence2.language.quantizer import quantize
from florence2.language.tasks import TASKS, get
from florence2.language.tokenizer import Tokenizer

Record = dict[str, Any]
Box = list[float]
Pair = tuple[list[int], list[int]]

MOST_OBJECTS = 14
MOST_POINTS = 16
SMALLEST = 0.002
"""Part of the photo that a box must cover to be asked for: a 224 px photo shows less than a 10 px square badly."""
LEGIBLE = 0.05
"""Part of the photo's height that a text must have to be asked for."""
MOST_LETTERS = 40
"""Longer texts are not asked for as a whole."""
SURE = 0.4
SURE_OF_RARE = 0.5
COMMON = ("person", "dog", "car")
"""Machine-made boxes count from these scores on; the README of the pseudo boxes measured their precision."""


@dataclass
class View:
    """Annotations in parts of the view: boxes [x0, y0, x1, y1], polygons and quads [x, y, ...]."""

    objects: list[Record] = field(default_factory=list)
    phrases: list[Record] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    refs: list[Record] = field(default_factory=list)
    qa: list[Record] = field(default_factory=list)
    text: list[Record] = field(default_factory=list)
    closed: tuple[str, ...] = ()
    """Classes of which every instance is in ``objects``; all others are unknown, not absent."""
    detection: bool = True
    """Whether ``objects`` are what <OD> should name (clothing and street regions are not)."""
    textless: bool = False
    """Taken to hold nothing to read. Some of these photos do hold a sign, but not at 224 px."""


def prepare(records: list[Record]) -> None:
    """Once per run, in place: tidy captions, thin out polygons, join true and machine-made boxes."""
    for record in records:
        record["captions"] = [tidy(text) for text in record.get("captions", [])]
        for phrase in record.get("phrases", []):
            phrase["phrase"] = tidy(phrase["phrase"], stop="")
        objects = [o for o in record.get("objects", []) if not o.get("iscrowd")]
        for o in objects:
            kept = sorted(o.get("polygons", []), key=area_of, reverse=True)[:3]
            o["polygons"] = [thin_out(p) for p in kept if len(p) >= 6]
        for o in record.get("pseudo", []):
            if o["score"] >= (SURE if o["label"] in COMMON else SURE_OF_RARE):
                objects.append({"label": o["label"], "bbox": o["bbox"], "polygons": [], "pseudo": True})
        record["objects"] = objects


def tidy(text: str, stop: str = ".") -> str:
    """Flickr8k's spaced tokens as a sentence: "A dog 's bone ." → "A dog's bone."."""
    text = re.sub(r"\s+([,.!?;:']|n't)", r"\1", " ".join(text.split())).rstrip(" .")
    return text[:1].upper() + text[1:] + stop if stop else text


def view(record: Record, crop: Box, mirrored: bool, classes: dict[str, list[str]]) -> View:
    """The part ``crop`` (0..1 of the photo) of a record. What a cut makes untrue (captions, counts) is left out."""
    x0, y0, x1, y1 = crop
    width, height = record["width"], record["height"]
    whole = (x1 - x0) * (y1 - y0)

    def move(points: list[float]) -> list[float]:
        moved = []
        for x, y in zip(points[0::2], points[1::2], strict=True):
            x, y = (x / width - x0) / (x1 - x0), (y / height - y0) / (y1 - y0)
            moved += [min(max(1 - x if mirrored else x, 0.0), 1.0), min(max(y, 0.0), 1.0)]
        return moved

    def cut(box: Box) -> Box | None:
        ax, ay, bx, by = move(box)
        ax, bx = min(ax, bx), max(ax, bx)
        before = (box[2] - box[0]) * (box[3] - box[1]) / (width * height * whole)
        return [ax, ay, bx, by] if (bx - ax) * (by - ay) > 0.35 * before else None

    def turn(text: str) -> str:
        return swap_sides(text) if mirrored else text

    seen = View(detection=record["source"] not in ("ccp", "camvid"), textless="text" not in record)
    for o in record["objects"]:
        if box := cut(o["bbox"]):
            seen.objects.append({**o, "bbox": box, "polygons": [canonical(move(p)) for p in o["polygons"]]})
    for p in record.get("phrases", []):
        boxes = [b for b in map(cut, p["boxes"]) if b]
        if boxes:
            seen.phrases.append({"phrase": turn(p["phrase"]), "caption": p["caption"], "boxes": boxes})
    if whole > 0.6:
        seen.captions = [turn(c) for c in record["captions"]]
    if whole > 0.9:
        seen.closed = tuple(classes.get(record.get("exhaustive_classes", ""), ()))
        for r in record.get("refs", []):
            if box := cut(r["bbox"]):
                seen.refs.append({"text": turn(r["text"]), "bbox": box})
        for q in record.get("qa", []):
            seen.qa.append({"question": turn(q["question"]), "answers": [turn(a) for a in q["answers"]]})
    if whole > 0.999 and not mirrored:
        moved = [{"text": t["text"], "quad": move(t["quad"])} for t in record.get("text", [])]
        seen.text = [t for t in moved if max(t["quad"][1::2]) - min(t["quad"][1::2]) >= LEGIBLE]
    return seen


class Teacher:
    """Draws tasks and writes them down in the ids of a tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._words: dict[str, list[int]] = {}
        self._prompts: dict[str, list[int]] = {}

    def pairs(self, seen: View, count: int, rng: random.Random) -> list[Pair]:
        """At most ``count`` (prompt ids, answer ids) of different tasks; two or three captions count as one."""
        offers = self._offers(seen, rng)
        pairs: list[Pair] = []
        while offers and len(pairs) < count:
            chosen = rng.choices(range(len(offers)), [weight for weight, _ in offers])[0]
            pairs += offers.pop(chosen)[1]()
        return pairs

    def _offers(self, seen: View, rng: random.Random) -> list[tuple[float, Callable[[], list[Pair]]]]:
        offers: list[tuple[float, Callable[[], list[Pair]]]] = []
        big = sorted((o for o in seen.objects if size(o["bbox"]) > SMALLEST), key=lambda o: -size(o["bbox"]))
        big = big[:MOST_OBJECTS]
        outlined = [o for o in big if o["polygons"]]
        if seen.captions:
            offers += [
                (2.5, lambda: self._captions(seen, rng)),
                (0.8, lambda: [self._pair("<DETAILED_CAPTION>", self._text(self._sentences(seen, rng, 2)))]),
                (0.5, lambda: [self._pair("<MORE_DETAILED_CAPTION>", self._text(self._sentences(seen, rng, 4)))]),
            ]
        elif seen.closed and big:
            told = self._text(list_objects(big))
            offers += [
                (0.1, lambda: [self._pair("<DETAILED_CAPTION>", told)]),
                (0.1, lambda: [self._pair("<MORE_DETAILED_CAPTION>", told)]),
            ]
        if big and seen.detection:
            offers += [
                (3.0, lambda: [self._pair("<OD>", self._labelled(big))]),
                (0.6, lambda: [self._pair("<REGION_PROPOSAL>", self._boxes([o["bbox"] for o in big]))]),
            ]
        if big:
            offers += [
                (1.0, lambda: [self._open_vocabulary(seen, big, rng)]),
                (1.0, lambda: [self._region("<REGION_TO_CATEGORY>", rng.choice(big), "label")]),
            ]
        if outlined:
            o = rng.choice(outlined)
            offers += [
                (1.5, lambda: [self._region_mask(o)]),
                (1.2, lambda: self._referred_mask(seen, outlined, rng)),
            ]
        if seen.phrases:
            offers += [
                (1.5, lambda: [self._grounding(seen, rng)]),
                (1.2, lambda: [self._phrase(rng.choice(seen.phrases))]),
                (0.7, lambda: [self._pair("<DENSE_REGION_CAPTION>", self._dense(seen))]),
                (0.7, lambda: [self._description(seen, rng)]),
            ]
        elif big and seen.refs:
            offers.append((0.3, lambda: [self._pair("<DENSE_REGION_CAPTION>", self._labelled(big))]))
        if seen.refs:
            offers.append((1.2, lambda: [self._reference(rng.choice(seen.refs))]))
        if seen.qa:
            offers.append((1.5, lambda: [self._question(q) for q in rng.sample(seen.qa, min(2, len(seen.qa)))]))
        if seen.textless:
            offers += [
                (0.2, lambda: [self._pair("<OCR>", [])]),
                (0.2, lambda: [self._pair("<OCR_WITH_REGION>", [])]),
            ]
        if seen.text and sum(len(t["text"]) + 1 for t in seen.text) <= MOST_LETTERS:
            offers += [
                (2.0, lambda: [self._pair("<OCR>", self._letters(" ".join(t["text"] for t in seen.text)))]),
                (1.0, lambda: [self._pair("<OCR_WITH_REGION>", self._read(seen))]),
            ]
        if seen.text:
            offers += [
                (1.0, lambda: [self._region_text(rng.choice(seen.text))]),
            ]
        return offers

    # One method per kind of answer.

    def _captions(self, seen: View, rng: random.Random) -> list[Pair]:
        chosen = rng.sample(seen.captions, min(2, len(seen.captions)))
        return [self._pair("<CAPTION>", self._text(caption)) for caption in chosen]

    def _sentences(self, seen: View, rng: random.Random, count: int) -> str:
        """Several people's captions one after the other, the longest first: nobody wrote longer ones here."""
        chosen = sorted(rng.sample(seen.captions, min(count, len(seen.captions))), key=len, reverse=True)
        return " ".join(dict.fromkeys(chosen))

    def _labelled(self, objects: list[Record]) -> list[int]:
        """label, its boxes, next label, its boxes; the largest first."""
        boxes: dict[str, list[Box]] = {}
        for o in objects:
            boxes.setdefault(o["label"], []).append(o["bbox"])
        return [i for label, own in boxes.items() for i in self._text(label) + self._boxes(own)]

    def _dense(self, seen: View) -> list[int]:
        ordered = sorted(seen.phrases, key=lambda p: -max(map(size, p["boxes"])))[:8]
        return [i for p in ordered for i in self._text(p["phrase"].lower()) + self._boxes(p["boxes"][:4])]

    def _open_vocabulary(self, seen: View, big: list[Record], rng: random.Random) -> Pair:
        present = sorted({o["label"] for o in seen.objects})
        absent = [c for c in seen.closed if c not in present]
        asked = [rng.choice(absent)] if absent and rng.random() < 0.45 else [rng.choice(big)["label"]]
        if absent and rng.random() < 0.25:
            asked.append(rng.choice(absent))
        elif len(present) > 1 and rng.random() < 0.25:
            asked.append(rng.choice([c for c in present if c not in asked] or asked))
        asked = list(dict.fromkeys(asked))
        rng.shuffle(asked)
        found = [o for label in asked for o in big if o["label"] == label]
        return self._pair("<OPEN_VOCABULARY_DETECTION>", self._labelled(found), "<and>".join(asked))

    def _region(self, task: str, o: Record, key: str) -> Pair:
        return self._pair(task, self._text(o[key]), self._bins(o["bbox"]))

    def _region_mask(self, o: Record) -> Pair:
        return self._pair("<REGION_TO_SEGMENTATION>", self._polygons(o), self._bins(o["bbox"]))

    def _referred_mask(self, seen: View, outlined: list[Record], rng: random.Random) -> list[Pair]:
        """An expression of the object's box, or its label where no other object has it."""
        names = [(r["text"], o) for r in seen.refs for o in outlined if same_box(r["bbox"], o["bbox"])]
        labels = [o["label"] for o in seen.objects]
        names += [(f"the {o['label']}", o) for o in outlined if labels.count(o["label"]) == 1]
        if not names:
            return []
        text, o = rng.choice(names)
        return [self._pair("<REFERRING_EXPRESSION_SEGMENTATION>", self._polygons(o), text)]

    def _grounding(self, seen: View, rng: random.Random) -> Pair:
        number = rng.choice(seen.phrases)["caption"]
        phrases = [p for p in seen.phrases if p["caption"] == number]
        answer = [i for p in phrases for i in self._text(p["phrase"]) + self._boxes(p["boxes"][:5])]
        listed = ", ".join(p["phrase"] for p in phrases)  # where the cut took the caption away
        caption = seen.captions[number] if number < len(seen.captions) else listed
        return self._pair("<CAPTION_TO_PHRASE_GROUNDING>", answer, caption)

    def _phrase(self, p: Record) -> Pair:
        name = p["phrase"].lower()
        return self._pair("<CAPTION_TO_PHRASE_GROUNDING>", self._text(name) + self._boxes(p["boxes"][:5]), name)

    def _reference(self, r: Record) -> Pair:
        return self._pair("<CAPTION_TO_PHRASE_GROUNDING>", self._text(r["text"]) + self._boxes([r["bbox"]]), r["text"])

    def _description(self, seen: View, rng: random.Random) -> Pair:
        p = rng.choice(seen.phrases)
        box = self._bins(rng.choice(p["boxes"]))
        return self._pair("<REGION_TO_DESCRIPTION>", self._text(p["phrase"].lower()), box)

    def _question(self, q: Record) -> Pair:
        return self.prompt(q["question"]), self._closed(self._text(q["answers"][0]))

    def _read(self, seen: View) -> list[int]:
        return [i for t in seen.text for i in self._letters(t["text"]) + self._locations(t["quad"])]

    def _region_text(self, t: Record) -> Pair:
        xs, ys = t["quad"][0::2], t["quad"][1::2]
        return self._pair("<REGION_TO_OCR>", self._letters(t["text"]), self._bins([min(xs), min(ys), max(xs), max(ys)]))

    def _polygons(self, o: Record) -> list[int]:
        ids: list[int] = []
        for polygon in o["polygons"]:
            ids += ([self.tokenizer.sep_id] if ids else []) + self._locations(polygon)
        return ids

    # Ids.

    def _pair(self, task: str, answer: list[int], given: str | list[int] | None = None) -> Pair:
        chosen = get(task)
        prompt = chosen.fill(region=given) if isinstance(given, list) else chosen.fill(given)
        ids = self._closed(answer)
        if why := grammar.compile(chosen.grammar, self.tokenizer).rejection(ids):
            raise SystemExit(f"the answer to {prompt!r} is malformed, nobody could decode it: {why}")
        return self.prompt(prompt), ids

    def prompt(self, text: str) -> list[int]:
        if text not in self._prompts:
            self._prompts[text] = self.tokenizer.encode_prompt(text)
        return self._prompts[text]

    def _closed(self, answer: list[int]) -> list[int]:
        return [self.tokenizer.bos_id, *answer, self.tokenizer.eos_id]

    def _text(self, text: str) -> list[int]:
        if text not in self._words:
            self._words[text] = self.tokenizer.encode_plain(text)
        return self._words[text]

    def _letters(self, text: str) -> list[int]:
        """Printed text letter by letter: a hundred shapes are learned sooner than thousands of pieces of words."""
        return [i for letter in text for i in self._text(letter)]

    def _boxes(self, boxes: list[Box]) -> list[int]:
        return [i for box in boxes for i in self._locations(box)]

    def _locations(self, points: list[float]) -> list[int]:
        return [self.tokenizer.first_location_id + n for n in self._bins(points)]

    def _bins(self, points: list[float]) -> list[int]:
        return quantize(points, (1, 1))


def all_texts(records: list[Record]) -> Iterator[str]:
    """Prompts, captions, phrases, labels, questions, answers and printed words: what a tokenizer has to spell."""
    for _ in range(50):
        yield from (task.prompt for task in TASKS.values())
    for r in records:
        yield from r["captions"]
        yield from (p["phrase"].lower() for p in r.get("phrases", []))
        yield from (o["label"] for o in r["objects"])
        yield from (q["text"] for q in r.get("refs", []))
        yield from (t["text"] for t in r.get("text", []))
        for q in r.get("qa", []):
            yield from (q["question"], *q["answers"][:1])


def size(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def same_box(a: Box, b: Box) -> bool:
    return all(abs(x - y) < 0.01 for x, y in zip(a, b, strict=True))


def swap_sides(text: str) -> str:
    """A mirrored photo has its left on the right."""
    return re.sub(r"(?i)\b(left|right)(?=\b|most\b)", lambda m: {"left": "right", "right": "left"}[m[0].lower()], text)


def list_objects(objects: list[Record]) -> str:
    """One plain sentence of what is there: photos without a human caption have nothing else to tell."""
    counts: dict[str, int] = {}
    for o in objects:
        counts[o["label"]] = counts.get(o["label"], 0) + 1
    numbers = ("a", "two", "three", "four", "five")
    parts = []
    for label, n in counts.items():
        many = {"person": "people", "sheep": "sheep", "knife": "knives", "mouse": "mice"}.get(label, label + "s")
        many = label + "es" if label.endswith(("s", "ch", "sh")) and label not in ("scissors", "skis") else many
        one = ("an " if label[0] in "aeiou" else "a ") + label
        parts.append(one if n == 1 else f"{numbers[n - 1]} {many}" if n <= 5 else f"several {many}")
    listed = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
    return f"The picture shows {listed}."


def area_of(polygon: list[float]) -> float:
    """Shoelace formula."""
    xs, ys = polygon[0::2], polygon[1::2]
    return abs(sum(xs[i - 1] * ys[i] - xs[i] * ys[i - 1] for i in range(len(xs)))) / 2


def thin_out(polygon: list[float]) -> list[float]:
    """At most 16 points: the one whose triangle with its neighbours is the smallest goes, again and again."""
    points = list(zip(polygon[0::2], polygon[1::2], strict=True))

    def matters(i: int) -> float:
        (ax, ay), (bx, by), (cx, cy) = points[i - 1], points[i], points[(i + 1) % len(points)]
        return abs((bx - ax) * (cy - ay) - (cx - ax) * (by - ay))

    while len(points) > MOST_POINTS:
        points.pop(min(range(len(points)), key=matters))
    return [v for point in points for v in point]


def canonical(polygon: list[float]) -> list[float]:
    """Clockwise from the topmost point, so that one outline has one spelling."""
    points = list(zip(polygon[0::2], polygon[1::2], strict=True))
    turn = sum(points[i - 1][0] * points[i][1] - points[i][0] * points[i - 1][1] for i in range(len(points)))
    if turn < 0:
        points.reverse()
    first = min(range(len(points)), key=lambda i: (points[i][1], points[i][0]))
    return [v for point in points[first:] + points[:first] for v in point]
