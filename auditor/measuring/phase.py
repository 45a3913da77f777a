"""Is there a biased phase: held-out loss still falling while samples already lean (docs/statistics.md 6.4, 14.4).

Twins tell it by when they begin to diverge; of a single training, by when its samples lean on its images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import special

from auditor.config import Budgets
from auditor.measuring import verdict
from auditor.measuring.facts import StepFacts
from auditor.measuring.onsets import UNLIKE, lean_state
from auditor.scope import Scope
from auditor.seeds import derived_seed
from auditor.stats import minima
from auditor.stats.intervals import NAN
from auditor.stats.minima import Onset

JOINT_LEVEL = 0.975  # of each set, so that both hold together at 95 %


@dataclass(frozen=True)
class Phase:
    """What can be said of tau_div < tau_loss."""

    claimed: bool  # the sets are disjoint and in this order
    ratio_low: float = NAN  # interval of tau_loss / tau_div; above 1 is a biased phase. NaN where tau_div may be step 0
    ratio_high: float = NAN
    bootstrap_share: float = NAN  # of resamples in which tau_div < tau_loss; descriptive
    p: float = NAN  # cross-fitted intersection-union test; descriptive
    note: str = ""


def find(
    distances: np.ndarray, losses: np.ndarray, steps: Sequence[int], seeds: tuple[int, int], jitter_seed: int
) -> Phase:
    """Compare where the twin distance and the held-out loss have their minimum.

    Parameters
    ----------
    distances
        float64 ``[checkpoints, seeds]``, chance-normalized twin distance.
    losses
        float64 ``[checkpoints, images]``, held-out loss. Both over the same evaluable ``steps``.
    seeds
        Of the resamples of seeds and of images: those that all curves share.
    """
    if len(steps) < 3 or losses.size == 0 or distances.size == 0:
        return Phase(
            False,
            NAN,
            NAN,
            NAN,
            NAN,
            "too few checkpoints, no held-out loss, or no twin",
        )
    curves = (distances, losses)
    draws = [minima.resamples(x.shape[1], seed) for x, seed in zip(curves, seeds, strict=True)]
    jitters = [minima.jitter_of(x) or minima.NO_JITTER for x in curves]
    sets = [
        np.asarray(steps)[minima.argmin_set(x, d, jitter_seed + i, jitters[i], JOINT_LEVEL)]
        for i, (x, d) in enumerate(zip(curves, draws, strict=True))
    ]
    if not all(map(len, sets)):
        return Phase(False, note="a confidence set is empty")
    least = [(d @ x.T).argmin(axis=1) for x, d in zip(curves, draws, strict=True)]
    from_zero = sets[0].min() == 0
    return Phase(
        claimed=bool(sets[0].max() < sets[1].min()),
        ratio_low=NAN if from_zero else float(sets[1].min() / sets[0].max()),
        ratio_high=NAN if from_zero else float(sets[1].max() / sets[0].min()),
        bootstrap_share=float((least[0] < least[1]).mean()),
        p=cross_fitted(distances, losses, jitters[0].v, jitters[1].v, jitter_seed),
        note="the twins may be closest at step 0, to which no step has a ratio" if from_zero else "",
    )


def phase_check(
    scope: Scope, losses: np.ndarray, distances: Mapping[str, np.ndarray], kept: Sequence[int]
) -> dict[str, Any]:
    """Return the biased phase as the record of a run holds it; what it needs, samples, a quick audit has not.

    Both curves are given over all steps, ``kept`` are the positions of those that are not underfit.
    """
    if not scope.with_samples:
        return {"note": "no samples were drawn"}
    if scope.unlike_progress:
        return {"note": UNLIKE}
    seeds = derived_seed("seeds", scope.seed), derived_seed("images", scope.seed)
    jitter = derived_seed("jitter", "phase", scope.seed)
    steps = [scope.steps[i] for i in kept]
    found = find(distances[scope.headline_space][kept], losses[kept], steps, seeds, jitter)
    return {name: without_nan(value) for name, value in asdict(found).items()}


def of_one_training(facts: Sequence[StepFacts], loss: Onset, budgets: Budgets) -> dict[str, Any]:
    """Return from where on samples of a single training lean, beside the least held-out loss, and what follows.

    ``lean_step`` is the first of two consecutive checkpoints, or the last, at which lean or tail is found in any judged
    space, -1 where none is; ``loss_low`` and ``loss_high`` bound the confidence set of the minimum, -1 where it is not
    located; ``before_loss`` says that the lean comes before all of it. ``sentence`` is the stopping rule that follows.
    """
    judged = [each for each in facts if not each.underfit]
    states = [[lean_state(each, space, budgets) for space in each.lean] for each in judged]
    safe, found = ([all(s for s, _ in each) for each in states], [any(f for _, f in each) for each in states])
    leans = verdict.risk_onset([each.step for each in judged], safe, found)[2] if judged else -1
    low, high = min(loss.steps, default=-1), max(loss.steps, default=-1)
    located = loss.status in ("found", "edge")
    before = bool(leans >= 0 and located and leans < low)
    least = (
        f"the held-out loss is least at step {loss.step:,} ({low:,} to {high:,})" if located else "no minimum is seen"
    )
    if leans < 0:
        said = f"No lean is found at any checkpoint; {least}."
    elif before:
        said = (
            f"Samples lean from step {leans:,} on; {least}. Stopping at the least loss is too late: stop by the lean."
        )
    else:
        said = f"Samples lean from step {leans:,} on; {least}. Stop by whichever comes first."
    return {"before_loss": before, "lean_step": leans, "loss_low": low, "loss_high": high, "sentence": said}


def without_nan(value: Any) -> Any:
    """Return None for NaN, which JSON does not know."""
    return None if isinstance(value, float) and np.isnan(value) else value


def cross_fitted(distances: np.ndarray, losses: np.ndarray, v_distance: float, v_loss: float, seed: int) -> float:
    """Return p of "some c1 < c2 has a lower loss at c2 and a larger twin distance there".

    c1 and c2, the two minima, are chosen on one half of seeds and images and tested on the
    other; both differences must show, so the larger p counts; the halves then swap and the
    smaller p is doubled.
    """
    folds = [(halves(distances.shape[1], seed), halves(losses.shape[1], seed + 1))]
    folds.append((~folds[0][0], ~folds[0][1]))
    p = [one_fold(distances[:, a], losses[:, b], distances[:, ~a], losses[:, ~b], v_distance, v_loss) for a, b in folds]
    return min(1.0, 2 * min(p))


def one_fold(
    d_choose: np.ndarray, l_choose: np.ndarray, d_test: np.ndarray, l_test: np.ndarray, v_distance: float, v_loss: float
) -> float:
    """Return the larger p of the two differences at checkpoints chosen elsewhere; 1 if they come in the other order."""
    c1, c2 = int(d_choose.mean(axis=1).argmin()), int(l_choose.mean(axis=1).argmin())
    if c1 >= c2:
        return 1.0
    return max(larger_p(l_test[c1], l_test[c2], v_loss), larger_p(d_test[c2], d_test[c1], v_distance))


def larger_p(first: np.ndarray, second: np.ndarray, v: float) -> float:
    """Return the one-sided p that mean(first) > mean(second), units paired, iterate noise on both."""
    difference = first - second
    se = np.sqrt(difference.var(ddof=1) / len(difference) + 2 * v)
    return 1.0 if se == 0 else float(special.ndtr(-difference.mean() / se))


def halves(n: int, seed: int) -> np.ndarray:
    """Return a random half of n units, bool ``[n]``."""
    chosen = np.zeros(n, dtype=bool)
    chosen[np.random.default_rng(seed).permutation(n)[: n // 2]] = True
    return chosen
