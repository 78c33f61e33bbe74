"""The report: what it says, that it needs nothing else, that it is the same twice, and how a browser shows it."""

from __future__ import annotations

import base64
import dataclasses
import io
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy
import pytest
from PIL import Image, ImageDraw

from florence2 import optional
from florence2.data.records import Record
from florence2.errors import DataError, MissingDependencyError
from florence2.evaluation.benchmarks.records import Benchmark, Published
from florence2.evaluation.outcomes import Curve, Judged, Measured, Outcome
from florence2.evaluation.report import Header, figures, gallery, markup, write
from florence2.evaluation.samples import Given, Sample
from florence2.results import Answer, Box, Detections, Instance, Object, Polygon, Quad, Segments, Text, TextRegion
from florence2.results import TextRegions as Regions

pytest.importorskip("matplotlib")

WIDTH, HEIGHT = 320, 240
COLOURS = {"cup": "#c4473a", "ball": "#3d8f5f", "brick": "#4a6fb5", "lemon": "#d8b23c"}
HOSTILE = '<script>alert("x")</script> & \u202eright to left שלום 猫 🦊 \x00\ud800'
HEADER = Header(
    model="tiny & <new>",
    details={"model": "tiny", "options": {"beams": 3, "reference": False}, "torch": "2.4", "size": [768, 768]},
    command="florence2 evaluate --model tiny --benchmark all --data 'my <data>'",
)
PAPER = "Florence-2 (arXiv 2311.06242), table 4"


class Scene:
    """A small photo of coloured things, drawn by number."""

    def __init__(self, number: int) -> None:
        lot = random.Random(number)
        self.things: list[tuple[str, Box]] = []
        picture = Image.new("RGB", (WIDTH, HEIGHT), (226, 222, 212))
        pencil = ImageDraw.Draw(picture)
        pencil.rectangle((0, 150, WIDTH, HEIGHT), fill=(150, 128, 104))
        for place, label in enumerate(lot.sample(sorted(COLOURS), 3)):
            x, y, size = 12 + 100 * place + lot.randrange(20), 60 + lot.randrange(90), 50 + lot.randrange(30)
            box = (float(x), float(y), float(x + size), float(y + size))
            draw = pencil.ellipse if label in ("ball", "lemon") else pencil.rectangle
            draw(box, fill=COLOURS[label], outline=(40, 40, 40))
            self.things.append((label, box))
        stream = io.BytesIO()
        picture.save(stream, "PNG")
        self.record = Record(image=stream.getvalue(), id=f"photo-{number}", width=WIDTH, height=HEIGHT)


def moved(box: Box, by: float) -> Box:
    return (box[0] + by, box[1] + by / 2, box[2] + by, box[3] + by / 2)


def diamond(box: Box) -> Polygon:
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return (x, box[1], box[2], y, x, box[3], box[0], y)


def quad(box: Box) -> Quad:
    x0, y0, x1, y1 = box
    return (x0, y0, x1, y0, x1, y1, x0, y1)


SIZE = {"width": WIDTH, "height": HEIGHT}


def benchmark(name: str, task: str, main: str, **changes: object) -> Benchmark:
    values: dict[str, object] = {
        **{"name": name, "title": f"Title of {name}", "task": task, "measure": "any", "main": main},
        "protocol": f"What counts as right in {name}, and where this differs from the usual.",
        "read": lambda folder: iter(()),
    }
    return Benchmark(**{**values, **changes})  # type: ignore[arg-type]


def sample(number: int, scene: Scene, task: str, *truth: Answer, given: Given = None) -> Sample:
    return Sample(id=f"sample-{number}", record=scene.record, task=task, given=given, truth=truth)


