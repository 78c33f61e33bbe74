"""Draws the pictures of the README from the demo photos, with whatever model is embedded.

python examples/readme_pictures.py docs/pictures
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from florence2 import Answer, Florence2

PHOTOS = Path(__file__).parent / "photos"
WIDTH = 320

Ask = Callable[[Florence2, Path], Answer]
PICTURES: dict[str, tuple[str, Ask]] = {
    "caption": ("photographer.jpg", lambda model, photo: model.caption(photo)),
    "detect": ("coffee.jpg", lambda model, photo: model.detect(photo)),
    "detect_labels": ("cat.jpg", lambda model, photo: model.detect(photo, labels=["cat", "dog", "car"])),
    "ground": ("photographer.jpg", lambda model, photo: model.ground(photo, "a man in a black coat")),
    "segment": ("photographer.jpg", lambda model, photo: model.segment(photo, box=(1, 67, 301, 511))),
    "read": ("street.jpg", lambda model, photo: model.read(photo, regions=True)),
    "propose": ("photographer.jpg", lambda model, photo: model.propose(photo)),
    "describe_regions": ("photographer.jpg", lambda model, photo: model.describe_regions(photo)),
    "ask": ("cat.jpg", lambda model, photo: model.ask(photo, "Is there a cat in the picture?")),
}


def main(output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    model = Florence2.from_pretrained()
    for name, (photo, ask) in PICTURES.items():
        answer = ask(model, PHOTOS / photo)
        picture = answer.draw()
        size = (WIDTH, round(picture.height * WIDTH / picture.width))
        picture.resize(size, Image.Resampling.LANCZOS).save(output / f"{name}.jpg", quality=88)
        print(f"{name}: {photo}: {str(answer)!r}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/pictures"))
