from __future__ import annotations

import random

import pytest

from florence2.errors import TaskError
from florence2.language import answers, grammar, tasks
from florence2.language.automaton import LOCATION, OTHER
from florence2.language.grammar import (
    BOX,
    BOXES,
    LABEL,
    LABELLED_BOXES,
    OPEN_VOCABULARY,
    PLAIN_TEXT,
    POLYGONS,
    QUADS,
    Leaf,
    Words,
    capture,
    either,
    many,
    maybe,
    seq,
    some,
    spell,
)
from tests.language.walks import arbitrary, grammatical

LABELS = ["car", "car door", " person ", "dog"]
LANGUAGES = {task.grammar: task for task in tasks.TASKS.values()}
every_language = pytest.mark.parametrize("language", LANGUAGES, ids=spell)


def encoded(tokenizer, text):
    return tokenizer.encode(text.replace("[", "<loc_").replace("]", ">"))


@pytest.mark.parametrize(
    ("language", "text", "accepted"),
    [
        (LABELLED_BOXES, "<s>car[1][2][3][4][5][6][7][8]dog[1][1][1][1]</s>", True),
        (LABELLED_BOXES, "</s><s>car[1][2][3][4]</s><pad><pad>", True),  # as it leaves the decoder, padded
        (LABELLED_BOXES, "</s><s><s><s>car[1][2][3][4]</s>", True),  # the large model's opening
        (LABELLED_BOXES, "</s><s><s><s><s>car[1][2][3][4]</s>", False),  # one <s> too many
        (LABELLED_BOXES, "<s>car<s>[1][2][3][4]</s>", False),  # <s> later on
        (LABELLED_BOXES, "<s></s>", True),  # nothing found
        (LABELLED_BOXES, "<s>car</s>", False),  # no box
        (LABELLED_BOXES, "<s>[1][2][3][4]</s>", False),  # no label
        (LABELLED_BOXES, "<s>car[1][2][3]</s>", False),  # three of four
        (LABELLED_BOXES, "<s>car[3][2][1][4]</s>", False),  # inverted in x
        (LABELLED_BOXES, "<s>car[1][4][3][2]</s>", False),  # inverted in y
        (LABELLED_BOXES, "<s>car[1][2][3][4]", False),  # no end
        (LABELLED_BOXES, "<s>car[1][2][3][4]</s>dog", False),  # text behind the end
        (LABELLED_BOXES, "<s>car[1][2][3][4]<pad>dog[1][2][3][4]</s>", False),  # padding inside
        (BOXES, "<s>[1][2][3][4][5][6][7][8]</s>", True),
        (BOXES, "<s>car[1][2][3][4]</s>", False),
        (QUADS, "<s>HI[1][2][3][4][5][6][7][8]</s>", True),
        (QUADS, "<s>HI[9][8][7][6][5][4][3][2]</s>", True),  # quads have no order
        (QUADS, "<s>HI[1][2][3][4]</s>", False),
        (POLYGONS, "<s>[1][2][3][4][5][6]</s>", True),
        (POLYGONS, "<s>[1][2][3][4]</s>", False),  # two points
        (POLYGONS, "<s>[1][2][3][4][5][6][7]</s>", False),  # odd
        (POLYGONS, "<s>[1][2][3][4][5][6]<sep>[1][2][3][4][5][6]</s>", True),
        (POLYGONS, "<s><poly>[1][2][3][4][5][6]</poly><poly>[1][2][3][4][5][6]</poly></s>", True),
        (POLYGONS, "<s><poly>[1][2][3][4][5][6]</s>", False),  # not closed
        (POLYGONS, "<s></s>", True),
        (OPEN_VOCABULARY, "<s>car<poly>[1][2][3][4][5][6]</poly>dog[1][2][3][4]</s>", True),
        (OPEN_VOCABULARY, "<s>car<poly>[1][2][3][4][5][6]</poly>[1][2][3][4]</s>", False),  # box without a label
        (PLAIN_TEXT, "<s>a man</s>", True),
        (PLAIN_TEXT, "<s>a [5]</s>", False),
        (PLAIN_TEXT, "<s></s>", False),  # a caption says something
    ],
)
def test_language(tokenizer, language, text, accepted):
    automaton = grammar.compile(language, tokenizer)
    assert automaton.accepts(encoded(tokenizer, text)) is accepted


def test_a_rejection_says_where_and_what_was_expected(tokenizer):
    automaton = grammar.compile(LABELLED_BOXES, tokenizer)
    ids = [0, *tokenizer.encode("c<loc_1><sep>"), 2]
    assert automaton.rejection(ids) == f"token 3 (<sep>, id {tokenizer.sep_id}) does not fit; expected location"
    assert "ends the box before its beginning" in automaton.rejection(tokenizer.encode("c<loc_5><loc_5><loc_4><loc_5>"))
    assert "ends without </s>" in automaton.rejection([0])


@every_language
def test_random_ways_are_accepted_and_nothing_of_them_is_dropped(tokenizer, language):
    rng = random.Random(7)
    automaton = grammar.compile(language, tokenizer)
    for _ in range(60):
        ids = grammatical(automaton, rng)
        assert automaton.rejection(ids) is None
        answer = answers.parse(ids, LANGUAGES[language], (640, 480), tokenizer)
        assert answer.dropped == ()


