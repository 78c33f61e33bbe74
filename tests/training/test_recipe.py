"""Recipes: what they may say, what they refuse, and how a refusal helps."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence2.checkpoints.adapters import LoraSettings
from florence2.data.augment import Augment
from florence2.data.scenes import SceneSettings
from florence2.errors import ConfigError
from florence2.training import Recipe, recipe, strict

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PAGE = Path(__file__).parent.parent.parent / "docs" / "training.md"
LEAST: dict[str, Any] = {"output": "runs/a", "schedule": {"steps": 10}, "data": {"mine": {"path": "photos"}}}


def refused(*words: str, **tables: Any) -> None:
    """The least recipe with these tables is an error that says all these words."""
    Recipe.from_dict(LEAST)  # its twin is accepted
    with pytest.raises(ConfigError) as caught:
        Recipe.from_dict({**LEAST, **tables})
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)


def mine(**fields: Any) -> dict[str, Any]:
    return {"mine": {"path": "photos", **fields}}


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"sede": 1}, ["sede: the recipe knows no such name", "did you mean 'seed'"]),
        ({"optimizer": {"lrr": 1e-4}}, ["optimizer.lrr: [optimizer]", "did you mean 'lr'"]),
        ({"optimizer": {"freeze": ["vision"]}}, ["optimizer.freeze", "it belongs to model.freeze"]),
        ({"lr": 1e-4}, ["lr: the recipe", "it belongs to optimizer.lr"]),
        (
            {"schedule": {"steps": 1, "warm_up": 5}},
            ["schedule.warm_up", "did you mean 'warmup'", "Known: steps, epochs"],
        ),
        ({"model": {"workers": 2}}, ["model.workers", "batch.workers"]),
        ({"every": 3}, ["validation.every or save.every or log.every"]),
        ({"data": mine(hold_ou=0.1)}, ["data.mine.hold_ou: [data.mine]", "did you mean 'hold_out'"]),
        ({"data": {"mine": {"scenes": {"cuont": 3}}}}, ["data.mine.scenes.cuont", "did you mean 'count'"]),
        ({"data": mine(augment={"flipp": 1})}, ["data.mine.augment.flipp", "'flip'"]),
        ({"resolution": [{"size": 64, "untill": 1.0}]}, ["resolution[0].untill", "'until'"]),
        ({"lora": {"rnak": 4}}, ["lora.rnak", "did you mean 'rank'"]),
        ({"validation": {"data": {"v": {"path": "x", "weigth": 1}}}}, ["validation.data.v.weigth", "'weight'"]),
        ({"nothing_like_it_at_all": 1}, ["knows no such name", "Known: output, schedule, data"]),
    ],
)
def test_unknown_names_lead_to_the_right_one(tables: dict[str, Any], words: list[str]) -> None:
    refused(*words, **tables)


def fields_of(cls: Any, where: str = "") -> Iterator[tuple[str, ...]]:
    """The path of every table of a recipe that has a fixed place."""
    yield tuple(where.split("."))[1:]
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(field.default):
            yield from fields_of(type(field.default), f"{where}.{field.name}")


@given(st.sampled_from(sorted(set(fields_of(Recipe)))), st.text("abcdefghijklmnopqrstuvwxyz", min_size=11, max_size=20))
def test_no_table_takes_an_unknown_name(path: tuple[str, ...], name: str) -> None:
    table = json.loads(json.dumps(LEAST))
    strict.assign(table, ".".join((*path, name + "_")), 1)
    with pytest.raises(ConfigError, match="knows no such name"):
        Recipe.from_dict(table)


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"seed": "1"}, ["seed is '1', expected a whole number"]),
        ({"seed": 1.5}, ["seed is 1.5, expected a whole number"]),
        ({"seed": True}, ["seed is True, expected a whole number"]),
        ({"log": {"tensorboard": 1}}, ["log.tensorboard is 1, expected true or false"]),
        ({"optimizer": {"lr": "1e-4"}}, ["optimizer.lr is '1e-4', expected a number"]),
        ({"optimizer": {"lr": float("nan")}}, ["optimizer.lr is nan, expected a finite number"]),
        ({"optimizer": {"betas": [0.9]}}, ["optimizer.betas has 1 entries, expected 2"]),
        ({"optimizer": {"betas": 0.9}}, ["optimizer.betas is 0.9, expected a list"]),
        ({"optimizer": {"lr_scale": {"visoin": 0.1}}}, ["a name in optimizer.lr_scale is 'visoin'", "mean 'vision'"]),
        ({"optimizer": 1e-4}, ["optimizer is 0.0001, expected a table of names"]),
        ({"schedule": {"steps": 1, "shape": "cosin"}}, ["schedule.shape is 'cosin'", "did you mean 'cosine'"]),
        ({"run": {"precision": "int8"}}, ["run.precision is 'int8', expected 'auto' or 'fp32'"]),
        ({"data": {"mine": "photos"}}, ["data.mine is 'photos', expected a table of names"]),
        ({"data": mine(tasks="<OD>")}, ["data.mine.tasks is '<OD>', expected a list or a table of names"]),
        ({"data": mine(tasks={"<OD>": "often"})}, ["data.mine.tasks.<OD> is 'often', expected a number"]),
        ({"model": {"freeze": "vision"}}, ["model.freeze is 'vision', expected a list"]),
        ({"resolution": [{"size": "big"}]}, ["resolution[0].size is 'big', expected"]),
    ],
)
def test_wrong_types(tables: dict[str, Any], words: list[str]) -> None:
    refused(*words, **tables)


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"optimizer": {"lr": 0}}, ["[optimizer]", "lr"]),
        ({"optimizer": {"ema": 1.0}}, ["[optimizer]", "ema"]),
        ({"batch": {"images": 0}}, ["[batch]", "images", "at least 1"]),
        ({"batch": {"workers": -1}}, ["[batch]", "workers"]),
        ({"loss": {"label_smoothing": 1.0}}, ["[loss]", "label_smoothing"]),
        ({"augment": {"flip": 1.5}}, ["[augment]", "flip is 1.5"]),
        ({"data": mine(hold_out=1)}, ["[data.mine]: hold_out is 1.0, expected a share from 0 to below 1"]),
        ({"data": mine(weight=0)}, ["[data.mine]: weight is 0.0", "remove the source"]),
        ({"data": mine(tasks={"<OD>": 0})}, ["[data.mine]: the weight of <OD> is 0.0"]),
        ({"data": mine(tasks=["<ODD>"])}, ["[data.mine]", "<ODD>"]),
        ({"data": mine(scenes={})}, ["[data.mine]: a source has either a path or scenes"]),
        ({"data": {"mine": {}}}, ["[data.mine]: a source has either a path or scenes"]),
        ({"data": {"mine": {"scenes": {"size": [1, 1]}}}}, ["[data.mine.scenes]", "too small"]),
        ({"data": {}}, ["the recipe has no data; add a table such as [data.mine]"]),
        ({"schedule": {}}, ["[schedule]: give steps or epochs"]),
        ({"schedule": {"steps": 5, "epochs": 1}}, ["[schedule]", "found steps 5, epochs 1.0"]),
        ({"model": {"vocab_size": 500}}, ["[model]: tokenizer and vocab_size go with preset"]),
        ({"schedule": {"steps": 5, "warmup": -1}}, ["[schedule]", "warmup is -1"]),
        ({"data": mine(limit=0)}, ["[data.mine]", "limit is 0"]),
        ({"optimizer": {"lr_scale": {"vision": 0}}}, ["lr_scale.vision is 0.0", "model.freeze"]),
        ({"validation": {"best": "<OD> AP"}}, ["[validation]", "set answers = true"]),
        ({"save": {"every": 0}}, ["[save]: every is 0"]),
        ({"log": {"every": 0}}, ["[log]: every is 0"]),
        ({"lora": {"rank": 0}}, ["[lora]", "at least 1, found 0"]),
    ],
)
def test_out_of_range(tables: dict[str, Any], words: list[str]) -> None:
    refused(*words, **tables)


def test_what_is_missing_is_named() -> None:
    for name in LEAST:
        with pytest.raises(ConfigError, match=f"^{name} is missing; it has no default"):
            Recipe.from_dict({key: value for key, value in LEAST.items() if key != name})


def test_all_sources_have_weights_or_none() -> None:
    weighted: dict[str, dict[str, Any]] = {"a": {"path": "x", "weight": 1}, "b": {"path": "y"}}
    refused("data.a has a weight and data.b has none; weigh all or none", data=weighted)
    weighted["b"]["weight"] = 3
    assert [source.weight for source in Recipe.from_dict({**LEAST, "data": weighted}).data.values()] == [1, 3]


def test_what_does_not_go_together() -> None:
    refused("leave out model.freeze", lora={}, model={"freeze": ["vision"]})
    refused("preset", "source", model={"preset": "base", "source": "elsewhere"})
    refused("give a source", lora={}, model={"preset": "nano"})
    refused("without the new words", lora={}, model={"new_words": ["fork"]})
    refused("use ddp", lora={}, run={"distributed": "fsdp"})
    refused("use bf16", run={"distributed": "fsdp", "precision": "fp16"})
    assert Recipe.from_dict({**LEAST, "lora": {}}).lora is not None


@pytest.mark.parametrize("ends", [[0.5], [0.8, 0.5], [1.0, 0.5], [0.5, 2.0], [0.5, 0.9]])
def test_resolution_must_rise_to_the_end(ends: list[float]) -> None:
    refused("resolution", "until", resolution=[{"size": 64, "until": end} for end in ends])


def test_resolution_is_square_or_not() -> None:
    stages = [{"size": 64, "until": 0.5}, {"size": [96, 128]}]
    read = Recipe.from_dict({**LEAST, "resolution": stages})
    assert [stage.pixels for stage in read.resolution] == [(64, 64), (96, 128)]


def test_tasks_as_list_and_as_table() -> None:
    def weights(tasks: Any) -> dict[str, float]:
        return Recipe.from_dict({**LEAST, "data": mine(tasks=tasks)}).data["mine"].task_weights

    assert weights([]) == {}
    assert weights(["<OD>", "<CAPTION>"]) == {"<OD>": 1, "<CAPTION>": 1}
    assert weights(["detect", "caption"]) == {"<OD>": 1, "<CAPTION>": 1}  # as on the command line
    assert weights({"detect": 3, "<OCR>": 0.5}) == {"<OD>": 3, "<OCR>": 0.5}


# Files and --set


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text('output = "runs/a"\n[data.mine]\npath = "photos"\n[schedule]\nsteps = 10\n')
    return path


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("seed=7", lambda r: r.seed == 7),
        ("optimizer.lr=1e-4", lambda r: r.optimizer.lr == 1e-4),
        ("optimizer.lr = 1", lambda r: r.optimizer.lr == 1.0),
        ("output=runs/b c", lambda r: r.output == "runs/b c"),  # as a shell leaves a quoted text
        ('output="runs/b"', lambda r: r.output == "runs/b"),
        ("output=a=b", lambda r: r.output == "a=b"),
        ("model.freeze=['vision', 'projector']", lambda r: r.model.freeze == ("vision", "projector")),
        ("log.tensorboard=false", lambda r: r.log.tensorboard is False),
        ("data.mine.tasks={'<OD>' = 2}", lambda r: r.data["mine"].task_weights == {"<OD>": 2.0}),
        ("data.more.path=elsewhere", lambda r: list(r.data) == ["mine", "more"]),
        ("data.mine.augment.flip=0.5", lambda r: r.data["mine"].augment == Augment(flip=0.5)),
        ("lora.rank=4", lambda r: r.lora is not None and r.lora.rank == 4),
    ],
)
def test_set(file: Path, change: str, found: Any) -> None:
    assert not found(Recipe.load(file))
    assert found(Recipe.load(file, [change]))


@pytest.mark.parametrize(
    ("written", "change", "found"),
    [
        ("data.mine.scenes.count = 5", "data.mine.path=photos", lambda r: r.data["mine"].scenes is None),
        ('data.mine.path = "photos"', "data.mine.scenes={count = 5}", lambda r: r.data["mine"].path == ""),
        ("schedule.steps = 5", "schedule.epochs=2", lambda r: r.schedule == recipe.Schedule(epochs=2.0)),
        ('model.source = "photos"', "model.preset=base", lambda r: r.model.preset == "base"),
    ],
)
def test_one_alternative_takes_the_place_of_the_other(tmp_path: Path, written: str, change: str, found: Any) -> None:
    others = ['output = "a"', "schedule.steps = 10", 'data.mine.path = "x"']
    rest = [line for line in others if line.split(".")[0] != written.split(".")[0]]
    path = tmp_path / "recipe.toml"
    path.write_text("\n".join([*rest, written]))
    assert not found(Recipe.load(path))
    assert found(Recipe.load(path, [change]))


def test_the_last_set_wins(file: Path) -> None:
    assert Recipe.load(file, ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("seed", "--set seed: expected table.name=value"),
        ("=3", "--set =3: expected table.name=value"),
        ("seed=many", "seed is 'many', expected a whole number"),
        ("seed.deep=1", "seed is missing|seed is {'deep': 1}, expected a whole number"),
        ("output.deep=1", "output is 'runs/a' and not a table"),
        ("optimiser.lr=1", "did you mean 'optimizer'"),
    ],
)
def test_mistakes_of_set(file: Path, change: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Recipe.load(file, [change])


def test_files_that_are_no_recipes(tmp_path: Path, file: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml cannot be read \(No such file or directory\)"):
        Recipe.load(tmp_path / "none.toml")
    file.write_text("output = runs/a")
    with pytest.raises(ConfigError, match=r"recipe\.toml is no TOML: .*line 1"):
        Recipe.load(file)
    file.write_bytes(b'output = "\xff"')
    with pytest.raises(ConfigError, match=r"recipe\.toml is no TOML"):
        Recipe.load(file)
    file.write_text("sede = 1")
    with pytest.raises(ConfigError, match=r"recipe\.toml: sede: the recipe knows no such name"):
        Recipe.load(file)


FULL: dict[str, Any] = {
    **LEAST,
    "seed": 3,
    "data": {
        "mine": {"path": "photos", "weight": 2, "tasks": {"<OD>": 3.0}, "augment": {"flip": 0.5}, "hold_out": 0.1},
        "drawn": {"scenes": {"count": 5, "labels": ["car"]}, "weight": 1, "tasks": ["<CAPTION>"], "max_points": 9},
    },
    "lora": {"rank": 4, "targets": ["attention", "ffn"]},
    "optimizer": {"lr_scale": {"vision": 0.1, "text": 2}, "betas": [0.9, 0.98]},
    "resolution": [{"size": 64, "until": 0.25}, {"size": [32, 64]}],
    "validation": {"data": {"test": {"path": "more"}}},
}


@pytest.mark.parametrize("table", [LEAST, FULL])
def test_round_trip(table: dict[str, Any]) -> None:
    read = Recipe.from_dict(table)
    assert Recipe.from_dict(read.to_dict()) == read
    assert Recipe.from_dict(json.loads(json.dumps(read.to_dict()))) == read  # as RUN/recipe.json holds it
    assert Recipe.from_dict({**read.to_dict(), "seed": 99}) != read


PLACES: dict[str, type] = {
    "At the top": Recipe,
    "`[model]`": recipe.ModelChoice,
    "`[data.NAME]`": recipe.DataChoice,
    "`[data.NAME.scenes]`": SceneSettings,
    "`[augment]`": Augment,
    "`[batch]`": recipe.BatchSize,
    "`[optimizer]`": recipe.OptimizerChoice,
    "`[schedule]`": recipe.Schedule,
    "`[[resolution]]`": recipe.Resolution,
    "`[loss]`": recipe.LossChoice,
    "`[lora]`": LoraSettings,
    "`[validation]`": recipe.ValidationChoice,
    "`[save]`": recipe.SaveChoice,
    "`[log]`": recipe.LogChoice,
    "`[preflight]`": recipe.Preflight,
    "`[run]`": recipe.Run,
}
"""Headings of the guide."""


def fields_in_the_guide(page: str, heading: str) -> dict[str, Any]:
    """Name → default (None for a dash) of the rows below a heading."""
    section = re.split(r"^#", page.split(f"\n### {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", section, re.MULTILINE)
    return {name: None if cell == "–" else tomllib.loads(f"v = {cell.strip('`')}")["v"] for name, cell in rows}


def in_the_code(cls: Any) -> dict[str, Any]:
    """Name → default; None where there is none and where it is a table."""
    found = {}
    for field in dataclasses.fields(cls):
        value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        plain = value is not dataclasses.MISSING and not dataclasses.is_dataclass(value)
        found[field.name] = list(value) if isinstance(value, tuple) else value if plain else None
    return found


def test_the_guide_lists_every_field_with_its_default() -> None:
    page = PAGE.read_text(encoding="utf-8")
    tables = {cls for cls in vars(recipe).values() if isinstance(cls, type) and dataclasses.is_dataclass(cls)}
    assert tables == set(PLACES.values())
    for heading, cls in PLACES.items():
        assert fields_in_the_guide(page, heading) == in_the_code(cls), heading
    assert fields_in_the_guide(page.replace("| `lr` |", "| `rate` |"), "`[optimizer]`") != in_the_code(
        recipe.OptimizerChoice
    )
