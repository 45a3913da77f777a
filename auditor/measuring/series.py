"""All evidence of a run in memory: by step or control, twin and space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import pandas as pd

from auditor.config import SETS_SPACE
from auditor.errors import AuditError
from auditor.measuring import copies
from auditor.measuring.reading import EvidenceReader
from auditor.metrics import ABSENT_TWIN, ABSENT_VECTORS, absent
from auditor.records import CellScales, Evidence, LossTable, Metric, Scores, other_twin
from auditor.run import RunDirectory, tables
from auditor.run.places import EVIDENCE
from auditor.scope import Scope, control_names
from auditor.seeds import derived_seed
from auditor.stages import agreement, class_references, coverage, losses, stages
from auditor.stats import intervals
from auditor.stats.landing import Landing
from auditor.stats.relabeling import Pool

KNOWN = {each.name for each in fields(Evidence)}
NO_SEEDS, NO_VALUES = np.empty(0, dtype=np.int64), np.empty(0)


@dataclass(frozen=True)
class Series:
    """All evidence of a run, by (step, twin, space), and where samples land, by the same.

    Controls have their name in place of the step: smooth, copier, heldout.
    """

    scope: Scope
    evidence: Mapping[tuple[int | str, str, str], Evidence]
    landings: Mapping[tuple[int | str, str, str], Landing]
    pool: Pool | None
    pool_tables: Mapping[str, pd.DataFrame]  # by space
    nearest_in_pool: Mapping[str, np.ndarray]  # by space
    coverage: Mapping[tuple[int, str], np.ndarray]  # (step, twin): held-out images to the nearest sample
    heldout: pd.DataFrame | None  # the held-out table of the picture space
    saturated: Mapping[tuple[int, str], float]  # (step, twin): mean share of saturated pixels
    linear: Mapping[str, Mapping[str, LossTable]]  # losses of the linear reference by twin
    scales: Mapping[int, CellScales]  # by step, where the twins' predictions were compared
    strata: np.ndarray | None = None  # int64 [N], class of each pool image, -1 where it takes no part within classes
    near_heldout: frozenset[str] = frozenset()  # held-out images that are near-duplicates of training images
    class_references: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)  # by space, columns by class

    def scores(self, metric: Metric, step: int, twin: str, space: str) -> Scores:
        """Return the scores of one metric; for ``both`` of a per-twin metric, the twins' average."""
        if metric.needs_twin and not self.scope.with_twin:
            return absent("seed", ABSENT_TWIN)
        if metric.needs_vectors and space in self.scope.distance_spaces:
            return absent("seed", ABSENT_VECTORS)
        if twin != "both":
            return metric.scores(self.evidence[step, twin, space])
        if "a" not in metric.twins:  # a comparison: the same from either side
            return metric.scores(self.evidence[step, "a", space])
        return average([metric.scores(self.evidence[step, each, space]) for each in self.scope.twins])

    def lands(self, step: int | str, space: str) -> dict[str, Landing]:
        """Return where the samples of each twin land at one step, or those of a control."""
        return {twin: self.landings[step, twin, space] for twin in self.scope.twins}

    @property
    def chance(self) -> float | None:
        """The share of the pool that a single training was trained on; None beside a twin, or without decoys."""
        return self.pool.chance if self.scope.decoys and self.pool is not None else None

    def network(self, step: int, twin: str) -> Evidence:
        """Return the evidence of one checkpoint for what is asked of its network alone: the same in every space."""
        return self.evidence[step, twin, self.scope.first_space]

    def losses(self, step: int) -> dict[str, Mapping[str, LossTable]]:
        """Return the losses of both twins at one step."""
        return {twin: self.network(step, twin).losses for twin in self.scope.twins}


def average(twins: Sequence[Scores]) -> Scores:
    """Return the average of both twins: per unit where they share their units, else over all units."""
    if len(twins) == 1:
        return twins[0]
    a, b = twins
    note = intervals.join_notes(a.note, b.note if b.note != a.note else "")
    if len(a.ids) == len(b.ids) and (a.ids == b.ids).all():
        return Scores(a.unit, a.ids, (a.values + b.values) / 2, note)
    return Scores(a.unit, np.concatenate([a.ids, b.ids]), np.concatenate([a.values, b.values]), note)


