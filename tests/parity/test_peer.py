"""A checkpoint through transformers and through us: every task answered alike, on a tiny model that learned to answer.

Random weights say nonsense, which the two read differently (``language.compat``); so the model learns by heart what to
say to each task on two pictures, and both sides must say it.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.utils.rnn import pad_sequence

from florence2 import Florence2, batches, images, inputs, save
from florence2.checkpoints import Checkpoint
from florence2.errors import BoxError, CheckpointError, ConfigError, Florence2Error, MissingDependencyError, TaskError
from florence2.evaluation import peer
from florence2.evaluation.answerers import Answerer, Ours
from florence2.evaluation.peer import Transformers
from florence2.evaluation.samples import Given
from florence2.language import answers, tasks
from florence2.language.quantizer import dequantize
from florence2.language.tasks import TASKS, Task
from florence2.language.tokenizer import Tokenizer
from florence2.model import Florence2Model, initialise
from florence2.results import Answer, Detections, Instance, Object, Segments, Text, TextRegion, TextRegions
from tests.evaluation.test_answerers import INPUTS, sample
from tests.model.tiny import TINY
from tests.parity.native import transformers
from tests.tiny_checkpoint import SENTENCES, picture

WORDS, STEPS = 1400, 200
PICTURES = [picture(0), picture(4)]
SIZE = PICTURES[0].size


def truth(task: Task, n: int) -> Answer:
    """What the model learns to say about picture ``n``: another answer for each task and picture."""
    where: dict[str, Any] = {"task": task.name, "width": SIZE[0], "height": SIZE[1]}
    turn = 10 * list(TASKS).index(task.name) + 200 * n

    def at(*bins: int) -> Any:
        return tuple(dequantize(bins, SIZE))

    one, other = (100 + turn, 50, 500, 400 + turn), (30, 200 + turn, 250 + turn, 900)
    if task.result is Text:
        return Text(**where, text=[f"a red guitar {turn}", f"the dog and {turn} cats"][n])
    if task.result is Segments:
        outlines = (at(*one, 77, 11), at(*other, *one[:2])) if n else (at(*one, *other[:2]),)
        return Segments(**where, instances=(Instance(label="", polygons=outlines),))
    if task.result is TextRegions:
        quads = at(*one, *other), at(*other[::-1], *one[::-1])  # no three bins twice: the shipped search forbids it
        regions = (TextRegion(text="STOP", quad=quads[0]), TextRegion(text="12 km", quad=quads[1]))
        return TextRegions(**where, regions=regions)
    labels = ["", ""] if task.name == "<REGION_PROPOSAL>" else ["car", "dog"][:: 1 - 2 * n]
    objects = (Object(label=labels[0], box=at(*one)), Object(label=labels[1], box=at(*other)))
    return Detections(**where, objects=objects)


SAMPLES = [
    sample(task.name, INPUTS[task.takes], str(n), (truth(task, n),)) for n in range(2) for task in list(TASKS.values())
]
PHOTOS = [PICTURES[int(asked.photo)] for asked in SAMPLES]


@pytest.fixture(scope="module")
def learned() -> Checkpoint:
    tokenizer = Tokenizer.train([*(task.prompt for task in TASKS.values()), *SENTENCES, "STOP 12 km"] * 20, WORDS)
    text = dataclasses.replace(
        TINY.text,
        **{"vocab_size": WORDS, "d_model": 48, "encoder_heads": 4, "decoder_heads": 4, "max_positions": 128},
        **{"encoder_ffn_dim": 96, "decoder_ffn_dim": 96},
    )
    policy = dataclasses.replace(TINY.generation, max_new_tokens=48)
    config = dataclasses.replace(TINY, text=text, generation=policy)
    torch.manual_seed(0)
    model = initialise(Florence2Model(config)).eval()

    asked = []
    for each in SAMPLES:
        open_ = "car<and>dog" if each.given == ("car", "dog") else each.given
        (row,) = inputs.prompts(batches.request((each.task, open_)), SIZE, tokenizer, text.max_positions)
        asked.append(torch.tensor(row.ids))
    said = [torch.tensor(answers.format(each.truth[0], each.task, tokenizer)) for each in SAMPLES]
    prompts, labels = pad_sequence(asked, True, tokenizer.pad_id), pad_sequence(said, True, -100)
    pixels = images.to_pixel_values(PICTURES, config.image)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.0)
    for _ in range(STEPS):
        tokens = model.encode_image(pixels).repeat_interleave(len(TASKS), 0)
        loss = model(None, prompts, prompts != tokenizer.pad_id, labels, image_tokens=tokens).loss
        assert loss is not None
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Checkpoint(model, tokenizer, config, source="learned")


@pytest.fixture(scope="module")
def folder(learned: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(learned, tmp_path_factory.mktemp("peer") / "native", "native")


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Transformers:
    return Transformers(folder, "cpu")


def differing(ours: list[Any], theirs: list[Any]) -> list[str]:
    """Tasks answered differently. The port cuts pixels down to whole ones; the rest is equal."""
    return [one.task for one, other in zip(ours, theirs, strict=True) if not alike(one, other)]


def alike(one: Any, other: Any) -> bool:
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(alike(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, float):
        return 0 <= one - other < 1
    if dataclasses.is_dataclass(one) and type(one) is type(other):
        names = [field.name for field in dataclasses.fields(one) if field.name in READ]
        return all(alike(getattr(one, name), getattr(other, name)) for name in names)
    return bool(one == other)


READ = {
    *("task", "width", "height", "text", "objects", "instances", "regions"),
    *("label", "box", "polygons", "quad"),
}
"""Fields of answers and of what is in them, without scores."""


@pytest.mark.slow
def test_every_task_is_answered_alike(learned: Checkpoint, theirs: Transformers) -> None:
    ours = Ours(Florence2(learned), reference=True).answer(SAMPLES, PHOTOS)
    door: Answerer = theirs
    found = door.answer(SAMPLES, PHOTOS)
    right = [each.truth[0] for each in SAMPLES]
    for asked, mine, other in zip(SAMPLES, ours, found, strict=True):
        assert isinstance(mine, TASKS[asked.task].result)
        assert type(other) is type(mine)
    assert differing(ours, found) == []
    assert differing(right, found) == []
    assert {answer.confidence for answer in found if isinstance(answer, Answer)} == {1.0}
    assert {thing.score for answer in found if isinstance(answer, Detections) for thing in answer.objects} == {1.0}
    # the planted fault: pictures exchanged
    assert len(differing(ours, theirs.answer(SAMPLES, PHOTOS[::-1]))) == len(SAMPLES)


@pytest.mark.slow
def test_other_weights_answer_otherwise(
    learned: Checkpoint, theirs: Transformers, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "faulty")
    weights = load_file(folder / "model.safetensors")
    name = next(
        name for name in weights if "decoder.layers.1" in name and name.endswith("encoder_attn.out_proj.weight")
    )
    save_file({**weights, name: -weights[name]}, tmp_path / "faulty" / "model.safetensors", {"format": "pt"})
    faulty = Transformers(tmp_path / "faulty", "cpu")
    ours = Ours(Florence2(learned), reference=True).answer(SAMPLES, PHOTOS)
    assert differing(ours, faulty.answer(SAMPLES, PHOTOS))
    mine, others = theirs.describe(), faulty.describe()
    assert [key for key in mine if mine[key] != others[key]] == ["source", "weights"]


@pytest.mark.slow
def test_one_at_a_time_changes_nothing(theirs: Transformers, folder: Path) -> None:
    single = Transformers(folder, "cpu", batch_size=1)
    assert single.answer(SAMPLES[::3], PHOTOS[::3]) == theirs.answer(SAMPLES[::3], PHOTOS[::3])
    assert single.describe() == theirs.describe() == json.loads(json.dumps(theirs.describe()))
    assert theirs.name == "transformers: native"
    assert theirs.answer([], []) == []


@pytest.mark.slow
def test_in_half_precision_it_still_answers(folder: Path) -> None:
    half = Transformers(folder, "cpu", "bfloat16", num_beams=1)
    assert half.describe()["dtype"] == "bfloat16"
    for asked, answer in zip(SAMPLES[:6], half.answer(SAMPLES[:6], PHOTOS[:6]), strict=True):
        assert isinstance(answer, TASKS[asked.task].result)


@pytest.mark.slow
def test_what_it_cannot_answer_gives_its_error(theirs: Transformers, monkeypatch: pytest.MonkeyPatch) -> None:
    count = Task("<COUNT>", "How many {input} are there?", TASKS["<ASK>"].grammar, Text, takes="text")
    monkeypatch.setitem(tasks._tasks, "<COUNT>", count)
    monkeypatch.setitem(tasks._names, "count", "<COUNT>")
    asked = [
        sample("<CAPTION>", None),
        sample("<COUNT>", "dogs"),
        sample("<NONSENSE>", None),
        sample("<REGION_TO_CATEGORY>", (0.0, 0.0, 500.0, 500.0)),
        sample("<ASK>", "dog " * 400),
        sample("<OD>", None),
    ]
    found = theirs.answer(asked, [PICTURES[0]] * len(asked))
    kinds = [Text, TaskError, TaskError, BoxError, Florence2Error, Detections]
    assert [type(answer) for answer in found] == kinds
    assert "does not know <COUNT>" in str(found[1])
    assert "the model has room for 128" in str(found[4])
    assert alike(SAMPLES[0].truth[0], found[0])


@pytest.mark.slow
def test_rules_that_the_processor_has_are_kept(theirs: Transformers, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "whole")
    theirs.processor.save_pretrained(tmp_path / "whole")
    whole = Transformers(tmp_path / "whole", "cpu")
    assert (whole.rules, theirs.rules) == ("its own", "as published, the processor has none")
    assert differing(whole.answer(SAMPLES, PHOTOS), theirs.answer(SAMPLES, PHOTOS)) == []


@pytest.mark.slow
def test_settings_that_a_conversion_lost_are_those_of_microsoft(theirs: Transformers, folder: Path) -> None:
    shipped = {"max_new_tokens": 48, "no_repeat_ngram_size": 3, "early_stopping": True, "num_beams": 3}
    shipped |= {"forced_bos_token_id": 0, "forced_eos_token_id": 2, "do_sample": False}
    assert theirs.settings == shipped
    model = transformers.Florence2ForConditionalGeneration.from_pretrained(folder)
    model.generation_config = transformers.GenerationConfig()
    assert peer._settings(model, 3) == {**shipped, "max_new_tokens": 128}
    model.generation_config.no_repeat_ngram_size = 0
    assert peer._settings(model, 3)["no_repeat_ngram_size"] == 0
    assert "early_stopping" not in peer._settings(model, 1)


# Prompts and answers


@pytest.mark.parametrize(
    ("task", "given", "expected"),
    [
        ("<OD>", None, "<OD>"),
        ("<CAPTION_TO_PHRASE_GROUNDING>", "a {red} car", "<CAPTION_TO_PHRASE_GROUNDING>a {red} car"),
        ("<REGION_TO_CATEGORY>", (9.05, 6.01, 45.05, 60.0), "<REGION_TO_CATEGORY><loc_100><loc_100><loc_500><loc_999>"),
        ("<OPEN_VOCABULARY_DETECTION>", ("car", "dog"), "<OPEN_VOCABULARY_DETECTION>car<and>dog"),
        ("<OPEN_VOCABULARY_DETECTION>", "a red car", "<OPEN_VOCABULARY_DETECTION>a red car"),
        ("<VQA>", "how many?", "<VQA>how many?"),
        ("<ASK>", "how many?", "how many?"),
    ],
)
def test_prompts_are_those_that_its_processor_wants(task: str, given: Given, expected: str) -> None:
    assert peer.prompt(sample(task, given), SIZE) == expected


@pytest.mark.parametrize(
    ("task", "given", "error", "says"),
    [
        ("<NONSENSE>", None, TaskError, "there is no task"),
        ("<CAPTION>", "text", TaskError, "takes no input"),
        ("<REGION_TO_OCR>", (50.0, 5.0, 20.0, 30.0), BoxError, "inverted"),
        ("<REGION_TO_OCR>", (0.0, 0.0, 91.0, 30.0), BoxError, "reaches outside the photo"),
        ("<REGION_TO_OCR>", [(0.0, 0.0, 9.0, 9.0)] * 2, TaskError, "gives 2 boxes"),
        ("<OD>", ("car", "dog"), TaskError, "cannot close the answers of <OD>"),
    ],
)
def test_what_makes_no_prompt_is_named(task: str, given: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        peer.prompt(sample(task, given), SIZE)


def test_its_dictionaries_become_typed_answers() -> None:
    outlined = {
        "bboxes": [[9.0, 8.0, 3.0, 4.0]],
        "bboxes_labels": ["car"],
        "polygons": [[[1.0, 2.0, 5.0, 2.0, 5.0, 9.0], [0.0, 1.0]], [[]]],
        "polygons_labels": ["dog", "nothing"],
    }
    found = peer.typed(outlined, "<OPEN_VOCABULARY_DETECTION>", SIZE)
    triangle = (1.0, 2.0, 5.0, 2.0, 5.0, 9.0)
    assert found == Detections(
        task="<OPEN_VOCABULARY_DETECTION>",
        width=90,
        height=60,
        objects=(
            Object(label="car", box=(3.0, 4.0, 9.0, 8.0)),
            Object(label="dog", box=(1.0, 2.0, 5.0, 9.0), polygons=(triangle,)),
        ),
    )
    scored = peer.typed({"bboxes": [[1.0, 2.0, 3.0, 4.0]], "labels": ["car"], "scores": [0.4]}, "<OD>", SIZE)
    assert isinstance(scored, Detections)
    assert scored.scores == [0.4]
    empty = peer.typed({"polygons": [[[]]], "labels": [""]}, "<REGION_TO_SEGMENTATION>", SIZE)
    assert empty == Segments(task="<REGION_TO_SEGMENTATION>", width=90, height=60)


# What cannot be loaded


def no_processor(folder: Path, learned: Checkpoint) -> None:
    (folder / "preprocessor_config.json").unlink()


def no_tokenizer(folder: Path, learned: Checkpoint) -> None:
    (folder / "tokenizer.json").unlink()


def no_config(folder: Path, learned: Checkpoint) -> None:
    (folder / "config.json").unlink()


def microsoft(folder: Path, learned: Checkpoint) -> None:
    save(learned, folder, "microsoft", overwrite=True)


def ours(folder: Path, learned: Checkpoint) -> None:
    save(learned, folder, "florence2", overwrite=True)


def one_tensor_less(folder: Path, learned: Checkpoint) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop(next(name for name in weights if name.endswith("fc1.weight")))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def no_weights(folder: Path, learned: Checkpoint) -> None:
    (folder / "model.safetensors").unlink()


def another_processor(folder: Path, learned: Checkpoint) -> None:
    values = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**values, "processor_class": "CLIPProcessor"}))
    values = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**values, "processor_class": "CLIPProcessor"}))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (no_processor, "holds no processor"),
        (no_tokenizer, "holds no tokenizer.json"),
        (no_config, "holds no config.json"),
        (microsoft, "not in the native layout.*florence2 convert"),
        (ours, "not in the native layout"),
        (one_tensor_less, "1 tensors missing.*fc1.weight"),
        (no_weights, "transformers cannot load"),
        (another_processor, "processor in .* is a CLIPProcessor|finds no processor"),
    ],
)
def test_what_cannot_be_loaded_is_named(
    learned: Checkpoint, folder: Path, tmp_path: Path, spoil: Callable[[Path, Checkpoint], None], says: str
) -> None:
    shutil.copytree(folder, tmp_path / "it")
    spoil(tmp_path / "it", learned)
    with pytest.raises(CheckpointError, match=says):
        Transformers(tmp_path / "it", "cpu")


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="num_beams"):
        Transformers(tmp_path, num_beams=0)
    with pytest.raises(ConfigError, match="dtype 'int8'"):
        Transformers(tmp_path, "cpu", "int8")


def test_without_transformers_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependencyError, match="pip install 'transformers>=5'"):
        Transformers(tmp_path)
