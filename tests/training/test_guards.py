"""What must not happen in training: frozen parts that learn, losses that are no numbers, data that teaches nonsense."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from florence2 import Florence2, checkpoints
from florence2.errors import DataError, Florence2Error
from florence2.model import packing
from florence2.training import Recipe, Watcher, train
from florence2.training.trainer import Trainer
from florence2.training.world import join
from tests.training import small
from tests.training.test_resume import StopsAt


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def moved(before: Path, after: Path) -> set[str]:
    old, new = tensors(before), tensors(after)
    assert old.keys() == new.keys()
    return {name for name in old if not torch.equal(old[name], new[name])}


def test_a_frozen_tower_does_not_move(prepared: Path) -> None:
    model = {"source": str(prepared / "model"), "freeze": ["vision", "embedding"]}
    folder = train(small.recipe(prepared, "frozen", model=model), watchers=()).folder
    changed = moved(prepared / "model", folder / "model")
    assert not any(name.startswith(("vision.", "text.shared")) for name in changed)
    assert any(name.startswith("projector.") for name in changed)
    assert any(name.startswith("text.decoder.") for name in changed)


class Nudges(Watcher):
    """Changes a weight behind the trainer's back."""

    trainer: Trainer

    def __init__(self, name: str, value: float) -> None:
        self.name, self.value = name, value

    def stepped(self, step: int) -> None:
        if step == 3:
            with torch.no_grad():
                dict(self.trainer.objective.model.named_parameters())[self.name].view(-1)[0] = self.value


def nudged(recipe: Recipe, watcher: Nudges) -> None:
    watcher.trainer = Trainer(recipe, join("cpu"), [watcher])
    watcher.trainer.fit(resume=False)


def test_a_frozen_tower_that_moves_is_noticed(prepared: Path) -> None:
    model = {"source": str(prepared / "model"), "freeze": ["vision"]}
    with pytest.raises(Florence2Error, match=r"1 frozen tensors have changed, such as vision\.stages\.0\.embed\.conv"):
        nudged(small.recipe(prepared, "nudged", model=model), Nudges("vision.stages.0.embed.conv.weight", 3.0))


def test_a_loss_that_is_no_number_stops_the_run(prepared: Path) -> None:
    recipe = small.recipe(prepared, "broken")
    with pytest.raises(Florence2Error, match="the loss of step 4 is not a finite number; its batch is in"):
        nudged(recipe, Nudges("projector.projection.weight", float("nan")))
    (folder,) = (prepared / "broken" / "culprit").iterdir()
    listed = json.loads((folder / "batch.json").read_text())
    assert folder.name == "step-00000004-rank-0"
    assert len(listed) == 4
    assert all((folder / photo["picture"]).is_file() and photo["lessons"] for photo in listed)
    assert all(lesson["answer"].startswith("<s>") for photo in listed for lesson in photo["lessons"])
    assert train(recipe, resume=True, watchers=()).complete  # the snapshot in front of it is sound


def test_the_trained_model_is_a_checkpoint_for_everybody(prepared: Path) -> None:
    folder = train(small.recipe(prepared, "saved"), watchers=()).folder
    answer = Florence2.from_pretrained(folder / "model", device="cpu").caption(small.records(folder / "p", 1)[0].image)
    assert answer.task == "<CAPTION>"
    for layout in ("microsoft", "native"):
        checkpoints.save(checkpoints.load(folder / "model"), folder / layout, layout=layout)
        assert checkpoints.load(folder / layout).layout == layout


def test_an_adapter_is_trained_and_nothing_else(prepared: Path) -> None:
    recipe = small.recipe(prepared, "lora", lora={"rank": 4, "targets": ["attention", "vision"]})
    finished = train(recipe, watchers=())
    assert finished.model == prepared / "lora" / "adapter"
    photo = small.records(prepared / "lora" / "p", 1)[0].image
    with_it = Florence2.from_pretrained(prepared / "model", adapter=finished.model, device="cpu")
    assert with_it.caption(photo).task == "<CAPTION>"
    with_it.use_adapter(None)
    plain = Florence2.from_pretrained(prepared / "model", device="cpu")
    assert not packing.is_packed(plain.model)  # else the last digit of a score may differ
    assert with_it.caption(photo, num_beams=1) == plain.caption(photo, num_beams=1)


def test_an_adapter_goes_on_bit_by_bit(prepared: Path) -> None:
    def trained(name: str, stop: bool) -> dict[str, bytes]:
        recipe = small.recipe(prepared, name, lora={"rank": 4, "targets": ["attention"]})
        if stop:
            with pytest.raises(RuntimeError, match="plug"):
                train(recipe, watchers=[StopsAt(3)])
        folder = train(recipe, resume=stop, watchers=()).folder
        saved = load_file(folder / "adapter" / "adapter_model.safetensors")
        return {key: tensor.numpy().tobytes() for key, tensor in saved.items()}

    assert trained("lora-whole", stop=False) == trained("lora-broken", stop=True)


