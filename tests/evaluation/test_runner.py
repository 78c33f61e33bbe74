"""Runs of benchmarks: whatever stops them, they end with the same bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from florence2 import Florence2
from florence2.data import Question, Record, Thing, write
from florence2.errors import DataError, Florence2Error
from florence2.evaluation import bootstrap, report, runner, summary
from florence2.evaluation.answerers import Ours, Truth
from florence2.evaluation.benchmarks import find
from florence2.evaluation.outcomes import Outcome
from florence2.evaluation.runner import Plan
from florence2.evaluation.samples import Sample
from florence2.results import Answer
from tests.tiny_checkpoint import picture, tiny_checkpoint

NAMES = ("packs/caption", "packs/detection", "packs/questions-templated")


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packs")
    records = []
    for n in range(9):
        path = folder / f"{n}.png"
        picture(n, (64, 48)).save(path)
        records.append(
            Record(
                image=path,
                id=f"photo{n}",
                width=64,
                height=48,
                source="drawn",
                captions=(f"a picture with {n} dogs", "something else"),
                objects=(Thing(label="dog", box=(4.0, 4.0, 20.0 + n, 40.0)), Thing(label="cat", box=(30, 4, 60, 40))),
                exhaustive=("dog", "cat", "cow"),
                qa=(Question(question="how many dogs?", answers=(str(n),), origin="rule"),),
            )
        )
    write(records, folder / "data", "packs")
    return folder / "data"


@pytest.fixture(scope="module")
def ours() -> Ours:
    return Ours(Florence2(tiny_checkpoint()), num_beams=1, max_new_tokens=12)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "CHUNK", 2)
    monkeypatch.setattr(bootstrap, "DRAWS", 20)


def plan(packs: Path, blind: bool = True, limit: int | None = None) -> Plan:
    return Plan(benchmarks=tuple(find(name)[0] for name in NAMES), data=packs, limit=limit, blind=blind)


def table(outcomes: Sequence[Outcome]) -> str:
    return json.dumps(summary.document(outcomes, "model", {}))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "answers").iterdir())}


class Unplugged(Exception):
    pass


class Stops:
    """Answers so many chunks and is gone then."""

    def __init__(self, inner: Ours | Truth, chunks: int) -> None:
        self.inner, self.left, self.name = inner, chunks, inner.name

    def describe(self) -> dict[str, object]:
        return self.inner.describe()

    def answer(self, samples: Sequence[Sample], photos: Sequence[Image.Image]) -> list[Answer | Florence2Error]:
        if not self.left:
            raise Unplugged
        self.left -= 1
        return self.inner.answer(samples, photos)


@pytest.mark.slow
def test_stopped_at_every_chunk_and_resumed(packs: Path, ours: Ours, tmp_path: Path) -> None:
    whole = table(runner.run(plan(packs), ours, tmp_path / "whole"))
    chunks = 2 * len(NAMES) * 5  # nine photos in chunks of two, seen and blind
    for stop in range(1, chunks, 7):
        folder = tmp_path / f"stopped-{stop}"
        with pytest.raises(Unplugged):
            runner.run(plan(packs), Stops(ours, stop), folder)
        assert table(runner.run(plan(packs), ours, folder)) == whole
        assert contents(folder) == contents(tmp_path / "whole")


@pytest.mark.slow
def test_one_run_stopped_again_and_again(packs: Path, ours: Ours, tmp_path: Path) -> None:
    whole = table(runner.run(plan(packs), ours, tmp_path / "whole"))
    for _ in range(100):
        try:
            found = runner.run(plan(packs), Stops(ours, 1), tmp_path / "stopped")
        except Unplugged:
            continue
        assert table(found) == whole
        break
    else:
        pytest.fail("a run that is resumed does not go on")


def test_half_a_line_is_cut_off(packs: Path, ours: Ours, tmp_path: Path) -> None:
    whole = table(runner.run(plan(packs), ours, tmp_path / "run"))
    path = tmp_path / "run" / "answers" / "packs-detection.jsonl"
    content = path.read_bytes()
    for length in (0, 1, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        assert table(runner.run(plan(packs), ours, tmp_path / "run")) == whole
        assert path.read_bytes() == content


def test_answers_that_were_changed_are_noticed_in_the_table(packs: Path, ours: Ours, tmp_path: Path) -> None:
    """The twin: the table does come from the stored answers."""
    whole = table(runner.run(plan(packs), Truth(), tmp_path / "run"))
    path = tmp_path / "run" / "answers" / "packs-questions-templated.jsonl"
    path.write_text(path.read_text().replace('"text": "3"', '"text": "4"'))
    assert table(runner.run(plan(packs), Truth(), tmp_path / "run")) != whole


def test_what_is_finished_is_not_asked_again(packs: Path, ours: Ours, tmp_path: Path) -> None:
    whole = table(runner.run(plan(packs), ours, tmp_path / "run"))
    assert table(runner.run(plan(packs), Stops(ours, 0), tmp_path / "run")) == whole
    assert table(list(runner.stored(tmp_path / "run", find))) == whole


def test_a_folder_holds_one_run(packs: Path, ours: Ours, tmp_path: Path) -> None:
    runner.run(plan(packs, limit=4), ours, tmp_path / "run")
    for other, answerer, word in (
        (plan(packs, limit=5), ours, "limit"),
        (plan(packs, limit=4), Truth(), "answerer"),
        (plan(packs, limit=4), Ours(ours.model, num_beams=2), "answerer"),
    ):
        with pytest.raises(DataError, match=f"holds another run: its {word}"):
            runner.run(other, answerer, tmp_path / "run")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").write_text("")
    with pytest.raises(DataError, match="not empty"):
        runner.run(plan(packs), ours, tmp_path / "full")
    more = Plan(benchmarks=tuple(find("packs/proposals")), data=packs, limit=4)
    runner.run(more, ours, tmp_path / "run")  # one benchmark more of the same model is the same run
    assert runner.read_notes(tmp_path / "run")["benchmarks"] == [*NAMES, "packs/proposals"]


def test_data_that_has_changed_is_noticed(packs: Path, ours: Ours, tmp_path: Path) -> None:
    runner.run(plan(packs), ours, tmp_path / "run")
    path = tmp_path / "run" / "answers" / "packs-caption.jsonl"
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([rest[0], first, *rest[1:]]) + "\n")
    with pytest.raises(DataError, match=r"packs-caption\.jsonl:1 answers other questions"):
        runner.run(plan(packs), ours, tmp_path / "run")
    path.write_text("{}\n")
    with pytest.raises(DataError, match=r"packs-caption\.jsonl:1 is not what"):
        runner.run(plan(packs), ours, tmp_path / "run")


class Fails(Truth):
    """Cannot answer one sample."""

    def answer(self, samples: Sequence[Sample], photos: Sequence[Image.Image]) -> list[Answer | Florence2Error]:
        given = super().answer(samples, photos)
        wrong = Florence2Error("too hard")
        return [wrong if s.photo == "photo4" else answer for s, answer in zip(samples, given, strict=True)]


def test_an_error_is_one_empty_answer(packs: Path, tmp_path: Path) -> None:
    found = {o.benchmark.name: o for o in runner.run(plan(packs, blind=False), Fails(), tmp_path / "run")}
    questions = found["packs/questions-templated"]
    assert list(questions.errors.values()) == ["Florence2Error: too hard"]
    assert questions.measured.figures["EM"] == pytest.approx(8 / 9)
    assert found["packs/detection"].measured.figures["AR100"] == pytest.approx(8 / 9)


def test_a_photo_that_is_gone_costs_its_samples_alone(packs: Path, tmp_path: Path) -> None:
    benchmark = find("packs/questions-templated")[0]
    samples = plan(packs).samples(benchmark)
    broken = Sample(
        id="broken",
        record=Record(image=b"no photo", id="broken", width=64, height=48),
        task="<ASK>",
        given="how many?",
        truth=samples[0].truth,
    )
    given = runner.ask(benchmark, [*samples, broken], Truth(), tmp_path, lambda *_: None)
    assert list(given.errors) == [len(samples)]
    assert given.errors[len(samples)].startswith("ImageError")


def test_blind_photos_are_others_of_the_same_size(packs: Path, tmp_path: Path) -> None:
    seen: dict[bool, list[bytes]] = {}

    class Looks(Truth):
        def answer(self, samples: Sequence[Sample], photos: Sequence[Image.Image]) -> list[Answer | Florence2Error]:
            seen.setdefault(self.blind, []).extend(photo.tobytes() for photo in photos)
            assert {photo.size for photo in photos} == {(64, 48)}
            return super().answer(samples, photos)

        blind = False

    benchmark, looks = find("packs/caption")[0], Looks()
    samples = plan(packs).samples(benchmark)
    runner.ask(benchmark, samples, looks, tmp_path, lambda *_: None)
    looks.blind = True
    runner.ask(benchmark, samples, looks, tmp_path, lambda *_: None, blind=True)
    assert seen[True] == seen[False][1:] + seen[False][:1]


def test_chunks_keep_photos_together(packs: Path) -> None:
    samples = [s for name in NAMES for s in plan(packs).samples(find(name)[0])]
    samples.sort(key=lambda sample: sample.photo)
    parts = runner.chunks(samples)
    assert [s for part in parts for s in part] == samples
    photos = [{s.photo for s in part} for part in parts]
    assert all(not a & b for a in photos for b in photos if a is not b)


def test_truth_is_perfect_and_progress_is_told(packs: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    outcomes = runner.run(plan(packs), Truth(), tmp_path / "run", lambda *state: told.append(state))
    figures = {o.benchmark.name: o.measured.figures for o in outcomes}
    assert figures["packs/detection"]["AP"] == 1
    assert figures["packs/caption"]["BLEU4"] == pytest.approx(1)
    assert figures["packs/questions-templated"]["EM"] == 1
    assert outcomes[-1].intervals["EM"] == (1, 1)
    assert ("Captions", 0, 9) in told
    assert ("Captions (other photos)", 9, 9) in told


def test_the_report_of_a_run(packs: Path, ours: Ours, tmp_path: Path) -> None:
    outcomes = runner.run(plan(packs), ours, tmp_path / "run")
    header = report.Header(model=ours.name, details=ours.describe(), command="florence2 evaluate")
    report.write(outcomes, header, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(outcome.benchmark.title in page for outcome in outcomes)
    document = summary.document(outcomes, ours.name, ours.describe())
    assert json.loads(json.dumps(document, allow_nan=False)) == json.loads(json.dumps(document))
    assert document["benchmarks"]["packs/detection"]["blind"] is not None


def test_data_without_anything_to_ask(packs: Path, ours: Ours, tmp_path: Path) -> None:
    wanted = Plan(benchmarks=tuple(find("packs/words")), data=packs)
    with pytest.raises(DataError, match="holds nothing that packs/words could ask"):
        runner.run(wanted, ours, tmp_path / "run")


@pytest.mark.parametrize("name", ["packs/captoin", "cocodetection", "coco-detection@flickr8k"])
def test_unknown_benchmarks(name: str) -> None:
    with pytest.raises(DataError, match=r"did you mean|already"):
        find(name)
