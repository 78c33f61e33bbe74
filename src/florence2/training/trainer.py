"""The trainer: a recipe in, a trained checkpoint out. One loop for pre-training, multi-task training and fine-tuning.

    from florence2.training import Recipe, train
    finished = train(Recipe.load("recipe.toml"))

What happens in step s depends on the recipe and s alone: the photos and questions (``mixture.py``), dropout (seeded per
step), the learning rate. So a run that goes on from a snapshot is the run that was never stopped, bit by bit.

The loss of a step is the sum over all answer tokens of all processes and accumulated parts, divided by their number;
so neither the number of processes nor the size of a part changes what is learned.
"""

from __future__ import annotations

import contextlib
import json
import math
import signal
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from florence2 import checkpoints
from florence2.checkpoints import Checkpoint
from florence2.checkpoints.adapters import save_adapter
from florence2.checkpoints.load import build
from florence2.errors import ConfigError, Florence2Error
from florence2.language.tasks import TASKS
from florence2.model.florence2 import Florence2Model
from florence2.training import memory, parts, sources, strict
from florence2.training.batch import Batch
from florence2.training.culprit import write_culprit
from florence2.training.events import Finished, Plan, Progressed, Validated, Watcher
from florence2.training.feed import Feed
from florence2.training.mixture import Mixture
from florence2.training.objective import Losses, Objective
from florence2.training.optimizer import Average, LearningRate, adamw
from florence2.training.recipe import Recipe
from florence2.training.reports import Log, TensorBoard, Terminal
from florence2.training.snapshots import Snapshots, write_durably
from florence2.training.start import begin_model, limits_of
from florence2.training.validation import Validation
from florence2.training.world import World, join, leave

FREE_TO_CHANGE = ("output", "save", "log", "validation", "preflight", "run.device", "run.distributed", "batch.workers")
"""What may differ when a run goes on; everything else would make it another run."""


def train(recipe: Recipe, resume: bool = False, watchers: Sequence[Watcher] | None = None) -> Finished:
    """Trains as the recipe says. ``resume`` goes on from the last snapshot, or begins where there is none.

    ``watchers`` come beside the log (and TensorBoard); None shows the progress in the terminal. Under ``torchrun``
    every process calls this. SIGTERM ends the run after the present step, with a snapshot.

    Raises ConfigError, DataError and CheckpointError before the first step; Florence2Error where the loss is no
    number, with the batch written to ``RUN/culprit``.
    """
    world = join(recipe.run.device, recipe.run.distributed)
    try:
        with memory.kept() if world.device.type == "cpu" else contextlib.nullcontext():
            return Trainer(recipe, world, [Terminal()] if watchers is None else watchers).fit(resume)
    finally:
        leave()


