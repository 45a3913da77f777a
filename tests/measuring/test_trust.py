"""Which controls a run can be asked to pass: none that even its best outcome would fail."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from denoisers import HELDOUT, flat, population
from torch import from_numpy, randn
from torch import manual_seed as seeded

from auditor.diffusion import denoising, schedules
from auditor.diffusion.model import DiffusionModel
from auditor.measuring import controls, copies, misread
from auditor.records import Evidence, LossTable
from auditor.stages import readings
from auditor.stats.landing import Landing
from auditor.stats.relabeling import Pool, relabel


def series(n_samples: int, n_heldout: int, twins: int = 2) -> SimpleNamespace:
    """What the question depends on: numbers of seeds, of held-out images, and of trainings."""
    scope = SimpleNamespace(n_samples=n_samples, twins=("a", "b")[:twins], with_twin=twins == 2)
    return SimpleNamespace(scope=scope, heldout=range(n_heldout))


@pytest.mark.parametrize(
    ("n_samples", "n_heldout", "asked"), [(1000, 350, True), (100, 5000, False), (1000, 20, False)]
)
def test_two_percent_of_copies_are_asked_for_only_where_they_could_be_found(n_samples, n_heldout, asked):
    """With 100 seeds two samples of each twin are copies: four against none has p = 1/16, however many are held out."""
    assert controls.could_be_found(series(n_samples, n_heldout), 0.025 / 3, rate=0.0) == asked


def test_a_single_training_is_asked_by_its_heldout_images_alone():
    assert controls.could_be_found(series(100, 5000, twins=1), 0.025 / 3, rate=0.0)
    few = series(1000, 348, twins=1)
    assert controls.could_be_found(few, 0.01, rate=0.0) and not controls.could_be_found(few, 0.005, rate=1 / 348)


# ---------------------------------------------------------------------------
# Held-out images, taken as samples
# ---------------------------------------------------------------------------

IDS = np.array([f"h{i}" for i in range(300)], dtype=object)


def heldout_of(flagged: dict[str, np.ndarray]) -> SimpleNamespace:
    """A series whose held-out images are flagged on an image of either half, each on another, as ``flagged`` says."""
    unknown = np.empty(0)
    evidence = {}
    for twin, mask in flagged.items():
        near = np.where(mask, 0.1, 1.0)
        evidence[100, twin, "pixel"] = Evidence(
            twin,
            100,
            "pixel",
            unknown,
            unknown,
            unknown,
            own=np.empty((0, 8)),
            own_outside=unknown,
            own_mean_50=unknown,
            own_group=np.empty(0, dtype=np.int64),
            heldout_ids=IDS,
            heldout_own=np.repeat(near[:, None], 8, axis=1),
            heldout_own_outside=np.ones(len(IDS)),
            heldout_own_mean_50=np.ones(len(IDS)) * 1.5,
            heldout_own_group=np.arange(len(IDS)) + (1000 if twin == "b" else 0),
        )
    twins = tuple(flagged)
    scope = SimpleNamespace(steps=(100,), twins=twins, seed=3, judged_spaces=("pixel",))
    return SimpleNamespace(scope=scope, evidence=evidence, near_heldout=frozenset(), heldout=IDS, pool=None)


def by_order(series: SimpleNamespace) -> float:
    """The copying p of the one cut that takes every third file."""
    of = {twin: copies.flags(series.evidence[100, twin, "pixel"]).heldout for twin in series.scope.twins}
    group = {twin: series.evidence[100, twin, "pixel"].heldout_own_group for twin in series.scope.twins}
    return copies.copy_p(controls.as_samples(of, group, [np.arange(300)[i::3] for i in range(3)]))


def test_heldout_images_whose_order_puts_look_alikes_of_a_half_together_are_no_copies():
    """Every third file resembles half a, every next half b: that cut is certain, and random ones are not."""
    series = heldout_of({"a": np.arange(300) % 30 == 0, "b": np.arange(300) % 30 == 1})
    assert by_order(series) < 1e-5
    assert (controls.heldout_copy_p(series, "pixel") > 0.025).sum() >= 95
    assert controls.copied_heldout(series, "pixel", 0.025) == []


@pytest.mark.parametrize("twins", ["ab", "a"])
@pytest.mark.parametrize("rate", [0.0, 0.01, 0.1, 0.5])
def test_the_control_of_heldout_images_passes_on_98_of_100_cuts(twins, rate):
    rng = np.random.default_rng(1)
    series = heldout_of({twin: rng.random(300) < rate for twin in twins})
    assert (controls.heldout_copy_p(series, "pixel") > 0.025).sum() >= 95  # two standard errors below 98
    assert controls.copied_heldout(series, "pixel", 0.025) == []


def test_a_program_that_looks_for_the_twins_samples_in_the_wrong_half_fails_the_control(monkeypatch):
    series, right = heldout_of({twin: np.arange(300) % 5 == 0 for twin in "ab"}), controls.as_samples

    def wrong(of, group, cut):
        return {twin: replace(each, other=np.zeros_like(each.own)) for twin, each in right(of, group, cut).items()}

    monkeypatch.setattr(controls, "as_samples", wrong)
    (said,) = controls.copied_heldout(series, "pixel", 0.025)
    assert said.startswith(
        "Control failed: real held-out images, taken as samples, are called copies in pixel (median p"
    )


def test_near_duplicates_of_training_images_leave_the_control_and_are_told_with_what_they_change():
    series = heldout_of({"a": np.arange(300) < 12, "b": np.zeros(300, dtype=bool)})
    series.near_heldout = frozenset(IDS[:6])
    (said,) = controls.near_heldout_told(series)
    assert said.startswith(
        "6 of 300 held-out images are near-duplicates of training images (h0, h1, h2, h3, h4 and 1 more)"
    )
    assert "pixel 2.00% with them and 1.02% without" in said  # 12 of 600, 6 of 588
    series.near_heldout = frozenset(IDS[:12])
    assert (controls.heldout_copy_p(series, "pixel") == 1).all()
    series.near_heldout = frozenset()
    assert controls.near_heldout_told(series) == []


def test_heldout_images_lean_to_no_half_in_the_median_of_random_cuts():
    """Not even if every third file is nearest to half a, and every next to half b."""
    rng = np.random.default_rng(0)
    pool = Pool(tuple(("ab"[i // 100], str(i)) for i in range(200)), np.repeat([1.0, -1.0], 100), np.arange(200))
    lands = {
        ("heldout", twin, "pixel"): Landing(rng.integers(0, 100, 100), rng.integers(100, 200, 100), in_a, np.ones(100))
        for twin, in_a in (("a", np.ones(100)), ("b", np.zeros(100)))
    }
    evidence = {("heldout", twin, "pixel"): SimpleNamespace(heldout_ids=IDS) for twin in "ab"}
    series = SimpleNamespace(
        scope=SimpleNamespace(seed=1), pool=pool, landings=lands, evidence=evidence, near_heldout=frozenset()
    )
    p = controls.heldout_lean_p(series, relabel(pool, 1), "pixel")
    assert len(p) == 100 and (p > 0.025).sum() >= 90
    assert controls.leaning_heldout(series, relabel(pool, 1), "pixel", 0.025) == []
    series.near_heldout = frozenset(IDS)
    assert len(controls.heldout_lean_p(series, relabel(pool, 1), "pixel")) == 0


# ---------------------------------------------------------------------------
# What networks predict
# ---------------------------------------------------------------------------


KINDS = schedules.DISCRETE
LEVELS = denoising.time_levels(readings.LEVELS, 1000)
ABAR = schedules.forward_process(schedules.DDPM).alphas_cumprod.double().numpy()


def answers(model: DiffusionModel, given: str) -> dict:
    """What the stage writes of a network that is taken for ``given``, on 60 images at its noise levels."""
    seeded(0)
    x0 = flat(HELDOUT).float().reshape(-1, 1, 4, 4).repeat(len(LEVELS), 1, 1, 1)
    found = readings.errors(model, x0, randn(x0.shape), np.repeat(LEVELS, len(HELDOUT)), "cpu", None)
    return {"given": given} | {
        what: dict(zip(KINDS, found[..., i].T, strict=True)) for i, what in enumerate(("error", "power"))
    }


def as_kind(kind: str) -> DiffusionModel:
    """The denoiser of a population as a network of another kind of prediction."""
    knows = population()

    def network(x, t):
        abar = from_numpy(ABAR[t.numpy()]).float().view(-1, 1, 1, 1)
        eps = knows.network(x, t)
        image = (x - (1 - abar).sqrt() * eps) / abar.sqrt()
        return {"epsilon": eps, "sample": image, "v_prediction": abar.sqrt() * eps - (1 - abar).sqrt() * image}[kind]

    return replace(knows, network=network)


@pytest.mark.parametrize("given", KINDS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_network_predicts_is_told_where_it_is_taken_for_something_else_and_only_there(kind, given):
    assert misread.another_kind(answers(as_kind(kind), given)) == (None if given == kind else kind)


@pytest.mark.parametrize("part", [0.0, 0.1, 0.3, 0.6])
@pytest.mark.parametrize("kind", KINDS)
def test_a_network_that_was_hardly_trained_is_not_taken_for_another_kind(kind, part):
    """Its output is a small part of what a good one says; images are so small a target that zeros come near them."""
    good = as_kind(kind)
    hardly = replace(good, network=lambda x, t: part * good.network(x, t))
    assert misread.another_kind(answers(hardly, kind)) is None


def networks(loss: float, own: float | None = None, **errors: float) -> SimpleNamespace:
    """Twins of two steps with these losses, beside linear denoisers of .5; ``errors`` by kind, v_prediction given."""

    def table(value: float) -> LossTable:
        return LossTable(IDS[:5], np.array([500]), np.full((5, 1), value))

    losses = {"own": table(loss if own is None else own), "heldout": table(loss)}
    read = {"given": "v_prediction", "power": dict.fromkeys(errors, 1.0), "error": errors} if errors else {}
    return SimpleNamespace(
        scope=SimpleNamespace(steps=(1, 2), twins=("a", "b"), with_lean=True),
        losses=lambda step: {twin: losses for twin in "ab"},
        linear={twin: {"own": table(0.5), "heldout": table(0.5)} for twin in "ab"},
        network=lambda step, twin: SimpleNamespace(more={"readings": read} if read else {}),
    )


def test_networks_worse_than_a_linear_model_are_misread_only_if_another_kind_errs_less_than_half_as_much():
    (said,) = misread.misread_networks(networks(0.9, v_prediction=0.9, epsilon=0.3, sample=0.8))
    assert "predict epsilon instead of v_prediction" in said and said.endswith("check --prediction and --scheduler.")
    assert misread.misread_networks(networks(0.9, v_prediction=0.9, epsilon=0.5, sample=0.8)) == []
    assert misread.misread_networks(networks(0.4, v_prediction=0.9, epsilon=0.3, sample=0.8)) == []
    assert misread.misread_networks(networks(0.9)) == []


def test_networks_worse_than_a_linear_model_at_every_checkpoint_are_underfit_unless_they_know_their_images():
    assert set(misread.worse_than_linear(networks(0.9))) == {1, 2}
    assert misread.worse_than_linear(networks(0.4)) == {}
    assert misread.worse_than_linear(networks(0.9, own=0.1)) == {}  # overfit, not underfit
    assert misread.beside_linear(misread.worse_than_linear(networks(0.9))[1]) == "a 0.9, linear 0.5, b 0.9, linear 0.5"
