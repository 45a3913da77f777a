"""Own-versus-other lean within each class: findings about small classes, and what cannot be judged of them (3.9)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from auditor.config import Budgets
from auditor.measuring.facts import FINDING
from auditor.measuring.lean import Lands
from auditor.measuring.series import Series
from auditor.metrics import LEAST_IN_CLASS
from auditor.records import TWINS
from auditor.run.columns import STEP, Column, ends
from auditor.seeds import derived_seed
from auditor.stats import landing
from auditor.stats.intervals import NAN
from auditor.stats.landing import Landing
from auditor.stats.relabeling import Pool, Relabeling, at_least, relabel, relabeling_test

LEAST_SAMPLES = 20  # of a class and a twin
TOLD = 5  # classes that a sentence names
CLASSES = (
    STEP,
    Column("space", "string", "feature space"),
    Column("class", "int64", "number of the class"),
    Column("images", "int64", "images of the class in either half that samples are compared with"),
    Column("n", "int64", "samples of each twin that were drawn as the class"),
    Column("own_share", "float64", "share of them nearer to their own half, of both twins, within the class"),
    *ends("95 % interval over seeds and the split"),
    Column("reference", "float64", "own_share of a Gaussian fitted to the class in each half"),
    Column("reference_se", "float64", "its standard error"),
    Column("p_value", "float64", "one-sided p by relabelling within classes"),
    Column("p_corrected", "float64", "the same, corrected over all checkpoints, spaces and classes"),
    Column("finding", "bool", "significant, and larger than what the Gaussian shows"),
)


@dataclass(frozen=True)
class OneClass:
    """The samples of one class at one checkpoint in one space."""

    number: int
    lands: Lands
    n: int  # of each twin


def within(lands: Lands, strata: np.ndarray) -> list[OneClass]:
    """Return where the samples of each class land among its images; classes with fewer than 20 samples are left out."""
    of = {twin: land for twin in TWINS if (land := lands[twin].in_class) is not None}
    if len(of) < len(TWINS):
        return []
    number = strata[of["a"].nearest_a]  # twins draw a seed as the same class
    found = []
    for each, n in zip(*np.unique(number, return_counts=True), strict=True):
        if n >= LEAST_SAMPLES:
            rows = np.flatnonzero(number == each)
            found.append(OneClass(int(each), {twin: some_of(land, rows) for twin, land in of.items()}, int(n)))
    return found


def some_of(land: Landing, rows: np.ndarray) -> Landing:
    """Return where some of the samples land."""
    return Landing(land.nearest_a[rows], land.nearest_b[rows], land.in_a[rows], land.gap[rows])


def class_rows(series: Series, budgets: Budgets) -> list[dict[str, Any]]:
    """Return the rows of classes.parquet; none where samples are not compared within classes.

    The p values are corrected over all checkpoints, judged spaces and classes by the maximum of z under
    relabeling within classes: a family of their own. A finding takes corrected p <= alpha and a lower
    limit, shared among spaces and classes, above 1/2 + max(.02, own_share of the Gaussian - 1/2).
    """
    pool, strata, scope = series.pool, series.strata, series.scope
    if not scope.with_lean or pool is None or strata is None:
        return []
    parts = {
        (step, space): within({twin: series.landings[step, twin, space] for twin in TWINS}, strata)
        for step in scope.steps
        for space in scope.judged_spaces
    }
    if not any(parts.values()):
        return []
    relabeling = relabel(pool, derived_seed("relabel", "class", scope.seed), strata=strata)
    z, largest = {}, np.full(len(relabeling.labels), -np.inf)
    for cell, classes in parts.items():
        z[cell] = class_z(pool, relabeling, classes)
        largest = np.maximum(largest, z[cell].max(axis=1, initial=-np.inf))
    looks = len(scope.judged_spaces) * max(map(len, parts.values()))
    images = np.bincount(strata[(strata >= 0) & (pool.labels > 0)])
    rows = []
    for (step, space), classes in parts.items():
        references = class_references(series.class_references.get(space, {}))
        for one, column in zip(classes, z[step, space].T, strict=True):
            row = {"step": step, "space": space, "class": one.number, "images": int(images[one.number])}
            p = {"p_value": share_at_least(column, column[0]), "p_corrected": share_at_least(largest, column[0])}
            rows.append(row | p | judged(one, pool, references.get(one.number), p["p_corrected"], looks, budgets))
    return rows


def class_z(pool: Pool, relabeling: Relabeling, classes: Sequence[OneClass]) -> np.ndarray:
    """Return the relabeled z of each class's own_share, ``[R + 1, classes]``."""
    n = len(pool.labels)
    w = [one.lands["a"].weights(n) - one.lands["b"].weights(n) for one in classes]
    return relabeling_test(relabeling, np.array(w).reshape(-1, n)).z


