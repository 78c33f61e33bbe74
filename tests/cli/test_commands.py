"""All commands: their flags, their help, and the small ones."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from florence2 import Florence2, save
from florence2.checkpoints import load
from florence2.cli import app, verify
from florence2.language.tasks import TASKS
from tests.cli.conftest import Run
from tests.tiny_checkpoint import picture, tiny_checkpoint

FLAGS = {
    "bench": {
        *(
            "--random",
            "--peer",
            "--peer-exact",
            "--stage",
            "-s",
            "--rounds",
            "--threads",
            "--cold",
            "--device",
            "--dtype",
        ),
        *("--output", "-o", "--batch", "-b", "--drift", "--limit", "--compile"),
    },
    "run": {
        *(
            "--task",
            "-t",
            "--all",
            "--text",
            "--box",
            "--labels",
            "--model",
            "-m",
            "--adapter",
            "--device",
            "--dtype",
            "--runtime",
            "--min-score",
        ),
        *("--beams", "--max-new-tokens", "--reference", "--json", "--raw", "--output", "-o"),
    },
    "parse": {"--reference"},
    "info": {"--revision", "--device", "--dtype", "--json"},
    "convert": {"--layout", "--dtype", "--revision", "--adapter", "--overwrite"},
    "export": {"--int8", "--force"},
    "tasks": set(),
    "doctor": {"--revision", "--device", "--dtype"},
    "verify": {"--photos", "--device", "--dtype"},
    "data check": {"--task", "-t", "--limit", "--from", "--model", "-m", "--json"},
    "data convert": {"--format", "-f", "--from"},
    "data show": {
        *("--output", "-o", "--count", "--columns", "--from"),
        *("--augment", "--flip", "--crop", "--shrink", "--colour", "--recipe", "--seed"),
    },
    "data scenes": {
        *("--count", "-n", "--format", "-f", "--seed", "--size", "--objects", "--words", "--labels"),
        *("--cutouts", "--backgrounds", "--vocabulary", "--fonts", "--png"),
    },
    "train": {"--explain", "--resume", "--set", "--output", "-o"},
    "evaluate": {
        *{"--predictions", "--truth", "--task", "-t", "--json", "--tokenized"},
        *{"--model", "-m", "--adapter", "--device", "--dtype", "--beams", "--reference", "--peer"},
        *{"--benchmark", "-b", "--data", "--limit", "--blind", "--list", "--output", "-o"},
    },
    "compare": {"--data", "--json"},
    "calibrate": {"--data", "--output", "-o"},
}
"""Frozen: people's scripts hold them. Add to it with thought, take from it never."""


def test_the_flags_are_what_was_promised() -> None:
    group = typer.main.get_command(app)
    commands = {}
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        inside = getattr(command, "commands", None)
        commands.update({f"{name} {inner}": c for inner, c in inside.items()} if inside else {name: command})
    found = {
        name: {
            option
            for parameter in command.params
            if parameter.param_type_name == "option"
            for option in (*parameter.opts, *parameter.secondary_opts)
        }
        - {"--help"}
        for name, command in commands.items()
    }
    assert found == FLAGS


@pytest.mark.parametrize("command", FLAGS)
def test_help_teaches(call: Run, command: str) -> None:
    result = call(*command.split(), "--help")
    assert result.exit_code == 0
    if command != "tasks":
        assert f"florence2 {command}" in result.stdout.split("Arguments")[0].split("Usage:")[1]


def test_version(call: Run) -> None:
    assert call("--version").stdout.startswith("florence2 0.")


def test_tasks_lists_them_all(call: Run) -> None:
    result = call("tasks")
    assert result.exit_code == 0
    assert all(
        task.name in result.stdout.replace("\n", "") or task.name[:12] in result.stdout for task in TASKS.values()
    )


def test_info(call: Run, tiny_folder: Path) -> None:
    result = call("info", tiny_folder)
    assert result.exit_code == 0
    for word in ("parameters", "layout", "float32 (", "cpu (" if "cpu" in result.stdout else "cuda"):
        assert word in result.stdout
    facts = json.loads(call("info", tiny_folder, "--device", "cpu", "--json").stdout)
    assert facts["device"] == "cpu (as asked)"
    assert facts["parameters"] == f"{sum(p.numel() for p in load(tiny_folder).model.parameters()):,}"


@pytest.mark.parametrize("layout", ["florence2", "microsoft", "native"])
def test_convert_there_and_back(call: Run, tiny_folder: Path, tmp_path: Path, layout: str) -> None:
    there = call("convert", tiny_folder, tmp_path / "there", "--layout", layout)
    assert there.exit_code == 0, there.stderr
    assert "float32" in there.stdout
    assert load(tmp_path / "there").layout == layout
    assert call("convert", tmp_path / "there", tmp_path / "back").exit_code == 0
    photo = picture(1)
    first, last = (Florence2.from_pretrained(folder).detect(photo) for folder in (tiny_folder, tmp_path / "back"))
    assert first == last


