"""What an audit with so many seeds and held-out images can find and show, before it is run (docs/statistics.md 8)."""

from __future__ import annotations

import numpy as np

from auditor.config import AuditConfig, Budgets
from auditor.measuring import copies, membership
from auditor.measuring.facts import COPY_RULES, FINDING, ONE_SIDED, SETTLES, Copying
from auditor.stats import counts, intervals

POWER = 0.9
Z_POWER, Z_TWO_SIDED = 1.2816, 1.9600  # quantiles of the normal distribution at .9 and .975
WORST_SD = 0.3536  # of own_share of both twins per seed, independent twins at one half: 1 / sqrt(8)

NO_SAMPLES = "Without samples (--quick) no lean and no copy is found, and no checkpoint can be shown safe."


def statement(
    n_seeds: int,
    n_heldout: int,
    n_tests: int,
    with_lean: bool,
    budgets: Budgets,
    members: tuple[int, int] | None = None,
    alone: tuple[int, int] | None = None,
) -> list[str]:
    """Return the sentences of the power statement.

    Parameters
    ----------
    n_seeds, n_heldout
        Samples per checkpoint (0: a quick audit draws none), and held-out images (0: none).
    n_tests
        Checkpoints times spaces, over which findings are corrected.
    with_lean
        Whether there are two trainings with their images, or one and held-out images.
    members
        Training images of a half and held-out images that networks are asked about; None where weights are not
        released, or there is no network.
    alone
        Of a single training, how many of its images and how many held-out ones samples are compared with; else None.
    """
    told = [] if members is None else [membership_sentence(*members, budgets)]
    if not n_seeds:
        return [NO_SAMPLES, *told]
    lines = []
    if with_lean and alone is not None:
        lines = [*lean_sentences_alone(n_seeds, *alone, budgets), copy_sentence_alone(n_seeds, n_tests, *alone)]
    elif with_lean:
        lines = [*lean_sentences(n_seeds, budgets), copy_sentence(n_seeds, n_tests)]
    lines += told
    lines.append(shift_sentence(n_seeds, n_heldout))
    if n_seeds < budgets.least_seeds:
        lines.append(f"{n_seeds} seeds support no verdict but memorizing or undecided: give {budgets.least_seeds}.")
    return lines


def lean_sentences(n_seeds: int, budgets: Budgets) -> list[str]:
    """Return which share of samples nearer to their own half can be found, and be shown small."""
    found, shown = 0.5 + detectable_lean(n_seeds, budgets), 0.5 + SETTLES * standard_error(n_seeds)
    needed = int(np.ceil((SETTLES * WORST_SD / budgets.lean_safe) ** 2))
    enough = "" if shown <= 0.5 + budgets.lean_safe else f", which takes {needed} seeds for the accepted lean"
    return [
        f"An own_share of {found:.3f} or more is called bias with {POWER:.0%} power (if the smooth reference is below "
        f"{0.5 + budgets.lean_bias:.2f}, before the error of the split).",
        f"Without lean, own_share can be shown to lie below {shown:.3f}{enough}.",
    ]


def standard_error(n_seeds: int) -> float:
    """Return the largest standard error of own_share over seeds; the error of the split comes on top."""
    return WORST_SD / float(np.sqrt(n_seeds))


def detectable_lean(n_seeds: int, budgets: Budgets) -> float:
    """Return the least lean above one half whose lower bound exceeds the margin with 90 % power."""
    return budgets.lean_bias + (ONE_SIDED + Z_POWER) * standard_error(n_seeds)


def lean_sentences_alone(n_seeds: int, n: int, m: int, budgets: Budgets) -> list[str]:
    """Return the same of a single training with n images beside m held-out ones, and how many of these would do."""
    se = standard_error_alone(n_seeds, n, m)
    found, shown = (0.5 + budgets.lean_bias + (ONE_SIDED + Z_POWER) * se, 0.5 + SETTLES * se)
    most, needed = 0.5 + budgets.lean_safe_most, heldout_needed(n_seeds, n, budgets.lean_safe_most)
    if shown <= most:
        enough = ""
    elif needed is None:
        enough = f", and below the {most:.2f} that is accepted at most with no number of them: give more seeds"
    else:
        enough = f", and below the {most:.2f} that is accepted at most with {needed:,} held-out images"
    return [
        f"With {m:,} held-out images beside {n:,} training images an own_share of {found:.3f} or more is called bias "
        f"with {POWER:.0%} power (if the smooth reference is below {0.5 + budgets.lean_bias:.2f}, and images are as "
        "unlike hubs as usual).",
        f"Without lean, own_share can be shown to lie below {shown:.3f}{enough}.",
    ]


def split_sentences(n: int, m: int) -> list[str]:
    """Return what a single training of a split can find with the default seeds, and how much to hold out for more."""
    seeds, budgets = AuditConfig().n_samples, Budgets()
    said = [f"with {seeds:,} seeds: {lean_sentences_alone(seeds, n, m, budgets)[0]}"]
    for lean, which in ((budgets.lean_safe_most, "the most"), (budgets.lean_safe, "what is always")):
        wanted = share_to_hold_out(seeds, n + m, lean)
        enough = (
            f"takes {wanted:,} of {n + m:,} images held out (--heldout {wanted / (n + m):.2f})"
            if wanted
            else f"is not possible with {n + m:,} images and {seeds:,} seeds, however many are held out"
        )
        said.append(f"Showing own_share to be below {0.5 + lean:.2f}, {which} that is accepted, {enough}.")
    return said


