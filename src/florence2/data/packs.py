"""WebDataset tars: an image and a JSON file of one name, one after the other.

The JSON is a record (``records_json``); unknown fields are kept as they are. A ``.txt`` of the same name is a
caption, as img2dataset writes it. Compressed tars are read as well.

Written: one tar for a target that ends in ``.tar``, else a folder of tars of about 16 MiB. Times are 0, so the same
records give the same bytes.

Source: github.com/webdataset/webdataset.
"""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from florence2.data import fields
from florence2.data.files import SUFFIXES, make_folder, suffix_of
from florence2.data.records import Place, Record, broken, entry
from florence2.data.records_json import from_dict, to_dict
from florence2.errors import DataError

SHARD = 16 << 20
"""Bytes after which a new tar is begun."""
ENDINGS = (".tar", ".tar.gz", ".tgz")


def recognise(source: Path) -> str | None:
    found = _files(source)
    return f"WebDataset, {len(found)} tars" if found else None


def read(source: Path) -> Iterator[Record]:
    for path in _files(source):
        try:
            with tarfile.open(path) as tar:
                for stem, members in itertools.groupby(filter(tarfile.TarInfo.isfile, tar), key=_stem):
                    parts = {}
                    for member in members:
                        stream = tar.extractfile(member)
                        parts[member.name[len(stem) :].lower()] = stream.read() if stream else b""
                    yield _record(stem, parts, Place(f"{path}/{stem}"))
        except (tarfile.TarError, EOFError, OSError) as error:
            yield broken(Place(str(path)), f"the tar cannot be read to its end ({error}); copy the file again")


def _files(source: Path) -> list[Path]:
    inside = [source] if source.is_file() else sorted(source.iterdir())
    return [path for path in inside if path.is_file() and path.name.endswith(ENDINGS)]


def _stem(member: tarfile.TarInfo) -> str:
    """WebDataset's key, the name up to its first dot; ids may have dots of their own before a suffix that is known."""
    name = member.name
    for suffix in (*SUFFIXES, ".json", ".txt"):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.split(".", 1)[0]


def _record(stem: str, parts: dict[str, bytes], place: Place) -> Record:
    def build() -> Record:
        image = next((parts[suffix] for suffix in SUFFIXES if suffix in parts), None)
        if image is None:
            raise DataError(f"there is no image beside {', '.join(stem + suffix for suffix in parts)}")
        unknown = [suffix for suffix in parts if suffix not in (*SUFFIXES, ".json", ".txt")]
        if unknown:
            raise DataError(f"{stem}{unknown[0]} is neither image, .json nor .txt")
        document = fields.parse_json(parts[".json"], f"{stem}.json") if ".json" in parts else {}
        record = from_dict(document, image, place, stem.rpartition("/")[2])
        caption = parts.get(".txt", b"").decode("utf-8", "replace").strip()
        return replace(record, captions=(*record.captions, caption)) if caption else record

    return entry(place, build)


def write(records: Iterable[Record], target: Path) -> None:
    single = target.name.endswith(".tar")
    make_folder(target.parent if single else target)
    taken: set[str] = set()
    rest = iter(records)
    for number in itertools.count():
        first = next(rest, None)
        if first is None and number:
            return
        path = target if single else target / f"{target.name}-{number:03d}.tar"
        with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
            for record in itertools.chain([first] if first else [], rest):
                _add(tar, record, taken)
                if not single and tar.offset >= SHARD:
                    break
            else:
                return


def _add(tar: tarfile.TarFile, record: Record, taken: set[str]) -> None:
    stem = name = record.id.replace("/", "_") or "record"
    number = 1
    while name in taken:
        number += 1
        name = f"{stem}_{number}"
    taken.add(name)
    document = json.dumps(to_dict(record), ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    for suffix, content in ((suffix_of(record), record.image_bytes()), (".json", document)):
        member = tarfile.TarInfo(name + suffix)
        member.size, member.mode = len(content), 0o644
        tar.addfile(member, io.BytesIO(content))
