"""Random answers: some follow the grammar, some do not."""

from __future__ import annotations

import random

from florence2.language.automaton import EOS, LOCATION, Automaton
from florence2.language.tokenizer import Tokenizer


def ids_by_class(automaton: Automaton) -> dict[int, list[int]]:
    members: dict[int, list[int]] = {}
    for id, token_class in enumerate(automaton.class_of):
        members.setdefault(token_class, []).append(id)
    return members


def grammatical(automaton: Automaton, rng: random.Random, budget: int = 40) -> list[int]:
    """A random way through the automaton that ends within ``budget`` tokens behind ``<s>``."""
    members = ids_by_class(automaton)
    ids, state, registers = [automaton.eos_id, automaton.bos_id], automaton.start, [0, 0]
    while not automaton.accepting[state]:
        left = budget - (len(ids) - 2)
        ways = [c for c, (target, _) in automaton.edges[state].items() if automaton.distance[target] < left]
        if len(ways) > 1 and rng.random() < 0.9:
            ways = [c for c in ways if c != EOS]
        token_class = rng.choice(ways)
        id = rng.choice(members[token_class])
        if token_class == LOCATION:
            low = registers[automaton.floor[state]] if automaton.floor[state] >= 0 else 0
            n = rng.randrange(low, 1000)
            id = automaton.first_location_id + n
            if automaton.store[state] >= 0:
                registers[automaton.store[state]] = n
        ids.append(id)
        state = automaton.edges[state][token_class][0]
    return ids


def arbitrary(tokenizer: Tokenizer, rng: random.Random, length: int = 24) -> list[int]:
    """Ids of every kind in any order, some of which do not exist; half of them look like a decoder's."""
    marks = [tokenizer.poly_id, tokenizer.end_poly_id, tokenizer.sep_id, tokenizer.and_id, 0, 1, 2, 3, -7, 10**9]
    kinds = rng.choices(("words", "location", "mark", "run"), k=rng.randrange(length), weights=(4, 3, 2, 3))
    ids: list[int] = []
    for kind in kinds:
        if kind == "words":
            ids += rng.choices(range(4, tokenizer.first_location_id - 5), k=rng.randrange(1, 3))
        elif kind == "mark":
            ids.append(rng.choice(marks))
        else:
            count = 1 if kind == "location" else rng.choice((3, 4, 6, 7, 8, 9))
            ids += [tokenizer.first_location_id + rng.randrange(1000) for _ in range(count)]
    return [2, 0, *ids, 2] if rng.random() < 0.5 else ids
