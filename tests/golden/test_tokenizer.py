"""Ids and texts of the published tokenizer."""

from __future__ import annotations

import shutil

import pytest

from florence2.language import tokenizer as module
from florence2.language.tokenizer import Tokenizer
from tests.golden.microsoft import Case, disagreeing, read


@pytest.fixture(scope="module")
def published(golden) -> Tokenizer:
    return Tokenizer.load(golden / "tokenizer")


def agrees(tokenizer: Tokenizer, case: Case) -> bool:
    return (
        tokenizer.encode_prompt(case["text"]) == case["ids"]
        and tokenizer.decode(case["ids"]) == case["decoded"]
        and tokenizer.decode(case["ids"], skip_special=True) == case["decoded_skip_special"]
    )


def test_609_texts(golden, published):
    cases = read(golden, "tokenizer_cases")["cases"]
    assert len(cases) == 609
    assert disagreeing(cases, lambda case: agrees(published, case)) == []


def test_609_texts_from_vocabulary_and_merges(golden, tmp_path):
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(golden / "tokenizer" / name, tmp_path / name)
    loaded = Tokenizer.load(tmp_path)
    assert disagreeing(read(golden, "tokenizer_cases")["cases"], lambda case: agrees(loaded, case)) == []


def test_609_texts_after_saving(golden, published, tmp_path):
    published.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert disagreeing(read(golden, "tokenizer_cases")["cases"], lambda case: agrees(again, case)) == []


def test_random_ids(golden, published):
    for case in read(golden, "tokenizer_cases")["decode_random_ids"]:
        assert published.decode(case["ids"]) == case["decoded"]
        assert published.decode(case["ids"], skip_special=True) == case["decoded_skip_special"]


def test_special_tokens(golden, published):
    listed = read(golden, "tokenizer/added_tokens_florence2")
    assert published.vocab_size == listed["vocab_total"] == 51289
    assert published.special_ids == {token["id"] for token in listed["added_tokens"]}
    for token in listed["added_tokens"]:
        assert published.encode(token["content"]) == [token["id"]]


def test_planted_fault_an_order_of_marks_that_is_not_microsofts(golden, monkeypatch):
    marks = module.FLORENCE_TOKENS
    monkeypatch.setattr(module, "FLORENCE_TOKENS", (*marks[4:], *marks[:4]))
    wrong = Tokenizer.load(golden / "tokenizer")
    cases = read(golden, "tokenizer_cases")["cases"]
    assert len(disagreeing(cases, lambda case: agrees(wrong, case))) > 50
