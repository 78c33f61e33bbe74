from __future__ import annotations

import dataclasses
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from florence2.errors import BoxError, TaskError
from florence2.language import answers, tasks
from florence2.language.grammar import LABEL, MARKED_INSTANCE, OPEN_VOCABULARY, many, some
from florence2.language.quantizer import dequantize
from florence2.language.tasks import Task
from florence2.results import Detections, Instance, Object, Segments, Text, TextRegion, TextRegions
from tests.language.walks import arbitrary

SIZE = (1000, 1000)  # bin n is pixel n + 0.5


def parsed(tokenizer, task, text, **options):
    ids = tokenizer.encode(text.replace("[", "<loc_").replace("]", ">"))
    return answers.parse(ids, task, SIZE, tokenizer, **options)


def outcome(answer):
    """Labels and bins of an answer, in short."""
    if isinstance(answer, Text):
        return answer.text
    if isinstance(answer, Detections):
        return [
            (item.label, [[int(v) for v in polygon] for polygon in item.polygons] or [int(v) for v in item.box])
            for item in answer.objects
        ]
    if isinstance(answer, Segments):
        return [[[int(v) for v in polygon] for polygon in item.polygons] for item in answer.instances]
    return [(item.text, [int(v) for v in item.quad]) for item in answer.regions]


SQUARE, OTHER_SQUARE = [1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]
S, T = "[1][2][3][4][5][6]", "[7][8][9][10][11][12]"


