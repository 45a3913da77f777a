"""Noise is a function of the seed alone."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from auditor.diffusion.denoising import cell_noise
from auditor.diffusion.noise import draw, generators
from auditor.seeds import derived_seed

SHAPE = (1, 8, 8)
PINNED = 2556502550136223711  # the first 63 bits of sha256("pool\x1ftrain-a\x1f0")


def noise(*seeds: int) -> torch.Tensor:
    return draw(generators(seeds), SHAPE)


def test_the_noise_of_a_seed_is_what_torch_draws_from_a_cpu_generator_of_that_seed():
    expected = torch.randn(SHAPE, generator=torch.Generator("cpu").manual_seed(7))
    assert torch.equal(noise(7)[0], expected)


def test_noise_depends_neither_on_the_batch_size_nor_on_the_order():
    together = noise(0, 1, 2, 3, 4)
    assert torch.equal(together, torch.cat([noise(0, 1), noise(2, 3, 4)]))
    assert torch.equal(together, noise(4, 3, 2, 1, 0).flip(0))


def test_further_draws_continue_the_stream_of_their_own_seed():
    streams = generators([5, 6])
    first, second = draw(streams, SHAPE), draw(streams, SHAPE)
    alone = torch.Generator("cpu").manual_seed(6)
    assert torch.equal(first[1], torch.randn(SHAPE, generator=alone))
    assert torch.equal(second[1], torch.randn(SHAPE, generator=alone))


def test_noise_is_float32_whatever_the_default_of_torch_is():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        drawn = noise(3)
    finally:
        torch.set_default_dtype(before)
    assert drawn.dtype == torch.float32
    assert torch.equal(drawn, noise(3))


def test_drawing_noise_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    noise(1, 2)
    assert torch.equal(torch.get_rng_state(), state)


def test_different_seeds_have_different_noise_of_mean_0_and_variance_1():
    x = noise(*range(400)).flatten(1)
    assert len(torch.unique(x, dim=0)) == 400
    # 25,600 standard normal numbers: five standard errors are .031 for the mean and .044 for the variance.
    assert abs(x.mean()) < 0.031 and abs(x.var() - 1) < 0.044


def test_a_derived_seed_is_a_fixed_number_below_2_to_the_63():
    assert derived_seed("pool", "train-a", 0) == PINNED
    assert all(0 <= derived_seed("x", i) < 2**63 for i in range(100))


def test_a_derived_seed_does_not_depend_on_the_hash_seed_of_the_process():
    code = "from auditor.seeds import derived_seed; print(derived_seed('pool', 'train-a', 0))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, env={"PYTHONHASHSEED": "5"}, check=True)
    assert int(found.stdout) == PINNED


@pytest.mark.parametrize("other", [("pool", "train-b", 0), ("pool", "train-a", 1), ("poo", "ltrain-a", 0), ("pool",)])
def test_a_derived_seed_depends_on_every_part_and_on_where_parts_end(other):
    assert derived_seed("pool", "train-a", 0) != derived_seed(*other)


def test_the_noise_of_a_loss_cell_depends_on_run_seed_set_and_image_but_not_on_the_images_beside_it():
    cells = cell_noise(0, ["x", "y", "z"], "heldout", 2, SHAPE)
    assert cells.shape == (3, 2, *SHAPE)
    assert torch.equal(cells[[2, 0]], cell_noise(0, ["z", "x"], "heldout", 2, SHAPE))
    rows = cells.reshape(6, -1)
    assert len(torch.unique(rows, dim=0)) == 6  # every image and level has its own
    assert not torch.equal(cells, cell_noise(1, ["x", "y", "z"], "heldout", 2, SHAPE))
    assert not torch.equal(cells, cell_noise(0, ["x", "y", "z"], "train-a", 2, SHAPE))
