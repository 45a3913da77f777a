"""The hierarchical world: its grammar, its exact denoisers held against brute force and published numbers."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import FAST, call, make_fast
from diffusers import DDPMScheduler
from edits import edit_json
from hierarchical import brute_force, error_of, mean_of

from auditor.checkpoints import discover
from auditor.checkpoints.pairing import WEIGHTS, pair
from auditor.diffusion import noise
from auditor.diffusion.sampling import sample_batch
from auditor.errors import AuditError
from auditor.lab import calibration, exact, oracle, sweeps, transformer
from auditor.lab.blend import Course
from auditor.lab.checkpoints import LabFormat, as_model, folder_of, read, read_arrays, schedule
from auditor.lab.data import read_sequences
from auditor.lab.decomposition import cross_entropy, decompose, divergence
from auditor.lab.diffusion import Diffusion, reverse
from auditor.lab.fixture import Fixture, true_phases
from auditor.lab.grammar import Grammar, as_images, letters_of, read_grammar
from auditor.lab.training import Recipe, batch, rate, times_from, train
from auditor.lab.transformer import Shape
from auditor.records import Checkpoint
from auditor.spaces import SpaceSettings, open_space

GRAMMAR, DIFFUSION = Grammar(), Diffusion()
N = 2500  # sequences behind each comparison with a published mean


def noised(sequences: np.ndarray, t: int, seed: int, q: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Return x_0 and x_t, float64 one-hots."""
    x0 = exact.as_one_hot(sequences, q)
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x0, DIFFUSION.noisy(x0, t, eps)


# ---------------------------------------------------------------------------
# Grammar and sequences
# ---------------------------------------------------------------------------

TABLE = {  # for each parent, its pairs of children and how often it has them, in the published grammar
    0: {"24": 0.151, "32": 0.132, "50": 0.553, "51": 0.164},
    1: {"02": 0.418, "14": 0.213, "15": 0.083, "45": 0.286},
    2: {"12": 0.123, "44": 0.568, "52": 0.188, "53": 0.121},
    3: {"11": 0.524, "22": 0.138, "25": 0.153, "42": 0.185},
    4: {"10": 0.094, "35": 0.108, "40": 0.034, "41": 0.764},
    5: {"13": 0.264, "31": 0.049, "33": 0.090, "54": 0.596},
}


def is_grammatical(grammar: Grammar, sequences: np.ndarray) -> np.ndarray:
    """Return bool ``[n]``: the sequence has a parse up to the root."""
    return grammar.level(sequences, grammar.depth)[:, 0] < grammar.q


def generate(denoiser, diffusion: Diffusion, seeds, shape: tuple[int, int]) -> np.ndarray:
    """Return one sequence per seed: all steps of DDPM from noise, one stream per seed, then the likeliest letters."""
    streams = noise.generators(seeds)
    return reverse(denoiser, diffusion, noise.draw(streams, shape), diffusion.n_steps, streams).argmax(dim=2).numpy()


@pytest.mark.parametrize("parent", TABLE)
def test_the_grammar_of_seed_0_is_that_of_the_paper(parent):
    rules = GRAMMAR.rules[parent]
    found = {f"{left}{right}": rules[left, right] for left, right in np.argwhere(rules > 0)}
    assert found == pytest.approx(TABLE[parent], abs=6e-4)  # the table has three digits


def test_every_pair_of_children_has_one_possible_parent():
    assert ((GRAMMAR.rules > 0).sum(axis=0) <= 1).all()


def test_drawn_sequences_follow_the_grammar():
    """Pairs of leaves occur as the grammar says; of 40,000 sequences, four standard errors."""
    m, n = GRAMMAR.rules, 40_000
    drawn = Grammar(depth=2).draw(n, np.random.default_rng(0))
    expected = np.einsum("rlm,lab->ab", m, m) / 6  # uniform root r, its left child l, the leaves below
    found = np.bincount(drawn[:, 0] * 6 + drawn[:, 1], minlength=36).reshape(6, 6) / n
    assert (np.abs(found - expected) <= 4 * np.sqrt(expected * (1 - expected) / n)).all()


def test_a_filtered_grammar_keeps_the_marginals_and_forgets_what_holds_its_blocks_together():
    """Blocks of level k are drawn as before; across blocks, only the root is shared: a quarter still fits upwards."""
    rng = np.random.default_rng(1)
    whole, cut = GRAMMAR.draw(20_000, rng), GRAMMAR.draw(20_000, rng, k=2)
    one_block = [np.bincount(each[:, :4] @ 6 ** np.arange(4), minlength=6**4) / 20_000 for each in (whole, cut)]
    assert np.abs(one_block[0] - one_block[1]).sum() < 0.2  # total variation of two samples of this size is .09
    assert is_grammatical(GRAMMAR, whole).all()
    assert (GRAMMAR.level(cut, 2) < 6).all()
    assert 0.2 < is_grammatical(GRAMMAR, cut).mean() < 0.9


def test_letters_of_upper_levels_are_parsed_and_a_forbidden_pair_has_no_parent():
    sequences = GRAMMAR.draw(50, np.random.default_rng(2))
    parents = GRAMMAR.parents(sequences)
    assert (GRAMMAR.rules[parents, sequences[:, 0::2], sequences[:, 1::2]] > 0).all()
    left, right = np.argwhere(GRAMMAR.owner < 0)[0]
    broken = sequences.copy()
    broken[:, 2:4] = left, right
    assert (GRAMMAR.parents(broken)[:, 1] == 6).all()
    assert not is_grammatical(GRAMMAR, broken).any()


