"""A Florence-2 checkpoint in transformers' native port, behind the same door as ours.

Its own processor makes the prompt and the pixels, its own ``generate`` searches, its own post-processing reads the
text; here its dictionaries become typed answers. What it has no score for has the score 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from florence2 import batches, inputs
from florence2.checkpoints.configs import read_json
from florence2.checkpoints.formats import as_dtype
from florence2.config import SHIPPED_POLICY
from florence2.errors import CheckpointError, ConfigError, Florence2Error, MissingDependencyError, TaskError
from florence2.evaluation.answerers import fingerprint
from florence2.evaluation.samples import Sample
from florence2.language.compat import ANSWER_TYPES, NOT_GROUNDED
from florence2.language.quantizer import quantize
from florence2.results import (
    Answer,
    Box,
    Detections,
    Instance,
    Object,
    Polygon,
    Segments,
    Text,
    TextRegion,
    TextRegions,
)

FREE = ("<ASK>", "<VQA>", "<DocVQA>")
"""Prompts that its processor passes through; the first has no token."""

RULES: dict[str, dict[str, Any]] = {
    **{kind: {} for kind in (*ANSWER_TYPES.values(), "description_with_polygons")},
    "phrase_grounding": {"banned_grounding_tokens": sorted(NOT_GROUNDED)},
}
"""What the published conversions tell the post-processing; folders without it can read no answer."""


class Transformers:
    """A checkpoint in the native layout, from a folder or the hub, decoded with the settings that it ships.

    ``device`` and ``dtype`` "auto": a CUDA GPU and float16 where there is one, else the CPU and float32. Settings of
    the search that the checkpoint lacks are those that Microsoft ships, as in ours. ``batch_size`` changes no answer.

    Raises CheckpointError where model or processor cannot be loaded, MissingDependencyError without transformers 5.
    """

    def __init__(
        self,
        source: str | Path,
        device: str = "auto",
        dtype: str | torch.dtype = "auto",
        num_beams: int = 3,
        batch_size: int = 8,
    ) -> None:
        if num_beams < 1 or batch_size < 1:
            raise ConfigError(f"num_beams and batch_size are at least 1, found {num_beams} and {batch_size}")
        self._library = _import()
        where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self.device = torch.device(where)
        fast = torch.float16 if self.device.type == "cuda" else torch.float32
        self.dtype = fast if dtype == "auto" else as_dtype(dtype)
        self.source = str(source)
        self.name = f"transformers: {Path(source).expanduser().resolve().name if Path(source).exists() else source}"
        self.batch_size = batch_size
        _check_folder(Path(source).expanduser())
        self.processor, self.rules = _processor(self._library, self.source)
        self.model = _model(self._library, self.source, self.dtype).to(self.device)
        self.settings = _settings(self.model, num_beams)

    def describe(self) -> dict[str, object]:
        return {
            "answerer": "transformers",
            "version": self._library.__version__,
            "source": self.source,
            "weights": fingerprint(self.model.state_dict()),
            "dtype": str(self.dtype).removeprefix("torch."),
            "options": dict(sorted(self.settings.items())),
            "post-processing": self.rules,
        }

    def answer(self, samples: Sequence[Sample], photos: Sequence[Image.Image]) -> list[Answer | Florence2Error]:
        found: list[Answer | Florence2Error | None] = [None] * len(samples)
        prompts: dict[int, str] = {}
        for i, (sample, photo) in enumerate(zip(samples, photos, strict=True)):
            try:
                prompts[i] = prompt(sample, photo.size)
            except Florence2Error as error:
                found[i] = error
        members = list(prompts)
        for begin in range(0, len(members), self.batch_size):
            part = members[begin : begin + self.batch_size]
            texts = self._texts([prompts[i] for i in part], [photos[i] for i in part])
            for i, text in zip(part, texts, strict=True):
                found[i] = text if isinstance(text, Florence2Error) else self._read(text, samples[i], photos[i].size)
        return [answer for answer in found if answer is not None]

    def _texts(self, prompts: list[str], photos: list[Image.Image]) -> list[str | Florence2Error]:
        """What is said to each prompt, marks and all. A batch that fails is asked one by one."""
        try:
            return list(self._generate(prompts, photos))
        except (ValueError, TypeError, RuntimeError, IndexError) as error:
            if len(prompts) == 1:
                return [Florence2Error(f"transformers cannot answer {prompts[0]!r}: {type(error).__name__}: {error}")]
            return [text for one, photo in zip(prompts, photos, strict=True) for text in self._texts([one], [photo])]

    @torch.inference_mode()
    def _generate(self, prompts: list[str], photos: list[Image.Image]) -> list[str]:
        given = self.processor(images=photos, text=prompts, return_tensors="pt", padding=True).to(self.device)
        length, room = given["input_ids"].shape[1], self.model.config.text_config.max_position_embeddings
        if length > room:  # found here, since a GPU would not survive it
            raise ValueError(f"photo and prompt have {length} tokens, the model has room for {room}")
        sequences = self.model.generate(
            input_ids=given["input_ids"],
            attention_mask=given["attention_mask"],
            pixel_values=given["pixel_values"].to(self.dtype),
            **self.settings,
        )
        end = self.model.config.text_config.eos_token_id
        texts = []
        for row in sequences.tolist():  # </s> opens an answer and ends it; behind that the batch is padded
            closed = row.index(end, 1) + 1 if end in row[1:] else len(row)
            texts.append(self.processor.decode(row[:closed], skip_special_tokens=False))
        return texts

    def _read(self, text: str, sample: Sample, size: tuple[int, int]) -> Answer | Florence2Error:
        try:
            parsed = self.processor.post_process_generation(text=text, task=sample.task, image_size=size)
        except (ValueError, TypeError, RuntimeError, IndexError) as error:
            return Florence2Error(f"transformers cannot read {text!r}: {type(error).__name__}: {error}")
        return typed(parsed[sample.task], sample.task, size)


def prompt(sample: Sample, size: tuple[int, int]) -> str:
    """The text for its processor: the task token and its input. Raises TaskError or BoxError."""
    request = batches.request((sample.task, sample.given))
    task = request.task.name
    if task not in ANSWER_TYPES and task not in FREE:
        raise TaskError(f"transformers does not know {task}; it knows {', '.join((*ANSWER_TYPES, *FREE))}")
    if request.answers == "per box":
        raise TaskError(f"{sample.id} gives {len(request.boxes or ())} boxes; ask about each in a sample of its own")
    if request.labels is not None and request.task.takes != "labels":
        raise TaskError(f"transformers cannot close the answers of {task} to a list of labels; leave the labels out")
    if request.boxes is not None:
        (box,) = request.boxes
        inputs.check_inside(box, size)
        return task + "".join(f"<loc_{n}>" for n in quantize(box, size))
    words = "<and>".join(request.labels) if request.labels is not None else request.text or ""
    return words if task == "<ASK>" else task + words


def typed(parsed: Any, task: str, size: tuple[int, int]) -> Answer:
    """The answer that one of its dictionaries means (for a text, the text itself)."""
    width, height = size
    match ANSWER_TYPES.get(task, "pure_text"):
        case "pure_text":
            return Text(task=task, width=width, height=height, text=parsed)
        case "ocr":
            quads = [(q[0], q[1], q[2], q[3], q[4], q[5], q[6], q[7]) for q in parsed["quad_boxes"]]
            regions = tuple(
                TextRegion(text=text, quad=quad) for text, quad in zip(parsed["labels"], quads, strict=True)
            )
            return TextRegions(task=task, width=width, height=height, regions=regions)
        case "polygons":
            instances = tuple(
                Instance(label=label, polygons=outlines)
                for label, polygons in zip(parsed["labels"], parsed["polygons"], strict=True)
                if (outlines := _outlines(polygons))
            )
            return Segments(task=task, width=width, height=height, instances=instances)
    labels = parsed["bboxes_labels"] if "bboxes_labels" in parsed else parsed["labels"]
    scores = parsed.get("scores") or [1.0] * len(labels)
    objects = [
        Object(label=label, box=_hull([box]), score=score, label_score=score, box_score=score)
        for label, box, score in zip(labels, parsed["bboxes"], scores, strict=True)
    ]
    for label, polygons in zip(parsed.get("polygons_labels", ()), parsed.get("polygons", ()), strict=True):
        if outlines := _outlines(polygons):
            objects.append(Object(label=label, box=_hull(outlines), polygons=outlines))
    return Detections(task=task, width=width, height=height, objects=tuple(objects))


def _outlines(polygons: Sequence[Sequence[float]]) -> tuple[Polygon, ...]:
    """Without those of fewer than three corners, which outline nothing."""
    return tuple(tuple(polygon) for polygon in polygons if len(polygon) >= 6)


def _hull(shapes: Sequence[Sequence[float]]) -> Box:
    xs = [x for shape in shapes for x in shape[0::2]]
    ys = [y for shape in shapes for y in shape[1::2]]
    return (min(xs), min(ys), max(xs), max(ys))


def _import() -> Any:
    try:
        import transformers
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise MissingDependencyError("a peer in transformers needs it; pip install 'transformers>=5'") from error
    if not hasattr(transformers, "Florence2ForConditionalGeneration"):
        raise MissingDependencyError(
            f"transformers {transformers.__version__} has no Florence-2 of its own; pip install 'transformers>=5'"
        )
    return transformers


def _check_folder(folder: Path) -> None:
    """What transformers would say in other words, or not at all. A hub id is left to it."""
    if not folder.exists():
        return
    config = read_json(folder / "config.json")
    vision = config.get("vision_config")
    if not isinstance(vision, dict) or "dim_embed" in vision:
        raise CheckpointError(
            f"{folder} is not in the native layout, which is all that transformers reads without foreign code; convert "
            f"it: florence2 convert {folder} OUT --layout native"
        )
    if not any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        raise CheckpointError(
            f"{folder} holds no processor (preprocessor_config.json or processor_config.json); copy it from the "
            "checkpoint that the training started from, or write the folder anew: florence2 convert --layout native"
        )
    if not (folder / "tokenizer.json").is_file():
        raise CheckpointError(f"{folder} holds no tokenizer.json; copy it from where the weights came from")


def _processor(library: Any, source: str) -> tuple[Any, str]:
    """The processor, and whose rules of post-processing it follows."""
    try:
        processor = library.AutoProcessor.from_pretrained(source)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"transformers finds no processor of Florence-2 in {source}: {error}") from error
    if not isinstance(processor, library.Florence2Processor):
        raise CheckpointError(
            f"the processor in {source} is a {type(processor).__name__}, not one of Florence-2; copy the processor's "
            "files from the checkpoint that the training started from"
        )
    if processor.post_processor_config:
        return processor, "its own"
    processor.post_processor_config = RULES
    processor.post_processor = type(processor.post_processor)(config=RULES, tokenizer=processor.tokenizer)
    return processor, "as published, the processor has none"


def _model(library: Any, source: str, dtype: torch.dtype) -> Any:
    try:
        model, loaded = library.Florence2ForConditionalGeneration.from_pretrained(
            source, dtype=dtype, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"transformers cannot load {source}: {error}") from error
    wrong = [name for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in loaded[kind]]
    if wrong:
        raise CheckpointError(
            f"transformers loads {source} with {len(wrong)} tensors missing, unknown or of another shape (e.g. "
            f"{min(map(str, wrong))}) and would answer at random; convert it: florence2 convert --layout native"
        )
    return model.eval()


def _settings(model: Any, num_beams: int) -> dict[str, Any]:
    """What the checkpoint ships, and Microsoft's values for what it lacks."""
    shipped = model.generation_config
    values = {
        "max_new_tokens": shipped.max_new_tokens,
        "no_repeat_ngram_size": shipped.no_repeat_ngram_size,
        "forced_bos_token_id": shipped.forced_bos_token_id,
        "forced_eos_token_id": shipped.forced_eos_token_id,
        "early_stopping": shipped.early_stopping,
    }
    text = model.config.text_config
    lacking = {
        "max_new_tokens": min(SHIPPED_POLICY.max_new_tokens, text.max_position_embeddings),
        "no_repeat_ngram_size": SHIPPED_POLICY.no_repeat_ngram_size,
        "forced_bos_token_id": text.bos_token_id,
        "forced_eos_token_id": text.eos_token_id,
        "early_stopping": SHIPPED_POLICY.early_stopping,
    }
    settings = {name: lacking[name] if value is None else value for name, value in values.items()}
    if num_beams == 1:
        del settings["early_stopping"]  # means nothing without beams, and transformers would say so each time
    return {**settings, "num_beams": num_beams, "do_sample": False}