@pytest.mark.parametrize(
    ("task", "text", "expected", "dropped"),
    [
        ("<OD>", "</s><s>car[1][2][3][4][5][6][7][8]dog[9][9][9][9]</s>",
         [("car", [1, 2, 3, 4]), ("car", [5, 6, 7, 8]), ("dog", [9, 9, 9, 9])], []),
        ("<OD>", "</s><s><s><s>car[1][2][3][4]</s>", [("car", [1, 2, 3, 4])], []),  # the large model's opening
        ("<OD>", "car[1][2][3][4]", [("car", [1, 2, 3, 4])], []),  # bare: no <s>, no </s>
        ("<OD>", "</s><s></s>", [], []),  # nothing found
        ("<OD>", "", [], []),
        ("<OD>", "</s>", [], []),
        ("<OD>", "</s><s> car [1][2][3][4]</s>", [("car", [1, 2, 3, 4])], []),  # blanks around the label
        ("<OD>", "</s><s>日本[1][2][3][4]</s>", [("日本", [1, 2, 3, 4])], []),  # unicode stays
        ("<OD>", "</s><s>car[3][4][1][2]</s>", [("car", [1, 2, 3, 4])], []),  # inverted: turned
        ("<OD>", "</s><s>car[1][2][3][4]</s><pad><pad>", [("car", [1, 2, 3, 4])], []),
        ("<OD>", "</s><s>car[1][2][3][4]</s>dog[1][2]</s>", [("car", [1, 2, 3, 4])], []),  # behind the end
        ("<OD>", "</s><s>car[1][2]dog[5][6][7][8]</s>", [("dog", [5, 6, 7, 8])],
         ["incomplete box: 'car<loc_1><loc_2>'"]),
        ("<OD>", "</s><s>car[1][2][3][4][5]dog[5][6][7][8]</s>", [("car", [1, 2, 3, 4]), ("dog", [5, 6, 7, 8])],
         ["incomplete box: '<loc_5>'"]),
        ("<OD>", "</s><s>car[1][2][3][4]dog</s>", [("car", [1, 2, 3, 4])], ["text without coordinates: 'dog'"]),
        ("<OD>", "</s><s>[1][2][3][4]car[5][6][7][8]</s>", [("car", [5, 6, 7, 8])],
         ["does not fit: '<loc_1><loc_2><loc_3><loc_4>'"]),
        ("<OD>", "</s><s>car<sep>[1][2][3][4]dog[5][6][7][8]</s>", [("dog", [5, 6, 7, 8])],
         ["text without coordinates: 'car'", "does not fit: '<sep><loc_1><loc_2><loc_3><loc_4>'"]),
        ("<OD>", "</s><s>car<unk>[1][2][3][4]</s>", [("car", [1, 2, 3, 4])], ["stray token: '<unk>'"]),
        ("<OD>", "</s><s>car[1][2][3][4]do", [("car", [1, 2, 3, 4])], ["text without coordinates: 'do'"]),  # cut off
        ("<REGION_PROPOSAL>", "</s><s>[1][2][3][4][5][6][7][8]</s>", [("", [1, 2, 3, 4]), ("", [5, 6, 7, 8])], []),
        ("<REGION_PROPOSAL>", "</s><s>[1][2]x[3][4][5][6]</s>", [("", [3, 4, 5, 6])],
         ["incomplete box: '<loc_1><loc_2>'", "does not fit: 'x'"]),
        ("<OCR_WITH_REGION>", "</s><s>HI[1][2][3][4][5][6][7][8]YO[9][9]</s>", [("HI", [1, 2, 3, 4, 5, 6, 7, 8])],
         ["incomplete quad: 'YO<loc_9><loc_9>'"]),
        ("<OCR_WITH_REGION>", "</s><s>HI[1][2][3][4][5][6][7][8][9]YO[1][2][3][4][5][6][7][8]</s>",
         [("HI", [1, 2, 3, 4, 5, 6, 7, 8]), ("YO", [1, 2, 3, 4, 5, 6, 7, 8])], ["does not fit: '<loc_9>'"]),
        ("<REFERRING_EXPRESSION_SEGMENTATION>", f"</s><s>{S}</s>", [[SQUARE]], []),
        ("<REFERRING_EXPRESSION_SEGMENTATION>", f"</s><s>{S}<sep>{T}</s>", [[SQUARE, OTHER_SQUARE]], []),
        ("<REFERRING_EXPRESSION_SEGMENTATION>", f"</s><s><poly>{S}</poly><poly>{T}</poly></s>",
         [[SQUARE], [OTHER_SQUARE]], []),
        ("<REFERRING_EXPRESSION_SEGMENTATION>", f"</s><s>{S}[7]</s>", [[SQUARE]], ["odd coordinate: '<loc_7>'"]),
        ("<REFERRING_EXPRESSION_SEGMENTATION>", f"</s><s>{S}<sep>[7][8]</s>", [[SQUARE]],
         ["polygon of fewer than 3 points: '<sep><loc_7><loc_8>'"]),
        ("<REFERRING_EXPRESSION_SEGMENTATION>", f"</s><s>{S}x{T}</s>", [[SQUARE], [OTHER_SQUARE]],
         ["does not fit: 'x'"]),  # two runs are two outlines
        ("<REFERRING_EXPRESSION_SEGMENTATION>", f"</s><s><poly>{S}<poly>{T}</poly></s>",
         [[SQUARE], [OTHER_SQUARE]], []),  # not closed, nothing lost
        ("<REFERRING_EXPRESSION_SEGMENTATION>", f"</s><s><poly>{S}", [[SQUARE]], []),  # cut off behind a point
        ("<REFERRING_EXPRESSION_SEGMENTATION>", "</s><s><poly></poly></s>", [],
         ["incomplete poly: '<poly>'", "does not fit: '</poly>'"]),
        ("<OPEN_VOCABULARY_DETECTION>", f"</s><s>hat[1][2][3][4]cup<poly>{S}<sep>{T}</poly></s>",
         [("hat", [1, 2, 3, 4]), ("cup", [SQUARE, OTHER_SQUARE])], []),
        ("<OPEN_VOCABULARY_DETECTION>", f"</s><s>hat<poly>[1][2]</poly>cup<poly>{T}</poly></s>",
         [("cup", [OTHER_SQUARE])],
         ["polygon of fewer than 3 points: 'hat<poly><loc_1><loc_2>'", "does not fit: '</poly>'"]),
        ("<CAPTION>", "</s><s> a man\n</s>", "a man", []),
        ("<CAPTION>", "</s><s>a [5]man</s>", "a man", ["does not fit: '<loc_5>'"]),
        ("<CAPTION>", "</s><s></s>", "", []),
        ("<REGION_TO_CATEGORY>", "</s><s>car[1][2][3][4]</s>", "car", []),  # the region is repeated behind its name
        ("<REGION_TO_CATEGORY>", "</s><s>car[1][2]</s>", "car", ["incomplete echo: '<loc_1><loc_2>'"]),
    ],
)  # fmt: skip
def test_parse(tokenizer, task, text, expected, dropped):
    answer = parsed(tokenizer, task, text)
    assert outcome(answer) == expected
    assert [note.rpartition(" at token ")[0] for note in answer.dropped] == dropped
    assert answer.task == task
    assert (answer.width, answer.height, answer.confidence) == (1000, 1000, 1.0)


