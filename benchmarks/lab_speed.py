"""Throughput and memory of exact denoising: ``python benchmarks/lab_speed.py [--smoke]``.

Batched belief propagation of ``auditor.lab.exact`` beside a straightforward implementation of the same recursion, one
sequence and one node at a time in numpy, on the same sequences in one run; and its peak memory at depth 8 with 16
letters.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import torch

from auditor.lab import exact
from auditor.lab.diffusion import Diffusion
from auditor.lab.grammar import Grammar

T = 75


def one_by_one(x_t: np.ndarray, h: float, m: np.ndarray) -> np.ndarray:
    """Return the exact posterior, node by node."""
    return np.array([one(h * each, m) for each in x_t])


def one(fields: np.ndarray, m: np.ndarray) -> np.ndarray:
    """Return the posterior of one sequence from its fields ``[length, q]``."""
    weights = np.exp(fields - fields.max(axis=1, keepdims=True))
    levels = [[each / each.sum() for each in weights]]
    while len(levels[-1]) > 1:
        below, above = levels[-1], []
        for left, right in zip(below[0::2], below[1::2], strict=True):
            message = np.einsum("abc,b,c->a", m, left, right)
            above.append(message / message.sum())
        levels.append(above)
    contexts = [np.full(len(m), 1 / len(m))]
    for below in levels[-2::-1]:
        children = []
        for context, left, right in zip(contexts, below[0::2], below[1::2], strict=True):
            to_left = np.einsum("a,abc,c->b", context, m, right)
            to_right = np.einsum("a,abc,b->c", context, m, left)
            children += [to_left / to_left.sum(), to_right / to_right.sum()]
        contexts = children
    posterior = np.array(levels[0]) * np.array(contexts)
    return posterior / posterior.sum(axis=1, keepdims=True)


def noised(grammar: Grammar, n: int) -> torch.Tensor:
    """Return n noised sequences, float64."""
    x0 = exact.as_one_hot(grammar.block(0, n), grammar.q)
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Diffusion().noisy(x0, T, eps)


def rate(function, x_t: object) -> tuple[float, object]:
    """Return sequences per second of CPU time, the best of three, and the result."""
    seconds, result = [], None
    for _ in range(3):
        start = time.process_time()
        result = function(x_t)
        seconds.append(time.process_time() - start)
    return len(x_t) / min(seconds), result


def main() -> None:
    """Print the throughputs, their ratio, the largest difference, and the memory of a large tree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few sequences: does it start?")
    given = parser.parse_args()
    torch.set_num_threads(1)
    memory((1, 2) if given.smoke else (50, 500))  # first: the peak is that of the process
    h = Diffusion().fields[T]
    sizes = ((2, 4), (1, 2)) if given.smoke else ((200, 8000), (20, 200))
    for grammar, (n_slow, n_fast) in zip((Grammar(), Grammar(q=16, q_eff=8, depth=6)), sizes, strict=True):
        x_t = noised(grammar, n_fast)
        slow, by_one = rate(lambda x: one_by_one(x, h, grammar.rules), x_t[:n_slow].numpy())
        double, batched = rate(lambda x: exact.posterior(x, h, grammar), x_t)
        single, _ = rate(lambda x: exact.posterior(x, h, grammar), x_t.float())
        worst = np.abs(batched[:n_slow].numpy() - by_one).max()
        print(f"{grammar}: sequences per second on one core")
        print(f"  one by one, numpy {slow:10,.0f}")
        print(f"  batched, float64  {double:10,.0f}  {double / slow:6.1f} times, largest difference {worst:.1e}")
        print(f"  batched, float32  {single:10,.0f}  {single / slow:6.1f} times")


def memory(numbers: tuple[int, int]) -> None:
    """Print the peak memory at depth 8 and 16 letters, for a few and for ten times as many sequences."""
    grammar, h = Grammar(q=16, q_eff=16, depth=8), Diffusion().fields[T]
    for n in numbers:
        x_t = noised(grammar, n).float()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seconds = -time.process_time()
        exact.posteriors(x_t, h, grammar, [0, 4, 8])
        seconds += time.process_time()
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        results = 3 * x_t.nelement() * 4 / 2**20
        print(f"depth 8, 16 letters, {n} sequences, BP_0, BP_4, BP_8: {seconds:.1f} s of one core, peak memory")
        print(f"  grows by {grown:.0f} MiB, of which {results:.0f} MiB are results")


if __name__ == "__main__":
    main()