def detection(count: int = 16) -> Outcome:
    """Boxes; everything that the page can show is there."""
    lot, samples, answers = random.Random(1), [], []
    for number in range(count):
        scene = Scene(number)
        true = tuple(Object(label=label, box=box) for label, box in scene.things)
        found = tuple(Object(label=o.label, box=moved(o.box, number), score=0.9 - number / 40) for o in true)
        samples.append(sample(number, scene, "<OD>", Detections(task="<OD>", objects=true, **SIZE)))
        answers.append(Detections(task="<OD>", objects=found[: 3 - number % 2], **SIZE))
    answers[3] = Detections(task="<OD>", **SIZE)
    judged = tuple(Judged(lot.randrange(count), s, lot.random() < s**1.6) for s in (lot.random() for _ in range(400)))
    recall = tuple(n / 100 for n in range(101))
    curves = [Curve("all classes", recall, tuple(max(0.0, 0.97 - 0.6 * r**2) for r in recall))]
    curves += [
        Curve(label, recall, tuple(max(0.0, 1 - (0.4 + 0.2 * n) * r**3) for r in recall))
        for n, label in enumerate(COLOURS)
    ]
    cases = tuple(None if n == 5 else 1 - n / count for n in range(count))
    return Outcome(
        benchmark=benchmark(
            *("coco-detection", "<OD>", "AP"),
            paper=(
                Published("Florence-2-B", "AP", 0.347, PAPER),
                Published("Florence-2-L", "AP", 0.375, PAPER),
                Published("Other", "AP50", 0.5, "Other (2024), table 1"),
            ),
        ),
        samples=tuple(samples),
        answers=tuple(answers),
        errors={3: f"photo-3 ends too early; {HOSTILE}"},
        measured=Measured(
            figures={"AP": 0.41234, "AP50": 0.6, "AP75": 0.45, "APs": None, "AR100": 0.5},
            cases=cases,
            case="IoU",
            judged=judged,
            curves=tuple(curves),
            classes={
                "cup": {"count": 4, "AP": 0.5},
                HOSTILE: {"count": 40504, "AP": 0.25},
                **{f"class {n}": {"count": n, "AP": None} for n in range(12)},
            },
        ),
        intervals={"AP": (0.391, 0.4331)},
        blind={"AP": 0.0213, "AP50": 0.05},
        uncalibrated=tuple(dataclasses.replace(j, score=j.score**0.5) for j in judged),
    )


def captions(count: int = 12) -> Outcome:
    samples, answers = [], []
    for number in range(count):
        scene = Scene(100 + number)
        names = " and ".join(f"a {label}" for label, _ in scene.things)
        truths = (Text(task="<CAPTION>", text=f"a photo of {names}", **SIZE), Text(task="", text=HOSTILE, **SIZE))
        samples.append(sample(number, scene, "<CAPTION>", *truths))
        answers.append(Text(task="<CAPTION>", text=f"{names} on a table", truncated=number == 0, **SIZE))
    return Outcome(
        benchmark=benchmark(
            *("coco-captions", "<CAPTION>", "CIDEr"), paper=(Published("Florence-2-B", "CIDEr", 1.4, PAPER),)
        ),
        samples=tuple(samples),
        answers=tuple(answers),
        errors={},
        measured=Measured(
            figures={"CIDEr": 1.1234, "BLEU4": 0.31},
            cases=tuple(0.4 + 0.2 * number for number in range(count)),
            case="CIDEr",
        ),
        intervals={"CIDEr": (1.05, 1.2)},
    )


def outlines(count: int = 5) -> Outcome:
    samples, answers = [], []
    for number in range(count):
        scene = Scene(200 + number)
        label, box = scene.things[0]
        task = "<REFERRING_EXPRESSION_SEGMENTATION>"
        true = Segments(task=task, instances=(Instance(label=label, polygons=(diamond(box),)),), **SIZE)
        found = Instance(label=label, polygons=(diamond(moved(box, 6.0 * number)),), score=0.8)
        samples.append(sample(number, scene, task, true, given=f"the {label}"))
        answers.append(Segments(task=task, instances=(found,), **SIZE))
    return Outcome(
        benchmark=benchmark("packs/expressions", "<REFERRING_EXPRESSION_SEGMENTATION>", "mIoU", templated=True),
        samples=tuple(samples),
        answers=tuple(answers),
        errors={},
        measured=Measured(figures={"mIoU": 0.7}, cases=tuple(1 - n / 10 for n in range(count)), case="IoU"),
        intervals={},
    )


