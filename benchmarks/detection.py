"""A whole detection as a trained model writes it, 20 objects of a name and four locations, beside transformers.

    python benchmarks/detection.py
    python benchmarks/detection.py --dtype float32 -o benchmarks/results/detection-float32

BASE at 768 px with random weights, the defaults of both sides: greedy inside the grammar here, 3 beams there, which
write 100 tokens whatever they say. Here a script decides what is said (``scripted``): only a step that may say a word
projects to the vocabulary. With --dtype auto transformers computes in float32, its default. The photo is read and
resized, encoded, answered and parsed by both; the sides take turns.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any, cast

import torch
from scripted import Scripted, report, script

from florence2 import Detections, Florence2
from florence2.speed import peer, random_weights, stages, tables
from florence2.speed.timing import Stage, take_turns

NAMES = "abcdefghijklmnopqrst"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16", "int8"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path)
    a = parser.parse_args()
    work = stages.Work()
    with tempfile.TemporaryDirectory() as temporary:
        folder = random_weights.write("base", Path(temporary) / "random")
        theirs = a.dtype if a.dtype == "bfloat16" else "float32"
        copied = Florence2.from_pretrained(folder, device="cpu", dtype=theirs)
        native = peer.load(copied, Path(temporary) / "native")
        del copied
        model = Florence2.from_pretrained(folder, device="cpu", dtype=a.dtype)
        said = script(model.tokenizer, NAMES, apart=10)
        scripted = Scripted(model.engine.module, said)
        kind = model.format
        model.engine.runtime = cast("Any", scripted)

        def call() -> Detections:
            scripted.steps = 0
            answer = model.run(work.photo, "<OD>", max_new_tokens=work.detection + 2, raw=True)
            assert isinstance(answer, Detections)
            return answer

        answer = call()
        steps = scripted.steps
        assert answer.raw is not None
        assert list(answer.raw.token_ids) == said, "the script was not followed"
        assert len(answer.objects) == len(NAMES)
        sides = {
            tables.OURS: [Stage(stages.DETECTION, call)],
            tables.PEER: peer.theirs(native, work, [stages.DETECTION]),
        }
        (found,) = take_turns(sides, a.rounds, torch.device("cpu"))
    ours, other = (statistics.median(found.seconds[side]) for side in (tables.OURS, tables.PEER))
    result = {
        "machine": tables.machine(torch.device("cpu")),
        "dtype": {"ours": kind, "transformers": theirs},
        "objects": len(NAMES),
        "tokens": len(said) - 2,
        "steps": steps,
        "seconds": {"ours": ours, "transformers": other},
        "rounds": {side: list(values) for side, values in found.seconds.items()},
        "times_faster": other / ours,
    }
    report(result, a.output)


if __name__ == "__main__":
    main()
