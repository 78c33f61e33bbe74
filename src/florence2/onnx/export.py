"""A checkpoint → a folder of ONNX files, under the names that optimum and transformers.js give them.

The graphs are traced by PyTorch from the parts in `graphs`, in float32, with every batch and sequence length open and
the input size of the photo fixed. Opset 18: the lowest that PyTorch's exporter writes, so that old runtimes read the
files too (onnxruntime since 1.14, and what browsers have); LayerNormalization is in it since 17, nothing newer is used.

int8: weights of all products in 8 bits, one scale per output channel; what they are multiplied with is quantised as it
comes. Convolutions and norms stay as they are (3 % of the weights of BASE).
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from florence2.checkpoints import Checkpoint, configs
from florence2.checkpoints.save import put_in_place
from florence2.checkpoints.vocabulary import write_tokenizer
from florence2.errors import CheckpointError
from florence2.language.compat import ANSWER_TYPES
from florence2.language.tasks import TASKS
from florence2.model import Florence2Model
from florence2.onnx import graphs, names
from florence2.onnx.libraries import library
from florence2.onnx.merge import merge

OPSET = 18
IR_VERSION = 8
"""That of opset 18: the exporter writes a newer one, which old runtimes refuse."""
LARGEST = 2_000_000_000
"""Bytes of weights that one file holds; above it they lie beside it, in ``NAME.onnx_data``. LARGE stays below."""
STEP, CROSS = "decoder_step", "cross_keys_values"
"""The two parts of the decoder, before they are merged."""

Axes = dict[int, str]
BATCH, SEEN, PROMPT, NEW, BEFORE = (
    *("batch_size", "encoder_sequence_length", "sequence_length"),
    *("decoder_sequence_length", "past_decoder_sequence_length"),
)


def export(checkpoint: Checkpoint, folder: str | Path, int8: bool = False, overwrite: bool = False) -> dict[str, int]:
    """Write the model as ONNX, all or nothing; returns the bytes of each file.

    ``int8`` adds files with 8-bit weights, whose names end in ``_int8``. A folder that holds something is refused,
    unless ``overwrite`` is given and it holds a model; then it is replaced as a whole.

    Raises CheckpointError where the model cannot be exported or the folder cannot be written, and
    MissingDependencyError without ``florence2[onnx]``.
    """
    for needed in ("onnx", "onnxscript", *(["onnxruntime"] if int8 else [])):
        library(needed)
    folder = Path(folder).expanduser()
    _check_target(folder, overwrite)
    model = plain(checkpoint)
    part = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.part"
    try:
        (part / names.FOLDER).mkdir(parents=True)
        _write_description(checkpoint, part)
        parts = trace(model)
        _write_graphs(parts, part / names.FOLDER, model, "")
        if int8:
            _write_graphs(_quantised(parts), part / names.FOLDER, model, names.SUFFIXES["int8"])
        put_in_place(part, folder)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be written: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}


def trace(model: Florence2Model) -> dict[str, Any]:
    """Name → ModelProto of the five parts; ``model`` is in float32 on the CPU."""
    text = model.config.text
    layers, heads, D = text.decoder_layers, text.decoder_heads, text.d_model
    # Sizes that differ from each other and from 0 and 1, which a tracer takes for fixed.
    B, S, n, P = 2, 9, 3, 5
    past = [torch.zeros(B, heads, P, D // heads) for _ in range(2 * layers)]
    cross = [torch.zeros(B, heads, S, D // heads) for _ in range(2 * layers)]
    mask, states, ids = torch.ones(B, S, dtype=torch.long), torch.zeros(B, S, D), torch.ones(B, n, dtype=torch.long)
    kept, seen = {0: BATCH, 2: BEFORE}, {0: BATCH, 2: SEEN}
    grown = {key: {0: BATCH, 2: f"{BEFORE} + {NEW}"} for key in names.present("decoder", layers)}
    with quiet():
        return {
            names.VISION: _traced(
                graphs.VisionEncoder(model),
                {names.PIXELS: (torch.zeros(B, 3, *model.config.image.size), {0: BATCH})},
                {names.IMAGE_FEATURES: {0: BATCH}},
            ),
            names.EMBED: _traced(
                graphs.EmbedTokens(model),
                {names.IDS: (ids, {0: BATCH, 1: PROMPT})},
                {names.EMBEDS: {0: BATCH, 1: PROMPT}},
            ),
            names.ENCODER: _traced(
                graphs.TextEncoder(model),
                {names.MASK: (mask, {0: BATCH, 1: SEEN}), names.EMBEDS: (states, {0: BATCH, 1: SEEN})},
                {names.STATES: {0: BATCH, 1: SEEN}},
            ),
            CROSS: _traced(
                graphs.CrossKeysValues(model),
                {names.MEMORY_STATES: (states, {0: BATCH, 1: SEEN})},
                dict.fromkeys(names.present("encoder", layers), seen),
            ),
            STEP: _traced(
                graphs.DecoderStep(model),
                {
                    names.MEMORY_MASK: (mask, {0: BATCH, 1: SEEN}),
                    names.EMBEDS: (states[:, :n], {0: BATCH, 1: NEW}),
                    **{name: (tensor, kept) for name, tensor in zip(names.past("decoder", layers), past, strict=True)},
                    **{name: (tensor, seen) for name, tensor in zip(names.past("encoder", layers), cross, strict=True)},
                },
                {names.LOGITS: {0: BATCH, 1: NEW}, **grown},
                groups=(1, 1, 2 * layers, 2 * layers),
            ),
        }


def _traced(
    module: nn.Module,
    inputs: Mapping[str, tuple[Tensor, Axes]],
    outputs: Mapping[str, Axes],
    groups: Sequence[int] | None = None,
) -> Any:
    """One graph. ``groups`` says how many inputs each argument takes, where some are lists."""
    tensors: list[Any] = [tensor for tensor, _ in inputs.values()]
    shapes: list[Any] = [dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for _, axes in inputs.values()]
    arguments, dynamic = (_grouped(values, groups) for values in (tensors, shapes))
    with torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            tuple(arguments),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=tuple(dynamic),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    proto.ir_version = IR_VERSION
    del proto.graph.value_info[:]
    for node in proto.graph.node:  # where in which file each came from: nobody's business
        node.doc_string = ""
        del node.metadata_props[:]
    for values, axes in (
        (proto.graph.input, {name: axes for name, (_, axes) in inputs.items()}),
        (proto.graph.output, outputs),
    ):
        for value in values:
            del value.metadata_props[:]
            for axis, name in axes[value.name].items():
                value.type.tensor_type.shape.dim[axis].dim_param = name
    return proto


def _grouped(values: list[Any], groups: Sequence[int] | None) -> list[Any]:
    if groups is None:
        return values
    found = iter(values)
    return [next(found) if size == 1 else [next(found) for _ in range(size)] for size in groups]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the exporter's remarks about libraries that play no part here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            yield
        finally:
            logger.setLevel(level)


def _quantised(parts: Mapping[str, Any]) -> dict[str, Any]:
    """The same graphs with 8-bit weights."""
    onnx, quantization = library("onnx"), library("onnxruntime.quantization")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        for name, proto in parts.items():
            _save(proto, source)
            logging.disable(logging.WARNING)  # it recommends steps that the exporter has taken
            try:
                quantization.quantize_dynamic(
                    source,
                    target,
                    op_types_to_quantize=["MatMul", "Gather"],
                    per_channel=True,
                    weight_type=quantization.QuantType.QInt8,
                    use_external_data_format=_weight_bytes(proto) > LARGEST,
                )
            finally:
                logging.disable(logging.NOTSET)
            found[name] = onnx.load(target)
    return found


def _write_graphs(parts: Mapping[str, Any], folder: Path, model: Florence2Model, suffix: str) -> None:
    text = model.config.text
    decoder = merge(
        parts[STEP], parts[CROSS], text.decoder_layers, text.decoder_heads, text.d_model // text.decoder_heads
    )
    library("onnx").helper.set_model_props(decoder, {names.SEVERAL: "true"})
    kept = {name: proto for name, proto in parts.items() if name not in (STEP, CROSS)}
    for name, proto in {**kept, names.MERGED: decoder}.items():
        proto.producer_name, proto.producer_version = "florence2", ""
        _save(proto, folder / f"{name}{suffix}.onnx")


def _save(proto: Any, path: Path) -> None:
    onnx = library("onnx")
    apart = _weight_bytes(proto) > LARGEST
    beside = {"save_as_external_data": True, "location": f"{path.name}_data"} if apart else {}
    onnx.save(_copy(proto) if apart else proto, path, **beside)
    onnx.checker.check_model(path)


def _copy(proto: Any) -> Any:
    """Saving with the weights apart takes them out of the proto."""
    made = type(proto)()
    made.CopyFrom(proto)
    return made


def _weight_bytes(proto: Any) -> int:
    return sum(len(tensor.raw_data) for tensor in proto.graph.initializer)


def _write_description(checkpoint: Checkpoint, folder: Path) -> None:
    """What lies beside the graphs: Microsoft's config.json, which transformers.js reads, tokenizer and calibration."""
    words = checkpoint.config.text.vocab_size
    files = configs.write(checkpoint.config, "microsoft", "float32", words)
    files["generation_config.json"] = configs.write(checkpoint.config, "native", "float32", words)[
        "generation_config.json"
    ]
    files["preprocessor_config.json"] |= _tasks()
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if checkpoint.tokenizer is None:
        raise CheckpointError(
            f"{checkpoint.source} holds no tokenizer, without which nobody can use the export; copy the tokenizer.json "
            "of the model that it was made from into its folder"
        )
    write_tokenizer(checkpoint.tokenizer, folder, "florence2")
    if checkpoint.calibration is not None:
        checkpoint.calibration.save(folder)