def reading(count: int = 6) -> Outcome:
    samples, answers = [], []
    for number in range(count):
        scene = Scene(300 + number)
        task = "<OCR_WITH_REGION>"
        true = tuple(TextRegion(text=f"{label} שלום", quad=quad(box)) for label, box in scene.things)
        found = tuple(TextRegion(text=label, quad=quad(moved(box, 4)), score=0.7) for label, box in scene.things[:2])
        samples.append(sample(number, scene, task, Regions(task=task, regions=true, **SIZE)))
        answers.append(Regions(task=task, regions=found, **SIZE))
    samples[2] = dataclasses.replace(samples[2], record=Record(image=None, id="gone", **SIZE))
    samples[4] = dataclasses.replace(samples[4], record=Record(image=b"no photo", id="broken", **SIZE))
    return Outcome(
        benchmark=benchmark("text", "<OCR_WITH_REGION>", "CER"),
        samples=tuple(samples),
        answers=tuple(answers),
        errors={},
        measured=Measured(figures={"CER": 1.25, "Levenshtein": 3.456}, cases=(None,) * count, case="accuracy"),
        intervals={"CER": (0.9, 1.5)},
        blind={"CER": 2.0},
    )


def everything() -> list[Outcome]:
    return [outlines(), detection(), captions(), reading()]


