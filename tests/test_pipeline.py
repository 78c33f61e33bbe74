"""The class Florence2: verbs, encode once, batches, boxes, labels, and what it says to wrong input."""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from florence2 import ErrorRecord, Florence2, batches, inputs
from florence2.engine import Engine, without_repeat
from florence2.errors import BoxError, CheckpointError, ConfigError, Florence2Error, ImageError, TaskError
from florence2.language.tasks import TASKS, Task
from florence2.results import Answer, Detections, Object, Segments, Text, TextRegions
from tests.tiny_checkpoint import picture, tiny_checkpoint

TEXT, BOX, LABELS = "a red guitar", (5.0, 5.0, 50.0, 50.0), ["car", "dog", "person"]
PHOTO = picture()


@pytest.fixture(scope="module")
def model() -> Florence2:
    return Florence2(tiny_checkpoint())


@pytest.fixture
def encoder_calls(model: Florence2, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many photos each call of the image encoder took."""
    calls: list[int] = []
    encode_image = model.model.encode_image

    def counted(pixels: torch.Tensor) -> torch.Tensor:
        calls.append(len(pixels))
        return encode_image(pixels)

    monkeypatch.setattr(model.model, "encode_image", counted)
    return calls


def given(task: Task) -> Any:
    """An input of the kind that the task takes."""
    return {"nothing": None, "text": TEXT, "boxes": BOX, "labels": LABELS}[task.takes]


def ids(answer: Any) -> tuple[int, ...]:
    return answer.raw.token_ids


def test_what_the_repeat_guard_leaves_is_dropped() -> None:
    car = Object(label="car", box=(1.0, 2.0, 3.0, 4.0), score=0.5, label_score=0.6, box_score=0.4)
    again = dataclasses.replace(car, score=0.9, label_score=0.9, box_score=0.9)
    other = dataclasses.replace(car, label="bus")
    looped = Detections(task="<OD>", width=9, height=9, objects=(car, other, again))
    assert without_repeat(looped).objects == (car, other)
    assert "repeated" in without_repeat(looped).dropped[0]
    for kept in (dataclasses.replace(looped, objects=(car, again, other)), Text(task="<OCR>", width=9, height=9)):
        assert without_repeat(kept) == kept


# The verbs


@pytest.mark.parametrize(
    ("verb", "arguments", "task", "kind"),
    [
        ("caption", {}, "<CAPTION>", Text),
        ("caption", {"detail": "more"}, "<DETAILED_CAPTION>", Text),
        ("caption", {"detail": "most"}, "<MORE_DETAILED_CAPTION>", Text),
        ("detect", {}, "<OD>", Detections),
        ("detect", {"labels": LABELS}, "<OPEN_VOCABULARY_DETECTION>", Detections),
        ("ground", {"text": TEXT}, "<CAPTION_TO_PHRASE_GROUNDING>", Detections),
        ("segment", {"text": TEXT}, "<REFERRING_EXPRESSION_SEGMENTATION>", Segments),
        ("segment", {"box": BOX}, "<REGION_TO_SEGMENTATION>", Segments),
        ("read", {}, "<OCR>", Text),
        ("read", {"regions": True}, "<OCR_WITH_REGION>", TextRegions),
        ("read", {"box": BOX}, "<REGION_TO_OCR>", Text),
        ("propose", {}, "<REGION_PROPOSAL>", Detections),
        ("describe_regions", {}, "<DENSE_REGION_CAPTION>", Detections),
        ("ask", {"question": "how many?"}, "<ASK>", Text),
        ("describe", {"box": BOX}, "<REGION_TO_DESCRIPTION>", Text),
        ("classify", {"box": BOX}, "<REGION_TO_CATEGORY>", Text),
    ],
)
def test_each_verb_is_a_task(
    model: Florence2, verb: str, arguments: dict[str, Any], task: str, kind: type[Answer]
) -> None:
    answer = getattr(model, verb)(PHOTO, **arguments)
    assert type(answer) is kind
    assert (answer.task, answer.width, answer.height) == (task, *PHOTO.size)
    assert 0 <= answer.confidence <= 1
    assert answer.raw is None


def test_photos_of_every_form_give_the_same_answer(model: Florence2, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    PHOTO.save(path)
    forms = [path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), PHOTO, np.asarray(PHOTO)]
    answers = [ids(model.caption(form, raw=True)) for form in [*forms, model.encode(PHOTO)]]
    assert len(set(answers)) == 1


def test_the_answer_looks_at_the_photo(model: Florence2) -> None:
    assert len({ids(model.caption(picture(seed), raw=True, num_beams=1)) for seed in range(6)}) > 1


def test_answers_carry_their_photo(model: Florence2) -> None:
    for answer in (model.detect(PHOTO), model.detect(PHOTO, LABELS), model.caption(PHOTO)):
        assert answer._repr_png_()


def test_raw_is_what_the_decoder_produced(model: Florence2) -> None:
    raw = model.detect(PHOTO, raw=True).raw
    assert raw is not None
    assert raw.token_ids[:2] == (2, 0)
    assert raw.token_ids[-1] == 2
    assert len(raw.logprobs) == len(raw.token_ids) - 1
    assert raw.text == model.tokenizer.decode(raw.token_ids)


def test_options_reach_the_search(model: Florence2) -> None:
    short = model.caption(PHOTO, max_new_tokens=6, raw=True)
    assert len(ids(short)) <= 7
    assert short.truncated
    greedy, beams = model.detect(PHOTO, num_beams=1, raw=True), model.detect(PHOTO, num_beams=4, raw=True)
    assert ids(greedy) != ids(beams)
    first, again = (model.caption(PHOTO, temperature=1.0, seed=3, raw=True) for _ in range(2))
    assert ids(first) == ids(again) != ids(model.caption(PHOTO, temperature=1.0, seed=4, raw=True))


def test_min_score_leaves_out(model: Florence2) -> None:
    everything = model.detect(PHOTO)
    middle = sorted(everything.scores)[len(everything) // 2]
    assert model.detect(PHOTO, min_score=middle).scores == [s for s in everything.scores if s >= middle]
    assert len(model.detect(PHOTO, min_score=1.0)) == 0


def test_reference_lifts_the_grammar(model: Florence2) -> None:
    assert ids(model.detect(PHOTO, reference=True, raw=True)) != ids(model.detect(PHOTO, raw=True))


def test_input_size_can_be_chosen(model: Florence2) -> None:
    wide = model.encode(PHOTO, size=(64, 128))
    assert wide.tokens.shape[1] > model.encode(PHOTO).tokens.shape[1]
    assert model.detect(wide).width == PHOTO.width


# Boxes


def test_one_box_one_answer_many_boxes_a_list(model: Florence2, encoder_calls: list[int]) -> None:
    boxes = [BOX, (0.0, 0.0, 90.0, 60.0), (20.0, 3.0, 30.0, 9.0)]
    many = model.describe(PHOTO, box=boxes, raw=True)
    assert encoder_calls == [1]
    assert [ids(a) for a in many] == [ids(model.describe(PHOTO, box=box, raw=True)) for box in boxes]
    assert model.describe(PHOTO, box=[]) == []
    assert isinstance(model.segment(PHOTO, box=[BOX]), list)
    assert len(model.read(PHOTO, box=np.array(boxes))) == 3
    assert model.classify(PHOTO, box=np.array(BOX, dtype=np.float32)) == model.classify(PHOTO, box=BOX)


WRONG_BOXES = [
    ((10, 10, 5, 50), "inverted"),
    ((10, 50, 20, 10), "inverted"),
    ((10, 10, 10, 50), "empty"),
    ((10, 10, 40, 10), "empty"),
    ((-4, 0, 20, 20), "90 x 60"),  # partly outside
    ((0, 0, 91, 60), "90 x 60"),
    ((200, 200, 300, 300), "90 x 60"),  # wholly outside
    ((math.nan, 0, 20, 20), "NaN"),
    ((0, 0, math.inf, 20), "NaN or infinity"),
    ((0, 0, 20), "four numbers"),
    ((0, 0, 20, 20, 20), "four numbers"),
    ("0,0,20,20", "x0, y0, x1, y1"),
    (("0", 0, 20, 20), "four numbers"),
    ((True, 0, 20, 20), "four numbers"),
    (7, "x0, y0, x1, y1"),
    ([BOX, (10, 10, 5, 50)], "inverted"),  # one bad box among good ones
    (np.zeros((2, 3)), "four numbers"),
]


@pytest.mark.parametrize(("box", "says"), WRONG_BOXES)
def test_wrong_boxes(model: Florence2, box: Any, says: str) -> None:
    with pytest.raises(BoxError, match=says):
        model.classify(PHOTO, box=box)


def test_a_box_may_stick_out_by_rounding(model: Florence2) -> None:
    assert model.classify(PHOTO, box=(-0.3, 0, 90.4, 60.2)) == model.classify(PHOTO, box=(0, 0, 90, 60))


# Wrong input


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda m: m.run(PHOTO, "<ODD>"), TaskError, "did you mean <OD>"),  # unknown task
        (lambda m: m.run(PHOTO, 7), TaskError, "a task is a string"),
        (lambda m: m.run(PHOTO, "ground"), TaskError, "needs a text"),  # a task without its text
        (lambda m: m.ground(PHOTO, "  "), TaskError, "is empty"),
        (lambda m: m.ground(PHOTO, 5), TaskError, "is a string"),
        (lambda m: m.run(PHOTO, "<OD>", "a dog"), TaskError, "leave the text out"),  # a text too many
        (lambda m: m.run(PHOTO, "classify", TEXT), TaskError, "leave the text out"),
        (lambda m: m.run(PHOTO, "classify"), TaskError, "needs a box"),
        (lambda m: m.run(PHOTO, "caption", box=BOX), TaskError, "leave the box out"),
        (lambda m: m.run(PHOTO, "find"), TaskError, "a text or labels"),
        (lambda m: m.run(PHOTO, "propose", labels=LABELS), TaskError, "leave labels out"),
        (lambda m: m.caption(PHOTO, detail="all"), TaskError, '"more" or "most"'),
        (lambda m: m.segment(PHOTO), TaskError, "a text or a box"),
        (lambda m: m.segment(PHOTO, TEXT, box=BOX), TaskError, "a text or a box"),
        (lambda m: m.read(PHOTO, regions=True, box=BOX), TaskError, "not both"),
        (lambda m: m.detect(PHOTO, labels=[]), TaskError, "labels is empty"),
        (lambda m: m.detect(PHOTO, labels="dog"), TaskError, r"labels=\['dog'\]"),
        (lambda m: m.detect(PHOTO, labels=["dog", " "]), TaskError, "label 2 of 2 is empty"),
        (lambda m: m.detect(PHOTO, labels=["a<and>b"]), TaskError, "<and>"),
        (lambda m: m.detect(PHOTO, labels=["dog", 3]), TaskError, "a label is a string"),
        (lambda m: m.detect(PHOTO, labels=LABELS, reference=True), TaskError, "labels need the grammar"),
        (lambda m: m.detect(PHOTO, labels=LABELS, constrained=False), TaskError, "labels need the grammar"),
        (lambda m: m.ground(PHOTO, "guitar " * 200), TaskError, "shorten the text"),
        (lambda m: m.caption(PHOTO, beams=3), TaskError, "unknown option 'beams'.*num_beams"),
        (lambda m: m.caption(PHOTO, min_score=2), TaskError, "between 0 and 1"),
        (lambda m: m.caption(PHOTO, num_beams=0), ConfigError, "at least 1"),
        (lambda m: m.run_many(PHOTO, [("ground", TEXT, BOX)]), TaskError, r"\(name, input\)"),
        (lambda m: m.run_many(PHOTO, [("ground", {"txt": TEXT})]), TaskError, "unknown input 'txt'"),
        (lambda m: m.run_batch([PHOTO]), TaskError, r"\(photo, task\)"),
        (lambda m: m.run_batch([(PHOTO, "od")], batch_size=0), TaskError, "at least 1"),
        (lambda m: m.run_batch([(PHOTO, "od")], on_error="skip"), TaskError, '"raise" or "record"'),
        (lambda m: m.stream([(PHOTO, "od")], ahead=-1), TaskError, "ahead is at least 0"),
        (lambda m: m.caption("nowhere.jpg"), ImageError, "does not exist"),
        (lambda m: m.caption(b""), ImageError, "empty"),
        (lambda m: m.caption(b"no image at all"), ImageError, "not an image"),
        (lambda m: m.caption(42), ImageError, "a photo cannot be a int"),
        (lambda m: Florence2.from_pretrained("no/such/folder"), CheckpointError, "no file or folder"),
    ],
)
def test_wrong_input_is_named(model: Florence2, call: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call(model)


def test_mistakes_are_found_before_the_photo_is_encoded(model: Florence2, encoder_calls: list[int]) -> None:
    for call in (lambda: model.run_many(PHOTO, ["od", "ground"]), lambda: model.caption(PHOTO, nonsense=1)):
        with pytest.raises(TaskError):
            call()
    assert encoder_calls == []


def test_a_scene_of_another_model_is_refused(model: Florence2) -> None:
    scene = model.encode(PHOTO)
    foreign = dataclasses.replace(scene, tokens=torch.zeros(1, 5, 48))
    with pytest.raises(TaskError, match="another model"):
        model.caption(foreign)


def test_a_checkpoint_without_tokenizer_is_refused() -> None:
    with pytest.raises(CheckpointError, match="tokenizer"):
        Florence2(dataclasses.replace(tiny_checkpoint(), tokenizer=None))


# Labels


def test_only_given_labels_come_back(model: Florence2) -> None:
    found = [
        label
        for seed in range(5)
        for answer in (
            model.detect(picture(seed), labels=["Red car", "dog", "dog", "Hund der Nachbarn"], num_beams=1),
            model.run(picture(seed), "<OD>", labels=["Red car", "dog"]),
        )
        for label in answer.labels
    ]
    assert found
    assert set(found) <= {"Red car", "dog", "Hund der Nachbarn"}


def test_labels_close_what_a_text_task_says(model: Florence2) -> None:
    for seed in range(2):
        assert model.ask(picture(seed), "is it day?", labels=["yes", "no"]).text in ("yes", "no")
        assert model.classify(picture(seed), BOX, ["cat", "dog"]).text in ("cat", "dog")


def test_detect_asks_for_each_label_once(model: Florence2, encoder_calls: list[int]) -> None:
    merged = model.detect(PHOTO, labels=["car", "dog", "car"], raw=True)
    single = [model.detect(PHOTO, labels=[label], raw=True) for label in ("car", "dog")]
    assert encoder_calls == [1, 1, 1]
    assert ids(merged) == ids(single[0]) + ids(single[1])
    assert merged.objects == single[0].objects + single[1].objects
    assert merged.raw is not None
    assert len(merged.raw.logprobs) == len(merged.raw.token_ids) - 1
    assert merged.confidence == pytest.approx(math.sqrt(single[0].confidence * single[1].confidence))
    assert model.detect(PHOTO, labels=["car", "dog"]).confidence == pytest.approx(merged.confidence)


# Encoded once, batched rightly


def test_five_tasks_one_call_of_the_image_encoder(model: Florence2, encoder_calls: list[int]) -> None:
    answers = model.run_many(PHOTO, ["<OD>", "<OCR>", "caption", ("ground", TEXT), ("classify", BOX)])
    assert encoder_calls == [1]
    assert [a.task for a in answers] == [
        *("<OD>", "<OCR>", "<CAPTION>", "<CAPTION_TO_PHRASE_GROUNDING>", "<REGION_TO_CATEGORY>")
    ]


def test_a_scene_is_never_encoded_again(model: Florence2, encoder_calls: list[int]) -> None:
    scene = model.encode(PHOTO)
    model.caption(scene)
    model.run_batch([(scene, "od"), (scene, "ocr")])
    assert encoder_calls == [1]


def test_batch_equals_single_for_every_task(model: Florence2) -> None:
    items = [(picture(i % 3), task.name, given(task)) for i, task in enumerate(TASKS.values())]
    assert _differences(model, items) == []


def test_batch_equals_single_needs_the_mask(model: Florence2, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted fault: padding that is attended, as in Microsoft's code."""
    padded = Engine._padded
    monkeypatch.setattr(Engine, "_padded", lambda self, prompts: (padded(self, prompts)[0], None))
    items = [(picture(i % 3), task.name, given(task)) for i, task in enumerate(TASKS.values())]
    assert _differences(model, items)


def _differences(model: Florence2, items: Sequence[Any]) -> list[str]:
    """Tasks whose answer in the batch has other tokens, or another confidence, than alone."""
    batched = model.run_batch(items, batch_size=len(items), raw=True)
    single = [model.run_many(photo, [(task, arguments)], raw=True)[0] for photo, task, arguments in items]
    return [
        one.task
        for one, other in zip(batched, single, strict=True)
        if ids(one) != ids(other) or not math.isclose(one.confidence, other.confidence, rel_tol=1e-4)
    ]


def test_batch_encodes_each_photo_once(model: Florence2, encoder_calls: list[int], tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    PHOTO.save(path)
    other = picture(2)
    items = [(str(path), "od"), (other, "od"), (path, "ocr"), (other, "caption"), (other, "ground", TEXT)]
    answers = model.run_batch(items, batch_size=2, raw=True)
    assert sum(encoder_calls) == 2
    assert [a.task for a in answers] == ["<OD>", "<OD>", "<OCR>", "<CAPTION>", "<CAPTION_TO_PHRASE_GROUNDING>"]
    assert [ids(a) for a in answers] == [ids(model.run_many(photo, [task], raw=True)[0]) for photo, *task in items]


def test_batch_takes_boxes_and_labels(model: Florence2) -> None:
    boxes, labelled, both = model.run_batch(
        [
            (PHOTO, "describe", [BOX, BOX]),
            (PHOTO, "find", LABELS),
            (PHOTO, "classify", {"box": BOX, "labels": ["cat", "dog"]}),
        ]
    )
    assert boxes == model.describe(PHOTO, [BOX, BOX])
    assert labelled == model.detect(PHOTO, LABELS)
    assert both.text in ("cat", "dog")


def test_errors_become_records_and_nothing_is_lost(model: Florence2, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 no more")
    items = [
        (PHOTO, "od"),
        (broken, "od"),
        (broken, "caption"),
        (PHOTO, "nonsense"),
        (PHOTO, "classify", (0, 0, 500, 500)),
        "no item",
        (picture(1), "caption"),
    ]
    with pytest.raises(ImageError):
        model.run_batch(items)
    for size in (1, 3, 100):
        answers = model.run_batch(items, batch_size=size, on_error="record")
        assert [type(a).__name__ for a in answers] == ["Detections", *["ErrorRecord"] * 5, "Text"]
        assert [type(a.error).__name__ for a in answers[1:6]] == [
            *("ImageError", "ImageError", "TaskError", "BoxError", "TaskError")
        ]
    record = answers[1]
    assert isinstance(record, ErrorRecord)
    assert record.to_dict()["image"] == str(broken)
    assert record.to_dict()["error"] == {"type": "ImageError", "message": str(record.error)}


def test_stream_reads_no_further_than_it_must(model: Florence2, encoder_calls: list[int]) -> None:
    taken = []

    def items() -> Iterator[Any]:
        for i in range(1000):
            taken.append(i)
            yield (picture(i // 2 % 5), "od") if i != 3 else ("nowhere.jpg", "od")

    answers = model.stream(items(), batch_size=4)
    first = [next(answers) for _ in range(6)]
    assert len(taken) == 12  # two batches that were asked for, and one ahead
    assert isinstance(first[3], ErrorRecord)
    assert all(isinstance(a, Detections) for i, a in enumerate(first) if i != 3)


def test_a_stream_remembers_only_the_last_photos(model: Florence2, encoder_calls: list[int]) -> None:
    one, two = picture(1), picture(2)
    list(model.stream([(one, "od"), (one, "ocr"), (one, "caption"), (two, "od")], batch_size=2))
    assert encoder_calls == [1, 1]
    encoder_calls.clear()
    list(model.stream([(one, "od"), (two, "od"), (picture(3), "od"), (one, "ocr")], batch_size=1))
    assert encoder_calls == [1, 1, 1, 1]  # the last one was forgotten and is encoded again


def test_too_large_batches_are_halved(model: Florence2, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(tiny_checkpoint())
    sizes: list[int] = []
    generate = Engine._generate

    def cramped(self: Engine, rows: Any, *rest: Any) -> Any:
        sizes.append(len(rows))
        if len(rows) > 2:
            raise torch.cuda.OutOfMemoryError("no room")
        return generate(self, rows, *rest)

    monkeypatch.setattr(Engine, "_generate", cramped)
    items = [(PHOTO, "describe", [BOX] * 9)]
    (answers,) = batches.run(engine, items, 8, "raise", {})
    assert sizes == [9, 4, 2, 2, 2, 2, 1]
    assert answers == model.describe(PHOTO, [BOX] * 9)
    monkeypatch.setattr(Engine, "_generate", lambda *_: (_ for _ in ()).throw(torch.cuda.OutOfMemoryError("none")))
    with pytest.raises(Florence2Error, match="does not hold"):
        batches.run(engine, items, 8, "raise", {})


# The model itself


def test_close_and_with() -> None:
    with Florence2(tiny_checkpoint()) as model:
        assert "tiny" in repr(model)
        assert model.device.type == "cpu"
    assert "closed" in repr(model)
    with pytest.raises(Florence2Error, match="closed"):
        model.caption(PHOTO)
    model.close()


def test_answers_hold_no_gradients(model: Florence2) -> None:
    assert not model.encode(PHOTO).tokens.requires_grad


def test_a_third_party_task_runs_without_registration(model: Florence2) -> None:
    count = Task("<COUNT>", "How many {input} are there?", TASKS["<CAPTION>"].grammar, Text, takes="text")
    assert model.run(PHOTO, count, "dogs").task == "<COUNT>"
    assert inputs.ask(count, text="dogs").task is count


def test_a_third_party_task_over_labels_gets_them_all_in_one_prompt(model: Florence2) -> None:
    which = Task("<WHICH>", "Which of {input} is it?", TASKS["<CAPTION>"].grammar, Text, takes="labels")
    assert model.run(PHOTO, which, labels=["cat", "dog"]).text in ("cat", "dog")


def test_a_text_prompt_with_closed_answers(model: Florence2) -> None:
    answer = model.run(PHOTO, "find", "car<and>dog", labels=["car", "dog"])
    assert set(answer.labels) <= {"car", "dog"}


def test_loading_from_a_folder(model: Florence2, tmp_path: Path) -> None:
    from florence2 import save

    folder = save(tiny_checkpoint(), tmp_path / "tiny")
    loaded = Florence2.from_pretrained(folder, device="cpu")
    assert ids(loaded.detect(PHOTO, raw=True)) == ids(model.detect(PHOTO, raw=True))


def test_the_embedded_model(nano_path: Path) -> None:
    with Florence2.from_pretrained() as nano:
        answers = nano.run_many(PHOTO, [(task.name, given(task)) for task in TASKS.values()], num_beams=1)
    assert [a.task for a in answers] == list(TASKS)
