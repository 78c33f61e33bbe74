"""Deliberate faults: a comparison that does not notice them is no comparison. Each changes a model in place."""

from __future__ import annotations

from florence2.model import Florence2Model


def forget_window_padding(model: Florence2Model) -> None:
    """The zeros that pad a window get no bias of the qkv layer, as if they were not there."""
    for stage in model.vision.stages:
        for block in stage.blocks:
            block.spatial.attention.qkv.bias.data.zero_()


def scale_channels_by_width(model: Florence2Model) -> None:
    """Channel attention scaled by the channels of a group instead of by the number of tokens."""
    for stage in model.vision.stages:
        for block in stage.blocks:
            attention = block.channel.attention
            width = attention.qkv.in_features // attention.groups
            attention.qkv.weight.data[: attention.qkv.in_features] *= 5.0 / width


def swap_position_tables(model: Florence2Model) -> None:
    """Rows where columns belong."""
    projector = model.projector
    projector.rows, projector.columns = projector.columns, projector.rows


def positions_from_zero(model: Florence2Model) -> None:
    """Positions that begin at row 0 of the table instead of row 2."""
    for stack in (model.text.encoder, model.text.decoder):
        stack.positions.weight.data = stack.positions.weight.data.roll(2, 0)


def swap_norms(model: Florence2Model) -> None:
    """The norm behind self-attention used behind cross-attention, and the other way round."""
    for layer in model.text.decoder.layers:
        layer.self_norm, layer.cross_norm = layer.cross_norm, layer.self_norm