class Trainer:
    """A run: see :func:`train`."""

    def __init__(self, recipe: Recipe, world: World, watchers: Sequence[Watcher]) -> None:
        self.recipe, self.world = recipe, world
        self.folder = sources.expand(recipe.output)
        self.snapshots = Snapshots(self.folder / "snapshots", world, recipe.save.keep)
        self.watchers: list[Watcher] = []
        if world.leads:
            self.watchers = [Log(self.folder / "log.jsonl"), *watchers]
            if recipe.log.tensorboard:
                self.watchers.insert(1, TensorBoard(self.folder / "tensorboard"))
        self._stop = False

    def fit(self, resume: bool) -> Finished:
        start = self._open(resume)
        self._prepare(fresh=not resume)
        if start:
            self.snapshots.load(start, self.module, self.optimizer, self.average, self.scaler)
        self._tell("begin", Plan(self.folder, self.steps, start, self.recipe.batch.images))
        with self._until_terminated():
            step = self._loop(start)
        return self._finish(step)

    # Before the first step

    def _open(self, resume: bool) -> int:
        """Makes the folder, or finds out what is in it. Returns the number of steps that are made already."""
        notes = self.folder / "recipe.json"
        steps = self.snapshots.steps()
        if steps and not resume:
            raise ConfigError(
                f"{self.folder} holds a run of {steps[-1]} steps; go on with --resume, or name another output"
            )
        if resume and notes.is_file():
            _check_same(json.loads(notes.read_text()), self.recipe, self.folder)
        with self.world.leader_first() as leads:
            if leads:
                self.folder.mkdir(parents=True, exist_ok=True)
                write_durably(notes, json.dumps(self.recipe.to_dict(), indent=2))
        return steps[-1] if steps else 0

    def _prepare(self, fresh: bool) -> None:
        recipe, world = self.recipe, self.world
        torch.manual_seed(recipe.seed)
        doing = partial(self._tell, "doing")
        with world.leader_first() as leads:
            self.checkpoint = begin_model(recipe, self.folder, world.device, doing)
            limits, tokenizer = limits_of(recipe, self.checkpoint), _tokenizer(self.checkpoint)
            self.data = sources.prepare(recipe, self.folder / "data", tokenizer, limits, doing, fresh=fresh and leads)
        mixture = Mixture(self.data.sources, recipe.seed, recipe.batch.targets)
        self.steps = recipe.schedule.steps or math.ceil(recipe.schedule.epochs * len(mixture) / recipe.batch.images)
        self.task_names = (*TASKS, "")
        share = world.share(recipe.batch.images)
        self.feed = Feed(
            mixture,
            tokenizer,
            limits,
            self.task_names,
            partial(size_at, recipe, self.steps, self.checkpoint.config.image.size),
            recipe.batch.images,
            world.rank,
            world.size,
            recipe.batch.micro,
            grouped=not world.shards,
        )
        self.validation = Validation(
            self.data.held_out,
            recipe.validation.records,
            tokenizer,
            limits,
            self.task_names,
            self.feed.size_at(self.steps - 1),
            recipe.batch.micro or share,
        )
        model = self.checkpoint.model
        self.objective = Objective(model, tokenizer.first_location_id, recipe.loss)
        if recipe.model.compile:
            _compile(model)
        self.module = world.wrap(self.objective)
        self.frozen = parts.Frozen(model)
        self.optimizer = adamw(model, recipe.optimizer)
        peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.rate = LearningRate(self.optimizer, peaks, recipe.schedule, self.steps)
        self.average = Average(model, recipe.optimizer.ema) if recipe.optimizer.ema else None
        self.precision = precision_of(recipe.run.precision, world.device)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=self.precision is torch.float16)
        self.trained = [p for p in model.parameters() if p.requires_grad]

    # The loop

    def _loop(self, start: int) -> int:
        recipe, tally = self.recipe, _Tally(self.task_names, self.world)
        self.figures: dict[str, float] = {}
        bests = _bests(self.folder / "best.json", start)
        self.best: float | None = bests[-1]["figures"].get(recipe.validation.best) if bests else None
        workers = recipe.batch.workers
        if workers is None:
            workers = 4 if self.world.device.type == "cuda" else 0
        done = start
        if recipe.validation.first and not start and len(self.validation):
            self._validate(0)
        for batches in self.feed.steps(start, self.steps, workers):
            norm, factor = self._step(done, batches, tally)
            done += 1
            self._tell("stepped", done)
            if done % recipe.log.every == 0 or done == self.steps:
                peak = max(self.rate.peaks) * factor
                self._tell("progressed", tally.report(done, peak, norm))
            last, stop = done == self.steps, self.world.any(self._stop)
            if len(self.validation) and (done % recipe.validation.every == 0 or last):
                self._validate(done)
            if done % recipe.save.every == 0 or last or stop:
                path = self.snapshots.save(done, self.module, self.optimizer, self.average, self.scaler)
                self._tell("saved", path)
            if stop:
                break
        return done

    def _step(self, step: int, batches: Sequence[Batch], tally: _Tally) -> tuple[float, float]:
        """One step of the optimiser over all parts of its batch. Returns (norm of the gradient, factor of the rate)."""
        world = self.world
        parts.train_mode(self.objective.model)
        # Dropout is drawn anew from here, so that a step does not depend on those before it.
        torch.manual_seed(hash((self.recipe.seed, step, world.rank)))
        tokens = world.sum(torch.tensor(float(sum(b.tokens for b in batches)), device=world.device)).item()
        factor = self.rate.set(step)
        self.optimizer.zero_grad(set_to_none=True)
        finite = True
        for number, batch in enumerate(batches):
            moved = batch.to(world.device)
            with world.accumulating(self.module, more=number + 1 < len(batches)):
                with self._autocast():
                    losses: Losses = self.module(moved)
                scaled: Tensor = self.scaler.scale(losses.total * (world.scale / tokens))
                torch.autograd.backward(scaled)
            finite = finite and bool(losses.total.isfinite())
            tally.add(batch, losses)
        self.scaler.unscale_(self.optimizer)
        norm = _norm(self.trained, self.recipe.optimizer.clip)
        finite = finite and (self.scaler.is_enabled() or math.isfinite(norm))  # the scaler expects such gradients
        if world.any(not finite):
            where = write_culprit(self.folder / "culprit", step, world.rank, batches, self.feed.tokenizer)
            raise Florence2Error(
                f"the loss of step {step + 1} is not a finite number; its batch is in {where}. Nothing of it was "
                "learned. Look at the data there, lower optimizer.lr, use bf16 or fp32; --resume goes on from the last "
                "snapshot"
            )
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update(self.objective.model, step)
        return norm, factor

    def _validate(self, step: int) -> None:
        recipe, doing, notes = self.recipe, partial(self._tell, "doing"), self.folder / "best.json"
        with self._averaged():
            module = self.module if self.world.shards else self.objective
            figures = self.validation.losses(module, self.world, self._autocast, doing)
            if recipe.validation.answers:
                if self.world.shards:
                    raise ConfigError(
                        "validation.answers needs whole weights in one process, which fsdp has not; use ddp"
                    )
                if self.world.leads:
                    figures |= self.validation.answers(self.checkpoint, doing)
                self.world.wait()
            self.figures = figures
            best = self.world.any(self.world.leads and self._is_best(figures))
            if best:
                self._export(self.folder / "best")
            if best and self.world.leads:
                self.best = figures[recipe.validation.best]
                write_durably(
                    notes, json.dumps([*_bests(notes, step - 1), {"step": step, "figures": figures}], indent=1)
                )
        self._tell("validated", Validated(step, figures, best))

    # Behind the last step

    def _finish(self, step: int) -> Finished:
        self.frozen.verify(self.objective.model)
        made = None
        if step == self.steps:
            with self._averaged():
                made = self._export(self.folder / ("adapter" if self.recipe.lora else "model"))
        finished = Finished(self.folder, step, self.steps, made, self.figures)
        self._tell("finished", finished)
        return finished

    def _export(self, folder: Path) -> Path:
        """The model as it is now as a checkpoint that anybody can load, or its adapter."""
        checkpoint = self.checkpoint
        if self.recipe.lora is not None:
            if self.world.leads:
                save_adapter(checkpoint.model, folder, base=checkpoint.source, overwrite=True)
        elif self.world.shards:
            _save_gathered(self.module, checkpoint, folder, self.world)
        elif self.world.leads:
            checkpoints.save(checkpoint, folder, overwrite=True)
        return folder

    # Small things

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """The model with the averaged weights, where the recipe has an average."""
        with contextlib.nullcontext() if self.average is None else self.average.in_place(self.objective.model):
            yield

    def _autocast(self) -> contextlib.AbstractContextManager[None]:
        if self.precision is torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.world.device.type, self.precision)

    def _is_best(self, figures: dict[str, float]) -> bool:
        name = self.recipe.validation.best
        if name not in figures:
            raise ConfigError(f"validation.best is {name!r}; the figures of this run are {', '.join(sorted(figures))}")
        smaller = name.endswith(("loss", "CER", "WER"))
        return self.best is None or (figures[name] < self.best if smaller else figures[name] > self.best)

    def _tell(self, event: str, *said: Any) -> None:
        for watcher in self.watchers:
            getattr(watcher, event)(*said)

    @contextlib.contextmanager
    def _until_terminated(self) -> Iterator[None]:
        """SIGTERM, and the first Ctrl-C, end the run after the present step."""

        def ask(number: int, frame: FrameType | None) -> None:
            self._stop = True
            signal.signal(signal.SIGINT, signal.default_int_handler)

        try:
            before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
        except ValueError:  # not in the main thread: whoever runs us there has handlers of its own
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _Tally:
    """Losses since the last report."""

    def __init__(self, tasks: tuple[str, ...], world: World) -> None:
        self.tasks, self.world = tasks, world
        self._clear()

    def _clear(self) -> None:
        self.sums = torch.zeros(2, len(self.tasks), device=self.world.device)
        self.images = 0
        self.skipped: list[str] = []
        self.since = time.monotonic()

    def add(self, batch: Batch, losses: Losses) -> None:
        self.sums += torch.stack([losses.per_task, losses.tokens])
        self.images += batch.images
        self.skipped += [reason for sample in batch.samples for reason in sample.skipped]

    def report(self, step: int, lr: float, norm: float) -> Progressed:
        """All processes call it together."""
        loss, tokens = (row.tolist() for row in self.world.sum(self.sums))
        seconds = time.monotonic() - self.since
        report = Progressed(
            step=step,
            loss=sum(loss) / max(1.0, sum(tokens)),
            tasks={name: loss[i] / tokens[i] for i, name in enumerate(self.tasks) if tokens[i]},
            lr=lr,
            norm=norm,
            images_per_second=self.images * self.world.size / seconds,
            tokens_per_second=sum(tokens) / seconds,
            skipped=tuple(self.skipped),
        )
        self._clear()
        return report


