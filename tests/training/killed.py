"""Trains in child processes that kill themselves at random moments, until the run is done.

    python -m tests.training.killed FOLDER NAME KILLS

A moment is a step of the optimiser, or something that writes: bringing a file to the disk, renaming, deleting. Each
child dies in front of one of them. Prints one line of JSON: where they died.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from florence2.training import train
from florence2.training.trainer import Trainer
from tests.training.test_resume import rich


def watched(name: str, function: Callable[..., Any], left: list[int], told: int) -> Callable[..., Any]:
    """The same function, that is the end of the process where the count runs out."""

    def call(*arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            os.write(told, name.encode())
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)

    return call


def child(folder: Path, name: str, moments: int | None, told: int) -> None:
    left = [sys.maxsize if moments is None else moments]
    for owner, function in ((os, "fsync"), (os, "replace"), (shutil, "rmtree"), (Trainer, "_step")):
        setattr(owner, function, watched(function, getattr(owner, function), left, told))
    train(rich(folder, name), resume=True, watchers=())


def main() -> None:
    folder, name, kills = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    rng, died, finished = random.Random(7), [], False
    while len(died) < kills or not finished:
        if finished:  # it got through before it was killed often enough: once more
            shutil.rmtree(folder / name)
        reader, writer = os.pipe()
        moment = rng.randrange(3, 50) if len(died) < kills else None
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                child(folder, name, moment, writer)
                code = 0
            finally:
                os._exit(code)
        os.close(writer)
        where = os.read(reader, 100).decode()
        os.close(reader)
        _, status = os.waitpid(pid, 0)
        finished = status == 0
        if os.WIFSIGNALED(status):
            snapshots = sorted(p.name for p in (folder / name / "snapshots").glob("step-*") if "." not in p.name)
            died.append(f"{moment}: {where} after {snapshots[-1] if snapshots else 'nothing'}")
        elif not finished:
            raise SystemExit("a child failed instead of being killed")
    print(json.dumps({"kills": len(died), "moments": died}))


if __name__ == "__main__":
    main()
