"""DaViT, the image encoder of Florence-2: attention over windows of space, then over groups of channels.

Source: "DaViT: Dual Attention Vision Transformers" (arXiv 2204.03645); constants of Florence-2, table 15.

A feature map is (B, H, W, C) everywhere in this file, so linear layers and norms need no transposes and the
convolutions run channels-last. Four stages; each shrinks the map with one convolution and then alternates

    spatial block   attention among the tokens of a window, heads over channels      DaViT, eq. 2
    channel block   attention among the channels of a group, over all tokens          DaViT, eq. 3

The depthwise 3x3 convolutions of the blocks are the only positional encoding. No norm follows the last stage.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from florence2.config import VisionConfig
from florence2.model.attention import attend
from florence2.model.linear import Linear, feed_forward


class DaViT(nn.Module):
    """(B, 3, H, W) pixel values → (B, h, w, C) map of the last stage, h ≈ H / 32.

    ``gradient_checkpointing`` recomputes each stage in the backward pass: less memory, the same numbers.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        # One rate per block, spatial and channel counted apart, rising linearly with depth.
        rates = torch.linspace(0, config.drop_path, 2 * sum(config.depths), device="cpu").tolist()
        stages = []
        for i in range(len(config.dims)):
            here, rates = rates[: 2 * config.depths[i]], rates[2 * config.depths[i] :]
            stages.append(Stage(config, i, here))
        self.stages = nn.ModuleList(stages)
        self.gradient_checkpointing = False

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = pixel_values.permute(0, 2, 3, 1)  # (B, H, W, 3)
        for stage in self.stages:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(stage, x, use_reentrant=False)
            else:
                x = stage(x)
        return x


