from __future__ import annotations

import subprocess
import sys

import pytest

COUNT = """
import resource, sys, torch
from florence2.training import memory
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work():
    before = faults()
    for _ in range(5):
        [torch.ones(12_000_000) for _ in range(3)]
    return faults() - before
work()
usual = work()
with memory.kept() as kept:
    work()
    inside = work()
print(kept, usual, inside, work())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the settings are those of glibc")
def test_memory_is_kept_and_given_back() -> None:
    """In a process of its own: the settings are its whole process's."""
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    kept, *counts = done.stdout.split()
    usual, inside, after = map(int, counts)
    if kept == "False":  # another C library
        return
    assert inside < 1000 < usual
    assert after > 1000
