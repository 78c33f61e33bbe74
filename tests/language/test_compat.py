from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence2.errors import TaskError
from florence2.language.compat import ANSWER_TYPES, microsoft_parse, microsoft_parse_ids
from tests.language.walks import arbitrary

pieces = st.lists(
    st.sampled_from(
        ["<s>", "</s>", "<pad>", "<poly>", "</poly>", "<sep>", "<loc_1>", "<loc_999>", "<loc_1000>", "cat", "é", "\n",
         " ", "<", "<loc_", "loc_5>", "<loc_٣>", "<and>"]  # an Arabic digit is a digit
    )
).map("".join)  # fmt: skip


@pytest.mark.parametrize("task", [*ANSWER_TYPES, "<VQA>"])
@given(text=pieces)
def test_any_text_is_read(task, text):
    assert list(microsoft_parse(text, task, (640, 480))) == [task]


def test_any_ids_are_read(tokenizer):
    rng = random.Random(4)
    for _ in range(300):
        ids = arbitrary(tokenizer, rng)
        microsoft_parse_ids(ids, rng.choice(list(ANSWER_TYPES)), (640, 480), tokenizer, [-0.5] * max(len(ids) - 1, 0))


def test_one_score_per_id_behind_the_first(tokenizer):
    with pytest.raises(TaskError, match="2 scores for 2 ids"):
        microsoft_parse_ids([2, 0], "<OD>", (9, 9), tokenizer, [0.0, 0.0])


@pytest.mark.parametrize(
    "task", ["<OCR_WITH_REGION>", "<OD>", "<OPEN_VOCABULARY_DETECTION>", "<REGION_TO_SEGMENTATION>"]
)
@pytest.mark.parametrize("part", ["x", "\n", "<poly>", "<loc_1>", "<sep>", "<loc_1>x\n", "</poly><poly>", "<"])
def test_long_texts_take_no_longer_than_their_length(task, part):
    """Nothing to measure here: a scan that is not linear would not end."""
    microsoft_parse(part * 30_000, task, (640, 480))


def test_endless_numbers_are_read():
    text = "car" + "<loc_" + "9" * 5000 + ">" + "<loc_1>" * 3
    assert microsoft_parse(text, "<OD>", (640, 480))["<OD>"]["labels"] == ["car"]
