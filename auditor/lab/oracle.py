"""What only a known truth can tell of an audited series: distance to every filtered denoiser, and the excess loss.

Rows have the columns of measurements.parquet. Sequences are noised once for all checkpoints and
both twins. Metrics:

- ``oracle_kl_K`` (a, b, both): KL(BP_K || model), held-out sequences, nats per sequence;
- ``split_kl`` (both), ``split_kl_own`` (both): KL(a || b) on held-out sequences, and on those that a was trained on;
- ``cross_entropy``, ``distillation``, ``excess`` with ``_own`` or ``_heldout`` (a, b, both): nats per letter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from auditor.errors import AuditError
from auditor.lab import exact
from auditor.lab.checkpoints import folder_of, read
from auditor.lab.data import read_sequences
from auditor.lab.decomposition import decompose, divergence
from auditor.lab.diffusion import Denoiser, Diffusion
from auditor.lab.grammar import Grammar
from auditor.records import Scores
from auditor.run import columns, tables
from auditor.seeds import derived_seed
from auditor.stats import intervals

if TYPE_CHECKING:
    import torch

TABLE = "oracle"
BATCH = 500
Values = Mapping[tuple[str, str], np.ndarray]  # (metric, twin) -> per sequence


@dataclass(frozen=True)
class Noised:
    """One set of sequences, noised, and the exact and filtered posteriors of its letters."""

    x0: torch.Tensor
    x_t: torch.Tensor
    t: torch.Tensor
    filtered: list[torch.Tensor]  # BP_0 ... BP_depth


def noised(sequences: np.ndarray, grammar: Grammar, diffusion: Diffusion, t: int, seed: int, name: str) -> Noised:
    """Return sequences noised to t by a generator of their set's own."""
    import torch

    x0 = exact.as_one_hot(sequences, grammar.q, torch.float32)
    generator = torch.Generator().manual_seed(derived_seed("lab oracle", seed, name))
    x_t = diffusion.noisy(x0, t, torch.randn(x0.shape, generator=generator))
    filtered = exact.posteriors(x_t, diffusion.fields[t], grammar, range(grammar.depth + 1))
    return Noised(x0, x_t, torch.full((len(x0),), t), filtered)


def step_values(models: Mapping[str, Denoiser], sets: Mapping[str, Noised]) -> Values:
    """Return what is measured of both twins at one step; ``sets`` are a, b and heldout."""
    import torch

    with torch.inference_mode():
        p = {(twin, name): predicted(model, each) for twin, model in models.items() for name, each in sets.items()}
        found: dict[tuple[str, str], torch.Tensor] = {}
        for twin in models:
            found |= {(name, twin): value for name, value in model_values(p, sets, twin).items()}
        if len(models) == 2:
            names = [name for name, _ in found if _ == "a"]
            found |= {(name, "both"): (found[name, "a"] + found[name, "b"]) / 2 for name in names}
            found["split_kl", "both"] = divergence(p["a", "heldout"], p["b", "heldout"])
            found["split_kl_own", "both"] = divergence(p["a", "a"], p["b", "a"])
    return {key: value.numpy() for key, value in found.items()}


def model_values(p: Mapping[tuple[str, str], Any], sets: Mapping[str, Noised], twin: str) -> dict[str, Any]:
    """Return what is measured of one model."""
    filtered = sets["heldout"].filtered
    found = {f"oracle_kl_{k}": divergence(each, p[twin, "heldout"]) for k, each in enumerate(filtered)}
    for role, name in (("own", twin), ("heldout", "heldout")):
        parts = decompose(p[twin, name], sets[name].x0, sets[name].filtered[0])
        found[f"cross_entropy_{role}"] = parts.loss
        found[f"distillation_{role}"] = parts.distillation
        found[f"excess_{role}"] = parts.adjusted_excess
    return found


def predicted(model: Denoiser, noised: Noised) -> torch.Tensor:
    """Return a model's probabilities, in batches."""
    import torch

    rows = [slice(i, i + BATCH) for i in range(0, len(noised.x_t), BATCH)]
    return torch.cat([model(noised.x_t[each], noised.t[each]) for each in rows])


def rows_of(step: int, values: Values) -> list[dict[str, Any]]:
    """Return the rows of one step."""
    rows = []
    for (metric, twin), value in values.items():
        estimate = intervals.mean_interval(Scores("image", np.arange(len(value)), value.astype(np.float64)))
        fields = ("value", "low", "high", "level", "n", "unit", "method", "note")
        row = {"step": step, "space": "", "metric": metric, "twin": twin}
        row |= dict.fromkeys(("low_corrected", "high_corrected", "p_value", "p_corrected"), intervals.NAN)
        rows.append(row | {name: getattr(estimate, name) for name in fields})
    return rows


def write(root: Path, t: int, n: int, seed: int = 0, say: Callable[[str, int], None] = lambda text, n: None) -> Path:
    """Measure every audited checkpoint of a run of the lab; write and return ``RUN/oracle.parquet``.

    Parameters
    ----------
    root
        A run directory of ``audit run`` on checkpoints of the lab.
    t
        The time of the noise, 1 to the number of diffusion steps; the published figures have .15 of them.
    n
        Sequences of each set.
    seed
        Of the noise.
    """
    given, steps, weights = audited(root)
    folders = {
        (twin, step): folder_of(Path(given[f"ckpts_{twin}"]), step, weights)
        for twin in "ab"
        if given.get(f"ckpts_{twin}")
        for step in steps
    }
    _, diffusion, grammar, _ = read(next(iter(folders.values())))
    if not 1 <= t <= diffusion.n_steps:
        raise AuditError(f"There is no time {t}.", "--time", f"Give 1 to {diffusion.n_steps}.")
    sources = {"heldout": given["heldout"]} | {twin: given[f"train_{twin}"] for twin, _ in folders}
    sets = {
        name: noised(read_sequences(path, grammar)[:n], grammar, diffusion, t, seed, name)
        for name, path in sources.items()
    }
    rows = []
    for step in steps:
        say(f"comparing step {step} with the exact denoiser", 0)
        models = {twin: read(folder)[0] for (twin, at), folder in folders.items() if at == step}
        rows += rows_of(step, step_values(models, sets))
    path = root / f"{TABLE}.parquet"
    tables.write(path, columns.MEASUREMENTS, sorted(rows, key=lambda row: (row["step"], row["metric"], row["twin"])))
    return path


def audited(root: Path) -> tuple[dict[str, Any], list[int], str]:
    """Return the settings of a run, the steps it audited, and whether their weights (``raw``) or averages (``ema``)."""
    from auditor.run import RunDirectory

    record = RunDirectory(root).read_record()
    given = record.get("given", {})
    lacking = [name for name in ("ckpts_a", "train_a", "heldout") if not given.get(name)]
    if lacking:
        what = f"The run was made without --{lacking[0].replace('_', '-')}."
        raise AuditError(what, root, "The oracle needs the checkpoints, their training sequences and held-out ones.")
    return given, record["resolved"]["steps"], record["resolved"]["weights"]
