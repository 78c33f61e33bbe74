"""The words of a checkpoint: new ones, and how many rows of the embedding are words in a native file.

transformers marks the place of the image tokens in the text, with an ``<image>`` token behind Microsoft's
vocabulary, and pads the embedding to a multiple of 64: 51289 words become 51328 rows. Here the image tokens
stand in front of the prompt by construction and no text needs the mark. So the rows that no word reaches are
cut off when a checkpoint is read, and put back when one is written in the native layout; a round trip gives the
same model. The new rows are the mean of all others: their logit is the mean of the logits, so they can never be
the best one.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokenizers
import torch
from torch import Tensor, nn

from florence2.checkpoints.configs import IMAGE_TOKEN, VOCABULARY_STEP, read_json
from florence2.checkpoints.layouts import Layout
from florence2.config import TextConfig
from florence2.errors import CheckpointError
from florence2.language.tokenizer import Tokenizer
from florence2.model.bart import Embedding

if TYPE_CHECKING:
    from florence2.checkpoints.load import Checkpoint

PUBLISHED_VOCABULARY = range(51289, 51329)
"""Rows of the published checkpoints: Microsoft's 51289, up to the 51328 of the native conversions."""
MOST_PADDING = 128


def extend_vocabulary(checkpoint: Checkpoint, words: Iterable[str], special: bool = False) -> Checkpoint:
    """A copy of the checkpoint in which each of ``words`` is one token, behind the present ones; the given one stays.

    The row of a new word in the shared embedding is the mean of the rows of the pieces that it was cut into until now,
    so the model begins with a notion of it, both read and written; fine-tuning has to do the rest. Its logits bias is
    zero. All other ids stay, those of the locations among them, and so does every text without the new words. Words
    that are one token already are left as they are. ``special``: see :meth:`Tokenizer.with_words`.

    Raises TokenizerError for what is no word, CheckpointError where tokenizer and model do not fit or adapters are on.
    """
    tokenizer, text = checkpoint.tokenizer, checkpoint.config.text
    if tokenizer is None or tokenizer.vocab_size != text.vocab_size:
        found = "no tokenizer" if tokenizer is None else f"a tokenizer of {tokenizer.vocab_size} tokens"
        raise CheckpointError(
            f"new words need a tokenizer that fits the model; the checkpoint has {found} and {text.vocab_size} rows in "
            "the embedding. Put the tokenizer files of the model into its folder and load it again"
        )
    if getattr(checkpoint.model, "peft_config", None):
        raise CheckpointError("the model carries adapters; take them off or merge them before its vocabulary grows")
    extended = tokenizer.with_words(words, special)
    model = copy.deepcopy(checkpoint.model)
    old = model.text.shared.weight.detach()
    rows = [old]
    for id in range(text.vocab_size, extended.vocab_size):
        pieces = tokenizer.encode_plain(extended.token_text(id))
        rows.append(old[pieces].mean(dim=0, keepdim=True, dtype=torch.float32).to(old.dtype))
    text = dataclasses.replace(text, vocab_size=extended.vocab_size)
    config = dataclasses.replace(checkpoint.config, text=text)
    model.text.shared = Embedding(text.vocab_size, text.d_model, padding_idx=text.pad_id, device="meta")
    model.text.shared.weight = nn.Parameter(torch.cat(rows))
    model.text.logits_bias = nn.functional.pad(model.text.logits_bias, (0, len(rows) - 1))
    model.config, model.text.config = config, text
    return dataclasses.replace(checkpoint, model=model, tokenizer=extended, config=config, calibration=None)


def read_tokenizer(folder: Path, text: TextConfig) -> Tokenizer | None:
    """The tokenizer in ``folder`` without ``<image>``; None where there is none and nobody could know which it was."""
    if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.json").is_file():
        if text.vocab_size in PUBLISHED_VOCABULARY:
            raise CheckpointError(
                f"{folder} holds no tokenizer; its vocabulary of {text.vocab_size} is that of the published models: "
                "copy tokenizer.json from the checkpoint that the training started from, e.g. microsoft/Florence-2-base"
            )
        return None
    tokenizer = Tokenizer.load(folder)
    last = tokenizer.vocab_size - 1
    if tokenizer.token_text(last) != IMAGE_TOKEN:
        return tokenizer
    content = _content(tokenizer)
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] != last]
    return Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(content)))


def count_words(tokenizer: Tokenizer | None, text: TextConfig) -> int:
    """Rows of the embedding that are kept: those of the tokenizer, where it fits the rows that the file has."""
    if tokenizer is None:
        return text.vocab_size
    padding = text.vocab_size - tokenizer.vocab_size
    if not 0 <= padding <= MOST_PADDING:
        raise CheckpointError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model {text.vocab_size}; the two do not belong "
            "together: take the tokenizer files from where the weights came from"
        )
    return tokenizer.vocab_size


def write_tokenizer(tokenizer: Tokenizer, folder: Path, layout: Layout) -> None:
    """The tokenizer's files; in the native layout with ``<image>``, where transformers looks for it."""
    tokenizer.save(folder)
    if layout == "microsoft":  # as shipped: Microsoft's processor brings the class, and refuses another one
        (folder / "tokenizer_config.json").write_text('{"model_max_length": 1024}\n', encoding="utf-8")
    if layout != "native":
        return
    content = _content(tokenizer)
    if all(token["content"] != IMAGE_TOKEN for token in content["added_tokens"]):
        content["added_tokens"].append(
            {
                "id": tokenizer.vocab_size,
                "content": IMAGE_TOKEN,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
        )
    (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    settings = read_json(folder / "tokenizer_config.json")
    settings |= {"extra_special_tokens": {"image_token": IMAGE_TOKEN}, "processor_class": "Florence2Processor"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def image_token_id(tokenizer: Tokenizer | None, words: int) -> int:
    """The id that ``<image>`` has in the native layout: the first one behind the words, or where it already is."""
    if tokenizer is not None:
        for token in _content(tokenizer)["added_tokens"]:
            if token["content"] == IMAGE_TOKEN:
                return int(token["id"])
    return words


def padded_rows(words: int, image_token: int) -> int:
    """Rows of a native embedding: all words and ``<image>``, rounded up to a multiple of 64."""
    return -(-max(words, image_token + 1) // VOCABULARY_STEP) * VOCABULARY_STEP


def pad_rows(embedding: Tensor, rows: int) -> Tensor:
    """(V, D) → (rows, D); each new row is the mean of the V."""
    mean = embedding.mean(dim=0, dtype=torch.float32).to(embedding.dtype)
    return torch.cat([embedding, mean.expand(rows - embedding.shape[0], -1)])


def _content(tokenizer: Tokenizer) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(folder)
        return read_json(Path(folder) / "tokenizer.json")
