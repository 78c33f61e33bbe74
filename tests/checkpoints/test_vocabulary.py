"""New words: ids, text and logits before and after, and the way through files of every layout."""

from __future__ import annotations

import copy
import dataclasses
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from florence2.checkpoints import Checkpoint, load, save
from florence2.checkpoints.layouts import EMBEDDING, LAYOUTS, LOGITS_BIAS, Layout
from florence2.checkpoints.vocabulary import extend_vocabulary
from florence2.errors import CheckpointError, TokenizerError
from florence2.language import grammar
from florence2.language.tasks import TASKS
from florence2.language.tokenizer import Tokenizer
from tests.checkpoints.conftest import WORDS, assert_same_weights

NEW = ("pneumothorax", "Maß", "cat", "New York", "€5")
PLAIN = "a dog and the mat, category: What does the image describe? <loc_7>"


@pytest.fixture(scope="module")
def extended(tiny: Checkpoint) -> Checkpoint:
    return extend_vocabulary(tiny, NEW)


def words_of(checkpoint: Checkpoint) -> Tokenizer:
    assert checkpoint.tokenizer is not None
    return checkpoint.tokenizer


def test_each_word_is_one_token_behind_the_others(extended: Checkpoint) -> None:
    tokenizer = words_of(extended)
    assert extended.config.text.vocab_size == tokenizer.vocab_size == WORDS + len(NEW)
    assert extended.model.config == extended.config
    assert extended.model.text.config == extended.config.text
    for i, word in enumerate(NEW):
        assert tokenizer.encode(word) == tokenizer.encode_plain(word) == [WORDS + i]
        assert tokenizer.token_text(WORDS + i) == word
        assert WORDS + i not in tokenizer.special_ids


def test_a_word_is_found_where_it_stands_by_itself(tiny: Checkpoint, extended: Checkpoint) -> None:
    before, after = words_of(tiny), words_of(extended)
    text = "the cat, pneumothorax"
    assert after.encode(text).count(WORDS + 2) == after.encode(text).count(WORDS) == 1
    for other in ("category", "concat", "cats", "Cat", "pneumothoraxes"):
        assert after.encode(other) == before.encode(other)
        assert after.encode_plain(other) == before.encode_plain(other)
    assert after.encode("cost €5") != before.encode("cost €5")


OTHER = st.lists(st.sampled_from([*"aet Mß\n'<>_l0-", "dog", "cats", "<loc_5>", "</s>", "é", "東"]), max_size=30)
SAID = st.lists(st.sampled_from([*NEW, "a", "dog", ", ", " ", "東", "Maße"]), max_size=8)


@given(parts=OTHER)
def test_other_text_keeps_its_ids(tiny: Checkpoint, extended: Checkpoint, parts: list[str]) -> None:
    before, after, text = words_of(tiny), words_of(extended), "".join(parts)
    if not re.search(r"\bMaß\b", text):
        assert after.encode(text) == before.encode(text)
        assert after.encode_plain(text) == before.encode_plain(text)
    assert after.decode(after.encode(text)) == before.decode(before.encode(text))


@given(parts=SAID)
def test_text_with_new_words_comes_back(extended: Checkpoint, parts: list[str]) -> None:
    after, text = words_of(extended), " ".join(parts)
    assert after.decode(after.encode(text)) == text
    assert after.decode(after.encode_plain(text)) == text


def test_locations_and_marks_keep_their_ids(tiny: Checkpoint, extended: Checkpoint) -> None:
    before, after = words_of(tiny), words_of(extended)
    assert [after.location_id(n) for n in range(1000)] == [before.location_id(n) for n in range(1000)]
    assert (after.poly_id, after.end_poly_id, after.sep_id, after.and_id) == (
        *(before.poly_id, before.end_poly_id),
        *(before.sep_id, before.and_id),
    )
    assert after.special_ids == before.special_ids


