"""Time the way from evidence on disk to verdicts: 100 checkpoints, 2,000 seeds, 3 spaces, under 20 s on two cores.

    .venv/bin/python benchmarks/measuring_speed.py [--run DIR] [--steps 100] [--profile]

The evidence is made up: samples that drift from the middle of the training images to single
ones, described by columns that hang together as real ones do. It is written once to DIR.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import tempfile
import time
from pathlib import Path

import numpy as np

from auditor.config import Budgets
from auditor.measuring import measure
from auditor.records import TWINS
from auditor.run import RunDirectory, columns, tables
from auditor.run.places import EVIDENCE
from auditor.scope import Scope
from auditor.stages import coverage, losses, quality, sets
from auditor.stages import nearest as evidence

SPACES = ("pixel", "correlation", "clip")
IMAGES = 1000  # per half; and half as many held-out images
LOSS_IMAGES, LEVELS = 256, 16
CONTROLS = {"smooth": 4000, "copier": 512, "heldout": IMAGES // 6}


def identifiers(n: int) -> np.ndarray:
    """Return the ids of n images."""
    return np.array([f"images/{i:06d}.png" for i in range(n)], dtype=object)


def ascending(rng: np.random.Generator, n: int, k: int, low: float) -> np.ndarray:
    """Return k ascending distances for each of n queries, as in a space of a few dozen dimensions."""
    return np.sort(rng.gamma(30, 1 / 30, (n, k)), axis=1) * low


def neighbors(rng: np.random.Generator, role: str, n: int, low: float) -> dict[str, np.ndarray]:
    """Return the id and distance columns of one search."""
    distances = ascending(rng, n, 8, low)
    ids = identifiers(IMAGES)[rng.integers(IMAGES, size=(n, 8))]
    return {f"{role}_id_{j + 1}": ids[:, j] for j in range(8)} | {
        f"{role}_distance_{j + 1}": distances[:, j] for j in range(8)
    }


def sample_rows(rng: np.random.Generator, n: int, progress: float) -> dict[str, np.ndarray]:
    """Return one evidence table; ``progress`` from 0 to 1 makes the twins diverge and lean."""
    data = {"seed": np.arange(n)} | neighbors(rng, "own", n, 1 - 0.2 * progress) | neighbors(rng, "other", n, 1)
    both = np.sort(
        np.column_stack([data[f"{role}_distance_{j}"] for role in ("own", "other") for j in range(1, 9)]), axis=1
    )
    is_own = data["own_distance_1"] < data["other_distance_1"]
    for j in range(1, 9):
        own = is_own if j == 1 else rng.random(n) < 0.5
        data[f"pool_role_{j}"] = np.where(own, "own", "other").astype(object)
        data[f"pool_id_{j}"] = np.where(own, data[f"own_id_{j}"], data[f"other_id_{j}"])
        data[f"pool_distance_{j}"] = both[:, j - 1]
    distance = (1 - progress) ** 2 + progress**2 + rng.normal(0, 0.1, n)
    unknown = {c.name: rng.gamma(30, 1 / 30, n) for c in columns.EVIDENCE if c.name not in data}
    unknown |= evidence.blank([c for c in columns.EVIDENCE if "class" in c.name], n)  # as of unconditional models
    return (
        unknown
        | data
        | {
            "pool_own_distance": data["own_distance_1"],
            "pool_other_distance": data["other_distance_1"],
            "own_outside_distance": data["own_distance_2"],
            "other_outside_distance": data["other_distance_2"],
            "own_mean_distance_50": 1.5 * data["own_distance_8"],
            "own_cluster_size": np.ones(n),
            "own_cell": rng.integers(3, size=n),
            "twin_distance": distance,
            "different_seed_distance": 1 + rng.normal(0, 0.05, n),
            "kid_score": rng.normal(0.01, 0.1, n),
            "memorized": rng.random(n) < 0.01,
            "saturated": rng.uniform(0, 0.1, n),
        }
    )


def heldout_rows(rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    """Return the held-out table."""
    data = {"id": identifiers(n)} | neighbors(rng, "a", n, 1.0) | neighbors(rng, "b", n, 1.0)
    for twin in TWINS:
        nearest, second = data[f"{twin}_distance_1"], data[f"{twin}_distance_2"]
        data |= {f"pool_{twin}_distance": nearest, f"{twin}_outside_distance": second, f"{twin}_cell": nearest > 0.6}
        data |= {f"{twin}_mean_distance_50": 1.5 * second, f"cover_{twin}_distance": nearest}
    data |= evidence.blank([c for c in sets.HELDOUT if "class" in c.name], n)
    return data | {"within_distance_5": np.full(n, 0.9)}


def loss_rows(rng: np.random.Generator, sets: tuple[str, ...], level: float) -> dict[str, np.ndarray]:
    """Return one loss table."""
    n = len(sets) * LOSS_IMAGES * LEVELS
    return {
        "set": np.repeat(sets, LOSS_IMAGES * LEVELS).astype(object),
        "id": np.tile(np.repeat(identifiers(LOSS_IMAGES), LEVELS), len(sets)),
        "t": np.tile(np.arange(LEVELS), len(sets) * LOSS_IMAGES),
        "loss": rng.gamma(50, level / 50, n),
        "share": np.full(n, 1 / LEVELS),
    }


def quality_rows(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return one quality table."""
    cells = [(s, k, b) for s in ("own", "other", "heldout") for k in quality.STATISTICS for b in range(20)]
    cells.append(("heldout", "frechet", 0))
    names, statistics, blocks = (np.array(x, dtype=object) for x in zip(*cells, strict=True))
    return {"set": names, "statistic": statistics, "block": blocks, "score": rng.normal(0.7, 0.1, len(cells))}


