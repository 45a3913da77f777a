"""Audits in which nothing depends on the halves: whatever they call biased or memorizing is a false alarm.

N1 to N9 are the generators of docs/statistics.md. Samples are held-out real images, so that
hubs, near-duplicates and clusters are those of real data; twins differ in what they prefer,
in style, or only by chance, and never in what they know of the halves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from auditor.config import Budgets
from auditor.measuring import lean as leaning
from auditor.records import TWINS
from auditor.stats import intervals, minima, relabeling
from calibrating.audits import SPACES, Audit, Losses, halves_differ, judge, loss_tables
from calibrating.table import Row
from calibrating.worlds import (
    Split,
    World,
    digits,
    gaussian_twins,
    joined,
    look_up_images,
    look_up_variants,
    random_split,
    random_split_of_groups,
    smaller,
    with_groups,
    worlds,
    xrays,
)

STYLES = (("plain", "plain"), ("plain", "blurred"), ("pale", "bold"))
TILTS = (0.2, 0.4, 0.8)  # of the log weights per standard deviation: total variation .16, .31, .58
REDRAWN = 0.25  # share of seeds whose image changes from one checkpoint to the next
N_LOSS_IMAGES = 256  # per half


def preferred(rng: np.random.Generator, u: np.ndarray, images: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return for uniform numbers ``u`` images drawn with these weights."""
    cumulative = np.cumsum(weights / weights.sum())
    return images[np.minimum(np.searchsorted(cumulative, u), len(images) - 1)]


def walks(rng: np.random.Generator, n_steps: int, n_seeds: int, coupled: bool) -> dict[str, np.ndarray]:
    """Return uniform numbers ``[checkpoints, S]`` per twin: seeds keep theirs for a while.

    Coupled twins share most of them, ever fewer along the series, as trained twins do.
    """

    def walk() -> np.ndarray:
        u = rng.uniform(size=(n_steps, n_seeds))
        for i in range(1, n_steps):
            kept = rng.uniform(size=n_seeds) >= REDRAWN
            u[i, kept] = u[i - 1, kept]
        return u

    a, b = walk(), walk()
    if coupled:
        share, luck = np.linspace(0.95, 0.5, n_steps)[:, None], rng.uniform(size=n_seeds)
        b = np.where(luck < share, a, b)
    return {"a": a, "b": b}


def differing(split: Split, rng: np.random.Generator, n_steps: int, n_seeds: int, coupled: bool) -> dict:
    """Return image numbers per twin of trainings that prefer opposite ends of one direction (N2)."""
    direction = rng.normal(size=split.world.scores.shape[1])
    score = split.world.scores[split.free] @ (direction / np.linalg.norm(direction))
    order = np.argsort(score)
    images, score = split.free[order], score[order]
    tilt = rng.choice(TILTS)
    u = walks(rng, n_steps, n_seeds, coupled)
    return {t: preferred(rng, u[t], images, np.exp(sign * tilt * score)) for t, sign in (("a", 1), ("b", -1))}


def alike(split: Split, rng: np.random.Generator, n_steps: int, n_seeds: int, coupled: bool) -> dict:
    """Return image numbers per twin, both drawn from all free images (N1)."""
    u = walks(rng, n_steps, n_seeds, coupled)
    return {t: split.free[(u[t] * len(split.free)).astype(int)] for t in TWINS}


def audited(split: Split, images: dict, variants: tuple[str, str] = ("plain", "plain"), **more) -> Audit:
    """Return the audit of twins whose samples are these images in these variants."""
    named = tuple(dict.fromkeys(("plain", *variants, *more.pop("also", ()))))
    lookups = {name: look_up_variants(split, name, named) for name in SPACES}
    m = len(split.world)
    rows = {t: images[t] + m * named.index(v) for t, v in zip(TWINS, variants, strict=True)}
    return Audit(split, lookups, rows, **more)


def n1_independent(world: World, rng: np.random.Generator, n_steps: int, n_seeds: int) -> Audit:
    """Held-out images as samples, each twin draws its own."""
    split = random_split(world, rng)
    return audited(split, alike(split, rng, n_steps, n_seeds, False))


