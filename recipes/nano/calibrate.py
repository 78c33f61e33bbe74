"""Calibrates the scores of a checkpoint on the training photos that course.py holds out, and stores them beside it.

    python recipes/nano/calibrate.py CHECKPOINT DATA RUN

RUN/held-out gets the packs of these photos, RUN/held-out-eval the run of ``florence2 evaluate`` on them: the same as

    florence2 evaluate --model CHECKPOINT -b packs --data RUN/held-out -o RUN/held-out-eval
    florence2 calibrate RUN/held-out-eval -o CHECKPOINT
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
from pathlib import Path

from course import held_out

from florence2 import Florence2, checkpoints
from florence2.data import read, write
from florence2.evaluation import runner
from florence2.evaluation.answerers import Ours
from florence2.evaluation.benchmarks import find
from florence2.evaluation.calibrate import fit_run
from florence2.evaluation.runner import Plan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("run", type=Path)
    a = parser.parse_args()
    packs, folder = a.run / "held-out", a.run / "held-out-eval"
    if not packs.exists():
        records = read(a.data / "train", "packs")
        write((record for n, record in enumerate(records) if held_out(n)), packs, "packs")
    benchmarks, _ = runner.possible(find("packs"), packs)
    plan = Plan(benchmarks=tuple(benchmarks), data=packs)
    loaded = dataclasses.replace(checkpoints.load(a.checkpoint), calibration=None)
    shutil.rmtree(folder, ignore_errors=True)  # the answers of earlier weights
    runner.run(plan, Ours(Florence2(loaded)), folder, lambda *state: print(*state, end="\r"))
    calibration = fit_run(folder, find)
    for task, figures in calibration.notes["tasks"].items():
        print(task, figures)
    for task, why in calibration.notes.get("left out", {}).items():
        print(f"{task} keeps its scores: {why}")
    print(calibration.save(a.checkpoint))


if __name__ == "__main__":
    main()