def test_blocks_are_the_same_again_and_independent_of_each_other():
    first, second = GRAMMAR.block(0, 300), GRAMMAR.block(1, 300)
    np.testing.assert_array_equal(first, Grammar().block(0, 300))
    assert (first != second).any()
    assert (GRAMMAR.block(0, 300, data_seed=1) != first).any()


def test_a_content_disjoint_set_holds_no_sequence_of_the_others():
    train = Grammar(depth=2).block(0, 1000)
    new = Grammar(depth=2).new_block(1, 100, [train])
    assert not {row.tobytes() for row in train} & {row.tobytes() for row in new}
    plain = Grammar(depth=2).block(1, 100)
    assert {row.tobytes() for row in train} & {row.tobytes() for row in plain}  # without the request there are some


def test_new_sequences_are_as_far_from_a_training_set_as_published():
    """Of 5,000: mean Hamming distance to the nearest 4.245, standard deviation 1.267, .35 % exact duplicates."""
    train, new = GRAMMAR.block(0, 5000), GRAMMAR.block(1, 1000)
    same = as_images(new, 6).reshape(1000, -1).astype(np.float32) @ as_images(train, 6).reshape(5000, -1).T / 255**2
    nearest = 16 - same.max(axis=1).round()
    assert abs(mean_of(nearest) - 4.245) <= 4 * error_of(nearest)
    assert abs(nearest.std() - 1.267) <= 4 * 1.267 / np.sqrt(2000)
    assert 0 <= (nearest == 0).mean() <= 0.0035 + 4 * np.sqrt(0.0035 / 1000)


def test_a_grammar_too_small_for_a_content_disjoint_set_is_refused():
    small = Grammar(q=2, q_eff=1, depth=2)
    with pytest.raises(AuditError, match="not in the other sets"):
        small.new_block(1, 100, [small.block(0, 100)])


@pytest.mark.parametrize("numbers", [{"q": 1}, {"q_eff": 7}, {"q_eff": 0}, {"depth": 0}, {"sigma": -1.0}])
def test_impossible_grammars_are_refused(numbers):
    with pytest.raises(AuditError, match=next(iter(numbers))):
        Grammar(**numbers)


def test_a_grammar_is_read_as_it_was_written(tmp_path):
    grammar = Grammar(seed=3, q=5, depth=3, sigma=0.5, q_eff=2)
    grammar.write(tmp_path / "grammar.json")
    assert read_grammar(tmp_path / "grammar.json") == grammar


@pytest.mark.parametrize("text", ["{}", "[1]", "no json", '{"seed":0,"q":6.5,"depth":4,"sigma":1,"q_eff":4}'])
def test_a_file_that_is_no_grammar_is_refused(tmp_path, text):
    (tmp_path / "grammar.json").write_text(text)
    with pytest.raises(AuditError, match="grammar|whole"):
        read_grammar(tmp_path / "grammar.json")


def test_images_of_sequences_are_one_hot_and_read_back():
    sequences = GRAMMAR.block(0, 20)
    images = as_images(sequences, 6)
    assert (images.shape, images.dtype, set(np.unique(images))) == ((20, 16, 6, 1), np.uint8, {0, 255})
    np.testing.assert_array_equal(letters_of(images), sequences)


# ---------------------------------------------------------------------------
# Exact denoisers
# ---------------------------------------------------------------------------


@pytest.mark.parametrize(("t", "expected"), [(5, 0.9982), (75, 0.78913), (150, 0.39651), (500, 4e-5)])
def test_the_signal_left_at_t_is_that_of_the_paper(t, expected):
    assert DIFFUSION.kept[t] == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("k", range(4))
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("t", [30, 75, 300])
def test_belief_propagation_agrees_with_summing_over_all_sequences(k, seed, t):
    grammar = Grammar(seed, q=3, q_eff=2, depth=3)
    _, x_t = noised(grammar.draw(5, np.random.default_rng(seed)), t, seed, q=3)
    h = DIFFUSION.fields[t]
    found = exact.posterior(x_t, h, grammar, k).numpy()
    np.testing.assert_allclose(found, brute_force(x_t.numpy(), h, grammar.rules, k), rtol=0, atol=1e-12)


