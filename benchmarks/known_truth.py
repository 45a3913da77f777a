"""Are the verdicts of a whole audit right where the truth is known? (methods G0)

    python benchmarks/known_truth.py --out benchmarks/known_truth.csv

Twins of the hierarchical grammar that learn until step 16 and remember from step 7 on, audited by every stage of
``audit run``: sampling, evidence, controls, tests, verdicts, at all 20 steps, with 1,000 samples per checkpoint.

A verdict is about four quantities and their margins. So the truth is these quantities with a small error: how far the
samples lean, how many are copies and how far the losses lean, here counted on 10,000 other samples of each twin and on
other noise, by plain comparisons of letters; and the true loss, from the exact posterior. The margins are those of the
audit. A verdict is right if the ladder of docs/statistics.md 10 gives it for these values. Where a value lies between
the margin from which a lean may be called bias and the one from which it may no longer be called safe, both verdicts
are right; so are both where samples copy more often than the controls do, but by less than is accepted, and where a
value is within three standard errors of its margin.

Prints truth beside verdict and exits 1 where one is not right. About ten minutes of one core.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from auditor.config import AuditConfig, Budgets
from auditor.diffusion.sampling import sample_batch
from auditor.lab.blend import Blend, Course
from auditor.lab.calibration import SAMPLING_STEPS, SETTINGS, measured
from auditor.lab.checkpoints import as_model, schedule
from auditor.lab.exact import as_one_hot
from auditor.lab.fixture import Fixture
from auditor.lab.grammar import letters_of
from auditor.measuring.facts import StepFacts
from auditor.records import TWINS, other_twin
from auditor.seeds import derived_seed

FIRST_SEED = 10**6  # the audit draws from seeds below
BATCH = 500
CLEAR = 3  # standard errors within which a value may lie on either side of a margin


@dataclass(frozen=True)
class Truth:
    """What the verdict on one checkpoint is about, nearly without error."""

    own_share: float  # samples nearer to the own half than to the other, both twins; half where equally near
    copies: float  # share of samples that are an own training sequence
    copies_other: float  # the same for the other half: what a model that never saw it hits
    copies_heldout: float  # held-out sequences that are one of a half
    loss_lean: float
    own_share_se: float  # over samples
    copies_se: float  # of the difference to the other half, over samples
    loss_lean_se: float  # over sequences


def main() -> None:
    """Audit the fixture, count the truth, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the table here")
    parser.add_argument("--n", type=int, default=10_000, help="samples of each twin behind the truth")
    parser.add_argument("--smoke", action="store_true", help="a small audit, right or not: does it start?")
    given = parser.parse_args()
    fixture = Fixture(course=Course(memory=0.5, growth=1.0), n_train=2000, n_heldout=1000, taus=tuple(range(1, 21)))
    n_samples, settings = 1000, SETTINGS
    if given.smoke:
        given.n = BATCH
        fixture = replace(fixture, n_train=60, n_heldout=40, taus=(2, 19))
        n_samples, settings = 20, SETTINGS | {"loss_images": 8, "loss_levels": 2, "sampling_steps": 2}
    with tempfile.TemporaryDirectory() as work:
        found, asked = measured(fixture, Path(work) / "audit", n_samples, settings)
    phases = fixture.phases(asked.times + 1, asked.budgets)
    rows = []
    for facts, decision, phase in zip(found.facts, found.decisions, phases, strict=True):
        truth = counted(fixture, decision.step, asked.times + 1, given.n)
        allowed = right_verdicts(truth, facts, phase, asked.budgets)
        rows.append(row_of(fixture, truth, facts, phase, asked.budgets, decision.verdict in allowed))
        rows[-1] |= {"right": " or ".join(sorted(allowed)), "verdict": decision.verdict}
        print(*(f"{name} {value}" for name, value in rows[-1].items()), sep="  ", flush=True)
    table = pd.DataFrame(rows)
    trusted = not found.checks["distrust"] and not found.checks["not_exchangeable"]
    print(f"\n{table['is_right'].sum()} of {len(table)} verdicts right")
    print(f"released: {found.recommendation.step}; controls passed: {trusted}")
    if given.out:
        table.to_csv(given.out, index=False, float_format="%.4g")
    sys.exit(not given.smoke and not (table["is_right"].all() and trusted))


def row_of(
    fixture: Fixture, truth: Truth, facts: StepFacts, phase: str, budgets: Budgets, is_right: bool
) -> dict[str, object]:
    """Return one checkpoint as a row of the table: shares of 1, margins as shares, too."""
    lean, loss = facts.lean["onehot"], facts.loss
    values = {"weight": fixture.course.memory_at(facts.step)} | asdict(truth)
    values |= {"own_share_biased_above": 0.5 + lean.bias_margin(budgets)}
    values |= {"own_share_safe_below": 0.5 + lean.safe_margin(budgets)}
    values |= {"loss_biased_above": loss.bias_margin(budgets)}
    values |= {"loss_safe_below": loss.bias_margin(budgets) + budgets.loss_safe_beyond_bias}
    row = {"step": facts.step} | {name: round(value, 5) for name, value in values.items()}
    return row | {"true_loss": phase if phase in ("underfit", "overfit") else "", "is_right": is_right}


