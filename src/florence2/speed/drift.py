"""What a number format costs in accuracy: the same questions to the exact model and to the fast one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from florence2.evaluation import benchmarks, runner
from florence2.evaluation.answerers import Ours
from florence2.pipeline import Florence2
from florence2.results import Answer

HEAD = ("", "figure", "exact", "fast", "same answers")


@dataclass(frozen=True)
class Drift:
    benchmark: str
    figure: str
    """The main figure of the benchmark."""
    exact: float | None
    fast: float | None
    same: float
    """Share of the answers that are the same, scores aside."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure(
    exact: Florence2, fast: Florence2, data: Path, limit: int, watch: Callable[[str], None] = lambda _: None
) -> list[Drift]:
    """All benchmarks that a folder of annotated packs has questions for, at most ``limit`` questions of each.

    Raises DataError where there are none.
    """
    chosen, _ = runner.possible(benchmarks.find("packs"), data)
    found = []
    for benchmark in chosen:
        watch(benchmark.title)
        plan = runner.Plan(benchmarks=(benchmark,), data=data, limit=limit)
        sides = []
        for model in (exact, fast):
            with tempfile.TemporaryDirectory() as folder:
                sides += runner.run(plan, Ours(model), Path(folder), calibration=model.calibration)
        first, second = (side.measured.figures.get(benchmark.main) for side in sides)
        same = agreement(*(side.answers for side in sides))
        found.append(Drift(benchmark.name, benchmark.main, first, second, same))
    return found


def agreement(ours: Sequence[Answer], others: Sequence[Answer]) -> float:
    """Share of equal answers, whatever their scores."""
    pairs = list(zip(ours, others, strict=True))
    same = [content(a.to_dict()) == content(b.to_dict()) for a, b in pairs]
    return same.count(True) / len(same)


def content(value: Any) -> Any:
    """An answer as plain data, without its scores."""
    if isinstance(value, dict):
        return {k: content(v) for k, v in value.items() if not k.endswith(("score", "confidence")) and k != "raw"}
    return [content(item) for item in value] if isinstance(value, list) else value


def cells(one: Drift) -> tuple[str, ...]:
    exact, fast = ("-" if value is None else f"{value:.3f}" for value in (one.exact, one.fast))
    return (one.benchmark, one.figure, exact, fast, f"{one.same:.0%}")