def test_dropped_names_the_position_and_stays_short(tokenizer):
    answer = parsed(tokenizer, "<OD>", "</s><s>" + "[1]" * 50)
    assert answer.dropped[0].endswith("... (50 tokens)' at token 2")
    assert len(answer.dropped[0]) < 120


def test_broken_utf8_in_a_label(tokenizer):
    half = tokenizer.encode_plain("日")[:1]
    ids = [0, *half, *tokenizer.encode("<loc_1>" * 4), 2]
    answer = answers.parse(ids, "<OD>", SIZE, tokenizer)
    assert len(answer.labels) == 1


bins = st.integers(0, 999)
words = st.text(min_size=1, max_size=12).map(str.strip).filter(bool)


def pixels(size, values):
    return tuple(dequantize(values, size))


@st.composite
def boxes(draw, size):
    x0, x1 = sorted((draw(bins), draw(bins)))
    y0, y1 = sorted((draw(bins), draw(bins)))
    return pixels(size, (x0, y0, x1, y1))


@st.composite
def outlines(draw, size):
    polygon = st.lists(st.tuples(bins, bins), min_size=3, max_size=6)
    drawn = draw(st.lists(polygon, min_size=1, max_size=3))
    return tuple(pixels(size, [v for point in points for v in point]) for points in drawn)


@st.composite
def answers_of(draw, task: Task):
    size = (draw(st.integers(1, 5000)), draw(st.integers(1, 5000)))
    shape = {"task": task.name, "width": size[0], "height": size[1]}
    count = draw(st.integers(0, 4))
    if task.result is Text:
        return Text(**shape, text=draw(st.text(max_size=40)).strip())
    if task.result is TextRegions:
        quads = [pixels(size, draw(st.lists(bins, min_size=8, max_size=8))) for _ in range(count)]
        return TextRegions(**shape, regions=tuple(TextRegion(text=draw(words), quad=quad) for quad in quads))
    if task.result is Segments:
        found = tuple(Instance(label="", polygons=draw(outlines(size))) for _ in range(count))
        return Segments(**shape, instances=found)
    objects = []
    for _ in range(count):
        label = "" if task.name == "<REGION_PROPOSAL>" else draw(words)
        if task.grammar == OPEN_VOCABULARY and draw(st.booleans()):
            instance = Instance(label=label, polygons=draw(outlines(size)))
            objects.append(Object(label=label, box=instance.box, polygons=instance.polygons))
        else:
            objects.append(Object(label=label, box=draw(boxes(size))))
        if draw(st.booleans()):
            objects.append(objects[-1])  # several of one name
    return Detections(**shape, objects=tuple(objects))


@pytest.mark.parametrize("name", tasks.TASKS)
@settings(max_examples=40)
@given(data=st.data())
def test_parse_of_format_is_the_answer(tokenizer, name, data):
    task = tasks.get(name)
    answer = data.draw(answers_of(task))
    ids = answers.format(answer, task, tokenizer)
    assert answers.parse(ids, task, (answer.width, answer.height), tokenizer) == answer
    assert answers.parse([2, *ids, 1, 1], task, (answer.width, answer.height), tokenizer) == answer


