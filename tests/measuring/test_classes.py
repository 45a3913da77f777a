"""Classes are judged one by one: a small one that blends its own images is found, a Gaussian's lean is not (3.9)."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from auditor.config import Budgets
from auditor.measuring.classes import class_rows, leaning_classes, unjudged_classes
from auditor.stages.class_references import drawn_per_class, share_of_pairs
from auditor.stats.landing import Landing
from auditor.stats.relabeling import Pool

CLASSES, IMAGES, SEEDS = 8, 25, 800  # images of a class in a half; samples of a twin
SHOWN = 0.7  # own_share of a Gaussian fitted to so few images
PER_HALF = CLASSES * IMAGES
STRATA = np.tile(np.repeat(np.arange(CLASSES), IMAGES), 2)
POOL = Pool(
    tuple((half, f"{i}.png") for half in "ab" for i in range(PER_HALF)),
    np.repeat([1.0, -1.0], PER_HALF),
    np.arange(2 * PER_HALF),
)


def landing(rng, twin: str, own_share: np.ndarray, drawn: np.ndarray) -> Landing:
    """Samples drawn as classes, a share of each class nearer to an image of the own half."""
    on_own = rng.uniform(size=len(drawn)) < own_share[drawn]
    nearest = drawn * IMAGES + rng.integers(0, IMAGES, (2, len(drawn)))
    in_a = (on_own == (twin == "a")).astype(float)
    within = Landing(nearest[0], PER_HALF + nearest[1], in_a, np.ones(len(drawn)))
    return Landing(within.nearest_a, within.nearest_b, in_a, np.zeros(len(drawn)), within)


def series(seed: int, own_share, reference=SHOWN, drawn=None, labels: str = "ab"):
    """What class_rows reads of two steps and two spaces; ``labels`` "ba": the halves are exchanged."""
    rng = np.random.default_rng(seed)
    own_share = np.broadcast_to(own_share, (CLASSES,))
    drawn = np.arange(SEEDS) % CLASSES if drawn is None else drawn
    cells = [(step, twin, space) for step in (1, 2) for twin in "ab" for space in ("pixel", "correlation")]
    columns = {"class": np.arange(CLASSES), "own_share": np.full(CLASSES, reference), "se": np.full(CLASSES, 0.02)}
    numbers = pd.DataFrame({"class": STRATA.astype(float)})
    return SimpleNamespace(
        pool=POOL,
        strata=STRATA,
        landings={cell: landing(rng, labels["ab".index(cell[1])], own_share, drawn) for cell in cells},
        scope=SimpleNamespace(with_lean=True, steps=(1, 2), judged_spaces=("pixel", "correlation"), seed=0),
        class_references={} if reference is None else {space: columns for space in ("pixel", "correlation")},
        pool_tables={"pixel": numbers},
    )


def findings(found) -> set[int]:
    return {row["class"] for row in found if row["finding"]}


def test_one_class_that_blends_its_own_images_is_found_and_no_other():
    shares = np.where(np.arange(CLASSES) == 3, 1.0, 0.5)
    rows = class_rows(series(1, shares), Budgets())
    assert len(rows) == 4 * CLASSES and findings(rows) == {3}
    (sentence,) = leaning_classes(rows, 2)
    assert sentence.startswith("Leans within class 3, ") and "a Gaussian fitted to the class 0.700" in sentence
    one = next(row for row in rows if row["class"] == 3)
    assert (one["n"], one["images"], one["own_share"]) == (SEEDS // CLASSES, IMAGES, 1.0)


def test_what_a_gaussian_shows_is_significant_and_no_finding():
    """In every class as much lean as the reference: findings in few worlds, of 32 classes each."""
    wrong = 0
    for seed in range(8):
        rows = class_rows(series(seed, SHOWN), Budgets())
        assert min(row["p_corrected"] for row in rows) < 0.025
        wrong += bool(findings(rows))
    assert wrong <= 1


def test_samples_that_lean_nowhere_and_exchanged_halves_are_no_finding():
    for each in (series(2, 0.5), series(2, 1.0, labels="ba")):
        assert not findings(class_rows(each, Budgets()))


def test_without_a_reference_there_are_numbers_and_no_finding():
    rows = class_rows(series(3, 1.0, reference=None), Budgets())
    assert rows and not findings(rows) and np.isnan(rows[0]["reference"])


def test_what_was_not_judged_is_named():
    drawn = np.where(np.arange(SEEDS) % CLASSES == 5, 0, np.arange(SEEDS) % CLASSES)
    one = series(4, 0.5, drawn=drawn)
    one.strata = np.where(STRATA == 2, -1, STRATA)
    for key, land in one.landings.items():  # samples of a class that takes no part are not compared within it
        kept = drawn != 2
        one.landings[key] = Landing(
            *(land.nearest_a, land.nearest_b, land.in_a, land.gap),
            Landing(*(values[kept] for values in (land.nearest_a, land.nearest_b, land.in_a, land.gap))),
        )
    rows = class_rows(one, Budgets())
    few, undrawn = unjudged_classes(one, rows)
    assert few.endswith("only the named list tells: class 2.") and undrawn.endswith("drawn as them: class 5.")
    one.pool_tables = {"pixel": pd.DataFrame({"class": np.full(len(STRATA), np.nan)})}
    one.strata = np.full(len(STRATA), -1)
    assert unjudged_classes(one, []) == ()


def test_the_share_of_pairs_is_that_of_both_halves_and_its_error_that_of_their_difference():
    share, se = share_of_pairs(np.array([1.0, 1, 1, 0]), np.array([0.0, 0, 1, 0]))
    assert share == pytest.approx(0.75)
    assert se == pytest.approx(np.sqrt(0.25 / 16))
    assert [drawn_per_class(n) for n in (1, 10, 50, 1000)] == [400, 400, 80, 40]
