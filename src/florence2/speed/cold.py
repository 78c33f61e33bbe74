"""A process from its start: importing, loading, the first answer, and how much memory it took.

python -m florence2.speed.cold ours FOLDER cpu float32
python -m florence2.speed.cold transformers FOLDER cpu float32
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from florence2.errors import Florence2Error

TOKENS = 20


@dataclass(frozen=True)
class Cold:
    """Seconds of a fresh process, and the most memory that it held (bytes; on a GPU, of the process beside it)."""

    imported: float
    loaded: float
    answered: float
    peak: int

    @property
    def seconds(self) -> float:
        """Until the first answer is there."""
        return self.imported + self.loaded + self.answered


def start(side: str, folder: Path, device: str, dtype: str) -> Cold:
    """Starts a process that captions one photo. Raises Florence2Error with what it said where it fails."""
    command = [sys.executable, "-m", "florence2.speed.cold", side, str(folder), device, dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Florence2Error(f"the fresh process of {side} failed: {done.stderr.strip()[-500:]}")
    return Cold(**json.loads(done.stdout.strip().splitlines()[-1]))


def main(side: str, folder: str, device: str, dtype: str) -> None:
    """Runs in the fresh process; each side imports what a script that uses it imports."""
    begin = time.perf_counter()
    if side == "ours":
        from florence2.pipeline import Florence2
    else:
        import transformers

        library: Any = transformers
        library.Florence2ForConditionalGeneration  # noqa: B018  the name is what imports
    imported = time.perf_counter()
    if side == "ours":
        model = Florence2.from_pretrained(folder, device=device, dtype=dtype)
    else:
        native = library.Florence2ForConditionalGeneration.from_pretrained(folder, dtype=dtype).to(device).eval()
        processor = library.AutoProcessor.from_pretrained(folder)
    loaded = time.perf_counter()
    from florence2.speed.stages import Work  # the photo only

    photo = Work().photo
    begun = time.perf_counter()
    if side == "ours":
        model.run(photo, "<CAPTION>", max_new_tokens=TOKENS)
    else:
        given = processor(text="<CAPTION>", images=photo, return_tensors="pt").to(device)
        given["pixel_values"] = given["pixel_values"].to(native.dtype)
        native.generate(**given, num_beams=3, no_repeat_ngram_size=3, max_new_tokens=TOKENS)
    answered = time.perf_counter() - begun
    found = {"imported": imported - begin, "loaded": loaded - imported, "answered": answered, "peak": peak()}
    sys.stdout.write(json.dumps(found) + "\n")


def peak() -> int:
    """Bytes that this process held at most."""
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage says on Linux begins with the memory of the process that started this one
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM"):
                return 1024 * int(line.split()[1])
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


if __name__ == "__main__":
    main(*sys.argv[1:])
