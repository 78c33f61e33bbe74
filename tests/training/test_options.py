"""The words of a recipe do what they say."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from florence2 import checkpoints
from florence2.checkpoints.calibration import Calibration, Curve
from florence2.config import NANO
from florence2.data.targets import pairs
from florence2.language.tasks import TASKS
from florence2.model import Florence2Model
from florence2.training import Watcher, train
from florence2.training.batch import Batch, Limits, Sample, collate, sample
from florence2.training.mixture import Drawn, Mixture, Source, shares
from florence2.training.objective import Objective, neighbours
from florence2.training.optimizer import factor, groups
from florence2.training.parts import depth
from florence2.training.recipe import LossChoice, OptimizerChoice, Schedule
from florence2.training.sources import is_held_out
from tests.tiny_checkpoint import tiny_checkpoint
from tests.training import small

TASK_NAMES = (*TASKS, "")


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("options")
    small.prepare(folder, still=True)
    return folder


def losses(folder: Path, name: str, **tables: object) -> list[float]:
    notes = small.Notes()
    train(small.recipe(folder, name, **tables), watchers=[notes])
    return notes.losses


@pytest.fixture(scope="module")
def usual(still: Path) -> list[float]:
    return losses(still, "usual")


def test_recomputing_changes_nothing(still: Path, usual: list[float]) -> None:
    model = {"source": str(still / "model"), "gradient_checkpointing": ["vision", "text"]}
    assert losses(still, "recomputed", model=model) == pytest.approx(usual, abs=1e-5)


def test_parts_change_nothing(still: Path, usual: list[float]) -> None:
    batch = {"images": 4, "targets": 3, "micro": 1}
    assert losses(still, "parts", batch=batch) == pytest.approx(usual, abs=1e-5)


def test_what_changes_something(still: Path, usual: list[float]) -> None:
    """The twins of the two above: options that must be seen in the losses."""
    for name, tables in {
        "rate": {"optimizer": {"lr": 2e-3}},
        "smoothed": {"loss": {"label_smoothing": 0.2}},
        "spread": {"loss": {"location_spread": 20.0}},
        "unclipped": {"optimizer": {"lr": 1e-3, "clip": 0.01, "eps": 1e-2}},
        "seed": {"seed": 3},
    }.items():
        assert losses(still, name, **tables)[1:] != pytest.approx(usual[1:], abs=1e-5), name


def test_half_precision_is_close(still: Path, usual: list[float]) -> None:
    assert losses(still, "bf16", run={"precision": "bf16"}) == pytest.approx(usual, abs=0.1)


def test_float16_scales_its_loss(still: Path, usual: list[float]) -> None:
    assert losses(still, "fp16", run={"precision": "fp16"}) == pytest.approx(usual, abs=0.1)


def test_a_scale_that_is_too_large_costs_steps_and_no_weights(still: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients that overflow are not learned from; the scale is halved until they fit, and a resumed run knows it."""
    original = torch.amp.GradScaler

    def scaler(device: str, enabled: bool) -> torch.amp.GradScaler:
        return original(device, init_scale=2.0**24, growth_interval=1, enabled=enabled)

    monkeypatch.setattr(torch.amp, "GradScaler", scaler)
    recipe = small.recipe(still, "overflow", run={"precision": "fp16"}, save={"every": 1}, schedule={"steps": 8})
    folder = train(recipe, watchers=()).folder
    states = [json.loads((path / "state.json").read_text()) for path in sorted(folder.glob("snapshots/step-*"))]
    scales = [state["scaler"]["scale"] for state in states]
    assert scales[-1] < 2.0**24  # it had to come down
    weights = checkpoints.load(folder / "model").model.state_dict()
    assert all(value.isfinite().all() for value in weights.values())

    again = small.recipe(still, "interrupted", run={"precision": "fp16"}, save={"every": 1}, schedule={"steps": 8})
    with pytest.raises(RuntimeError, match="plug"):
        train(again, watchers=[_Unplug(5)])
    resumed = checkpoints.load(train(again, resume=True, watchers=()).folder / "model").model.state_dict()
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)


class _Unplug(Watcher):
    def __init__(self, step: int) -> None:
        self.step = step

    def stepped(self, step: int) -> None:
        if step == self.step:
            raise RuntimeError("pulled the plug")