def read_series(run: RunDirectory, scope: Scope) -> Series:
    """Read all evidence of a run."""
    evidence: dict[Any, Evidence] = {}
    landings: dict[Any, Landing] = {}
    readers = {space: EvidenceReader(run, space, scope) for space in scope.spaces or (SETS_SPACE,)}
    scales = {step: agreement.read_cell_scales(run, step) for step in (scope.steps if scope.with_twin else ())}
    networks = read_networks(run, scope)
    for (step, twin), said in networks.items() if not scope.with_samples else ():
        evidence[step, twin, ""] = Evidence(twin, step, "", NO_SEEDS, NO_VALUES, NO_VALUES, **said)
    for space in scope.spaces:
        reader = readers[space]
        for step in scope.steps:
            for twin in scope.twins:
                found, landing = reader.read(twin, step)
                require_seeds(run, found, scope)
                if scope.same_data:
                    found = replace(found, same_data_distance=same_data_distance(run, space, step, found.seeds))
                known = scope.with_images and space in scope.vector_spaces
                seen = read_stages(run, twin, step, space) if known else {}
                evidence[step, twin, space] = replace(found, **networks[step, twin] | seen)
                if landing is not None:
                    landings[step, twin, space] = landing
        for name in control_names(scope):
            for twin in scope.twins:
                evidence[name, twin, space], landings[name, twin, space] = reader.read_control(name, twin)
    trained = readers if scope.with_train else {}
    return Series(
        scope,
        with_copy_ratio(evidence, scope),
        landings,
        next((reader.pool for reader in trained.values()), None),
        {space: reader.pool_table for space, reader in trained.items()},
        {space: reader.nearest_in_pool() for space, reader in trained.items()},
        read_coverage(run, scope),
        tables.read(run.place(EVIDENCE, "heldout", scope.picture_space))
        if scope.with_samples and trained and scope.with_heldout
        else None,
        {
            (step, t): float(np.mean(np.asarray(evidence[step, t, scope.spaces[0]].saturated)))
            for step in (scope.steps if scope.with_samples else ())
            for t in scope.twins
        },
        {twin: losses.read_reference(run, twin) for twin in scope.twins} if scope.with_lean else {},
        {step: cells for step, cells in scales.items() if cells is not None},
        next((reader.strata for reader in trained.values()), None) if scope.with_twin else None,
        near_duplicates_heldout(trained),
        {space: class_references.read_table(run, space) for space in scope.judged_spaces},
    )


def near_duplicates_heldout(readers: Mapping[str, EvidenceReader]) -> frozenset[str]:
    """Return the held-out images that are near-duplicates of training images, by correlation where that is known."""
    reader = readers.get("correlation") or next(iter(readers.values()), None)
    return frozenset() if reader is None else reader.near_heldout()


def require_seeds(run: RunDirectory, found: Evidence, scope: Scope) -> None:
    """Refuse evidence of other seeds than the run's, or in another order: twins would be compared with strangers."""
    if not np.array_equal(found.seeds, scope.seed + np.arange(scope.n_samples)):
        raise AuditError(
            f"The evidence is not of the {scope.n_samples} seeds from {scope.seed} on.",
            run.place(EVIDENCE, f"{found.twin}/{found.step}", found.space),
            "Remove this file and give the audit run command again: it is made anew.",
        )


def read_networks(run: RunDirectory, scope: Scope) -> dict[tuple[int, str], dict[str, Any]]:
    """Return by step and twin the fields of Evidence that come from networks alone, the twin's beside its own."""
    mine = {(step, twin): read_stages(run, twin, step) for step in scope.steps for twin in scope.twins}
    found = {}
    for (step, twin), each in mine.items():
        twins = mine.get((step, other_twin(twin)), {name: {} for name in each})
        beside = {f"twin_{name}": value for name, value in twins.items() if f"twin_{name}" in KNOWN}
        found[step, twin] = each | beside
        if scope.same_data:
            again = agreement.STAGE.read(run.same_data, "a", step, "")["agreement"]
            found[step, twin]["same_data_agreement"] = again.get("heldout")
    return found


def read_stages(run: RunDirectory, twin: str, step: int, space: str = "") -> dict[str, Any]:
    """Return the fields of Evidence that the stages of one checkpoint give: those in this space, or those in none."""
    found: dict[str, Any] = {}
    for name, each in stages().items():
        if each.by_space != bool(space):
            continue
        for said, value in each.read(run, twin, step, space).items():
            if said in KNOWN:
                found[said] = found.get(said, {}) | value if isinstance(value, dict) else value
            else:
                found.setdefault("more", {}).setdefault(name, {})[said] = value
    return found


def same_data_distance(run: RunDirectory, space: str, step: int, seeds: np.ndarray) -> np.ndarray:
    """Return how far the samples of both trainings on half a are from each other, by seed."""
    table = tables.read(run.same_data.place(EVIDENCE, f"a/{step}", space), ["seed", "twin_distance"]).set_index("seed")
    return table.twin_distance.reindex(seeds).to_numpy()


def with_copy_ratio(evidence: dict[Any, Evidence], scope: Scope) -> dict[Any, Evidence]:
    """Return the evidence with the copying rule of --fpr in it, set apart for each space."""
    if scope.fpr is None:
        return evidence
    rules = {}
    for space in scope.spaces:
        first = {twin: evidence[scope.steps[0], twin, space] for twin in scope.twins}
        rules[space] = copies.calibrated(first, scope.fpr, derived_seed("heldout folds", scope.seed))
    return {
        key: replace(each, copy_ratio=rules[each.space][0], heldout_judged=rules[each.space][1])
        for key, each in evidence.items()
    }


def read_coverage(run: RunDirectory, scope: Scope) -> dict[tuple[int, str], np.ndarray]:
    """Return the distance from held-out images to the nearest sample, in the picture space."""
    if not scope.with_heldout or not scope.with_samples:
        return {}
    return {
        (step, twin): tables.arrays(run.place(coverage.STAGE.places[0], f"{twin}/{step}", scope.picture_space))[
            "distance"
        ]
        for step in scope.steps
        for twin in scope.twins
    }
