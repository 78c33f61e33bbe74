"""The image encoder of BASE in one number format beside another, both ours, in turn in one process.

    python benchmarks/formats.py int8 bfloat16
    python benchmarks/formats.py int8 bfloat16 -o benchmarks/results/formats-int8

One photo of 768 px of noise, random weights. Beside the times stands how far the image's tokens are from those in
float32, as a share of their size; what that costs in answers is told by ``florence2 bench --drift``.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
from pathlib import Path

import torch
from scripted import report

from florence2 import Florence2
from florence2.model import Florence2Model
from florence2.speed import random_weights, stages, tables
from florence2.speed.timing import Stage, take_turns

FORMATS = ("float32", "bfloat16", "int8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("dtype", choices=FORMATS)
    parser.add_argument("beside", choices=FORMATS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("-o", "--output", type=Path)
    a = parser.parse_args()
    pixels = torch.randn(1, 3, 768, 768, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as temporary, torch.inference_mode():
        folder = random_weights.write("base", Path(temporary) / "random")

        def load(dtype: str) -> Florence2Model:
            module: Florence2Model = Florence2.from_pretrained(folder, device="cpu", dtype=dtype).engine.module
            return module

        exact = load("float32").encode_image(pixels)
        models = {dtype: load(dtype) for dtype in (a.dtype, a.beside)}
        inputs = {dtype: pixels.to(model.text.logits_bias.dtype) for dtype, model in models.items()}
        apart = {
            dtype: ((model.encode_image(inputs[dtype]).float() - exact).norm() / exact.norm()).item()
            for dtype, model in models.items()
        }
        encoders = {
            dtype: [Stage(stages.IMAGE, functools.partial(model.encode_image, inputs[dtype]))]
            for dtype, model in models.items()
        }
        (found,) = take_turns(encoders, a.rounds, torch.device("cpu"), warm=2)
    medians = {dtype: statistics.median(seconds) for dtype, seconds in found.seconds.items()}
    result = {
        "machine": tables.machine(torch.device("cpu")),
        "seconds": medians,
        "least": {dtype: min(seconds) for dtype, seconds in found.seconds.items()},
        "times_faster": medians[a.beside] / medians[a.dtype],
        "from_float32": apart,
    }
    report(result, a.output)


if __name__ == "__main__":
    main()
