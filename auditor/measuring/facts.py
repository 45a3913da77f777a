"""What the verdict on a checkpoint rests on: a few numbers each, with the rule that reads them.

The rules are those of docs/statistics.md 3 to 6; auditor/measuring/verdict.py puts them in order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from auditor.config import Budgets
from auditor.stats.counts import upper_limit

ONE_SIDED = 1.645  # standard errors of a one-sided 95 % bound
SETTLES = 2.93  # z_.95 + z_.90: standard errors that a margin must hold for 90 % power (statistics 8)


@dataclass(frozen=True)
class Reference:
    """own_share of the smooth reference, which memorizes nothing, in one space (statistics 3.5)."""

    share: float
    se: float = 0.0  # over its finitely many samples; the hubs of the split are those of the models', too


@dataclass(frozen=True)
class Lean:
    """Own-versus-other lean of one checkpoint in one space, with what a smooth model would show."""

    value: float  # own_share of both twins
    v_seed: float
    v_hub: float
    n_seeds: int
    p_corrected: float  # gap lean, over all checkpoints, spaces and losses
    reference: float  # own_share of the smooth reference
    reference_se: float = 0.0
    few_images: bool = False  # the evidence rests on fewer than ten images

    @property
    def se(self) -> float:
        """Standard error over seeds and the hubs of this split."""
        return float(np.sqrt(self.v_seed + self.v_hub))

    def bias_margin(self, budgets: Budgets) -> float:
        """Least lean above one half that is called bias."""
        return max(budgets.lean_bias, self.reference - 0.5)

    def safe_margin(self, budgets: Budgets) -> float:
        """Lean above one half that "no bias" has to stay under."""
        return max(budgets.lean_safe, self.reference - 0.5 + budgets.lean_safe_beyond_reference)

    def is_bias(self, budgets: Budgets) -> bool:
        """Significant after correction, and larger than a smooth model's lean, which is itself an estimate."""
        by_reference = self.reference - 0.5 > budgets.lean_bias
        se = np.hypot(self.se, self.reference_se) if by_reference else self.se
        above = self.value - ONE_SIDED * se > 0.5 + self.bias_margin(budgets)
        return bool(self.p_corrected <= budgets.alpha and above)

    def is_safe(self, budgets: Budgets) -> bool:
        """Shown to lie under the margin."""
        return bool(self.value + ONE_SIDED * self.se < 0.5 + self.safe_margin(budgets))

    def seeds_needed(self, budgets: Budgets) -> int | None:
        """Seeds that would settle it with 90 % power, or None where seeds cannot."""
        room = (self.safe_margin(budgets) - abs(self.value - 0.5)) / SETTLES
        left = room**2 - self.v_hub
        if room <= 0 or left <= 0:
            return None
        return int(np.ceil(self.v_seed * self.n_seeds / left))

    def sentence(self, space: str, budgets: Budgets) -> str:
        """Say the numbers."""
        return (
            f"{space}: own_share {self.value:.3f} (one-sided 95% bounds {self.value - ONE_SIDED * self.se:.3f} and "
            f"{self.value + ONE_SIDED * self.se:.3f}, smooth reference {self.reference:.3f}, accepted up to "
            f"{0.5 + self.safe_margin(budgets):.3f}, corrected p {self.p_corrected:.3g}"
            f"{'; the evidence rests on few images' if self.few_images else ''})"
        )


@dataclass(frozen=True)
class LossLean:
    """Difference-in-differences of the twins' losses at one checkpoint."""

    value: float
    low: float  # one-sided 95 % bounds
    high: float
    p_corrected: float
    reference: float  # of the linear denoiser

    def bias_margin(self, budgets: Budgets) -> float:
        """Least loss lean that is called bias."""
        return max(budgets.loss_bias, self.reference)

    def is_bias(self, budgets: Budgets) -> bool:
        """Significant after correction, and larger than a linear model's."""
        return bool(self.p_corrected <= budgets.alpha and self.low > self.bias_margin(budgets))

    def is_safe(self, budgets: Budgets) -> bool:
        """Shown to lie under the margin."""
        return bool(self.high < self.bias_margin(budgets) + budgets.loss_safe_beyond_bias)

    def sentence(self, budgets: Budgets) -> str:
        """Say the numbers."""
        return (
            f"loss_lean {self.value:.3f} (one-sided 95% bounds {self.low:.3f} and {self.high:.3f}, linear reference "
            f"{self.reference:.3f}, accepted up to {self.bias_margin(budgets) + budgets.loss_safe_beyond_bias:.3f}, "
            f"corrected p {self.p_corrected:.3g})"
        )


