"""The class that users hold: a photo in, every task out.

    model = Florence2.from_pretrained()
    model.caption(photo).text
    scene = model.encode(photo)                 # the image encoder runs once ...
    model.run_many(scene, ["<OD>", "<OCR>"])    # ... for any number of tasks

This file is the surface. `inputs` finds the mistakes, `engine` batches and decodes, `batches` carries thousands of
photos through it.

Source: "Florence-2: Advancing a Unified Representation for a Variety of Vision Tasks" (arXiv 2311.06242),
section 3: every task is a prompt, every answer is text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, overload

import torch
from PIL import Image

from florence2 import batches, checkpoints, compiled, images, inputs, onnx
from florence2.checkpoints import adapters
from florence2.checkpoints.calibration import Calibration
from florence2.config import Florence2Config
from florence2.engine import Engine, Options, Scene, check_options
from florence2.errors import ConfigError, Florence2Error, TaskError
from florence2.inputs import Request
from florence2.language.tasks import Task
from florence2.model import Florence2Model, count, int8
from florence2.results import Answer, Box, Detections, Segments, Text, TextRegions

if TYPE_CHECKING:
    from typing import Unpack

    from florence2.batches import ErrorRecord
    from florence2.images import Photo

WARMUP_TOKENS = 8
"""That an answer has at most while the model warms up."""


class Florence2:
    """A Florence-2 model with its tokenizer. Make one with :meth:`from_pretrained`.

    A photo is a path, bytes, a file object, a PIL image, a uint8 array (H, W, 3), or a :class:`Scene`. A box is
    ``(x0, y0, x1, y1)`` in pixels of the upright photo; one box gives one answer, a list of boxes a list of answers.
    Every verb takes :class:`Options` by keyword. Wrong input raises TaskError, BoxError or ImageError.
    """

    def __init__(self, checkpoint: checkpoints.Checkpoint | onnx.OnnxCheckpoint) -> None:
        engine = Engine(checkpoint)
        self._engine: Engine | None = engine
        self.tokenizer = engine.tokenizer
        self.config: Florence2Config = checkpoint.config
        self.source = str(checkpoint.source)
        self.layout: str = checkpoint.layout

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        *,
        adapter: str | Path | Mapping[str, str | Path] | None = None,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        offline: bool | None = None,
        calibrated: bool = True,
        runtime: Literal["torch", "onnx"] = "torch",
    ) -> Florence2:
        """Load the embedded model (no source), a local folder in any of the three layouts, or a hub id.

        ``adapter`` is a LoRA adapter for it, or several as ``{name: folder}``, of which the first is in use; each is a
        folder or a hub id. ``device`` and ``dtype`` are PyTorch's names; "auto" takes the fastest device that is there,
        and half precision only where that device computes in it; the log says what it took, :attr:`format` too.
        ``dtype="int8"`` rounds large matrices to 8 bits, on a CPU: faster, and the answers differ now and then.
        ``offline=True`` asks the cache of the hub only. ``calibrated=False`` leaves scores as the model gives them,
        where the checkpoint has a calibration.
        ``runtime="onnx"`` takes what ``florence2 export`` wrote, or an export made elsewhere (a folder, or a hub id
        such as onnx-community/Florence-2-base-ft), and computes in onnxruntime; ``dtype`` chooses among its files
        ("int8" ...), and there are no adapters.
        Raises CheckpointError, which says what to do.
        """
        checkpoint: checkpoints.Checkpoint | onnx.OnnxCheckpoint
        if runtime == "onnx":
            checkpoint = onnx.load(source, dtype, device, revision, offline)
        elif runtime == "torch":
            packed = adapter is None  # one would have them unpacked again
            checkpoint = checkpoints.load(source, revision, dtype=dtype, device=device, offline=offline, packed=packed)
        else:
            raise ConfigError(f"runtime {runtime!r} is unknown; expected torch or onnx")
        model = cls(checkpoint if calibrated else dataclasses.replace(checkpoint, calibration=None))
        if adapter is not None:
            several = adapter if isinstance(adapter, Mapping) else {"default": adapter}
            for name, folder in several.items():
                model.load_adapter(folder, name, offline=offline)
            model.use_adapter(next(iter(several), None))
        return model

    # The verbs

    def caption(self, photo: Photo | Scene, detail: str | None = None, **options: Unpack[Options]) -> Text:
        """What the photo shows: one sentence, or with ``detail`` "more" or "most" a few sentences or a paragraph."""
        levels = {None: "<CAPTION>", "more": "<DETAILED_CAPTION>", "most": "<MORE_DETAILED_CAPTION>"}
        if detail not in levels:
            raise TaskError(f'detail is None, "more" or "most", found {detail!r}')
        return cast(Text, self.run(photo, levels[detail], **options))

    def detect(
        self, photo: Photo | Scene, labels: Sequence[str] | None = None, **options: Unpack[Options]
    ) -> Detections:
        """Objects with boxes; with ``labels`` these and no others, and nothing for a class that is absent.

        Each label gets a prompt of its own over one encoding of the photo, and a grammar that allows this label or
        nothing. Asking for all labels in one prompt (``run(photo, "<OPEN_VOCABULARY_DETECTION>", "car<and>dog")``)
        or closing the plain detector (``run(photo, "<OD>", labels=[...])``) is quicker for many labels, but the
        model then drops classes more easily.
        """
        if labels is None:
            return cast(Detections, self.run(photo, "<OD>", **options))
        return cast(Detections, self.run(photo, "<OPEN_VOCABULARY_DETECTION>", labels=labels, **options))

    def ground(self, photo: Photo | Scene, text: str, **options: Unpack[Options]) -> Detections:
        """The phrases of a caption, each with its boxes."""
        return cast(Detections, self.run(photo, "<CAPTION_TO_PHRASE_GROUNDING>", text, **options))

    @overload
    def segment(
        self, photo: Photo | Scene, text: str | None = None, *, box: Box | None = None, **options: Unpack[Options]
    ) -> Segments: ...
    @overload
    def segment(
        self, photo: Photo | Scene, text: None = None, *, box: Sequence[Box], **options: Unpack[Options]
    ) -> list[Segments]: ...
    def segment(
        self,
        photo: Photo | Scene,
        text: str | None = None,
        *,
        box: Box | Sequence[Box] | None = None,
        **options: Unpack[Options],
    ) -> Segments | list[Segments]:
        """The outline of what ``text`` names, or of what is inside ``box``."""
        if (text is None) == (box is None):
            raise TaskError('segment needs a text or a box, one of them: segment(photo, "the red car")')
        task = "<REGION_TO_SEGMENTATION>" if text is None else "<REFERRING_EXPRESSION_SEGMENTATION>"
        return cast("Segments | list[Segments]", self.run(photo, task, text, box=box, **options))

    @overload
    def read(self, photo: Photo | Scene, *, box: Box | None = None, **options: Unpack[Options]) -> Text: ...
    @overload
    def read(self, photo: Photo | Scene, *, regions: Literal[True], **options: Unpack[Options]) -> TextRegions: ...
    @overload
    def read(self, photo: Photo | Scene, *, box: Sequence[Box], **options: Unpack[Options]) -> list[Text]: ...
    def read(
        self,
        photo: Photo | Scene,
        *,
        regions: bool = False,
        box: Box | Sequence[Box] | None = None,
        **options: Unpack[Options],
    ) -> Text | TextRegions | list[Text]:
        """The text in the photo; with ``regions=True`` each piece with its quad; with ``box`` the text inside it."""
        if regions and box is not None:
            raise TaskError("read takes regions=True or a box, not both: a box already says where the text is")
        task = "<OCR_WITH_REGION>" if regions else "<OCR>" if box is None else "<REGION_TO_OCR>"
        return cast("Text | TextRegions | list[Text]", self.run(photo, task, box=box, **options))

    def propose(self, photo: Photo | Scene, **options: Unpack[Options]) -> Detections:
        """Boxes of whatever stands out, without names."""
        return cast(Detections, self.run(photo, "<REGION_PROPOSAL>", **options))

    def describe_regions(self, photo: Photo | Scene, **options: Unpack[Options]) -> Detections:
        """Boxes with a short description each (dense captions)."""
        return cast(Detections, self.run(photo, "<DENSE_REGION_CAPTION>", **options))

    def ask(
        self, photo: Photo | Scene, question: str, labels: Sequence[str] | None = None, **options: Unpack[Options]
    ) -> Text:
        """The answer to a question, for checkpoints that learned to answer: the embedded one, and fine-tuned ones.

        The question is the whole prompt; checkpoints that were taught a task token want ``run(photo, "<VQA>", ...)``.
        ``labels`` is a closed list of answers, such as ["yes", "no"].
        """
        return cast(Text, self.run(photo, "<ASK>", question, labels=labels, **options))

    @overload
    def describe(self, photo: Photo | Scene, box: Box, **options: Unpack[Options]) -> Text: ...
    @overload
    def describe(self, photo: Photo | Scene, box: Sequence[Box], **options: Unpack[Options]) -> list[Text]: ...
    def describe(self, photo: Photo | Scene, box: Box | Sequence[Box], **options: Unpack[Options]) -> Text | list[Text]:
        """A short description of what is inside ``box``."""
        return cast("Text | list[Text]", self.run(photo, "<REGION_TO_DESCRIPTION>", box=box, **options))

    @overload
    def classify(
        self, photo: Photo | Scene, box: Box, labels: Sequence[str] | None = None, **options: Unpack[Options]
    ) -> Text: ...
    @overload
    def classify(
        self, photo: Photo | Scene, box: Sequence[Box], labels: Sequence[str] | None = None, **options: Unpack[Options]
    ) -> list[Text]: ...
    def classify(
        self,
        photo: Photo | Scene,
        box: Box | Sequence[Box],
        labels: Sequence[str] | None = None,
        **options: Unpack[Options],
    ) -> Text | list[Text]:
        """The name of what is inside ``box``; with ``labels`` one of these."""
        return cast("Text | list[Text]", self.run(photo, "<REGION_TO_CATEGORY>", box=box, labels=labels, **options))

    # One photo, any task

    def encode(self, photo: Photo | Scene, *, size: tuple[int, int] | None = None) -> Scene:
        """Run the image encoder once. ``size`` (height, width) replaces the input size of the model."""
        return photo if isinstance(photo, Scene) else self.engine.encode([images.load(photo)], size)[0]

    @overload
    def run(
        self,
        photo: Photo | Scene,
        task: str | Task,
        text: str | None = None,
        *,
        box: Box | None = None,
        labels: Sequence[str] | None = None,
        **options: Unpack[Options],
    ) -> Answer: ...
    @overload
    def run(
        self,
        photo: Photo | Scene,
        task: str | Task,
        text: str | None = None,
        *,
        box: Box | Sequence[Box] | None,
        labels: Sequence[str] | None = None,
        **options: Unpack[Options],
    ) -> Answer | list[Answer]: ...
    def run(
        self,
        photo: Photo | Scene,
        task: str | Task,
        text: str | None = None,
        *,
        box: Box | Sequence[Box] | None = None,
        labels: Sequence[str] | None = None,
        **options: Unpack[Options],
    ) -> Answer | list[Answer]:
        """Any task by its token ("<OD>") or name ("caption"); a list of answers where a list of boxes is given."""
        check_options(options)
        return cast("Answer | list[Answer]", self._ask(photo, [inputs.ask(task, text, box, labels)], options)[0])

    def run_many(
        self, photo: Photo | Scene, tasks: Iterable[Any], **options: Unpack[Options]
    ) -> list[Answer | list[Answer]]:
        """Several tasks on one photo, which is encoded once. Answers come in the order of ``tasks``.

        Each is a task, or a tuple of a task and its input: a text, a box, a list of boxes or a list of labels.
        """
        check_options(options)
        return self._ask(photo, [batches.request(task) for task in tasks], options)

    # Many photos

    def run_batch(
        self,
        items: Iterable[Sequence[Any]],
        *,
        batch_size: int = 8,
        on_error: Literal["raise", "record"] = "raise",
        **options: Unpack[Options],
    ) -> list[Answer | list[Answer] | ErrorRecord]:
        """``(photo, task)`` or ``(photo, task, input)`` items, tasks mixed at will; answers in the same order.

        A photo that occurs several times (the same path or the same object) is encoded once. With
        ``on_error="record"`` an item that fails gives an ErrorRecord in its place instead of ending the batch.

        While ``batch_size`` items are answered, the photos of the next are read on threads; no more are in memory,
        however many items there are. Answers carry what ``draw()`` needs: photos that were given as paths or bytes stay
        that (a path is read again by ``draw()``), all others stay as pictures, as long as their answers are kept.
        """
        check_options(options)
        return batches.run(self.engine, list(items), batch_size, on_error, options)

    def stream(
        self,
        items: Iterable[Sequence[Any]],
        *,
        batch_size: int = 8,
        on_error: Literal["raise", "record"] = "record",
        ahead: int = batches.AHEAD,
        **options: Unpack[Options],
    ) -> Iterator[Answer | list[Answer] | ErrorRecord]:
        """Like :meth:`run_batch` for any number of items: read and answered ``batch_size`` at a time, in order.

        ``ahead`` batches more are read, and their photos made ready, while one is answered; 0 for a source whose next
        item waits for an answer, or must not grow old. Only the photos of the last two batches are remembered, so keep
        the items of one photo together. Closing the iterator early ends its threads.
        """
        check_options(options)
        return batches.stream(self.engine, items, batch_size, on_error, options, ahead)

    def _ask(self, photo: Photo | Scene, requests: Sequence[Request], options: Options) -> list[Any]:
        scene = self.encode(photo)
        asked = [(scene, request, self.engine.prepare(scene, request, options)) for request in requests]
        return self.engine.respond(asked, options)

    # Adapters

    def load_adapter(
        self, source: str | Path, name: str = "default", *, revision: str | None = None, offline: bool | None = None
    ) -> None:
        """Put a LoRA adapter on the model, from a folder or the hub, and use it: of whichever layout, all or nothing.

        Raises CheckpointError where it is broken or was made for another model.
        """
        adapters.load_adapter(self.model, source, name, revision, offline)

    def use_adapter(self, name: str | None) -> None:
        """Answer with this adapter from now on; None is the model without any."""
        adapters.use_adapter(self.model, name)

    def merge_adapter(self) -> None:
        """Add the adapter in use to the weights for good; the others are taken off, and a calibration is void."""
        adapters.merge_adapter(self.model)
        self.engine.drop_calibration()

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters that the model carries."""
        return () if self.layout == "onnx" else adapters.adapter_names(self.engine.module)

    @property
    def adapter(self) -> str | None:
        """The adapter in use."""
        return self.engine.adapter

    # The model itself

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            raise Florence2Error("this model is closed; load it again with Florence2.from_pretrained")
        return self._engine

    @property
    def model(self) -> Florence2Model:
        """The module that holds the weights, e.g. for training or export.

        On a CPU a model that only answers has its weights in another form (``florence2.model.packing``). Whoever asks
        for the module gets plain ones; answers then take longer, until :meth:`warmup` is called.
        """
        return self.engine.model

    @property
    def device(self) -> torch.device:
        return self.engine.device

    @property
    def dtype(self) -> torch.dtype:
        return self.engine.dtype

    @property
    def format(self) -> str:
        """The number format of the weights by name; "int8" where they are rounded, while ``dtype`` is float32."""
        runtime = self.engine.runtime
        return runtime.format if isinstance(runtime, onnx.OnnxModel) else int8.format_of(self.engine.module)

    @property
    def calibration(self) -> Calibration | None:
        """What makes scores probabilities of being right. None where they are as the model gives them: the checkpoint
        has no calibration, ``calibrated=False`` was asked for, or an adapter is in use, without which it was fitted.
        """
        return self.engine.calibration

    @property
    def name(self) -> str:
        """How the model calls itself, else where it came from."""
        return self.config.name or self.source

    def warmup(self, compile: bool = False, *, batch_size: int = 8) -> None:
        """Answer a little of each kind now, for one photo and for ``batch_size``, so that the first real call finds the
        kernels chosen, the memory there and, on a CPU, the weights as the processor reads them best. Who has taken
        parameters from :attr:`model` must take them again.

        With ``compile=True`` parts are compiled first, once per process, whatever the lengths and numbers of answers.
        On a CPU that is the decoder's step of one row, for answers without beams to one photo at a time: half a minute,
        and the weights of the decoder are there twice. Elsewhere it is the image encoder and every step, with CUDA
        graphs (not run on a GPU yet): minutes. Answers are the same up to rounding, of which there is less on a CPU.
        Raises Florence2Error where PyTorch cannot compile here, as without a C++ compiler; the model then runs on as it
        was.
        """
        if batch_size < 1:
            raise TaskError(f"batch_size is at least 1, found {batch_size}")
        if compile:
            self.engine.compile()
        else:
            self.engine.pack()
        height, width = self.config.image.size
        photos = [Image.new("RGB", (width, height)) for _ in range(batch_size)]
        try:
            with compiled.no_coincidences():
                for several in (photos[:1], photos):
                    for task in ("<CAPTION>", "<OD>"):
                        items = [(photo, task) for photo in several]
                        self.run_batch(items, batch_size=batch_size, max_new_tokens=WARMUP_TOKENS)
        except compiled.failures() as error:
            self.engine.uncompile()
            reason = " ".join(str(error).split("\n")[:2])
            raise Florence2Error(
                f"PyTorch {torch.__version__} cannot compile this model here ({reason}); on a CPU it needs a C++ "
                "compiler such as g++, on CUDA Triton; install it, or leave compile=True out"
            ) from error

    def close(self) -> None:
        """Let go of the weights and give the memory of the device back. Closing twice is harmless."""
        self._engine = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def __enter__(self) -> Florence2:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._engine is None:
            return f"Florence2({self.name!r}, closed)"
        if self.layout == "onnx":
            return f"Florence2({self.name!r}, ONNX, {self.format})"
        millions = count(self.engine.module) / 1e6
        adapter = f", adapter {self.adapter!r}" if self.adapter else ""
        return f"Florence2({self.name!r}, {millions:.0f} M parameters, {self.device}, {self.format}{adapter})"
