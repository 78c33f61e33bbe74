"""Adapters on a model: what they change and what they leave alone, several of them, and merging."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from florence2.checkpoints import Checkpoint, load, save
from florence2.checkpoints.adapters import (
    GROUPS,
    LoraSettings,
    active_adapter,
    adapter_names,
    add_adapter,
    changes_image_tokens,
    load_adapter,
    merge_adapter,
    remove_adapter,
    save_adapter,
    use_adapter,
)
from florence2.checkpoints.layouts import EMBEDDING, LAYOUTS
from florence2.checkpoints.vocabulary import extend_vocabulary
from florence2.errors import CheckpointError, ConfigError, MissingDependencyError
from florence2.model import Florence2Model
from tests.checkpoints.adapted import (
    ALL,
    TOLERANCE,
    WITHOUT_HEAD,
    base_bytes,
    difference,
    logits,
    modules,
    train,
    trained,
)
from tests.model.tiny import TINY, tiny_model

peft = pytest.importorskip("peft", reason="adapters need peft (pip install '.[train]')")


@pytest.fixture
def model() -> Florence2Model:
    return tiny_model(1)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an adapter on everything, trained; not to be changed."""
    return save_adapter(trained(tiny_model(1)), tmp_path_factory.mktemp("written") / "it")


# Putting on, and training


@pytest.mark.parametrize("group", GROUPS)
def test_each_group_adapts_its_modules(model: Florence2Model, group: str) -> None:
    before = logits(model)
    chosen = add_adapter(model, LoraSettings(targets=(group,)))
    text, vision = TINY.text, TINY.vision
    layers = text.encoder_layers + text.decoder_layers
    assert (
        len(chosen)
        == {
            "attention": 4 * (layers + text.decoder_layers),
            "ffn": 2 * layers,
            "vision": 8 * sum(vision.depths),
            "convolutions": 4,
            "projector": 1,
            "head": 1,
        }[group]
    )
    assert {name.rpartition(".lora_")[0] for name, p in model.named_parameters() if p.requires_grad} == set(chosen)
    assert difference(logits(model), before) < 1e-6  # an untrained adapter changes nothing


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("cross_attention.q", {f"text.decoder.layers.{i}.cross_attention.q" for i in range(2)}),
        ("text.encoder.layers.1.ffn.fc1", {"text.encoder.layers.1.ffn.fc1"}),
        ("lm_head", {"text.head"}),
        ("language_model.lm_head", {"text.head"}),
        ("convs.0.proj", {"vision.stages.0.embed.conv"}),
    ],
)
def test_targets_by_name(model: Florence2Model, target: str, expected: set[str]) -> None:
    assert set(add_adapter(model, LoraSettings(targets=(target,)))) == expected


def test_names_of_other_layouts(model: Florence2Model) -> None:
    """The recipe that everybody copies, less the names that exist nowhere."""
    found = add_adapter(model, LoraSettings(targets=("q_proj", "k_proj", "v_proj", "fc2", "lm_head")))
    kinds = {name.rpartition(".")[2] for name in found}
    assert kinds == {"q", "k", "v", "fc2", "head"}
    assert any(name.startswith("vision.") for name in found)
    assert not any(name.endswith("attention.out") for name in found)


@pytest.mark.parametrize("target", ["o_proj", "Conv2d", "linear", "gate_proj", "roj", "shared", "norm1"])
def test_a_target_that_is_nothing_is_an_error(model: Florence2Model, target: str) -> None:
    before = modules(model)
    with pytest.raises(ConfigError, match=f"no module of the model is called {target!r}"):
        add_adapter(model, LoraSettings(targets=("attention", target)))
    assert modules(model) == before


def test_the_error_names_the_nearest(model: Florence2Model) -> None:
    with pytest.raises(ConfigError, match=r"the nearest names are .*out_proj"):
        add_adapter(model, LoraSettings(targets=("o_proj",)))
    with pytest.raises(ConfigError, match="the nearest names are attention"):
        add_adapter(model, LoraSettings(targets=("atention",)))


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"alpha": 0}, {"dropout": 1.0}, {"targets": ()}, {"targets": "ffn"}])
def test_settings_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        LoraSettings(**wrong)


