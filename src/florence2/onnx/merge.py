"""One decoder file out of the two parts: an ``If`` on use_cache_branch whose branches share the weights.

    use_cache_branch    the step alone, with the cross-attention's keys and values that were given back
    else                these are made from encoder_hidden_states first; past_key_values are not looked at

As in optimum's merged decoders, present.*.encoder.* are empty (0, heads, 1, head_dim) on the first way: whoever gives
them in has them already, and copying them would cost more than the step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from florence2.onnx import names
from florence2.onnx.libraries import library


def merge(step: Any, cross: Any, layers: int, heads: int, head_dim: int) -> Any:
    """The ModelProto of ``decoder_model_merged`` from those of DecoderStep and CrossKeysValues."""
    onnx = library("onnx")
    helper, FLOAT, INT64 = onnx.helper, onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    # Weights keep their names; those of the smaller part that have none of their own get its name in front.
    taken = {tensor.name for tensor in step.graph.initializer}
    apart = {t.name: f"cross.{t.name}" if t.name in taken else t.name for t in cross.graph.initializer}
    weights = [*step.graph.initializer, *(_called(tensor, apart[tensor.name]) for tensor in cross.graph.initializer)]
    own, seen = [names.LOGITS, *names.present("decoder", layers)], names.present("encoder", layers)

    following = _renamed(step.graph, "next/", {})
    shape = helper.make_tensor("next/nothing_shape", INT64, [4], [0, heads, 1, head_dim])
    zero = helper.make_tensor("value", FLOAT, [1], [0.0])
    following.append(helper.make_node("ConstantOfShape", [shape.name], ["next/nothing"], value=zero))
    following += [helper.make_node("Identity", ["next/nothing"], [f"next/{name}"]) for name in seen]

    given = dict(zip(names.past("encoder", layers), (f"seen/{name}" for name in seen), strict=True))
    given |= dict.fromkeys(names.past("decoder", layers), "first/no_past")
    bounds = [helper.make_tensor(f"first/{name}", INT64, [1], [value]) for name, value in (("none", 0), ("axis", 2))]
    no_past = ["first/none", "first/none", "first/axis"]  # zero of the tokens seen: (R, heads, 0, head_dim)
    opening = _renamed(cross.graph, "seen/", apart)
    opening.append(helper.make_node("Slice", [f"seen/{seen[0]}", *no_past], ["first/no_past"]))
    opening += _renamed(step.graph, "first/", given)

    def branch(name: str, nodes: list[Any], results: list[str], constants: list[Any]) -> Any:
        described = [helper.make_tensor_value_info(result, FLOAT, None) for result in results]
        return helper.make_graph(nodes, name, [], described, constants)

    choice = helper.make_node(
        "If",
        [names.USE_CACHE],
        [*own, *seen],
        then_branch=branch("next", following, [f"next/{name}" for name in (*own, *seen)], [shape]),
        else_branch=branch(
            "first", opening, [*(f"first/{name}" for name in own), *(f"seen/{name}" for name in seen)], bounds
        ),
    )
    inputs = [*step.graph.input, *cross.graph.input]
    inputs.append(helper.make_tensor_value_info(names.USE_CACHE, onnx.TensorProto.BOOL, [1]))
    results = [*step.graph.output, *cross.graph.output]
    graph = helper.make_graph([choice], names.MERGED, inputs, results, weights)
    return helper.make_model(graph, opset_imports=step.opset_import, ir_version=step.ir_version)


def _renamed(graph: Any, prefix: str, outer: Mapping[str, str]) -> list[Any]:
    """Copies of the nodes for a branch: what they make is called ``prefix...``, what ``outer`` names is read there."""
    own = {name for node in graph.node for name in node.output if name}
    nodes = [_copy(node) for node in graph.node]

    def inner(given: Iterable[str]) -> list[str]:
        return [prefix + name if name in own else outer.get(name, name) for name in given]

    for node in nodes:
        node.name = prefix + node.name
        inputs, outputs = inner(node.input), inner(node.output)
        del node.input[:], node.output[:]
        node.input.extend(inputs)
        node.output.extend(outputs)
    return nodes


def _called(tensor: Any, name: str) -> Any:
    renamed = _copy(tensor)
    renamed.name = name
    return renamed


def _copy(proto: Any) -> Any:
    made = type(proto)()
    made.CopyFrom(proto)
    return made
