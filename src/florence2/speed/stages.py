"""What is timed of a model: its stages, then whole calls as users make them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy
import torch
from PIL import Image

from florence2 import images
from florence2.generation.beam import Beams
from florence2.generation.greedy import Greedy
from florence2.generation.rows import Rows
from florence2.model import Memory
from florence2.pipeline import Florence2
from florence2.speed.timing import Stage

PREPROCESSING, IMAGE, PROMPT = "image preprocessing", "image encoder", "prompt encoder"
FIRST, GREEDY, BEAMS = "first token", "token, greedy", "token, 3 beams"
CAPTION, DETECTION, ALL = "caption", "detection", "all tasks"
PARTS = (PREPROCESSING, IMAGE, PROMPT, FIRST, GREEDY, BEAMS)
CALLS = (CAPTION, DETECTION, ALL)

TASKS: tuple[tuple[str, object], ...] = (
    ("<CAPTION>", None),
    ("<DETAILED_CAPTION>", None),
    ("<MORE_DETAILED_CAPTION>", None),
    ("<OD>", None),
    ("<DENSE_REGION_CAPTION>", None),
    ("<REGION_PROPOSAL>", None),
    ("<OCR>", None),
    ("<OCR_WITH_REGION>", None),
    ("<CAPTION_TO_PHRASE_GROUNDING>", "a person with a dog"),
    ("<REFERRING_EXPRESSION_SEGMENTATION>", "the dog"),
    ("<OPEN_VOCABULARY_DETECTION>", "dog"),
    ("<REGION_TO_SEGMENTATION>", (64.0, 48.0, 320.0, 240.0)),
    ("<REGION_TO_CATEGORY>", (64.0, 48.0, 320.0, 240.0)),
    ("<REGION_TO_DESCRIPTION>", (64.0, 48.0, 320.0, 240.0)),
    ("<REGION_TO_OCR>", (64.0, 48.0, 320.0, 240.0)),
)
"""All tasks of one photo, with what each is given."""


@dataclass(frozen=True)
class Work:
    """How much there is to do, the same for all sides."""

    prompt: int = 12
    """Tokens of the prompt."""
    tokens: int = 20
    """That the token stages write, and at most that a caption and each of all tasks have."""
    detection: int = 100
    """Tokens of a detection, at most."""
    batches: tuple[int, ...] = (4, 16)
    """Photos that are captioned together."""

    @property
    def photo(self) -> Image.Image:
        """A picture of the usual size that is no flat colour; what it shows does not matter to any time."""
        rows, columns = numpy.mgrid[0:480, 0:640]
        noise = numpy.random.default_rng(0).integers(0, 64, (480, 640, 3))
        ramps = numpy.stack([rows * 0.4, columns * 0.3, (rows + columns) * 0.17], -1)
        return Image.fromarray((ramps + noise).clip(0, 255).astype(numpy.uint8))

    def ids(self, vocabulary: int, device: torch.device) -> torch.Tensor:
        """(1, prompt) ids; the same ones for all sides."""
        words = torch.randint(4, min(1000, vocabulary), (self.prompt,), generator=torch.Generator().manual_seed(0))
        return words[None].to(device)


def together(photos: int) -> str:
    return f"caption, {photos} photos"


def ours(model: Florence2, work: Work, wanted: Sequence[str] | None = None) -> list[Stage]:
    """The stages of a model that is ready; ``wanted`` names those that are built, all where it is None."""
    built = [*parts(model, work), *calls(model, work)]
    return [stage for stage in built if wanted is None or stage.name in wanted]


def parts(model: Florence2, work: Work) -> list[Stage]:
    """Stage by stage. The token stages are the search itself, choices and caches included, without a grammar."""
    net, config, photo = model.engine.runtime, model.engine.config, work.photo
    ids = work.ids(config.text.vocab_size, model.device)
    with torch.inference_mode():
        pixels = images.to_pixel_values([photo], config.image).to(model.device, model.dtype)
        image_tokens = net.encode_image(pixels)
        memory = net.encode(image_tokens, ids)

    def first() -> None:
        seen = net.encode_image(images.to_pixel_values([photo], config.image).to(model.device, model.dtype))
        write(model, net.encode(seen, ids), 1, 1)

    return [
        Stage(PREPROCESSING, lambda: images.to_pixel_values([photo], config.image)),
        Stage(IMAGE, lambda: net.encode_image(pixels)),
        Stage(PROMPT, lambda: net.encode(image_tokens, ids)),
        Stage(FIRST, first),
        Stage(GREEDY, lambda: write(model, memory, 1, work.tokens), work.tokens),
        Stage(BEAMS, lambda: write(model, memory, 3, work.tokens), work.tokens),
    ]


def write(model: Florence2, memory: Memory, beams: int, tokens: int) -> None:
    """So many tokens behind the forced first one, whatever they say: an end does not stop it."""
    shipped = model.engine.config.generation
    policy = dataclasses.replace(shipped, num_beams=beams, max_new_tokens=tokens + 1, constrained=False)
    rows = Rows(model.engine.runtime, memory, policy, None)
    search = Greedy(rows) if beams == 1 else Beams(rows)
    while not rows.full:
        search.step()


def calls(model: Florence2, work: Work) -> list[Stage]:
    """Whole calls from a photo to typed answers, with the defaults of this library."""
    photo = work.photo

    def batch(count: int) -> Callable[[], object]:
        items = [(photo.copy(), "<CAPTION>") for _ in range(count)]  # one photo would be encoded once
        return lambda: model.run_batch(items, batch_size=count, max_new_tokens=work.tokens)

    return [
        Stage(CAPTION, lambda: model.run(photo, "<CAPTION>", max_new_tokens=work.tokens)),
        Stage(DETECTION, lambda: model.run(photo, "<OD>", max_new_tokens=work.detection)),
        Stage(ALL, lambda: model.run_many(photo, TASKS, max_new_tokens=work.tokens)),
        *(Stage(together(count), batch(count), count) for count in work.batches),
    ]