class Page(HTMLParser):
    """What a page says, and what it would load."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.cells: list[list[str]] = []
        self._depth: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "br"):
            self._depth.append(tag)
        if tag == "tr":
            self.cells.append([])
        elif tag in ("td", "th"):
            self.cells[-1].append("")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self._depth.pop() == tag, "tags are nested"

    def handle_data(self, data: str) -> None:
        if "style" not in self._depth:
            self.text += data
            if "td" in self._depth or "th" in self._depth:
                self.cells[-1][-1] += data

    def row(self, first: str) -> list[str]:
        return next(cells for cells in self.cells if cells and cells[0].startswith(first))


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "new" / "report.html"
    write(everything(), HEADER, path)
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def references(page: Page) -> Iterator[tuple[str, str]]:
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster", "background"):
                yield tag, value or ""


def test_nothing_is_loaded_from_elsewhere(html: str, page: Page) -> None:
    found = list(references(page))
    assert all(value.startswith(("data:image/jpeg;base64,", "#")) for _, value in found), found
    assert sum(value.startswith("data:") for _, value in found) > 20
    assert not {"script", "link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.tags}
    assert "@import" not in html
    assert "url(http" not in html.replace('"', "").replace("'", "")
    assert all(part.startswith("(#") for part in html.split("url")[1:] if part.startswith("("))


def test_links_and_ids_fit(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {value[1:] for _, value in references(page) if value.startswith("#")} <= set(ids)


def test_clips_of_plots_are_there(html: str, page: Page) -> None:
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {part.split(")")[0] for part in html.split("url(#")[1:]} <= ids


def test_summary(page: Page) -> None:
    assert page.cells[0] == [
        *("benchmark", "figure", "measured", "95 % interval", "blind", "published", "samples", "photos", "errors")
    ]
    assert page.row("Title of coco-detection") == [
        *("Title of coco-detection", "AP %", "41.2", "[39.1, 43.3]", "2.1"),
        *("Florence-2-B 34.71Florence-2-L 37.51", "16", "16", "1"),
    ]
    assert page.row("Title of coco-captions") == [
        *("Title of coco-captions", "CIDEr ×100", "112.3", "[105.0, 120.0]", "–"),
        *("Florence-2-B 140.01", "12", "12", "–"),
    ]
    assert page.row("Title of text")[1:6] == ["CER % ↓", "125.0", "[90.0, 150.0]", "200.0", "–"]


def test_templated_benchmarks_stand_apart(page: Page) -> None:
    first = [cells[0] for cells in page.cells if cells]
    written, templated = (
        first.index("Written by people"),
        first.index("Templated: questions or expressions that a program wrote"),
    )
    assert written < first.index("Title of text") < templated < first.index("Title of packs/expressions templated")


def test_columns_that_nobody_needs_are_left_out(tmp_path: Path) -> None:
    write([captions()], HEADER, tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.cells[0] == ["benchmark", "figure", "measured", "95 % interval", "published", "samples", "photos"]
    assert "Blind" not in page.text
    assert "Templated" not in page.text


def test_figures_of_a_section(page: Page) -> None:
    rows = page.cells[page.cells.index(["figure", "measured", "95 % interval", "blind", *_models()]) :]
    assert rows[1] == ["AP %", "41.2", "[39.1, 43.3]", "2.1", "34.71", "37.51", "–"]
    assert rows[2] == ["AP50 %", "60.0", "–", "5.0", "–", "–", "50.02"]
    assert rows[4] == ["APs %", "–", "–", "–", "–", "–", "–"]
    assert page.row("Levenshtein") == ["Levenshtein characters ↓", "3.46", "–", "–"]
    assert "What counts as right in coco-detection, and where this differs from the usual." in page.text
    assert "1 answer was cut off by the token budget" in page.text.lower()
    assert PAPER in page.text


def _models() -> list[str]:
    return ["Florence-2-B", "Florence-2-L", "Other"]


def test_classes_are_sorted_by_number(page: Page) -> None:
    start = page.cells.index(["class", "number", "AP %"])
    rows = page.cells[start + 1 : start + 15]
    assert rows[0][0].startswith("<script>")
    assert rows[0][1:] == ["40 504".replace(" ", "\u202f"), "25.0"]
    numbers = [int(row[1].replace("\u202f", "")) for row in rows]
    assert numbers == sorted(numbers, reverse=True)
    assert len(numbers) == 14


def test_calibration_is_shown_before_and_after(page: Page) -> None:
    before, after = page.text.index("Reliability before"), page.text.index("Reliability after")
    assert before < after
    assert page.text[before:].count("ECE") == 2
    assert sum(tag == "svg" for tag, _ in page.tags) == 5  # curve, two reliability diagrams, two histograms


def test_texts_from_data_are_escaped(html: str, page: Page) -> None:
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 3
    assert "\x00" not in html
    said = HOSTILE.replace("\x00", "\ufffd").replace("\ud800", "\ufffd")
    assert said in page.text
    assert f"photo-3 ends too early; {said}" in page.text
    assert HEADER.command in page.text
    assert "Evaluation of tiny & <new>" in page.text
    bidi = html.split("\u202e")[:-1]
    assert all(part.rfind("<bdi>") > part.rfind("</bdi>") for part in bidi), "its direction stays its own"


def test_gallery_shows_answers_and_truth(html: str, page: Page) -> None:
    assert "<OD>" in page.text
    assert "the cup" in page.text or "the ball" in page.text
    assert "CIDEr 260.0 (×100)" in page.text
    assert html.count("the photo cannot be loaded") == 4  # two photos, answer and truth of each


def test_pictures_are_small_photos(html: str) -> None:
    pictures = [part.split('"')[0] for part in html.split("data:image/jpeg;base64,")[1:]]
    opened = [Image.open(io.BytesIO(base64.b64decode(picture))) for picture in pictures]
    assert all(picture.format == "JPEG" and picture.width <= 400 and picture.height <= 560 for picture in opened)
    assert len(html) < 4e6


def test_no_sample_is_shown_twice() -> None:
    outcome = detection(16)
    for count in range(1, 17):
        some = dataclasses.replace(
            outcome,
            samples=outcome.samples[:count],
            answers=outcome.answers[:count],
            measured=dataclasses.replace(outcome.measured, cases=outcome.measured.cases[:count]),
        )
        chosen = gallery.choose(some)
        shown = [*chosen.best, *chosen.worst, *chosen.others]
        assert len(shown) == len(set(shown)) <= 12
        assert 3 not in shown, "an error is no answer"
        assert chosen == gallery.choose(some)
        cases = some.measured.cases
        best, worst = [cases[n] for n in chosen.best], [cases[n] for n in chosen.worst]
        assert None not in best + worst
        assert best == sorted(best, reverse=True)  # type: ignore[type-var]
        assert worst == sorted(worst)  # type: ignore[type-var]
        assert len(best) <= 4
        assert not best or not worst or min(best) >= max(worst)  # type: ignore[type-var]
    assert gallery.choose(outcome).best == (0, 1, 2, 4)
    assert gallery.choose(outcome).worst == (15, 14, 13, 12)


def test_prompts() -> None:
    assert gallery.prompt("<OD>", None) == "<OD>"
    assert gallery.prompt("<REGION_TO_CATEGORY>", (1.2, 2.6, 30, 40)) == "<REGION_TO_CATEGORY> (1, 3, 30, 40)"
    assert gallery.prompt("<OPEN_VOCABULARY_DETECTION>", ("cat", "dog", "fox", "owl")) == (
        "<OPEN_VOCABULARY_DETECTION> cat, dog, fox, owl"
    )


def test_the_same_bytes_twice(html: str, tmp_path: Path) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    random.seed(7)
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 30, "svg.fonttype": "path"}):
        write(everything(), HEADER, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_bytes() == html.encode()


def test_another_interval_gives_other_bytes(tmp_path: Path) -> None:
    outcome = captions(3)
    for name, low in (("a", 1.05), ("b", 1.05), ("c", 1.06)):
        write([dataclasses.replace(outcome, intervals={"CIDEr": (low, 1.2)})], HEADER, tmp_path / name)
    a, b, c = (path.read_bytes() for path in sorted(tmp_path.iterdir()))
    assert a == b != c


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("AP", 0.43449, "43.4"),
        ("CIDEr", 1.4, "140.0"),
        ("WER", 1.5, "150.0"),
        ("count", 12345, "12\u202f345"),
        ("AP", None, "–"),
        ("AP", float("nan"), "–"),
        ("AP", -0.00001, "0.0"),
        ("AP", -0.1, "−10.0"),
    ],
)
def test_figures(name: str, value: float | None, expected: str) -> None:
    assert figures.shown(name, value) == expected


def test_markup_escapes_whatever_is_no_markup() -> None:
    inner = markup.tag("b", "<i>")
    assert markup.tag("p", inner, "&", title='"') == '<p title="&quot;"><b>&lt;i&gt;</b>&amp;</p>'


def test_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to report"):
        write([], HEADER, tmp_path / "report.html")


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(DataError, match=r"cannot be written to .*report\.html"):
        write([captions(3)], HEADER, tmp_path / "report.html")


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(name, name=name)

    monkeypatch.setattr(optional.importlib, "import_module", absent)
    with pytest.raises(MissingDependencyError, match=r"matplotlib; pip install 'florence2\[eval\]'"):
        write([captions(3)], HEADER, tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


# In a browser

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
    "--blink-settings=preferredColorScheme=1",  # light, whatever the desktop likes
)


def screenshot(report: Path, width: int, height: int) -> Image.Image:
    """What a browser shows."""
    assert BROWSER is not None
    picture, profile = report.with_suffix(".png"), report.parent / "profile"
    command = [BROWSER, *FLAGS, f"--user-data-dir={profile}", f"--screenshot={picture}"]
    command += [f"--window-size={width},{height}", report.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120, env={**os.environ, "HOME": str(profile)})
    return Image.open(picture).convert("RGB")


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed: nothing to show the report with")
def test_a_browser_shows_it(html: str, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    report.write_text(html, encoding="utf-8")
    shown = screenshot(report, 1200, 2400)
    assert shown.size == (1200, 2400)
    assert faults(shown) == []


def test_an_empty_page_would_be_noticed() -> None:
    assert faults(Image.new("RGB", (1200, 2400), "white")) == ["no colours", "no title"]
    assert "something runs out of the page" in faults(Image.new("RGB", (1200, 2400), "black"))


def faults(shown: Image.Image) -> list[str]:
    """What is wrong with the picture of a page."""
    pixels = numpy.asarray(shown).astype(int)
    title = pixels[20:110, :700]
    dark = (title.sum(axis=2) < 200).sum() / (title.shape[0] * title.shape[1])
    checks = {
        "no colours": len(numpy.unique(pixels @ (65536, 256, 1))) > 200,
        "no title": 0.005 < dark < 0.25,
        "something runs out of the page": (pixels[:, -8:].sum(axis=2) > 700).all(),
    }
    return [name for name, right in checks.items() if not right]
