"""How often the membership rule passes models that leak, and that do not: ``python benchmarks/membership_rule.py``.

Two twins with three scores each are simulated, as many as ``--models`` per row; what they leak is known. Scores of
images never trained on are independent and normal, so that a model without a leak has six chances to fail; a leak of x
% raises a score so that x % of members lie above the threshold of 1 % false positives. Everything else is the project's
own: scores, threshold, limits, exposed list and conclusion (auditor/measuring/membership.py, docs/statistics.md 5.4,
5.5).

A second table (``--smooth-only``: it alone) is of smooth twins on real images: Gaussians fitted to halves, whose losses
are measured. They memorize nothing, and yet pictures unlike all others move them. The list is made of their losses as
they are, and beyond those of the same Gaussians at other noise; then with five images a half planted whose own loss is
halved. Images are those in ../shared/data where they are, and the digits of scikit-learn.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from scipy.stats import norm

from auditor.config import Budgets
from auditor.measuring import membership
from auditor.measuring.facts import Membership
from auditor.measuring.membership import FIXED, OWN_LOSS, SIMA, TWIN_RATIO
from auditor.records import TWINS, Evidence, LossTable, other_twin
from auditor.stats.counts import clopper_pearson

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for a test that runs this file

import hidden_copies

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


# Smooth twins on real images ------------------------------------------------------------

SIDE, LEVELS, PLANTED = 14, 8, 5
SMOOTH = (("x-rays", (500, 1000, 2000)), ("hands", (500, 1000)), ("portraits", (250, 400)), ("digits", (400, 800)))


def gray(images: np.ndarray, side: int) -> np.ndarray:
    """Return pictures in one channel, of at most ``side`` pixels, uint8 ``[n, h, w, 1]``."""
    from PIL import Image

    plain = images.mean(axis=3).astype(np.uint8)
    if plain.shape[1] <= side:
        return plain[..., None]
    small = [np.asarray(Image.fromarray(each).resize((side, side), Image.Resampling.BOX)) for each in plain]
    return np.stack(small)[..., None]


def smooth_losses(halves: Mapping[str, np.ndarray], seed: int) -> dict[str, dict[str, LossTable]]:
    """Return the losses of the Gaussian of each half on own and other images, by half and role."""
    from auditor.diffusion import denoising
    from auditor.diffusion.gaussian import fit_vectors, linear_denoiser
    from auditor.diffusion.schedules import DDPM

    times, shape = denoising.time_levels(LEVELS, 1000), halves["a"].shape[1:]
    found: dict[str, dict[str, LossTable]] = {}
    for twin in TWINS:
        vectors = (halves[twin] / 127.5 - 1).reshape(len(halves[twin]), -1)
        model = linear_denoiser(fit_vectors(vectors), shape, DDPM)
        for name, images in halves.items():
            some = images[:1000]
            ids = [f"{name}{i}" for i in range(len(some))]
            eps = denoising.cell_noise(seed, ids, name, LEVELS, (shape[2], *shape[:2]))
            values = denoising.predict(model, some, eps, times, 500).losses
            role = "own" if name == twin else "other"
            found.setdefault(twin, {})[role] = LossTable(np.array(ids, dtype=object), times, values)
    return found


def list_of(
    losses: Mapping[str, Mapping[str, LossTable]], linear: Mapping[str, Mapping[str, LossTable]] | None, gain: float = 0
) -> np.ndarray:
    """Return the ids on the exposed list, after the own loss of the first images of each half fell by a log ratio."""
    both, none = [], np.empty(0)
    for twin in TWINS:
        own = losses[twin]["own"]
        values = own.values.copy()
        values[:PLANTED] *= np.exp(-gain)
        twins = {"other": losses[other_twin(twin)]["other"]}
        mine = {"own": replace(own, values=values)}
        both.append(Evidence(*(twin, 1, "", none.astype(int), none, none), losses=mine, twin_losses=twins))
    found = membership.exposed_images(both, {}, linear)
    assert found is not None, "both networks were measured"
    return found.ids[found.listed]


def smooth_row(name: str, n: int, images: np.ndarray, repeats: int) -> str:
    """Return one row of the second table."""
    planted = {f"{half}{i}" for half in TWINS for i in range(PLANTED)}
    plain, beyond, found = [], [], []
    for seed in range(repeats):
        drawn_images = images[np.random.default_rng(seed).permutation(len(images))[: 2 * n]]
        halves = {"a": drawn_images[:n], "b": drawn_images[n:]}
        losses, linear = (smooth_losses(halves, 2 * seed + i) for i in range(2))
        plain.append(len(list_of(losses, None)))
        beyond.append(len(list_of(losses, linear)))
        found.append(len(planted & set(list_of(losses, linear, np.log(2)))))
    cells = [name, f"{n:,}", str(repeats), f"{np.count_nonzero(plain)} ({np.median(plain):g})"]
    cells += [str(np.count_nonzero(beyond)), f"{min(found)} to {max(found)}"]
    return f"| {' | '.join(cells)} |"


def show_smooth(given: argparse.Namespace) -> None:
    """Print the table of smooth twins."""
    print("\n| images | a half | twins | listed as they are (median) | beyond a smooth model | of 10 planted |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, sizes in (("digits", (40,)),) if given.smoke else SMOOTH:
        images = hidden_copies.images_of(name, given.data)
        for n in sizes if images is not None else ():
            if 2 * n <= len(images):
                print(smooth_row(name, n, gray(images, SIDE), 1 if given.smoke else given.twins), flush=True)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=MODELS, help="simulated models per row")
    parser.add_argument("--twins", type=int, default=10, help="smooth twins per row")
    parser.add_argument("--smooth-only", action="store_true", help="the second table alone")
    parser.add_argument("--data", type=Path, default=hidden_copies.SHARED, help="where the image sets lie")
    parser.add_argument("--smoke", action="store_true", help="one model: does it start?")
    given = parser.parse_args()
    if not given.smooth_only:
        print("| what leaks, members/others | hidden | exposed | rates alone | listed | at 10 % | false positives |")
        print("|---|---|---|---|---:|---:|---|")
        for world in worlds()[6:7] if given.smoke else worlds():
            print(row(world, 1 if given.smoke else given.models), flush=True)
    show_smooth(given)


if __name__ == "__main__":
    main()
