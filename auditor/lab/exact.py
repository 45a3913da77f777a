"""Exact denoisers by belief propagation in log space, their filtered versions, and those that know no grammar.

All take noisy one-hots, float32 or float64 ``[n, length, q]``, and their field h (one, or one
per row), and return probabilities of the letters in the same type. Rows are taken in chunks,
so memory is bounded whatever n, depth and q are.

Forbidden pairs have weight zero, exactly: no floor stands in for them, and no message is divided
out. An ungrammatical sequence then gets its true posterior, however small its likelihood.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from auditor.lab.diffusion import Denoiser, Diffusion
from auditor.lab.grammar import Grammar, one_hot

if TYPE_CHECKING:
    import torch

CHUNK_BYTES = {"cpu": 2 * 2**20, "cuda": 256 * 2**20}  # of the largest intermediate array; a CPU's fits its cache


@dataclass(frozen=True)
class Rules:
    """The rules as tensors of one type on one device."""

    weights: torch.Tensor  # [left, right], ln of the rule that makes the pair; -inf where none does
    owner: torch.Tensor  # int64 [left, right]
    left: torch.Tensor  # int64 [parent, q_eff]
    right: torch.Tensor  # int64 [parent, q_eff]
    by_parent: torch.Tensor  # [parent, q_eff], ln of the rule
    channels: dict[int, torch.Tensor]  # k -> ln p(node | root), [2^k, root, letter]


def rules_of(grammar: Grammar, levels: Sequence[int], like: torch.Tensor) -> Rules:
    """Return the rules, and the channels of the levels asked for."""
    import torch

    def tensor(values: np.ndarray, dtype: Any = like.dtype) -> torch.Tensor:
        return torch.as_tensor(values, dtype=dtype, device=like.device)

    with np.errstate(divide="ignore"):
        left, right = grammar.children[..., 0], grammar.children[..., 1]
        return Rules(
            weights=tensor(np.log(grammar.rules.sum(axis=0))),
            owner=tensor(np.maximum(grammar.owner, 0), torch.int64),
            left=tensor(left, torch.int64),
            right=tensor(right, torch.int64),
            by_parent=tensor(np.log(grammar.rules[np.arange(grammar.q)[:, None], left, right])),
            channels={k: tensor(np.log(grammar.channels(k))) for k in levels},
        )


def posteriors(x_t: torch.Tensor, h: Any, grammar: Grammar, levels: Sequence[int]) -> list[torch.Tensor]:
    """Return BP_k for every k of ``levels``; they share the pass from the leaves.

    BP_k is the posterior under the grammar whose top k levels are forgotten: exact for
    k = 0, letters independent given the root for k = depth.
    """
    import torch

    for k in levels:
        grammar.require_level(k)
    rules, found = rules_of(grammar, levels, x_t), [torch.empty_like(x_t) for _ in levels]
    h = torch.as_tensor(h, dtype=x_t.dtype, device=x_t.device).reshape(-1, 1, 1).expand(len(x_t), 1, 1)
    for rows in chunks(x_t, grammar.length // 2 * grammar.q**2):
        evidence = upward((h[rows] * x_t[rows]).permute(1, 2, 0).contiguous(), rules, grammar.depth)
        for k, whole in zip(levels, found, strict=True):
            whole[rows] = downward(evidence[: grammar.depth - k + 1], rules, k).permute(2, 0, 1)
    return found


def posterior(x_t: torch.Tensor, h: Any, grammar: Grammar, k: int = 0) -> torch.Tensor:
    """Return BP_k: the probability of every letter given the noisy sequence."""
    return posteriors(x_t, h, grammar, [k])[0]


def upward(leaves: torch.Tensor, rules: Rules, depth: int) -> list[torch.Tensor]:
    """Return ln p(leaves below | letter) by level, leaves first, each ``[nodes, q, n]`` up to a constant per node.

    Rows come last: the many of one letter lie side by side, which is three times as fast.
    """
    evidence = [scaled(leaves)]
    for _ in range(depth):
        left, right = evidence[-1][0::2], evidence[-1][1::2]
        pairs = left[:, rules.left] + right[:, rules.right] + rules.by_parent[..., None]  # [nodes, parent, q_eff, n]
        evidence.append(scaled(pairs.logsumexp(dim=2)))
    return evidence


def downward(evidence: Sequence[torch.Tensor], rules: Rules, k: int) -> torch.Tensor:
    """Return the probabilities of the leaves ``[length, q, n]``, from below level k and the channels above it."""
    context = top_context(evidence[-1], rules.channels[k])  # ln p(letter, leaves outside)
    for below in evidence[-2::-1]:
        left, right = below[0::2], below[1::2]
        pairs = context[:, rules.owner] + rules.weights[..., None]  # [nodes, left, right, n]
        children = (pairs + right[:, None]).logsumexp(dim=2), (pairs + left[:, :, None]).logsumexp(dim=1)
        context = scaled(interleaved(*children))
    return (evidence[0] + context).softmax(dim=1)


def interleaved(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return nodes in their order from left and right children, each ``[nodes, q, n]``."""
    import torch

    return torch.stack([left, right], dim=1).flatten(0, 1)


