"""Draws the tables of benchmarks/results as one picture: how many times faster, and what share of the floor.

python benchmarks/plot.py benchmarks/results docs/pictures/speed.svg
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot

FAST, SHARE, PEER = "#0072B2", "#E69F00", "#888888"


def draw(documents: dict[str, dict[str, Any]], target: Path) -> None:
    """One panel per document: bars of the ratio to transformers, a mark where the floor of the machine would be."""
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "florence2", "font.size": 9})
    heights = [len(rated(document)) for document in documents.values()]
    figure, panels = pyplot.subplots(
        len(documents), 1, figsize=(7.2, 0.28 * sum(heights) + 0.9 * len(documents)), squeeze=False,
        gridspec_kw={"height_ratios": heights},
    )  # fmt: skip
    for axes, (name, document) in zip(panels[:, 0], documents.items(), strict=True):
        rows = rated(document)[::-1]
        places = range(len(rows))
        axes.barh(places, [row["ratio"] for row in rows], color=FAST, height=0.62, label="ours")
        axes.axvline(1, color=PEER, linewidth=1.2)
        for place, row in zip(places, rows, strict=True):
            axes.annotate(f"{row['ratio']:.2f}", (row["ratio"], place), (3, 0), textcoords="offset points", va="center")
            if row["floor"]:
                axes.plot([row["peer"] / row["floor"]] * 2, [place - 0.36, place + 0.36], color=SHARE, linewidth=2)
        axes.set_yticks(places, [row["name"] for row in rows])
        axes.set_title(name, loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xscale("log", base=2)
        axes.set_xticks([0.5, 1, 2, 4, 8, 16], ["0.5", "1", "2", "4", "8", "16"])
        axes.set_xlim(0.5, 24)
    figure.tight_layout()
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, metadata={"Date": None} if target.suffix == ".svg" else None)


def rated(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in document["rows"] if row["ratio"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("target", type=Path)
    a = parser.parse_args()
    names = ("base-float32", "base-bfloat16", "base-int8", "nano-float32")
    found = {name: a.results / f"{name}.json" for name in names}
    draw({name: json.loads(path.read_text()) for name, path in found.items() if path.exists()}, a.target)


if __name__ == "__main__":
    main()
