"""Caveats: sentences on what must not be concluded from a run. They read the run's record and tables only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from auditor.config import Budgets
from auditor.scope import gaps

IDENTITY_FAILS = 0.25  # share of cells whose 95 % interval leaves out 0, from which an exact identity is said to fail
MIN_SERIES = 8  # checkpoints from which iterate noise can be told from a trend


def caveats(record: Mapping[str, Any], tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """Return the caveats of a run, the most limiting first."""
    return [
        *incomplete(record),
        *record["checks"].get("distrust", []),
        *record["checks"].get("not_exchangeable", []),
        *record["checks"].get("not_the_halves", []),
        *record["checks"].get("caveats", []),
        *missing_inputs(record),
        *few_samples(record),
        *series_limits(record, tables),
        *withheld_attacks(record),
        *empirical_identity(record, tables),
        *clip_identity(record),
        *redraw(record),
        *pixel_range(record),
        *record["notes"],
        *covered(record),
    ]


def incomplete(record: Mapping[str, Any]) -> list[str]:
    """Return that the run was not finished."""
    if record["status"] == "complete":
        return []
    return ["The run is not finished: give the same audit run command again, it resumes."]


def missing_inputs(record: Mapping[str, Any]) -> list[str]:
    """Return what cannot be known without training or held-out images."""
    scope, lines = record["scope"], []
    if not scope["with_train"]:
        lines.append(
            "Without --train-a and --train-b the divergence of the twins is measured, and with --heldout their loss "
            "and quality; copying and leaning on training images are not."
        )
    if not scope["with_heldout"]:
        lines.append(
            "Without --heldout there is no held-out loss, no underfit check and no false-alarm rate of the copying "
            "rule."
        )
    return lines


def covered(record: Mapping[str, Any]) -> list[str]:
    """Return what the intervals are about."""
    n = len(record["scope"].get("twins", "ab"))
    if n > 3:
        return ["Intervals of `both` are over trainings; those of a pair cover its two trainings on their split."]
    if n == 3:
        return ["Three trainings say little of how a fourth would differ: the intervals over them are wide, and rough."]
    if n == 2:
        return [
            "Intervals cover these two trainings on this split; two trainings do not show how a third would differ."
        ]
    if record["scope"].get("decoys"):
        return [
            "This is a single training: held-out images stand in the place of another half, which tells lean and "
            "copies as long as they were held out at random. When trainings part company, what a second network says "
            "of each image, and what of a lean is style, takes a twin trained on another half (--ckpts-b, --train-b).",
            "Intervals cover this training on this deal; they do not show how another would differ.",
        ]
    return [
        "This is a single training: its samples are compared with real images that it did not see. Whether they lean "
        "on its training images takes a twin trained on another half (--ckpts-b): neither biased nor safe is said.",
        "Intervals cover this training; it does not show how another would differ.",
    ]


def few_samples(record: Mapping[str, Any]) -> list[str]:
    """Return that fewer seeds were drawn than a verdict should rest on."""
    if not record["scope"]["spaces"]:
        return ["No samples were drawn (--quick): their copies, lean and quality are not known."]
    n, least = record["scope"]["n_samples"], Budgets().least_seeds
    lines = [] if n >= least else [f"{n} seeds per checkpoint are fewer than the {least} a release should rest on."]
    lowered = record["budgets"]["least_seeds"]
    return [*lines, f"The budget file lowers the least number of seeds to {lowered}."] if lowered < least else lines


def series_limits(record: Mapping[str, Any], tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """Return what the number and choice of checkpoints leave open."""
    steps, lines = record["scope"]["steps"], []
    left_out = int((~tables["checkpoints"].audited).sum())
    if left_out:
        lines.append(f"{left_out} checkpoints were found and not audited; the reasons are listed below.")
    lines += gaps(steps, record["resolved"].get("unit", "step"))
    if len(steps) < MIN_SERIES:
        lines.append(
            f"{len(steps)} checkpoints are too few to tell weights that jitter from a trend: onsets are conditional on "
            "these weights."
        )
    return lines


def empirical_identity(record: Mapping[str, Any], tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """Return that what must hold of any network does not: E_S = L_train - L* (docs/networks.md).

    It does not hold where mirror images are in the halves, for losses are measured on the others alone.
    """
    rows = tables["profiles"]
    rows = rows[rows.metric == "empirical_identity"]
    outside = (rows.low > 0) | (rows.high < 0)
    if rows.empty or outside.mean() < IDENTITY_FAILS or record["resolved"].get("flips", {}).get("mirrored"):
        return []
    found = f"in {outside.sum()} of {len(outside)} cells (about {len(outside) / 20:.0f} are expected by chance)"
    return [
        "A check of the program fails: on own images the distance to the memorizer is not the loss less the least loss "
        f"{found}. Losses and shares of the memorizer are not to be trusted; please report it."
    ]


def clip_identity(record: Mapping[str, Any]) -> list[str]:
    """Return which CLIP made the clip space, where it is not a published one."""
    given = record["given"]
    if "clip" not in record["scope"]["spaces"] or not given["clip_model"].startswith("local-dir:"):
        return []
    return [
        f"The clip space is the local open_clip model {given['clip_model'].rsplit('/', 1)[-1]!r}, not a published CLIP."
    ]


def withheld_attacks(record: Mapping[str, Any]) -> list[str]:
    """Return why membership was judged at no step; of a run of an earlier version, that attacks were not at 1 %.

    Where samples alone are released: that the weights must not be.
    """
    if "membership" in record["checks"] and record["scope"].get("release") == "samples":
        shown = [each["outcome"] == "hidden" for each in record["checks"]["membership"]]
        said = "The weights themselves must not be released: membership is not shown hidden at every step."
        return [] if all(shown) else [said]
    if "membership" in record["checks"]:
        steps = [set(each["reasons"]) for each in record["checks"]["membership"] if each["outcome"] == "undecided"]
        everywhere = set.intersection(*steps) if len(steps) == len(record["scope"]["steps"]) else set()
        return sorted(everywhere)
    if 0.01 not in record["checks"].get("attacks_withheld", []):
        return []
    return [
        "How many training images an attack finds at a false-positive rate of 1 % is not known: it takes 400 held-out "
        "images whose loss is measured (--loss-images)."
    ]


def pixel_range(record: Mapping[str, Any]) -> list[str]:
    """Return that samples have another range than pictures as scaled, where another usual range fits better."""
    check = record["checks"].get("pixel_range")
    if not check or not check["fits_better"]:
        return []
    spans = [f"{check[name][0]:g} to {check[name][1]:g}" for name in ("samples", "pictures")]
    usual = ",".join(f"{bound:g}" for bound in check["fits_better"])
    return [
        f"Samples of the last checkpoint span {spans[0]} in the network's units and pictures {spans[1]}: if training "
        f"scaled them otherwise, every number here is wrong; --pixel-range {usual} fits better."
    ]


def redraw(record: Mapping[str, Any]) -> list[str]:
    """Return how far seeds drawn again at another batch size are from the run's samples, if they are."""
    check = record["checks"].get("redraw")
    if not check or check["largest_deviation"] <= 1:
        return []
    return [
        f"{check['seeds']} seeds of {check['of']} drawn again in a batch of {check['batch_size']} differ by up to "
        f"{check['largest_deviation']} {check['unit']}: float rounding of the network grows during sampling."
    ]
