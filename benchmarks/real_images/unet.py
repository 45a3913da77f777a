"""The U-Net of the published experiments on images, written from its description; the ``plain`` format reads it.

Three resolutions with 1, 2 and 4 times ``width`` channels; two residual blocks per resolution on the way down, three on
the way up, each of which takes one stored tensor of the way down; attention after every block but those of the full
resolution. 4,023,233 weights at width 32 and one channel (arXiv 2603.03469; Bonnaire et al. 2025, arXiv 2505.17638).
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

N_TIMES = 1000
MULTIPLES = (1, 2, 4)
GROUPS = 8  # of every group normalization
HEADS = 4
DROPOUT = 0.1
ENCODER_BLOCKS, DECODER_BLOCKS = 2, 3


def make(channels: int = 1, width: int = 32) -> UNet:
    """Return a network with new weights: the factory for ``audit run --model unet:make``."""
    return UNet(channels, width)


def time_table(width: int) -> torch.Tensor:
    """Return the fixed embedding of every time, float32 ``[1000, width]``: sines, then cosines."""
    half = width // 2
    frequencies = torch.exp(-math.log(1e4) * torch.arange(half) / max(half - 1, 1))
    angles = torch.arange(N_TIMES)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class Attention(nn.Module):
    """Self-attention over the positions of a picture, added to it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``[n, c, h, w]`` for the same."""
        n, c, h, w = x.shape
        rows = self.norm(x).flatten(2).transpose(1, 2)  # [n, positions, c]
        q, k, v = self.qkv(rows).view(n, h * w, 3, HEADS, c // HEADS).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, h * w, c)
        return x + self.out(mixed).transpose(1, 2).reshape(n, c, h, w)


class Block(nn.Module):
    """Two convolutions with the time added between them, a shortcut, and attention where asked for."""

    def __init__(self, channels: int, out: int, time_width: int, with_attention: bool) -> None:
        super().__init__()
        self.norm_in, self.conv_in = nn.GroupNorm(GROUPS, channels), nn.Conv2d(channels, out, 3, padding=1)
        self.time = nn.Linear(time_width, out)
        self.norm_out, self.conv_out = nn.GroupNorm(GROUPS, out), nn.Conv2d(out, out, 3, padding=1)
        self.dropout = nn.Dropout2d(DROPOUT)
        self.shortcut = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()
        self.attention = Attention(out) if with_attention else nn.Identity()

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """Return ``[n, out, h, w]``; ``time`` is ``[n, time_width]``."""
        inner = self.conv_in(functional.silu(self.norm_in(x)))
        inner = inner + self.time(functional.silu(time))[:, :, None, None]
        inner = self.conv_out(self.dropout(functional.silu(self.norm_out(inner))))
        return self.attention(self.shortcut(x) + inner)


class UNet(nn.Module):
    """Predicts the noise in ``x_t``."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        time_width = 4 * width
        self.register_buffer("times", time_table(width), persistent=False)
        self.time = nn.Sequential(nn.Linear(width, time_width), nn.GELU(), nn.Linear(time_width, time_width))
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        stored, at = [width], width
        self.down = nn.ModuleList()
        for level, multiple in enumerate(MULTIPLES):
            for _ in range(ENCODER_BLOCKS):
                self.down.append(Block(at, width * multiple, time_width, level > 0))
                at = width * multiple
                stored.append(at)
            if multiple != MULTIPLES[-1]:
                self.down.append(nn.Conv2d(at, at, 3, stride=2, padding=1))
                stored.append(at)
        self.middle = nn.ModuleList([Block(at, at, time_width, True), Block(at, at, time_width, False)])
        self.up = nn.ModuleList()
        for level, multiple in reversed(list(enumerate(MULTIPLES))):
            for _ in range(DECODER_BLOCKS):
                self.up.append(Block(at + stored.pop(), width * multiple, time_width, level > 0))
                at = width * multiple
            if level:
                self.up.append(nn.Conv2d(at, at, 3, padding=1))
        self.norm, self.head = nn.GroupNorm(GROUPS, at), nn.Conv2d(at, channels, 3, padding=1)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Return the noise in ``x`` ``[n, c, h, w]``, both sides divisible by 4; ``t`` is int64 ``[n]``, 0 to 999."""
        time = self.time(self.times[t])
        x = self.stem(x)
        stored = [x]
        for layer in self.down:
            x = layer(x, time) if isinstance(layer, Block) else layer(x)
            stored.append(x)
        for block in self.middle:
            x = block(x, time)
        for layer in self.up:
            if isinstance(layer, Block):
                x = layer(torch.cat([x, stored.pop()], dim=1), time)
            else:
                x = layer(functional.interpolate(x, scale_factor=2.0))
        return self.head(functional.silu(self.norm(x)))