def test_neighbours_of_one_name_share_the_label(tokenizer):
    box = (0.5, 0.5, 1.5, 1.5)
    answer = Detections(
        task="<OD>", width=1000, height=1000, objects=tuple(Object(label=x, box=box) for x in ("car", "car", "dog"))
    )
    text = tokenizer.decode(answers.format(answer, "<OD>", tokenizer))
    assert text == "<s>car<loc_0><loc_0><loc_1><loc_1><loc_0><loc_0><loc_1><loc_1>dog<loc_0><loc_0><loc_1><loc_1></s>"


def test_labels_that_look_like_marks_are_words(tokenizer):
    objects = (Object(label="</s><loc_3><poly>", box=(0.5, 0.5, 1.5, 1.5)),)
    answer = Detections(task="<OD>", width=1000, height=1000, objects=objects)
    assert answers.parse(answers.format(answer, "<OD>", tokenizer), "<OD>", SIZE, tokenizer) == answer


def test_a_third_party_grammar_is_read_and_written_too(tokenizer):
    task = Task("<PARTS>", "Cut the things out.", many(LABEL, some(MARKED_INSTANCE)), Segments)
    triangle = pixels(SIZE, SQUARE)
    answer = Segments(
        task="<PARTS>",
        width=1000,
        height=1000,
        instances=tuple(Instance(label=label, polygons=(triangle,)) for label in ("cup", "cup", "hat")),
    )
    assert answers.parse(answers.format(answer, task, tokenizer), task, SIZE, tokenizer) == answer


@pytest.mark.parametrize(
    ("task", "content", "error", "message"),
    [
        ("<OD>", {"objects": (Object(label="a", box=(5, 1, 1, 5)),)}, BoxError, "inverted"),
        ("<OD>", {"objects": (Object(label="a", box=(math.nan, 1, 1, 5)),)}, BoxError, "NaN"),
        ("<OD>", {"objects": (Object(label=" ", box=(1, 1, 2, 2)),)}, TaskError, "needs a label"),
        ("<OD>", {"objects": (Object(label="a", box=(1, 1, 2, 2), polygons=((1, 1, 2, 2, 3, 3),)),)}, TaskError,
         "no polygon"),
        ("<REGION_PROPOSAL>", {"objects": (Object(label="a", box=(1, 1, 2, 2)),)}, TaskError, "no labels"),
        ("<OPEN_VOCABULARY_DETECTION>", {"objects": (Object(label="a", box=(1, 1, 2, 2), polygons=((1, 1, 2, 2),)),)},
         TaskError, "cannot say"),
        ("<CAPTION>", {}, TaskError, "gives Text, found Detections"),
    ],
)  # fmt: skip
def test_format_refuses_what_the_task_cannot_say(tokenizer, task, content, error, message):
    with pytest.raises(error, match=message):
        answers.format(Detections(task=task, width=10, height=10, **content), task, tokenizer)


def survive(tokenizer, count, seed):
    rng = random.Random(seed)
    names = list(tasks.TASKS)
    dropped = 0
    for _ in range(count):
        ids = arbitrary(tokenizer, rng)
        answer = answers.parse(ids, rng.choice(names), (640, 480), tokenizer)
        dropped += bool(answer.dropped)
        shapes = getattr(answer, "objects", getattr(answer, "instances", getattr(answer, "regions", ())))
        for item in shapes:
            x0, y0, x1, y1 = item.box
            assert 0 <= x0 <= x1 <= 640
            assert 0 <= y0 <= y1 <= 480
    assert dropped > count / 3  # the ids were bad enough


def test_the_parser_survives_3000_random_sequences(tokenizer):
    survive(tokenizer, 3000, seed=1)


@pytest.mark.slow
def test_the_parser_survives_100000_random_sequences(tokenizer):
    survive(tokenizer, 100_000, seed=2)


@pytest.mark.parametrize("name", tasks.TASKS)
@given(ids=st.lists(st.integers(-10, 1500), max_size=40))
def test_the_parser_survives_any_integers(tokenizer, name, ids):
    answers.parse(ids, name, (3, 5), tokenizer, [math.nan] * max(len(ids) - 1, 0), keep_raw=True, truncated=True)


