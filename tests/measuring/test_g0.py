"""G0: twins whose truth is known. Exact denoisers play checkpoints, and the audit has to see what was built into them.

Methods G0 and G12. The twins of hierarchical.py share nothing with each other's half but the grammar up to tau = 6;
from 7 on each remembers its own half more and more, while the held-out loss still falls until 15. Their twin distance
and losses go through the metrics, tests and rules of a real audit. There are no samples, hence no lean in a space:
"generalizing" cannot be shown, and "undecided" stands where nothing is found.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pytest
from hierarchical import TAUS, Twins, error_of, mean_of
from scipy import stats as scipy_stats

from auditor import registry
from auditor.config import Budgets
from auditor.measuring import lean as leaning
from auditor.measuring import series, verdict
from auditor.measuring.facts import Context, LossLean, StepFacts
from auditor.measuring.verdict import Decision
from auditor.records import Evidence, LossTable
from auditor.stats import intervals, minima
from auditor.stats.relabeling import Pool, RelabelingTest, half_difference_test, relabel, step_down_max_t

NO_GAUSSIAN = float("nan")  # the linear reference of token data: the margin is then the budget's .01 (statistics 5.2)


# ---------------------------------------------------------------------------
# The audit of two such models
# ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Audit:
    """An audit in which ``models[0]`` is presented as twin a, and ``halves[0]`` as the half it was trained on."""

    twins: Twins
    models: str = "ab"
    halves: str = "ab"

    @cached_property
    def evidence(self) -> dict[tuple[int, str], Evidence]:
        """What a run leaves on disk, by (tau, twin): distances of posteriors and losses, per sequence."""
        sequences = np.arange(self.twins.n_measured)
        unknown = np.full(len(sequences), np.nan)
        distance = self.twins.results.split[self.models[0], self.models[1]]
        found = {}
        for tau in TAUS:
            losses = {twin: self.losses(model, tau) for twin, model in zip("ab", self.models, strict=True)}
            for twin, other in ("ab", "ba"):
                known = {"own": losses[twin][twin], "other": losses[twin][other], "heldout": losses[twin]["heldout"]}
                twins = {"own": losses[other][other], "other": losses[other][twin]}
                found[tau, twin] = Evidence(
                    twin, tau, "posterior", sequences, distance[tau], unknown, losses=known, twin_losses=twins
                )
        return found

    def losses(self, model: str, tau: int) -> dict[str, LossTable]:
        """Return the losses of one model by set: the halves a and b as presented, and held-out."""
        values, tables = self.twins.results.loss[model][tau], {}
        for name, rows in (("a", self.halves[0]), ("b", self.halves[1]), ("heldout", "heldout")):
            part = values[self.twins.rows(rows)][:, None]
            ids = np.array([f"{rows}{i}" for i in range(len(part))], dtype=object)
            tables[name] = LossTable(ids, np.array([self.twins.t]), part)
        return tables

    @cached_property
    def heldout_loss(self) -> np.ndarray:
        """Held-out loss of both twins, [taus, sequences]."""
        return self.curve("loss_heldout")

    @cached_property
    def distance(self) -> np.ndarray:
        """Twin distance, [taus, sequences]."""
        return self.curve("twin_distance")

    def curve(self, name: str) -> np.ndarray:
        """Return the scores of a metric along the series, the average of both twins: float64 [taus, units]."""
        scores = registry.lookup("metric", name).scores
        return np.array([series.average([scores(self.evidence[t, twin]) for twin in "ab"]).values for t in TAUS])

    @cached_property
    def pool(self) -> Pool:
        """The training sequences whose loss was measured; equal ones are a group."""
        ids = [(half, str(each)) for half in "ab" for each in self.evidence[0, half].losses["own"].ids]
        sequences = np.concatenate([self.twins.measured[half] for half in self.halves])
        _, groups = np.unique(sequences, axis=0, return_inverse=True)
        return Pool(tuple(ids), np.repeat([1.0, -1.0], self.twins.n_measured), groups.ravel())

    @cached_property
    def r(self) -> np.ndarray:
        """ln(l_B / l_A) of every sequence of the pool, [taus, sequences]."""
        pairs = [{twin: self.evidence[tau, twin].losses for twin in "ab"} for tau in TAUS]
        columns, r = zip(*(leaning.loss_scores(each, self.pool) for each in pairs), strict=True)
        assert (np.array(columns) == np.arange(len(self.pool.labels))).all()
        return np.array(r)

    @cached_property
    def tests(self) -> list[RelabelingTest]:
        """The relabeling test of the loss lean at every tau."""
        relabeling = relabel(self.pool, 1)
        return [half_difference_test(relabeling, np.arange(len(self.pool.labels)), r) for r in self.r]

    @cached_property
    def p_corrected(self) -> np.ndarray:
        """Its p values, corrected over the series."""
        return step_down_max_t(np.hstack([each.z for each in self.tests]))

    @cached_property
    def leans(self) -> list[LossLean]:
        """The loss lean of every tau with its bounds, as the verdict takes it."""
        columns, found = np.arange(len(self.pool.labels)), []
        for r, test, p in zip(self.r, self.tests, self.p_corrected, strict=True):
            result = leaning.loss_result(self.pool, columns, r, float(test.p[0]), float(p), seed=2)
            found.append(LossLean(result.estimate.value, result.low, result.high, result.p_corrected, NO_GAUSSIAN))
        return found

    @cached_property
    def loss(self) -> minima.Onset:
        """tau_loss and its set."""
        return minima.locate_minimum(self.heldout_loss, TAUS, self.draws, 3, last_is_none=True)

    @cached_property
    def divergence(self) -> minima.Onset:
        """tau_div and its set, over the taus that are not underfit."""
        evaluable = [tau for tau in TAUS if not self.underfit(tau)]
        return minima.locate_minimum(self.distance[evaluable], evaluable, self.draws, 4, last_is_none=True)

    @cached_property
    def draws(self) -> np.ndarray:
        """Resamples of the held-out sequences, shared by both curves."""
        return minima.resamples(self.twins.n_measured, 5)

    def underfit(self, tau: int) -> bool:
        """Return whether the loss alone calls it underfit (statistics 6.1 i)."""
        loss = self.heldout_loss.mean(axis=1)
        return tau < min(self.loss.steps) and loss[tau] > Budgets().underfit_loss * loss.min()

    def facts(self, tau: int) -> StepFacts:
        """Return what the verdict on one tau rests on: losses alone."""
        losses = self.heldout_loss
        least = losses[losses.mean(axis=1).argmin()]
        return StepFacts(
            tau,
            loss=self.leans[tau],
            underfit=("Underfit by its loss.",) if self.underfit(tau) else (),
            loss_rise=intervals.paired_lower(losses[tau], least) / least.mean(),
        )

    def decisions(self, divergence: tuple[int, ...], loss: tuple[int, ...], budgets: Budgets) -> list[Decision]:
        """Return the decision on every tau, given the taus that may hold either minimum."""
        context = Context(divergence, loss, self.twins.n_measured)
        return [verdict.judge(self.facts(tau), context, budgets) for tau in TAUS]

    @cached_property
    def by_default(self) -> list[Decision]:
        """The decisions by the rules and budgets of the tool."""
        return self.decisions(self.divergence.steps, self.loss.steps, Budgets())


@pytest.fixture(scope="module")
def trained() -> Twins:
    """Twins that learn the grammar and then remember their halves."""
    return Twins()


@pytest.fixture(scope="module")
def audit(trained) -> Audit:
    """Their audit."""
    return Audit(trained)


@pytest.fixture(scope="module")
def unbiased() -> Audit:
    """The audit of twins that learn the grammar and remember nothing (eta = 0 throughout)."""
    return Audit(Twins(memory=0))


def twin_mean(values: dict[str, np.ndarray], tau: int, rows: slice = slice(None)) -> np.ndarray:
    """The average of both models, per sequence."""
    return (values["a"][tau, rows] + values["b"][tau, rows]) / 2


# The minima and numbers below are those of methods G0 [calc], from other draws of the same size: the difference of two
# such estimates has sqrt(2) times the standard error of one. Tolerances are four of these.


def close(found: np.ndarray, expected: float) -> bool:
    return abs(found.mean() - expected) <= 4 * np.sqrt(2) * error_of(found)


def test_the_twins_are_nearest_to_each_other_at_7(audit):
    assert abs(audit.distance.mean(axis=1).argmin() - 7) <= 1


def test_the_twins_are_nearest_to_the_truth_at_14(trained):
    oracle = [mean_of(twin_mean(trained.results.oracle, tau)) for tau in TAUS]
    assert abs(int(np.argmin(oracle)) - 14) <= 1


def test_the_heldout_loss_is_least_at_15(audit):
    assert abs(audit.heldout_loss.mean(axis=1).argmin() - 15) <= 1


def test_the_heldout_loss_falls_and_rises_as_computed_before(audit):
    for tau, expected in ((0, 0.627), (15, 0.400), (20, 0.408)):
        assert close(audit.heldout_loss[tau], expected)
    assert close(audit.heldout_loss[0] - audit.heldout_loss[15], 0.627 - 0.400)
    assert audit.heldout_loss[20].mean() - audit.heldout_loss[15].mean() == pytest.approx(0.408 - 0.400, abs=0.001)


@pytest.mark.parametrize(("tau", "expected"), [(0, 0), (6, 0), (7, 0.0092), (10, 0.0511), (15, 0.1311), (20, 0.2170)])
def test_the_twins_gain_on_their_own_halves_as_computed_before(trained, tau, expected):
    """The sum over both halves of the mean gap l_other - l_own, in nats per token."""
    loss = trained.results.loss
    on_a = (loss["b"] - loss["a"])[tau, trained.rows("a")]
    on_b = (loss["a"] - loss["b"])[tau, trained.rows("b")]
    assert close(on_a + on_b, expected)  # independent sequences, so the error of the sum is that of unpaired means


def test_the_excess_loss_is_none_on_heldout_sequences_and_negative_on_the_own(trained):
    """The part of the loss that an exact posterior cannot have, whatever the model, without remembering (B.6)."""
    excess = trained.results.excess
    for tau in TAUS:
        assert close(twin_mean(excess, tau, trained.rows("heldout")), 0)
    assert close((excess["a"][20, trained.rows("a")] + excess["b"][20, trained.rows("b")]) / 2, -0.103)


# ---------------------------------------------------------------------------
# What the audit has to find
# ---------------------------------------------------------------------------


def test_the_audit_finds_both_minima(audit):
    assert (audit.divergence.status, audit.loss.status) == ("found", "found")
    assert 7 in audit.divergence.steps
    assert {14, 15} <= set(audit.loss.steps)


def test_the_twins_diverge_before_the_loss_rises(audit):
    assert max(audit.divergence.steps) < min(audit.loss.steps)


def test_the_loss_leans_from_the_first_tau_that_remembers(audit):
    assert (audit.p_corrected[:7] > 0.025).all()
    assert (audit.p_corrected[7:] <= 0.025).all()


def test_twins_that_remember_nothing_yet_are_never_called_biased(audit):
    assert "biased" not in {each.risk for each in audit.by_default[:7]}


@pytest.mark.parametrize("tau", [9, 10, 11, 12, 13, 14])
def test_twins_that_remember_while_the_loss_still_falls_are_called_biased(audit, tau):
    assert audit.by_default[tau].verdict == "biased"


@pytest.mark.parametrize("tau", [17, 18, 19, 20])
def test_twins_whose_loss_rises_are_overfit_and_still_biased(audit, tau):
    assert (audit.by_default[tau].risk, audit.by_default[tau].quality) == ("biased", "overfit")


def test_without_iterate_noise_and_rise_margin_each_verdict_is_the_truth(audit):
    """Exact denoisers have no weights that jitter (v = 0), and here any certain rise of the loss counts."""
    sets = [
        tuple(np.flatnonzero(minima.argmin_set(curve, audit.draws, 0)).tolist())
        for curve in (audit.distance, audit.heldout_loss)
    ]
    found = audit.decisions(*sets, Budgets(overfit_rise=0.0))
    assert "biased" not in {each.risk for each in found[:7]}
    assert {each.risk for each in found[9:]} == {"biased"}
    assert "overfit" not in {each.quality for each in found[:15]}
    assert {each.quality for each in found[17:]} == {"overfit"}


def test_twins_that_never_remember_have_no_biased_phase(unbiased):
    assert unbiased.divergence.status == "none"
    assert not any(lean.is_bias(Budgets()) for lean in unbiased.leans)
    assert not {"biased", "overfit"} & {word for each in unbiased.by_default for word in (each.risk, each.quality)}


def test_the_loss_lean_of_twins_that_never_remember_is_seldom_significant():
    """Ten pairs with new sequences and initialisations at level .025: three or more have a chance of .002."""
    pairs = [Audit(Twins(seed, memory=0, n_train=400, n_measured=250)) for seed in range(1, 11)]
    assert sum(each.p_corrected.min() <= 0.025 for each in pairs) <= 2


# ---------------------------------------------------------------------------
# Negative controls (G12)
# ---------------------------------------------------------------------------


def test_a_checkpoint_audited_against_itself_shows_nothing(trained):
    same = Audit(trained, models="aa")
    assert (same.distance == 0).all()
    assert (same.r == 0).all()
    for each in same.tests:
        assert (each.value, each.p) == (0, 1)
    assert (same.p_corrected == 1).all()
    assert same.divergence.status == "undecided"


def test_naming_the_twins_the_other_way_round_changes_no_verdict(trained, audit):
    """Every r changes its sign, and so does every label: the lean is the same."""
    swapped = Audit(trained, models="ba", halves="ba")
    n = trained.n_measured
    np.testing.assert_allclose(swapped.r, -np.roll(audit.r, n, axis=1), rtol=0, atol=1e-12)
    for each, before in zip(swapped.leans, audit.leans, strict=True):
        assert each.value == pytest.approx(before.value, abs=1e-12)
    assert swapped.by_default == audit.by_default


def test_checkpoints_given_to_the_wrong_twin_lean_the_other_way(trained, audit):
    crossed = Audit(trained, models="ba")
    for each, before in zip(crossed.tests, audit.tests, strict=True):
        np.testing.assert_allclose(each.value, -before.value, rtol=0, atol=1e-12)
    assert (crossed.p_corrected > 0.5).all()


def test_p_is_uniform_once_the_labels_of_the_halves_are_permuted(audit):
    """At tau = 20, where the lean is largest: 200 permuted pools of 99 relabelings each, in ten bins of ten values."""
    columns, r = np.arange(len(audit.pool.labels)), audit.r[20]
    p = [
        half_difference_test(relabel(replace(audit.pool, labels=labels), seed, 99), columns, r).p[0]
        for seed, labels in enumerate(relabel(audit.pool, 6, 200).labels[1:])
    ]
    counts, _ = np.histogram(p, np.arange(11) / 10 + 0.005)
    assert counts.sum() == 200
    assert scipy_stats.chisquare(counts).pvalue > 0.001
