"""From checked requests to answers: rows of (scene, prompt), batched, decoded, parsed.

Rows that are decoded in the same way share a batch: their prompts are padded and masked, which never changes an
answer. The image encoder runs in `encode`, everything after it reads its tokens. A batch that the memory of the device
does not hold is halved.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypedDict, TypeVar, cast

import torch
from PIL import Image
from torch import Tensor

from florence2 import images, inputs
from florence2.checkpoints import Checkpoint, adapters
from florence2.checkpoints.calibration import Calibration
from florence2.compiled import CompiledModel, StepKernel
from florence2.config import DecodingPolicy
from florence2.errors import CheckpointError, Florence2Error, TaskError
from florence2.generation import Generated, generate, policy_for
from florence2.generation.drafts import Draft, FromAnswer, FromText
from florence2.inputs import Prompt, Request
from florence2.language import answers, grammar
from florence2.model import Florence2Model, packing
from florence2.model.runtime import Runtime
from florence2.onnx import OnnxCheckpoint
from florence2.results import Answer, Detections, Raw

NOT_SEARCH = frozenset(("reference", "min_score", "raw", "draft"))
"""Options that are not about the search."""
ROWS = 16
"""Photos encoded together and prompts decoded together, at most."""

T = TypeVar("T")


class Options(TypedDict, total=False):
    """What every verb takes on top. Where a decoding option is not given, the task's own policy decides."""

    reference: bool
    """Decode as Microsoft ships it, token for token: no grammar, no guard, no closed labels, no calibration."""
    min_score: float
    """Leave out objects, outlines and text regions that score less; of calibrated scores where there are such."""
    raw: bool
    """Keep the token ids and their log-probabilities in ``answer.raw``."""
    draft: Answer
    """An earlier answer to the same question, made with ``raw``, as of a video's last frame: where this one says the
    same, several tokens take one step. The answer is not changed by it. For one photo and ``num_beams=1``."""
    num_beams: int
    max_new_tokens: int
    no_repeat_ngram_size: int
    early_stopping: bool
    length_penalty: float
    temperature: float
    top_k: int
    top_p: float
    seed: int | None
    constrained: bool
    repeat_guard: bool


@dataclass(frozen=True, eq=False)
class Scene:
    """A photo behind the image encoder, ready for any number of tasks; belongs to the model that made it."""

    tokens: Tensor
    """(1, T+N, D)"""
    photo: Image.Image
    """Upright RGB, for the drawings."""
    adapter: str | None = None
    """The adapter that changed the image encoder, where one did."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)"""
        return self.photo.size

    def __repr__(self) -> str:
        return f"Scene({self.size[0]} x {self.size[1]} photo, {self.tokens.shape[1]} image tokens)"


