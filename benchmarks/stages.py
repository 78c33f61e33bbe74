"""How long each stage takes, beside transformers' native port and beside the limit of the machine, in one run.

    python benchmarks/stages.py                       BASE at 768 px, fp32, random weights of the true size
    python benchmarks/stages.py --preset nano --rounds 9

Both sides do the same work on the same machine in turn: ours, theirs, ours, theirs; the medians are printed, the
spread and the machine are written beside them. The floor is the number of operations of a stage over the rate
of a large matrix product measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from florence2 import config as presets
from florence2.checkpoints import configs
from florence2.config import Florence2Config
from florence2.model import Florence2Model, initialise

PROMPT = 12
"""Tokens of the prompt."""
ANSWER = 20
"""Decoder steps that are timed."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=["nano", "base", "large"], default="base")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds; one more warms up")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()

    config: Florence2Config = getattr(presets, arguments.preset.upper())
    dtype = getattr(torch, arguments.dtype)
    torch.manual_seed(0)
    sides = {"ours": our_stages(config, dtype), "transformers": their_stages(config, dtype)}
    floors = floor_seconds(config, dtype)
    with torch.inference_mode():
        seconds = interleaved(sides, arguments.rounds)
    report(arguments, config, seconds, floors)


def our_stages(config: Florence2Config, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    model = initialise(Florence2Model(config)).eval().to(dtype)
    pixels = torch.randn(1, 1, 3, *config.image.size, dtype=dtype)
    ids = torch.randint(4, 1000, (1, PROMPT))
    with torch.inference_mode():
        image_tokens = model.encode_image(pixels)
        memory = model.encode(image_tokens, ids)

    def decode(beams: int) -> None:
        cache = model.new_cache(beams, ANSWER)
        step = torch.full((beams, 1), 2)
        for _ in range(ANSWER):
            step = model.decode(step, memory, cache)[:, -1:].argmax(-1)

    return {
        "image encoder": lambda: model.encode_image(pixels),
        "prompt encoder": lambda: model.encode(image_tokens, ids),
        f"{ANSWER} tokens, greedy": lambda: decode(1),
        f"{ANSWER} tokens, 3 rows": lambda: decode(3),
    }


def their_stages(config: Florence2Config, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    from transformers import Florence2Config as NativeConfig
    from transformers import Florence2ForConditionalGeneration
    from transformers.cache_utils import DynamicCache, EncoderDecoderCache
    from transformers.modeling_outputs import BaseModelOutput

    values = configs.write(config, "native", "float32", image_token_id=config.text.vocab_size - 1)["config.json"]
    native = Florence2ForConditionalGeneration(NativeConfig(**values)).eval().to(dtype)
    language = native.model.language_model
    pixels = torch.randn(1, 3, *config.image.size, dtype=dtype)
    ids = torch.randint(4, 1000, (1, PROMPT))
    with torch.inference_mode():
        features = native.model.get_image_features(pixels).pooler_output
        embeds = torch.cat([features, language.get_input_embeddings()(ids)], 1)
        states = language.encoder(inputs_embeds=embeds).last_hidden_state

    def decode(beams: int) -> None:
        past = EncoderDecoderCache(DynamicCache(), DynamicCache())
        step = torch.full((beams, 1), 2)
        encoded = BaseModelOutput(last_hidden_state=states.expand(beams, -1, -1))
        for _ in range(ANSWER):
            output = language(encoder_outputs=encoded, decoder_input_ids=step, past_key_values=past, use_cache=True)
            past = output.past_key_values
            step = native.lm_head(output.last_hidden_state[:, -1:]).argmax(-1)

    return {
        "image encoder": lambda: native.model.get_image_features(pixels),
        "prompt encoder": lambda: language.encoder(inputs_embeds=embeds),
        f"{ANSWER} tokens, greedy": lambda: decode(1),
        f"{ANSWER} tokens, 3 rows": lambda: decode(3),
    }


def floor_seconds(config: Florence2Config, dtype: torch.dtype) -> dict[str, float]:
    """Operations over the measured matrix rate for the encoders, bytes over the measured read rate for decoding."""
    flops, read = matrix_rate(dtype), read_rate()
    text = config.text
    image = count_flops(config)
    length = configs.image_tokens(config) + PROMPT
    per_token = text.encoder_layers * (8 * text.d_model**2 + 4 * text.d_model * text.encoder_ffn_dim)
    attention = text.encoder_layers * 4 * length * text.d_model
    cross = text.decoder_layers * 4 * text.d_model**2
    prompt = length * (per_token + attention + cross)
    layer = 6 * text.d_model**2 + 2 * text.d_model * text.decoder_ffn_dim  # cross keys and values are there already
    weights = text.decoder_layers * layer + text.vocab_size * text.d_model
    keys = text.decoder_layers * 2 * length * text.d_model
    step = (weights + keys) * dtype.itemsize / read
    return {
        "image encoder": image / flops,
        "prompt encoder": prompt / flops,
        f"{ANSWER} tokens, greedy": ANSWER * step,
        f"{ANSWER} tokens, 3 rows": ANSWER * step,
    }


def count_flops(config: Florence2Config) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model = Florence2Model(config)
        pixels = torch.zeros(1, 1, 3, *config.image.size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.encode_image(pixels)
    return int(counter.get_total_flops())


def matrix_rate(dtype: torch.dtype, n: int = 3072) -> float:
    """Operations per second of a large square product, the best of five."""
    a, b = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype)
    return 2 * n**3 / min(timed(lambda: a @ b) for _ in range(5))


def read_rate(count: int = 2**27) -> float:
    """Bytes per second of a sum over a large array, the best of five."""
    x = torch.ones(count)
    return 4 * count / min(timed(lambda: x.sum()) for _ in range(5))


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def interleaved(sides: dict[str, dict[str, Callable[[], object]]], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds per stage and side; the sides take turns within each stage, the first round is thrown away."""
    seconds: dict[str, dict[str, list[float]]] = {side: {} for side in sides}
    for stage in next(iter(sides.values())):
        for side, stages in sides.items():
            stages[stage]()
            seconds[side][stage] = []
        for _ in range(rounds):
            for side, stages in sides.items():
                seconds[side][stage].append(timed(stages[stage]))
    return seconds


def report(
    arguments: argparse.Namespace,
    config: Florence2Config,
    seconds: dict[str, dict[str, list[float]]],
    floors: dict[str, float],
) -> None:
    rows = []
    for stage, floor in floors.items():
        ours, theirs = (seconds[side][stage] for side in ("ours", "transformers"))
        mine, peer = statistics.median(ours), statistics.median(theirs)
        rows.append(
            {
                "stage": stage,
                "ours_ms": 1000 * mine,
                "transformers_ms": 1000 * peer,
                "floor_ms": 1000 * floor,
                "times_faster": peer / mine,
                "share_of_floor": floor / mine,
                "ours_spread_ms": [1000 * min(ours), 1000 * max(ours)],
                "transformers_spread_ms": [1000 * min(theirs), 1000 * max(theirs)],
            }
        )
    title = f"{config.name}, {arguments.dtype}, {config.image.size[0]} px, {torch.get_num_threads()} threads"
    table = Table("stage", "ours ms", "transformers ms", "floor ms", "times faster", "share of floor", title=title)
    for row in rows:
        table.add_row(
            row["stage"],
            f"{row['ours_ms']:.1f}",
            f"{row['transformers_ms']:.1f}",
            f"{row['floor_ms']:.1f}",
            f"{row['times_faster']:.2f}",
            f"{row['share_of_floor']:.0%}",
        )
    Console().print(table)
    machine = {"processor": processor(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / f"stages-{arguments.preset}-{arguments.dtype}.json"
    path.write_text(json.dumps({"title": title, "machine": machine, "rows": rows}, indent=2) + "\n")
    print(path)


def processor() -> str:
    information = Path("/proc/cpuinfo")
    names = (
        [line for line in information.read_text().splitlines() if "model name" in line] if information.exists() else []
    )
    return names[0].split(":")[1].strip() if names else platform.processor()


if __name__ == "__main__":
    main()
