"""The names of the tensors: three layouts, one table, and how to tell which layout a file is in.

    florence2   ours: the names of ``Florence2Model.state_dict()``
    microsoft   the checkpoints of ``microsoft/Florence-2-*`` and what was fine-tuned from them
    native      the port in transformers (``florence-community/*``), ``Florence2ForConditionalGeneration``

A layout is recognised by the names in the file and by nothing else: both foreign layouts call themselves
``model_type: florence2``, and fine-tuned folders often describe themselves wrongly or not at all.

Two tensors differ in more than their name. Microsoft keeps the projection of the image tokens the other way
round, (C, D), and the logits bias as a row, (1, V); the native layout has no logits bias. The shared embedding
may appear under up to four names (tied copies); ``TIED`` lists them, the one that is written first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

from torch import Tensor

from florence2.errors import CheckpointError

Layout = Literal["florence2", "microsoft", "native"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

EMBEDDING = "text.shared.weight"
LOGITS_BIAS = "text.logits_bias"
TEMPORAL = "projector.temporal"
PROJECTION = "projector.projection.weight"

OPTIONAL = (LOGITS_BIAS, TEMPORAL)
"""Our names of the tensors that a file may lack: a missing bias is zero, the temporal table is a formula."""

TIED: dict[Layout, tuple[str, ...]] = {
    "florence2": (EMBEDDING,),
    "microsoft": (
        "language_model.model.shared.weight",
        "language_model.lm_head.weight",
        "language_model.model.encoder.embed_tokens.weight",
        "language_model.model.decoder.embed_tokens.weight",
    ),
    "native": (
        "model.language_model.shared.weight",
        "lm_head.weight",
        "model.language_model.encoder.embed_tokens.weight",
        "model.language_model.decoder.embed_tokens.weight",
    ),
}

_UNUSED = re.compile(r"(model\.)?vision_tower\.(norms|norm|head|avgpool)\..*")
"""Parts of DaViT the classifier; Florence-2 takes the map before them, and some files still carry them."""


@dataclass(frozen=True)
class Recognised:
    """Which layout a set of names is in, and how sure that is."""

    layout: Layout
    known: int
    """Names that belong to the layout."""
    total: int

    @property
    def certainty(self) -> float:
        """Share of the names that belong to the layout, 0 to 1."""
        return self.known / self.total if self.total else 0.0

    def __str__(self) -> str:
        return f"{self.layout} layout ({self.known} of {self.total} names, {self.certainty:.1%})"


def recognise(names: Iterable[str]) -> Recognised:
    """The layout that most of the names belong to. Refuses names that are not those of a Florence-2 model."""
    names = list(names)
    best = max((Recognised(layout, _count(names, layout), len(names)) for layout in LAYOUTS), key=lambda r: r.known)
    if best.certainty < 0.5:
        raise CheckpointError(f"these are not the weights of a Florence-2 model: {_what_they_are(names, best)}")
    return best


@cache
def translate(name: str, source: Layout, target: Layout) -> str | None:
    """The name of the same tensor in another layout; None where the source or the target does not have it.

    A tied copy is the shared embedding, so ``lm_head.weight`` translates like ``shared.weight``.
    """
    if name in TIED[source]:
        return TIED[target][0]
    for pattern, row in _patterns(source):
        match = pattern.fullmatch(name)
        if match:
            template = row[LAYOUTS.index(target)]
            return None if template is None else template.format(**match.groupdict())
    return None


def is_unused(name: str) -> bool:
    """True for the classifier's parts of DaViT, which may lie in a file and are not read."""
    return _UNUSED.fullmatch(name) is not None


def from_ours(name: str, tensor: Tensor, target: Layout) -> Tensor:
    """The tensor of our ``name`` in the shape that another layout keeps it in."""
    if target == "microsoft" and name == PROJECTION:
        return tensor.T  # (D, C) → (C, D)
    if target == "microsoft" and name == LOGITS_BIAS:
        return tensor[None]  # (V,) → (1, V)
    return tensor


def shape_from_ours(name: str, shape: Sequence[int], target: Layout) -> tuple[int, ...]:
    """The shape that :func:`from_ours` gives a tensor of ``shape``."""
    if target == "microsoft" and name == PROJECTION:
        return tuple(reversed(shape))
    if target == "microsoft" and name == LOGITS_BIAS:
        return (1, *shape)
    return tuple(shape)


def to_ours(name: str, tensor: Tensor, source: Layout) -> Tensor:
    """Inverse of :func:`from_ours`; ``name`` is our name of the tensor."""
    if source == "microsoft" and name == PROJECTION:
        return tensor.T  # (C, D) → (D, C)
    if source == "microsoft" and name == LOGITS_BIAS:
        return tensor[0]  # (1, V) → (V,)
    return tensor


_Row = tuple[str, str, str | None]

_HOLES = {
    "i": r"\d+",  # stage of DaViT
    "j": r"\d+",  # block of the stage
    "l": r"\d+",  # layer of BART
    "wb": "weight|bias",
    "fc": "fc1|fc2",
    "qkvo": "q|k|v|out",
    "conv": "conv1|conv2",
    "stack": "encoder|decoder",
}


