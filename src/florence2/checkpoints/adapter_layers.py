"""The layers that peft puts into a model: this file is the only one that knows how they are built.

An adapter is one name in each ``LoraLayer`` that it changes, and in each ``ModulesToSaveWrapper`` around a module that
was trained as a whole. Several adapters share these layers; one of them is in use, or none.
"""

from __future__ import annotations

import contextlib
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from florence2.checkpoints.adapter_files import HEAD, import_peft
from florence2.errors import CheckpointError, ConfigError
from florence2.model import Florence2Model
from florence2.model.int8 import is_quantized
from florence2.model.linear import Linear


def configs(model: Florence2Model) -> dict[str, Any]:
    """Adapter → peft's LoraConfig of it, in the order in which they came."""
    found: dict[str, Any] = getattr(model, "peft_config", {})
    return found


def in_use(model: Florence2Model) -> str | None:
    """The adapter in use; None where the base answers."""
    if not configs(model):
        return None
    layer = next(iter(lora_layers(model).values()))
    return None if layer.disable_adapters else str(layer.active_adapters[0])


def lora_layers(model: Florence2Model) -> dict[str, Any]:
    """Module → peft's layer around it. Before peft was imported there can be none."""
    if sys.modules.get("peft") is None:
        return {}
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def wrappers(model: Florence2Model) -> dict[str, Any]:
    """Module → peft's wrapper around it, where it was trained as a whole."""
    if sys.modules.get("peft") is None:
        return {}
    from peft.utils import ModulesToSaveWrapper

    return {name: module for name, module in model.named_modules() if isinstance(module, ModulesToSaveWrapper)}


def changed(model: Florence2Model, name: str) -> list[str]:
    """The modules that an adapter changes."""
    whole = [module for module, wrapper in wrappers(model).items() if name in wrapper.modules_to_save]
    return [module for module, layer in lora_layers(model).items() if name in layer.r] + whole


def tensors(model: Florence2Model, name: str) -> dict[str, Tensor]:
    """All tensors of an adapter, LoRA matrices and whole modules, by our keys."""
    found = import_peft().get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    return {key: tensor.detach() for key, tensor in found.items()}


def plain_name(name: str) -> str:
    """The name of a tensor of the base, whatever layers are around it."""
    return re.sub(r"\.(base_layer|original_module)(?=\.)", "", name)


def refuse_int8(model: Florence2Model) -> None:
    if is_quantized(model):
        raise ConfigError('an adapter goes on float weights and these are int8; load the model with dtype="float32"')


def inject(
    model: Florence2Model, name: str, ranks: dict[str, int], alphas: dict[str, float], settings: dict[str, Any]
) -> None:
    """Wrap the modules of ``ranks``; the adapter is in use, in the mode (training or not) of the model.

    ``settings`` are the other fields of peft's LoraConfig.
    """
    peft = import_peft()
    rank, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        rank_pattern={module: own for module, own in ranks.items() if own != rank},
        alpha_pattern={module: own for module, own in alphas.items() if own != alpha},
        target_modules="|".join(map(re.escape, ranks)),  # one pattern: peft matches a list by endings
        **settings,
    )
    if HEAD["florence2"] in ranks and model.text.head is None:
        weight = model.text.shared.weight
        head = Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        head.weight = weight
        model.text.head = head
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        warnings.filterwarnings("ignore", message="LoRA adapter added to ConvNd")
        try:
            peft.inject_adapter_in_model(config, model, name)
        except ValueError as error:
            raise ConfigError(f"the adapter can not be put on the model: {error}") from error
    model.train(model.training)  # new layers begin in training mode
    switch(model, name)


def switch(model: Florence2Model, name: str | None) -> None:
    """Use an adapter, or the base for None. What learns and what is frozen stays so."""
    with learning_kept(model):
        for layer in lora_layers(model).values():
            layer.enable_adapters(name is not None)
            if name is not None:
                layer.set_adapter(name)
        for wrapper in wrappers(model).values():
            if name in wrapper.modules_to_save:
                wrapper.set_adapter(name)
            wrapper.enable_adapters(name in wrapper.modules_to_save)


def delete(model: Florence2Model, name: str) -> None:
    """Take off whatever there is of an adapter; modules that no other adapter changes become what they were."""
    after = None if in_use(model) == name else in_use(model)
    for module, layer in lora_layers(model).items():
        if name in layer.r:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Adapter .* was active which is now deleted")
                layer.delete_adapter(name)
        if not layer.r:
            _put(model, module, layer.get_base_layer())
    for module, wrapper in wrappers(model).items():
        if name in wrapper.modules_to_save:
            wrapper.delete_adapter(name, [])
        if not wrapper.modules_to_save:
            _put(model, module, wrapper.original_module)
    if isinstance(model.text.head, nn.Linear):
        model.text.head = None
    configs(model).pop(name, None)
    if not configs(model) and hasattr(model, "peft_config"):
        del model.peft_config
    switch(model, after)


def merge(model: Florence2Model, name: str) -> None:
    """Add an adapter to the weights, for good, and take all adapters off; nothing is changed where that fails."""
    layers = {module: layer for module, layer in lora_layers(model).items() if name in layer.r}
    for module, layer in layers.items():
        if getattr(layer.get_base_layer(), "groups", 1) > 1:
            raise CheckpointError(
                f"the adapter {name!r} changes {module}, a depthwise convolution, where peft can not merge; keep it as "
                "an adapter, or train one without this module"
            )
    with contextlib.ExitStack() as undo:
        for layer in layers.values():
            base = layer.get_base_layer()
            undo.callback(_put_back, layer, base.weight.data, None if base.bias is None else base.bias.data)
            try:
                layer.merge(safe_merge=True, adapter_names=[name])  # into copies: the old tensors stay what they are
            except (ValueError, RuntimeError) as error:
                raise CheckpointError(
                    f"the adapter {name!r} can not be merged: {error}; nothing was changed"
                ) from error
        undo.pop_all()
    for wrapper in wrappers(model).values():
        if name in wrapper.modules_to_save:
            wrapper.original_module = wrapper.modules_to_save[name]
    for other in list(configs(model)):
        delete(model, other)


@contextlib.contextmanager
def undone_on_error(model: Florence2Model, name: str) -> Iterator[None]:
    """Where putting the adapter ``name`` on fails, it goes, and what was in use before comes back."""
    before = in_use(model)
    with learning_kept(model), contextlib.ExitStack() as undo:
        undo.callback(switch, model, before)
        undo.callback(delete, model, name)
        yield
        undo.pop_all()


@contextlib.contextmanager
def learning_kept(model: Florence2Model) -> Iterator[None]:
    """Parameters learn, or are frozen, as before; new ones are frozen."""
    learning = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    try:
        yield
    finally:
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in learning)


def train_only(model: Florence2Model, name: str) -> None:
    """Everything is frozen but one adapter."""
    model.requires_grad_(False)
    for layer in (*lora_layers(model).values(), *wrappers(model).values()):
        for attribute in layer.adapter_layer_names:
            held = getattr(layer, attribute)
            if name in held:
                held[name].requires_grad_(True)


def _put(model: Florence2Model, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def _put_back(layer: Any, weight: Tensor, bias: Tensor | None) -> None:
    """The base weights as they were before a merge."""
    base = layer.get_base_layer()
    base.weight.data = weight
    if bias is not None:
        base.bias.data = bias
    layer.merged_adapters.clear()