@pytest.mark.parametrize(
    "settings", [ALL, dataclasses.replace(WITHOUT_HEAD, dora=True, rslora=True)], ids=["lora", "dora"]
)
def test_the_base_stays_byte_for_byte(model: Florence2Model, settings: LoraSettings) -> None:
    before, answers = base_bytes(model), logits(model)
    add_adapter(model, settings)
    start = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    train(model)
    after = base_bytes(model)
    after.pop("text.head.weight", None)  # the embedding by another name
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (name in start)
        if parameter.requires_grad:
            assert not torch.equal(parameter, start[name]), name
    assert difference(logits(model), answers) > 1000 * TOLERANCE


def test_a_base_that_learns_would_be_noticed(model: Florence2Model) -> None:
    """The planted fault of the test above."""
    before = base_bytes(model)
    add_adapter(model, ALL)
    model.text.shared.weight.requires_grad_(True)
    train(model)
    after = base_bytes(model)
    assert [name for name, tensor in before.items() if not torch.equal(tensor, after[name])] == [EMBEDDING]


def test_the_head_leaves_the_embedding_alone(model: Florence2Model) -> None:
    trained(model, dataclasses.replace(ALL, targets=("head",)))
    ids = torch.arange(4, 10)[None]
    plain = tiny_model(1)
    with torch.no_grad():
        assert torch.equal(model.encode(None, ids).states, plain.encode(None, ids).states)
        hidden = torch.randn(3, TINY.text.d_model)
        rows = torch.tensor([5, 1, 900])
        assert torch.equal(model.text.project(hidden, rows), model.text.project(hidden)[:, rows])
        assert difference(model.text.project(hidden), plain.text.project(hidden)) > 0.01


def test_dora_needs_rows_with_a_direction(model: Florence2Model) -> None:
    assert not model.text.shared.weight[TINY.text.pad_id].any()
    with pytest.raises(ConfigError, match=r"text\.head: 1 rows of text\.shared\.weight are zero"):
        add_adapter(model, dataclasses.replace(ALL, dora=True))
    model.text.shared.weight.data[TINY.text.pad_id] = 0.1
    assert logits(trained(model, dataclasses.replace(ALL, dora=True))).isfinite().all()


def test_dropout_only_while_training(model: Florence2Model) -> None:
    trained(model, dataclasses.replace(ALL, dropout=0.5))
    assert torch.equal(logits(model), logits(model))
    model.train()
    assert not torch.equal(logits(model), logits(model))


def test_in_the_mode_of_the_model(model: Florence2Model) -> None:
    """New layers begin in training mode; on a model that answers they must not drop anything."""
    add_adapter(model, LoraSettings(dropout=0.5))
    assert not any(module.training for module in model.modules())


# Several adapters


def test_switching(model: Florence2Model, tmp_path: Path) -> None:
    base = logits(model)
    save_adapter(trained(model), tmp_path / "all", name="default")
    all_of_it = logits(model)
    other = trained(tiny_model(1), LoraSettings(rank=2, alpha=7, targets=("cross_attention.v",)))
    save_adapter(other, tmp_path / "some")
    some = logits(other)
    many = tiny_model(1)
    load_adapter(many, tmp_path / "all", "first")
    load_adapter(many, tmp_path / "some", "second")
    assert adapter_names(many) == ("first", "second")
    for _ in range(2):
        assert active_adapter(many) == "second"
        assert difference(logits(many), some) < TOLERANCE
        use_adapter(many, "first")
        assert active_adapter(many) == "first"
        assert difference(logits(many), all_of_it) < TOLERANCE
        use_adapter(many, None)
        assert active_adapter(many) is None
        assert torch.equal(logits(many), base)
        use_adapter(many, "second")
    assert min(difference(some, base), difference(all_of_it, base), difference(some, all_of_it)) > 0.01
    with pytest.raises(CheckpointError, match="no adapter 'third'; the model carries first, second"):
        use_adapter(many, "third")


