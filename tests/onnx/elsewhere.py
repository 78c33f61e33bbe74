"""An export made elsewhere: transformers' own model, traced as optimum does it, in either form of its decoder.

The decoder that goes on is traced with one token, as exporters do. Its outputs hold no cross-attention keys.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import helper
from torch import Tensor, nn

from florence2.checkpoints import Checkpoint, configs, save
from florence2.onnx.export import quiet

D = torch.export.Dim.DYNAMIC


def export_pair(checkpoint: Checkpoint, folder: Path) -> Path:
    """``folder`` with decoder_model.onnx and decoder_with_past_model.onnx."""
    import transformers

    native = save(checkpoint, folder / "native", layout="native", dtype="float32")
    model: Any = transformers.Florence2ForConditionalGeneration.from_pretrained(native, attn_implementation="eager")
    model.eval()
    text = checkpoint.config.text
    for name, content in configs.write(checkpoint.config, "microsoft", "float32", text.vocab_size).items():
        (folder / name).write_text(json.dumps(content))
    assert checkpoint.tokenizer is not None
    checkpoint.tokenizer.save(folder)
    graphs = folder / "onnx"
    graphs.mkdir()
    layers, heads, width = text.decoder_layers, text.decoder_heads, text.d_model

    def write(
        name: str, module: nn.Module, inputs: dict[str, tuple[Tensor, dict[int, Any]]], outputs: list[str]
    ) -> None:
        with torch.no_grad(), quiet():
            program = torch.onnx.export(
                module.eval(),
                tuple(tensor for tensor, _ in inputs.values()),
                input_names=list(inputs),
                output_names=outputs,
                dynamic_shapes=(tuple(axes for _, axes in inputs.values()),),
                opset_version=18,
                verbose=False,
            )
        assert program is not None
        onnx.save(program.model_proto, graphs / f"{name}.onnx")

    mask = (torch.ones(2, 9, dtype=torch.long), {0: D, 1: D})
    states = (torch.zeros(2, 9, width), {0: D, 1: D})
    height, side = checkpoint.config.image.size
    write(
        "vision_encoder", Vision(model), {"pixel_values": (torch.zeros(2, 3, height, side), {0: D})}, ["image_features"]
    )
    write("embed_tokens", Embed(model), {"input_ids": mask}, ["inputs_embeds"])
    write("encoder_model", Encoder(model), {"attention_mask": mask, "inputs_embeds": states}, ["last_hidden_state"])
    own = [f"{i}.decoder.{kind}" for i in range(layers) for kind in ("key", "value")]
    cross = [f"{i}.encoder.{kind}" for i in range(layers) for kind in ("key", "value")]
    # optimum's order: all four tensors of a layer, then the next layer
    both = [f"{i}.{of}.{kind}" for i in range(layers) for of in ("decoder", "encoder") for kind in ("key", "value")]
    write(
        "decoder_model",
        First(model),
        {
            "encoder_attention_mask": mask,
            "encoder_hidden_states": states,
            "inputs_embeds": (torch.zeros(2, 3, width), {0: D, 1: D}),
        },
        ["logits", *(f"present.{name}" for name in both)],
    )
    kept = {name: (torch.zeros(2, heads, 5 if name in own else 9, width // heads), {0: D, 2: D}) for name in both}
    assert set(own) | set(cross) == set(both)
    write(
        "decoder_with_past_model",
        Next(model, layers),
        {
            "encoder_attention_mask": mask,
            "inputs_embeds": (torch.zeros(2, 1, width), {0: D}),
            **{f"past_key_values.{name}": value for name, value in kept.items()},
        },
        ["logits", *(f"present.{name}" for name in own)],
    )
    return folder


class Part(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def decoded(self, embeds: Tensor, states: Tensor, mask: Tensor, cache: Any) -> Any:
        return self.model.model.language_model.decoder(
            inputs_embeds=embeds,
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
        )


class Vision(Part):
    def forward(self, *given: Tensor) -> Tensor:
        found = self.model.get_image_features(given[0])
        features: Tensor = found if isinstance(found, Tensor) else found.pooler_output
        return features


class Embed(Part):
    def forward(self, *given: Tensor) -> Tensor:
        embeds: Tensor = self.model.get_input_embeddings()(given[0])
        return embeds


class Encoder(Part):
    def forward(self, *given: Tensor) -> Tensor:
        mask, embeds = given
        states: Tensor = self.model.model.language_model.encoder(
            inputs_embeds=embeds, attention_mask=mask
        ).last_hidden_state
        return states


class First(Part):
    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        from transformers import DynamicCache, EncoderDecoderCache

        mask, states, embeds = given
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        hidden = self.decoded(embeds, states, mask, cache).last_hidden_state
        kept = []
        for own, cross in zip(cache.self_attention_cache.layers, cache.cross_attention_cache.layers, strict=True):
            kept += [own.keys, own.values, cross.keys, cross.values]
        return self.model.lm_head(hidden), *kept


class Next(Part):
    def __init__(self, model: Any, layers: int) -> None:
        super().__init__(model)
        self.layers = layers

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        from transformers import DynamicCache, EncoderDecoderCache

        mask, embeds, *past = given
        own, cross = DynamicCache(), DynamicCache()
        for i in range(self.layers):
            k, v, memory_k, memory_v = past[4 * i : 4 * i + 4]
            own.update(k, v, i)
            cross.update(memory_k, memory_v, i)
        cache = EncoderDecoderCache(own, cross)
        for i in range(self.layers):
            cache.is_updated[i] = True
        nowhere = past[2].transpose(1, 2).flatten(2)  # (R, S, D): its size is looked at, its numbers are not
        hidden = self.decoded(embeds, nowhere, mask, cache).last_hidden_state
        kept = [tensor for layer in own.layers for tensor in (layer.keys, layer.values)]
        return self.model.lm_head(hidden), *kept


def merge_pair(pair: Path, folder: Path) -> Path:
    """The same export with the two decoders in one file, as optimum merges them: whole graphs in the branches."""
    shutil.copytree(pair, folder, ignore=shutil.ignore_patterns("decoder*", "native"))
    first, following = (
        onnx.load(pair / "onnx" / f"{name}.onnx") for name in ("decoder_model", "decoder_with_past_model")
    )
    outputs = [value.name for value in first.graph.output]
    shapes = {value.name: value.type.tensor_type.shape for value in first.graph.output}
    given = {value.name: value for value in (*first.graph.input, *following.graph.input)}

    def branch(name: str, graph: onnx.GraphProto) -> onnx.GraphProto:
        made = onnx.compose.add_prefix_graph(graph, f"{name}/", rename_inputs=False, rename_outputs=True)
        there = {value.name for value in made.output}
        constants = []
        for output in outputs:  # cross-attention keys that were given in: empty
            if f"{name}/{output}" not in there:
                heads, width = (shapes[output].dim[i].dim_value for i in (1, 3))
                zeros = helper.make_tensor("value", onnx.TensorProto.FLOAT, [0, heads, 1, width], [])
                constants.append(helper.make_node("Constant", [], [f"{name}/{output}"], value=zeros))
        results = [
            helper.make_tensor_value_info(f"{name}/{output}", onnx.TensorProto.FLOAT, None) for output in outputs
        ]
        return helper.make_graph([*made.node, *constants], name, [], results, list(made.initializer))

    choice = helper.make_node(
        "If",
        ["use_cache_branch"],
        outputs,
        then_branch=branch("next", following.graph),
        else_branch=branch("first", first.graph),
    )
    # One name for the new tokens: the decoder that goes on was traced with one.
    given["inputs_embeds"] = next(value for value in first.graph.input if value.name == "inputs_embeds")
    flag = helper.make_tensor_value_info("use_cache_branch", onnx.TensorProto.BOOL, [1])
    graph = helper.make_graph([choice], "merged", [*given.values(), flag], list(first.graph.output))
    model = helper.make_model(graph, opset_imports=first.opset_import, ir_version=first.ir_version)
    onnx.save(model, folder / "onnx" / "decoder_model_merged.onnx")
    return folder