def _table() -> list[_Row]:
    """(ours, microsoft, native), one row per kind of tensor."""
    rows: list[_Row] = []

    def add(ours: str, microsoft: str, native: str | None) -> None:
        rows.append((ours, microsoft, native))

    stage, tower = "vision.stages.{i}.embed", "vision_tower.convs.{i}"
    add(f"{stage}.conv.{{wb}}", f"{tower}.proj.{{wb}}", f"model.{tower}.conv.{{wb}}")
    add(f"{stage}.norm.{{wb}}", f"{tower}.norm.{{wb}}", f"model.{tower}.norm.{{wb}}")

    for kind, attention in (("spatial", "window_attn"), ("channel", "channel_attn")):
        ours = f"vision.stages.{{i}}.blocks.{{j}}.{kind}"
        theirs = f"vision_tower.blocks.{{i}}.{{j}}.{kind}_block"
        native = f"model.{theirs}"
        add(f"{ours}.{{conv}}.{{wb}}", f"{theirs}.{{conv}}.fn.dw.{{wb}}", f"{native}.{{conv}}.{{wb}}")
        add(f"{ours}.norm1.{{wb}}", f"{theirs}.{attention}.norm.{{wb}}", f"{native}.norm1.{{wb}}")
        for linear in ("qkv", "proj"):
            add(
                f"{ours}.attention.{linear}.{{wb}}",
                f"{theirs}.{attention}.fn.{linear}.{{wb}}",
                f"{native}.{attention}.{linear}.{{wb}}",
            )
        add(f"{ours}.norm2.{{wb}}", f"{theirs}.ffn.norm.{{wb}}", f"{native}.norm2.{{wb}}")
        add(f"{ours}.mlp.{{fc}}.{{wb}}", f"{theirs}.ffn.fn.net.{{fc}}.{{wb}}", f"{native}.ffn.{{fc}}.{{wb}}")

    native = "model.multi_modal_projector"
    add(PROJECTION, "image_projection", f"{native}.image_projection.weight")
    add("projector.norm.{wb}", "image_proj_norm.{wb}", f"{native}.image_proj_norm.{{wb}}")
    for table, theirs in (("rows", "row_embeddings"), ("columns", "column_embeddings")):
        add(
            f"projector.{table}.weight",
            f"image_pos_embed.{theirs}.weight",
            f"{native}.image_position_embed.{theirs}.weight",
        )
    cosine = "visual_temporal_embed.pos_idx_to_embed"
    add(TEMPORAL, cosine, f"{native}.{cosine}")

    theirs, native = "language_model.model", "model.language_model"
    add(EMBEDDING, f"{theirs}.shared.weight", f"{native}.shared.weight")
    add(LOGITS_BIAS, "language_model.final_logits_bias", None)
    for ours, same in (
        ("positions.weight", "embed_positions.weight"),
        ("norm.{wb}", "layernorm_embedding.{wb}"),
        ("layers.{l}.self_attention.{qkvo}.{wb}", "layers.{l}.self_attn.{qkvo}_proj.{wb}"),
        ("layers.{l}.self_norm.{wb}", "layers.{l}.self_attn_layer_norm.{wb}"),
        ("layers.{l}.ffn.{fc}.{wb}", "layers.{l}.{fc}.{wb}"),
        ("layers.{l}.ffn_norm.{wb}", "layers.{l}.final_layer_norm.{wb}"),
    ):
        add(f"text.{{stack}}.{ours}", f"{theirs}.{{stack}}.{same}", f"{native}.{{stack}}.{same}")
    for ours, same in (
        ("cross_attention.{qkvo}.{wb}", "encoder_attn.{qkvo}_proj.{wb}"),
        ("cross_norm.{wb}", "encoder_attn_layer_norm.{wb}"),
    ):
        layer = "decoder.layers.{l}"
        add(f"text.{layer}.{ours}", f"{theirs}.{layer}.{same}", f"{native}.{layer}.{same}")
    return rows


@cache
def _patterns(layout: Layout) -> list[tuple[re.Pattern[str], _Row]]:
    patterns = []
    for row in _table():
        template = row[LAYOUTS.index(layout)]
        if template is not None:
            pattern = re.sub(r"\\{(\w+)\\}", lambda hole: f"(?P<{hole[1]}>{_HOLES[hole[1]]})", re.escape(template))
            patterns.append((re.compile(pattern), row))
    return patterns


def _count(names: list[str], layout: Layout) -> int:
    return sum(translate(name, layout, layout) is not None for name in names)


def _what_they_are(names: list[str], best: Recognised) -> str:
    if any(".lora_A." in name or ".lora_B." in name for name in names):
        return "they are a LoRA adapter; load the model it was made for and give this as its adapter"
    if not names:
        return "the file holds no tensors"
    shown = ", ".join(sorted(names)[:3])
    return (
        f"the best guess, the {best.layout} layout, knows {best.known} of {best.total} names; the file begins with "
        f"{shown}. Expected names like {TIED['microsoft'][0]} or {TIED['native'][0]}"
    )