# Data


def lines(folder: Path, *pairs: tuple[str, str, str]) -> Path:
    """A file as other trainers of Florence-2 want it: image, prefix, suffix."""
    small.records(folder, 3)
    (folder / "train.jsonl").write_text(
        "".join(json.dumps({"image": i, "prefix": p, "suffix": s}) + "\n" for i, p, s in pairs)
    )
    return folder / "train.jsonl"


GOOD = ("0.png", "<OD>", "dog<loc_1><loc_2><loc_300><loc_400>")
PLANTED = {
    "a bin that does not exist": (("1.png", "<OD>", "dog<loc_1><loc_2><loc_3><loc_1000>"), "<loc_1000>"),
    "a missing image": (("none.png", "<CAPTION>", "a dog"), "none.png does not exist"),
    "a broken image": (("cut.png", "<CAPTION>", "a dog"), "cut.png"),
    "an empty label": (("1.png", "<OD>", "<loc_1><loc_2><loc_3><loc_4>"), "is no answer of <OD>"),
    "a label with a location inside": (("1.png", "<OD>", "do<loc_5>g<loc_1><loc_2><loc_3><loc_4>"), "is no answer"),
    "a very long caption": (("1.png", "<CAPTION>", "dog " * 2500), "tokens"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_errors_stop_the_run_with_file_and_line(name: str, prepared: Path, tmp_path: Path) -> None:
    pair, said = PLANTED[name]
    path = lines(tmp_path / "data", GOOD, pair)
    whole = (tmp_path / "data" / "0.png").read_bytes()
    (tmp_path / "data" / "cut.png").write_bytes(whole[: len(whole) // 2])
    recipe = small.recipe(prepared, f"planted-{tmp_path.name}", data={"mine": {"path": str(path)}})
    with pytest.raises(DataError, match="Nothing was trained") as caught:
        train(recipe, watchers=())
    assert f"{path}:2" in str(caught.value)
    assert said in str(caught.value)
    assert f"{path}:1 " not in str(caught.value)


def test_wrong_json_stops_the_run_with_file_and_line(prepared: Path, tmp_path: Path) -> None:
    path = lines(tmp_path / "data", GOOD)
    path.write_text(path.read_text() + '{"image": \n')
    with pytest.raises(DataError, match="Nothing was trained") as caught:
        train(small.recipe(prepared, "json", data={"mine": {"path": str(path)}}), watchers=())
    assert f"{path}:2" in str(caught.value)


def test_a_box_outside_stops_the_run_with_file_and_line(prepared: Path, tmp_path: Path) -> None:
    small.prepare(tmp_path)
    path = next((tmp_path / "data").glob("*.jsonl"))
    document = path.read_text().splitlines()
    record = json.loads(document[2])
    record["objects"][0]["bbox"] = [10, 10, 400, 50]
    document[2] = json.dumps(record)
    path.write_text("\n".join(document) + "\n")
    with pytest.raises(DataError, match="lies outside the 90 x 60 photo") as caught:
        train(small.recipe(prepared, "outside", data={"mine": {"path": str(tmp_path / "data")}}), watchers=())
    assert f"{path}:3" in str(caught.value)


def test_all_of_them_left_out_and_the_rest_is_learned(prepared: Path, tmp_path: Path) -> None:
    path = lines(tmp_path / "data", GOOD, *(pair for pair, _ in PLANTED.values()), ("2.png", "<CAPTION>", "a dog"))
    (tmp_path / "data" / "cut.png").write_bytes(b"\x89PNG\r\n")
    recipe = small.recipe(
        prepared, "skipped", data={"mine": {"path": str(path)}}, preflight={"problems": "skip"}
    )  # fmt: skip
    notes = small.Notes()
    assert train(recipe, watchers=[notes]).complete
    assert json.loads((prepared / "skipped" / "data" / "mine.json").read_text())["kept"] != []
    assert not any(report.skipped for report in notes.reports)


def test_a_photo_that_vanishes_later_is_passed_over_and_named(prepared: Path, tmp_path: Path) -> None:
    path = lines(tmp_path / "data", GOOD, ("1.png", "<CAPTION>", "a dog"), ("2.png", "<CAPTION>", "a man"))

    class Deletes(small.Notes):
        def stepped(self, step: int) -> None:
            (tmp_path / "data" / "1.png").unlink(missing_ok=True)

    notes = Deletes()
    assert train(small.recipe(prepared, "vanished", data={"mine": {"path": str(path)}}), watchers=[notes]).complete
    assert any("1.png" in reason for report in notes.reports for reason in report.skipped)
