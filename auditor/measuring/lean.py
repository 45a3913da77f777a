"""Lean towards the own half: samples and losses of all checkpoints and spaces under one relabeling."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from auditor.config import LEVEL
from auditor.measuring.facts import Lean, Reference
from auditor.measuring.tail import tail_share, tail_weights
from auditor.records import DECOYS, TWINS, Estimate, LossTable
from auditor.stats import intervals, landing
from auditor.stats.landing import Landing
from auditor.stats.relabeling import (
    Pool,
    Relabeling,
    RelabelingTest,
    effective_images,
    half_difference_draws,
    half_difference_test,
    relabel,
    relabeling_tests,
    step_down_max_t,
)

SIGN = {"a": 1.0, "b": -1.0}  # of a label, for the half that each twin was trained on
LEAST_LOSSES = 2  # images of each half for an interval of the loss lean
FEW_IMAGES = 10  # statistics 2.4


@dataclass(frozen=True)
class LeanResult:
    """Own-versus-other lean of one checkpoint and space."""

    share: Mapping[str, Estimate]  # own_share for a, b, both; of a single training for a and both, which are the same
    share_p: Mapping[str, float]  # one-sided by relabeling, uncorrected
    corrected: tuple[float, float]  # interval of both, over all checkpoints and spaces
    gap: Estimate  # gap lean of both
    gap_se: float  # over seeds and the split
    gap_p: float
    gap_p_corrected: float  # with all checkpoints, spaces and losses
    v_seed: float
    v_hub: float
    few_images: bool
    tail_p: float = 1.0  # of the tail's share, one-sided by relabeling
    tail_p_corrected: float = 1.0  # in the same family as gap lean
    gap_p_two_sided: float = 1.0  # corrected with the losses, of leaning to either half


@dataclass(frozen=True)
class ClassLean:
    """Own-versus-other lean of one checkpoint and space among images of the samples' classes."""

    share: Mapping[str, Estimate]  # own_share_in_class for a, b, both
    p: Mapping[str, float]  # one-sided by relabeling within classes, uncorrected
    p_corrected: float  # of both, over all checkpoints and spaces
    corrected: tuple[float, float]  # interval of both, likewise


@dataclass(frozen=True)
class LossLeanResult:
    """Loss lean of one checkpoint."""

    estimate: Estimate
    low: float  # one-sided 95 % bounds
    high: float
    p: float
    p_corrected: float
    p_two_sided: float = 1.0  # corrected likewise, of leaning to either half


Lands = Mapping[str, Landing]  # by twin: of a single training a alone, half b being that of decoys
Losses = Mapping[str, Mapping[str, LossTable]]  # twin -> role -> table


def lean_tests(
    pool: Pool, relabeling: Relabeling, lands: Mapping[tuple[int, str], Lands], losses: Mapping[int, Losses], seed: int
) -> tuple[dict[tuple[int, str], LeanResult], dict[int, LossLeanResult]]:
    """Test and estimate every lean of a run; one family for the correction (statistics 7.1)."""
    cells, steps = list(lands), list(losses)
    n = len(pool.labels)
    twins = tuple(next(iter(lands.values()), ()))
    share = {t: np.array([SIGN[t] * lands[c][t].weights(n) for c in cells]).reshape(-1, n) for t in twins}
    both = np.array([signed_weights(lands[c], n) for c in cells]).reshape(-1, n)
    gap = np.array([signed_weights(lands[c], n, True) for c in cells]).reshape(-1, n)
    tail = np.array([tail_weights(lands[c], n) for c in cells]).reshape(-1, n)
    tests = relabeling_tests(relabeling, {**share, "both": both, "gap": gap, "tail": tail})
    loss_parts = {step: loss_scores(losses[step], pool) for step in steps}
    loss_tests = {step: half_difference_test(relabeling, *loss_parts[step]) for step in steps}
    losses_z = [loss_tests[step].z for step in steps]
    corrected = step_down_max_t(np.hstack([tests["gap"].z, tests["tail"].z, *losses_z]))
    either = step_down_max_t(np.abs(np.hstack([tests["gap"].z, *losses_z])))
    few = effective_images(gap) < FEW_IMAGES
    leans = {
        cell: replace(
            lean_result(lands[cell], pool, tests, i, corrected[[i, len(cells) + i]], bool(few[i]), len(cells)),
            gap_p_two_sided=float(either[i]),
        )
        for i, cell in enumerate(cells)
    }
    loss_leans = {
        step: replace(
            loss_result(
                pool, *loss_parts[step], float(loss_tests[step].p[0]), float(corrected[2 * len(cells) + i]), seed
            ),
            p_two_sided=float(either[len(cells) + i]),
        )
        for i, step in enumerate(steps)
    }
    return leans, loss_leans


