"""Byte-level BPE with the marks of Florence-2: 1,000 location tokens and the signs of the tasks.

The base vocabulary is BART's (``<s>`` 0, ``<pad>`` 1, ``</s>`` 2, ``<unk>`` 3, ``<mask>`` last). Florence-2 appends
1,024 special tokens in a fixed order; the published folders do not carry them, so they are added on loading.
A tokenizer trained here has the same build, only with fewer words.

Source: Florence-2 (arXiv 2311.06242), section 4.1 (location tokens); the order is that of the published processor.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors, trainers

from florence2.errors import TokenizerError
from florence2.language.quantizer import BINS

BASE_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
FLORENCE_TOKENS = (
    *("<od>", "</od>", "<ocr>", "</ocr>"),
    *(f"<loc_{n}>" for n in range(BINS)),
    *("<cap>", "</cap>", "<ncap>", "</ncap>", "<dcap>", "</dcap>", "<grounding>", "</grounding>"),
    *("<seg>", "</seg>", "<sep>"),
    # "desciption" is how the published tokens are spelt.
    *("<region_cap>", "</region_cap>", "<region_to_desciption>", "</region_to_desciption>"),
    *("<proposal>", "</proposal>", "<poly>", "</poly>", "<and>"),
)
"""The 1,024 special tokens behind the base vocabulary, in the order of their ids."""


class Tokenizer:
    """Text <-> ids. ``load`` or ``train`` one; the constructor takes a backend that already holds the base tokens."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        backend.no_truncation()
        backend.no_padding()
        # Known tokens keep their ids and become special; absent ones are appended.
        backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in FLORENCE_TOKENS])
        self._backend = backend
        self.vocab_size: int = max(backend.get_vocab().values()) + 1
        """One more than the largest id."""
        self.bos_id, self.pad_id, self.eos_id, self.unk_id = (self._id_of(token) for token in BASE_TOKENS)
        self.poly_id, self.end_poly_id = self._id_of("<poly>"), self._id_of("</poly>")
        self.sep_id, self.and_id = self._id_of("<sep>"), self._id_of("<and>")
        self.first_location_id = self._id_of("<loc_0>")
        for n in (1, BINS - 1):
            if self._id_of(f"<loc_{n}>") != self.first_location_id + n:
                raise TokenizerError(
                    f"<loc_{n}> has the id {self._id_of(f'<loc_{n}>')}, expected {self.first_location_id + n}: the "
                    "location tokens must follow one another; use the tokenizer files that belong to the checkpoint"
                )
        added = backend.get_added_tokens_decoder()
        self.special_ids: frozenset[int] = frozenset(id for id, token in added.items() if token.special)
        """Ids that are signs, not words: base tokens, locations, marks of the tasks."""
        self._literal = _Literal(backend, {id: token for id, token in added.items() if not token.special})
        marks = {*BASE_TOKENS, *FLORENCE_TOKENS, "<mask>"}
        # The decoder takes the letters of a word such as "Maß" for the signs that byte-level BPE writes bytes with.
        self._undecodable = {
            id: token.content
            for id, token in added.items()
            if token.content not in marks and backend.decode([id], False) != token.content
        }

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """Reads ``tokenizer.json``, or ``vocab.json`` with ``merges.txt`` and, where present, ``added_tokens.json``."""
        folder = Path(folder)
        if (folder / "tokenizer.json").is_file():
            path = folder / "tokenizer.json"
            try:
                return cls(tokenizers.Tokenizer.from_file(str(path)))
            except TokenizerError as error:
                raise TokenizerError(f"{path}: {error}") from error
            except Exception as error:  # the library raises bare Exception for what it cannot read
                raise TokenizerError(f"{path} cannot be read as a tokenizer ({error}); copy the file again") from error
        missing = [name for name in ("vocab.json", "merges.txt") if not (folder / name).is_file()]
        if missing:
            raise TokenizerError(
                f"{folder} holds no tokenizer.json and no {' and no '.join(missing)}; expected tokenizer.json, or "
                "vocab.json with merges.txt, as published with Florence-2"
            )
        return cls(_backend_from_vocabulary(folder))

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """Learns a byte-level BPE from ``texts``; the result holds exactly ``vocab_size`` tokens, marks included."""
        smallest = len(BASE_TOKENS) + 256 + 1 + len(FLORENCE_TOKENS)
        if vocab_size < smallest:
            raise TokenizerError(
                f"vocab_size {vocab_size} is too small: {smallest} are taken by bytes and special tokens alone"
            )
        backend = _byte_level(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - 1 - len(FLORENCE_TOKENS),
            special_tokens=list(BASE_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        backend.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
        trained = cls(_finished(backend))
        if trained.vocab_size != vocab_size:
            raise TokenizerError(
                f"the texts give {trained.vocab_size} tokens, {vocab_size} were asked for; give more text or ask for "
                f"vocab_size={trained.vocab_size} or less"
            )
        return trained

    def with_words(self, words: Iterable[str], special: bool = False) -> Tokenizer:
        """The same with more tokens, one per word, behind the present ones; all other text keeps its ids.

        A word is found where it stands by itself: "cat" is not found in "category". The space in front of it stays a
        piece of its own. Words that are one token already are left as they are. ``special`` makes signs of them: found
        anywhere, never inside text that is taken literally, and not written into answers that a grammar governs.
        """
        new: dict[str, AddedToken] = {}
        for word in words:
            if not word or word != word.strip():
                raise TokenizerError(f"{word!r} is no word to add: it is empty, or begins or ends with a space")
            known = self._backend.token_to_id(_encodable(word))
            if known is None:
                whole = not special and all(re.match(r"\w", end) for end in (word[0], word[-1]))
                new[word] = AddedToken(word, special=special, normalized=False, single_word=whole)
            elif (known in self.special_ids) != special or self.encode(word) != [known]:
                kind = "a special token" if known in self.special_ids else "a piece of ordinary words"
                raise TokenizerError(f"{word!r} is {kind} already and can not be added as another kind of token")
        backend = tokenizers.Tokenizer.from_str(self._backend.to_str())
        (backend.add_special_tokens if special else backend.add_tokens)(list(new.values()))
        return Tokenizer(backend)

    def save(self, folder: str | Path) -> None:
        """Writes ``tokenizer.json`` (complete) and the ``tokenizer_config.json`` that transformers wants beside it."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._backend.save(str(folder / "tokenizer.json"))
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": 1024,
            "bos_token": "<s>",
            "eos_token": "</s>",
            "cls_token": "<s>",
            "sep_token": "</s>",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
            "mask_token": "<mask>",
            "clean_up_tokenization_spaces": False,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``; special tokens written in it become special ids. Nothing is added at the ends."""
        ids: list[int] = self._backend.encode(_encodable(text), add_special_tokens=False).ids
        return ids

    def encode_plain(self, text: str) -> list[int]:
        """Ids of ``text`` taken literally: a label "<loc_5>" is seven characters, never a location."""
        return self._literal.encode(_encodable(text))

    def encode_prompt(self, text: str) -> list[int]:
        """``<s>`` text ``</s>``, as every prompt is fed to the encoder."""
        return [self.bos_id, *self.encode(text), self.eos_id]

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        """Text of ``ids``, spaces as they are. Broken UTF-8 becomes U+FFFD; ids that do not exist vanish."""
        known = [id for id in ids if 0 <= id < self.vocab_size]
        if self._undecodable.keys().isdisjoint(known):
            return self._backend.decode(known, skip_special_tokens=skip_special)
        parts = []
        for undecodable, run in itertools.groupby(known, self._undecodable.__contains__):
            if undecodable:
                parts += [self._undecodable[id] for id in run if not (skip_special and id in self.special_ids)]
            else:
                parts.append(self._backend.decode(list(run), skip_special_tokens=skip_special))
        return "".join(parts)

    def token_text(self, id: int) -> str:
        """Text of one token by itself; a byte of an incomplete UTF-8 sequence is U+FFFD."""
        return self.decode([id])

    def location_id(self, n: int) -> int:
        """Id of ``<loc_n>``."""
        if not 0 <= n < BINS:
            raise TokenizerError(f"there is no <loc_{n}>; bins run from 0 to {BINS - 1}")
        return self.first_location_id + n

    def location_of(self, id: int) -> int | None:
        """The bin that a location token names; None for every other token."""
        n = id - self.first_location_id
        return n if 0 <= n < BINS else None

    def _id_of(self, token: str) -> int:
        id: int | None = self._backend.token_to_id(token)
        if id is None:
            raise TokenizerError(
                f"the token {token} is missing; a Florence-2 tokenizer starts with {' '.join(BASE_TOKENS)}"
            )
        return id


class _Literal:
    """The tokenizer without its special tokens: only what BPE and the added ordinary words make of a text."""

    def __init__(self, backend: tokenizers.Tokenizer, added: dict[int, AddedToken]) -> None:
        self._backend = tokenizers.Tokenizer(backend.model)
        self._backend.pre_tokenizer = backend.pre_tokenizer
        if backend.normalizer is not None:
            self._backend.normalizer = backend.normalizer
        self._backend.add_tokens(list(added.values()))
        self._ids = {self._backend.token_to_id(token.content): id for id, token in added.items()}

    def encode(self, text: str) -> list[int]:
        return [self._ids.get(id, id) for id in self._backend.encode(text, add_special_tokens=False).ids]


def _encodable(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"the text holds half a character at position {error.start} (an unpaired surrogate); decode it again"
        ) from error
    return text


def _byte_level(model: models.Model) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def _finished(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """With ``<s>`` and ``</s>`` put around every text, for those who open the saved file with transformers."""
    vocabulary = backend.get_vocab()
    backend.post_processor = processors.RobertaProcessing(
        ("</s>", vocabulary["</s>"]), ("<s>", vocabulary["<s>"]), trim_offsets=True, add_prefix_space=False
    )
    return backend


def _backend_from_vocabulary(folder: Path) -> tokenizers.Tokenizer:
    vocabulary = _read_json(folder / "vocab.json")
    absent = [token for token in BASE_TOKENS if token not in vocabulary]
    if absent:
        raise TokenizerError(f"{folder / 'vocab.json'} lacks {', '.join(absent)}; it is not a BART vocabulary")
    try:
        model = models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    except Exception as error:  # the library raises bare Exception for what it cannot read
        raise TokenizerError(
            f"{folder}: vocab.json and merges.txt do not fit together ({error}); take both from one checkpoint"
        ) from error
    backend = _byte_level(model)
    backend.add_special_tokens([AddedToken(token, special=True) for token in BASE_TOKENS])
    if "<mask>" in vocabulary:
        backend.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    if (folder / "added_tokens.json").is_file():
        added = _read_json(folder / "added_tokens.json")
        for token, id in sorted(added.items(), key=lambda item: int(item[1])):
            backend.add_special_tokens([AddedToken(token, special=True, normalized=False, lstrip=token == "<mask>")])
            if backend.token_to_id(token) != id:
                raise TokenizerError(
                    f"{folder / 'added_tokens.json'} gives {token} the id {id}, but the next free one is "
                    f"{backend.token_to_id(token)}; the file does not belong to this vocab.json"
                )
    return _finished(backend)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{path} is not readable JSON ({error}); copy the file again") from error
    if not isinstance(content, dict):
        raise TokenizerError(f"{path} holds a {type(content).__name__}, expected an object of token: id")
    return content