def _tasks() -> dict[str, dict[str, str]]:
    """Prompts and kinds of answers, where the processor of transformers.js looks for them."""
    prompts = {name: TASKS[name].prompt for name in ANSWER_TYPES if name in TASKS}
    return {
        "tasks_answer_post_processing_type": dict(ANSWER_TYPES),
        "task_prompts_without_inputs": {name: text for name, text in prompts.items() if "{input}" not in text},
        "task_prompts_with_input": {name: text for name, text in prompts.items() if "{input}" in text},
    }


def plain(checkpoint: Checkpoint) -> Florence2Model:
    """The model in float32 on the CPU; adapters and quantised weights are not exported."""
    model = checkpoint.model
    if getattr(model, "peft_config", None):
        raise CheckpointError(
            "the model carries adapters, which an export does not hold; merge the one that is wanted "
            "(florence2 convert MODEL FOLDER --adapter ...) and export the result"
        )
    if unlike := [name for name, tensor in model.state_dict().items() if not tensor.is_floating_point()]:
        raise CheckpointError(
            f"{unlike[0]} is not a tensor of floating point numbers; load the model without quantised weights "
            '(dtype="float32"), and let the export make its own (int8=True)'
        )
    weights = list(model.parameters())
    if all(weight.dtype == torch.float32 and weight.device.type == "cpu" for weight in weights):
        return model.eval()
    return copy.deepcopy(model).to("cpu", torch.float32).eval()


def _check_target(folder: Path, overwrite: bool) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; give the name of a folder")
    if not overwrite:
        raise CheckpointError(f"{folder} is not empty; choose another folder, or overwrite it (--force)")
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} holds other things than a model and is not replaced; choose another folder")