def signed_weights(lands: Lands, n_pool: int, by_gap: bool = False) -> np.ndarray:
    """Return w ``[N]`` of which w.y is large where samples land on what their model was trained on."""
    total = lands["a"].weights(n_pool, by_gap)
    return total - lands["b"].weights(n_pool, by_gap) if "b" in lands else total


def class_tests(
    pool: Pool, strata: np.ndarray, lands: Mapping[tuple[int, str], Lands], seed: int
) -> dict[tuple[int, str], ClassLean]:
    """Test and estimate every lean within classes, labels permuted within classes; a family of its own (3.7)."""
    judged = {
        cell: {twin: land for twin in TWINS if (land := of[twin].in_class) is not None} for cell, of in lands.items()
    }
    cells = [cell for cell, of in judged.items() if len(of) == len(TWINS)]
    if not cells:
        return {}
    n, relabeling = len(pool.labels), relabel(pool, seed, strata=strata)
    share = {twin: np.array([judged[c][twin].weights(n) for c in cells]) for twin in TWINS}
    tests = relabeling_tests(relabeling, {"a": share["a"], "b": -share["b"], "both": share["a"] - share["b"]})
    corrected = step_down_max_t(tests["both"].z)
    found = {}
    for i, cell in enumerate(cells):
        shares = shares_of(judged[cell], pool, tests, i)
        p = {twin: float(test.p[i]) for twin, test in tests.items()}
        found[cell] = ClassLean(shares, p, float(corrected[i]), intervals.widen(shares["both"], len(cells)))
    return found


def shares_of(lands: Lands, pool: Pool, tests: Mapping[str, RelabelingTest], i: int) -> dict[str, Estimate]:
    """Return own_share of a, b and both; ``i`` is the column of the tests."""
    if "b" not in lands:
        alone, *_ = landing.own_share_alone(lands["a"], pool, float(tests["a"].sd[i]))
        return {"a": alone, "both": alone}
    both, *_ = landing.own_share_both(lands["a"], lands["b"], pool)
    one = {
        twin: landing.own_share_one(lands[twin], pool, sign, tests[twin].sd[i] / 2)
        for twin, sign in (("a", 1.0), ("b", -1.0))
    }
    return {**one, "both": both}


def lean_result(
    lands: Lands,
    pool: Pool,
    tests: Mapping[str, RelabelingTest],
    i: int,
    corrected: np.ndarray,
    few_images: bool,
    n_looks: int,
) -> LeanResult:
    """Return the estimates and p values of column ``i`` of the tests; ``corrected`` are those of gap and tail."""
    gap_value = float(tests["gap"].value[i]) / len(lands) * pool.stretch
    if "b" in lands:
        both, v_seed, v_hub = landing.own_share_both(lands["a"], lands["b"], pool)
        gap_se = float(np.sqrt(landing.gap_variance(lands["a"], lands["b"], pool)))
    else:
        both, v_seed, v_hub = landing.own_share_alone(lands["a"], pool, float(tests["a"].sd[i]))
        gap_se = float(np.sqrt(landing.gap_variance_alone(lands["a"], pool, float(tests["gap"].sd[i]))))
    gap = Estimate(
        value=gap_value,
        low=gap_value - 1.96 * gap_se,
        high=gap_value + 1.96 * gap_se,
        level=LEVEL,
        n=both.n,
        unit="seed",
        method="two-way: seeds and split" if "b" in lands else both.method,
    )
    return LeanResult(
        share=shares_of(lands, pool, tests, i),
        share_p={twin: float(tests[twin].p[i]) for twin in (*lands, "both")},
        corrected=intervals.widen(both, n_looks),
        gap=gap,
        gap_se=gap_se,
        gap_p=float(tests["gap"].p[i]),
        gap_p_corrected=float(corrected[0]),
        tail_p=float(tests["tail"].p[i]),
        tail_p_corrected=float(corrected[1]),
        v_seed=v_seed,
        v_hub=v_hub,
        few_images=few_images,
    )


