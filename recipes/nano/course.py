"""What each step teaches: photos drawn at random, crops of them, and pictures made on the spot."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import data
import numpy as np
import targets
from distill import geometry
from letters import Letter
from places import UNKNOWN, Seen

from florence2.data import records_json
from florence2.data.classes import CLASS_LISTS
from florence2.data.scenes import Scenes, SceneSettings, vocabulary
from florence2.language.tokenizer import Tokenizer

SHARE = {"flickr8k": 1.0, "coco": 0.8, "voc2012": 1.0, "ccp": 0.7, "camvid": 0.7, "icdar2015": 0.7, "sroie": 0.2}
SHARE |= {"funsd": 0.1, "iiit5k": 0.3, "icdar2015_words": 0.3}
"""How often a photo of each source is drawn."""
RENDERED, WORDS, SCENES = 0.42, 0.15, 0.10
"""Parts of the joint phase that are drawn text, photos of one word, and composed scenes of cut-out objects."""
RANDOM = 0.3
"""Part of the print that is random letters when a run begins; it falls to a tenth."""
LETTERS = string.ascii_letters + 2 * string.digits
CROPS = 1_000_000
"""Different cuts of the photos in the joint phase; those that the teacher has seen hold the encoder to its maps."""


def held_out(index: int) -> bool:
    """Photos of the training packs that only measure."""
    return index % 40 == 7


@dataclass
class Drawn:
    """What one step learns from. ``crops`` are numbers of stored crops; -1 is a picture made on the spot."""

    crops: list[int]
    pictures: list[np.ndarray | None]
    pairs: list[list[targets.Pair]]
    places: list[Seen]
    letters: list[list[Letter] | None]

    def add(
        self,
        crop: int,
        picture: np.ndarray | None,
        pairs: list[targets.Pair],
        seen: Seen = UNKNOWN,
        letters: list[Letter] | None = None,
    ) -> None:
        """Adds a picture, unless nothing can be asked about it. ``letters``: None where they are not known."""
        if pairs:
            self.crops.append(crop)
            self.pictures.append(picture)
            self.pairs.append(pairs)
            self.places.append(seen)
            self.letters.append(letters)


class Course:
    """Photos with their annotations, drawn at random and as fixed examples for measuring."""

    def __init__(self, run: Path, seed: int, packs: Path | None = None) -> None:
        """``packs``: the folder of the training packs, where scenes are wanted: their objects are cut out of these."""
        self.records, self.photos = data.load(run)
        targets.prepare(self.records)
        self.classes: dict[str, list[str]] = {}
        for record in self.records:
            names = self.classes.setdefault(record.get("exhaustive_classes", ""), [])
            names += {o["label"] for o in record["objects"] if not o.get("pseudo")} - set(names)
        self.tokenizer = Tokenizer.load(run / "tokenizer")
        self.teacher = targets.Teacher(self.tokenizer)
        self.first_location = self.tokenizer.first_location_id
        self.rng = random.Random(seed)
        self.progress = 0.0
        self.words = [t["text"] for r in self.records for t in r.get("text", []) if 1 < len(t["text"]) < 12]
        said = {
            word for r in self.records for caption in r["captions"] for word in re.findall("[A-Za-z]{2,11}", caption)
        }
        self.words += sorted(said)
        crops = ("iiit5k", "icdar2015_words")
        self.crops_of_words = [
            i for i, r in enumerate(self.records) if r["source"] in crops and r.get("text") and not held_out(i)
        ]
        self.grounds = [i for i, r in enumerate(self.records) if "text" not in r and not held_out(i)]
        if packs:
            self.scenes = Scenes(
                SceneSettings(count=10**9, seed=seed, size=(data.SIDE,) * 2, cutouts=(str(packs),), words=(0, 1))
            )
        self.shares = [0.0 if held_out(i) else SHARE[r["source"]] for i, r in enumerate(self.records)]

    def pairs(self, index: int, pixels: tuple[int, ...], mirrored: bool, count: int, rng: random.Random) -> list:
        return self.teacher.pairs(self.view(index, pixels, mirrored), count, rng)

    def view(self, index: int, pixels: tuple[int, ...], mirrored: bool) -> targets.View:
        crop = [v / data.SIDE for v in pixels]
        return targets.view(self.records[index], crop, mirrored, self.classes)

    def places(self, index: int, seen: targets.View) -> Seen:
        """What the photo's annotations say about every cell; machine-made boxes count as complete."""
        record = self.records[index]
        known = CLASS_LISTS["coco80"] if record.get("pseudo") else self.classes[record.get("exhaustive_classes", "")]
        return Seen([(o["label"], o["bbox"]) for o in seen.objects], known)

    def batches(self, crops: int, batch: int, count: int, made: bool) -> Iterator[Drawn]:
        """Endless batches of stored crops, a third of them whole photos; with ``made``, of pictures made on the spot
        as well: drawn text, photos of words, composed scenes."""
        n = len(self.records)
        drawn = Drawn([], [], [], [], [])
        while True:
            kind = self.rng.random() if made else 1.0
            if kind < RENDERED:
                picture, pairs, letters = self._rendered()
                drawn.add(-1, picture, pairs, letters=letters)
            elif kind < RENDERED + WORDS:
                drawn.add(-1, *self._word())
            elif kind < RENDERED + WORDS + SCENES:
                drawn.add(-1, *self._scene(count))
            else:
                j = self.rng.randrange(n if self.rng.random() < 0.35 else crops)
                index, pixels, mirrored = geometry(n, j)
                if self.rng.random() < self.shares[index]:
                    seen = self.view(index, pixels, mirrored)
                    drawn.add(j, None, self.teacher.pairs(seen, count, self.rng), self.places(index, seen))
            if len(drawn.crops) == batch:
                yield drawn
                drawn = Drawn([], [], [], [], [])

    def _rendered(self) -> tuple[np.ndarray, list[targets.Pair], list[Letter]]:
        lines = [self._print() for _ in range(self.rng.choice((1, 1, 1, 1, 2, 3)))]
        picture, texts = data.render(lines, self.photos[self.rng.choice(self.grounds)], self.rng)
        pairs = self.teacher.pairs(targets.View(text=texts), self.rng.choice((1, 2)), self.rng)
        return picture, pairs, [letter for text in texts for letter in text["letters"]]

    def _print(self) -> str:
        """A word of the packs' prints or captions, often in other case, or a made-up word, number, price, date or
        line. Sometimes, at first mostly, a few random letters: nothing but their shapes tells them."""
        if self.rng.random() < max(0.1, RANDOM - self.progress):
            return "".join(self.rng.choices(LETTERS, k=self.rng.choice((1, 2, 2, 3, 3, 4, 5, 6))))
        if self.rng.random() < 0.5:
            return vocabulary.printed((), self.rng)[:24].strip()
        word = self.rng.choice(self.words)
        return self.rng.choice((word, word, word.upper(), word.title(), word.lower()))

    def _word(self) -> tuple[np.ndarray, list[targets.Pair]]:
        index = self.rng.choice(self.crops_of_words)
        answer = targets.View(text=[{"text": self.records[index]["text"][0]["text"], "quad": [0, 0, 1, 0, 1, 1, 0, 1]}])
        return data.jitter(self.photos[index], self.rng), self.teacher.pairs(answer, 1, self.rng)

    def _scene(self, count: int) -> tuple[np.ndarray, list[targets.Pair]]:
        record, picture = self.scenes[self.rng.randrange(len(self.scenes))]
        # its captions are templates: <CAPTION> shall not sound like them
        made = records_json.to_dict(record) | {"captions": [], "phrases": [], "exhaustive_classes": ""}
        targets.prepare([made])
        seen = targets.view(made, [0.0, 0.0, 1.0, 1.0], False, {})
        seen.detection = {o["label"] for o in seen.objects} <= set(CLASS_LISTS["coco80"])
        return np.asarray(picture), self.teacher.pairs(seen, count, self.rng)

    def fixed(self, photos: int, count: int = 6) -> list[tuple[int, list[targets.Pair]]]:
        """The same held-out photos and pairs every time."""
        rng = random.Random(1)
        whole = (0, 0, data.SIDE, data.SIDE)
        indices = [i for i, r in enumerate(self.records) if held_out(i) and "text" not in r]
        rng.shuffle(indices)
        return [(i, self.pairs(i, whole, False, count, rng)) for i in indices[:photos]]