def test_convert_to_half_and_not_over_something(call: Run, tiny_folder: Path, tmp_path: Path) -> None:
    assert call("convert", tiny_folder, tmp_path / "half", "--dtype", "float16").exit_code == 0
    again = call("convert", tiny_folder, tmp_path / "half")
    assert again.exit_code == 2
    assert str(tmp_path / "half") in again.stderr
    kept = call("convert", tmp_path / "half", tmp_path / "copy")  # the precision of the file is kept
    assert "float16" in kept.stdout


def test_doctor_finds_a_sound_checkpoint_sound(call: Run, tiny_folder: Path) -> None:
    result = call("doctor", tiny_folder)
    assert result.exit_code == 0, result.stdout
    assert "FAILS" not in result.stdout
    for what in ("PyTorch", "files", "layout", "weights", "tokenizer", "answers"):
        assert what in result.stdout


def test_doctor_names_what_is_wrong(call: Run, tiny_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    broken.mkdir()
    for path in tiny_folder.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    tensors = load_file(broken / "model.safetensors")
    removed = "projector.norm.weight"
    del tensors[removed]
    save_file(tensors, broken / "model.safetensors")
    result = call("doctor", broken)
    assert result.exit_code == 1
    assert "FAILS  weights: " in result.stdout
    assert removed in result.stdout
    assert "Traceback" not in result.stdout


# verify: with the tiny model as the official one, and answers that it has "published" itself


@pytest.fixture(scope="module")
def fluent_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model kept from writing halves of characters: its answers survive being written down."""
    checkpoint = tiny_checkpoint()
    model = copy.deepcopy(checkpoint.model)
    for id in range(checkpoint.config.text.vocab_size):
        if not checkpoint.tokenizer.token_text(id).isprintable() or "\ufffd" in checkpoint.tokenizer.token_text(id):
            model.text.logits_bias[..., id] = -1000
    return save(dataclasses.replace(checkpoint, model=model), tmp_path_factory.mktemp("fluent") / "tiny")


@pytest.fixture
def official(fluent_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Photos of the published answers, drawn here; returns their folder."""
    folder = tmp_path / "published"
    folder.mkdir()
    entries = []
    with Florence2.from_pretrained(fluent_folder) as model:
        for seed, (task, text) in enumerate([("<CAPTION>", None), ("<OD>", None), ("<REGION_PROPOSAL>", None)]):
            photo = folder / f"{seed}.png"
            picture(seed).save(photo)
            raw = model.run(photo, task, text, reference=True, raw=True, max_new_tokens=20).raw
            assert raw is not None
            entries.append(
                verify.Published(
                    model="microsoft/tiny",
                    converted=str(fluent_folder),
                    image=f"https://example.org/photos/{seed}.png",
                    task=task,
                    text=text,
                    answer=raw.text,
                    source="max_new_tokens 20",
                )
            )
    monkeypatch.setattr(verify, "published", lambda: entries)
    return folder


def test_verify_agrees_with_itself(call: Run, official: Path, fluent_folder: Path) -> None:
    result = call("verify", fluent_folder, "--photos", official)
    assert result.exit_code == 0, result.stdout + result.stderr
    assert result.stdout.count("equal") == 3
    assert "3 of 3 published answers agree" in result.stdout


def test_verify_sees_other_answers(
    call: Run, official: Path, fluent_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted fault."""
    entries = verify.published()
    wrong = [dataclasses.replace(entry, answer="a dog<loc_1><loc_2><loc_3><loc_4>") for entry in entries]
    monkeypatch.setattr(verify, "published", lambda: wrong)
    result = call("verify", fluent_folder, "--photos", official)
    assert result.exit_code == 1
    assert result.stdout.count("DIFFERS") == 3


def test_verify_says_what_is_missing(call: Run, official: Path, fluent_folder: Path) -> None:
    (official / "1.png").unlink()
    result = call("verify", fluent_folder, "--photos", official)
    assert result.exit_code == 2
    assert "https://example.org/photos/1.png" in result.stderr
    assert "photos/0.png" not in result.stderr


def test_verify_without_weights_names_weights_and_photos(call: Run, official: Path) -> None:
    result = call("verify", official / "nowhere", "--photos", official)
    assert result.exit_code == 2
    assert "the weights: " in result.stderr
    other = call("verify", official, "--photos", official)  # a folder without a model
    assert other.exit_code == 2
    assert "the weights: " in other.stderr


def test_the_published_answers_are_the_golden_ones(golden: Path) -> None:
    carried = [dataclasses.asdict(entry) for entry in verify.published()]
    assert carried == json.loads((golden / "published_answers.json").read_text())["answers"]
    assert {entry.photo for entry in verify.published()} == {"australia.jpg", "car.jpg"}
    assert {entry.budget for entry in verify.published()} == {100, 1024}


# The real thing: another process


@pytest.mark.slow
@pytest.mark.parametrize("program", [["-m", "florence2"], ["-c", "from florence2.cli import main; main()"]])
def test_in_a_process_of_its_own(program: list[str], photos: Path, tiny_folder: Path) -> None:
    arguments = ["run", "photos", "missing.png", "-t", "caption", "-m", str(tiny_folder), "--json"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, *program, *arguments],
        capture_output=True,
        encoding="utf-8",
        env=environment,
        cwd=photos.parent,
    )
    assert result.returncode == 1, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [("error" in line) for line in lines] == [False, False, False, True]
    assert "Traceback" not in result.stderr