def test_a_new_row_is_the_mean_of_the_pieces(tiny: Checkpoint, extended: Checkpoint) -> None:
    old, new = tiny.model.text.shared.weight, extended.model.text.shared.weight
    assert torch.equal(new[:WORDS], old)
    for i, word in enumerate(NEW):
        pieces = words_of(tiny).encode_plain(word)
        assert len(pieces) > 1
        assert torch.allclose(new[WORDS + i], torch.stack([old[p] for p in pieces]).mean(0), atol=1e-6)
        assert not torch.allclose(new[WORDS + i], old[pieces[0]], atol=1e-2)  # the first piece alone would not do


def test_logits_of_the_old_words_stay(biased: Checkpoint) -> None:
    extended = extend_vocabulary(biased, NEW)
    prompt = torch.tensor([words_of(biased).encode_prompt(PLAIN)])
    answer = torch.tensor([words_of(biased).encode_prompt("a dog")])
    before, after = logits(biased, prompt, answer), logits(extended, prompt, answer)
    assert after.shape[-1] == WORDS + len(NEW)
    assert torch.allclose(after[..., :WORDS], before, atol=1e-5)
    assert torch.equal(extended.model.text.logits_bias[WORDS:], torch.zeros(len(NEW)))
    broken = copy.deepcopy(extended)
    broken.model.text.shared.weight.data = broken.model.text.shared.weight.data.roll(1, 0)  # the planted fault
    assert not torch.allclose(logits(broken, prompt, answer)[..., :WORDS], before, atol=1e-3)


def logits(checkpoint: Checkpoint, prompt: Tensor, answer: Tensor) -> Tensor:
    with torch.no_grad():
        return checkpoint.model(None, prompt, decoder_ids=answer).logits


def test_the_given_checkpoint_stays_as_it_is(tiny: Checkpoint) -> None:
    before = {name: tensor.clone() for name, tensor in tiny.model.state_dict().items()}
    extended = extend_vocabulary(tiny, NEW)
    extended.model.text.shared.weight.data.zero_()
    extended.model.projector.norm.weight.data.zero_()
    assert words_of(tiny).vocab_size == tiny.config.text.vocab_size == WORDS
    for name, tensor in tiny.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("count", [1, len(NEW)])  # 1295 + 1 words and <image>: another number of padded rows
def test_through_files(tiny: Checkpoint, tmp_path: Path, layout: Layout, count: int) -> None:
    extended = extend_vocabulary(tiny, NEW[:count])
    save(extended, tmp_path / "it", layout)
    found = load(tmp_path / "it")
    assert found.layout == layout
    assert dataclasses.replace(found.config, name="") == dataclasses.replace(extended.config, name="")
    assert_same_weights(extended, found)
    tokenizer = words_of(found)
    assert tokenizer.vocab_size == WORDS + count
    for text in (*NEW, PLAIN, "a cat in New York, category"):
        assert tokenizer.encode(text) == words_of(extended).encode(text)
        assert tokenizer.encode_plain(text) == words_of(extended).encode_plain(text)
        assert tokenizer.decode(tokenizer.encode(text)) == text
    # The planted fault: the tokenizer of before does not go with the file of after.
    words_of(tiny).save(tmp_path / "it")
    if layout != "native":
        assert words_of(load(tmp_path / "it")).encode(NEW[0]) != words_of(extended).encode(NEW[0])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_twice_and_through_files_in_between(tiny: Checkpoint, tmp_path: Path, layout: Layout) -> None:
    save(extend_vocabulary(tiny, NEW[:2]), tmp_path / "first", layout)
    second = extend_vocabulary(load(tmp_path / "first"), NEW[2:])
    assert_same_weights(extend_vocabulary(tiny, NEW), second)
    save(second, tmp_path / "second", layout)
    found = load(tmp_path / "second")
    assert_same_weights(second, found)
    assert [words_of(found).encode(word) for word in NEW] == [[WORDS + i] for i in range(len(NEW))]