def test_scores_are_of_their_own_tokens(tokenizer):
    text = "</s><s>wheel<loc_1><loc_2><loc_3><loc_4><loc_5><loc_6><loc_7><loc_8></s>"
    ids = tokenizer.encode(text)
    label = len(ids) - 11
    label_logprobs = [-0.1 * (i + 1) for i in range(label)]
    logprobs = [0.0, *label_logprobs, -0.1, -0.2, -0.3, -0.4, -1.0, -1.0, -1.0, -1.0, -2.0]
    answer = answers.parse(ids, "<OD>", SIZE, tokenizer, logprobs, keep_raw=True)
    first, second = answer.objects
    assert first.label_score == second.label_score == pytest.approx(math.exp(sum(label_logprobs) / label))
    assert first.box_score == pytest.approx(math.exp(-0.25))
    assert second.box_score == pytest.approx(math.exp(-1))
    assert second.score == pytest.approx(math.sqrt(second.label_score * second.box_score))
    assert answer.confidence == pytest.approx(math.exp(sum(logprobs) / (len(logprobs) - 1)))  # <s> was forced
    assert answer.raw.token_ids == tuple(ids)
    assert answer.raw.text == text
    assert answer.raw.logprobs == tuple(logprobs)


def test_scores_of_regions_outlines_and_proposals(tokenizer):
    quad = parsed(tokenizer, "<OCR_WITH_REGION>", "</s><s>a[1][2][3][4][5][6][7][8]</s>",
                  logprobs=[0, -0.5, *[-1.5] * 8, 0])  # fmt: skip
    assert quad.regions[0].score == pytest.approx(math.exp(-1))
    outline = parsed(tokenizer, "<REGION_TO_SEGMENTATION>", f"</s><s>{S}<sep>{T}</s>",
                     logprobs=[0, *[-1] * 6, -9, *[-2] * 6, 0])  # fmt: skip
    assert outline.instances[0].score == pytest.approx(math.exp(-1.5))  # the marks do not count
    proposal = parsed(tokenizer, "<REGION_PROPOSAL>", "</s><s>[1][2][3][4]</s>", logprobs=[0, *[-1] * 4, 0])
    assert proposal.objects[0].score == proposal.objects[0].box_score == pytest.approx(math.exp(-1))
    assert proposal.objects[0].label_score == 1.0


def test_an_end_forced_by_the_budget_does_not_raise_the_confidence(tokenizer):
    text = "</s><s>ab</s>"
    count = len(tokenizer.encode(text))
    logprobs = [0.0, *[-1.0] * (count - 3), 0.0]
    assert parsed(tokenizer, "<CAPTION>", text, logprobs=logprobs).confidence > math.exp(-1)
    cut = parsed(tokenizer, "<CAPTION>", text, logprobs=logprobs, truncated=True)
    assert cut.confidence == pytest.approx(math.exp(-1))
    assert cut.truncated


@pytest.mark.parametrize("value", [math.nan, -math.inf, 1e-3, -1e9])
def test_scores_stay_in_range(tokenizer, value):
    answer = parsed(tokenizer, "<OD>", "</s><s>a[1][2][3][4]</s>", logprobs=[0, *[value] * 6])
    item = answer.objects[0]
    for score in (answer.confidence, item.score, item.label_score, item.box_score):
        assert 0.0 <= score <= 1.0


def test_as_many_logprobs_as_ids(tokenizer):
    with pytest.raises(TaskError, match="5 log-probabilities for 4 ids"):
        answers.parse([2, 0, 5, 2], "<CAPTION>", SIZE, tokenizer, [0.0] * 5)


def test_answers_are_plain_values(tokenizer):
    answer = parsed(tokenizer, "<OD>", "</s><s>car[1][2][3][4]</s>", logprobs=[0.0] + [-0.5] * (
        len(tokenizer.encode("car")) + 5))  # fmt: skip
    for value in dataclasses.astuple(answer.objects[0]):
        assert type(value) in (str, float, tuple)
