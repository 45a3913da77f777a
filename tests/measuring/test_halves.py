"""Are these the halves that were trained on? Exchanged and re-dealt ones are told, right ones not, world by world."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from conftest import as_arguments, call, make_fast

from auditor.config import Budgets
from auditor.demo import load, shipped
from auditor.measuring import halves, lean
from auditor.measuring.families import SeriesTests
from auditor.measuring.halves import spread_of
from auditor.measuring.series import Series
from auditor.records import Evidence, LossTable
from auditor.scope import Scope
from auditor.stats import counts
from auditor.stats.landing import Landing
from auditor.stats.relabeling import Pool, relabel

N = 150  # images of a half
NOTHING = np.zeros(0)


@dataclass(frozen=True)
class World:
    """What two trainings show at one step: losses of single images, and whose images their samples resemble."""

    seed: int
    loss_lean: float = 0.0  # of r = ln(l_b / l_a), to the side of the half that was trained on
    by_heart: float = 0.0  # share of images whose loss is e times as small for who saw them
    copied: float = 0.0  # share of samples that show an image of the own half
    gap_lean: float = 0.0  # share of samples, beyond half, that land on their own half
    elsewhere: float = 1.0  # by what held-out losses are multiplied
    alike: float = 1.0  # by what all losses of training images are

    def series(self, deal: str = "right") -> Series:
        """Return the series of an audit to which the halves are given as ``deal`` says."""
        rng = np.random.default_rng(self.seed)
        saw = np.repeat([1.0, -1.0], N)  # which training saw an image
        signs = self.loss_lean + np.where(rng.random(2 * N) < self.by_heart, 1.0, 0.0)
        base, r = rng.lognormal(-3, 0.3, (3 * N)), rng.normal(0, 0.1, 3 * N)
        r[: 2 * N] += saw * signs
        base[: 2 * N] *= self.alike
        base[2 * N :] *= self.elsewhere
        order = np.arange(2 * N)
        if deal == "exchanged":
            order = np.roll(order, N)
        if deal == "anew":
            order = rng.permutation(2 * N)
        images = {"a": order[:N], "b": order[N:], "heldout": np.arange(2 * N, 3 * N)}
        ids = {
            half: np.array([f"{half}{i}" for i in range(N)], dtype=object) for half in images
        }  # files are named by how they are given
        values = {"a": base * np.exp(-r / 2), "b": base * np.exp(r / 2)}
        roles = {"a": {"own": "a", "other": "b", "heldout": "heldout"}, "b": {"own": "b", "other": "a"}}
        roles["b"]["heldout"] = "heldout"
        losses = {
            twin: {
                role: LossTable(ids[half], np.array([500]), values[twin][images[half]][:, None])
                for role, half in roles[twin].items()
            }
            for twin in "ab"
        }
        return Series(
            Scope((100,), ("pixel",), 400, 0, True, True),
            {(100, twin, "pixel"): self.evidence(twin, losses[twin], deal, rng) for twin in "ab"},
            {},
            Pool(tuple((half, i) for half in "ab" for i in ids[half]), saw, np.arange(2 * N)),
            {},
            {},
            {},
            None,
            {},
            {},
            {},
        )

    def evidence(self, twin: str, losses: dict[str, LossTable], deal: str, rng: np.random.Generator) -> Evidence:
        """Return samples of which some copy images of the half that was trained on, and a hundredth any image."""
        n = 400
        group, share = rng.integers(0, N, n), {"own": self.copied, "other": 0.0}
        if deal == "exchanged":
            share = {"own": 0.0, "other": self.copied}
        near = {role: np.where(rng.random(n) < share[role] + 0.01, 0.1, 1.0) for role in share}
        return Evidence(
            twin,
            100,
            "pixel",
            np.arange(n),
            NOTHING,
            NOTHING,
            own=np.repeat(near["own"][:, None], 8, axis=1),
            other=np.repeat(near["other"][:, None], 8, axis=1),
            own_outside=np.ones(n),
            other_outside=np.ones(n),
            own_group=group + (0 if twin == "a" else N),
            other_group=group + (N if twin == "a" else 0),
            losses=losses,
        )

    def tests(self, series: Series, deal: str = "right") -> SeriesTests:
        """Return the tests of gap lean and loss lean, as an audit makes them."""
        rng, pool = np.random.default_rng(self.seed + 1), series.pool
        assert pool is not None
        toward = {"right": 1, "exchanged": -1, "anew": 0}[deal] * self.gap_lean
        lands = {}
        for twin, sign in (("a", 1), ("b", -1)):
            in_a = (rng.random(400) < 0.5 + sign * toward).astype(float)
            lands[twin] = Landing(rng.integers(0, N, 400), rng.integers(N, 2 * N, 400), in_a, rng.random(400) / 5)
        relabeling = relabel(pool, self.seed)
        found = lean.lean_tests(pool, relabeling, {(100, "pixel"): lands}, {100: series.losses(100)}, 7)
        return SeriesTests(*found, {})

    def looked(self, deal: str = "right") -> halves.Halves:
        """Return what is said of the halves."""
        series = self.series(deal)
        return halves.look_at(series, self.tests(series, deal), Budgets())


# ---------------------------------------------------------------------------
# Exchanged
# ---------------------------------------------------------------------------


def by_copies(world: World, deal: str) -> list[str]:
    return halves.exchanged_by_copies(world.series(deal))


def test_copies_of_the_other_trainings_images_tell_that_the_halves_are_exchanged():
    worlds = [World(seed, copied=0.05) for seed in range(20)]
    assert all(by_copies(world, "exchanged") for world in worlds)
    assert not any(by_copies(world, "right") for world in worlds)


def test_private_models_which_reproduce_fewer_of_their_own_images_by_chance_are_no_exchanged_halves():
    worlds = [World(seed) for seed in range(200)]
    told = [halves.exchanged_by_copies(world.series()) for world in worlds]
    assert sum(map(bool, told)) <= 5  # .01 of 200, and three standard errors
    apart = [halves.copies.discordant(flags_of(world.series())) for world in worlds]
    assert sum(len(each.own_only) < len(each.twin_only) for each in apart) > 60  # a count alone would refuse so many


def flags_of(series: Series) -> dict[str, halves.copies.Flags]:
    return {twin: halves.copies.flags(series.evidence[100, twin, "pixel"]) for twin in "ab"}


def test_a_favored_image_of_the_other_training_is_no_proof_that_halves_are_exchanged():
    """Where a twin collapses onto one image, pairs alone would be certain."""
    series = World(1).series()
    collapsed = series.evidence[100, "b", "pixel"]
    own = replace(collapsed, other=np.full_like(collapsed.other, 0.1), other_group=np.zeros(400, dtype=np.int64))
    series = replace(series, evidence={**series.evidence, (100, "b", "pixel"): own})
    apart = halves.copies.discordant(flags_of(series))
    assert counts.paired_hits(len(apart.twin_only), len(apart.own_only)) < 1e-50
    assert not halves.exchanged_by_copies(series)


@pytest.mark.parametrize("kind", [{"loss_lean": 0.05}, {"gap_lean": 0.1}, {"loss_lean": 0.2, "gap_lean": 0.2}])
def test_a_lean_that_points_to_the_other_half_tells_that_the_halves_are_exchanged(kind):
    for seed in range(5):
        (said,) = World(seed, **kind).looked("exchanged").wrong
        assert said.startswith("The halves look exchanged: at step 100") and "--train-b the other way round" in said
        assert not World(seed, **kind).looked("right").wrong


def test_private_models_are_told_to_be_exchanged_by_their_lean_in_about_one_of_a_hundred():
    worlds = [World(seed) for seed in range(30)]
    told = [halves.exchanged_by_lean(series, world.tests(series)) for world in worlds for series in [world.series()]]
    assert sum(map(bool, told)) <= 2


# ---------------------------------------------------------------------------
# Dealt anew
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("leans", [0.15, 0.3, 0.8])
def test_halves_that_were_dealt_anew_are_told_once_the_networks_lean(leans):
    for seed in range(10):
        world = World(seed, loss_lean=leans)
        assert halves.dealt_anew(world.series("anew")), seed
        assert not halves.dealt_anew(world.series()), seed


@pytest.mark.parametrize("world", [{}, {"by_heart": 0.02}, {"by_heart": 0.05}, {"loss_lean": 0.3, "by_heart": 0.02}])
def test_right_halves_are_not_told_to_be_dealt_anew_even_if_some_images_are_known_by_heart(world):
    """The standard deviation alone would refuse 2 % memorized images: here it is more than 1.3 times as large."""
    assert sum(bool(halves.dealt_anew(World(seed, **world).series())) for seed in range(60)) <= 1


def test_an_interquartile_range_is_not_moved_by_a_few_images_known_by_heart_and_a_standard_deviation_is():
    r = np.random.default_rng(0).normal(0, 0.1, 2000)
    known = r.copy()
    known[:40] += 1.0
    assert spread_of(known, np.repeat([1.0, -1.0], 1000), r).ratio == pytest.approx(1, abs=0.05)
    assert known.std() > 1.3 * r.std()


def test_a_spread_counts_images_far_to_either_side_by_hand():
    """Held-out r are -1 ... 1. Of each half 25 images lie at -4 and 25 at 4, and some beyond -.99 and .99."""
    heldout, near = np.linspace(-1, 1, 401), np.linspace(-2, 2, 51)
    half = np.concatenate([near, np.full(25, -4.0), np.full(25, 4.0)])
    found = spread_of(np.concatenate([half, half]), np.repeat([1.0, -1.0], 101), heldout)
    inner = int((near < -0.99).sum())
    assert (found.wrong, found.right, found.n) == (2 * (25 + inner), 2 * (25 + inner), 202)
    assert found.ratio == pytest.approx(4) and found.is_mixture(1)


def test_images_far_to_their_own_side_alone_are_no_mixture():
    heldout = np.random.default_rng(0).normal(0, 0.1, 1000)
    known = np.abs(np.random.default_rng(1).normal(0, 0.4, 1000))  # each network knows its images, more or less well
    labels = np.repeat([1.0, -1.0], 500)
    found = spread_of(known * labels, labels, heldout)
    assert found.ratio > 1.3 and found.wrong < found.right / 2 and not found.is_mixture(1)


def test_too_few_losses_say_nothing_of_the_halves():
    series = World(0, loss_lean=0.8).series("anew")
    few = {
        key: replace(
            each, losses={role: LossTable(t.ids[:10], t.times, t.values[:10]) for role, t in each.losses.items()}
        )
        for key, each in series.evidence.items()
    }
    assert halves.spreads(replace(series, evidence=few)) == {}


def test_heldout_near_duplicates_are_no_measure_of_what_a_network_does_not_know():
    series = World(3).series()
    table = series.losses(100)["a"]["heldout"]
    near = frozenset(table.ids[:5])
    left = halves.spreads(replace(series, near_heldout=near))[100]
    assert left != halves.spreads(series)[100]
    assert halves.is_near(table, replace(series, near_heldout=near)).sum() == 5


# ---------------------------------------------------------------------------
# What cannot be told
# ---------------------------------------------------------------------------


def test_where_no_step_leans_the_halves_could_not_be_checked_and_that_is_a_caveat():
    (caveat,) = World(2).looked().caveats
    assert caveat.startswith("The halves could not be checked")
    assert World(2).looked("anew") == World(2).looked("anew") and not World(2).looked("anew").wrong
    assert World(2, loss_lean=0.2).looked().caveats == ()


def test_losses_alike_on_both_halves_and_below_heldout_ones_are_a_caveat():
    told = World(2, elsewhere=1.3).looked()
    assert not told.wrong and any("both trainings saw both halves" in each for each in told.caveats)
    for other in (World(2), World(2, loss_lean=0.3), World(2, elsewhere=0.7)):
        assert not any("both trainings saw" in each for each in other.looked().caveats)


def test_a_single_training_is_asked_nothing_of_halves():
    series = World(0).series()
    alone = replace(series, scope=replace(series.scope, twins=("a",)))
    assert halves.look_at(alone, SeriesTests({}, {}, {}), Budgets()) == halves.Halves()


# ---------------------------------------------------------------------------
# Trained networks
# ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """The images that the demo's twins were trained on."""
    root = tmp_path_factory.mktemp("digits")
    for name, part in load().items():
        np.savez(root / f"{name.replace('_', '-')}.npz", images=part.images)
    return root


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """Leave out what costs seconds and is tested on its own."""
    make_fast(monkeypatch)


