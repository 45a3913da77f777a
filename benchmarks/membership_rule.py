"""How often the membership rule passes models that leak, and that do not: ``python benchmarks/membership_rule.py``.

Two twins with three scores each are simulated, as many as ``--models`` per row; what they leak is known. Scores of
images never trained on are independent and normal, so that a model without a leak has six chances to fail; a leak of x
% raises a score so that x % of members lie above the threshold of 1 % false positives. Everything else is the project's
own: scores, threshold, limits, exposed list and conclusion (auditor/measuring/membership.py, docs/statistics.md 5.4,
5.5).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import norm

from auditor.config import Budgets
from auditor.measuring import membership
from auditor.measuring.facts import Membership
from auditor.measuring.membership import FIXED, OWN_LOSS, SIMA, TWIN_RATIO
from auditor.records import TWINS, Evidence, LossTable
from auditor.stats.counts import clopper_pearson

BUDGETS = Budgets()
MODELS = 1000
SIZES = ((256, 256), (500, 256), (500, 500), (500, 1000), (1000, 1000), (2000, 1000))
TIMES = np.array([1])
EVERYWHERE = {(twin, score): 1.0 for twin in TWINS for score in FIXED}  # a share of a leak by twin and score
RATIO_OF_A = {("a", TWIN_RATIO): 1.0}
STANDS_OUT = 8.0  # standard deviations by which an identified image does


@dataclass(frozen=True)
class World:
    """What models of one row leak."""

    name: str
    n: int  # members of each twin
    m: int  # non-members
    tpr: float = 0.01  # share of members above the threshold of 1 % false positives, where there is a leak
    where: Mapping[tuple[str, str], float] = field(default_factory=dict)
    identified: int = 0  # members of each half whose twin ratio stands out
    untrained: bool = False  # losses of all images are equal
    group: int = 1  # images of one person, which share half of the variance


def worlds() -> list[World]:
    """Return the rows of the table."""
    return [
        *(World("no leak", *size) for size in SIZES),
        World("no leak, untrained", 500, 1000, untrained=True),
        World("no leak, 4 images a person", 2000, 1000, group=4),
        *(World("5 % everywhere", *size, 0.05, EVERYWHERE) for size in SIZES[2:4]),
        *(World("5 %, twin ratio of one twin", *size, 0.05, RATIO_OF_A) for size in SIZES[2:]),
        *(World("9 % everywhere", *size, 0.09, EVERYWHERE) for size in SIZES[2:5]),
        World("9 %, one twin", 500, 1000, 0.09, {key: 1.0 for key in EVERYWHERE if key[0] == "b"}),
        World("9 %, own loss of both", 500, 1000, 0.09, {(twin, OWN_LOSS): 1.0 for twin in TWINS}),
        *(World("9 %, twin ratio of one twin", *size, 0.09, RATIO_OF_A) for size in SIZES[2:]),
        World("9 %, the same, 4 images a person", 2000, 1000, 0.09, RATIO_OF_A, group=4),
        *(World(f"{k} images a half identified", 500, 1000, identified=k) for k in (3, 5, 8, 10)),
        World("5 of 1,000 a half identified", 1000, 1000, identified=5),
    ]


@dataclass(frozen=True)
class Said:
    """What the rule says of one model."""

    membership: Membership
    false: np.ndarray  # float64 [twins], the share of all non-members above the threshold
    by_rates: bool  # whether the rates alone would pass


def normal(rng: np.random.Generator, n: int, group: int) -> np.ndarray:
    """Return standard normal numbers, of which each ``group`` in turn shares half of the variance."""
    if group == 1:
        return rng.normal(size=n)
    shared = np.repeat(rng.normal(size=-(-n // group)), group)[:n]
    return np.sqrt(0.5) * shared + np.sqrt(0.5) * rng.normal(size=n)


def drawn(world: World, rng: np.random.Generator, model: int) -> list[Evidence]:
    """Return what is known of both networks of one model: losses and SimA whose scores are normal."""
    heldout = np.array([f"{model} h{i}" for i in range(world.m)], dtype=object)
    both = []
    for twin in TWINS:
        own = np.array([f"{model} {twin}{i}" for i in range(world.n)], dtype=object)
        scores = {(name, "own"): normal(rng, world.n, world.group) for name in FIXED}
        scores |= {(name, "heldout"): rng.normal(size=world.m) for name in FIXED}
        for name in FIXED:
            leak = world.where.get((twin, name), 0.0)
            scores[name, "own"] += leak * (norm.isf(0.01) - norm.isf(world.tpr))
        scores[TWIN_RATIO, "own"][: world.identified] += STANDS_OUT
        if world.untrained:
            scores = {key: np.zeros_like(each) for key, each in scores.items()}
        tables = {"own": own, "heldout": heldout}
        losses = {
            role: LossTable(ids, TIMES, np.exp(-0.3 * scores[OWN_LOSS, role])[:, None]) for role, ids in tables.items()
        }
        ratios = {role: np.exp(0.1 * scores[TWIN_RATIO, role])[:, None] for role in tables}
        twins = {
            "other" if role == "own" else role: LossTable(each.ids, TIMES, each.values * ratios[role])
            for role, each in losses.items()
        }
        asked = {role: LossTable(ids, TIMES, np.exp(-scores[SIMA, role])[:, None]) for role, ids in tables.items()}
        none = np.empty(0)
        both.append(
            Evidence(
                *(twin, 1, "", none.astype(int), none, none),
                losses=losses,
                twin_losses=twins,
                attack_scores={"SimA": asked},
            )
        )
    return both


def said_of(world: World, rng: np.random.Generator, model: int) -> Said:
    """Return what the rule says of one model."""
    both = drawn(world, rng, model)
    people = {(twin, f"{model} {twin}{i}"): (twin, i // world.group) for twin in TWINS for i in range(world.n)}
    numbers = {each: i for i, each in enumerate(dict.fromkeys(people.values()))}
    groups = {key: numbers[each] for key, each in people.items()} if world.group > 1 else {}
    scores = [each for evidence in both for each in membership.fixed_scores(evidence, groups)]
    strict, loose = ([membership.judged(each, rate) for each in scores] for rate in (0.01, 0.1))
    listed = membership.exposed_images(both, groups)
    found = membership.conclude(strict, loose, listed, len(scores), BUDGETS)
    false = np.array([norm.sf(each.threshold) for each in strict if each.score.name == SIMA])
    return Said(found, false, not membership.not_hidden(strict, BUDGETS))


def row(world: World, models: int) -> str:
    """Return one row of the table, after simulating its models."""
    rng = np.random.default_rng([world.n, world.m, *world.name.encode()])
    said = [said_of(world, rng, i) for i in range(models)]
    of = {name: sum(each.membership.outcome == name for each in said) for name in ("hidden", "exposed", "undecided")}
    rates = sum(each.by_rates for each in said)
    listed = sum(each.membership.listed > 0 for each in said)
    noted = sum(bool(each.membership.headline) for each in said)
    false = np.concatenate([each.false for each in said])
    told = "-" if world.untrained else f"{false.mean():.2%}, {np.mean(false >= 0.01):.3f}"
    cells = [f"{world.name}, {world.n:,}/{world.m:,}", share(of["hidden"], models), share(of["exposed"], models)]
    cells += [share(rates, models), f"{listed / models:.3f}", f"{noted / models:.3f}", told]
    return f"| {' | '.join(cells)} |"


def share(hits: int, n: int) -> str:
    """Return a share with its 95 % limits."""
    low, high = clopper_pearson(hits, n)
    return f"{hits / n:.3f} [{low:.3f}, {high:.3f}]"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=MODELS, help="simulated models per row")
    parser.add_argument("--smoke", action="store_true", help="two models a row: does it start?")
    given = parser.parse_args()
    print("| what leaks, members/non-members | hidden | exposed | rates alone | listed | at 10 % | false positives |")
    print("|---|---|---|---|---:|---:|---|")
    for world in worlds()[::6] if given.smoke else worlds():
        print(row(world, 2 if given.smoke else given.models), flush=True)


if __name__ == "__main__":
    main()
