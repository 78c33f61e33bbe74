"""The same work in transformers' native port: same weights, same number format, same threads, its best settings.

Its attention is SDPA and its cache the one that ``generate`` makes; a static cache helps it only when compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from florence2 import checkpoints
from florence2.data.records import Record
from florence2.evaluation import peer
from florence2.evaluation.samples import Sample
from florence2.pipeline import Florence2
from florence2.speed import stages
from florence2.speed.files import file_type
from florence2.speed.stages import Work, together
from florence2.speed.timing import Stage


def load(model: Florence2, folder: Path) -> peer.Transformers:
    """The same weights in transformers, by way of a checkpoint in its layout in ``folder``.

    Raises MissingDependencyError without transformers 5.
    """
    engine = model.engine
    kind = str(model.dtype).removeprefix("torch.")
    with engine.plain() as module:
        copy = checkpoints.Checkpoint(module, engine.tokenizer, engine.config)
        checkpoints.save(copy, folder, layout="native", dtype=file_type(module), overwrite=True)
    return peer.Transformers(folder, device=str(model.device), dtype=kind)


def theirs(native: peer.Transformers, work: Work, wanted: Sequence[str] | None = None) -> list[Stage]:
    built = [*parts(native, work), *calls(native, work)]
    return [stage for stage in built if wanted is None or stage.name in wanted]


def parts(native: peer.Transformers, work: Work) -> list[Stage]:
    """Stage by stage. The token stages are its ``generate`` on states that are encoded already."""
    from transformers.modeling_outputs import BaseModelOutput

    model, processor, photo = native.model, native.processor.image_processor, work.photo
    text = model.config.text_config
    language = model.model.language_model
    ids = work.ids(text.vocab_size, native.device)

    def pixels() -> Any:
        found = processor(images=photo, return_tensors="pt")["pixel_values"]
        return found.to(native.device, native.dtype)

    def embed(given: Any) -> Any:
        features = model.model.get_image_features(given).pooler_output
        return torch.cat([features, language.get_input_embeddings()(ids)], 1)

    def encode(embedded: Any) -> Any:
        return language.encoder(inputs_embeds=embedded).last_hidden_state

    def remember(encoded: Any) -> Any:
        """What the decoder reads of the prompt at every step. Its first step makes it; ours is made with the states."""
        layers = [layer.encoder_attn for layer in language.decoder.layers]
        return [(layer.k_proj(encoded), layer.v_proj(encoded)) for layer in layers]

    with torch.inference_mode():
        seen = pixels()
        embeds = embed(seen)
        states = encode(embeds)
    mask = torch.ones(states.shape[:2], dtype=torch.long, device=native.device)

    def write(encoded: Any, beams: int, tokens: int) -> None:
        settings = {**native.settings, "num_beams": beams, "max_new_tokens": tokens + 1, "min_new_tokens": tokens + 1}
        settings["early_stopping"] = beams > 1
        model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=encoded), attention_mask=mask, **settings
        )  # fmt: skip

    return [
        Stage(stages.PREPROCESSING, lambda: processor(images=photo, return_tensors="pt")),
        Stage(stages.IMAGE, lambda: model.model.get_image_features(seen)),
        Stage(stages.PROMPT, lambda: remember(encode(embeds))),
        Stage(stages.FIRST, lambda: write(encode(embed(pixels())), 1, 1)),
        Stage(stages.GREEDY, lambda: write(states, 1, work.tokens), work.tokens),
        Stage(stages.BEAMS, lambda: write(states, 3, work.tokens), work.tokens),
    ]


def calls(native: peer.Transformers, work: Work) -> list[Stage]:
    """Whole calls from a photo to the dictionaries of its post-processing, with the settings that are shipped."""
    photo = work.photo

    def answer(*asked: tuple[str, object], most: int, count: int = 1) -> Callable[[], object]:
        samples = [sample(task, given) for task, given in asked] * count
        photos = [photo] * len(samples)

        def call() -> object:
            kept, native.settings["max_new_tokens"] = native.settings["max_new_tokens"], most
            try:
                if count > 1:
                    native.batch_size = count
                    return native.answer(samples, photos)
                return [native.answer([one], [photo]) for one in samples]
            finally:
                native.settings["max_new_tokens"] = kept

        return call

    caption = ("<CAPTION>", None)
    return [
        Stage(stages.CAPTION, answer(caption, most=work.tokens)),
        Stage(stages.DETECTION, answer(("<OD>", None), most=work.detection)),
        Stage(stages.ALL, answer(*stages.TASKS, most=work.tokens)),
        *(Stage(together(n), answer(caption, most=work.tokens, count=n), n) for n in work.batches),
    ]


def sample(task: str, given: Any) -> Sample:
    record = Record(image=None, id="photo", width=640, height=480)
    return Sample(id="photo", record=record, task=task, given=given, truth=())
