"""Denoisers along the time of the noise: how far from the exact one they are, and what a U-turn recovers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from auditor.diffusion import noise
from auditor.lab import exact, oracle
from auditor.lab.checkpoints import folder_of, read
from auditor.lab.data import read_sequences
from auditor.lab.decomposition import divergence
from auditor.lab.diffusion import Denoiser, Diffusion, reverse
from auditor.lab.grammar import Grammar
from auditor.records import Scores
from auditor.run import columns, tables
from auditor.seeds import derived_seed
from auditor.stats import intervals

if TYPE_CHECKING:
    import torch

TABLE = "lab_sweeps"
UTURN_SHARES = (0.01, 0.03, 0.05, 0.085, 0.12)  # of the diffusion, as published
RANDOM_SHARES = (0.05, 0.0625, 0.075, 0.0875, 0.1)
DIVERGENCE_SHARES = tuple(np.linspace(0.02, 0.4, 20))
Say = Callable[[str, int], None]


def times_of(shares: Sequence[float], diffusion: Diffusion) -> list[int]:
    """Return the times of these shares of the diffusion."""
    return sorted({max(1, int(share * diffusion.n_steps)) for share in shares})


def divergences(
    denoisers: Mapping[str, Denoiser],
    truth: Denoiser,
    sequences: np.ndarray,
    grammar: Grammar,
    diffusion: Diffusion,
    t: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """Return KL(exact || denoiser) at time t, float ``[n]`` by denoiser; all see the same noisy sequences."""
    import torch

    x0 = exact.as_one_hot(sequences, grammar.q, torch.float32)
    x_t = diffusion.noisy(x0, t, normal(x0, derived_seed("lab sweep", seed, t)))
    now = torch.full((len(x0),), t)
    with torch.inference_mode():
        mu = truth(x_t, now)
        return {name: divergence(mu, each(x_t, now)).numpy() for name, each in denoisers.items()}


def uturn(denoiser: Denoiser, diffusion: Diffusion, x0: torch.Tensor, t: int, seed: int) -> np.ndarray:
    """Return the share of letters recovered after noise to t and all reverse steps, float ``[n]``.

    Noise and reverse noise are functions of seed and row: every denoiser gets the same.
    """
    import torch

    x_t = diffusion.noisy(x0, t, normal(x0, derived_seed("lab uturn", seed, t)))
    streams = noise.generators([derived_seed("lab uturn", seed, t, row) for row in range(len(x0))])
    back = torch.cat(
        [
            reverse(denoiser, diffusion, x_t[rows], t, streams[rows])
            for rows in (slice(i, i + oracle.BATCH) for i in range(0, len(x_t), oracle.BATCH))
        ]
    )
    return (back.argmax(dim=2) == x0.argmax(dim=2)).float().mean(dim=1).numpy()


def normal(like: torch.Tensor, seed: int) -> torch.Tensor:
    """Return standard normal noise in the shape and type of ``like``."""
    import torch

    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed), dtype=like.dtype)


def untrained(grammar: Grammar, diffusion: Diffusion) -> dict[str, Denoiser]:
    """Return the exact denoiser and all filtered ones."""
    return {f"bp_{k}": exact.denoiser(grammar, diffusion, k) for k in range(grammar.depth + 1)}


@dataclass(frozen=True)
class Subject:
    """Twin a of a run at the steps of interest, and the sequences it is tried on."""

    grammar: Grammar
    diffusion: Diffusion
    models: Mapping[int, Denoiser]  # by step: at the least split divergence and at the least held-out loss
    own: np.ndarray
    heldout: np.ndarray

    @property
    def loss_step(self) -> int:
        """The last of the steps: that of the least held-out loss comes after that of the least split divergence."""
        return max(self.models)


def subject(root: Path, n: int) -> Subject:
    """Return what a run with its oracle columns gives to look at."""
    given, _, weights = oracle.audited(root)
    table = tables.read(root / f"{oracle.TABLE}.parquet")
    both = table[table.twin == ("both" if (table.twin == "both").any() else "a")]
    curves = [both[both.metric == name] for name in ("split_kl", "cross_entropy_heldout")]
    steps = sorted({int(each.step.iloc[int(each.value.argmin())]) for each in curves if len(each)})
    found = {step: read(folder_of(Path(given["ckpts_a"]), step, weights)) for step in steps}
    _, diffusion, grammar, _ = found[steps[0]]
    own, heldout = (read_sequences(given[name], grammar)[:n] for name in ("train_a", "heldout"))
    return Subject(grammar, diffusion, {step: each[0] for step, each in found.items()}, own, heldout)


def write(root: Path, n: int = 300, seed: int = 0, say: Say = lambda text, calls: None) -> Path:
    """Sweep the models of a run over the published times; write and return ``RUN/lab_sweeps.parquet``."""
    it = subject(root, n)
    rows = []
    for name, part in (("divergences", divergence_rows), ("U-turns", uturn_rows), ("random starts", random_rows)):
        say(f"sweeping the times of the noise: {name}", 0)
        rows += list(part(it, seed))
    path = root / f"{TABLE}.parquet"
    tables.write(path, columns.LAB_SWEEPS, sorted(rows, key=lambda row: tuple(map(str, row.values()))))
    return path


def divergence_rows(it: Subject, seed: int) -> Iterator[dict[str, Any]]:
    """Yield KL(exact || filtered or model) on held-out sequences."""
    bp = untrained(it.grammar, it.diffusion)
    truth = bp.pop("bp_0")
    denoisers = bp | {"model": it.models[it.loss_step]}
    for t in times_of(DIVERGENCE_SHARES, it.diffusion):
        found = divergences(denoisers, truth, it.heldout, it.grammar, it.diffusion, t, seed)
        for of, values in found.items():
            yield row("divergence", of, "heldout", it.loss_step if of == "model" else -1, t, values)


def uturn_rows(it: Subject, seed: int) -> Iterator[dict[str, Any]]:
    """Yield what the models and the exact denoiser recover of own and held-out sequences."""
    import torch

    bp = exact.denoiser(it.grammar, it.diffusion)
    for t in times_of(UTURN_SHARES, it.diffusion):
        for on, sequences in (("own", it.own), ("heldout", it.heldout)):
            x0 = exact.as_one_hot(sequences, it.grammar.q, torch.float32)
            yield row("uturn", "bp_0", on, -1, t, uturn(bp, it.diffusion, x0, t, seed))
            for step, model in it.models.items():
                yield row("uturn", "model", on, step, t, uturn(model, it.diffusion, x0, t, seed))


def random_rows(it: Subject, seed: int) -> Iterator[dict[str, Any]]:
    """Yield what every denoiser recovers of sequences of uniform letters, which no rule made."""
    import torch

    rng = np.random.default_rng(derived_seed("lab random", seed))
    x0 = exact.as_one_hot(rng.integers(it.grammar.q, size=it.heldout.shape), it.grammar.q, torch.float32)
    fields = it.diffusion.fields
    denoisers = untrained(it.grammar, it.diffusion)
    denoisers["rounding"] = lambda x_t, t: exact.rounding(x_t, it.diffusion.at(fields, t, x_t))
    denoisers["empirical"] = exact.memorizer(it.own, it.diffusion)
    denoisers["model"] = it.models[it.loss_step]
    for t in times_of(RANDOM_SHARES, it.diffusion):
        for of, each in denoisers.items():
            step = it.loss_step if of == "model" else -1
            yield row("random_uturn", of, "random", step, t, uturn(each, it.diffusion, x0, t, seed))


def row(measure: str, of: str, on: str, step: int, t: int, values: np.ndarray) -> dict[str, Any]:
    """Return one row of the table."""
    found = intervals.mean_interval(Scores("image", np.arange(len(values)), np.asarray(values, dtype=np.float64)))
    numbers = {"value": found.value, "low": found.low, "high": found.high, "n": found.n}
    return {"measure": measure, "of": of, "on": on, "step": step, "t": t} | numbers
