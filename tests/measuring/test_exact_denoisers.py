"""Membership of exact denoisers: what theory says of losses must come out of metrics and attacks (methods G11, G12)."""

import numpy as np
import pytest
import torch
from denoisers import HELDOUT, SHAPE, A, B, flat, memorizer, population

from auditor import registry
from auditor.diffusion import denoising
from auditor.diffusion.gaussian import fit_vectors, linear_denoiser
from auditor.diffusion.model import DiffusionModel
from auditor.diffusion.schedules import DDPM
from auditor.measuring import membership
from auditor.metrics import shares_below
from auditor.records import Evidence, LossTable

TIMES = np.array([5, 100, 300])
SETS = {"a": A, "b": B, "heldout": HELDOUT}
NOTHING = np.empty(0)


def measured(model: DiffusionModel) -> dict[str, LossTable]:
    """The losses of one network on all three sets, at cells that every network shares."""
    found = {}
    for name, images in SETS.items():
        generator = torch.Generator().manual_seed(len(name))
        eps = torch.randn((len(images), len(TIMES), SHAPE[2], *SHAPE[:2]), generator=generator)
        ids = np.array([f"{name}{i}" for i in range(len(images))], dtype=object)
        found[name] = LossTable(ids, TIMES, denoising.predict(model, images, eps, TIMES, 64).losses)
    return found


def evidence(a: DiffusionModel, b: DiffusionModel) -> Evidence:
    """What an audit knows of twin a, of which half a is presented as its own."""
    mine, twins = measured(a), measured(b)
    roles = {"own": "a", "other": "b", "heldout": "heldout"}
    of_twin = {"own": twins["b"], "other": twins["a"], "heldout": twins["heldout"]}
    losses = {role: mine[name] for role, name in roles.items()}
    return Evidence("a", 1, "", NOTHING.astype(int), NOTHING, NOTHING, losses=losses, twin_losses=of_twin)


def value(name: str, found: Evidence) -> float:
    return float(registry.lookup("metric", name).scores(found).values.mean())


def auc(attack: membership.Attack) -> float:
    """The chance that a member scores higher than an image never trained on."""
    return float(shares_below(attack.members, attack.others).mean())


def by_mean(found: Evidence) -> dict[str, membership.Attack]:
    return {each.name: each for each in membership.attacks_on(found) if each.time < 0}


def test_memorizers_give_their_members_away():
    found = evidence(memorizer(A), memorizer(B))
    assert value("separation", found) > 0.95
    assert value("loss_lean", found) > 0.5
    at_little_noise = [each for each in membership.attacks_on(found) if each.time == TIMES[0]]
    assert [each.name for each in at_little_noise] == ["loss", "twin ratio"]
    assert min(auc(each) for each in at_little_noise) > 0.99


def test_of_one_network_twice_nothing_leans_and_the_halves_are_not_told_apart():
    found = evidence(memorizer(A), memorizer(A))
    assert value("loss_lean", found) == 0
    assert value("separation", found) == 0.5
    assert auc(by_mean(found)["twin ratio"]) == 0.5


def test_a_denoiser_of_the_population_knows_no_member():
    """Sixty members against sixty others: the AUC of two like samples has standard error sqrt(121 / (12 * 60 * 60))."""
    found = evidence(population(), population())
    assert value("separation", found) == 0.5
    assert abs(auc(by_mean(found)["loss"]) - 0.5) < 4 * np.sqrt(121 / (12 * 60 * 60))


def test_gaussians_fitted_to_the_halves_lean_far_less_than_memorizers():
    found = evidence(*(linear_denoiser(fit_vectors(flat(half).numpy()), SHAPE, DDPM) for half in (A, B)))
    assert 0 < value("loss_lean", found) < 0.1 * value("loss_lean", evidence(memorizer(A), memorizer(B)))


def test_exchanging_the_twins_turns_every_sign():
    straight, crossed = evidence(memorizer(A), population()), evidence(population(), memorizer(A))
    assert value("loss_lean", crossed) == pytest.approx(-value("loss_lean", straight))
    assert value("separation", crossed) == pytest.approx(1 - value("separation", straight))
