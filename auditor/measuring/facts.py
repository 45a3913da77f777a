"""What the verdict on a checkpoint rests on: a few numbers each, with the rule that reads them.

The rules are those of docs/statistics.md 3 to 6; auditor/measuring/verdict.py puts them in order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy import special

from auditor.config import COPY_RATIO, Budgets
from auditor.stats.counts import upper_limit

ONE_SIDED = 1.645  # standard errors of a one-sided 95 % bound
FINDING = 0.025  # one-sided level of a finding, shared by the spaces
SETTLES = 2.93  # z_.95 + z_.90: standard errors that a margin must hold for 90 % power (statistics 8)


@dataclass(frozen=True)
class Reference:
    """What the smooth reference, which memorizes nothing, shows in one space (statistics 3.5)."""

    share: float  # own_share
    se: float = 0.0  # over its finitely many samples; the hubs of the split are those of the models', too
    gap: float = 0.0  # gap lean
    tail: float = 0.5  # own share of its tail


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
    gap: float = 0.0  # gap lean of both twins
    gap_se: float = float("inf")
    gap_reference: float = 0.0  # that of the smooth reference
    n_spaces: int = 1  # in which the checkpoint is judged: any of them may find bias

    @property
    def se(self) -> float:
        """Standard error over seeds and the hubs of this split."""
        return float(np.sqrt(self.v_seed + self.v_hub))

    @property
    def one_sided(self) -> float:
        """Standard errors of the bound that bias has to stay above: one-sided 97.5 % over all spaces together."""
        return float(special.ndtri(1 - FINDING / self.n_spaces))

    def bias_margin(self, budgets: Budgets) -> float:
        """Least lean above one half that is called bias."""
        return max(budgets.lean_bias, self.reference - 0.5)

    def safe_margin(self, budgets: Budgets) -> float:
        """Lean above one half that "no bias" has to stay under; capped, however much a smooth model leans."""
        few = self.n_seeds < budgets.many_seeds
        beyond = budgets.lean_safe_beyond_reference_few if few else budgets.lean_safe_beyond_reference
        return min(budgets.lean_safe_most, max(budgets.lean_safe, self.reference - 0.5 + beyond))

    def is_bias(self, budgets: Budgets) -> bool:
        """Significant after correction, and larger than a smooth model's lean, in its share or in its gap."""
        by_reference = self.reference - 0.5 > budgets.lean_bias
        se = np.hypot(self.se, self.reference_se) if by_reference else self.se  # a reference is an estimate, too
        share = self.value - self.one_sided * se > 0.5 + self.bias_margin(budgets)
        gap = self.gap - ONE_SIDED * self.gap_se > max(0.0, self.gap_reference) + budgets.gap_bias
        return bool(self.p_corrected <= budgets.alpha and (share or gap))

    def is_safe(self, budgets: Budgets) -> bool:
        """Shown to lie under the margin, to either side: exchanged halves lean the other way."""
        return bool(abs(self.value - 0.5) + ONE_SIDED * self.se < self.safe_margin(budgets))

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
        """Shown to lie under the margin, to either side."""
        return bool(max(self.high, -self.low) < self.bias_margin(budgets) + budgets.loss_safe_beyond_bias)

    def sentence(self, budgets: Budgets) -> str:
        """Say the numbers."""
        return (
            f"loss_lean {self.value:.3f} (one-sided 95% bounds {self.low:.3f} and {self.high:.3f}, linear reference "
            f"{self.reference:.3f}, accepted up to {self.bias_margin(budgets) + budgets.loss_safe_beyond_bias:.3f}, "
            f"corrected p {self.p_corrected:.3g})"
        )


COPY_RULES = {
    "gap": "flagged as copies",
    "carlini": "nearer to one image than half the mean distance of the 50 nearest (Carlini's ratio)",
}  # each a cell of its own: together the second hides what the first finds


@dataclass(frozen=True)
class Flagged:
    """What the rule flags that speaks most for copying."""

    rule: str  # one of COPY_RULES
    hits: int  # samples of both twins
    own_only: int  # pairs (seed, half) of which only the sample of the twin that was trained on the half is flagged
    twin_only: int  # only that of the other twin
    images: int  # distinct groups of training images among the hits