def share_at_least(z: np.ndarray, observed: float) -> float:
    """Return the share of relabelings with a z as large as the observed one."""
    return float(at_least(z, np.asarray(observed)).mean())


def class_references(columns: Mapping[str, np.ndarray]) -> dict[int, tuple[float, float]]:
    """Return by class the own_share of the Gaussian, and its standard error."""
    if not columns:
        return {}
    each = zip(columns["class"], columns["own_share"], columns["se"], strict=True)
    return {int(number): (float(share), float(se)) for number, share, se in each}


def judged(
    one: OneClass, pool: Pool, reference: tuple[float, float] | None, p_corrected: float, looks: int, budgets: Budgets
) -> dict[str, Any]:
    """Return own_share within a class, what the Gaussian shows, and whether it is a finding; none without reference."""
    share, v_seed, v_hub = landing.own_share_both(one.lands["a"], one.lands["b"], pool)
    smooth, smooth_se = reference or (NAN, NAN)
    by_reference = smooth - 0.5 > budgets.lean_bias
    se = np.sqrt(v_seed + v_hub + (smooth_se**2 if by_reference else 0.0))
    above = share.value - special.ndtri(1 - FINDING / looks) * se > 0.5 + max(budgets.lean_bias, smooth - 0.5)
    return {
        "n": one.n,
        "own_share": share.value,
        "low": share.low,
        "high": share.high,
        "reference": smooth,
        "reference_se": smooth_se,
        "finding": bool(reference is not None and p_corrected <= budgets.alpha and above),
    }


def leaning_classes(rows: Sequence[Mapping[str, Any]], step: int) -> tuple[str, ...]:
    """Return a sentence for each class whose samples lean at a step, with the space where they do most."""
    found: dict[int, Mapping[str, Any]] = {}
    for row in rows:
        if row["step"] == step and row["finding"]:
            known = found.get(row["class"])
            if known is None or row["own_share"] > known["own_share"]:
                found[row["class"]] = row
    return tuple(
        f"Leans within class {number}, {row['space']}: own_share {row['own_share']:.3f} of {row['n']} samples a twin, "
        f"a Gaussian fitted to the class {row['reference']:.3f} (corrected p {row['p_corrected']:.3g})."
        for number, row in sorted(found.items())
    )


def unjudged_classes(series: Series, rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return which classes were not judged on their own, in sentences; none where there are no classes."""
    if series.strata is None or not series.pool_tables:
        return ()
    numbers = next(iter(series.pool_tables.values()))["class"].to_numpy()
    known = set(numbers[~np.isnan(numbers)].astype(int).tolist())
    compared = set(series.strata[series.strata >= 0].tolist())
    few, undrawn = sorted(known - compared), sorted(compared - {row["class"] for row in rows})
    return tuple(
        sentence
        for those, sentence in (
            (
                few,
                f"Of classes with fewer than {LEAST_IN_CLASS} images in a half only the named list tells: "
                f"{', '.join(first_numbers(few))}.",
            ),
            (
                undrawn,
                f"Not judged, for fewer than {LEAST_SAMPLES} samples of a twin were drawn as them: "
                f"{', '.join(first_numbers(undrawn))}.",
            ),
        )
        if those
    )


def first_numbers(numbers: Sequence[int]) -> Iterator[str]:
    """Yield the first numbers of classes, and how many there are more."""
    yield from (f"class {number}" for number in numbers[:TOLD])
    if len(numbers) > TOLD:
        yield f"and {len(numbers) - TOLD} more"