def test_removing(model: Florence2Model) -> None:
    base, plain, names = logits(model), modules(model), list(model.state_dict())
    trained(model, ALL, "one")
    trained(model, LoraSettings(targets=("ffn",)), "two")
    two = logits(model)
    remove_adapter(model, "one")
    assert adapter_names(model) == ("two",)
    assert model.text.head is None
    assert difference(logits(model), two) < TOLERANCE
    remove_adapter(model)
    assert active_adapter(model) is None
    assert modules(model) == plain
    assert torch.equal(logits(model), base)
    assert list(model.state_dict()) == names
    assert all(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(CheckpointError, match="no adapter is in use; the model carries none"):
        remove_adapter(model)


def test_the_adapter_in_use_goes_and_the_base_answers(model: Florence2Model) -> None:
    base = logits(model)
    trained(model, ALL, "one")
    trained(model, ALL, "two")
    remove_adapter(model)
    assert (active_adapter(model), adapter_names(model)) == (None, ("one",))
    assert difference(logits(model), base) < TOLERANCE


def test_what_learns(model: Florence2Model, written: Path) -> None:
    def learning() -> set[str]:
        return {name.rpartition(".")[0].rpartition(".")[2] for name, p in model.named_parameters() if p.requires_grad}

    model.projector.requires_grad_(False)
    before = {name for name, p in model.named_parameters() if p.requires_grad}
    load_adapter(model, written, "frozen")
    assert {name.replace(".base_layer", "") for name, p in model.named_parameters() if p.requires_grad} == before
    load_adapter(model, written, "goes-on", trainable=True)
    assert learning() == {"goes-on"}
    for name in ("frozen", None, "goes-on"):
        use_adapter(model, name)
        assert learning() == {"goes-on"}
    add_adapter(model, ALL, "new")
    assert learning() == {"new"}


def test_a_loaded_adapter_learns_on(model: Florence2Model, written: Path) -> None:
    load_adapter(model, written, trainable=True)
    before = logits(model)
    train(model, 1)
    assert difference(logits(model), before) > TOLERANCE


@pytest.mark.parametrize("name", ["", "a.b", "encoder", "q", "keys", "no spaces", "default"])
def test_names_that_can_not_be(model: Florence2Model, name: str) -> None:
    add_adapter(model, ALL)
    with pytest.raises(ConfigError, match="adapter"):
        add_adapter(model, ALL, name)


def test_which_adapters_need_the_photo_again(model: Florence2Model) -> None:
    assert not changes_image_tokens(model)
    add_adapter(model, LoraSettings(targets=("attention", "head")), "words")
    assert not changes_image_tokens(model)
    for group in ("vision", "convolutions", "projector"):
        add_adapter(model, LoraSettings(targets=(group,)), group + "-adapter")
        assert changes_image_tokens(model)
    use_adapter(model, "words")
    assert not changes_image_tokens(model)


def test_a_copy_is_whole(model: Florence2Model) -> None:
    trained(model)
    twin = copy.deepcopy(model)
    assert torch.equal(logits(twin), logits(model))
    assert twin.text.head.get_base_layer().weight is twin.text.shared.weight  # type: ignore[union-attr, operator]
    remove_adapter(twin)
    assert adapter_names(model) == ("default",)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision(model: Florence2Model, written: Path, dtype: torch.dtype) -> None:
    load_adapter(model, written)
    exact, base = logits(model), tiny_model(1).to(dtype)
    before = half_logits(base)
    load_adapter(base, written)
    assert {parameter.dtype for parameter in base.parameters()} == {dtype}
    assert difference(half_logits(base), exact) < 0.1 < difference(before, exact)
    use_adapter(base, None)
    assert torch.equal(half_logits(base), before)


def half_logits(model: Florence2Model) -> Tensor:
    return logits(model, model.text.shared.weight.dtype).float()


# Merging


@pytest.mark.parametrize(
    "settings",
    [WITHOUT_HEAD, dataclasses.replace(WITHOUT_HEAD, rslora=True), dataclasses.replace(WITHOUT_HEAD, dora=True)],
    ids=["lora", "rslora", "dora"],
)
def test_merged_answers_as_unmerged(tiny: Checkpoint, tmp_path: Path, settings: LoraSettings) -> None:
    model = copy.deepcopy(tiny.model)
    plain, names = modules(model), list(model.state_dict())
    trained(model, settings)
    before = logits(model)
    merge_adapter(model)
    assert difference(logits(model), before) < TOLERANCE
    assert difference(logits(tiny.model), before) > 1000 * TOLERANCE
    assert modules(model) == plain
    assert list(model.state_dict()) == names
    assert adapter_names(model) == ()
    assert all(parameter.requires_grad for parameter in model.parameters())
    for layout in LAYOUTS:
        save(dataclasses.replace(tiny, model=model), tmp_path / layout, layout)
        assert difference(logits(load(tmp_path / layout).model), before) < TOLERANCE


def test_merging_twice_the_scale_would_be_noticed(model: Florence2Model) -> None:
    """The planted fault of the test above."""
    trained(model, WITHOUT_HEAD)
    before = logits(model)
    model.text.encoder.layers[0].ffn.fc1.scaling["default"] *= 2  # type: ignore[union-attr, index]
    merge_adapter(model)
    assert difference(logits(model), before) > 10 * TOLERANCE


def test_merging_takes_the_one_in_use(model: Florence2Model) -> None:
    trained(model, WITHOUT_HEAD, "one")
    trained(model, LoraSettings(targets=("ffn",)), "two")
    use_adapter(model, "one")
    one = logits(model)
    merge_adapter(model)
    assert difference(logits(model), one) < TOLERANCE
    with pytest.raises(CheckpointError, match="no adapter is in use"):
        merge_adapter(model)


def test_the_head_is_not_merged(model: Florence2Model) -> None:
    trained(model)
    before, weights = logits(model), base_bytes(model)
    with pytest.raises(CheckpointError, match="vocabulary projection"):
        merge_adapter(model)
    assert torch.equal(logits(model), before)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in base_bytes(model).items())