def share_to_hold_out(n_seeds: int, n_images: int, lean: float) -> int | None:
    """Return how many of so many images held out show no lean to lie below this, at most half; None if none do."""
    for held in sorted({round(n_images * share / 100) for share in range(1, 51)} - {0}):
        if SETTLES * standard_error_alone(n_seeds, n_images - held, held) <= lean:
            return held
    return None


def standard_error_alone(n_seeds: int, n: int, m: int) -> float:
    """Return the standard error of a single training's own_share, on the balanced scale, without lean (14.1).

    Samples that put p_i on each of N = n + m images have Sum p^2 = h / N; dealing the labels among these gives
    sqrt((1 / S + (h - 1) / N) N^2 / 16nm), with h = 2, as it was seen (1.4 to 2.6: docs/statistics.md 14.1).
    """
    both = n + m
    return float(np.sqrt((1 / n_seeds + 1 / both) * both**2 / (16 * n * m)))


def heldout_needed(n_seeds: int, n: int, lean: float) -> int | None:
    """Return the least number of held-out images with which no lean is shown to lie below this; None if none is."""
    for m in sorted({round(n * part) for part in np.geomspace(0.01, 4, 200)} - {0}):
        if SETTLES * standard_error_alone(n_seeds, n, m) <= lean:
            return m
    return None


def copy_sentence_alone(n_seeds: int, n_tests: int, n: int, m: int) -> str:
    """Return which rate of copies of a single training can be found, of distinct images, where nothing else is."""
    from scipy.stats import beta

    cells = n_tests * len(COPY_RULES)
    for k in range(1, n_seeds + 1):
        by_chance = min(counts.more_hits(k, n_seeds, 0, m), counts.paired_hits(k, 0, n / (n + m)))
        if 2 * by_chance * cells <= FINDING:
            rate = float(beta.ppf(POWER, k, n_seeds - k + 1))
            return (
                f"Copies are found with {POWER:.0%} power from {rate:.2%} of samples on, if they are of different "
                f"images and no held-out image is flagged (a finding takes {k}, corrected over {n_tests} tests by two "
                "rules)."
            )
    return "With so few seeds and held-out images no rate of copies can be found."


def copy_sentence(n_seeds: int, n_tests: int) -> str:
    """Return which rate of copies can be found, and be shown rare."""
    rate, needed = detectable_copies(n_seeds, n_tests), copies.groups_needed(n_tests * len(COPY_RULES))
    if np.isnan(rate):
        return f"With so few seeds no rate of copies can be found: a finding takes copies of {needed} distinct images."
    left = Copying(0, 2 * n_seeds, 0, 0, 1.0, 0, pairs=2 * n_seeds).rate_excluded
    return (
        f"Copies are found with {POWER:.0%} power from {rate:.2%} of samples on, if they are of different images (a "
        f"finding takes {needed}, corrected over {n_tests} tests by two rules); without any, at most {left:.2%} of "
        "samples are left possible."
    )


def detectable_copies(n_seeds: int, n_tests: int) -> float:
    """Return the least share of copies of distinct images that is found with 90 % power; NaN if none is.

    The share with which 90 % of audits have as many copies as a finding takes, the twin flagging none of them.
    """
    from scipy.stats import beta

    n, needed = 2 * n_seeds, copies.groups_needed(n_tests * len(COPY_RULES))
    return float(beta.ppf(POWER, needed, n - needed + 1)) if needed <= n else intervals.NAN


def membership_sentence(n: int, m: int, budgets: Budgets) -> str:
    """Return how often networks that give nobody away are shown to do so (5.4)."""
    asked = f"{n:,} training images of a half and {m:,} held-out images"
    if min(n, m) < membership.LEAST:
        lacking = " and ".join(
            f"{what} ({flag})"
            for what, flag, have in (
                ("training images", f"--loss-images {membership.ADVISED}", n),
                ("held-out images", "--heldout", m),
            )
            if have < membership.LEAST
        )
        return (
            f"With {asked} membership cannot be shown hidden, and no weights be released: it takes {membership.LEAST} "
            f"of either; give {membership.ADVISED:,} {lacking}."
        )
    chance = membership.chance_hidden(n, m, budgets)
    more = "" if chance >= POWER else f"; give {membership.ADVISED:,} held-out images and as many of each half"
    return f"Without a leak, membership is shown hidden with {asked} in about {chance:.0%} of audits{more}."


def shift_sentence(n_seeds: int, n_heldout: int) -> str:
    """Return which shift of nearest-neighbor distances can be found."""
    if not n_heldout:
        return "Without held-out images no shift of distances, no copying rate on real images and no underfit is known."
    return (
        f"A shift is found with {POWER:.0%} power where samples are nearer to the training images than held-out images "
        f"in {0.5 + detectable_shift(n_seeds, n_heldout):.1%} of pairs or more (two-sided 5 %, uncorrected)."
    )


def detectable_shift(n_seeds: int, n_heldout: int) -> float:
    """Return the least distance of the AUC from one half that is found with 90 % power."""
    se = np.sqrt((n_seeds + n_heldout + 1) / (12 * n_seeds * n_heldout))
    return float((Z_TWO_SIDED + Z_POWER) * se)
