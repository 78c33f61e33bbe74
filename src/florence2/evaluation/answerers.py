"""Who answers the questions of a benchmark: our model, a peer, the truth itself.

Everything behind an ``Answerer`` is the same for all, so what two of them are measured by differs in nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image

from florence2.errors import DataError, Florence2Error
from florence2.evaluation.samples import Sample
from florence2.results import Answer

if TYPE_CHECKING:
    from typing import Unpack

    from torch import Tensor

    from florence2.engine import Options
    from florence2.pipeline import Florence2


class Answerer(Protocol):
    name: str
    """For reports."""

    def describe(self) -> dict[str, object]:
        """What decides the answers, as JSON: model, options. A run is only resumed by an answerer of equal
        description."""
        ...

    def answer(self, samples: Sequence[Sample], photos: Sequence[Image.Image]) -> list[Answer | Florence2Error]:
        """One answer per sample, asked about ``photos[i]``, which is the sample's photo or, in a blind run, another
        of the same size. What cannot be answered gives its error; nothing is raised for a single sample."""
        ...


class Ours:
    """A model of this library under some decoding options.

    Closed labels become one prompt per label inside the grammar, as ``detect(labels=...)`` does; where the options turn
    the grammar off (``reference=True``, ``constrained=False``) they are asked for in one open prompt,
    "car<and>dog", as Microsoft's users do.
    """

    def __init__(self, model: Florence2, **options: Unpack[Options]) -> None:
        from florence2.engine import check_options

        check_options(options)
        self.model = model
        self.options = options
        self.name = model.name
        self._closed = options.get("constrained", True) and not options.get("reference", False)

    def describe(self) -> dict[str, object]:
        from florence2 import __version__

        model = self.model
        with model.engine.plain() as module:
            weights = fingerprint({name: t for name, t in module.state_dict().items() if not t.is_meta})  # not int8
        calibration = None if self.options.get("reference") else model.calibration
        return {
            "answerer": "florence2",
            "version": __version__,
            "model": model.name,
            "source": model.source,
            "weights": weights,
            "config": _hash(model.config.to_dict()),
            "dtype": model.format,
            "adapter": model.adapter,
            "calibration": calibration.fingerprint if calibration else None,
            "options": dict(sorted(self.options.items())),
        }

    def answer(self, samples: Sequence[Sample], photos: Sequence[Image.Image]) -> list[Answer | Florence2Error]:
        from florence2.engine import ROWS

        shown = merged(samples, photos)
        items = [(photo, sample.task, self._given(sample)) for sample, photo in zip(samples, shown, strict=True)]
        found = self.model.run_batch(items, batch_size=ROWS, on_error="record", **self.options)
        return [_plain(answer) for answer in found]

    def _given(self, sample: Sample) -> Any:
        given = sample.given
        if self._closed or not isinstance(given, tuple) or not all(isinstance(label, str) for label in given):
            return given
        return "<and>".join(str(label) for label in given)


class Truth:
    """Answers with the first right answer of each sample: what the best of all models would get."""

    name = "truth"

    def describe(self) -> dict[str, object]:
        return {"answerer": "truth"}

    def answer(self, samples: Sequence[Sample], photos: Sequence[Image.Image]) -> list[Answer | Florence2Error]:
        return [
            sample.truth[0] if sample.truth else DataError(f"{sample.id} has no right answer to give")
            for sample in samples
        ]


def merged(samples: Sequence[Sample], photos: Sequence[Image.Image]) -> list[Image.Image]:
    """The photos, where neighbouring samples of one photo hold one and the same object: it is then encoded once."""
    shown: list[Image.Image] = []
    for i, photo in enumerate(photos):
        again = i > 0 and samples[i].photo == samples[i - 1].photo and photo == shown[-1]
        shown.append(shown[-1] if again else photo)
    return shown


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """The same for equal names, shapes, types and values, whatever device they are on."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        plain = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(plain.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _plain(found: Any) -> Answer | Florence2Error:
    """Without its photo, which thousands of answers would keep in memory."""
    if isinstance(found, Answer):
        return dataclasses.replace(found, _photo=None)
    if isinstance(found, list):
        return DataError("a sample gives one box, found several; ask about each in a sample of its own")
    error: Florence2Error = found.error
    return error
