"""Copies among samples, counted beside held-out images and beside the twin's samples (docs/statistics.md 4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from auditor.measuring.facts import Copying
from auditor.neighbors import is_copy
from auditor.records import TWINS, Evidence
from auditor.stats import counts


def calibrated(evidence: Mapping[str, Evidence], fpr: float, seed: int) -> tuple[float, np.ndarray]:
    """Return the ratio d1 / d2 below which at most ``fpr`` of real images are flagged, and who may judge it (4.1).

    It is the quantile of d1 / d2 of held-out images to either half, over a random half of
    those images (fold 1); the others, a bool mask, tell the rate that the rule really has.
    """
    ids = evidence["a"].heldout_ids
    assert ids is not None, "a rule is set by held-out images"
    judged = np.random.default_rng(seed).permutation(len(ids)) % 2 == 1
    ratios = np.concatenate([ratio_of(each)[~judged] for each in evidence.values()])
    return float(np.sort(ratios)[int(fpr * len(ratios))]), judged


def ratio_of(evidence: Evidence) -> np.ndarray:
    """Return d1 / d2 of held-out images to the half of this twin, 0 where d1 is 0, float64 ``[H]``."""
    assert evidence.heldout_own is not None and evidence.heldout_own_outside is not None, "held-out images are given"
    nearest, outside = evidence.heldout_own[:, 0], evidence.heldout_own_outside
    return np.divide(nearest, outside, out=np.zeros_like(nearest), where=nearest > 0)


@dataclass(frozen=True)
class Flags:
    """Which samples are flagged as copies, of one twin in one space."""

    own: np.ndarray  # bool [S], of an image of the own half
    other: np.ndarray | None  # bool [S], of an image of the other half: the control; None without a twin
    heldout: np.ndarray  # bool [H], held-out images of the own half


def flags(evidence: Evidence) -> Flags:
    """Return the flags of one twin's samples and of held-out images against its half."""
    assert evidence.own is not None and evidence.own_outside is not None, "copies are looked for in training images"
    own, other, ratio = evidence.own, evidence.other, evidence.copy_ratio
    heldout = np.zeros(0, dtype=bool)
    if evidence.heldout_own is not None and evidence.heldout_own_outside is not None:
        heldout = is_copy(evidence.heldout_own[:, 0], evidence.heldout_own_outside, ratio)
        if evidence.heldout_judged is not None:
            heldout = heldout[evidence.heldout_judged]
    copied = None
    if other is not None and evidence.other_outside is not None:
        copied = is_copy(other[:, 0], evidence.other_outside, ratio)
    return Flags(is_copy(own[:, 0], evidence.own_outside, ratio), copied, heldout)


def copy_p(found: Mapping[str, Flags]) -> float:
    """Return max(p_F, p_T): more than held-out images, and more than the twin flags the same half (4.3).

    p_F is Fisher's test of own flags of both twins against held-out flags; without
    held-out images p_T alone decides, and p_F alone for a single training. Without either
    there is no control, and p is 1.
    """
    own, control = (np.concatenate([getattr(each, name) for each in found.values()]) for name in ("own", "heldout"))
    p = [counts.more_hits(int(own.sum()), len(own), int(control.sum()), len(control))] if len(control) else []
    p += [twin_p(found["a"], found["b"])] if len(found) == len(TWINS) else []
    return max(p, default=1.0)


def twin_p(a: Flags, b: Flags) -> float:
    """Return p_T, McNemar's exact test over (seed, half): own flags against the twin's of the same half."""
    assert a.other is not None and b.other is not None, "both twins are looked at in both halves"
    own_only = int((a.own & ~b.other).sum() + (b.own & ~a.other).sum())
    twin_only = int((~a.own & b.other).sum() + (~b.own & a.other).sum())
    return counts.paired_hits(own_only, twin_only)


def copying_tests(evidence: Mapping[tuple[int, str], Mapping[str, Evidence]]) -> dict[tuple[int, str], Copying]:
    """Test copying at every checkpoint and space, corrected by Holm (7.1)."""
    cells = list(evidence)
    found = {cell: {twin: flags(each) for twin, each in evidence[cell].items()} for cell in cells}
    corrected = counts.holm(np.array([copy_p(found[cell]) for cell in cells]))
    return {
        cell: copying(found[cell], n_sources(evidence[cell], found[cell]), float(p), evidence[cell]["a"].copy_ratio)
        for cell, p in zip(cells, corrected, strict=True)
    }


def copying(found: Mapping[str, Flags], sources: int, p: float, ratio: float | None) -> Copying:
    """Return the counts of one checkpoint and space."""
    own, control = (np.concatenate([getattr(each, name) for each in found.values()]) for name in ("own", "heldout"))
    return Copying(
        hits=int(own.sum()),
        n=len(own),
        control_hits=int(control.sum()),
        control_n=len(control),
        p_corrected=p,
        sources=sources,
        ratio=ratio,
    )


def n_sources(evidence: Mapping[str, Evidence], found: Mapping[str, Flags]) -> int:
    """Return how many distinct training images the flagged samples copy."""
    return sum(len(set(np.asarray(evidence[twin].own_nearest)[each.own])) for twin, each in found.items())