def test_ungrammatical_sequences_at_low_noise_get_their_posterior_not_a_floor():
    """All 3^4 sequences summed in log space; the likelihoods lie hundreds of orders of magnitude apart."""
    grammar, h = Grammar(1, q=3, q_eff=2, depth=2), DIFFUSION.fields[2]
    x_t = torch.eye(3, dtype=torch.float64)[torch.tensor([[0, 0, 0, 0], [1, 2, 1, 2], [2, 2, 0, 1]])]
    sequences = np.array(np.meshgrid(*[range(3)] * 4, indexing="ij")).reshape(4, -1).T
    m = grammar.rules
    prior = np.einsum("rlm,lab,mcd->abcd", m, m, m)[tuple(sequences.T)] / 3
    with np.errstate(divide="ignore"):
        logs = np.log(prior) + h * x_t.numpy()[:, np.arange(4), sequences].sum(axis=2)
    weights = np.exp(logs - logs.max(axis=1, keepdims=True))
    expected = np.einsum("ns,sia->nia", weights / weights.sum(axis=1, keepdims=True), np.eye(3)[sequences])
    found = exact.posterior(x_t, h, grammar).numpy()
    assert not is_grammatical(grammar, x_t.numpy().argmax(axis=2)).all()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_float32_and_chunks_change_little_or_nothing(monkeypatch):
    _, x_t = noised(GRAMMAR.block(0, 30), 40, 0)
    whole = exact.posteriors(x_t, DIFFUSION.fields[40], GRAMMAR, range(5))
    monkeypatch.setitem(exact.CHUNK_BYTES, "cpu", 1)
    for one, again in zip(whole, exact.posteriors(x_t, DIFFUSION.fields[40], GRAMMAR, range(5)), strict=True):
        np.testing.assert_allclose(again.numpy(), one.numpy(), rtol=0, atol=1e-13)
    single = exact.posterior(x_t.float(), DIFFUSION.fields[40], GRAMMAR)
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single.numpy(), whole[0].numpy(), rtol=0, atol=1e-4)


def test_every_row_may_have_its_own_time():
    _, x_t = noised(GRAMMAR.block(0, 4), 75, 0)
    times = torch.tensor([10, 75, 200, 500])
    together = exact.denoiser(GRAMMAR, DIFFUSION)(x_t, times)
    for row, t in enumerate(times.tolist()):
        alone = exact.posterior(x_t[[row]], DIFFUSION.fields[t], GRAMMAR)
        np.testing.assert_allclose(together[[row]].numpy(), alone.numpy(), rtol=0, atol=1e-13)


def test_the_empirical_denoiser_is_the_posterior_over_its_training_sequences():
    """With the weights exp(-||x_t - alpha x^p||^2 / 2 sigma^2) written out."""
    train = np.random.default_rng(4).integers(6, size=(50, 16))
    x_p, kept = np.eye(6)[train], DIFFUSION.kept[75]
    _, x_t = noised(train[:20], 75, 3)
    squared = ((x_t.numpy()[:, None] - np.sqrt(kept) * x_p) ** 2).sum(axis=(2, 3))
    weights = np.exp(-(squared - squared.min(axis=1, keepdims=True)) / (2 * (1 - kept)))
    expected = np.einsum("np,pia->nia", weights / weights.sum(axis=1, keepdims=True), x_p)
    found = exact.empirical(x_t, DIFFUSION.fields[75], torch.as_tensor(train)).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_rounding_is_the_posterior_of_letters_that_know_nothing_of_each_other():
    _, x_t = noised(GRAMMAR.block(0, 6), 75, 0)
    h = DIFFUSION.fields[75]
    expected = np.exp(h * x_t.numpy())
    expected /= expected.sum(axis=2, keepdims=True)
    np.testing.assert_allclose(exact.rounding(x_t, h).numpy(), expected, rtol=0, atol=1e-12)


# Published means of 20,000 sequences with their standard errors where given: cross-entropy, overlap, KL(0 || 1 ... 4)
ORACLE = {
    42: [(0.0175, 0.0004), (0.9908, 0.0001), (0.054, 0.002), (0.147, 0.003), (0.365, 0.005), (0.769, 0.008)],
    60: [(0.1618, 0.0013), (0.9148, 0.0005), (0.148, 0.002), (0.492, 0.004), (1.310, 0.007), (2.915, 0.011)],
    65: [(0.2314, 0.0015), (0.8785, 0.0006), 0.144, 0.522, 1.443, 3.299],
    70: [(0.3127, 0.0018), (0.8378, 0.0007), 0.127, 0.510, 1.474, 3.510],
    75: [(0.3959, 0.0020), (0.7957, 0.0007), (0.112, 0.001), (0.483, 0.003), (1.461, 0.005), (3.578, 0.009)],
    80: [0.4855, 0.7504, 0.091, 0.435, 1.389, 3.557],
    150: [(1.2815, 0.0020), (0.3691, 0.0006), 0.0060, 0.0559, 0.304, 1.260],
}


@pytest.mark.parametrize("t", ORACLE)
def test_exact_and_filtered_denoisers_have_the_numbers_of_the_oracle_table(t):
    x0, x_t = noised(GRAMMAR.block(t, N), t, t)
    bp = exact.posteriors(x_t, DIFFUSION.fields[t], GRAMMAR, range(5))
    overlap = (bp[0] * x0).sum(dim=2).mean(dim=1)
    measured = [cross_entropy(bp[0], x0), overlap, *(divergence(bp[0], bp[k]) for k in range(1, 5))]
    for values, published in zip(measured, ORACLE[t], strict=True):
        expected, error = published if isinstance(published, tuple) else (published, 0.0)
        assert abs(mean_of(values) - expected) <= 4 * np.hypot(error_of(values), error) + 6e-4  # rounding of the table


@pytest.mark.parametrize("t", [42, 75, 150])
def test_the_posterior_expects_the_overlap_that_it_has(t):
    """Nishimori: E mu(x_0) = E sum mu^2, position by position of the same sequences."""
    x0, x_t = noised(GRAMMAR.block(t, N), t, t)
    mu = exact.posterior(x_t, DIFFUSION.fields[t], GRAMMAR)
    difference = (mu * (x0 - mu)).sum(dim=2).mean(dim=1)
    assert abs(mean_of(difference)) <= 4 * error_of(difference)


