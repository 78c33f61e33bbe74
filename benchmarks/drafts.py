"""Grounding a caption with and without guesses, at the size of BASE, where the answer is the caption's own phrases.

    python benchmarks/drafts.py --dtype float32
    python benchmarks/drafts.py --dtype int8 -o benchmarks/results/drafts-int8

The weights are random and a script decides what is said (``scripted``). Both ways must give the same tokens. Image and
prompt are encoded before: the figures are of the answer alone.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch
from scripted import Scripted, report, script

from florence2 import checkpoints
from florence2.checkpoints.formats import choose
from florence2.config import BASE
from florence2.generation import Generated, generate, policy_for
from florence2.generation.drafts import FromText
from florence2.language import grammar, tasks
from florence2.model import Florence2Model, initialise, packing
from florence2.model.int8 import quantize
from florence2.speed import tables
from florence2.speed.timing import timed

CAPTION = (
    "A young girl in a pink dress is holding a small brown teddy bear while an old woman with white hair sits on a "
    "wooden chair"
)
PHRASES = ("A young girl", "a pink dress", "a small brown teddy bear", "an old woman", "white hair", "a wooden chair")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "int8"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("-o", "--output", type=Path)
    a = parser.parse_args()
    torch.manual_seed(0)
    tokenizer = checkpoints.load(None, device="cpu").tokenizer
    assert tokenizer is not None
    model = initialise(Florence2Model(BASE)).eval().half().float()  # as published: float16 holds the weights
    model = model.to(choose(a.dtype, torch.device("cpu"), model.state_dict()).dtype)
    if a.dtype == "int8":
        model = quantize(model)
    plan = packing.exact(torch.device("cpu"), model.text.shared.weight.dtype)
    if plan is not None and a.dtype != "int8":
        packing.pack(model, plan)
    task = tasks.get("<CAPTION_TO_PHRASE_GROUNDING>")
    policy, rules = policy_for(task, BASE), grammar.compile(task.grammar, tokenizer)
    scripted = Scripted(model, script(tokenizer, PHRASES, apart=100))
    draft = FromText(CAPTION, tokenizer.encode_plain, tokenizer.decode, lambda id: tokenizer.location_of(id) is None)
    with torch.inference_mode():
        tokens = torch.randn(1, 577, BASE.text.d_model, dtype=model.text.logits_bias.dtype)
        memory = model.encode(tokens, torch.randint(5, 7000, (1, 40)))

        def answer(guess: FromText | None) -> Generated:
            scripted.steps = 0
            (found,) = generate(scripted, memory, policy, rules, guess)  # type: ignore[arg-type]
            return found

        plain, many = answer(None), scripted.steps
        drafted, few = answer(draft), scripted.steps
        assert plain.ids == drafted.ids == tuple(scripted.script), "the guesses changed the answer"
        times: dict[str, list[float]] = {"without": [], "with": []}
        for _ in range(a.rounds):
            times["without"].append(timed(lambda: answer(None)))
            times["with"].append(timed(lambda: answer(draft)))
    without, with_guesses = (statistics.median(values) for values in times.values())
    result = {
        "machine": tables.machine(torch.device("cpu")),
        "dtype": a.dtype,
        "words": len(CAPTION.split()),
        "tokens": len(plain.ids) - 2,
        "steps": {"without": many, "with": few},
        "seconds": {"without": without, "with": with_guesses},
        "times_faster": without / with_guesses,
    }
    report(result, a.output)


if __name__ == "__main__":
    main()