def loss_scores(losses: Losses, pool: Pool, by_time: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return pool indices and r of the images of both halves whose loss was measured (5.1).

    r is ln(l_B / l_A); of a single training -2 ln l, with held-out images as the other half, so that half the
    difference between the halves is ln(l_other / l_own) either way. ``[n]``, of the mean losses of an image, or
    ``[n, levels]`` by noise level.
    """
    index = {pair: i for i, pair in enumerate(pool.ids)}
    columns, r = [], []
    for half, ids, ratio in ratios_by_half(losses, by_time):
        for image, value in zip(ids, ratio, strict=True):
            if (half, image) in index:
                columns.append(index[half, image])
                r.append(value)
    return np.array(columns, dtype=np.int64), np.array(r)


def ratios_by_half(losses: Losses, by_time: bool) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield half, ids and r of the images of each half."""
    if "b" not in losses:
        for half, role in (("a", "own"), (DECOYS, "heldout")):
            table = losses["a"][role]
            yield half, table.ids, -2 * np.log(table.values if by_time else table.means)
        return
    for half, mine, twins in (("a", "own", "other"), ("b", "other", "own")):
        a, b = losses["a"][mine], losses["b"][twins]
        yield half, a.ids, np.log(b.values / a.values) if by_time else np.log(b.means / a.means)


def loss_result(
    pool: Pool, columns: np.ndarray, r: np.ndarray, p: float, p_corrected: float, seed: int
) -> LossLeanResult:
    """Return the loss lean with its bootstrap intervals over groups."""
    labels, groups = pool.labels[columns], pool.groups[columns]
    if min((labels > 0).sum(), (labels < 0).sum()) < LEAST_LOSSES or not np.isfinite(r).all():
        missing = intervals.undefined(f"fewer than {LEAST_LOSSES} defined losses in a half", "image", len(r))
        return LossLeanResult(missing, intervals.NAN, intervals.NAN, 1.0, 1.0)
    value = float(r[labels > 0].mean() - r[labels < 0].mean()) / 2
    draws = half_difference_draws(r, labels, groups, seed)
    low, one_low, one_high, high = np.quantile(draws, [0.025, 0.05, 0.95, 0.975])
    estimate = Estimate(
        value=value,
        low=min(low, value),
        high=max(high, value),
        level=LEVEL,
        n=len(r),
        unit="image",
        method="bootstrap of groups within halves",
    )
    return LossLeanResult(estimate, float(one_low), float(one_high), p, p_corrected)


def reference_share(lands: Lands, pool: Pool) -> Reference:
    """Return the own_share of a control that stands for the twins, with its error over samples, and its gap lean."""
    if "b" in lands:
        share, v_seed, _ = landing.own_share_both(lands["a"], lands["b"], pool)
    else:
        share, v_seed, _ = landing.own_share_alone(lands["a"], pool, 0.0)
    weights = signed_weights(lands, len(pool.labels), True)
    gap = float((pool.labels - pool.labels.mean()) @ weights) / len(lands) * pool.stretch
    return Reference(share.value, float(np.sqrt(v_seed)), gap, tail_share(lands))


def reference_loss(losses: Losses, pool: Pool) -> float:
    """Return the loss lean of the linear denoisers of both halves."""
    columns, r = loss_scores(losses, pool)
    labels = pool.labels[columns]
    return float(r[labels > 0].mean() - r[labels < 0].mean()) / 2


def lean_fact(result: LeanResult, reference: Reference, n: int, n_spaces: int = 1) -> Lean:
    """Return what the verdict needs of one lean; ``n_spaces`` are judged beside one another."""
    return Lean(
        value=result.share["both"].value,
        v_seed=result.v_seed,
        v_hub=result.v_hub,
        n_seeds=n,
        p_corrected=result.gap_p_corrected,
        reference=reference.share,
        reference_se=reference.se,
        few_images=result.few_images,
        gap=result.gap.value,
        gap_se=result.gap_se,
        gap_reference=reference.gap,
        n_spaces=n_spaces,
    )
