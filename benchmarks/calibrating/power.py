"""How often planted lean and planted copies are found, and how often an unbiased audit is called generalizing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np

from auditor.config import Budgets
from auditor.measuring import copies as copying
from auditor.records import TWINS, Evidence, other_twin
from auditor.scope import rare_ratio
from calibrating.audits import Audit, judge
from calibrating.nulls import Size, alike, audited, differing, null_losses
from calibrating.table import Row
from calibrating.worlds import (
    Lookup,
    Split,
    World,
    as_images,
    digits,
    joined,
    look_up_images,
    look_up_variants,
    portraits,
    random_split,
    smaller,
    xrays,
)

SPACES = ("pixel", "correlation", "edges")
N_STEPS, N_PLANTED = 12, 4  # the last four checkpoints carry what is planted
MIXED = 0.3  # share of the nearest own image in a leaning sample
LEANS = {".55": 0.05, ".52": 0.02}  # of own_share above one half, both twins
COPIES = 0.02


def rows(size: Size) -> Iterator[Row]:
    """Yield how often lean and copies are found."""
    wide = xrays(3000)
    cases = [(wide, 800)] if wide is not None and not size.quick else []
    for world, n in (*cases, (digits(), 600)):
        yield from lean_rows(world, n, size)
    yield from copy_rows(size)
    yield from rate_rows(size)


# ---------------------------------------------------------------------------
# Lean
# ---------------------------------------------------------------------------


def lean_rows(world: World, n: int, size: Size) -> Iterator[Row]:
    """Yield the power of the lean verdict: 12 checkpoints, 3 spaces, 1,500 seeds."""
    counts: Counter[tuple[str, str, str]] = Counter()
    shares: dict[tuple[str, str], list[float]] = {}
    n_series = size.of(200)
    for i in range(n_series):
        rng = np.random.default_rng([i, 21])
        split = random_split(world, rng, n)
        lookups = mixed_lookups(split)
        for kind in ("coupled", "independent"):
            for lean, above in LEANS.items():
                rows = leaning_rows(split, rng, above / moving(split, lookups["pixel"]), kind == "coupled")
                facts = judge(Audit(split, lookups, rows), copies=False)
                last = facts.decisions[-1]
                counts[kind, lean, "found"] += last.verdict == "biased"
                counts[kind, lean, "test alone"] += (
                    min(each.p_corrected for each in facts.facts[-1].lean.values()) <= Budgets().alpha
                )
                counts[kind, lean, "false alarm before"] += any(
                    d.verdict == "biased" for d in facts.decisions[:-N_PLANTED]
                )
                shares.setdefault((kind, lean), []).append(facts.facts[-1].lean["pixel"].value)
    for kind, lean in shares:
        required = lean == ".55" and n >= 800
        named = {name: counts[kind, lean, name] for name in ("found", "test alone", "false alarm before")}
        yield Row(
            "Power",
            f"lean {lean}, 1,500 seeds, {world.name} n = {n}, twins {kind}",
            n_series,
            named,
            "at least" if required else "reported",
            0.9,
            f"mean own_share {np.mean(shares[kind, lean]):.3f}",
        )


def mixed_lookups(split: Split) -> dict[str, Lookup]:
    """Return lookups of plain images (rows 0 to M) and of free images mixed with their nearest of a, then of b."""
    plain = look_up_variants(split, "pixel", ("plain",))
    images = split.world.images.astype(float)
    mixed = [
        as_images((1 - MIXED) * images[split.free] + MIXED * images[split.images[nearest[split.free]]])
        for nearest in (plain.nearest_a, plain.nearest_b)
    ]
    return {
        name: joined(look_up_variants(split, name, ("plain",)), look_up_images(split, name, np.concatenate(mixed)))
        for name in SPACES
    }


def moving(split: Split, lookup: Lookup) -> float:
    """Return by how much own_share rises per share of mixed samples."""
    to_a = len(split.world) + np.arange(len(split.free))
    own = (lookup.in_a[to_a].mean() + 1 - lookup.in_a[to_a + len(split.free)].mean()) / 2
    return own - 0.5


def leaning_rows(split: Split, rng: np.random.Generator, part: float, coupled: bool) -> dict[str, np.ndarray]:
    """Return rows of held-out samples of which, at the last checkpoints, a part leans to its own half."""
    rows = alike(split, rng, N_STEPS, 1500, coupled)
    mixed_row = np.zeros(len(split.world), dtype=int)
    mixed_row[split.free] = len(split.world) + np.arange(len(split.free))
    for k, t in enumerate(TWINS):
        moved = rng.uniform(size=1500) < part
        late = rows[t][-N_PLANTED:]
        rows[t][-N_PLANTED:] = np.where(moved, mixed_row[late] + k * len(split.free), late)
    return rows


# ---------------------------------------------------------------------------
# Copies
# ---------------------------------------------------------------------------


def copy_rows(size: Size) -> Iterator[Row]:
    """Yield the power of the copying verdict on real digits: 12 checkpoints, 3 spaces, 1,000 seeds."""
    counts: Counter[str] = Counter()
    flagged = []
    world, n_series = digits(), size.of(200)
    for i in range(n_series):
        rng = np.random.default_rng([i, 22])
        split = random_split(world, rng)
        everything = np.arange(len(world))
        lookups = {name: look_up_variants(split, name, ("plain", "copied"), everything) for name in SPACES}
        rows = alike(split, rng, N_STEPS, 1000, False)
        for t, sign in (("a", 1), ("b", -1)):
            late = rows[t][-N_PLANTED:]
            chosen = rng.choice(1000, round(COPIES * 1000), replace=False)
            late[:, chosen] = len(world) + rng.choice(split.images[split.pool.labels == sign], len(chosen))
        judged = judge(Audit(split, lookups, rows))
        counts["found"] += judged.decisions[-1].verdict == "memorizing"
        counts["false alarm before"] += any(d.verdict == "memorizing" for d in judged.decisions[:-N_PLANTED])
        found = judged.facts[0].copying["pixel"]
        flagged.append(found.control_hits / found.control_n)
    note = f"held-out rate {np.mean(flagged):.2%} in pixel"
    yield Row("Power", "copies 2 %, 1,000 seeds, digits n = 400", n_series, dict(counts), "at least", 0.9, note)


def rate_rows(size: Size) -> Iterator[Row]:
    """Yield the power of the copying test for given held-out rates and numbers of held-out images."""
    n_series = size.of(300)
    for n_heldout in (250, 1000):
        for rate in (0.0, 0.002, 0.004, 0.01):
            found = 0
            for i in range(n_series):
                rng = np.random.default_rng([i, n_heldout, int(1e4 * rate)])
                cells = [(step, name) for step in range(N_STEPS) for name in SPACES]
                ratios = {name: rare_ratio(name) for name in SPACES}
                evidence = {c: flags_as_evidence(rng, rate, c[0] >= N_STEPS - N_PLANTED, n_heldout) for c in cells}
                found += copying.copying_tests(evidence, ratios)[N_STEPS - 1, "pixel"].is_copy(Budgets())
            aim = "at least" if rate == 0 else "reported"
            case = f"copies 2 %, 1,000 seeds, held-out rate {rate:.1%} of {n_heldout:,} images"
            yield Row("Power", case, n_series, {"found": found}, aim, 0.9)


def flags_as_evidence(rng: np.random.Generator, rate: float, copies: bool, n_heldout: int) -> Mapping[str, Evidence]:
    """Return evidence whose flags come at a rate, and of which 2 % are copies."""
    found = {}
    for t in TWINS:
        own, other, heldout = (rng.uniform(size=n) < rate for n in (1000, 1000, n_heldout))
        if copies:
            own[: round(COPIES * 1000)] = True
        near = [np.where(flags, 0.1, 1.0) for flags in (own, other, heldout)]
        unknown = np.full(1000, np.nan)
        found[t] = Evidence(
            t,
            0,
            "pixel",
            np.arange(1000),
            unknown,
            unknown,
            own=near[0][:, None],
            other=near[1][:, None],
            own_nearest=np.arange(1000),
            own_group=np.arange(1000) + 1000 * TWINS.index(t),
            other_group=np.arange(1000) + 1000 * TWINS.index(other_twin(t)),
            own_mean_50=np.ones(1000),
            other_mean_50=np.ones(1000),
            heldout_own_mean_50=np.ones(n_heldout),
            own_outside=np.ones(1000),
            other_outside=np.ones(1000),
            heldout_own=near[2][:, None],
            heldout_own_outside=np.ones(n_heldout),
        )
    return found


# ---------------------------------------------------------------------------
# Safe checkpoints
# ---------------------------------------------------------------------------


def generalizing_rows(size: Size) -> Iterator[Row]:
    """Yield how often audits without any lean end as generalizing: 2,000 seeds, default margins."""
    wide = None if size.quick else xrays(3000)
    cases = [(smaller(digits(), 500, 100), 100), (smaller(digits(), 900, 200), 200), (digits(), 400)]
    cases += [(portraits(), 250), (wide, 400), (wide, 800)]
    for world, n in cases:
        if world is None:
            continue
        for kind in ("coupled", "different"):
            counts: Counter[str] = Counter()
            n_series, n_steps = size.of(100), 8
            for i in range(n_series):
                rng = np.random.default_rng([i, 23])
                split = random_split(world, rng, n)
                draw = alike if kind == "coupled" else differing
                losses = null_losses(split, rng, n_steps)
                audit = audited(split, draw(split, rng, n_steps, 2000, kind == "coupled"), losses=losses)
                judged = judge(audit, may_be_safe=True)
                late = [d.verdict == "generalizing" for d in judged.decisions[n_steps // 2 :]]
                counts["last checkpoint"] += late[-1]
                counts["all of the later half"] += all(late)
                counts["a checkpoint is recommended"] += judged.recommended == "found"
            yield Row(
                "Unbiased audits that are called generalizing",
                f"{world.name}, {n} images per half, twins {kind}",
                n_series,
                dict(counts),
                "at least",
                0.8,
            )
