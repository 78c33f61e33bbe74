"""The model that a run begins with, as its recipe describes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from florence2 import checkpoints
from florence2.checkpoints import Checkpoint, configs
from florence2.checkpoints.adapters import add_adapter
from florence2.checkpoints.vocabulary import extend_vocabulary
from florence2.config import PRESETS, Florence2Config
from florence2.data import formats
from florence2.data.records import Record
from florence2.data.scenes import Scenes
from florence2.errors import ConfigError
from florence2.language.tasks import TASKS
from florence2.language.tokenizer import Tokenizer
from florence2.model import Florence2Model, initialise
from florence2.training.batch import Limits
from florence2.training.parts import freeze
from florence2.training.recipe import DataChoice, ModelChoice, Recipe
from florence2.training.sources import expand

READ_FOR_TOKENIZER = 50_000
"""Records per source."""
Doing = Callable[[str, int], None]


def begin_model(recipe: Recipe, folder: Path, device: torch.device, doing: Doing) -> Checkpoint:
    """Loaded or made anew, in float32 on the device, frozen and with adapters as the recipe says."""
    choice = recipe.model
    if choice.preset:
        checkpoint = _anew(recipe, folder, doing)
    else:
        checkpoint = checkpoints.load(source_of(choice), dtype="float32", device="cpu")
    return fitted(checkpoint, recipe, device)


def fitted(checkpoint: Checkpoint, recipe: Recipe, device: torch.device) -> Checkpoint:
    """On the device, with the recipe's words, size and adapter; what does not learn is frozen."""
    choice = recipe.model
    if choice.new_words:
        checkpoint = extend_vocabulary(checkpoint, choice.new_words)
    checkpoint = dataclasses.replace(_with_size(checkpoint, recipe), calibration=None)  # of weights that will change
    model = checkpoint.model.to(device)
    if recipe.lora is not None:
        add_adapter(model, recipe.lora)
    freeze(model, choice.freeze)
    recompute = set(choice.gradient_checkpointing)
    model.vision.gradient_checkpointing = "vision" in recompute
    model.text.encoder.gradient_checkpointing = model.text.decoder.gradient_checkpointing = "text" in recompute
    return checkpoint


def source_of(choice: ModelChoice) -> str | None:
    """What ``checkpoints.load`` takes: None is the embedded model."""
    if choice.source == "nano" and not Path("nano").exists():
        return None
    path = expand(choice.source)
    return str(path) if path.exists() else choice.source


def begin_tokenizer(recipe: Recipe, folder: Path, doing: Doing) -> Tokenizer:
    """With ``preset``: the one that is named, that of an earlier start of the run, or one trained on the data."""
    if recipe.model.tokenizer:
        return Tokenizer.load(expand(recipe.model.tokenizer))
    if (folder / "tokenizer").is_dir():
        return Tokenizer.load(folder / "tokenizer")
    preset = PRESETS[recipe.model.preset]
    tokenizer = Tokenizer.train(_texts(recipe, doing), recipe.model.vocab_size or preset.text.vocab_size)
    tokenizer.save(folder / "tokenizer")
    return tokenizer


def limits_of(recipe: Recipe, checkpoint: Checkpoint) -> Limits:
    """What the position tables leave to prompts, beside the largest image of the run, and to answers."""
    sizes = [stage.pixels for stage in recipe.resolution] or [checkpoint.config.image.size]
    config, positions = checkpoint.config, checkpoint.config.text.max_positions
    image = max(
        configs.image_tokens(dataclasses.replace(config, image=dataclasses.replace(config.image, size=size)))
        for size in sizes
    )
    if positions <= image:
        raise ConfigError(
            f"photos of {sizes} pixels become {image} tokens, the model reads {positions}; make them smaller"
        )
    return Limits(prompt=positions - image, answer=positions)


def _with_size(checkpoint: Checkpoint, recipe: Recipe) -> Checkpoint:
    """The trained model reads photos of the size that its training ended with."""
    if not recipe.resolution:
        return checkpoint
    image = dataclasses.replace(checkpoint.config.image, size=recipe.resolution[-1].pixels)
    config = dataclasses.replace(checkpoint.config, image=image)
    checkpoint.model.config = config
    return dataclasses.replace(checkpoint, config=config)


def _anew(recipe: Recipe, folder: Path, doing: Doing) -> Checkpoint:
    tokenizer = begin_tokenizer(recipe, folder, doing)
    config = config_of(recipe, tokenizer)
    torch.manual_seed(recipe.seed)
    return Checkpoint(
        initialise(Florence2Model(config)), tokenizer, config, source=f"{recipe.model.preset} from scratch"
    )


def config_of(recipe: Recipe, tokenizer: Tokenizer) -> Florence2Config:
    """The preset with a vocabulary as large as the tokenizer."""
    preset = PRESETS[recipe.model.preset]
    return dataclasses.replace(preset, text=dataclasses.replace(preset.text, vocab_size=tokenizer.vocab_size))


def _texts(recipe: Recipe, doing: Doing) -> Iterator[str]:
    """Everything that is said in the data and its prompts, location tokens left out."""
    for task in TASKS.values():
        yield task.prompt.replace("{input}", "")
    for name, choice in recipe.data.items():
        for number, record in enumerate(_records(choice)):
            if number >= READ_FOR_TOKENIZER:
                break
            if number % 100 == 0:
                doing(f"reading the words of {name}", number)
            yield from _words(record)


def _records(choice: DataChoice) -> Iterator[Record]:
    if choice.scenes is not None:
        scenes = Scenes(choice.scenes)
        yield from (scenes[i][0] for i in range(min(len(scenes), 2000)))
    else:
        yield from formats.read(expand(choice.path), choice.format or None)


def _words(record: Record) -> Iterator[str]:
    yield from record.captions
    yield from (thing.label for thing in record.objects or ())
    yield from (phrase.text for phrase in record.phrases)
    yield from (ref.text for ref in record.refs)
    yield from (words.text for words in record.text or ())
    for asked in record.qa:
        yield asked.question
        yield from asked.answers
    for pair in record.pairs:
        yield pair.prompt
        yield pair.answer
