"""How long a step of training takes, beside transformers' native port and beside the limit of the machine, in one run.

    OMP_NUM_THREADS=2 python benchmarks/training.py        BASE at 384 px, random weights, all rows
    python benchmarks/training.py --preset nano --size 224 --images 8 --rounds 9

Both sides start from the same weights, see the same photos, prompts and answers, drop out at the same rates, and take
steps with the same fused AdamW; before the first step their losses must agree. Each side is a process of its own, and
they take turns: ours, theirs with SDPA, theirs with its eager attention. Ours is what the trainer does: its loss
(``florence2.training.Objective``), which encodes a photo once for all its answers, where the port needs the photo once
per answer, and its handling of memory. The port is first what it is when one calls it, then ("helped") with what a
user could find out by hand: the same handling of memory, and in fp32 ``torch.set_float32_matmul_precision("medium")``,
which lets PyTorch take oneDNN for float32 products, in bf16 where the processor has units for that.

The floor is the number of operations of our step over the rate of a large matrix product measured in the same run. Peak
memory is that of a process that does nothing but make three steps.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from florence2 import config as presets
from florence2.checkpoints import configs, layouts
from florence2.config import Florence2Config
from florence2.model import Florence2Model
from florence2.model.linear import linear
from florence2.speed.tables import processor
from florence2.speed.timing import timed
from florence2.training import memory
from florence2.training.batch import Batch, Lesson, Sample, collate
from florence2.training.objective import Objective, Pixels

PROMPT, ANSWER = (8, 12), (12, 28)
"""Tokens: the shortest and the longest."""
SIDES = ("ours", "transformers sdpa", "transformers eager")


@dataclass(frozen=True)
class Setting:
    """One row of the table."""

    name: str
    autocast: bool
    targets: int = 1
    """Answers per photo."""
    helped: bool = False
    """The port with the settings that it does not come with."""


SETTINGS = (
    Setting("fp32", autocast=False),
    Setting("bf16 autocast", autocast=True),
    Setting("fp32, 4 answers per photo", autocast=False, targets=4),
    Setting("bf16 autocast, 4 answers per photo", autocast=True, targets=4),
    Setting("fp32, transformers helped", autocast=False, helped=True),
    Setting("bf16 autocast, transformers helped", autocast=True, helped=True),
)


@dataclass(frozen=True)
class Step:
    """What is timed: a forward pass that gives the loss, and who takes the step."""

    module: nn.Module
    loss: Callable[[], Tensor]
    optimizer: torch.optim.Optimizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=["nano", "base", "large"], default="base")
    parser.add_argument("--size", type=int, default=384, help="pixels a side")
    parser.add_argument("--images", type=int, default=2, help="photos of a step")
    parser.add_argument("--rounds", type=int, default=7, help="counted rounds; two more warm up")
    parser.add_argument("--rows", type=int, nargs="*", default=range(len(SETTINGS)), help="of the table, from 0")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--worker", help=argparse.SUPPRESS)  # whose steps a process makes when it is told to
    arguments = parser.parse_args()
    config: Florence2Config = getattr(presets, arguments.preset.upper())
    if arguments.worker:
        work(arguments, config)
        return
    rows = []
    for index in arguments.rows:
        setting = SETTINGS[index]
        wall, processor_seconds, losses = interleaved(arguments, index)
        assert max(losses.values()) - min(losses.values()) < 1e-4, losses
        peaks = {side: peak(arguments, side, index) for side in SIDES}
        operations = count_operations(config, draw(config, arguments, setting.targets))
        floor = operations / matrix_rate(torch.bfloat16 if setting.autocast else torch.float32)
        rows.append(row(setting, arguments.images, wall, processor_seconds, peaks, losses, operations, floor))
        print(json.dumps(rows[-1]), flush=True)
    report(arguments, config, rows)


class Worker:
    """A process that makes steps of one side. It answers every line it is given with one line."""

    def __init__(self, arguments: argparse.Namespace, name: str, index: int) -> None:
        call = [sys.executable, __file__, "--preset", arguments.preset, "--size", str(arguments.size)]
        call += ["--images", str(arguments.images), "--rows", str(index), "--worker", name]
        self.process = subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, what: str, side: str) -> list[float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{what} {side}\n")
        self.process.stdin.flush()
        return [float(number) for number in self.process.stdout.readline().split()]

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def work(arguments: argparse.Namespace, config: Florence2Config) -> None:
    """The other end of :class:`Worker`: "loss SIDE" → the loss, "step SIDE" → seconds of the wall and of the processor,
    "peak SIDE" → bytes.
    """
    setting = SETTINGS[arguments.rows[0]]
    ours = arguments.worker == "ours"
    if setting.helped and not ours and not setting.autocast:
        torch.set_float32_matmul_precision("medium")
    with memory.kept() if ours or setting.helped else contextlib.nullcontext():
        native, mine = same_weights(config)
        model = mine if ours else native
        del native, mine
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
        batch = collate(draw(config, arguments, setting.targets), ("",), config.text.pad_id)
        for number, line in enumerate(sys.stdin):
            what, side = line.strip().split(" ", 1)
            step = our_step(model, optimizer, batch) if ours else their_step(model, optimizer, batch, config, side)
            torch.manual_seed(number)
            if what == "step":
                begun = time.process_time()
                wall = timed(lambda step=step: take(step, setting.autocast))  # type: ignore[misc]
                print(wall, time.process_time() - begun, flush=True)
            elif what == "loss":
                print(first_loss(step), flush=True)
            else:
                print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)


def interleaved(
    arguments: argparse.Namespace, index: int
) -> tuple[dict[str, list[float]], dict[str, list[float]], dict[str, float]]:
    """Of each side: seconds of each step, by the wall and by the processor, and the loss before the first step.

    The sides take turns, the first rounds warm up.
    """
    workers = {name: Worker(arguments, name, index) for name in ("ours", "transformers")}
    losses = {side: workers[side.split()[0]].ask("loss", side)[0] for side in SIDES}
    wall: dict[str, list[float]] = {side: [] for side in SIDES}
    processor: dict[str, list[float]] = {side: [] for side in SIDES}
    for number in range(2 + arguments.rounds):
        for side in SIDES:
            seconds = workers[side.split()[0]].ask("step", side)
            if number >= 2:
                wall[side].append(seconds[0])
                processor[side].append(seconds[1])
    for worker in workers.values():
        worker.end()
    return wall, processor, losses


def peak(arguments: argparse.Namespace, side: str, index: int) -> float:
    """Peak resident bytes of a fresh process that makes three steps of one side."""
    worker = Worker(arguments, side.split()[0], index)
    for _ in range(3):
        worker.ask("step", side)
    (found,) = worker.ask("peak", side)
    worker.end()
    return found


def same_weights(config: Florence2Config) -> tuple[Any, Florence2Model]:
    """(native port, ours) with equal random weights."""
    from transformers import Florence2Config as NativeConfig
    from transformers import Florence2ForConditionalGeneration

    torch.manual_seed(0)
    values = configs.write(config, "native", "float32", image_token_id=config.text.vocab_size - 1)["config.json"]
    native = Florence2ForConditionalGeneration(NativeConfig(**values))
    theirs, text, vision = native.config.text_config, config.text, config.vision
    dropouts = (theirs.dropout, theirs.attention_dropout, theirs.activation_dropout)
    assert dropouts == (text.dropout, text.attention_dropout, text.activation_dropout), dropouts
    assert native.config.vision_config.drop_path_rate == vision.drop_path
    ours = Florence2Model(config)
    translated = {layouts.translate(name, "native", "florence2"): t for name, t in native.state_dict().items()}
    _, unexpected = ours.load_state_dict({name: t.clone() for name, t in translated.items() if name}, strict=False)
    assert not unexpected, unexpected
    return native, ours


def draw(config: Florence2Config, arguments: argparse.Namespace, targets: int) -> list[Sample]:
    """Photos of noise with random questions and answers; every question about a photo is another one."""
    generator = torch.Generator().manual_seed(1)

    def ids(shortest: int, longest: int) -> tuple[int, ...]:
        length = int(torch.randint(shortest, longest + 1, (1,), generator=generator))
        # The last id stands for the places of the image in the inputs of the native port.
        words = torch.randint(4, config.text.vocab_size - 1, (length,), generator=generator).tolist()
        return (config.text.bos_id, *words[2:], config.text.eos_id)

    return [
        Sample(
            slot,
            "",
            torch.randint(0, 256, (3, arguments.size, arguments.size), generator=generator, dtype=torch.uint8),
            tuple(Lesson("", ids(*PROMPT), ids(*ANSWER)) for _ in range(targets)),
        )
        for slot in range(arguments.images)
    ]


def our_step(model: Florence2Model, optimizer: torch.optim.Optimizer, batch: Batch) -> Step:
    objective = Objective(model, first_location=model.config.text.vocab_size)
    return Step(model, lambda: objective(batch).total / batch.tokens, optimizer)


def their_step(native: Any, optimizer: torch.optim.Optimizer, batch: Batch, config: Florence2Config, side: str) -> Step:
    native.set_attn_implementation(side.split()[1])
    inputs = native_inputs(batch, config)
    return Step(native, lambda: native(**inputs).loss, optimizer)


def native_inputs(batch: Batch, config: Florence2Config) -> dict[str, Tensor]:
    """The same for the native port: a photo per answer, places for it in ``input_ids``, one matrix of labels."""
    longest = max(part.labels.shape[1] for part in batch.answers)
    labels = [nn.functional.pad(part.labels, (0, longest - part.labels.shape[1]), value=-100) for part in batch.answers]
    rows = torch.cat([part.prompt_of for part in batch.answers])
    pixels = Pixels(config.image)(batch.pixels)[:, 0]
    side = pixels.shape[-1]
    for stride in config.vision.patch_strides:
        side = -(-side // stride)
    places = torch.full((len(rows), 1 + side * side), config.text.vocab_size - 1)
    return {
        "pixel_values": pixels[batch.photo_of[rows]],
        "input_ids": torch.cat([places, batch.prompts[rows]], 1),
        "attention_mask": torch.cat([torch.ones_like(places), batch.prompt_mask[rows].long()], 1),
        "labels": torch.cat(labels),
    }


def first_loss(step: Step) -> float:
    step.module.eval()
    with torch.no_grad():
        return float(step.loss())


def take(step: Step, autocast: bool) -> None:
    step.module.train()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = step.loss()
    loss.backward()
    step.optimizer.step()
    step.optimizer.zero_grad(set_to_none=True)


def count_operations(config: Florence2Config, samples: list[Sample]) -> int:
    """Multiplications and additions of the products of our step: forward, and twice that backward."""
    from torch.utils.flop_counter import FlopCounterMode

    batch = collate(samples, ("",), config.text.pad_id)
    with torch.device("meta"):
        model = Florence2Model(config)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        tokens = model.encode_image(batch.pixels[:, None].to("meta").float())
        memory = model.encode(tokens[batch.photo_of], batch.prompts.to("meta"), batch.prompt_mask.to("meta"))
        for part in batch.answers:
            hidden = model.text.decode(part.labels.to("meta"), memory.select(part.prompt_of.to("meta")))
            model.text.project(hidden.flatten(0, 1)[: int((part.labels >= 0).sum())])
    return 3 * int(counter.get_total_flops())


def matrix_rate(dtype: torch.dtype, n: int = 3072) -> float:
    """Operations per second of a large square product, the best of five."""
    a, b = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype)
    with torch.no_grad():
        return 2 * n**3 / min(timed(lambda: linear(a, b)) for _ in range(5))


def row(
    setting: Setting,
    images: int,
    wall: dict[str, list[float]],
    processor: dict[str, list[float]],
    peaks: dict[str, float],
    losses: dict[str, float],
    operations: int,
    floor: float,
) -> dict[str, Any]:
    medians = {side: statistics.median(values) for side, values in wall.items()}
    busy = {side: statistics.median(values) for side, values in processor.items()}
    best = min(SIDES[1:], key=medians.__getitem__)
    return {
        "setting": setting.name,
        "images_per_second": {side: images / median for side, median in medians.items()},
        "best_of_transformers": best,
        "times_faster": medians[best] / medians["ours"],
        # By the seconds that the processor was busy: what else runs on the machine counts less.
        "times_faster_by_processor_time": min(busy[side] for side in SIDES[1:]) / busy["ours"],
        "peak_gigabytes": {side: value / 1e9 for side, value in peaks.items()},
        "gigaflop": operations / 1e9,
        "floor_seconds": floor,
        "share_of_floor": floor / medians["ours"],
        "losses_before_the_first_step": losses,
        "seconds": wall,
        "processor_seconds": processor,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def report(arguments: argparse.Namespace, config: Florence2Config, rows: list[dict[str, Any]]) -> None:
    title = f"{config.name}, {arguments.size} px, {arguments.images} photos a step, {torch.get_num_threads()} threads"
    heads = ["setting", "ours", "transformers sdpa", "transformers eager", "times faster", "share of floor", "memory"]
    lines = [
        [
            row["setting"],
            *(f"{row['images_per_second'][side]:.2f}" for side in SIDES),
            f"{row['times_faster']:.2f}",
            f"{row['share_of_floor']:.0%}",
            " / ".join(f"{row['peak_gigabytes'][side]:.1f}" for side in SIDES),
        ]
        for row in rows
    ]
    table = Table(*heads, title=f"{title}: photos per second, peak GB")
    for line in lines:
        table.add_row(*line)
    Console(width=140).print(table)
    import transformers

    machine = {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / f"training-{arguments.preset}.json"
    path.write_text(json.dumps({"title": title, "machine": machine, "rows": rows}, indent=2) + "\n")
    marked = [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *lines)]
    path.with_suffix(".md").write_text(f"{title}: photos per second, peak GB\n\n" + "\n".join(marked) + "\n")
    print(path)


if __name__ == "__main__":
    main()
