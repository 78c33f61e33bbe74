"""One of two processes of a distributed run: FOLDER NAME ddp|fsdp|silent STOP_AT. "silent" exchanges no gradients."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from torch import nn

from florence2.training import Watcher, train
from florence2.training.objective import Objective
from florence2.training.world import World
from tests.training.test_distributed import recipe


class Stops(Watcher):
    def __init__(self, step: int) -> None:
        self.step = step

    def stepped(self, step: int) -> None:
        if step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def unwrapped(world: World, objective: Objective) -> nn.Module:
    return objective


def main() -> None:
    folder, name, strategy, stop_at = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    if strategy == "silent":
        World.wrap = unwrapped  # type: ignore[method-assign]
    watchers = [Stops(stop_at)] if stop_at else []
    chosen = "ddp" if strategy == "silent" else strategy
    train(recipe(folder, name, distributed=chosen), resume=True, watchers=watchers)


if __name__ == "__main__":
    main()