class Stage(nn.Module):
    """Patch embedding, then ``depths[i]`` pairs of (spatial block, channel block)."""

    def __init__(self, config: VisionConfig, i: int, drop_path: list[float]) -> None:
        super().__init__()
        self.embed = PatchEmbedding(config, i)
        self.blocks = nn.ModuleList(
            DualBlock(config, i, drop_path[2 * j], drop_path[2 * j + 1]) for j in range(config.depths[i])
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return x


class DualBlock(nn.Module):
    """A spatial block, then a channel block: DaViT's dual attention."""

    def __init__(self, config: VisionConfig, i: int, spatial_drop_path: float, channel_drop_path: float) -> None:
        super().__init__()
        dim = config.dims[i]
        self.spatial = Block(dim, WindowAttention(dim, config.heads[i], config.window), spatial_drop_path)
        self.channel = Block(dim, ChannelAttention(dim, config.groups[i]), channel_drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return self.channel(self.spatial(x))


class PatchEmbedding(nn.Module):
    """Strided convolution; LayerNorm behind it in the first stage, before it in the others."""

    def __init__(self, config: VisionConfig, i: int) -> None:
        super().__init__()
        c_in = 3 if i == 0 else config.dims[i - 1]
        c_out = config.dims[i]
        self.prenorm = config.patch_prenorm[i]
        self.conv = nn.Conv2d(c_in, c_out, config.patch_kernels[i], config.patch_strides[i], config.patch_paddings[i])
        self.norm = nn.LayerNorm(c_in if self.prenorm else c_out)

    def forward(self, x: Tensor) -> Tensor:
        if self.prenorm:
            x = self.norm(x)
        x = self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # (B, h, w, C)
        return x if self.prenorm else self.norm(x)


class Block(nn.Module):
    """The skeleton that both kinds of attention share: depthwise conv, attention, depthwise conv, MLP."""

    def __init__(self, dim: int, attention: nn.Module, drop_path: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm1 = nn.LayerNorm(dim)
        self.attention = attention
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim)
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:  # (B, H, W, C)
        x = _plus_convolved(self.conv1, x)
        x = self._plus(x, self.norm1, self.attention)
        x = _plus_convolved(self.conv2, x)
        return self._plus(x, self.norm2, self.mlp)

    def _plus(self, x: Tensor, norm: nn.Module, branch: nn.Module) -> Tensor:
        """x + branch(norm(x)); in training with stochastic depth: whole samples go without, the others get it
        scaled."""
        if not self.training or self.drop_path == 0.0:
            if torch.is_grad_enabled() or torch.compiler.is_compiling():  # a graph is not written in place
                return x + branch(norm(x))
            added: Tensor = branch(norm(x), onto=x.contiguous())  # x is the sum of the line before, nobody else's
            return added
        keep = 1.0 - self.drop_path
        survives = torch.rand(x.shape[0], device=x.device) < keep
        # Only a CPU knows at once which samples these are; a GPU would have to be waited for. One at least is computed,
        # so that every parameter has a gradient, be it zero.
        if x.device.type == "cpu" and not torch.compiler.is_compiling() and survives.any() and not survives.all():
            rows = survives.nonzero().squeeze(1)
            return x.index_add(0, rows, branch(norm(x[rows])) / keep)
        return x + branch(norm(x)) * (survives / keep).to(x.dtype)[:, None, None, None]


class WindowAttention(nn.Module):
    """Attention inside windows of ``window`` x ``window`` tokens (DaViT, eq. 2).

    The map is zero-padded at the right and the bottom to whole windows. The padding takes part as keys and
    values and is not masked: the reference does the same, and its weights were trained with it.

    ``onto``, here and in the other branches of a block: a map that the result is added to, in its place, part by part.
    """

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.qkv = Linear(dim, 3 * dim)
        self.proj = Linear(dim, dim)

    def forward(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        H, W, s = x.shape[1], x.shape[2], self.window
        if W % s or H % s:
            x = F.pad(x, (0, 0, 0, -W % s, 0, -H % s))
            if onto is not None:
                return onto.add_(self(x, torch.zeros_like(x))[:, :H, :W])
        bands, place = self._bands(x), None if onto is None else self._bands(onto)
        larger = 2 * s * s * self.heads // x.shape[-1]  # than the map, so many times, are scores and weights
        made = _in_parts(self._within, bands, place, parts(x, larger))
        return made.transpose(1, 2).reshape(x.shape)[:, :H, :W] if onto is None else onto

    def _bands(self, x: Tensor) -> Tensor:
        """(B, H, W, C) of whole windows → (B*rows, columns, s, s, C), the windows of each row of windows; a view."""
        s, C = self.window, x.shape[-1]
        return x.reshape(-1, s, x.shape[2] // s, s, C).transpose(1, 2)

    def _within(self, windows: Tensor) -> Tensor:
        """(b, columns, s, s, C) → the same shape, each window by itself."""
        C = windows.shape[-1]
        x = windows.reshape(-1, self.window**2, C)
        n, m, _ = x.shape
        q, k, v = self.qkv(x).view(n, m, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(attend(q, k, v).transpose(1, 2).reshape(n, m, C)).view_as(windows)


class ChannelAttention(nn.Module):
    """Attention among the channels of a group, with all tokens as features (DaViT, eq. 3).

    The scale is 1/√N with N the number of tokens of the map, so it changes with the resolution.
    """

    folded: nn.Module | None
    """What computes it with fewer operations, in a model that is packed for answering (``folding``)."""

    def __init__(self, dim: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.qkv = Linear(dim, 3 * dim)
        self.proj = Linear(dim, dim)
        self.register_module("folded", None)

    def forward(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        B, H, W, C = x.shape
        N = H * W
        tokens = x.reshape(B, N, C)
        if self.folded is not None:
            onto = torch.zeros_like(x) if onto is None else onto
            self.folded(tokens, onto.view(B, N, C), self.groups, self.proj)
            return onto
        scores = x.new_zeros(1, 1, 1)
        values = []
        for part in tokens.chunk(1 if onto is None else parts(x, 6), 1):
            q, k, v = self._groups(part)  # each (B*groups, n, c)
            # The scale is applied within the product, to the sums: one pass less over q, and half precision has room.
            scores = torch.baddbmm(scores, q.transpose(1, 2), k, alpha=N**-0.5)
            values.append(v)
        weights = scores.softmax(-1).transpose(1, 2)  # (B*groups, c, c)
        if onto is None:
            return self._heard(values[0], weights, B).view(B, H, W, C)
        for place, v in zip(onto.view(B, N, C).chunk(len(values), 1), values, strict=True):
            place.add_(self._heard(v, weights, B))
        return onto

    def _heard(self, v: Tensor, weights: Tensor, B: int) -> Tensor:
        """(B*groups, n, c) values → (B, n, C)."""
        mixed = (v @ weights).view(B, self.groups, v.shape[1], -1).transpose(1, 2)  # (B, n, groups, c)
        made: Tensor = self.proj(mixed.reshape(B, v.shape[1], -1))
        return made

    def _groups(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, n, C) → queries, keys and values, (B*groups, n, c) each. Tokens before channels, copied once in runs of
        c numbers; the products would copy them number by number. Values are apart: they are kept for longer."""
        B, n, C = x.shape
        qkv = self.qkv(x).view(B, n, 3, self.groups, C // self.groups).permute(2, 0, 3, 1, 4)
        q, k = qkv[:2].contiguous().flatten(1, 2)
        return q, k, qkv[2].contiguous().flatten(0, 1)


class MLP(nn.Module):
    def __init__(self, dim: int, ratio: int = 4) -> None:
        super().__init__()
        self.ratio = ratio
        self.fc1 = Linear(dim, ratio * dim)
        self.fc2 = Linear(ratio * dim, dim)

    def forward(self, x: Tensor, onto: Tensor | None = None) -> Tensor:  # (B, H, W, C)
        C = x.shape[-1]
        tokens, place = x.reshape(-1, C), None if onto is None else onto.view(-1, C)
        return _in_parts(self._run, tokens, place, parts(x, self.ratio)).view_as(x)

    def _run(self, x: Tensor) -> Tensor:
        return feed_forward(self.fc1, self.fc2, x)


ROOM = 16 * 2**20
"""Bytes that an intermediate result of a block may take, about, where answers are computed on a CPU."""


def parts(x: Tensor, times: int) -> int:
    """In how many parts to work through a map, where an intermediate result is so many times as large as it.

    One where gradients are wanted, which keep everything anyway, on a GPU, and in a graph.
    """
    if x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return 1
    return max(1, -(-x.numel() * x.element_size() * times // ROOM))


def _in_parts(run: Callable[[Tensor], Tensor], x: Tensor, onto: Tensor | None, count: int) -> Tensor:
    """``run(x)`` for a function that treats each row by itself; added to ``onto`` in its place, in ``count`` parts."""
    if onto is None:
        return run(x)
    for part, place in zip(x.chunk(count), onto.chunk(count), strict=True):
        place.add_(run(part))
    return onto


def _plus_convolved(conv: nn.Module, x: Tensor) -> Tensor:
    """x + conv(x)"""
    convolved: Tensor = conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return x + convolved if torch.is_grad_enabled() else convolved.add_(x)


def initialise(module: DaViT) -> None:
    """Weights of a model from scratch: normal with standard deviation 0.02, biases zero, norms one."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