def right_verdicts(truth: Truth, facts: StepFacts, phase: str, budgets: Budgets) -> set[str]:
    """Return what the ladder may say of a checkpoint whose values are these; margins are those of the audit."""
    control = max(truth.copies_other, truth.copies_heldout)
    copies = truth.copies - control > CLEAR * truth.copies_se
    allowed = {"memorizing"} if copies else set()
    if copies and truth.copies - control > budgets.copies_beyond_heldout:
        return allowed
    if phase in ("underfit", "overfit"):
        return allowed | {phase}
    lean, loss = facts.lean["onehot"], facts.loss
    share, by_loss = truth.own_share - 0.5, truth.loss_lean
    wide, wide_loss = CLEAR * truth.own_share_se, CLEAR * truth.loss_lean_se
    loss_margin = loss.bias_margin(budgets)
    if share + wide > lean.bias_margin(budgets) or by_loss + wide_loss > loss_margin:
        allowed = allowed | {"biased"}
    unsafe = share - wide > lean.safe_margin(budgets)
    unsafe |= by_loss - wide_loss > loss_margin + budgets.loss_safe_beyond_bias
    return allowed if unsafe else allowed | {"generalizing"}


def counted(fixture: Fixture, tau: int, times: np.ndarray, n: int) -> Truth:
    """Return the truth of one checkpoint, from ``n`` samples of each twin and every training sequence."""
    kept = without_shared(fixture.sequences)
    leans, copies, others = [], [], []
    for twin in TWINS:
        samples = sampled(fixture, fixture.model(twin, tau), n)
        own, other = (nearest(samples, kept[name]) for name in (twin, other_twin(twin)))
        leans.append((own < other) + 0.5 * (own == other))
        copies.append(own == 0)
        others.append(other == 0)
    heldout = np.concatenate([nearest(kept["heldout"], kept[twin]) == 0 for twin in TWINS])
    difference = np.concatenate(copies).astype(float) - np.concatenate(others)
    lean, lean_se = loss_lean(fixture, tau, kept, times)
    return Truth(
        own_share=float(np.mean(leans)),
        copies=float(np.mean(copies)),
        copies_other=float(np.mean(others)),
        copies_heldout=float(heldout.mean()),
        loss_lean=lean,
        own_share_se=float(np.mean(leans, axis=0).std(ddof=1) / np.sqrt(n)),
        copies_se=float(difference.std(ddof=1) / np.sqrt(len(difference))),
        loss_lean_se=lean_se,
    )


def without_shared(sequences: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the sets without sequences that also occur in another one, as ``--allow-overlap`` leaves them."""
    known = {name: set(map(bytes, np.ascontiguousarray(each))) for name, each in sequences.items()}
    return {
        name: np.array([row for row in each if not any(bytes(row) in known[other] for other in known if other != name)])
        for name, each in sequences.items()
    }


def sampled(fixture: Fixture, blend: Blend, n: int) -> np.ndarray:
    """Return samples of a model, drawn as the audit draws them, from seeds of their own."""
    model = as_model(blend, fixture.diffusion, fixture.grammar, schedule(fixture.diffusion), 0)
    seeds = [range(start, start + BATCH) for start in range(FIRST_SEED, FIRST_SEED + n, BATCH)]
    return np.concatenate(
        [letters_of(sample_batch(model, each, AuditConfig().sampler, SAMPLING_STEPS)) for each in seeds]
    )[:n]


def nearest(sequences: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Return the least number of differing letters to any sequence of a set, int ``[n]``."""
    parts = np.array_split(sequences, max(1, len(sequences) // BATCH))
    return np.concatenate([(each[:, None] != among[None]).sum(axis=2).min(axis=1) for each in parts])


def loss_lean(fixture: Fixture, tau: int, kept: dict[str, np.ndarray], times: np.ndarray) -> tuple[float, float]:
    """Return half the difference of the means of ln(loss of b / loss of a) over both halves, and its error."""
    generator = torch.Generator().manual_seed(derived_seed("known truth", tau))
    models, ratios = {twin: fixture.model(twin, tau) for twin in TWINS}, {}
    with torch.inference_mode():
        for half in TWINS:
            x0 = as_one_hot(kept[half], fixture.grammar.q, torch.float32)
            losses = dict.fromkeys(TWINS, torch.zeros(len(x0)))
            for time in times:
                t = torch.full((len(x0),), int(time))
                x_t = fixture.diffusion.noisy(x0, t, torch.randn(x0.shape, generator=generator))
                for twin, model in models.items():
                    losses[twin] = losses[twin] + (model(x_t, t) - x0).square().mean(dim=(1, 2))
            ratios[half] = (losses["b"] / losses["a"]).log().double().numpy()
    variance = sum(each.var(ddof=1) / len(each) for each in ratios.values())
    return float(ratios["a"].mean() - ratios["b"].mean()) / 2, float(np.sqrt(variance)) / 2


if __name__ == "__main__":
    main()
