"""The learned denoiser: a transformer that predicts every letter of a noisy sequence.

Linear embedding of the noisy one-hots, learned positions, sinusoidal time; post-norm encoder
layers; linear logits. The published size is width 512, 8 layers, 4 heads, feed-forward 1024.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from auditor.lab.diffusion import Denoiser, Diffusion
from auditor.lab.grammar import Grammar

if TYPE_CHECKING:
    import torch

TIME_FEATURES = 32


@dataclass(frozen=True)
class Shape:
    """The size of a network; width is a multiple of heads."""

    width: int = 512
    layers: int = 8
    heads: int = 4
    feedforward: int = 1024
    dropout: float = 0.1


def new_network(grammar: Grammar, shape: Shape, seed: int) -> torch.nn.Module:
    """Return an untrained network whose weights depend on the seed alone."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(grammar, shape)


def build(grammar: Grammar, shape: Shape) -> torch.nn.Module:
    """Return a network ``(x_t [n, length, q], t int64 [n]) -> logits [n, length, q]``."""
    from torch import nn

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.letters = nn.Linear(grammar.q, shape.width)
            self.positions = nn.Embedding(grammar.length, shape.width)
            self.time = nn.Linear(TIME_FEATURES, shape.width)
            layer = nn.TransformerEncoderLayer(
                shape.width, shape.heads, shape.feedforward, shape.dropout, batch_first=True
            )
            self.encoder = nn.TransformerEncoder(layer, shape.layers, enable_nested_tensor=False)
            self.logits = nn.Linear(shape.width, grammar.q)

        def forward(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            time = self.time(time_features(t).to(x_t))[:, None]
            return self.logits(self.encoder(self.letters(x_t) + self.positions.weight + time))

    return Network()


def time_features(t: torch.Tensor) -> torch.Tensor:
    """Return cosines, then sines, of t at 16 frequencies from 1 down to 1e-4, float32 ``[n, 32]``."""
    import torch

    half = TIME_FEATURES // 2
    frequencies = torch.exp(-math.log(1e4) * torch.arange(half, device=t.device) / half)
    angles = t[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def as_denoiser(network: torch.nn.Module, diffusion: Diffusion) -> Denoiser:
    """Return the network as a denoiser: its softmax, in evaluation mode."""

    def denoiser(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return network(x_t, t).softmax(dim=2)

    network.eval().requires_grad_(False)
    return denoiser


# Checkpoints


def arrays_of(network: torch.nn.Module) -> dict[str, np.ndarray]:
    """Return the weights by name, float32."""
    return {name: each.detach().float().cpu().numpy() for name, each in network.state_dict().items()}


def restored(
    settings: Mapping[str, Any], arrays: Mapping[str, np.ndarray], grammar: Grammar, diffusion: Diffusion, device: str
) -> Denoiser:
    """Return the denoiser of a checkpoint; ValueError, TypeError or RuntimeError where its parts do not fit."""
    import torch

    shape = Shape(**settings)
    if shape.width < 1 or shape.heads < 1 or shape.width % shape.heads:
        raise ValueError(f"width {shape.width} with {shape.heads} heads")
    network = new_network(grammar, shape, 0)
    network.load_state_dict({name: torch.as_tensor(each) for name, each in arrays.items()})
    return as_denoiser(network.to(device), diffusion)
