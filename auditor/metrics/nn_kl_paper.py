"""The paper's nearest-neighbor divergence: KL between histograms of nearest distances."""

import numpy as np

from auditor.metrics import beside_heldout
from auditor.records import Evidence, Metric, Scores

N_BINS, LEAST = 20, 1e-8


def divergence(samples: np.ndarray, heldout: np.ndarray) -> tuple[np.ndarray, None, str]:
    """Return ln(p / q) of each sample's bin, p of samples and q of held-out images, both clipped to [1e-8, 1].

    Bins that hold no sample add their part to all scores alike: 1e-8 ln(1e-8 / q).
    """
    edges = np.linspace(0, max(samples.max(), heldout.max()), N_BINS + 1)
    bins = [np.clip(np.searchsorted(edges, d, "right") - 1, 0, N_BINS - 1) for d in (samples, heldout)]
    counts = [np.bincount(each, minlength=N_BINS) for each in bins]
    p, q = (np.clip(count / count.sum(), LEAST, 1) for count in counts)
    ratio = np.log(p / q)
    empty = LEAST * ratio[counts[0] == 0].sum()
    return ratio[bins[0]] + empty, None, note(*counts)


def note(samples: np.ndarray, heldout: np.ndarray) -> str:
    """Return the noise floor for these counts per bin, and how many bins hold no held-out image."""
    floor = ((heldout > 0).sum() - 1) / 2 * (1 / samples.sum() + 1 / heldout.sum())
    text = f"noise floor {floor:.4g}: about what as many real images would show"
    alone = int(((heldout == 0) & (samples > 0)).sum())
    return text + (
        f"; {alone} bins hold samples and no held-out image, their part depends on the clip" if alone else ""
    )


def scores(evidence: Evidence) -> Scores:
    """Return each sample's share of the divergence."""
    return beside_heldout(evidence, divergence)


METRIC = Metric(
    name="nn_kl_paper",
    question="How different are the nearest distances of samples from those of real images, as the paper has it?",
    unit="nats",
    direction="larger means more different, nearer or farther; never 0: read it against the noise floor in the note",
    reference="KL(p || q) over 20 bins from 0 to the largest distance, clipped to [1e-8, 1]; arXiv 2603.03469",
    k=1,
    twins=("a", "b"),
    interval="shown",
    scores=scores,
)