def _bests(notes: Path, step: int) -> list[dict[str, Any]]:
    """The best models up to a step, one better than the other; what lies behind a snapshot happens again."""
    if not notes.is_file():
        return []
    return [best for best in json.loads(notes.read_text()) if best["step"] <= step]


def size_at(recipe: Recipe, steps: int, usual: tuple[int, int], step: int) -> tuple[int, int]:
    """(height, width) of the photos in step ``step``."""
    for stage in recipe.resolution:
        if step < stage.until * steps:
            return stage.pixels
    return recipe.resolution[-1].pixels if recipe.resolution else usual


def _norm(parameters: list[nn.Parameter], clip: float) -> float:
    norm = nn.utils.clip_grad_norm_(parameters, clip or math.inf)
    whole = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    return float(whole.item())


def precision_of(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if bf16 else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


def _compile(model: Florence2Model) -> None:
    """The stacks, in place: names of parameters stay."""
    for module in (model.vision, model.text.encoder, model.text.decoder):
        module.compile()


def _tokenizer(checkpoint: Checkpoint) -> Any:
    if checkpoint.tokenizer is None:
        raise ConfigError(f"{checkpoint.source} holds no tokenizer; copy tokenizer.json of its origin into the folder")
    return checkpoint.tokenizer


def _check_same(old: dict[str, Any], recipe: Recipe, folder: Path) -> None:
    new = json.loads(json.dumps(recipe.to_dict()))
    changed = [
        f"{path}: {before!r} → {after!r}"
        for path, before, after in strict.differences(old, new)
        if not any(path == free or path.startswith(f"{free}.") for free in FREE_TO_CHANGE)
    ]
    if changed:
        raise ConfigError(
            f"the run in {folder} began with another recipe ({'; '.join(changed[:3])}); "
            "give that one, or another output"
        )


def _save_gathered(module: nn.Module, checkpoint: Checkpoint, folder: Path, world: World) -> None:
    """Collects sharded weights in the leading process and saves them as a plain model."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    whole = get_model_state_dict(module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if world.leads:
        plain = build(checkpoint.config)
        plain.load_state_dict({name.removeprefix("model."): value for name, value in whole.items()}, assign=True)
        checkpoints.save(Checkpoint(plain, checkpoint.tokenizer, checkpoint.config), folder, overwrite=True)
    world.wait()
