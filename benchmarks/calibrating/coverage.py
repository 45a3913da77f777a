"""How often intervals hold what they are said to hold.

The truth of a simulated own_share is its mean over random splits and seeds, since its
interval covers both. Images are real; lean is planted by moving a known share of samples
to their own half.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
from scipy import special

from auditor.measuring import lean as leaning
from auditor.measuring import phase
from auditor.metrics import beside_heldout, kid, twins
from auditor.records import TWINS, Estimate, Evidence, Features, Scores
from auditor.stages import quality
from auditor.stats import intervals, landing, minima
from auditor.stats.counts import clopper_pearson
from auditor.stats.landing import Landing
from auditor.stats.relabeling import Pool
from calibrating.nulls import N_LOSS_IMAGES, Size, alike, audited, differing, jittering
from calibrating.table import Row
from calibrating.worlds import World, digits, features, gaussian_twins, look_up_variants, portraits, random_split

LEANS = {".50": 0.0, ".55": 0.1, ".75": 0.5}  # share of samples moved to their own half
TWIN_KINDS = {
    "coupled": partial(alike, coupled=True),
    "independent": partial(alike, coupled=False),
    "different": partial(differing, coupled=True),
}
N_SEEDS, N_UNITS, N_STEPS = 1000, 300, 16
covered = partial(Row, "Coverage", aim="at least", bound=0.93)


def rows(size: Size) -> Iterator[Row]:
    """Yield the coverage of every kind of interval."""
    yield from share_rows(size)
    yield from joint_rows(size)
    yield from argmin_rows(size)
    yield from loss_rows(size)
    yield from mean_rows(size)
    yield from comparison_rows(size)
    yield from quality_rows(size)
    yield from proportion_rows(size)
    yield phase_row(size)


# ---------------------------------------------------------------------------
# own_share and gap lean
# ---------------------------------------------------------------------------


def leaning_landing(found: Landing, twin: str, moved: np.ndarray) -> Landing:
    """Return a landing in which some samples lie nearer to their own half."""
    return replace(found, in_a=np.where(moved, float(twin == "a"), found.in_a))


def share_rows(size: Size) -> Iterator[Row]:
    """Yield the coverage of own_share of both twins, of one twin, and of gap lean."""
    n = size.of(1000)
    counts: Counter[tuple[str, str]] = Counter()
    total = 0
    for world in (each for each in (digits(), portraits()) if each is not None):
        found = [share_estimates(world, np.random.default_rng([i, 12])) for i in range(n // 2)]
        total += len(found)
        for case in found[0]:
            for name in found[0][case]:
                estimates = [each[case][name] for each in found]
                truth = np.mean([e.value for e in estimates])
                counts[case, name] += sum(e.low <= truth <= e.high for e in estimates)
    for name in ("own_share, two-way", "own_share of one twin, relabeling", "gap_lean, two-way"):
        for case in dict.fromkeys(case for case, _ in counts):
            yield covered(f"{name}; {case}", n=total, counts={"covered": counts[case, name]})


def share_estimates(world: World, rng: np.random.Generator) -> dict:
    """Return the estimates of one split, by kind of twins and lean, and by what is estimated."""
    split = random_split(world, rng)
    lookup = look_up_variants(split, "pixel", ("plain",))
    lands = {}
    for kind, draw in TWIN_KINDS.items():
        images = draw(split, rng, n_steps=1, n_seeds=N_SEEDS)
        for lean, part in LEANS.items():
            moved = {t: rng.uniform(size=N_SEEDS) < part for t in TWINS}
            case = f"twins {kind}, T = {lean}", "pixel"
            lands[case] = {t: leaning_landing(lookup.landing(images[t][0]), t, moved[t]) for t in TWINS}
    results, _ = leaning.lean_tests(split.pool, split.relabeling, lands, {}, 1)
    return {
        case: {
            "own_share, two-way": result.share["both"],
            "own_share of one twin, relabeling": result.share["a"],
            "gap_lean, two-way": result.gap,
        }
        for (case, _), result in results.items()
    }


def joint_rows(size: Size) -> Iterator[Row]:
    """Yield how often all corrected intervals of a series hold one half at once."""
    n, n_steps, held = size.of(500), size.n_steps, 0
    for i in range(n):
        rng = np.random.default_rng([i, 13])
        split = random_split(digits(), rng)
        audit = audited(split, differing(split, rng, n_steps, N_SEEDS, True))
        ends = [
            intervals.widen(estimate, n_steps * len(audit.lookups))
            for lookup in audit.lookups.values()
            for a, b in zip(audit.rows["a"], audit.rows["b"], strict=True)
            for estimate, *_ in (landing.own_share_both(lookup.landing(a), lookup.landing(b), split.pool),)
        ]
        held += all(low <= 0.5 <= high for low, high in ends)
    yield covered("own_share, corrected: 16 checkpoints x 2 spaces at once", n=n, counts={"covered": held})


# ---------------------------------------------------------------------------
# Argmin sets
# ---------------------------------------------------------------------------


def argmin_rows(size: Size) -> Iterator[Row]:
    """Yield how often a given minimiser is in its set, with and without jittering weights."""
    grid = np.arange(N_STEPS) / (N_STEPS - 1)
    shapes = {
        "U": ((grid - grid[7]) ** 2, 7),
        "edge": (grid**2, 0),
        "flat": (0 * grid, 5),
        "plateau": (np.maximum(0, np.abs(grid - 0.5) - 0.2), 6),
    }
    n, draws = size.of(1000), minima.resamples(N_UNITS, 1)
    for name, (shape, minimum) in shapes.items():
        for times in (0, 2):
            inside: Counter[str] = Counter()
            for i in range(n):
                curve = jittering(np.random.default_rng([i, 14]), 0.5 + 0.1 * shape, N_UNITS, 0.1, times)
                jitter = minima.jitter_of(curve)
                inside["covered"] += bool(minima.argmin_set(curve, draws, i, jitter)[minimum])
                if times:
                    inside["ignoring iterate noise"] += bool(minima.argmin_set(curve, draws, i)[minimum])
            noise = f"iterate noise {times} SE" if times else "no iterate noise"
            yield covered(f"argmin set; {name}, {noise}", n=n, counts=dict(inside))


# ---------------------------------------------------------------------------
# Losses, means, proportions
# ---------------------------------------------------------------------------


def loss_rows(size: Size) -> Iterator[Row]:
    """Yield the coverage of the loss lean's bootstrap, groups of one and of four images."""
    n, labels = size.of(1000), np.repeat([1.0, -1.0], N_LOSS_IMAGES)
    columns = np.arange(len(labels))
    for members in (1, 4):
        pool = Pool(tuple(("a" if y > 0 else "b", str(i)) for i, y in enumerate(labels)), labels, columns // members)
        for lean in (0.0, 0.05):
            held: Counter[str] = Counter()
            for i in range(n):
                rng = np.random.default_rng([i, 15])
                by_group = 0.1 * rng.standard_gamma(2, len(columns) // members)[pool.groups]
                r = 0.14 + lean * labels + by_group + rng.normal(0, 0.05, len(columns))
                found = leaning.loss_result(pool, columns, r, 1.0, 1.0, 1)
                held["covered"] += found.estimate.low <= lean <= found.estimate.high
                held["lower 95 % bound"] += found.low <= lean
                held["upper 95 % bound"] += lean <= found.high
            yield covered(f"loss_lean; groups of {members}, lean {lean}", n=n, counts=dict(held))


def mean_rows(size: Size) -> Iterator[Row]:
    """Yield the coverage of Student's t on skewed scores, of the ratio of means, and of the paired lower limit."""
    n = size.of(1000)
    distances = digits().table("pixel", "blurred")[1][:, 1].astype(float)
    held: Counter[str] = Counter()
    for i in range(n):
        rng = np.random.default_rng([i, 16])
        x = rng.choice(distances, N_SEEDS)
        held["distance"] += contains(intervals.mean_interval(Scores("seed", np.arange(N_SEEDS), x)), distances.mean())
        loss = rng.lognormal(0, 0.7, 256)
        held["loss"] += contains(intervals.mean_interval(Scores("image", np.arange(256), loss)), np.exp(0.7**2 / 2))
        held["ratio"] += contains(intervals.mean_interval(ratio_scores(rng)), 0.6)
        first = loss * np.exp(rng.normal(0.02, 0.1, 256))
        truth = np.exp(0.7**2 / 2) * (np.exp(0.02 + 0.1**2 / 2) - 1)
        held["rise"] += intervals.paired_lower(first, loss) <= truth
    yield covered("t; distance to the nearest image, 1,000 seeds", n=n, counts={"covered": held["distance"]})
    yield covered("t; loss of 256 images, log-normal", n=n, counts={"covered": held["loss"]})
    yield covered("t; twin_distance_ratio, linearized", n=n, counts={"covered": held["ratio"]})
    yield covered("one-sided t; rise of the loss", n=n, counts={"covered": held["rise"]})


def ratio_scores(rng: np.random.Generator) -> Scores:
    """Return the scores of a twin distance that is .6 of that of different seeds, both skewed and dependent."""
    common = rng.gamma(8, 1 / 8, N_SEEDS)
    near, far = common * rng.gamma(2, 0.3, N_SEEDS), common * rng.gamma(20, 1 / 20, N_SEEDS)
    return twins.ratio(Evidence("a", 0, "pixel", np.arange(N_SEEDS), near, far))


def contains(estimate: Estimate, truth: float) -> bool:
    """Return whether the interval holds the truth."""
    return bool(estimate.low <= truth <= estimate.high)


def comparison_rows(size: Size) -> Iterator[Row]:
    """Yield the coverage of AUC, mean shift and 99 % quantile; 1,000 samples and 300 held-out images."""
    n = size.of(1000)
    for shape in (9, 20):
        held: Counter[str] = Counter()
        for i in range(n):
            rng = np.random.default_rng([i, 19])
            samples, heldout = rng.gamma(8, 1 / 8, N_SEEDS), rng.gamma(shape, 1 / 8, 300)
            values, second, _ = beside_heldout.placements(samples, heldout)
            found = intervals.auc(Scores("seed", np.arange(N_SEEDS), values, second=second))
            held["auc"] += contains(found, special.betainc(8, shape, 0.5))
            values, second, _ = beside_heldout.differences(samples, heldout)
            found = intervals.two_sample(Scores("seed", np.arange(N_SEEDS), values, second=second))
            held["shift"] += contains(found, (shape - 8) / 8)
            tail = intervals.quantile_99(Scores("seed", np.arange(N_SEEDS), samples))
            held["tail"] += contains(tail, special.gammaincinv(8, 0.99) / 8)
        true = special.betainc(8, shape, 0.5)
        yield covered(f"AUC, DeLong on the logit scale; true {true:.3f}", n=n, counts={"covered": held["auc"]})
        yield covered(f"mean shift, Welch; true {(shape - 8) / 8:.3f}", n=n, counts={"covered": held["shift"]})
    yield covered("99 % quantile, order statistics", n=n, counts={"covered": held["tail"]})


def quality_rows(size: Size) -> Iterator[Row]:
    """Yield the coverage of KID, precision, recall, density and coverage over seeds, the held-out images fixed."""
    n, n_seeds, split = size.of(300), 500, random_split(digits(), np.random.default_rng(17))
    everything = digits().features("pixel")
    chosen = everything.vectors[split.heldout]
    heldout = Features("pixel", "heldout", chosen, tuple(map(str, split.heldout)))
    against = quality.targets({"heldout": heldout})
    estimates: dict[str, list[Estimate]] = {}
    for i in range(n):
        eps = np.random.default_rng([i, 17]).standard_normal((n_seeds, chosen.shape[1]))
        samples = features("pixel", gaussian_twins(split, eps)["a"])
        scores = {"KID, linearized t": Scores("seed", np.arange(n_seeds), kid.seed_scores(samples.vectors, chosen))}
        for name, values in quality.fidelity(samples, against)["heldout"].items():
            scores[f"{name}, delete-block jackknife"] = Scores("block of seeds", np.arange(len(values)), values)
        for name, each in scores.items():
            interval = intervals.mean_interval if name.startswith("KID") else intervals.jackknife
            estimates.setdefault(name, []).append(interval(each))
    for name, found in estimates.items():
        truth = np.mean([e.value for e in found])
        yield covered(f"{name}; 500 seeds", n=n, counts={"covered": sum(contains(e, truth) for e in found)})


def proportion_rows(size: Size) -> Iterator[Row]:
    """Yield the coverage of Clopper and Pearson's interval; it is never below nominal."""
    n = size.of(1000)
    for p in (0.001, 0.02, 0.3):
        hits = np.random.default_rng([18, int(1000 * p)]).binomial(2000, p, n)
        held = sum(low <= p <= high for low, high in (clopper_pearson(int(h), 2000) for h in hits))
        yield covered(f"Clopper-Pearson; {p} of 2,000", n=n, counts={"covered": held})


def phase_row(size: Size) -> Row:
    """Return how often a biased phase is claimed where both curves have their minimum at one step."""
    n, held = size.of(500), Counter()
    shape = 0.5 + 0.1 * (np.arange(N_STEPS) / (N_STEPS - 1) - 0.5) ** 2
    for i in range(n):
        rng = np.random.default_rng([i, 20])
        curves = [jittering(rng, shape, n_units, 0.1, 2) for n_units in (N_SEEDS, N_UNITS)]
        found = phase.find(*curves, range(1, N_STEPS + 1), (1, 2), i)
        held["claimed"] += found.claimed
        held["cross-fitted p ≤ 0.05"] += found.p <= 0.05
        held["interval of the ratio misses 1"] += not found.ratio_low <= 1 <= found.ratio_high
    return Row("Biased phase", "one minimum, iterate noise 2 SE", n, dict(held), "at most", 0.05)