@dataclass(frozen=True)
class Copying:
    """Copies among the samples of both twins at one checkpoint in one space, beside held-out images."""

    hits: int
    n: int
    control_hits: int
    control_n: int
    p_corrected: float
    sources: int  # distinct training images among the flagged
    ratio: float | None = None  # d1 / d2 below which a copy is flagged, where it is not 1/3

    def is_copy(self, budgets: Budgets) -> bool:
        """More flagged than held-out images, and than the twin's samples of the same seeds, after correction."""
        return bool(self.p_corrected <= budgets.alpha)

    def is_safe(self, budgets: Budgets) -> bool:
        """The upper limit is under that of held-out images plus the budget."""
        control = upper_limit(self.control_hits, self.control_n) if self.control_n else 0.0
        return upper_limit(self.hits, self.n) < control + budgets.copies_beyond_heldout

    def counts(self, space: str, budgets: Budgets) -> bool:
        """Whether a finding in this space makes the verdict: the rule must be specific here."""
        return is_specific(space, self.control_hits / self.control_n if self.control_n else 0.0, budgets)

    def sentence(self, space: str) -> str:
        """Say the numbers."""
        control = f"{self.control_hits} of {self.control_n} held-out images" if self.control_n else "no held-out images"
        rule = f" (d1 / d2 below {self.ratio:.3f})" if self.ratio is not None else ""
        return (
            f"{space}: {self.hits} of {self.n} samples flagged as copies{rule} of {self.sources} images "
            f"(at most {upper_limit(self.hits, self.n):.2%} at 95%), {control}, corrected p {self.p_corrected:.3g}"
        )


def is_specific(space: str, false_alarms: float, budgets: Budgets) -> bool:
    """Return whether the copying rule makes verdicts in a space: it flags few held-out images there (4.1).

    ``false_alarms`` is the share of held-out images that it flags, in [0, 1].
    """
    return space in ("pixel", "correlation") or false_alarms <= budgets.copy_rule_false_alarms


@dataclass(frozen=True)
class Tail:
    """Own share among the samples for which one pool image stands out most, of both twins (3.8)."""

    share: float  # in [0, 1]; 1/2 is no lean
    low: float  # one-sided lower bound: the smaller of Clopper-Pearson over samples and over distinct groups
    p_corrected: float
    reference: float  # that of the smooth reference
    n: int  # samples in the tail
    groups: int  # distinct groups that they land on

    def is_bias(self, budgets: Budgets) -> bool:
        """Significant after correction, and larger than a smooth model's tail."""
        return bool(self.p_corrected <= budgets.alpha and self.low > max(0.75, self.reference + 0.1))

    def sentence(self, space: str) -> str:
        """Say the numbers."""
        return (
            f"{space}: of the {self.n} samples for which one image stands out most {self.share:.0%} land on their own "
            f"half, on {self.groups} images (at least {self.low:.0%} at 95%, smooth reference {self.reference:.0%}, "
            f"corrected p {self.p_corrected:.3g})"
        )


@dataclass(frozen=True)
class Named:
    """Training images to which the samples of both twins lead back, by target-decoy competition, in one space (4.5)."""

    images: tuple[tuple[str, str], ...]  # (half, id) of the groups' best images, strongest first; condition of "safe"
    wide: int = 0  # length of the wide list, which is shown and no condition
    fdr: float = 0.1

    def sentence(self, space: str) -> str:
        """Say the numbers."""
        return f"{space}: samples lead back to {len(self.images)} training images (FDR {self.fdr:.0%})"


@dataclass(frozen=True)
class Membership:
    """What can be told of membership at one checkpoint by what both networks say of single images (5.4, 5.5)."""

    hidden: bool  # shown: every score of every training under its limit, and nobody on the exposed list
    exposed: tuple[str, ...] = ()  # sentences that show it to be exposed; empty if it is not
    missing: tuple[str, ...] = ()  # why it is not shown hidden, with the number that would settle it
    shown: str = ""  # the sentence behind "hidden"; empty where it is not
    headline: str = ""  # what is found at 10 % false positives; empty where nothing significant is
    listed: int = 0  # images, or groups of them, on the exposed list

    @property
    def outcome(self) -> str:
        """One word: exposed, hidden or undecided."""
        return "exposed" if self.exposed else "hidden" if self.hidden else "undecided"


@dataclass(frozen=True)
class StepFacts:
    """Everything the verdict on one checkpoint rests on."""

    step: int
    lean: Mapping[str, Lean] = field(default_factory=dict)  # by space; empty without training images
    loss: LossLean | None = None
    copying: Mapping[str, Copying] = field(default_factory=dict)
    underfit: tuple[str, ...] = ()  # sentences
    loss_rise: float = float("nan")  # one-sided lower limit of [L - min L] / min L; NaN where unknown
    quality: np.ndarray | None = None  # linearized KID per seed, both twins averaged
    attacks: Mapping[float, float] = field(default_factory=dict)  # false-positive rate -> upper limit of the hits
    tails: Mapping[str, Tail] = field(default_factory=dict)  # by space
    named: Mapping[str, Named] = field(default_factory=dict)  # by space
    membership: Membership | None = None  # None where no losses were measured


@dataclass(frozen=True)
class Context:
    """What holds for the whole run."""

    divergence: tuple[int, ...]  # steps that may hold the least twin distance, in the headline space
    loss: tuple[int, ...]  # steps that may hold the least held-out loss
    n_seeds: int  # 0 where no samples were drawn
    distrust: tuple[str, ...] = ()  # controls that failed
    not_exchangeable: tuple[str, ...] = ()  # why the halves may differ
    not_the_halves: tuple[str, ...] = ()  # why these are not the halves that were trained on
    caveats: tuple[str, ...] = ()  # what a reader has to know and no verdict hangs on