def test_deeper_cuts_are_farther_from_the_truth_and_farthest_near_the_published_time():
    curves = []
    for t in range(50, 96, 5):
        _, x_t = noised(GRAMMAR.block(0, 800), t, 0)  # the same sequences and noise at all times: smooth curves
        bp = exact.posteriors(x_t, DIFFUSION.fields[t], GRAMMAR, range(5))
        curves.append([mean_of(divergence(bp[0], each)) for each in bp[1:]])
    curves = np.array(curves)
    assert (np.diff(curves, axis=1) > 0).all()
    peaks = np.arange(50, 96, 5)[curves.argmax(axis=0)] / 500
    assert ((peaks >= 0.12) & (peaks <= 0.16)).all()
    assert (np.diff(peaks) >= 0).all()


@pytest.mark.parametrize("model", ["exact", "filtered", "empirical"])
def test_no_denoiser_has_excess_loss_on_sequences_it_did_not_see(model):
    t, train = 75, GRAMMAR.block(1, 1000)
    x0, x_t = noised(GRAMMAR.block(2, N), t, 5)
    h = DIFFUSION.fields[t]
    bp = exact.posteriors(x_t, h, GRAMMAR, [0, 2])
    p = {"exact": bp[0], "filtered": bp[1], "empirical": exact.empirical(x_t, h, torch.as_tensor(train))}[model]
    parts = decompose(p, x0, bp[0])
    torch.testing.assert_close(parts.distillation + parts.excess, parts.loss)
    assert abs(mean_of(parts.excess)) <= 4 * error_of(parts.excess)


def test_a_memorizer_has_negative_excess_on_what_it_was_trained_on():
    """Published for 5,000 sequences at t = 75: -2.262 per letter; and .029 of cross-entropy."""
    train = GRAMMAR.block(0, 5000)
    x0, x_t = noised(train[:600], 75, 0)
    mu = exact.posterior(x_t, DIFFUSION.fields[75], GRAMMAR)
    parts = decompose(exact.empirical(x_t, DIFFUSION.fields[75], torch.as_tensor(train)), x0, mu)
    assert abs(mean_of(parts.loss) - 0.029) <= 4 * error_of(parts.loss)
    assert abs(mean_of(parts.excess) + 2.262) <= 4 * error_of(parts.excess)


def test_the_control_variate_keeps_the_mean_excess_and_takes_most_of_its_noise():
    """Published for a model near the exact one at t = 75: from .1995 to .0560 per letter, or to 8 % of the variance."""
    x0, x_t = noised(GRAMMAR.block(3, N), 75, 7)
    mu, filtered = exact.posteriors(x_t, DIFFUSION.fields[75], GRAMMAR, [0, 1])
    parts = decompose(filtered, x0, mu)
    assert abs(mean_of(parts.adjusted_excess) - mean_of(parts.excess)) <= 4 * error_of(parts.excess)
    assert abs(mean_of(parts.adjusted_excess)) <= 4 * error_of(parts.adjusted_excess)
    assert error_of(parts.adjusted_excess) < 0.3 * error_of(parts.excess)


def test_what_the_exact_denoiser_generates_is_grammatical_and_a_function_of_the_seed():
    """All 200; and the last of them again, alone."""
    bp = exact.denoiser(GRAMMAR, DIFFUSION)
    drawn = generate(bp, DIFFUSION, range(200), (16, 6))
    assert is_grammatical(GRAMMAR, drawn).all()
    np.testing.assert_array_equal(generate(bp, DIFFUSION, [199], (16, 6)), drawn[199:])


