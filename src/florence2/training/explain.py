"""What a recipe would do, in words and figures, without doing it: ``florence2 train --explain``.

The data is read once and some of it is checked; the model is built without its weights. Nothing is written.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from PIL import Image

from florence2.checkpoints import Checkpoint, adapter_layers, adapters, configs
from florence2.checkpoints.hub import locate
from florence2.checkpoints.vocabulary import count_words, read_tokenizer
from florence2.data.check import Example
from florence2.data.records import Record
from florence2.errors import ConfigError
from florence2.language.tokenizer import Tokenizer
from florence2.model import Florence2Model
from florence2.training import parts
from florence2.training.batch import Limits
from florence2.training.mixture import Mixture, Source
from florence2.training.optimizer import factor, groups
from florence2.training.recipe import Recipe, Schedule
from florence2.training.snapshots import Snapshots
from florence2.training.sources import expand
from florence2.training.start import begin_model, begin_tokenizer, config_of, fitted, limits_of, source_of
from florence2.training.survey import Doing, Survey, survey
from florence2.training.trainer import precision_of, size_at
from florence2.training.world import World, device_of

WIDTH = 100
"""Columns."""
HIGH, HIGH_FOR_ADAPTERS = 1e-3, 1e-2
"""Learning rates above these forget more than they learn, where the model has learned already."""
CHANGES = ("flip", "crop", "shrink", "colour")
"""Fields of ``Augment`` that say how often, or how much."""
PROBLEMS = 5
"""That are shown; ``florence2 data check`` shows all."""


def explain(recipe: Recipe, processes: int = 1, doing: Doing | None = None) -> str:
    """``doing`` is told what is read, and how many records of it.

    Raises what the run would raise before its first step, but for data with problems: these are part of the answer.
    """
    facts = _gather(recipe, processes, doing or _silent)
    sections = [_model(facts), _data(facts), _answers(facts), _steps(facts), _rates(facts)]
    sections += [_validation(facts), _files(facts)]
    if notes := list(_notes(facts)):
        sections.append(["To look at", *(line for note in notes for line in _wrapped(note, 2, "- "))])
    return "\n\n".join("\n".join(line.rstrip() for line in section) for section in sections if section)


@dataclass(frozen=True)
class _Facts:
    """What the sections tell of."""

    recipe: Recipe
    world: World
    checkpoint: Checkpoint
    limits: Limits
    sources: Sequence[Survey]
    apart: Sequence[Survey]
    """For validation alone."""
    shares: dict[str, float]
    """Of all photos, per source; empty where nothing can be learned."""
    steps: int

    @property
    def photos(self) -> int:
        return sum(source.to_learn for source in self.sources)

    @property
    def validated(self) -> dict[str, int]:
        """Photos that each source gives to the validation."""
        found = {source.name: source.held_out for source in self.sources}
        found |= {source.name: source.to_learn + source.held_out for source in self.apart}
        return {name: min(count, self.recipe.validation.records) for name, count in found.items() if count}


@dataclass(frozen=True)
class _Counted:
    """Photos of which only the number is known."""

    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> tuple[Record, Image.Image]:
        raise IndexError("these photos are counted, not looked at")


def _silent(what: str, done: int) -> None:
    """Nobody is told."""


def _gather(recipe: Recipe, processes: int, doing: Doing) -> _Facts:
    world = World(device_of(recipe.run.device), size=processes, strategy=recipe.run.distributed)
    world.share(recipe.batch.images)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = _without_weights(recipe, Path(folder), doing)
    tokenizer, limits = checkpoint.tokenizer, limits_of(recipe, checkpoint)
    if tokenizer is None:
        raise ConfigError(f"{checkpoint.source} holds no tokenizer; copy tokenizer.json of its origin into the folder")
    found, apart = (
        [survey(recipe, name, choice, tokenizer, limits, doing) for name, choice in choices.items()]
        for choices in (recipe.data, recipe.validation.data)
    )
    teaching = [
        Source(one.name, _Counted(one.to_learn), weight=recipe.data[one.name].weight) for one in found if one.to_learn
    ]
    shares = Mixture(teaching, recipe.seed).shares if teaching else ()
    photos = sum(source.to_learn for source in found)
    return _Facts(
        recipe,
        world,
        checkpoint,
        limits,
        found,
        apart,
        {source.name: share / sum(shares) for source, share in zip(teaching, shares, strict=True)},
        recipe.schedule.steps or math.ceil(recipe.schedule.epochs * photos / recipe.batch.images),
    )


def _without_weights(recipe: Recipe, folder: Path, doing: Doing) -> Checkpoint:
    """The model as training begins with it, its weights left out where they do not matter."""
    if recipe.lora is not None and recipe.lora.dora:  # it looks at the length of each row
        return begin_model(recipe, folder, torch.device("cpu"), doing)
    tokenizer: Tokenizer | None
    if recipe.model.preset:
        earlier = expand(recipe.output)
        tokenizer = begin_tokenizer(recipe, earlier if (earlier / "tokenizer").is_dir() else folder, doing)
        config, source = config_of(recipe, tokenizer), f"{recipe.model.preset}, random weights"
    else:
        place = locate(source_of(recipe.model))
        config, source = configs.read(place.folder, "microsoft", place.name), place.name
        tokenizer = read_tokenizer(place.folder, config.text)
        text = dataclasses.replace(config.text, vocab_size=count_words(tokenizer, config.text))
        config = dataclasses.replace(config, text=text)
    nowhere = torch.device("meta")
    with nowhere:
        model = Florence2Model(config)
    return fitted(Checkpoint(model, tokenizer, config, source=source), recipe, nowhere)


# The sections


def _model(facts: _Facts) -> list[str]:
    model, lora = facts.checkpoint.model, facts.recipe.lora
    counts = parts.counts(model)
    learn, total = (sum(values) for values in zip(*counts.values(), strict=True))
    rows = [[part, f"{of_part:,}", f"{learns:,}", ""] for part, (learns, of_part) in counts.items()]
    rows.append(["all", f"{total:,}", f"{learn:,}", _percent(learn / total)])
    room = f"{facts.limits.prompt:,} tokens in a prompt, {facts.limits.answer:,} in an answer"
    lines = ["Model", *_wrapped(f"{facts.checkpoint.source}; room for {room}")]
    if lora is not None:
        changed = adapter_layers.changed(model, adapters.active_adapter(model) or "")
        lines += _wrapped(
            f"LoRA: rank {lora.rank}, alpha {lora.alpha:g} on {len(changed)} modules ({', '.join(lora.targets)}); "
            "the adapter alone learns and is saved"
        )
    return [*lines, *_table([["", "parameters", "learn", ""], *rows], "<>>>")]


def _data(facts: _Facts) -> list[str]:
    lines = ["Data"]
    for source in facts.sources:
        silent = source.records - source.to_learn - source.held_out
        said = [f"{source.records:,} records: {source.to_learn:,} to learn from", f"{source.held_out:,} held out"]
        said += [f"{silent:,} teach nothing here"] if silent else []
        said.append(f"{_percent(facts.shares.get(source.name, 0.0))} of the photos drawn")
        lines += [*_wrapped(f"{source.name}: {source.recognised}"), *_wrapped(", ".join(said), 4)]
        how = facts.recipe.data[source.name].augment or facts.recipe.augment
        strengths = [f"{name} {getattr(how, name):g}" for name in CHANGES if getattr(how, name)]
        lines += _wrapped(f"changed at random: {', '.join(strengths)}", 4) if strengths else []
    for source in facts.apart:
        lines += _wrapped(f"{source.name}, for validation alone: {source.recognised}")
        lines += _wrapped(f"{source.records:,} records", 4)
    return lines


def _answers(facts: _Facts) -> list[str]:
    """Which tasks are taught, how often, and what that looks like."""
    targets, longest = Counter[str](), Counter[str]()
    examples: dict[str, Example] = {}
    per_task: dict[str, float] = {}
    for source in facts.sources:
        targets += source.targets
        longest |= source.longest
        examples = {**source.examples, **examples}
        for task, count in source.asked.items():
            per_task[task] = per_task.get(task, 0.0) + facts.shares.get(source.name, 0.0) * count
    if not per_task:
        return []
    whole, about = sum(per_task.values()), "about " * any(source.estimated for source in facts.sources)
    order = sorted(per_task, key=per_task.__getitem__, reverse=True)
    rows = [["", "targets", "of all answers", "longest"]]
    for task in order:
        share, tokens = _percent(per_task[task] / whole), f"{longest[task]:,} tokens"
        rows.append([task or "(no known task)", f"{about}{targets[task]:,}", share, tokens])
    most = facts.recipe.batch.targets
    head, *table = _table(rows, "<>>>")
    lines = [f"Answers: {f'up to {most}' if most else 'all'} about each photo", head]
    for task, line in zip(order, table, strict=True):
        lines += [line, *([f"      {_shown(examples[task])}"] if task in examples else [])]
    return lines


def _steps(facts: _Facts) -> list[str]:
    recipe, world, images = facts.recipe, facts.world, facts.recipe.batch.images
    passes = f", {facts.steps * images / facts.photos:.3g} times through the data" if facts.photos else ""
    lines = ["Steps", *_wrapped(f"{facts.steps:,} of {images} photos: {facts.steps * images:,} photos{passes}")]
    share = world.share(images)
    micro = min(recipe.batch.micro or share, share)
    if micro < images:
        shared = f"{share // micro} x {micro}" + (f" + {share % micro}" if share % micro else "")
        who = "the process" if world.size == 1 else f"each of {world.size} processes ({world.strategy})"
        lines += _wrapped(f"{who} takes {shared} photos of them, then the weights move")
    sizes = _sizes(facts)
    told = [f"{w} x {h} pixels" + (f" from step {step + 1:,}" if step else "") for step, (h, w) in sizes]
    lines += _wrapped(f"photos of {', then '.join(told)}")
    precision = str(precision_of(recipe.run.precision, world.device)).removeprefix("torch.")
    learn, total = _parameters(facts.checkpoint.model)
    numbers = total + (3 + bool(recipe.optimizer.ema)) * learn  # gradient, two moments, average
    memory = f"{4 * numbers / 1e9:.2f} GB for weights, gradients and optimiser, more for activations"
    return [*lines, *_wrapped(f"on {world.device}, arithmetic in {precision}; {memory}")]


def _rates(facts: _Facts) -> list[str]:
    choice, schedule, model = facts.recipe.optimizer, facts.recipe.schedule, facts.checkpoint.model
    lines = ["Learning rate", *_wrapped(in_words(schedule, choice.lr))]
    last = max(facts.steps - 1, 0)
    at = sorted({0, min(max(schedule.warmup - 1, 0), last), facts.steps // 4, facts.steps // 2, last})
    rates = [f"{choice.lr * factor(step, schedule, facts.steps):.2g}" for step in at]
    lines += _table([["in step", *(f"{step + 1:,}" for step in at)], ["rate", *rates]], "<" + ">" * len(at))
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    rows = [["peak", "weight decay", "tensors", "parameters", "of"]]
    for group in sorted(groups(model, choice), key=lambda group: (-group.lr, -group.weight_decay)):
        where = ", ".join(dict.fromkeys(map(parts.part_of, group.names)))
        count = f"{sum(sizes[name] for name in group.names):,}"
        rows.append([f"{group.lr:.3g}", f"{group.weight_decay:g}", f"{len(group.names):,}", count, where])
    return [*lines, *_table(rows, ">>>><")]


def _validation(facts: _Facts) -> list[str]:
    choice = facts.recipe.validation
    if not facts.validated:
        return []
    on = ", ".join(f"{count:,} photos of {name}" for name, count in facts.validated.items())
    when = f"every {choice.every:,} steps and at the end" + (", and before the first step" if choice.first else "")
    what = "loss and accuracy of tokens" + (", and figures of the model's own answers" if choice.answers else "")
    lines = ["Validation", *_wrapped(f"{when}, on {on}"), *_wrapped(what)]
    average = ", with averaged weights" if facts.recipe.optimizer.ema else ""
    return [*lines, *_wrapped(f"the model with the best {choice.best!r} is kept{average}")]


def _files(facts: _Facts) -> list[str]:
    recipe, (learn, _) = facts.recipe, _parameters(facts.checkpoint.model)
    size = f"{4 * (3 + bool(recipe.optimizer.ema)) * learn / 1e9:.2f} GB each"
    kept = f"the last {recipe.save.keep} stay" if recipe.save.keep else "all stay"
    rows = [["adapter/" if recipe.lora else "model/", "what was trained, behind the last step"]]
    rows += [["best/", "the best one so far; best.json holds its figures"]] if facts.validated else []
    rows.append(["snapshots/", f"every {recipe.save.every:,} steps and at the end, {kept}; {size}"])
    rows.append(["log.jsonl", f"losses, every {recipe.log.every:,} steps, and validations"])
    rows += [["tensorboard/", "the same as curves"]] if recipe.log.tensorboard else []
    rows += [["data/", "the records as they were read"], ["recipe.json", "the recipe with all its defaults"]]
    return [f"Files in {recipe.output}", *_table(rows, "<<")]


def _notes(facts: _Facts) -> Iterator[str]:
    """What is likely to be a mistake."""
    recipe = facts.recipe
    made = Snapshots(expand(recipe.output) / "snapshots", facts.world, recipe.save.keep).steps()
    if made:
        yield f"{recipe.output} holds a run of {made[-1]:,} steps; --resume goes on with it, or name another output"
    for source in [*facts.sources, *facts.apart]:
        yield from _notes_on_data(source, facts)
    if not facts.validated:
        yield (
            "nothing is held out: there will be no validation and no best model; give a source hold_out = 0.05, or a "
            "data set in validation.data"
        )
    else:
        yield from _notes_on_best(facts)
    yield from _notes_on_steps(facts)
    if recipe.run.precision == "fp16" and facts.world.device.type == "cpu":
        yield "fp16 is slow on processors; bf16 is not on those that have it"
    if recipe.model.compile and facts.world.device.type == "cpu":
        yield "model.compile takes minutes and gains little without a GPU"
    if recipe.lora is not None and recipe.resolution:
        yield (
            "an adapter does not say which size its model reads photos at; whoever uses it must set that of "
            f"{facts.checkpoint.source} to {recipe.resolution[-1].pixels}"
        )
    if recipe.validation.answers and facts.world.shards:
        yield "validation.answers needs whole weights in one process; the run would stop there, use ddp"


def _notes_on_data(source: Survey, facts: _Facts) -> Iterator[str]:
    recipe = facts.recipe
    apart = source in facts.apart
    name = f"validation.data.{source.name}" if apart else f"data.{source.name}"
    named = (recipe.validation.data if apart else recipe.data)[source.name].task_weights
    if not source.to_learn:
        yield f"{name}: none of its records can teach {', '.join(named) or 'any task'}; the run would stop"
    elif missing := [task for task in named if task not in source.targets]:
        yield f"{name}: none of its records teaches {', '.join(missing)}"
    if source.left_out and not apart:
        left_out = ", ".join(task or "pairs of no known task" for task in source.left_out)
        yield f"{name} could also teach {left_out}"
    if problems := source.report.problems:
        stops = recipe.preflight.problems == "stop"
        what = "the run would stop before its first step" if stops else "these records would be left out"
        yield (
            f"{name}: {len(problems):,} problems in what was read and in the {source.report.records:,} records that "
            f"were checked; {what}"
        )
        yield from (f"  {problem}" for problem in problems[:PROBLEMS])


def _notes_on_best(facts: _Facts) -> Iterator[str]:
    task, _, figure = facts.recipe.validation.best.rpartition(" ")
    validated = [source for source in [*facts.sources, *facts.apart] if source.name in facts.validated]
    if task.startswith("<") and not any(task in source.targets for source in validated):
        yield f"validation.best is {task} {figure}, and no photo to validate on asks {task}; the run would stop there"


def _notes_on_steps(facts: _Facts) -> Iterator[str]:
    recipe, steps = facts.recipe, facts.steps
    high = HIGH_FOR_ADAPTERS if recipe.lora else HIGH
    if not recipe.model.preset and recipe.optimizer.lr > high:
        yield f"optimizer.lr is {recipe.optimizer.lr:g}, high for a model that has learned already; try {high / 10:g}"
    if recipe.schedule.warmup >= steps:
        yield f"the learning rate rises over {recipe.schedule.warmup:,} steps, the run has {steps:,}"
    if facts.validated and recipe.validation.every > steps:
        yield f"validation.every is {recipe.validation.every:,}, the run has {steps:,} steps: it validates at its end"
    if recipe.save.every > steps:
        yield f"save.every is {recipe.save.every:,}, the run has {steps:,} steps: it is saved at its end only"
    if recipe.optimizer.ema and 1 / (1 - recipe.optimizer.ema) > steps / 2:
        reach = round(1 / (1 - recipe.optimizer.ema))
        yield f"the average (optimizer.ema) reaches back {reach:,} steps, the run has {steps:,}; make it shorter"


# Small things


def in_words(schedule: Schedule, lr: float) -> str:
    """How the learning rate goes."""
    rises = f"rises over {schedule.warmup:,} steps to {lr:g}, " if schedule.warmup else f"begins at {lr:g}, "
    if schedule.shape == "constant":
        return f"{rises}then stays"
    shape = {"cosine": "along a cosine", "linear": "in a line"}[schedule.shape]
    return f"{rises}then falls {shape} to {schedule.floor * lr:g}"


def _sizes(facts: _Facts) -> list[tuple[int, tuple[int, int]]]:
    """(first step, (height, width)) of each stage."""
    usual = facts.checkpoint.config.image.size
    sizes = [size_at(facts.recipe, facts.steps, usual, step) for step in range(max(1, facts.steps))]
    changes = [step + 1 for step, (before, after) in enumerate(pairwise(sizes)) if before != after]
    return [(step, sizes[step]) for step in [0, *changes]]


def _parameters(model: Florence2Model) -> tuple[int, int]:
    """(those that learn, all)"""
    learn, total = (sum(values) for values in zip(*parts.counts(model).values(), strict=True))
    return learn, total


def _percent(share: float) -> str:
    return f"{share:.1%}".replace("100.0%", "100%").replace("%", " %")


def _shown(example: Example) -> str:
    """A target as text, on one line."""
    prefix, suffix = (" ".join(text.split()) for text in (example.prefix, example.suffix))
    line = f"{_cut(prefix, 2 * WIDTH // 3)} -> {suffix or '(nothing)'}"
    return _cut(line, WIDTH - 6)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _wrapped(text: str, indent: int = 2, mark: str = "") -> list[str]:
    begin, rest = " " * indent + mark, " " * (indent + 2)
    return textwrap.wrap(text, WIDTH, initial_indent=begin, subsequent_indent=rest, break_on_hyphens=False)


def _table(rows: Sequence[Sequence[str]], align: str) -> list[str]:
    """Columns as wide as their widest cell; ``align`` has < or > for each."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, align, widths, strict=True))
        for row in rows
    ]