class Engine:
    """A checkpoint at work. Stateless but for the batch size that the memory has been found to hold."""

    def __init__(self, checkpoint: Checkpoint | OnnxCheckpoint) -> None:
        if checkpoint.tokenizer is None:
            raise CheckpointError(
                f"{checkpoint.source} holds no tokenizer and its vocabulary is not the published one; copy the "
                "tokenizer.json of the model that it was made from into the folder"
            )
        self.runtime: Runtime = checkpoint.model.eval()
        self._checkpoint = checkpoint
        self.tokenizer = checkpoint.tokenizer
        self.config = checkpoint.config
        self.rows = ROWS
        self._calibration = checkpoint.calibration

    @property
    def device(self) -> torch.device:
        return self._checkpoint.device

    @property
    def dtype(self) -> torch.dtype:
        return self._checkpoint.dtype

    @property
    def calibration(self) -> Calibration | None:
        """What makes scores probabilities. None too while an adapter is in use: the curves were fitted without it."""
        return None if self.adapter else self._calibration

    @property
    def model(self) -> Florence2Model:
        """The module that holds the weights, plain ones from now on; Florence2Error where the model runs as ONNX.

        Whoever takes it may change it, which a compiled step with weights of its own does not see: it is given up.
        """
        if isinstance(self.runtime, StepKernel):
            self.runtime = self.module
        return packing.unpack(self.module)

    @contextlib.contextmanager
    def plain(self) -> Iterator[Florence2Model]:
        """The module with plain weights, for the moment and to be read: packed again behind it, if they were."""
        was_packed, runtime = packing.is_packed(self.module), self.runtime
        try:
            yield self.model
        finally:
            if was_packed:
                self.pack()
            self.runtime = runtime

    def pack(self) -> None:
        """Lay the weights as this processor multiplies them, where it gains by that and no adapter is on the model."""
        plan = packing.exact(self.device, self.dtype)
        if plan is not None and isinstance(self.runtime, Florence2Model) and not adapters.adapter_names(self.module):
            packing.pack(self.module, plan)

    @property
    def module(self) -> Florence2Model:
        """The module as it is: its weights may be packed, so it can be asked what it is made of and not be changed."""
        if isinstance(self.runtime, Florence2Model):
            return self.runtime
        if isinstance(self.runtime, CompiledModel | StepKernel):
            return self.runtime.model
        raise Florence2Error(
            "this model runs as ONNX: there is no module to train, change or put adapters on; load the checkpoint that "
            "it was exported from, without runtime=..."
        )

    @property
    def compiled(self) -> bool:
        """Whether parts of it are."""
        return isinstance(self.runtime, CompiledModel | StepKernel)

    @property
    def adapter(self) -> str | None:
        """The adapter in use, where there is one."""
        here = self.compiled or isinstance(self.runtime, Florence2Model)
        return adapters.active_adapter(self.module) if here else None

    def compile(self, backend: str = "inductor") -> None:
        """Compute with compiled parts from now on; they are compiled when first called. On a CPU these are the steps of
        one row; elsewhere, and where there are adapters, the image encoder and all steps."""
        if self.device.type == "cpu" and not adapters.adapter_names(self.module):
            self.uncompile()
            self.pack()
            self.runtime = StepKernel(self.module, backend)
        else:
            self.runtime = CompiledModel(self.model, backend)

    def uncompile(self) -> None:
        """Compute with the module itself again."""
        self.runtime = self.module

    def drop_calibration(self) -> None:
        """Scores are as the model gives them from now on."""
        self._calibration = None

    @torch.inference_mode()
    def encode(
        self,
        pictures: Sequence[Image.Image],
        size: tuple[int, int] | None = None,
        pixels: Sequence[Tensor] | None = None,
    ) -> list[Scene]:
        """Upright RGB pictures → scenes, in one call of the image encoder where the memory allows.

        ``size`` (height, width) replaces the input size of the model. ``pixels`` are the pictures squashed to it,
        (H, W, 3) uint8 each, where that is done already.
        """
        form = self.config.image if size is None else dataclasses.replace(self.config.image, size=size)
        adapter = self._seeing_adapter()

        def run(part: Sequence[int]) -> list[Scene]:
            if pixels is None:
                values = images.to_pixel_values([pictures[i] for i in part], form)  # (B, 1, 3, H, W)
            else:
                values = images.normalise([pixels[i] for i in part], form)
            tokens = self.runtime.encode_image(values.to(self.device, self.dtype))  # (B, T+N, D)
            return [Scene(row[None], pictures[i], adapter) for row, i in zip(tokens, part, strict=True)]

        return self._in_parts(run, range(len(pictures)))

    def prepare(self, scene: Scene, request: Request, options: Options) -> list[Prompt]:
        """The prompts of a request on its photo, or TaskError or BoxError where they do not fit together."""
        if request.labels is not None and (options.get("reference") or not options.get("constrained", True)):
            raise TaskError(
                "labels need the grammar, which reference=True and constrained=False turn off; drop that option, "
                'or ask openly: run(photo, "<OPEN_VOCABULARY_DETECTION>", "car<and>dog")'
            )
        if scene.tokens.shape[2] != self.config.text.d_model:
            raise TaskError(
                f"the scene holds image tokens of width {scene.tokens.shape[2]}, this model has "
                f"{self.config.text.d_model}: it was encoded by another model; encode the photo with this one"
            )
        if scene.adapter != self._seeing_adapter():
            raise TaskError(
                f"the photo was encoded with {_called(scene.adapter)} and the model now uses "
                f"{_called(self._seeing_adapter())}, and the image encoder differs; encode the photo again"
            )
        room = self.config.text.max_positions - scene.tokens.shape[1]
        return inputs.prompts(request, scene.size, self.tokenizer, room)

    def _seeing_adapter(self) -> str | None:
        """The adapter in use, where it changes how photos are encoded."""
        return self.adapter if self.adapter and adapters.changes_image_tokens(self.module) else None

    @torch.inference_mode()
    def respond(self, asked: Sequence[tuple[Scene, Request, list[Prompt]]], options: Options) -> list[Any]:
        """Answer prepared requests on encoded photos; the one way that everything above takes."""
        found = iter(self._decode([(scene, prompt) for scene, _, prompts in asked for prompt in prompts], options))
        together: list[Any] = []
        for _, request, prompts in asked:
            own = list(islice(found, len(prompts)))
            if request.answers == "per box":
                together.append(own)
            elif request.answers == "one":
                together.append(own[0])
            else:
                together.append(_merged(cast("list[Detections]", own)))
        return together

    def _decode(self, rows: Sequence[tuple[Scene, Prompt]], options: Options) -> list[Answer]:
        """Rows with the same policy and the same number of image tokens share batches; answers in the order of rows."""
        overrides = {name: value for name, value in options.items() if name not in NOT_SEARCH}
        groups: dict[tuple[DecodingPolicy, int], list[int]] = {}
        for i, (scene, prompt) in enumerate(rows):
            closed, reference = prompt.labels is not None, options.get("reference", False)
            policy = policy_for(prompt.task, self.config, reference, closed, **overrides)
            groups.setdefault((policy, scene.tokens.shape[1]), []).append(i)
        found: dict[int, Answer] = {}
        for (policy, _), members in groups.items():
            if len(members) > self.rows:  # parts of prompts of like lengths are padded less
                members.sort(key=lambda i: len(rows[i][1].ids))

            def run(part: Sequence[int], policy: DecodingPolicy = policy) -> list[Answer]:
                return self._generate([rows[i] for i in part], policy, options)

            found.update(zip(members, self._in_parts(run, members), strict=True))
        return [found[i] for i in range(len(rows))]

    def _generate(self, rows: Sequence[tuple[Scene, Prompt]], policy: DecodingPolicy, options: Options) -> list[Answer]:
        tokens = torch.cat([scene.tokens for scene, _ in rows])  # (B, T+N, D)
        ids, mask = self._padded([prompt.ids for _, prompt in rows])  # (B, n) each
        memory = self.runtime.encode(tokens, ids, mask)
        automata = [
            grammar.compile(prompt.task.grammar, self.tokenizer, prompt.labels) if policy.constrained else None
            for _, prompt in rows
        ]
        return [
            self._answer(scene, prompt, produced, policy, options)
            for (scene, prompt), produced in zip(
                rows, generate(self.runtime, memory, policy, automata, self._draft(rows, options)), strict=True
            )
        ]

    def _draft(self, rows: Sequence[tuple[Scene, Prompt]], options: Options) -> Draft | None:
        """An earlier answer; or the given text, which a grounded caption says again, phrase by phrase."""
        (_, prompt), *others = rows
        earlier = options.get("draft")
        if earlier is not None and earlier.raw is not None:
            return FromAnswer(earlier.raw.token_ids)
        if others or prompt.task.takes != "text" or prompt.task.policy != "structured":
            return None
        language = self.tokenizer
        given = language.decode(prompt.ids, skip_special=True)[len(prompt.task.prompt.partition("{input}")[0]) :]
        return FromText(given, language.encode_plain, language.decode, lambda id: language.location_of(id) is None)

    def _answer(
        self, scene: Scene, prompt: Prompt, produced: Generated, policy: DecodingPolicy, options: Options
    ) -> Answer:
        answer = answers.parse(
            produced.ids,
            prompt.task,
            scene.size,
            self.tokenizer,
            logprobs=produced.logprobs,
            labels=prompt.labels,
            truncated=produced.truncated,
            keep_raw=options.get("raw", False),
        )
        if policy.repeat_guard:
            answer = without_repeat(answer)
        if self.calibration is not None and not options.get("reference", False):
            answer = self.calibration.apply(answer)
        return answer.keep(options.get("min_score", 0.0)).with_photo(scene.photo)

    def _padded(self, prompts: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor | None]:
        """Prompts of unequal lengths → ids (B, n) and, where any is padded, their mask (B, n)."""
        longest = max(len(prompt) for prompt in prompts)
        ids = torch.full((len(prompts), longest), self.tokenizer.pad_id, device=self.device)
        mask = torch.zeros(len(prompts), longest, dtype=torch.bool, device=self.device)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.tensor(prompt, device=self.device)
            mask[row, : len(prompt)] = True
        return ids, None if bool(mask.all()) else mask

    def _in_parts(self, run: Callable[[Sequence[T]], list[Any]], items: Sequence[T]) -> list[Any]:
        """``run`` on parts of at most ``_rows`` items; a part that the memory does not hold is halved, for good."""
        done: list[Any] = []
        while len(done) < len(items):
            part = items[len(done) : len(done) + self.rows]
            try:
                done += run(part)
            except torch.cuda.OutOfMemoryError as error:
                if len(part) == 1:
                    raise Florence2Error(
                        f"the memory of {self.device} does not hold one photo ({error}); close other programs, or load "
                        'a smaller model, or with dtype="float16"'
                    ) from error
                self.rows = len(part) // 2
        return done