def n1_coupled(world: World, rng: np.random.Generator, n_steps: int, n_seeds: int) -> Audit:
    """Held-out images as samples, most seeds give the same image with both twins."""
    split = random_split(world, rng)
    return audited(split, alike(split, rng, n_steps, n_seeds, True))


def n2(world: World, rng: np.random.Generator, n_steps: int, n_seeds: int) -> Audit:
    """The trainings differ in preference and style."""
    split = random_split(world, rng)
    images = differing(split, rng, n_steps, n_seeds, bool(rng.integers(2)))
    return audited(split, images, STYLES[rng.integers(len(STYLES))])


def n3(world: World, rng: np.random.Generator, n_steps: int, n_seeds: int) -> Audit:
    """N2, and the first two checkpoints have collapsed: one image, twelve prototypes, or saturated images."""
    split = random_split(world, rng)
    images = differing(split, rng, n_steps, n_seeds, bool(rng.integers(2)))
    audit = audited(split, images, STYLES[rng.integers(len(STYLES))], also=("saturated",))
    saturated = (len(audit.lookups[SPACES[0]].gap) // len(world) - 1) * len(world)
    for i, kind in enumerate(rng.permutation(3)[:2]):
        for t in TWINS:
            if kind == 0:
                audit.rows[t][i] = rng.choice(split.free)
            elif kind == 1:
                audit.rows[t][i] = rng.choice(rng.choice(split.free, 12), n_seeds, p=rng.dirichlet(np.ones(12)))
            else:
                audit.rows[t][i] = saturated + audit.rows[t][i] % len(world)
    return audit


def n4(world: World, rng: np.random.Generator, n_steps: int, n_seeds: int) -> Audit:
    """Groups of one to six look-alike images, dealt to the halves by group; the trainings differ."""
    split = random_split_of_groups(world, rng, world.families(1, 6))
    return audited(split, differing(split, rng, n_steps, n_seeds, bool(rng.integers(2))))


def n5(world: World, rng: np.random.Generator, n_steps: int, n_seeds: int) -> Audit:
    """Weights jitter: twin distance and held-out loss move by twice their standard error from step to step."""
    split = random_split(world, rng)
    images = differing(split, rng, n_steps, n_seeds, True)
    shape = (np.arange(n_steps) / (n_steps - 1) - 0.5) ** 2
    onsets = {}
    curves = {}
    for name, n_units, depth in (("divergence", n_seeds, 0.1), ("loss", 300, 0.1)):
        curves[name] = jittering(rng, 0.5 + depth * shape, n_units, spread=0.1)
        draws = minima.resamples(n_units, 1)
        onsets[name] = minima.locate_minimum(curves[name], range(1, n_steps + 1), draws, 1, last_is_none=True).steps
    loss = curves["loss"]
    least = loss.mean(axis=1).argmin()
    rises = [intervals.paired_lower(loss[i], loss[least]) / loss[least].mean() for i in range(n_steps)]
    losses = null_losses(split, rng, n_steps)
    audit = audited(split, images, losses=losses, **onsets)
    return replace(audit, rises=rises)


def jittering(rng: np.random.Generator, shape: np.ndarray, n_units: int, spread: float, times: float = 2) -> np.ndarray:
    """Return a curve ``[checkpoints, units]`` with iterate noise of ``times`` its standard error over units."""
    n_steps = len(shape)
    common, own = rng.normal(0, spread, n_units), rng.normal(0, spread / 2, (n_steps, n_units))
    jitter = rng.normal(0, times * spread / 2 / np.sqrt(n_units), n_steps)
    return shape[:, None] + jitter[:, None] + common + own


def null_losses(split: Split, rng: np.random.Generator, n_steps: int, by_group: float = 0.0, ratio: float = 1.0):
    """Return losses that lean on no half: model b is worse by ``ratio``, and more so on some groups."""
    columns = np.concatenate([np.flatnonzero(split.pool.labels == sign)[:N_LOSS_IMAGES] for sign in (1, -1)])
    n_groups = int(split.pool.groups.max()) + 1
    difficulty = rng.lognormal(0, 0.5, n_groups)[split.pool.groups[columns]]
    uneven = by_group * rng.normal(size=n_groups)[split.pool.groups[columns]]
    images = rng.normal(0, 0.05, len(columns))
    a = 0.05 * difficulty * np.exp(rng.normal(0, 0.02, (n_steps, len(columns))))
    b = a * ratio * np.exp(uneven + images + rng.normal(0, 0.03, (n_steps, len(columns))))
    return Losses(columns, a, b)


def n7(world: World, rng: np.random.Generator, n_steps: int, n_seeds: int) -> Audit:
    """Model b is worse by 15 % everywhere, and unevenly by group; groups of four, dealt by group."""
    split = random_split_of_groups(world, rng, world.families(4, 4))
    losses = null_losses(split, rng, n_steps, by_group=0.1, ratio=1.15)
    return audited(split, alike(split, rng, n_steps, n_seeds, True), losses=losses)


def n9(world: World, rng: np.random.Generator, n_steps: int, n_seeds: int) -> Audit:
    """Gaussian twins fitted to their halves: they learn their half and memorize no image of it."""
    split = random_split(world, rng)
    return smooth_audit(split, rng, n_steps, n_seeds)


def smooth_audit(split: Split, rng: np.random.Generator, n_steps: int, n_seeds: int) -> Audit:
    """Return the audit of Gaussian twins that draw fresh noise at every checkpoint, shared by both."""
    drawn = gaussian_twins(split, rng.standard_normal((n_steps * n_seeds, split.world.images[0].size)))
    m, n = len(split.world), n_steps * n_seeds
    lookups = {}
    for name in SPACES:
        found = look_up_variants(split, name, ("plain",))
        lookups[name] = joined(
            joined(found, look_up_images(split, name, drawn["a"])), look_up_images(split, name, drawn["b"])
        )
    rows = {t: (m + k * n + np.arange(n)).reshape(n_steps, n_seeds) for k, t in enumerate(TWINS)}
    return Audit(split, lookups, rows)


GENERATORS = {
    "N1 independent": n1_independent,
    "N1 coupled": n1_coupled,
    "N2 trainings differ": n2,
    "N3 collapsed early": n3,
    "N4 groups": n4,
    "N5 iterate noise": n5,
    "N7 losses": n7,
}
MANY = ("N1", "N2", "N3")  # 2,000 series: enough to notice a rate of 8 %


@dataclass(frozen=True)
class Size:
    """How much to simulate."""

    series: int | None = None
    quick: bool = False

    def of(self, default: int) -> int:
        """Return the number of series of a case."""
        return self.series or (6 if self.quick else default)

    @property
    def n_steps(self) -> int:
        """Checkpoints of a series."""
        return 4 if self.quick else 16


# ---------------------------------------------------------------------------
# Rates
# ---------------------------------------------------------------------------


def rows(name: str, size: Size, chosen: tuple[World, ...] = ()) -> Iterator[Row]:
    """Yield the false alarms of one generator, in these worlds or all, and the wrong tests that it must catch."""
    among = chosen or worlds()
    counts: Counter[str] = Counter()
    n = size.of(2000 if name.startswith(MANY) else 500)
    alpha = Budgets().alpha
    for i in range(n):
        world = among[i % len(among)]
        rng = np.random.default_rng([i, *name.encode()])
        audit = GENERATORS[name](world, rng, size.n_steps, 1000)
        judged = judge(audit)
        counts["alarm"] += judged.any("biased", "memorizing")
        counts["lean"] += judged.lean_p <= alpha
        counts["copy"] += judged.copy_p <= alpha
        counts["halves"] += halves_differ(audit.split)
        if name.startswith("N3"):
            counts["sign flip"] += sign_flip_p(audit, rng) <= 0.05
            counts["relabeled"] += judged.lean_p <= 0.05
        if name.startswith("N7"):
            counts["ungrouped"] += loss_p(ignoring_groups(audit)) <= 0.05
            counts["relabeled"] += loss_p(audit) <= 0.05
    named = {
        "any biased or memorizing": counts["alarm"],
        f"lean test p ≤ {alpha}": counts["lean"],
        f"copy test p ≤ {alpha}": counts["copy"],
        "halves check stops": counts["halves"],
    }
    yield Row("False alarms", name, n, named, "at most", 0.05)
    wrong = {"sign flip": "N3, signs flipped over seeds", "ungrouped": "N7, images relabeled without their groups"}
    for key, case in wrong.items():
        if name.startswith(case[:2]):
            both = {"wrong test p ≤ 0.05": counts[key], "the project's test p ≤ 0.05": counts["relabeled"]}
            yield Row("Tests that must fail", case, n, both, "beyond", 0.05)


def smooth_rows(size: Size) -> Iterator[Row]:
    """Yield how often Gaussian twins are called biased, per checkpoint (N9)."""
    cases = {"digits": small_digits(), "X-rays": None if size.quick else xrays(3000)}
    for name, world in cases.items():
        if world is None:
            continue
        n_per_half = 200 if name == "digits" else 800
        counts: Counter[str] = Counter()
        n, n_steps = size.of(500), 2
        for i in range(n):
            rng = np.random.default_rng([i, 9])
            split = random_split(world, rng, n_per_half)
            judged = judge(smooth_audit(split, rng, n_steps, 1000))
            counts["biased"] += sum(d.verdict in ("biased", "memorizing") for d in judged.decisions)
            counts["lean"] += sum(
                min(lean.p_corrected for lean in facts.lean.values()) <= Budgets().alpha for facts in judged.facts
            )
        named = {"biased or memorizing, per checkpoint": counts["biased"], "lean test p ≤ 0.025": counts["lean"]}
        yield Row("Gaussian twins", f"N9 {name}, {n_per_half} images per half", n * n_steps, named, "at most", 0.05)


# ---------------------------------------------------------------------------
# Two tests that must fail here
# ---------------------------------------------------------------------------


def sign_flip_p(audit: Audit, rng: np.random.Generator, n: int = 1000) -> float:
    """Return the least family-wise p if seeds, not images, were the unit of chance.

    Both twins' signed gaps are flipped together, seed by seed, the same in all checkpoints and spaces.
    """
    scores = []
    for lookup in audit.lookups.values():
        for i in range(len(audit.rows["a"])):
            a, b = (audit.rows[t][i] for t in TWINS)
            scores.append(lookup.gap[a] * (2 * lookup.in_a[a] - 1) - lookup.gap[b] * (2 * lookup.in_a[b] - 1))
    x = np.array(scores)
    length = np.sqrt((x**2).sum(axis=1))
    signs = rng.choice([-1.0, 1.0], (n + 1, x.shape[1]))
    signs[0] = 1
    z = signs @ x.T / np.where(length > 0, length, 1)
    return float(relabeling.step_down_max_t(z).min())


def loss_p(audit: Audit) -> float:
    """Return the least corrected p of the losses alone."""
    steps = range(len(audit.losses.a))
    scores = [leaning.loss_scores(loss_tables(audit.split, audit.losses, i), audit.split.pool) for i in steps]
    z = np.hstack([relabeling.half_difference_test(audit.split.relabeling, *each).z for each in scores])
    return float(relabeling.step_down_max_t(z).min())


def ignoring_groups(audit: Audit) -> Audit:
    """Return the audit in which images of one group are relabeled one by one."""
    split = audit.split
    alone = np.arange(len(split.pool.labels))
    key = "ungrouped", len(alone)
    if key not in split.world.made:
        split.world.made[key] = relabeling.relabel(replace(split.pool, groups=alone), 0)
    return replace(audit, split=with_groups(split, alone, split.world.made[key]))


def small_digits() -> World:
    """Return digits with 200 images per half."""
    return smaller(digits(), 900, 200)