def test_a_merge_that_fails_changes_nothing(model: Florence2Model) -> None:
    """The delta of the last module is too large for the type; the modules before it are put back."""
    add_adapter(model, WITHOUT_HEAD)
    *_, last = (module for module in model.modules() if hasattr(module, "lora_B"))
    for matrix in (last.lora_A, last.lora_B):
        matrix["default"].weight.data.fill_(1e30)
    weights = base_bytes(model)
    with pytest.raises(CheckpointError, match="nothing was changed"):
        merge_adapter(model)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in base_bytes(model).items())
    assert adapter_names(model) == ("default",)


def test_a_depthwise_convolution_is_not_merged(model: Florence2Model) -> None:
    with pytest.raises(ConfigError, match="groups"):
        add_adapter(model, LoraSettings(rank=3, targets=("conv1",)))
    assert adapter_names(model) == ()
    trained(model, LoraSettings(rank=48, targets=("conv1",)))
    with pytest.raises(CheckpointError, match="depthwise"):
        merge_adapter(model)


def test_a_model_with_adapters_is_not_saved_as_plain(tiny: Checkpoint, tmp_path: Path) -> None:
    model = trained(copy.deepcopy(tiny.model))
    with pytest.raises(CheckpointError, match="merge adapters"):
        save(dataclasses.replace(tiny, model=model), tmp_path / "it")
    with pytest.raises(CheckpointError, match="carries adapters"):
        extend_vocabulary(dataclasses.replace(tiny, model=model), ["pneumothorax"])


# peft itself


def test_nothing_is_printed(model: Florence2Model, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained(model, ALL, "one")
        add_adapter(model, LoraSettings(rank=48, targets=("conv1", "ffn")), "two")
        save_adapter(model, tmp_path / "it", name="one")
        use_adapter(model, "one")
        use_adapter(model, None)
        remove_adapter(model, "one")
        remove_adapter(model, "two")
        trained(model, WITHOUT_HEAD)
        merge_adapter(model)
        load_adapter(model, tmp_path / "it")
    assert capfd.readouterr() == ("", "")


def test_peft_loads_ours_on_our_model(model: Florence2Model, tmp_path: Path) -> None:
    trained(model, WITHOUT_HEAD)
    folder = save_adapter(model, tmp_path / "it")
    theirs = peft.PeftModel.from_pretrained(tiny_model(1), str(folder)).eval()
    assert difference(logits(theirs), logits(model)) < TOLERANCE


def test_without_peft(model: Florence2Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(MissingDependencyError, match=r"florence2\[train\]"):
        add_adapter(model, ALL)
    assert adapter_names(model) == ()
    assert active_adapter(model) is None
    assert not changes_image_tokens(model)
