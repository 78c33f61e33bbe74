"""The table of the card from a run of ``florence2 evaluate``: score with its interval, the same without looking.

python recipes/nano/card.py RUN/eval
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

ROWS: tuple[tuple[str, str, str, str], ...] = (
    ("caption, Flickr8k", "CIDEr", "packs/caption@flickr8k", "CIDEr"),
    ("caption, Flickr8k and COCO", "CIDEr", "packs/caption", "CIDEr"),
    ("phrases of people, Flickr8k", "accuracy at IoU 0.5", "packs/phrases", "accuracy"),
    ("phrases within whole captions, Flickr8k", "accuracy at IoU 0.5", "packs/captions-grounded", "accuracy"),
    ("templated expressions, COCO and VOC", "accuracy at IoU 0.5", "packs/references", "accuracy"),
    ("detection, COCO", "AP", "packs/detection@coco", "AP"),
    ("detection, COCO", "AP50 of person", "packs/detection@coco", "person"),
    ("detection, COCO and VOC", "AP", "packs/detection", "AP"),
    ("given labels, two absent ones asked", "AP", "packs/closed", "AP"),
    ("given labels, two absent ones asked", "boxes per absent class", "packs/closed", "absent-boxes"),
    ("proposals", "AR100", "packs/proposals", "AR100"),
    ("region to category", "top-1", "packs/region-category", "accuracy"),
    ("region to category", "macro F1", "packs/region-category", "macroF1"),
    ("region to outline", "mIoU", "packs/region-segmentation", "mIoU"),
    ("templated expression to outline", "mIoU", "packs/referring-segmentation", "mIoU"),
    ("region to outline, composed scenes", "mIoU", "scenes/region-segmentation", "mIoU"),
    ("templated expression to outline, composed scenes", "mIoU", "scenes/referring-segmentation", "mIoU"),
    ("words, crops", "exact without case", "packs/words", "accuracy-nocase"),
    ("printed lines", "exact without case", "scenes/lines", "accuracy-nocase"),
    ("text with regions", "F1", "packs/text-regions", "F1"),
    ("text of a region", "exact without case", "packs/region-text", "accuracy-nocase"),
    ("questions of people (OK-VQA)", "exact", "packs/questions", "EM"),
    ("templated questions", "exact", "packs/questions-templated", "EM"),
)
"""(what is measured, its figure in words, the benchmark, the name of the figure there)"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="folder of florence2 evaluate, with report.json")
    found = json.loads((parser.parse_args().run / "report.json").read_text())["benchmarks"]
    print("| measure | figure | score, 95 % interval | blind |\n| --- | --- | --- | --- |")
    for what, figure, benchmark, name in ROWS:
        if benchmark in found:
            print(f"| {what} | {figure} | {score(found[benchmark], name)} | {blind(found[benchmark], name)} |")
    print("\nExpected calibration error, before → after:")
    for name, one in found.items():
        if (told := one["calibration"]) and "uncalibrated" in told:
            print(f"  {name}: {told['uncalibrated']['ECE']:.3f} → {told['ECE']:.3f} ({told['count']} judged)")


def score(one: dict, name: str) -> str:
    if name not in one["figures"]:
        return number(one["classes"].get(name, {}).get("AP50"))
    borders = one["intervals"].get(name)
    return number(one["figures"][name]) + (f" [{number(borders[0])}, {number(borders[1])}]" if borders else "")


def blind(one: dict, name: str) -> str:
    return number((one["blind"] or {}).get(name))


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    main()
