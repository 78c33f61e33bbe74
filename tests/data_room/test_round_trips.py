"""Every format gives back what it promises to hold, alone and after a detour through every other."""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from florence2.data import read, write
from florence2.data.formats import FORMATS
from florence2.data.records import Place, Record, broken
from florence2.data.records_json import from_dict, to_dict
from tests.data_room.examples import CLASSES, by_id, data_sets, kept, rich_record

quick = settings(suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True)
def _needs_pyarrow(request: pytest.FixtureRequest) -> None:
    if "parquet" in request.node.name:
        pytest.importorskip("pyarrow")


def through(records: list[Record], format: str, folder: Path) -> list[Record]:
    written = write(records, folder, format)
    assert written.skipped == []
    if not written.records:  # the format can say nothing about any of them
        return []
    data_set = read(folder)
    assert data_set.format == format
    found = list(data_set)
    assert [record.error for record in found] == [""] * len(found)
    assert len(found) == written.records
    return found


@pytest.mark.parametrize("format", FORMATS)
@given(records=data_sets())
@settings(quick, max_examples=20)
def test_there_and_back(format: str, records: list[Record]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = through(records, format, Path(folder, "set"))
        assert by_id(found) == by_id(kept(records, format))


@pytest.mark.parametrize(("format", "claim"), [("yolo", "captions"), ("coco", "difficult marks"), ("voc", "splits")])
def test_a_format_that_claims_too_much_is_noticed(
    format: str, claim: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted twin of the comparison above."""
    thing = replace((rich_record().objects or ())[1], difficult=True)
    records = [rich_record(objects=(thing,))]
    found = through(records, format, tmp_path / "set")
    assert by_id(found) == by_id(kept(records, format))
    honest = FORMATS[format]
    monkeypatch.setitem(FORMATS, format, replace(honest, holds=honest.holds | {claim}))
    assert by_id(found) != by_id(kept(records, format))


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), itertools.permutations(FORMATS, 2))
@given(records=data_sets())
@settings(quick, max_examples=4)
def test_a_detour_loses_only_what_the_other_cannot_hold(first: str, second: str, records: list[Record]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        start = through(records, first, Path(folder, "start"))
        detour = through(start, second, Path(folder, "detour"))
        end = through(detour, first, Path(folder, "end"))
        assert by_id(end) == by_id(kept(start, first, second))


@pytest.mark.parametrize("format", ["records", "packs", "parquet", "coco", "voc", "labelme"])
@given(records=data_sets(listed=False))
@settings(quick, max_examples=10)
def test_photos_without_class_lists(format: str, records: list[Record]) -> None:
    """Nothing is claimed about classes that nobody listed."""
    with tempfile.TemporaryDirectory() as folder:
        found = through(records, format, Path(folder, "set"))
        assert by_id(found) == by_id(kept(records, format))


@given(records=data_sets(listed=False), with_bytes=st.booleans())
@settings(quick, max_examples=30)
def test_json_form(records: list[Record], with_bytes: bool) -> None:
    for record in records:
        assert from_dict(to_dict(record), record.image, Place("here")) == record


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_lost_is_counted(format: str, tmp_path: Path) -> None:
    """Whatever is not in what comes back is in the count, and nothing that is."""
    record = rich_record()
    written = write([record], tmp_path / "set", format)
    (found,) = read(tmp_path / "set")
    comes_back = {
        "captions": bool(found.captions),
        "objects": bool(found.objects),
        "phrases": bool(found.phrases),
        "referring expressions": bool(found.refs),
        "texts with quads": bool(found.text),
        "questions": bool(found.qa),
        "pairs": bool(found.pairs),
        "sources": bool(found.source),
        "further fields": bool(found.extra),
        "crowd marks": any(thing.crowd for thing in found.objects or ()),
        "outlines of several parts": any(len(thing.polygons) > 1 for thing in found.objects or ()),
    }
    assert {name for name, there in comes_back.items() if not there} == set(comes_back) & set(written.lost)
    assert all(name in str(written) for name in written.lost)


def test_lists_of_classes_that_differ_are_counted(tmp_path: Path) -> None:
    records = [
        rich_record(id="a"),
        rich_record(id="b", exhaustive=None),
        rich_record(id="c", objects=(), exhaustive=CLASSES),
    ]
    for format in ("yolo", "voc", "labelme"):
        written = write(records, tmp_path / format, format)
        assert written.lost["class lists that differ between photos"] >= 2
    found = {record.id: record for record in read(tmp_path / "voc")}
    assert {record.exhaustive for record in found.values()} == {None}  # unknown rather than wrongly absent
    write(records, tmp_path / "coco", "coco")
    lists = {record.id: record.exhaustive for record in read(tmp_path / "coco")}
    assert {id: set(names or ()) for id, names in lists.items()} == {
        "a": {"cat", "dog", "zebra"},
        "b": set(),
        "c": set(CLASSES),
    }


def test_a_photo_nobody_looked_at_never_becomes_a_negative(tmp_path: Path) -> None:
    records = [rich_record(id="looked", objects=()), rich_record(id="not", objects=None, exhaustive=None)]
    for format in ("yolo", "voc", "labelme", "coco", "packs"):
        written = write(records, tmp_path / format, format)
        found = {record.id: record.objects for record in read(tmp_path / format)}
        assert found["looked"] == ()
        assert found.get("not") is None
        assert ("photos that it says nothing about" in written.lost) == ("not" not in found)


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    records = [
        broken(Place("x.json", 3), "no bbox", "x"),
        rich_record(id="gone", image=tmp_path / "gone.png"),
        rich_record(id="bare", image=None),
        rich_record(),
    ]
    written = write(records, tmp_path / "set", "coco")
    assert written.records == 1
    assert ["no bbox" in written.skipped[0], "gone.png" in written.skipped[1], "bare" in written.skipped[2]] == [
        True
    ] * 3
    assert "x.json:3" in str(written)


def test_ids_that_are_no_file_names(tmp_path: Path) -> None:
    records = [rich_record(id=id) for id in ("a/b", "a:b", "A_B", "..", "车 1")]
    assert write(records, tmp_path / "set", "yolo").records == 5
    assert len(list(read(tmp_path / "set"))) == 5
    write(records, tmp_path / "coco", "coco")
    assert sorted(record.id for record in read(tmp_path / "coco")) == sorted(record.id for record in records)


def test_packs_are_cut_into_tars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from florence2.data import packs

    monkeypatch.setattr(packs, "SHARD", 5000)
    records = [rich_record(id=f"p{n:02d}") for n in range(12)]
    write(records, tmp_path / "set", "packs")
    assert len(list((tmp_path / "set").glob("set-*.tar"))) > 1
    assert [record.id for record in read(tmp_path / "set")] == [record.id for record in records]
    write(records, tmp_path / "one.tar", "packs")
    write(records, tmp_path / "two.tar", "packs")
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
