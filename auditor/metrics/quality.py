"""Quality of the samples beside held-out images and both halves: Gaussians fitted, and manifolds of neighbors."""

from functools import partial

import numpy as np

from auditor.metrics import ABSENT_HELDOUT, ABSENT_TRAIN, SETS, absent, reason_for_nan
from auditor.records import Evidence, Metric, Scores


def frechet_scores(evidence: Evidence) -> Scores:
    """Return the distance of fitted Gaussians: one value for the set of samples, since it is no mean over them."""
    if evidence.heldout_quality is None:
        return absent("set", ABSENT_HELDOUT)
    values = evidence.heldout_quality["frechet"]
    note = "biased upwards, the more the fewer samples: compare equal numbers only"
    if np.isnan(values).any():
        note = "there are not more samples and held-out images than dimensions"
    return Scores("set", np.zeros(1, dtype=int), values, note)


FRECHET = Metric(
    name="frechet",
    needs_vectors=True,
    question="How far are mean and covariance of the samples from those of held-out images?",
    unit="squared distance of the space",
    direction="larger means worse samples; KID is the one to prefer at these numbers of samples",
    reference="||m1 - m2||^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), if both sets outnumber the dimension; Heusel et al. 2017",
    k=0,
    twins=("a", "b"),
    interval="shown",
    scores=frechet_scores,
)

# ---------------------------------------------------------------------------
# Precision, recall, density and coverage, against each set
# ---------------------------------------------------------------------------


def over_blocks(evidence: Evidence, role: str, statistic: str) -> Scores:
    """Return the scores per block of seeds of a statistic against own, other or held-out images."""
    found = {"own": evidence.own_quality, "other": evidence.other_quality, "heldout": evidence.heldout_quality}[role]
    if found is None:
        return absent("block of seeds", ABSENT_HELDOUT if role == "heldout" else ABSENT_TRAIN)
    values = found[statistic]
    return Scores("block of seeds", np.arange(len(values)), values, reason_for_nan(values))


def against_sets(
    statistic: str, question: str, unit: str, direction: str, reference: str, interval: str = "jackknife_share"
) -> list[Metric]:
    """Return the metric against own, other and held-out images; the question names the set at ``{}``."""
    return [
        Metric(
            name=f"{statistic}_{role}",
            question=question.format(SETS[role]),
            unit=unit,
            direction=direction,
            reference=reference,
            k=5,
            twins=("a", "b"),
            interval=interval,
            scores=partial(over_blocks, role=role, statistic=statistic),
            needs_vectors=True,
        )
        for role in SETS
    ]


PRECISION_OWN, PRECISION_OTHER, PRECISION_HELDOUT = against_sets(
    "precision",
    question="Which share of samples looks like {}?",
    unit="fraction of the samples",
    direction="larger means more plausible samples; copying raises it against own, so read it against held-out",
    reference="mean_s 1{exists x: d(s, x) < r_5(x)}, sets of equal size; Kynkaanniemi et al. 2019 (1904.06991)",
)
RECALL_OWN, RECALL_OTHER, RECALL_HELDOUT = against_sets(
    "recall",
    question="Which share of {} could the model have drawn?",
    unit="fraction of the set",
    direction="larger means more varied samples",
    reference="mean_x 1{exists s: d(x, s) < r_5(s)}, sets of equal size; Kynkaanniemi et al. 2019 (1904.06991)",
)
DENSITY_OWN, DENSITY_OTHER, DENSITY_HELDOUT = against_sets(
    "density",
    question="How densely do samples lie among {}?",
    unit="expected count",
    direction="larger means more typical samples; about 1 for real images, above it for prototypes",
    reference="1/5 mean_s #{x: d(s, x) < r_5(x)}, sets of equal size; Naeem et al. 2020 (2002.09797)",
    interval="jackknife",
)
COVERAGE_OWN, COVERAGE_OTHER, COVERAGE_HELDOUT = against_sets(
    "coverage",
    question="Which share of {} has a sample like it?",
    unit="fraction of the set",
    direction="larger means more varied samples; it grows with their number, and copying raises it against own",
    reference="mean_x 1{min_s d(x, s) < r_5(x)}, sets of equal size; Naeem et al. 2020 (2002.09797)",
)