@pytest.mark.slow
def test_compiling_changes_nothing(still: Path, usual: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced as on a GPU, but run by the operators that were traced: generating code would take minutes here."""
    original, compiled = torch.nn.Module.compile, []

    def compile(module: torch.nn.Module) -> None:
        compiled.append(type(module).__name__)
        original(module, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", compile)
    model = {"source": str(still / "model"), "compile": True}
    assert losses(still, "compiled", model=model, schedule={"steps": 1}) == pytest.approx(usual[:1], abs=1e-5)
    assert len(compiled) == 3


def test_resolutions_one_after_the_other(still: Path) -> None:
    seen = []
    recipe = small.recipe(still, "sizes", resolution=[{"size": 32, "until": 0.5}, {"size": [64, 96]}])
    original = Objective.forward

    def forward(self: Objective, batch: object) -> object:
        seen.append(tuple(batch.pixels.shape[-2:]))  # type: ignore[attr-defined]
        return original(self, batch)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Objective, "forward", forward)
        folder = train(recipe, watchers=()).folder
    assert seen == [(32, 32), (32, 32), (64, 96), (64, 96)]
    assert checkpoints.load(folder / "model").config.image.size == (64, 96)


def test_new_words_are_learned_and_saved(still: Path) -> None:
    model = {"source": str(still / "model"), "new_words": ["zebrafinch"]}
    folder = train(small.recipe(still, "words", model=model), watchers=()).folder
    tokenizer = checkpoints.load(folder / "model").tokenizer
    assert tokenizer is not None
    assert len(tokenizer.encode("zebrafinch")) == 1


def test_a_calibration_of_other_weights_is_not_kept(still: Path) -> None:
    """It says how often the model was right that began, not the one that was trained."""
    folder = still / "calibrated"
    checkpoints.save(checkpoints.load(still / "model"), folder)
    Calibration({"<OD>": Curve((0.0, 1.0), (0.1, 0.9))}).save(folder)
    assert checkpoints.load(folder).calibration is not None
    model = {"source": str(folder), "new_words": ["zebrafinch"]}
    trained = train(small.recipe(still, "uncalibrated", model=model, schedule={"steps": 1}), watchers=()).folder
    assert checkpoints.load(trained / "model").calibration is None


def test_the_best_model_is_kept(still: Path) -> None:
    notes = small.Notes()
    data = {"small": {"path": str(still / "data"), "hold_out": 0.2}}
    recipe = small.recipe(still, "best", data=data, validation={"every": 1, "first": True}, save={"every": 4})
    folder = train(recipe, watchers=[notes]).folder
    best = min(notes.validations, key=lambda v: v.figures["loss"])
    listed = json.loads((folder / "best.json").read_text())
    assert (listed[-1]["step"], best.best) == (best.step, True)
    assert [v.step for v in notes.validations] == [0, 1, 2, 3, 4]
    assert checkpoints.load(folder / "best").layout == "florence2"


def test_answers_are_scored(still: Path) -> None:
    notes = small.Notes()
    data = {"small": {"path": str(still / "data"), "hold_out": 0.2, "tasks": ["<CAPTION>", "<REGION_TO_CATEGORY>"]}}
    train(small.recipe(still, "answers", data=data, validation={"answers": True}), watchers=[notes])
    assert {"<CAPTION> CIDEr", "<REGION_TO_CATEGORY> accuracy"} <= set(notes.validations[-1].figures)


# The loss


def batch_of() -> tuple[Batch, list[Sample]]:
    """Three photos with all their answers, two captions each among them."""
    tokenizer = tiny_checkpoint().tokenizer
    samples = []
    for i, record in enumerate(small.records(FOLDER, 3)):
        record = dataclasses.replace(record, captions=(*record.captions, "a dog"))
        drawn = Drawn("small", record, record.load(), pairs(record))
        samples.append(sample(i, drawn, (64, 64), tokenizer, Limits(140, 160)))
    return collate(samples, TASK_NAMES, tokenizer.pad_id), samples


FOLDER = Path()


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.training.test_options.FOLDER", tmp_path)


def test_shared_photos_and_prompts_give_the_loss_of_each_answer_by_itself() -> None:
    """One photo encoded once for all its answers, padded together, against every answer alone."""
    checkpoint = tiny_checkpoint()
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    objective = Objective(model, tokenizer.first_location_id).eval()
    batch, samples = batch_of()
    assert batch.images == 3 < len(batch.prompts) < sum(len(part.labels) for part in batch.answers)
    with torch.no_grad():
        together = objective(batch)
        alone = []
        for one in samples:
            for lesson in one.lessons:
                ids, labels = torch.tensor([lesson.prompt]), torch.tensor([lesson.answer])
                out = model(objective.pixels(one.pixels[None]), ids, labels=labels)
                alone.append(out.loss.item() * labels.shape[1])
    assert together.total.item() == pytest.approx(sum(alone), rel=1e-5)
    assert together.per_task.sum().item() == pytest.approx(sum(alone), rel=1e-5)
    assert together.tokens.sum().item() == batch.tokens == sum(len(x.answer) for one in samples for x in one.lessons)


def test_padding_that_counts_is_noticed() -> None:
    """The mistake of many recipes, padding trained as text, does not pass the comparison above."""
    checkpoint = tiny_checkpoint()
    objective = Objective(checkpoint.model, checkpoint.tokenizer.first_location_id).eval()
    batch, _ = batch_of()
    with torch.no_grad():
        right = objective(batch)
        for part in batch.answers:
            part.labels[part.labels == -100] = checkpoint.tokenizer.pad_id
        assert objective(batch).total.item() != pytest.approx(right.total.item(), rel=1e-3)


def test_neighbours_are_mirrored_at_the_border() -> None:
    near, weights = neighbours(torch.tensor([0, 500, 999]), 10.0)
    assert near.min() >= 0
    assert near.max() <= 999
    assert near[1].float() @ weights == pytest.approx(500, abs=1e-3)
    assert weights.sum() == pytest.approx(1)
    assert sorted(near[0].tolist()) == sorted((999 - near[2]).tolist())


def test_the_spread_loss_is_least_at_the_truth() -> None:
    checkpoint = tiny_checkpoint()
    first = checkpoint.tokenizer.first_location_id
    objective = Objective(checkpoint.model, first, LossChoice(location_spread=10.0))
    logits = torch.zeros(2, checkpoint.tokenizer.vocab_size)
    logits[0, first + 500], logits[1, first + 900] = 9.0, 9.0
    truth = torch.tensor([first + 500, first + 500])
    hit, miss = objective._loss(logits, truth, torch.zeros(2)).tolist()
    assert hit < miss


# The mixture, the rates


class Numbered:
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> object:
        raise AssertionError("nothing is loaded to find out what comes next")


def test_every_record_once_per_pass() -> None:
    mixture = Mixture([Source("a", Numbered(7)), Source("b", Numbered(3))], seed=1)
    passes = [[mixture.locate(slot) for slot in range(10 * p, 10 * p + 10)] for p in range(3)]
    everything = {(0, i) for i in range(7)} | {(1, i) for i in range(3)}
    assert all(set(drawn) == everything for drawn in passes)
    assert passes[0] != passes[1]
    assert passes[0] != [Mixture(mixture.sources, seed=2).locate(slot) for slot in range(10)]


def test_weights_are_shares() -> None:
    mixture = Mixture([Source("a", Numbered(7), weight=3.0), Source("b", Numbered(5000), weight=1.0)], seed=1)
    drawn = Counter(mixture.locate(slot)[0] for slot in range(4000))
    assert drawn == {0: 3000, 1: 1000}
    assert shares([1.0, 1.0, 1.0], 1000) == (1, 1, 1)
    assert shares([0.5, 0.3, 0.2], 10) == (5, 3, 2)


def test_who_is_held_out_does_not_depend_on_others() -> None:
    held = {i for i in range(5000) if is_held_out(str(i), 0.1)}
    assert 400 < len(held) < 600
    assert held <= {i for i in range(5000) if is_held_out(str(i), 0.2)}
    assert not any(is_held_out(str(i), 0.0) for i in range(100))


def test_norms_biases_and_embeddings_do_not_decay() -> None:
    model = Florence2Model(NANO)
    for group in groups(model, OptimizerChoice(weight_decay=0.1)):
        for name in group.names:
            vector = dict(model.named_parameters())[name].dim() == 1
            embedding = any(part in name for part in ("shared", "positions", "rows", "columns"))
            assert (group.weight_decay == 0) == (vector or embedding), name


def test_rates_of_parts_and_layers() -> None:
    model = Florence2Model(NANO)
    choice = OptimizerChoice(lr=1.0, lr_scale={"vision": 0.1, "text": 0.5, "decoder": 2.0}, layer_decay=0.5)
    rates = {name: group.lr for group in groups(model, choice) for name in group.names}
    assert rates["text.decoder.layers.2.ffn.fc1.weight"] == 2.0
    assert rates["text.decoder.layers.1.ffn.fc1.weight"] == 1.0
    assert rates["text.encoder.layers.1.ffn.fc1.weight"] == 0.5 * 0.5**3
    assert depth("vision.stages.0.embed.conv.weight", model) == max(
        depth(n, model) for n, _ in model.named_parameters()
    )
    assert rates["vision.stages.3.blocks.0.spatial.norm1.weight"] == pytest.approx(0.1 * 0.5**7)


def test_the_rate_rises_and_falls() -> None:
    schedule = Schedule(steps=100, warmup=10, floor=0.1)
    at = [factor(step, schedule, 100) for step in range(101)]
    assert at[0] == 0.1
    assert at[9] == at[10] == 1.0
    assert at[55] == pytest.approx(0.55)
    assert at[100] == pytest.approx(0.1)
    assert [factor(s, Schedule(steps=10, shape="linear"), 10) for s in (0, 5)] == [1.0, 0.5]