@dataclass(frozen=True)
class Copying:
    """Copies among the samples of both twins at one checkpoint in one space: of whom, not only how many (4)."""

    hits: int  # flagged samples of both twins
    n: int  # samples of both twins
    control_hits: int
    control_n: int
    p_corrected: float
    sources: int  # distinct groups of training images among the flagged
    ratio: float | None = None  # d1 / d2 below which a copy is flagged, where it is not 1/3
    own_only: int = 0  # pairs (seed, half) of which only the sample of the twin that was trained on the half is flagged
    twin_only: int = 0  # only that of the other twin
    pairs: int = 0  # seeds x halves; 0 for a single training
    rare_ratio: float = COPY_RATIO  # d1 / d2 below which these two count
    revealed: tuple[str, ...] = ()  # half/id of images that only the twin that saw them shows; ids, of one training
    groups_needed: int = 0  # distinct groups that a finding takes in this run
    shared_hits: int = 0  # samples flagged on images that both halves hold; these are in no pool
    shared_control_hits: int = 0  # held-out images flagged on them
    most_of_one: int = 0  # pairs of own_only that show one image, or group of them: the worst
    most: Flagged | None = None  # by the rule with the least p; None: the gap rule

    def is_copy(self, budgets: Budgets) -> bool:
        """More flagged than the twin flags, by pairs and by distinct groups, after correction."""
        return bool(self.p_corrected <= budgets.alpha)

    @property
    def rate_excluded(self) -> float:
        """Upper 95 % limit of the rate of copies beyond the twin's, per sample; in [-1, 1]."""
        spread = ONE_SIDED * np.sqrt(self.own_only + self.twin_only + 3)  # 3: none seen of n still leaves about 3 / n
        if not self.pairs:
            return upper_limit(self.hits, self.n)
        return float((self.own_only - self.twin_only + spread) / self.pairs)

    def accepted(self, budgets: Budgets) -> float:
        """Rate of copies beyond the twin's that is accepted; of a single training beyond held-out images'."""
        if not self.pairs:
            control = upper_limit(self.control_hits, self.control_n) if self.control_n else 0.0
            return control + budgets.copies_beyond_heldout
        return budgets.copies_beyond_twin if self.n / 2 >= budgets.many_seeds else budgets.copies_beyond_twin_few

    def is_rare(self, budgets: Budgets) -> bool:
        """The rate beyond the twin's is shown to be small."""
        return self.rate_excluded <= self.accepted(budgets)

    def shared_is_rare(self, budgets: Budgets) -> bool:
        """Images that both halves hold are not reproduced more often than held-out images resemble them."""
        if not self.shared_hits:
            return True
        control = self.shared_control_hits / self.control_n if self.control_n else 0.0
        return upper_limit(self.shared_hits, self.n) < control + self.accepted(budgets)

    def is_safe(self, budgets: Budgets) -> bool:
        """Shown rare, of images of one half and of those that both hold."""
        return self.is_rare(budgets) and self.shared_is_rare(budgets)

    def counts(self, space: str, budgets: Budgets) -> bool:
        """Whether a finding in this space makes the verdict: beside a twin always, else where the rule is specific."""
        return bool(self.pairs) or is_specific(
            space, self.control_hits / self.control_n if self.control_n else 0.0, budgets
        )

    def sentence(self, space: str) -> str:
        """Say the numbers."""
        most = self.most or Flagged("gap", self.hits, self.own_only, self.twin_only, self.sources)
        ratio = f" (d1 / d2 below {self.ratio:.3f})" if self.ratio is not None and most.rule == "gap" else ""
        said = f"{space}: {most.hits} of {self.n} samples are {COPY_RULES[most.rule]}{ratio}, of {most.images} images"
        if self.pairs:
            said += f"; {most.own_only} only of the twin that saw them, {most.twin_only} only of the other"
        elif self.control_n:
            said += f"; {self.control_hits} of {self.control_n} held-out images are"
        return f"{said} (corrected p {self.p_corrected:.3g})"

    def rare_sentence(self, space: str, budgets: Budgets) -> str:
        """Say which rate of copies can be excluded."""
        beyond = "the twin's" if self.pairs else "those of held-out images"
        return (
            f"{space}: copies beyond {beyond} at most {max(self.rate_excluded, 0):.2%} of samples at 95% "
            f"(accepted {self.accepted(budgets):.2%}; {self.own_only} flagged only by the twin that saw them, "
            f"{self.twin_only} only by the other, of {self.pairs or self.n}, d1 / d2 below {self.rare_ratio:.3f})"
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
        beyond = self.reference + budgets.tail_bias_beyond_reference
        return bool(self.p_corrected <= budgets.alpha and self.low > max(budgets.tail_bias, beyond))

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
    kid: np.ndarray | None = None  # linearized, per seed, both twins averaged
    tails: Mapping[str, Tail] = field(default_factory=dict)  # by space
    named: Mapping[str, Named] = field(default_factory=dict)  # by space
    membership: Membership | None = None  # None where no losses were measured
    leaning_classes: tuple[str, ...] = ()  # sentences of classes and groups whose samples lean
    fit_judged: bool = True  # whether anything tells that it is underfit: there are held-out images


@dataclass(frozen=True)
class Context:
    """What holds for the whole run."""

    divergence: tuple[int, ...]  # steps that may hold the least twin distance, in the headline space
    loss: tuple[int, ...]  # steps that may hold the least held-out loss
    n_seeds: int  # 0 where no samples were drawn
    with_heldout: bool = True
    release: str | None = None  # weights or samples; None: not said
    release_size: int | None = None
    weights: str = ""  # ema or raw
    single: bool = False  # whether held-out images stand in the place of a twin's half
    classes_judged: bool = False  # whether samples were compared within classes
    distrust: tuple[str, ...] = ()  # controls that failed
    not_exchangeable: tuple[str, ...] = ()  # why the halves may differ
    not_the_halves: tuple[str, ...] = ()  # why these are not the halves that were trained on
    caveats: tuple[str, ...] = ()  # what a reader has to know and no verdict hangs on
