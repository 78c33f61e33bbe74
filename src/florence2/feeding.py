"""Photos made ready for the image encoder on threads, while the model works on those before them.

Pillow decodes and resizes without the interpreter's lock, so the threads take nothing from the model but processor
time. Nothing is started unless it is asked for: who calls `start` bounds what is in flight.
"""

from __future__ import annotations

import os
from collections.abc import Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from florence2 import images
from florence2.config import ImageConfig
from florence2.engine import Scene
from florence2.errors import Florence2Error

THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True, eq=False)
class Ready:
    """A photo that the image encoder has yet to see."""

    picture: Image.Image
    """Upright RGB."""
    pixels: Tensor
    """(H, W, 3) uint8, squashed to the size of the model's input."""


class Feed:
    """Photos under way, each known by a key. Leaving it as a context ends its threads, whatever is still under way."""

    def __init__(self, form: ImageConfig, threads: int = THREADS) -> None:
        self._form = form
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="florence2-feed")
        self._coming: dict[Hashable, Future[Ready | Scene | Florence2Error]] = {}

    def start(self, key: Hashable, photo: Any) -> None:
        """Begin to make a photo ready, unless it is under way. The caller keeps ``photo`` alive where its id is in
        the key."""
        if key not in self._coming:
            self._coming[key] = self._pool.submit(ready, photo, self._form)

    def take(self, key: Hashable) -> Ready | Scene | Florence2Error:
        """The photo of this key, waited for if need be, and forgotten here; its error where it is broken."""
        return self._coming.pop(key).result()

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


def ready(photo: Any, form: ImageConfig) -> Ready | Scene | Florence2Error:
    """What the image encoder needs of a photo; a scene has passed it already, an error is a value here."""
    if isinstance(photo, Scene):
        return photo
    try:
        picture = images.load(photo)
        return Ready(picture, images.squash(picture, form))
    except Florence2Error as error:
        return error
