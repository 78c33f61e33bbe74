"""Benchmarks as records: data set x task x prompt x metric x protocol x the paper's numbers.

find("coco-detection")          one benchmark, or several where the name stands for a group ("packs", "refcoco")
benchmark.read(folder)          its samples
"""

from florence2.evaluation.benchmarks.records import Benchmark, Needed, Published

__all__ = ["Benchmark", "Needed", "Published"]