def test_transformers_reads_the_same_ids(extended: Checkpoint, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the other side is transformers")
    save(extended, tmp_path / "it", "native")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "it")
    for text in (*NEW, PLAIN, "a cat in New York, category"):
        assert theirs(text, add_special_tokens=False)["input_ids"] == words_of(extended).encode(text)
    assert theirs.convert_tokens_to_ids("<image>") == WORDS + len(NEW)
    native = transformers.Florence2ForConditionalGeneration.from_pretrained(tmp_path / "it")
    assert native.config.image_token_id == WORDS + len(NEW)
    ours = extended.model.state_dict()[EMBEDDING]
    assert torch.equal(native.get_input_embeddings().weight[: len(ours)], ours)


def test_signs(tiny: Checkpoint, tmp_path: Path) -> None:
    extended = extend_vocabulary(tiny, ["<INVOICE>", "<Ü>"], special=True)
    save(extended, tmp_path / "it")
    for tokenizer in (words_of(extended), words_of(load(tmp_path / "it"))):
        assert tokenizer.encode("<INVOICE>now") == [WORDS, *words_of(tiny).encode("now")]
        assert {WORDS, WORDS + 1} <= tokenizer.special_ids
        assert tokenizer.encode_plain("<INVOICE>") == words_of(tiny).encode_plain("<INVOICE>")
        assert tokenizer.decode([WORDS, WORDS + 1]) == "<INVOICE><Ü>"
        assert tokenizer.decode([WORDS, WORDS + 1], skip_special=True) == ""


def test_a_grammar_writes_new_words_and_no_new_signs(tiny: Checkpoint) -> None:
    tokenizer = words_of(extend_vocabulary(extend_vocabulary(tiny, NEW), ["<INVOICE>"], special=True))
    automaton = grammar.compile(TASKS["<CAPTION>"].grammar, tokenizer)
    text_class = automaton.class_of[tokenizer.encode("a")[0]]
    assert [automaton.class_of[WORDS + i] for i in range(len(NEW))] == [text_class] * len(NEW)
    assert automaton.class_of[WORDS + len(NEW)] != text_class


def test_known_words_are_left_alone(tiny: Checkpoint) -> None:
    known = "a"
    assert len(words_of(tiny).encode_plain(known)) == 1
    same = extend_vocabulary(tiny, [known, known])
    assert same.config.text.vocab_size == WORDS
    again = extend_vocabulary(extend_vocabulary(tiny, ["pneumothorax"]), ["pneumothorax", known])
    assert again.config.text.vocab_size == WORDS + 1


@pytest.mark.parametrize("word", ["", " cat", "cat ", "\n", "\ud800"])
def test_what_is_no_word(tiny: Checkpoint, word: str) -> None:
    with pytest.raises(TokenizerError):
        extend_vocabulary(tiny, [word])


def test_a_token_does_not_change_its_kind(tiny: Checkpoint) -> None:
    with pytest.raises(TokenizerError, match="special token already"):
        extend_vocabulary(tiny, ["<loc_5>"])
    with pytest.raises(TokenizerError, match="ordinary words already"):
        extend_vocabulary(extend_vocabulary(tiny, ["ping"]), ["ping"], special=True)


def test_what_does_not_fit_together(tiny: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match="no tokenizer"):
        extend_vocabulary(dataclasses.replace(tiny, tokenizer=None), NEW)
    other = words_of(tiny).with_words(["ping"])
    with pytest.raises(CheckpointError, match=f"{WORDS + 1} tokens"):
        extend_vocabulary(dataclasses.replace(tiny, tokenizer=other), NEW)


def test_half_precision_stays(tiny: Checkpoint) -> None:
    half = dataclasses.replace(tiny, model=copy.deepcopy(tiny.model).to(torch.bfloat16))
    extended = extend_vocabulary(half, NEW)
    assert {tensor.dtype for tensor in extended.model.state_dict().values()} == {torch.bfloat16}
    assert extended.model.state_dict()[LOGITS_BIAS].shape == (WORDS + len(NEW),)