def test_deep_and_wide_trees_take_bounded_memory():
    """Depth 8 and 16 letters: the pairs of one row are 128 KiB, so two rows fit a chunk of 256 KiB."""
    grammar = Grammar(q=16, q_eff=8, depth=8)
    sequences = grammar.block(0, 6)
    _, x_t = noised(sequences, 30, 0, q=16)
    found = exact.posterior(x_t.float(), DIFFUSION.fields[30], grammar)
    assert (found.argmax(dim=2).numpy() == sequences).mean() > 0.99
    assert len(list(exact.chunks(x_t.float(), grammar.length // 2 * grammar.q**2))) == 1
    assert len(list(exact.chunks(x_t.float().repeat(10, 1, 1), grammar.length // 2 * grammar.q**2))) == 4


# ---------------------------------------------------------------------------
# As an audit sees it
# ---------------------------------------------------------------------------


def test_sequences_have_hamming_distances_in_the_spaces_of_the_lab(tmp_path):
    GRAMMAR.write(tmp_path / "grammar.json")
    settings = SpaceSettings(grammar=str(tmp_path / "grammar.json"))
    sequences = GRAMMAR.draw(30, np.random.default_rng(0))
    first, second = sequences[:15], sequences[15:]
    for k, name in enumerate(("onehot", "level-1", "level-2", "level-3")):
        space = open_space(name, settings)
        vectors = [space.embed(as_images(each, 6)) for each in (first, second)]
        differing = (GRAMMAR.level(first, k) != GRAMMAR.level(second, k)).sum(axis=1)
        np.testing.assert_allclose(((vectors[0] - vectors[1]) ** 2).sum(axis=1), differing, rtol=0, atol=1e-5)


def test_a_soft_sample_is_where_its_rounded_letters_are():
    sequences = GRAMMAR.block(0, 10)
    soft = (as_images(sequences, 6) * 0.6 + np.random.default_rng(0).uniform(0, 90, (10, 16, 6, 1))).astype(np.uint8)
    space = open_space("onehot", SpaceSettings())
    np.testing.assert_array_equal(space.embed(soft), space.embed(as_images(sequences, 6)))


def test_a_level_space_without_a_grammar_is_refused():
    with pytest.raises(AuditError, match="needs the grammar"):
        open_space("level-2", SpaceSettings())


def test_the_schedule_of_the_checkpoints_is_that_of_the_lab():
    scheduler = DDPMScheduler.from_config(schedule(DIFFUSION))
    np.testing.assert_allclose(scheduler.alphas_cumprod.numpy(), DIFFUSION.kept[1:], rtol=2e-3)  # float32 products


def test_an_audit_draws_what_the_lab_draws():
    """DDPM of diffusers on images, and the lab's own reverse steps, from the same noise."""
    bp, seeds = exact.denoiser(GRAMMAR, DIFFUSION), range(20)
    model = as_model(bp, DIFFUSION, GRAMMAR, schedule(DIFFUSION), 0)
    images = sample_batch(model, seeds, "ddpm", DIFFUSION.n_steps)
    assert (letters_of(images) == generate(bp, DIFFUSION, seeds, (16, 6))).mean() > 0.99


def test_a_checkpoint_of_the_lab_is_the_denoiser_that_was_written(tmp_path):
    fixture = Fixture(Grammar(q=3, q_eff=2, depth=2), n_train=20, taus=(3, 18))
    fixture.write(tmp_path)
    found = {each.step: each for each in LabFormat().find(tmp_path / "a")[0]}
    x = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([1, 20, 75, 200, 500])
    for tau in fixture.taus:
        denoiser, *_ = read(found[tau].paths["raw"])
        torch.testing.assert_close(denoiser(x, t), fixture.model("a", tau)(x, t))


def edit(folder, **changes):
    edit_json(folder / "lab.json", **changes)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda folder: (folder / "lab.safetensors").unlink(), "does not exist"),
        (lambda folder: (folder / "lab.safetensors").write_bytes(b"short"), "corrupt"),
        (lambda folder: edit(folder, kind="oracle"), "kind of model"),
        (lambda folder: edit(folder, n_steps=0), "lacks n_steps"),
        (lambda folder: edit(folder, grammar={"q": 3}), "A grammar has"),
        (lambda folder: edit(folder, grammar={"seed": 0, "q": 4, "depth": 2, "sigma": 1, "q_eff": 2}), "do not fit"),
        (lambda folder: edit(folder, settings={"level": 9, "memory": 0, "initial": 0}), "no level 9"),
    ],
)
def test_a_broken_checkpoint_of_the_lab_is_left_out_with_its_reason(tmp_path, change, reason):
    fixture = Fixture(Grammar(q=3, q_eff=2, depth=2), n_train=20, taus=(18,))
    fixture.write(tmp_path)
    folder = tmp_path / "a" / "checkpoint-18"
    change(folder)
    found, unusable = LabFormat().find(tmp_path / "a")
    if found:
        with pytest.raises(AuditError, match=reason):
            LabFormat().inspect(Checkpoint("a", 18, folder, "lab", "raw", None))
    else:
        assert reason in unusable[0][2]


# ---------------------------------------------------------------------------
# The learned denoiser
# ---------------------------------------------------------------------------

SMALL = Grammar(q=3, q_eff=2, depth=2)
TINY = Recipe(steps=(2, 5, 9), shape=Shape(8, 1, 2, 16), batch_size=16, seed=1, save_every=4, log_every=3)


def test_the_network_of_the_published_size_has_the_published_number_of_weights():
    with torch.device("meta"):
        network = transformer.build(GRAMMAR, Shape())
    assert sum(each.numel() for each in network.parameters()) == 16_854_022


def test_time_is_embedded_by_cosines_and_then_sines():
    features = transformer.time_features(torch.tensor([0, 7]))
    assert features[0].tolist() == [1.0] * 16 + [0.0] * 16
    assert features[1, [0, 16]].tolist() == pytest.approx([np.cos(7), np.sin(7)], abs=1e-6)
    assert features[1, 31] == pytest.approx(np.sin(7 * 1e4 ** (-15 / 16)), abs=1e-6)


def test_training_lowers_the_loss_towards_that_of_the_exact_denoiser(tmp_path):
    data = SMALL.block(0, 500)
    recipe = Recipe(steps=(250,), shape=Shape(32, 1, 2, 48, 0.0), batch_size=64, learning_rate=3e-3)
    train(data, SMALL, DIFFUSION, recipe, tmp_path)
    log = [json.loads(line)["loss"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert log[-1] < log[0]
    trained, *_ = read(tmp_path / "checkpoint-250")
    x0 = exact.as_one_hot(SMALL.block(1, 2000), 3, torch.float32)
    t = torch.full((2000,), 75)
    x_t = DIFFUSION.noisy(x0, t, torch.randn(x0.shape, generator=torch.Generator().manual_seed(0)))
    mu = exact.denoiser(SMALL, DIFFUSION)(x_t, t)
    learned, rounded = divergence(mu, trained(x_t, t)), divergence(mu, exact.rounding(x_t, DIFFUSION.fields[75]))
    assert mean_of(learned) < 0.6 * mean_of(rounded)


def stop_at_6(step, steps, loss):
    """Interrupt a training that tells its progress."""
    if step == 6:
        raise KeyboardInterrupt


def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path):
    data = SMALL.block(0, 40)
    train(data, SMALL, DIFFUSION, TINY, tmp_path / "whole")

    with pytest.raises(KeyboardInterrupt):
        train(data, SMALL, DIFFUSION, TINY, tmp_path / "stopped", progress=stop_at_6)
    assert not (tmp_path / "stopped" / "checkpoint-9").exists()
    train(data, SMALL, DIFFUSION, TINY, tmp_path / "stopped")
    for step in TINY.steps:
        whole, again = (tmp_path / name / f"checkpoint-{step}/lab.safetensors" for name in ("whole", "stopped"))
        assert whole.read_bytes() == again.read_bytes()
    logs = [(tmp_path / name / "log.jsonl").read_text() for name in ("whole", "stopped")]
    assert [[json.loads(line)["step"] for line in log.splitlines()] for log in logs] == [[3, 6, 9]] * 2


def averages(root, step):
    """Return the weights of a step and their average."""
    return tuple(read_arrays(root / f"checkpoint-{step}" / inside / "lab.safetensors") for inside in ("", "ema"))


def test_an_average_weighs_every_step_by_a_power_of_it(tmp_path):
    every = replace(TINY, steps=tuple(range(1, 10)), average=0.1)
    train(SMALL.block(0, 40), SMALL, DIFFUSION, every, tmp_path)
    power = 6.9376  # of relative width .1
    assert np.sqrt((power + 1) / (power + 3)) / (power + 2) == pytest.approx(0.1, abs=1e-5)
    kept = [(1 - 1 / step) ** (power + 1) for step in every.steps]
    shares = [(1 - kept[i]) * np.prod(kept[i + 1 :]) for i in range(9)]
    assert sum(shares) == pytest.approx(1)
    for name, average in averages(tmp_path, 9)[1].items():
        expected = sum(
            share * averages(tmp_path, step)[0][name] for share, step in zip(shares, every.steps, strict=True)
        )
        assert np.allclose(average, expected, rtol=0, atol=1e-6), name


def test_an_average_leaves_the_weights_as_they_are_and_survives_a_stop(tmp_path):
    data, averaged = SMALL.block(0, 40), replace(TINY, average=0.1)
    train(data, SMALL, DIFFUSION, TINY, tmp_path / "without")
    train(data, SMALL, DIFFUSION, averaged, tmp_path / "whole")

    with pytest.raises(KeyboardInterrupt):
        train(data, SMALL, DIFFUSION, averaged, tmp_path / "stopped", progress=stop_at_6)
    train(data, SMALL, DIFFUSION, averaged, tmp_path / "stopped")
    files = [tmp_path / name / "checkpoint-9/lab.safetensors" for name in ("without", "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()
    files = [tmp_path / name / "checkpoint-9/ema/lab.safetensors" for name in ("whole", "stopped")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_an_audit_takes_the_averages_of_a_lab_training_unless_told_otherwise(tmp_path):
    train(SMALL.block(0, 40), SMALL, DIFFUSION, replace(TINY, average=0.1), tmp_path)
    found = discover(tmp_path, "a")
    ends = {weights: {each.path.name for each in pair(found, None, weights).a.checkpoints} for weights in WEIGHTS}
    assert ends == {"auto": {"ema"}, "ema": {"ema"}, "raw": {f"checkpoint-{step}" for step in TINY.steps}}


@pytest.mark.parametrize("width", [-0.1, 0.5])
def test_an_average_of_no_possible_width_is_refused(width):
    with pytest.raises(AuditError, match="wide"):
        replace(TINY, average=width)


def test_a_training_of_other_sequences_or_another_recipe_is_not_gone_on_with(tmp_path):
    train(SMALL.block(0, 40), SMALL, DIFFUSION, TINY, tmp_path)
    with pytest.raises(AuditError, match="sequences"):
        train(SMALL.block(1, 40), SMALL, DIFFUSION, TINY, tmp_path)
    with pytest.raises(AuditError, match="recipe"):
        train(SMALL.block(0, 40), SMALL, DIFFUSION, replace(TINY, seed=2), tmp_path)


def test_training_leaves_the_global_generator_alone(tmp_path):
    state = torch.get_rng_state()
    train(SMALL.block(0, 40), SMALL, DIFFUSION, TINY, tmp_path)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_epoch_shows_every_sequence_once():
    rows = [batch(40, TINY, step) for step in range(1, 7)]  # 16, 16, 8; and again
    for epoch in (rows[:3], rows[3:]):
        assert sorted(np.concatenate(epoch)) == list(range(40))
    assert (np.concatenate(rows[:3]) != np.concatenate(rows[3:])).any()


def test_the_learning_rate_falls_to_one_half_over_50_epochs_and_to_a_tenth_at_the_end():
    recipe = Recipe(steps=(200,), batch_size=512)
    rates = [rate(step, 512, recipe) / recipe.learning_rate for step in (1, 26, 51, 125, 200)]
    assert rates == pytest.approx([1, 0.75, 0.5, 0.3 + 0.2 * np.cos(np.pi * 74 / 150), 0.1], abs=1e-3)


def test_a_training_at_some_times_of_the_noise_asks_its_network_about_no_other(tmp_path, monkeypatch):
    asked = []
    features = transformer.time_features
    monkeypatch.setattr(transformer, "time_features", lambda t: asked.append(t) or features(t))
    train(SMALL.block(0, 40), SMALL, DIFFUSION, replace(TINY, times=(50, 52)), tmp_path)
    assert set(torch.cat(asked).tolist()) == {50, 51, 52}


@pytest.mark.parametrize("times", ["50", "a,b", "0,10", "60,50", "400,501"])
def test_times_that_there_are_not_are_refused(tmp_path, times):
    with pytest.raises(AuditError, match="time"):
        train(SMALL.block(0, 40), SMALL, DIFFUSION, replace(TINY, times=times_from(times)), tmp_path)
    assert not (tmp_path / "checkpoint-3").exists()


@pytest.mark.parametrize(("steps", "width"), [((), 8), ((3, 2), 8), ((0, 4), 8), ((5,), 9)])
def test_impossible_recipes_are_refused(steps, width):
    with pytest.raises(AuditError):
        Recipe(steps=steps, shape=Shape(width, 1, 2, 16))


# ---------------------------------------------------------------------------
# The command line
# ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained_by_command(tmp_path_factory):
    """Two small sets and two short trainings, by the commands a user gives."""
    root = tmp_path_factory.mktemp("lab")
    made = call("lab", "make", "--out", root / "data", "--q", 3, "--q-eff", 3, "--depth", 3, "--n-train", 60)
    size = ("--width", 8, "--layers", 1, "--heads", 2, "--feedforward", 16, "--batch-size", 32)
    steps = ("--steps", 30, "--first", 10, "--checkpoints", 2, "--average", 0.1)
    trained = call("lab", "train", root / "data", "--out", root / "runs", *size, *steps)
    assert (made.status, trained.status) == (0, 0), made.err + trained.err
    return root, made.out, trained.out


def test_the_commands_name_what_comes_next(trained_by_command):
    root, made, trained = trained_by_command
    assert "2,000 sequences of 8 letters out of 3" in made
    assert f"next: audit lab train {root / 'data'}" in made
    assert trained.startswith("next: audit run --ckpts-a")
    assert sorted(path.name for path in (root / "runs").iterdir()) == ["a", "b"]


@pytest.fixture(scope="module")
def audited_by_command(trained_by_command):
    """The run that the training's last line asks for, with few samples."""
    root, _, trained = trained_by_command
    words = [word for name, value in {**FAST, "spaces": "onehot,level-1"}.items() for word in (f"--{name}", value)]
    with pytest.MonkeyPatch.context() as patch:
        make_fast(patch)
        audited = call(*shlex.split(trained.removeprefix("next: audit ")), *words)
    assert audited.status == 0, audited.err
    return root / "runs" / "audit"


def test_a_run_on_the_lab_is_an_audit_like_any_other_and_gets_its_oracle_columns(audited_by_command):
    assert call("verify", audited_by_command).status == 0
    done = call("lab", "oracle", audited_by_command, "--n", 50)
    assert done.status == 0, done.err
    table = pd.read_parquet(audited_by_command / "oracle.parquet").set_index(["step", "metric", "twin"]).value
    for step in (10, 30):
        for role in ("own", "heldout"):
            parts = [table[step, f"{name}_{role}", "a"] for name in ("distillation", "excess", "cross_entropy")]
            assert parts[0] + parts[1] == pytest.approx(parts[2], abs=0.05)  # the excess is the less noisy one
        assert table[step, "oracle_kl_0", "both"] > 0
        assert table[step, "split_kl", "both"] > 0
    assert table[30, "oracle_kl_0", "both"] < table[10, "oracle_kl_0", "both"]


def test_the_oracle_looks_at_the_averages_that_were_audited(audited_by_command):
    assert call("lab", "oracle", audited_by_command, "--n", 50).status == 0
    table = pd.read_parquet(audited_by_command / "oracle.parquet").set_index(["step", "metric", "twin"]).value
    runs = audited_by_command.parent
    _, diffusion, grammar, _ = read(runs / "a/checkpoint-30")
    files = {"a": "train-a", "heldout": "heldout"}
    sets = {
        name: oracle.noised(
            read_sequences(runs.parent / f"data/{file}.npz", grammar)[:50], grammar, diffusion, 75, 0, name
        )
        for name, file in files.items()
    }
    found = {
        weights: oracle.step_values({"a": read(folder_of(runs / "a", 30, weights))[0]}, sets)["oracle_kl_0", "a"]
        for weights in ("ema", "raw")
    }
    assert table[30, "oracle_kl_0", "a"] == pytest.approx(float(found["ema"].mean()), rel=1e-5)
    assert table[30, "oracle_kl_0", "a"] != pytest.approx(float(found["raw"].mean()), rel=1e-3)


def test_the_published_figures_are_drawn_from_a_run(audited_by_command, tmp_path):
    done = call("lab", "figures", audited_by_command, "--n", 20, "--out", tmp_path)
    assert done.status == 0, done.err
    names = ("learning", "loss-parts", "nearest", "random-uturns", "times", "uturns")
    assert sorted(path.stem for path in tmp_path.glob("*.png")) == [f"lab-{name}" for name in names]
    swept = pd.read_parquet(audited_by_command / "lab_sweeps.parquet")
    assert set(swept.measure) == {"divergence", "uturn", "random_uturn"}
    assert swept.value[swept.measure != "divergence"].between(0, 1).all()
    assert (swept.low <= swept.value).all() and (swept.value <= swept.high).all()


@pytest.mark.parametrize(("t", "expected"), [(42, 0.9908), (60, 0.9148), (75, 0.7957)])
def test_the_exact_denoiser_recovers_as_much_as_its_posterior_expects(t, expected):
    """Reverse steps with the exact denoiser draw from the posterior; then the overlap is E sum mu^2."""
    x0 = exact.as_one_hot(GRAMMAR.block(0, 150), 6, torch.float32)
    found = sweeps.uturn(exact.denoiser(GRAMMAR, DIFFUSION), DIFFUSION, x0, t, 0)
    assert abs(mean_of(found) - expected) <= 4 * error_of(found)


RANDOM = {  # published shares recovered from random starts; of bp_0 with forbidden pairs strictly forbidden
    "rounding": {25: 1.000, 37: 0.986, 50: 0.900},
    "bp_0": {25: 0.773, 37: 0.763, 50: 0.709},
    "bp_4": {37: 0.984, 50: 0.891},
}


@pytest.mark.parametrize("name", RANDOM)
def test_random_sequences_are_recovered_as_published(name):
    letters = np.random.default_rng(0).integers(6, size=(200, 16))
    x0 = exact.as_one_hot(letters, 6, torch.float32)
    known = sweeps.untrained(GRAMMAR, DIFFUSION)
    known["rounding"] = lambda x_t, t: exact.rounding(x_t, DIFFUSION.at(DIFFUSION.fields, t, x_t))
    for t, expected in RANDOM[name].items():
        found = sweeps.uturn(known[name], DIFFUSION, x0, t, 0)
        assert abs(mean_of(found) - expected) <= 4 * error_of(found) + 2e-3


def test_the_oracle_needs_a_run_of_the_lab(tmp_path):
    done = call("lab", "oracle", tmp_path)
    assert done.status == 1 and "There is no audit here" in done.err


def test_a_calibration_audits_fixtures_once_and_writes_its_page(tmp_path, monkeypatch):
    make_fast(monkeypatch)
    small = Grammar(1, 4, 3, 1.0, 3)
    fixtures = [Fixture(small, Course(memory=memory), 60, 50, (6, 14, 20), seed=3) for memory in (0.0, 0.9)]
    fast = {**calibration.SETTINGS, "loss_images": 6, "loss_levels": 2, "sampling_steps": 4}
    monkeypatch.setattr(calibration, "audited", partial(calibration.audited, settings=fast))
    results = calibration.calibrate(tmp_path, range(2), 12, fixture=lambda index: fixtures[index])
    truths = [[row["truth"] for row in each["rows"]] for each in results]
    assert truths == [["generalizing"] * 3, ["generalizing", "overfit", "overfit"]]
    again = calibration.calibrate(tmp_path, range(2), 12, fixture=None)  # both are there: none is drawn
    assert again == results
    with pytest.raises(AuditError, match="another number of samples"):
        calibration.calibrate(tmp_path, range(2), 13)
    calibration.write_page(tmp_path / "page.md", calibration.page(results))
    text = (tmp_path / "page.md").read_text()
    assert "2 fixtures" in text and "| generalizing | 0 | 0 | 0 | 0 | 0 | 4 |" in text  # 12 seeds settle nothing


def test_true_phases_are_what_was_built_in():
    losses = np.array([2.0, 1.1, 1.0, 1.001, 1.01])
    remembers = np.array([False, False, True, True, True])
    found = true_phases(losses, remembers, underfit=1.25, rise=0.0025)
    assert found == ["underfit", "generalizing", "biased", "biased", "overfit"]


def test_random_fixtures_are_the_same_again_and_half_of_them_never_remember():
    fixtures = [calibration.drawn(index) for index in range(20)]
    assert fixtures == [calibration.drawn(index) for index in range(20)]
    assert [each.course.memory == 0 for each in fixtures] == [True, False] * 10
    assert len({each.grammar for each in fixtures}) == 20


def test_a_fixture_is_written_with_its_phases_and_the_command_that_audits_it(tmp_path):
    done = call("lab", "fixture", "--out", tmp_path, "--memory", 0.5, "--n-train", 50, "--steps", "19,1,7,13")
    assert done.status == 0, done.err
    assert done.out.splitlines()[0] == "step 1: generalizing"
    assert "step 19: overfit" in done.out
    assert len(LabFormat().find(tmp_path / "a")[0]) == 4


@pytest.mark.parametrize("steps", ["a", "-1,2", "3,21", ","])
def test_steps_that_a_fixture_does_not_have_are_refused(tmp_path, steps):
    done = call("lab", "fixture", "--out", tmp_path / "fixture", f"--steps={steps}")
    assert done.status == 1 and "--steps" in done.err
    assert not (tmp_path / "fixture").exists()
