from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from florence2.errors import TokenizerError
from florence2.language.tokenizer import FLORENCE_TOKENS, Tokenizer
from tests.language.conftest import CORPUS


def test_special_tokens_are_the_1024_in_order():
    assert len(FLORENCE_TOKENS) == 1024
    assert FLORENCE_TOKENS[4:1004] == tuple(f"<loc_{n}>" for n in range(1000))
    assert FLORENCE_TOKENS[-1] == "<and>"


def test_trained_vocabulary_has_the_build_of_the_published_one(tokenizer):
    assert tokenizer.vocab_size == 1420
    assert (tokenizer.bos_id, tokenizer.pad_id, tokenizer.eos_id, tokenizer.unk_id) == (0, 1, 2, 3)
    assert tokenizer.token_text(1420 - 1024 - 1) == "<mask>"
    assert tokenizer.first_location_id == 1420 - 1024 + 4
    assert tokenizer.and_id == 1419
    assert [tokenizer.token_text(id) for id in range(1420 - 1024, 1420)] == list(FLORENCE_TOKENS)
    assert tokenizer.special_ids == {0, 1, 2, 3, *range(1420 - 1024 - 1, 1420)}


def test_training_is_reproducible_and_exact():
    one, two = Tokenizer.train(CORPUS, 1350), Tokenizer.train(CORPUS, 1350)
    assert one.vocab_size == two.vocab_size == 1350
    assert one.encode(CORPUS[0]) == two.encode(CORPUS[0])


@pytest.mark.parametrize("size", [100, 1284, 9000])  # below the marks, one below, more than the texts can give
def test_impossible_vocabulary_sizes_are_refused(size):
    with pytest.raises(TokenizerError, match=str(size)):
        Tokenizer.train(CORPUS, size)


def test_saved_and_loaded_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    text = "a car<loc_5><poly>日本"
    assert again.encode(text) == tokenizer.encode(text)
    assert again.special_ids == tokenizer.special_ids


def test_special_tokens_in_text_are_special_unless_plain(tokenizer):
    assert tokenizer.encode("<loc_7>") == [tokenizer.location_id(7)]
    plain = tokenizer.encode_plain("<loc_7>")
    assert not set(plain) & tokenizer.special_ids
    assert tokenizer.decode(plain) == "<loc_7>"
    assert tokenizer.encode_prompt("a") == [0, *tokenizer.encode("a"), 2]


@given(text=st.text())
def test_any_text_survives_plain_encoding(tokenizer, text):
    ids = tokenizer.encode_plain(text)
    assert not set(ids) & tokenizer.special_ids
    assert tokenizer.decode(ids) == text


def test_plain_encoding_is_that_of_encode_special_tokens(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    backend = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    backend.encode_special_tokens = True
    for text in ["<s>a</s>", " <mask> b", "<loc_1000><loc_10>", "two  spaces\n", ""]:
        assert tokenizer.encode_plain(text) == backend.encode(text, add_special_tokens=False).ids


@given(ids=st.lists(st.integers(-5, 2000)))
def test_any_ids_decode(tokenizer, ids):
    assert isinstance(tokenizer.decode(ids), str)
    assert isinstance(tokenizer.decode(ids, skip_special=True), str)


def test_locations(tokenizer):
    assert tokenizer.location_of(tokenizer.location_id(999)) == 999
    assert tokenizer.location_of(tokenizer.first_location_id - 1) is None
    assert tokenizer.location_of(tokenizer.first_location_id + 1000) is None
    with pytest.raises(TokenizerError, match="1000"):
        tokenizer.location_id(1000)


def test_half_a_character_is_named(tokenizer):
    with pytest.raises(TokenizerError, match="position 1"):
        tokenizer.encode("a\ud800")


def vocabulary_folder(folder: Path, tokenizer: Tokenizer) -> Path:
    """vocab.json and merges.txt of the tokenizer's BPE, without the tokens that Florence-2 appends."""
    tokenizer.save(folder / "whole")
    model = json.loads((folder / "whole" / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    vocabulary = {**model["vocab"], "<mask>": len(model["vocab"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(" ".join(pair) for pair in model["merges"]), encoding="utf-8")
    return folder


def test_vocabulary_and_merges_load_the_same(tokenizer, tmp_path):
    loaded = Tokenizer.load(vocabulary_folder(tmp_path, tokenizer))
    assert loaded.vocab_size == tokenizer.vocab_size
    for text in [*CORPUS, " <mask><loc_3>x", "</s>"]:
        assert loaded.encode(text) == tokenizer.encode(text)


def test_added_tokens_get_the_ids_they_claim(tokenizer, tmp_path):
    folder = vocabulary_folder(tmp_path, tokenizer)
    added = {token: tokenizer.encode(token)[0] for token in FLORENCE_TOKENS} | {"<image>": tokenizer.vocab_size}
    (folder / "added_tokens.json").write_text(json.dumps(added))
    loaded = Tokenizer.load(folder)
    assert loaded.vocab_size == tokenizer.vocab_size + 1
    assert tokenizer.vocab_size in loaded.special_ids
    (folder / "added_tokens.json").write_text(json.dumps({"<image>": 7000}))
    with pytest.raises(TokenizerError, match="7000"):
        Tokenizer.load(folder)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "tokenizer.json"),  # an empty folder
        ({"vocab.json": "{}"}, "merges.txt"),  # half of a pair
        ({"tokenizer.json": "{"}, "cannot be read"),  # cut off
        ({"vocab.json": "[1]", "merges.txt": ""}, "list"),  # not an object
        ({"vocab.json": '{"a": 0}', "merges.txt": ""}, "<s>"),  # another family's vocabulary
        ({"vocab.json": "{", "merges.txt": ""}, "not readable JSON"),
        ({"vocab.json": '{"<s>":0,"<pad>":1,"</s>":2,"<unk>":3}', "merges.txt": "a b"}, "do not fit together"),
    ],
)
def test_what_is_missing_or_broken_is_named(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.load(tmp_path)


def test_locations_must_follow_one_another(tokenizer, tmp_path):
    folder = vocabulary_folder(tmp_path, tokenizer)
    size = len(json.loads((folder / "vocab.json").read_text(encoding="utf-8")))
    (folder / "added_tokens.json").write_text(json.dumps({"<loc_1>": size}))
    with pytest.raises(TokenizerError, match="follow one another"):
        Tokenizer.load(folder)
