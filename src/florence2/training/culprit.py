"""The batch that broke a run, written out so that it can be looked at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from florence2.language.tokenizer import Tokenizer
from florence2.training.batch import Batch


def write_culprit(folder: Path, step: int, rank: int, batches: Sequence[Batch], tokenizer: Tokenizer) -> Path:
    """Every photo as the model saw it, and ``batch.json``: where each came from, its prompts and answers as text."""
    place = folder / f"step-{step + 1:08d}-rank-{rank}"
    place.mkdir(parents=True, exist_ok=True)
    listed = []
    for batch in batches:
        for number, sample in enumerate(batch.samples):
            picture = place / f"slot-{sample.slot}.png"
            Image.fromarray(batch.pixels[number].permute(1, 2, 0).cpu().numpy()).save(picture)
            lessons = [
                {
                    "task": lesson.task,
                    "prompt": tokenizer.decode(lesson.prompt),
                    "answer": tokenizer.decode(lesson.answer),
                }
                for lesson in sample.lessons
            ]
            listed.append({"slot": sample.slot, "record": sample.where, "picture": picture.name, "lessons": lessons})
    (place / "batch.json").write_text(json.dumps(listed, ensure_ascii=False, indent=2), encoding="utf-8")
    return place