@every_language
def test_what_is_accepted_is_kept_whole(tokenizer, language):
    """The other way round: ids that were not made by the grammar, but happen to be in it."""
    rng = random.Random(11)
    automaton = grammar.compile(language, tokenizer)
    accepted = 0
    for _ in range(4000):
        ids = arbitrary(tokenizer, rng, length=4)
        if automaton.accepts(ids):
            accepted += 1
            assert automaton.segments(ids)[1] == []
    assert accepted > 10


@every_language
def test_closing_classes_lead_to_the_end_in_as_many_steps_as_distance_says(tokenizer, language):
    automaton = grammar.compile(language, tokenizer)
    tables = automaton.to()
    for state in range(len(automaton.edges)):
        here, steps = state, 0
        while not tables.accepting[here]:
            here = int(tables.next[here, tables.closing[here].nonzero()[0, 0]])
            steps += 1
        assert steps == tables.distance[state]
    assert int(tables.distance[tables.start]) <= 2


@every_language
def test_tensors_say_what_the_automaton_says(tokenizer, language):
    automaton = grammar.compile(language, tokenizer)
    tables = automaton.to("cpu", vocab_size=tokenizer.vocab_size + 39)
    assert automaton.to("cpu", vocab_size=tokenizer.vocab_size + 39) is tables
    for state, edges in enumerate(automaton.edges):
        for token_class in range(automaton.classes):
            target = edges.get(token_class, (state, False))[0]
            assert int(tables.next[state, token_class]) == target
            assert bool(tables.allows[state, token_class]) == (token_class in edges)
    assert tables.class_of.tolist() == [*automaton.class_of, *[OTHER] * 39]
    assert not tables.allows[:, OTHER].any()
    assert tables.location[tokenizer.location_id(999)] == 999
    assert int((tables.location >= 0).sum()) == 1000
    # a box is held upright by two registers
    reads_location = tables.allows[:, LOCATION]
    assert bool((tables.store[~reads_location] == -1).all())
    assert bool((tables.floor[~reads_location] == -1).all())


def test_registers_of_a_box(tokenizer):
    automaton = grammar.compile(BOXES, tokenizer)
    state, read = automaton.start, []
    for _ in range(4):
        read.append((automaton.store[state], automaton.floor[state]))
        state = automaton.edges[state][LOCATION][0]
    assert read == [(0, -1), (1, -1), (-1, 0), (-1, 1)]
    assert automaton.boundary[state]
    assert sum(automaton.boundary) == 1


def test_closed_labels_become_a_trie(tokenizer):
    automaton = grammar.compile(LABELLED_BOXES, tokenizer, LABELS)
    for label in LABELS:
        ids = [*tokenizer.encode_plain(label.strip()), *tokenizer.encode("<loc_1>" * 4), 2]
        assert automaton.accepts(ids)
    for wrong in ("ca", "carperson", "car do", "cat", "truck"):
        ids = [*tokenizer.encode_plain(wrong), *tokenizer.encode("<loc_1>" * 4), 2]
        assert not automaton.accepts(ids)
    assert automaton.accepts([0, 2])  # none of them is there
    tokens = {id for label in LABELS for id in tokenizer.encode_plain(label.strip())}
    assert automaton.classes == 8 + len(tokens)


def test_closed_labels_hold_for_every_random_way(tokenizer):
    rng = random.Random(3)
    automaton = grammar.compile(OPEN_VOCABULARY, tokenizer, LABELS)
    seen = set()
    for _ in range(100):
        ids = grammatical(automaton, rng)
        answer = answers.parse(ids, "<OPEN_VOCABULARY_DETECTION>", (640, 480), tokenizer, labels=LABELS)
        assert answer.dropped == ()
        seen |= set(answer.labels)
    assert seen == set(LABELS)  # as written, blanks included


def test_closed_texts(tokenizer):
    rng = random.Random(5)
    task = tasks.get("<REGION_TO_CATEGORY>")
    automaton = grammar.compile(task.grammar, tokenizer, LABELS)
    for _ in range(30):
        answer = answers.parse(grammatical(automaton, rng), task, (9, 9), tokenizer, labels=LABELS)
        assert answer.text in LABELS


def test_label_lists_that_make_no_sense(tokenizer):
    with pytest.raises(TaskError, match="empty"):
        grammar.compile(LABELLED_BOXES, tokenizer, [])
    with pytest.raises(TaskError, match="no label"):
        grammar.compile(LABELLED_BOXES, tokenizer, ["car", " "])
    with pytest.raises(TaskError, match="hold no labels"):
        grammar.compile(BOXES, tokenizer, ["car"])


def test_ambiguous_grammars_do_not_compile(tokenizer):
    for ambiguous in (
        many(either(BOX, capture("quad", *[Leaf(LOCATION)] * 8))),  # box or quad?
        seq(LABEL, LABEL),  # where does the first end?
        seq(maybe(BOX), BOX),
    ):
        with pytest.raises(TaskError, match="ambiguous"):
            grammar.compile(ambiguous, tokenizer)


def test_spelling_and_kinds():
    assert spell(LABELLED_BOXES) == "(label box+)*"
    assert spell(some(Words())) == "words+"
    assert grammar.kinds(OPEN_VOCABULARY) == {"label", "box", "polygon", "sep", "poly", "end_poly"}


def test_the_same_grammar_compiles_once(tokenizer):
    assert grammar.compile(QUADS, tokenizer) is grammar.compile(QUADS, tokenizer)
    assert grammar.compile(QUADS, tokenizer, ["a"]) is grammar.compile(QUADS, tokenizer, ("a",))
