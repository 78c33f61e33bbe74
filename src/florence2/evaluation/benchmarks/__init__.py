"""Benchmarks as records: data set x task x prompt x metric x protocol x the paper's numbers.

find("coco-detection")          one benchmark, or several where the name stands for a group ("packs", "refcoco")
benchmark.samples(folder)       its samples
"""

from __future__ import annotations

import difflib

from florence2.errors import DataError
from florence2.evaluation.benchmarks import captions, detection, grounding, packs, questions, scenes, segmentation
from florence2.evaluation.benchmarks.records import Benchmark, Needed, Published

__all__ = ["BENCHMARKS", "Benchmark", "Needed", "Published", "find"]

_FILES = (captions, detection, grounding, segmentation, questions, packs, scenes)
BENCHMARKS: dict[str, Benchmark] = {b.name: b for file in _FILES for b in file.BENCHMARKS}


def find(name: str) -> list[Benchmark]:
    """A benchmark by its name, or all whose names begin with it: "packs", "refcoco", "refcoco+".

    "@SOURCE" behind the name of packs takes the photos of one data set: "packs/caption@flickr8k".
    Raises DataError with the nearest name.
    """
    name, _, source = name.partition("@")
    if source:
        if not name.startswith(packs.GROUP):
            raise DataError(f"{name} is one data set already; leave @{source} out")
        return [packs.of_source(b, source) for b in find(name)]
    if name in BENCHMARKS:
        return [BENCHMARKS[name]]
    found = [b for known, b in BENCHMARKS.items() if known.startswith((f"{name}-", f"{name}/"))]
    if not found:
        near = difflib.get_close_matches(name, BENCHMARKS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise DataError(f"there is no benchmark {name!r}{hint} Known are {', '.join(BENCHMARKS)}")
    return found