def check_options(options: Options) -> None:
    unknown = sorted(set(options) - set(Options.__annotations__))
    if unknown:
        raise TaskError(f"unknown option {unknown[0]!r}; known: {', '.join(Options.__annotations__)}")
    draft = options.get("draft")
    if draft is not None and draft.raw is None:
        raise TaskError("draft is an answer without its tokens; make that answer with raw=True")
    score = options.get("min_score", 0.0)
    if not 0 <= score <= 1:
        raise TaskError(f"min_score lies between 0 and 1, found {score}")


def without_repeat(answer: Answer) -> Answer:
    """Without the last item where it says again what an earlier one said: the trace that the repeat guard leaves."""
    if answer.items_field is None:
        return answer
    items = getattr(answer, answer.items_field)
    said = [dataclasses.replace(item, **dict.fromkeys(_SCORES & set(vars(item)), 1.0)) for item in items]
    if not said or said[-1] not in said[:-1]:
        return answer
    kept: dict[str, Any] = {answer.items_field: items[:-1]}
    return dataclasses.replace(
        answer, **kept, dropped=(*answer.dropped, "the last item, which repeated an earlier one")
    )


def _called(adapter: str | None) -> str:
    return "no adapter of the image encoder" if adapter is None else f"the adapter {adapter!r}"


_SCORES = {"score", "label_score", "box_score"}


def _merged(found: Sequence[Detections]) -> Detections:
    """One answer out of one per label: objects in the order of the labels, raw sequences one behind the other.

    The confidence is the geometric mean of those of the labels.
    """
    raws = [answer.raw for answer in found if answer.raw is not None]
    raw = Raw(
        token_ids=tuple(id for raw in raws for id in raw.token_ids),
        text="".join(raw.text for raw in raws),
        logprobs=tuple(value for raw in raws for value in (0.0, *raw.logprobs))[1:],  # 0: the start token of each
    )
    return dataclasses.replace(
        found[0],
        objects=tuple(item for answer in found for item in answer.objects),
        confidence=math.prod(answer.confidence for answer in found) ** (1 / len(found)),
        truncated=any(answer.truncated for answer in found),
        dropped=tuple(part for answer in found for part in answer.dropped),
        raw=raw if raws else None,
    )
