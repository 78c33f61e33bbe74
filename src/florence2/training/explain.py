"""What a recipe would do, in words and figures, without doing it: ``florence2 train --explain``."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch

from florence2.checkpoints import Checkpoint
from florence2.data.check import Report
from florence2.errors import DataError
from florence2.language.tokenizer import Tokenizer
from florence2.training import parts, sources
from florence2.training.mixture import Mixture
from florence2.training.optimizer import factor, groups
from florence2.training.recipe import Recipe
from florence2.training.start import begin_model, limits_of
from florence2.training.trainer import size_at

LOOKED_AT = 200
"""Photos of which the answers are counted."""
SHOWN = 100
"""Characters of an example."""


def explain(recipe: Recipe, processes: int = 1) -> str:
    """Reads and checks the data and builds the model as a run would; nothing is trained, nothing stays on the disk.

    Raises what the run would raise before its first step, but for data with problems: these are part of the answer.
    """
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = begin_model(recipe, Path(folder), torch.device("cpu"), _silent)
        limits = limits_of(recipe, checkpoint)
        assert checkpoint.tokenizer is not None
        lenient = dataclasses.replace(recipe, preflight=dataclasses.replace(recipe.preflight, problems="skip"))
        problems = ""
        try:
            data = sources.prepare(lenient, Path(folder) / "data", checkpoint.tokenizer, limits, _silent)
        except DataError as error:
            data, problems = sources.Prepared(), str(error)
        told = [f"The run goes to {recipe.output}", "", *_of_model(recipe, checkpoint)]
        if problems:
            return "\n".join([*told, "", "Data", f"  {problems}"])
        mixture = Mixture(data.sources, recipe.seed, recipe.batch.targets)
        steps = recipe.schedule.steps or math.ceil(recipe.schedule.epochs * len(mixture) / recipe.batch.images)
        told += [
            "",
            *_of_data(mixture, data, checkpoint.tokenizer),
            "",
            *_of_steps(recipe, mixture, steps, checkpoint, processes),
        ]
        told += ["", *_of_rates(recipe, checkpoint, steps)]
        notes = list(_warnings(recipe, data, steps))
        return "\n".join([*told, *(["", "Note", *(f"  - {note}" for note in notes)] if notes else [])])


def _silent(what: str, done: int) -> None:
    """Nobody waits for an explanation long enough to want its progress."""


def _of_model(recipe: Recipe, checkpoint: Checkpoint) -> Iterator[str]:
    yield f"Model: {checkpoint.source or 'the embedded model'}"
    counted = parts.counts(checkpoint.model)
    for part, (learns, total) in counted.items():
        state = "learns" if learns == total else "frozen" if not learns else f"{learns:,} learn"
        yield f"  {part:<10} {total:>12,} parameters  {state}"
    learns, total = (sum(values) for values in zip(*counted.values(), strict=True))
    yield f"  {'all':<10} {total:>12,} parameters  {learns:,} learn ({learns / total:.1%})"
    if recipe.lora is not None:
        yield f"  LoRA of rank {recipe.lora.rank} on {', '.join(recipe.lora.targets)}; the adapter is what is saved"


def _of_data(mixture: Mixture, data: sources.Prepared, tokenizer: Tokenizer) -> Iterator[str]:
    yield "Data"
    all_shares = sum(mixture.shares)
    for source, share in zip(mixture.sources, mixture.shares, strict=True):
        held = next((len(h.photos) for h in data.held_out if h.name == source.name), 0)
        out = f", {held:,} held out" if held else ""
        yield f"  {source.name}: {len(source.photos):,} photos to learn from{out}; {share / all_shares:.1%} of the mixture"
    counted, examples = _drawn(mixture, tokenizer)
    yield f"Answers, as drawn for the first {min(LOOKED_AT, len(mixture))} photos"
    for task, count in counted.most_common():
        prefix, suffix = examples[task]
        yield f"  {count / counted.total():>6.1%}  {task or '(no known task)'}"
        yield f"          {_short(prefix)} -> {_short(suffix) or '(nothing)'}"
    yield from _of_problems(data.report)


def _drawn(mixture: Mixture, tokenizer: Tokenizer) -> tuple[Counter[str], dict[str, tuple[str, str]]]:
    """How often each task is asked, and its first target as text."""
    counted: Counter[str] = Counter()
    examples: dict[str, tuple[str, str]] = {}
    for slot in range(min(LOOKED_AT, len(mixture))):
        for target in mixture.draw(slot).targets:
            counted[target.task] += 1
            examples.setdefault(target.task, (target.prefix, target.suffix(tokenizer)))
    return counted, examples


def _of_problems(report: Report) -> Iterator[str]:
    if not report.ok:
        yield f"The check finds {len(report.problems)} problems; the first:"
        yield from (f"  {problem}" for problem in report.problems[:5])


def _of_steps(recipe: Recipe, mixture: Mixture, steps: int, checkpoint: Checkpoint, processes: int) -> Iterator[str]:
    batch = recipe.batch
    share = batch.images // processes
    micro = batch.micro or share
    yield f"{steps:,} steps of {batch.images} photos: {steps * batch.images / len(mixture):.2f} passes over the data"
    yield f"  {processes} process(es) x {math.ceil(share / micro)} part(s) of {micro} photos; {_targets(batch.targets)}"
    sizes = [(0, size_at(recipe, steps, checkpoint.config.image.size, 0))]
    for step in range(1, steps) if recipe.resolution else ():
        if (size := size_at(recipe, steps, checkpoint.config.image.size, step)) != sizes[-1][1]:
            sizes.append((step, size))
    yield "  photos of " + ", then ".join(f"{w} x {h} pixels from step {step + 1}" for step, (h, w) in sizes)
    seen = f"every {recipe.validation.every} steps" if len(recipe.data) else ""
    yield f"  a snapshot every {recipe.save.every} steps, the last {recipe.save.keep} are kept; validation {seen}"


def _targets(count: int) -> str:
    return f"up to {count} answers about each" if count else "all answers about each"


def _of_rates(recipe: Recipe, checkpoint: Checkpoint, steps: int) -> Iterator[str]:
    choice, schedule = recipe.optimizer, recipe.schedule
    yield f"AdamW, {schedule.shape} over {steps:,} steps behind {schedule.warmup} steps of warm-up"
    at = sorted({0, min(schedule.warmup, steps - 1), steps // 2, steps - 1})
    yield "  rate at step " + ", ".join(f"{s + 1}: {choice.lr * factor(s, schedule, steps):.2e}" for s in at)
    yield f"  {'rate':>10}  {'decay':>6}  {'tensors':>7}  {'parameters':>12}"
    sizes = {name: p.numel() for name, p in checkpoint.model.named_parameters()}
    for group in sorted(groups(checkpoint.model, choice), key=lambda g: (-g.lr, -g.weight_decay))[:12]:
        total = sum(sizes[name] for name in group.names)
        yield f"  {group.lr:>10.2e}  {group.weight_decay:>6g}  {len(group.names):>7}  {total:>12,}"


def _warnings(recipe: Recipe, data: sources.Prepared, steps: int) -> Iterator[str]:
    if not data.held_out:
        yield "nothing is held out: no validation, no best model (give a source hold_out, or validation.data)"
    if not data.report.ok and recipe.preflight.problems == "stop":
        yield "the data has problems, so the run would stop before its first step"
    if not recipe.model.preset and recipe.optimizer.lr > 1e-3:
        yield f"a learning rate of {recipe.optimizer.lr:g} is high for a model that has learned already"
    if recipe.save.every > steps:
        yield f"save.every is {recipe.save.every}, the run has {steps} steps: only its end is saved"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else line[: SHOWN - 3] + "..."
