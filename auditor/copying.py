"""Copies among samples, counted beside held-out images and beside the twin's samples (docs/statistics.md 4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from auditor import stats
from auditor.config import COPY_RATIO
from auditor.records import TWINS, Evidence
from auditor.verdict import Copying


@dataclass(frozen=True)
class Flags:
    """Which samples are flagged as copies, of one twin in one space."""

    own: np.ndarray  # bool [S], of an image of the own half
    other: np.ndarray  # bool [S], of an image of the other half: the control
    heldout: np.ndarray  # bool [H], held-out images of the own half


def flagged(nearest: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """Return d1 = 0 or d1 < d2 / 3, d2 the nearest image that is no duplicate of the nearest (4.1)."""
    return (nearest == 0) | (nearest < COPY_RATIO * outside)


def flags(evidence: Evidence) -> Flags:
    """Return the flags of one twin's samples and of held-out images against its half."""
    heldout = np.zeros(0, dtype=bool)
    if evidence.heldout_own is not None:
        heldout = flagged(evidence.heldout_own[:, 0], evidence.heldout_own_outside)
    return Flags(
        flagged(evidence.own[:, 0], evidence.own_outside),
        flagged(evidence.other[:, 0], evidence.other_outside),
        heldout,
    )


def copy_p(a: Flags, b: Flags) -> float:
    """Return max(p_F, p_T): more than held-out images, and more than the twin flags the same half (4.3).

    p_F is Fisher's test of own flags of both twins against held-out flags; without
    held-out images p_T alone decides. p_T is McNemar's exact test over (seed, half).
    """
    own_only = int((a.own & ~b.other).sum() + (b.own & ~a.other).sum())
    twin_only = int((~a.own & b.other).sum() + (~b.own & a.other).sum())
    p_twin = stats.paired_hits(own_only, twin_only)
    control = np.concatenate([a.heldout, b.heldout])
    if len(control) == 0:
        return p_twin
    own = np.concatenate([a.own, b.own])
    return max(stats.more_hits(int(own.sum()), len(own), int(control.sum()), len(control)), p_twin)


def test_all(evidence: Mapping[tuple[int, str], Mapping[str, Evidence]]) -> dict[tuple[int, str], Copying]:
    """Test copying at every checkpoint and space, corrected by Holm (7.1)."""
    cells = list(evidence)
    found = {cell: {twin: flags(evidence[cell][twin]) for twin in TWINS} for cell in cells}
    corrected = stats.holm(np.array([copy_p(found[cell]["a"], found[cell]["b"]) for cell in cells]))
    return {
        cell: copying(found[cell], n_sources(evidence[cell], found[cell]), float(p))
        for cell, p in zip(cells, corrected, strict=True)
    }


def copying(found: Mapping[str, Flags], sources: int, p: float) -> Copying:
    """Return the counts of one checkpoint and space."""
    own = np.concatenate([found[twin].own for twin in TWINS])
    control = np.concatenate([found[twin].heldout for twin in TWINS])
    return Copying(int(own.sum()), len(own), int(control.sum()), len(control), p, sources)


def n_sources(evidence: Mapping[str, Evidence], found: Mapping[str, Flags]) -> int:
    """Return how many distinct training images the flagged samples copy."""
    return sum(len(set(evidence[twin].own_nearest[found[twin].own])) for twin in TWINS)