def pool_rows(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return the pool table."""
    half, ids = np.repeat(TWINS, IMAGES).astype(object), np.tile(identifiers(IMAGES), 2)
    nearest = rng.permutation(2 * IMAGES)
    return {
        "half": half,
        "id": ids,
        "group": np.arange(2 * IMAGES),
        "class": np.full(2 * IMAGES, np.nan),
        "in_class_pool": np.zeros(2 * IMAGES, dtype=bool),
        "brightness": rng.normal(100, 20, 2 * IMAGES),
        "saturated": rng.uniform(0, 0.1, 2 * IMAGES),
        "nearest_half": half[nearest],
        "nearest_id": ids[nearest],
        "nearest_distance": rng.gamma(30, 1 / 30, 2 * IMAGES),
        "heldout_distance": rng.gamma(30, 1 / 30, 2 * IMAGES),
    }


def train_rows(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return the table of one half."""
    data = {"id": identifiers(IMAGES), "digest": identifiers(IMAGES), "cluster": np.arange(IMAGES)}
    data |= {"in_pool": np.ones(IMAGES, bool), "outside_distance": rng.gamma(30, 1 / 30, IMAGES)}
    return data | neighbors(rng, "own", IMAGES, 1.0)


def fabricate(run: RunDirectory, scope: Scope) -> None:
    """Write the evidence of a whole run."""
    rng = np.random.default_rng(0)
    for space in scope.spaces:
        tables.write(run.place(EVIDENCE, "heldout", space), sets.HELDOUT, heldout_rows(rng, IMAGES // 2))
        tables.write(run.place(EVIDENCE, "pool", space), sets.POOL_IMAGES, pool_rows(rng))
        for twin in TWINS:
            tables.write(run.place(EVIDENCE, f"train-{twin}", space), sets.TRAIN, train_rows(rng))
            for name, n in CONTROLS.items():
                tables.write(run.place(EVIDENCE, f"{name}-{twin}", space), columns.EVIDENCE, sample_rows(rng, n, 0.0))
            for i, step in enumerate(scope.steps):
                progress = i / len(scope.steps)
                path = run.place(EVIDENCE, f"{twin}/{step}", space)
                tables.write(path, columns.EVIDENCE, sample_rows(rng, scope.n_samples, progress))
                covered = {"id": identifiers(IMAGES // 2), "distance": rng.gamma(30, 1 / 40, IMAGES // 2)}
                tables.write(run.place(EVIDENCE, f"{twin}/{step}.coverage", space), coverage.COVERAGE, covered)
                tables.write(run.place(EVIDENCE, f"{twin}/{step}.quality", space), quality.QUALITY, quality_rows(rng))
    for twin in TWINS:
        tables.write(
            (run.root / f"losses/{f'linear-{twin}'}.parquet"), losses.LOSSES, loss_rows(rng, ("own", "other"), 0.1)
        )
        for i, step in enumerate(scope.steps):
            level = 0.1 + 0.1 * (i / len(scope.steps) - 0.7) ** 2
            tables.write(
                (run.root / f"losses/{twin}/{step}.parquet"),
                losses.LOSSES,
                loss_rows(rng, ("own", "other", "heldout"), level),
            )


def main() -> None:
    """Time a run of the size that is asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("/tmp/measuring-speed"))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=2000)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes in a folder of its own: does it start?")
    given = parser.parse_args()
    if not given.smoke:
        return timed(given)
    with tempfile.TemporaryDirectory() as folder:
        given.run, given.steps, given.seeds = Path(folder), 2, 60
        timed(given)


def timed(given: argparse.Namespace) -> None:
    """Write the evidence where it is missing, and time what follows."""
    run = RunDirectory(given.run / f"{given.steps}-{given.seeds}")
    scope = Scope(tuple(range(1000, 1000 * given.steps + 1, 1000)), SPACES, given.seeds, 0, True, True)
    if not (run.root / "complete").exists():
        fabricate(run, scope)
        (run.root / "complete").touch()
    profile = cProfile.Profile()
    started = time.perf_counter(), time.process_time()
    if given.profile:
        profile.enable()
    measured = measure(run, scope, Budgets(), lambda text: print(f"{time.perf_counter() - started[0]:6.1f} s {text}"))
    profile.disable()
    print(f"{len(measured.estimates):,} estimates of {given.steps} checkpoints, {given.seeds} seeds, 3 spaces:")
    print(f"{time.perf_counter() - started[0]:.1f} s, {time.process_time() - started[1]:.1f} s of processor time")
    if given.profile:
        pstats.Stats(profile).sort_stats("cumulative").print_stats(45)


if __name__ == "__main__":
    main()
