"""The shared packs are read, checked and written again. Every pack is opened, a few records of each are looked at."""

from __future__ import annotations

import itertools
import json
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from florence2.data import check, read, write
from florence2.language.tokenizer import Tokenizer
from tests.data_room.examples import comparable

RECORDS = {
    "coco": 330,
    "documents": 70,
    "flickr8k": 300,
    "scenetext": 40,
    "segments": 55,
    "voc2012": 120,
    "words": 80,
}
"""Of the packs for evaluation, as their README counts them."""


@pytest.fixture(scope="module")
def packs(shared: Path) -> Path:
    folder = shared / "data" / "eval"
    if not folder.is_dir():
        pytest.skip("the shared folder holds no data packs")
    return folder


@pytest.mark.slow
def test_every_record_is_read(packs: Path) -> None:
    found = list(read(packs))
    assert [record.error for record in found] == [""] * sum(RECORDS.values())
    counts = Counter(Path(str(record.place)).parent.name.split("-")[0] for record in found)
    assert counts == RECORDS
    assert sum(len(record.objects or ()) for record in found) == 2848 + 422 + 188
    assert sum(len(record.phrases) for record in found) == 979
    assert sum(len(record.text or ()) for record in found) == 1366 + 87 + 80
    assert all(record.exhaustive for record in found if record.objects is not None)  # every list of classes is known


@pytest.mark.parametrize("name", RECORDS)
def test_a_pack(packs: Path, tokenizer: Tokenizer, tmp_path: Path, name: str) -> None:
    records = list(itertools.islice(read(packs / f"{name}-000.tar"), 4))
    report = check(records, tokenizer, max_tokens=4096)
    assert report.problems == []
    assert report.targets.total() >= 4
    write(records, tmp_path / "again.tar", "packs")
    assert list(map(comparable, read(tmp_path / "again.tar"))) == list(map(comparable, records))
    for before, after in zip(documents(packs / f"{name}-000.tar"), documents(tmp_path / "again.tar"), strict=False):
        assert after == before  # to the letter of the schema


def documents(path: Path) -> list[dict]:
    with tarfile.open(path) as tar:
        members = itertools.islice((m for m in tar if m.name.endswith(".json")), 4)
        return [json.load(tar.extractfile(member)) for member in members]  # type: ignore[arg-type]