def top_context(evidence: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
    """Return the context of the nodes that hang on a uniform root by ``channels``: what all other nodes say."""
    import torch

    channels = channels[..., None]  # [nodes, root, letter, 1]
    heard = (channels + evidence[:, None]).logsumexp(dim=2)  # ln p(leaves below node | root), [nodes, root, n]
    zero = torch.zeros_like(heard[:1])
    before = torch.cat([zero, heard.cumsum(dim=0)[:-1]])
    after = torch.cat([heard.flip(0).cumsum(dim=0).flip(0)[1:], zero])
    others = scaled(before + after)  # the node itself is left out, not subtracted
    return scaled((others[:, :, None] + channels).logsumexp(dim=1))


def scaled(logs: torch.Tensor) -> torch.Tensor:
    """Return logarithms ``[nodes, q, n]`` whose largest letter is 0."""
    return logs - logs.amax(dim=1, keepdim=True)


def chunks(x: torch.Tensor, numbers_per_row: int) -> Iterator[slice]:
    """Yield slices over the rows of x whose intermediate arrays stay within CHUNK_BYTES."""
    size = max(1, CHUNK_BYTES[x.device.type] // (numbers_per_row * x.element_size()))
    for start in range(0, len(x), size):
        yield slice(start, min(start + size, len(x)))


def rounding(x_t: torch.Tensor, h: Any) -> torch.Tensor:
    """Return the posterior of letters that are independent and uniform: the likeliest is the largest entry."""
    import torch

    h = torch.as_tensor(h, dtype=x_t.dtype, device=x_t.device).reshape(-1, 1, 1)
    return (h * x_t).softmax(dim=2)


def empirical(x_t: torch.Tensor, h: Any, train: torch.Tensor) -> torch.Tensor:
    """Return the posterior if only the training sequences existed: a pure memorizer.

    sum_p w_p x^p with w_p proportional to exp(-||x_t - sqrt(abar) x^p||^2 / (2 (1 - abar))).

    Parameters
    ----------
    x_t, h
        As for the others.
    train
        Letters, int64 ``[N, length]``.
    """
    import torch

    x_train = torch.nn.functional.one_hot(train, x_t.shape[2]).to(x_t).flatten(1)
    h = torch.as_tensor(h, dtype=x_t.dtype, device=x_t.device).reshape(-1, 1).expand(len(x_t), 1)
    found = torch.empty_like(x_t)
    for rows in chunks(x_t, len(train)):
        weights = (h[rows] * x_t[rows].flatten(1) @ x_train.T).softmax(dim=1)
        found[rows] = (weights @ x_train).reshape(x_t[rows].shape)
    return found


def denoiser(grammar: Grammar, diffusion: Diffusion, k: int = 0) -> Denoiser:
    """Return BP_k as a denoiser."""
    return lambda x_t, t: posterior(x_t, diffusion.at(diffusion.fields, t, x_t), grammar, k)


def memorizer(train: np.ndarray, diffusion: Diffusion) -> Denoiser:
    """Return the empirical denoiser of these training sequences."""
    import torch

    letters = torch.as_tensor(train, dtype=torch.int64)
    return lambda x_t, t: empirical(x_t, diffusion.at(diffusion.fields, t, x_t), letters.to(x_t.device))


def as_one_hot(sequences: np.ndarray, q: int, dtype: Any = None) -> torch.Tensor:
    """Return sequences as a float tensor ``[n, length, q]``, float64 unless given."""
    import torch

    return torch.as_tensor(one_hot(sequences, q), dtype=dtype or torch.float64)