def checks(data: Path, out: Path, train_a: str = "train-a", train_b: str = "train-b", **more: str) -> dict:
    """Return what run.json says of a quick audit of the demo's twins."""
    twins = {f"ckpts-{twin}": shipped() / "twins" / twin for twin in "ab"}
    images = {"train-a": data / f"{train_a}.npz", "train-b": data / f"{train_b}.npz", "heldout": data / "heldout.npz"}
    asked = {"steps": "4500", "loss-images": "48", "loss-levels": "2", "batch-size": "64", "out": out, **more}
    given = {name: str(value) for name, value in {**twins, **images, **asked}.items()}
    outcome = call("run", "--quick", *as_arguments(given))
    assert outcome.status == 0, outcome.err
    return json.loads((out / "run.json").read_text())["checks"]


def test_exchanged_halves_of_trained_networks_are_told_and_right_ones_are_not(data, tmp_path):
    right, exchanged = (
        checks(data, tmp_path / first, first, second)
        for first, second in (("train-a", "train-b"), ("train-b", "train-a"))
    )
    assert right["not_the_halves"] == [] and right["distrust"] == []
    (said,) = exchanged["not_the_halves"]
    assert "The halves look exchanged" in said
    assert exchanged["recommendation"]["status"] == "undecided" and said in exchanged["recommendation"]["sentence"]


def test_networks_that_predict_noise_and_are_taken_for_velocity_end_in_a_sentence_that_says_so(data, tmp_path):
    found = checks(data, tmp_path / "misread", prediction="v")
    (said,) = found["distrust"]
    assert "predict epsilon instead of v_prediction" in said and said.endswith("check --prediction and --scheduler.")
    assert found["recommendation"]["status"] == "undecided" and said in found["recommendation"]["sentence"]
