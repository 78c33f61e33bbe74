"""What ``--explain`` says is what the run does: counts, shares, sizes, rates, and the mistakes that it points at."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from florence2.data import Record, Thing, write
from florence2.errors import ConfigError, DataError
from florence2.training import Recipe, train
from florence2.training.explain import explain, in_words
from florence2.training.recipe import Schedule
from florence2.training.sources import is_held_out
from tests.model.tiny import TINY
from tests.tiny_checkpoint import WORDS
from tests.training import small
from tests.training.small import Notes

WIDTH = TINY.text.d_model


def told(folder: Path, processes: int = 1, **tables: Any) -> str:
    return explain(small.recipe(folder, "never", **tables), processes)


def section(text: str, name: str) -> list[str]:
    """The lines of one section, without their indent, blanks in a row as one."""
    found = [part for part in text.split("\n\n") if part.startswith(name)]
    assert len(found) == 1, text
    return [" ".join(line.split()) for line in found[0].splitlines()[1:]]


def data(folder: Path, **fields: Any) -> dict[str, Any]:
    return {"small": {"path": str(folder / "data"), **fields}}


def test_nothing_is_written(prepared: Path) -> None:
    before = sorted(str(path) for path in prepared.rglob("*"))
    told(prepared)
    assert sorted(str(path) for path in prepared.rglob("*")) == before


def test_lines_are_not_too_long(prepared: Path) -> None:
    text = told(prepared, data={"small": {"path": str(prepared / "data"), "tasks": ["<CAPTION>"], "hold_out": 0.3}})
    paths = [line for line in text.splitlines() if str(prepared) in line]  # as long as they are
    assert [line for line in text.splitlines() if len(line) > 100 and line not in paths] == []
    assert not any(line.endswith(" ") for line in text.splitlines())


def test_parameters(prepared: Path) -> None:
    rows = {line.split()[0]: line.split()[1:3] for line in section(told(prepared), "Model")[2:]}
    assert set(rows) == {"vision", "projector", "embedding", "encoder", "decoder", "all"}
    numbers = {part: [int(value.replace(",", "")) for value in row] for part, row in rows.items()}
    assert all(total == learn for total, learn in numbers.values())
    assert numbers["embedding"] == [WORDS * WIDTH] * 2
    assert numbers["all"][0] == sum(total for part, (total, _) in numbers.items() if part != "all")
    frozen = told(prepared, model={"source": str(prepared / "model"), "freeze": ["vision", "embedding"]})
    rows = {line.split()[0]: line.split()[1:3] for line in section(frozen, "Model")[2:]}
    assert (rows["vision"][1], rows["embedding"]) == ("0", [f"{WORDS * WIDTH:,}", "0"])
    learn = numbers["all"][0] - numbers["vision"][0] - numbers["embedding"][0]
    assert rows["all"][1] == f"{learn:,}"


@pytest.mark.parametrize("dora", [False, True])
def test_adapters(prepared: Path, dora: bool) -> None:
    lora = {"rank": 2, "alpha": 4, "targets": ["attention"], "dora": dora}
    text = told(prepared, lora=lora)
    lines = section(text, "Model")
    attentions = TINY.text.encoder_layers + 2 * TINY.text.decoder_layers  # four matrices of WIDTH x WIDTH each
    assert f"rank 2, alpha 4 on {4 * attentions} modules (attention)" in " ".join(lines)
    (whole,) = [line for line in lines if line.startswith("all")]
    learn = 4 * attentions * (2 * (WIDTH + WIDTH) + (WIDTH if dora else 0))
    assert whole.split()[2] == f"{learn:,}"
    assert section(text, "Files")[0].startswith("adapter/")
    assert "projector" not in " ".join(section(text, "Learning rate"))


def test_an_adapter_on_the_head(prepared: Path) -> None:
    lines = section(told(prepared, lora={"rank": 2, "targets": ["head"]}), "Model")
    (embedding,) = [line for line in lines if line.startswith("embedding")]
    assert embedding.split()[2] == f"{2 * (WIDTH + WORDS):,}"


def test_records_and_shares(prepared: Path) -> None:
    out = sum(is_held_out(f"photo{i}", 0.4) for i in range(8))
    assert 0 < out < 8
    lines = section(told(prepared, data=data(prepared, hold_out=0.4)), "Data")
    assert lines[-1] == f"8 records: {8 - out} to learn from, {out} held out, 100 % of the photos drawn"
    two = {"a": {"path": str(prepared / "data"), "weight": 3}, "b": {"path": str(prepared / "data"), "weight": 1}}
    lines = section(told(prepared, data=two), "Data")
    assert [line.rsplit(", ", 1)[1] for line in lines if "records:" in line] == [
        "75.0 % of the photos drawn",
        "25.0 % of the photos drawn",
    ]
    del two["a"]["weight"], two["b"]["weight"]
    two["b"]["limit"] = 2
    lines = section(told(prepared, data=two), "Data")
    assert [line.rsplit(", ", 1)[1].split()[0] for line in lines if "records:" in line] == ["80.0", "20.0"]


def answers(text: str) -> dict[str, tuple[int, float]]:
    """Task → (targets, share of all answers)."""
    found = {}
    for line in section(text, "Answers"):
        if line.startswith("<") and "->" not in line:
            task, targets, share, *_ = line.replace("about ", "").split()
            found[task] = (int(targets.replace(",", "")), float(share) / 100)
    return found


def test_all_answers_are_counted(prepared: Path) -> None:
    found = answers(told(prepared, batch={"images": 4, "targets": 0}))
    # per photo: one each, but a class that is there and one that is not
    names = ("<CAPTION>", "<OD>", "<REGION_PROPOSAL>", "<OCR>", "<OCR_WITH_REGION>", "<REGION_TO_OCR>", "<VQA>")
    names += ("<REGION_TO_CATEGORY>", "<REGION_TO_SEGMENTATION>")
    assert {task: targets for task, (targets, _) in found.items()} == {
        **dict.fromkeys(names, 8),
        "<OPEN_VOCABULARY_DETECTION>": 16,
    }
    assert found["<OPEN_VOCABULARY_DETECTION>"][1] == pytest.approx(2 / 11, abs=0.001)
    assert found["<OD>"][1] == pytest.approx(1 / 11, abs=0.001)


def test_weights_of_tasks(prepared: Path) -> None:
    weights = {"<CAPTION>": 3.0, "<OPEN_VOCABULARY_DETECTION>": 1.0}
    found = answers(told(prepared, data=data(prepared, tasks=weights), batch={"images": 4, "targets": 1}))
    assert found["<CAPTION>"] == (8, pytest.approx(0.75, abs=0.03))  # whatever number of targets each has
    # of three targets with weights 3, 1/2 and 1/2 two are drawn, one after the other
    found = answers(told(prepared, data=data(prepared, tasks=weights), batch={"images": 4, "targets": 2}))
    missed = 2 * (0.5 / 4) * (0.5 / 3.5)
    assert found["<CAPTION>"][1] == pytest.approx((1 - missed) / 2, abs=0.02)


def test_sources_that_teach_other_tasks(prepared: Path) -> None:
    two = {
        "a": {"path": str(prepared / "data"), "weight": 3, "tasks": ["<OD>"]},
        "b": {"path": str(prepared / "data"), "weight": 1, "tasks": ["<CAPTION>"]},
    }
    found = answers(told(prepared, data=two))
    assert found == {"<OD>": (8, pytest.approx(0.75, abs=1e-3)), "<CAPTION>": (8, pytest.approx(0.25, abs=1e-3))}


def test_examples(prepared: Path) -> None:
    lines = section(told(prepared), "Answers")
    assert "<CAPTION> -> a man and 0 dogs" in lines
    assert "<VQA>how many dogs? -> 0" in lines
    # x from 5 to 35 of 90 pixels, y from 5 to 50 of 60, in thousandths, rounded down
    assert "<OD> -> dog<loc_55><loc_83><loc_388><loc_833>" in lines
    assert "<REGION_TO_CATEGORY><loc_55><loc_83><loc_388><loc_833> -> dog" in lines


def test_scenes(prepared: Path) -> None:
    scenes = {"drawn": {"scenes": {"count": 200, "words": [0, 0]}, "tasks": ["<OD>"], "hold_out": 0.1}}
    text = told(prepared, data=scenes)
    out = sum(is_held_out(str(i), 0.1) for i in range(200))
    lines = section(text, "Data")
    assert lines[1].startswith(f"200 records: {200 - out} to learn from, {out} held out")
    assert answers(text)["<OD>"] == (200 - out, 1.0)
    assert any(line.startswith("<OD> about") for line in section(text, "Answers"))


@pytest.mark.parametrize(
    ("processes", "micro", "words"),
    [
        (1, 0, ""),
        (1, 8, ""),
        (1, 2, "the process takes 4 x 2 photos"),
        (1, 3, "the process takes 2 x 3 + 2 photos"),
        (2, 0, "each of 2 processes (ddp) takes 1 x 4 photos"),
        (2, 1, "each of 2 processes (ddp) takes 4 x 1 photos"),
    ],
)
def test_batches(prepared: Path, processes: int, micro: int, words: str) -> None:
    batch = {"images": 8, "micro": micro}
    lines = section(told(prepared, processes, batch=batch, schedule={"steps": 3}), "Steps")
    assert lines[0] == "3 of 8 photos: 24 photos, 3 times through the data"
    assert words in " ".join(lines)
    assert bool(words) == ("takes" in " ".join(lines))


def test_photos_that_cannot_be_shared(prepared: Path) -> None:
    with pytest.raises(ConfigError, match="3 processes cannot share evenly"):
        told(prepared, processes=3, batch={"images": 8})


def test_epochs(prepared: Path) -> None:
    out = sum(is_held_out(f"photo{i}", 0.4) for i in range(8))
    lines = section(told(prepared, data=data(prepared, hold_out=0.4), schedule={"epochs": 2.5}), "Steps")
    assert lines[0].startswith(f"{math.ceil(2.5 * (8 - out) / 4)} of 4 photos")


def test_resolutions(prepared: Path) -> None:
    stages = [{"size": 32, "until": 0.5}, {"size": [64, 96]}]
    lines = section(told(prepared, resolution=stages, schedule={"steps": 10}), "Steps")
    assert "photos of 32 x 32 pixels, then 96 x 64 pixels from step 6" in lines


def test_rates(prepared: Path) -> None:
    optimizer = {"lr": 1e-3, "lr_scale": {"vision": 0.5}, "weight_decay": 0.1}
    schedule = {"steps": 100, "warmup": 10, "floor": 0.1, "shape": "linear"}
    lines = section(told(prepared, optimizer=optimizer, schedule=schedule), "Learning rate")
    assert lines[0] == "rises over 10 steps to 0.001, then falls in a line to 0.0001"
    assert lines[1] == "in step 1 10 26 51 100"
    at = [0.1, 1.0, *(1 - 0.9 * (step - 10) / 90 for step in (25, 50, 99))]
    assert lines[2].split()[1:] == [f"{1e-3 * value:.2g}" for value in at]
    groups = [line.split(" ", 4) for line in lines[4:]]
    assert [(peak, decay) for peak, decay, *_ in groups] == [
        ("0.001", "0.1"),
        ("0.001", "0"),
        ("0.0005", "0.1"),
        ("0.0005", "0"),
    ]
    assert [where for *_, where in groups[2:]] == ["vision", "vision"]
    learn = sum(int(count.replace(",", "")) for _, _, _, count, _ in groups)
    (whole,) = [line for line in section(told(prepared), "Model") if line.startswith("all")]
    assert whole.split()[2] == f"{learn:,}"


def test_schedules_in_words() -> None:
    assert in_words(Schedule(steps=5), 0.1) == "begins at 0.1, then falls along a cosine to 0"
    assert in_words(Schedule(steps=5, shape="constant", warmup=2), 0.1) == "rises over 2 steps to 0.1, then stays"


def test_validation_and_files(prepared: Path) -> None:
    choice = {
        "data": {"more": {"path": str(prepared / "data"), "tasks": ["<OD>"]}},
        "every": 2,
        "records": 5,
        "first": True,
        "answers": True,
        "best": "<OD> AP",
    }
    text = told(prepared, validation=choice, optimizer={"lr": 1e-3, "ema": 0.5})
    lines = section(text, "Validation")
    assert lines[0] == "every 2 steps and at the end, and before the first step, on 5 photos of more"
    assert lines[-1] == "the model with the best '<OD> AP' is kept, with averaged weights"
    files = [line.split()[0] for line in section(text, "Files")]
    assert files == ["model/", "best/", "snapshots/", "log.jsonl", "data/", "recipe.json"]
    plain = told(prepared)
    assert "Validation" not in plain
    assert "best/" not in " ".join(section(plain, "Files"))


def test_what_is_told_happens(prepared: Path) -> None:
    """The run that follows has the numbers of the explanation."""
    tables: dict[str, Any] = {
        "data": data(prepared, hold_out=0.4, tasks=["<OD>", "<CAPTION>"]),
        "schedule": {"epochs": 1.5, "warmup": 1},
        "validation": {"every": 2, "first": True},
    }
    recipe, notes = small.recipe(prepared, "happens", **tables), Notes()
    text = explain(recipe)
    finished = train(recipe, watchers=[notes])
    assert section(text, "Steps")[0].startswith(f"{finished.steps} of 4 photos")
    assert {task for report in notes.reports for task in report.tasks} == set(answers(text))
    at, rates = (line.split()[-len(notes.reports) :] for line in section(text, "Learning rate")[1:3])
    said = dict(zip(at, rates, strict=True))
    for report in notes.reports:
        if str(report.step) in said:
            assert said[str(report.step)] == f"{report.lr:.2g}"
    for line in section(text, "Files"):
        assert (finished.folder / line.split()[0]).exists(), line


# What is likely to be a mistake


def hints(text: str) -> str:
    return " ".join(section(text, "To look at")) if "To look at" in text else ""


def test_a_good_recipe_has_none(prepared: Path) -> None:
    good = {"validation": {"every": 2}, "save": {"every": 2}, "data": data(prepared, hold_out=0.4)}
    assert hints(told(prepared, **good)) == ""


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({}, "nothing is held out"),
        ({"optimizer": {"lr": 0.05}}, "optimizer.lr is 0.05, high for a model that has learned already; try 0.0001"),
        ({"optimizer": {"lr": 0.05}, "lora": {}}, "optimizer.lr is 0.05, high for a model that has learned already"),
        ({"schedule": {"steps": 4, "warmup": 4}}, "the learning rate rises over 4 steps, the run has 4"),
        ({"save": {"every": 5}}, "save.every is 5, the run has 4 steps"),
        ({"optimizer": {"lr": 1e-3, "ema": 0.9}}, "reaches back 10 steps, the run has 4"),
        ({"run": {"device": "cpu", "precision": "fp16"}}, "fp16 is slow"),
        ({"model": {"source": "MODEL", "compile": True}, "run": {"device": "cpu"}}, "model.compile"),
        ({"lora": {}, "resolution": [{"size": 64}]}, "an adapter does not say which size"),
        ({"data": {"small": {"tasks": ["<OD>"]}}}, "data.small could also teach <CAPTION>, <REGION_PROPOSAL>"),
        ({"data": {"small": {"tasks": ["<OD>", "<DocVQA>"], "limit": 3}}}, ""),
        ({"data": {"small": {"tasks": ["<CAPTION>", "<DENSE_REGION_CAPTION>"]}}}, "teaches <DENSE_REGION_CAPTION>"),
        ({"data": {"small": {"tasks": ["<DENSE_REGION_CAPTION>"]}}}, "can teach <DENSE_REGION_CAPTION>; the run would"),
        (
            {"data": {"small": {"hold_out": 0.4, "tasks": ["<OD>"]}}, "validation": {"best": "<VQA> loss"}},
            "validation.best is <VQA> loss, and no photo to validate on asks <VQA>",
        ),
        ({"data": {"small": {"hold_out": 0.4}}, "validation": {"every": 9}}, "validation.every is 9, the run has 4"),
    ],
)
def test_hints(prepared: Path, tables: dict[str, Any], words: str) -> None:
    filled = {key: dict(value) if isinstance(value, dict) else value for key, value in tables.items()}
    if "data" in filled:
        filled["data"] = {"small": {"path": str(prepared / "data"), **filled["data"]["small"]}}
    if filled.get("model", {}).get("source") == "MODEL":
        filled["model"]["source"] = str(prepared / "model")
    assert words in hints(told(prepared, **filled))


def test_an_adapter_may_learn_faster(prepared: Path) -> None:
    assert "high for a model" not in hints(told(prepared, optimizer={"lr": 5e-3}, lora={}))
    assert "high for a model" in hints(told(prepared, optimizer={"lr": 5e-3}))


def test_a_finished_run_is_in_the_way(prepared: Path) -> None:
    recipe = small.recipe(prepared, "in-the-way")
    assert "--resume" not in explain(recipe)
    train(recipe, watchers=())
    assert "holds a run of 4 steps; --resume goes on with it" in hints(explain(recipe))


def test_problems_are_told(tmp_path: Path) -> None:
    small.prepare(tmp_path)
    records = small.records(tmp_path / "pictures")
    bad = Thing(label="cat", box=(50.0, 5.0, 20.0, 9.0))
    objects = (bad,)
    broken = Record(image=records[0].image, id="odd", width=90, height=60, objects=objects)
    write([*records, broken], tmp_path / "odd", "records")
    odd = {"odd": {"path": str(tmp_path / "odd")}}
    text = hints(told(tmp_path, data=odd))
    assert "data.odd: 1 problems in what was read and in the 9 records that were checked; the run would stop" in text
    assert "the box of 'cat' is inverted" in text
    assert "left out" in hints(told(tmp_path, data=odd, preflight={"problems": "skip"}))
    with pytest.raises(DataError, match="inverted"):
        train(small.recipe(tmp_path, "never", data=odd), watchers=())


def test_answers_that_are_too_long(tmp_path: Path) -> None:
    small.prepare(tmp_path)
    (first, *_) = small.records(tmp_path / "pictures")
    tale = " ".join(["a man and a dog and a cat"] * 60)
    long = Record(image=first.image, id="long", width=90, height=60, captions=(tale,))
    write([long], tmp_path / "long", "records")
    assert "the position table 160" in hints(told(tmp_path, data={"long": {"path": str(tmp_path / "long")}}))


def test_what_is_missing_is_an_error(prepared: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist"):
        told(prepared, data={"small": {"path": "nowhere"}})
    with pytest.raises(ConfigError, match="no module of the model is called 'nothing'"):
        told(prepared, lora={"targets": ["nothing"]})


def test_a_model_from_random_weights(prepared: Path) -> None:
    recipe = small.recipe(prepared, "anew", model={"preset": "nano", "tokenizer": str(prepared / "model")})
    text = explain(recipe)
    assert section(text, "Model")[0].startswith("nano, random weights")
    trained = small.recipe(prepared, "anew", model={"preset": "large", "vocab_size": 1300})
    (embedding,) = [line for line in section(explain(trained), "Model") if line.startswith("embedding")]
    assert 1000 * 1024 < int(embedding.split()[1].replace(",", "")) <= 1300 * 1024
    assert not (prepared / "anew").exists()


def test_reading_is_reported(prepared: Path) -> None:
    said: list[tuple[str, int]] = []
    explain(small.recipe(prepared, "never"), doing=lambda what, done: said.append((what, done)))
    assert said == [("reading small", 0), ("checking small", 0)]


def test_a_recipe_of_a_file(prepared: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(
        f'output = "{tmp_path}/run"\nmodel.source = "{prepared}/model"\n'
        f'[data.small]\npath = "{prepared}/data"\n[schedule]\nsteps = 2\n'
    )
    assert "2 of 8 photos" in explain(Recipe.load(path))
