"""Scales: wavelet bands and principal subspaces split a picture without loss, and a run measures in each."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from denoisers import ABAR, HELDOUT, A, B, flat, memorizer, population
from denoisers import TIMES as CELLS

from auditor.diffusion import denoising
from auditor.errors import AuditError
from auditor.images import scales
from auditor.registry import HAAR, PCA, SCALES
from auditor.reports import read_report
from auditor.reports.charts import by_scale as figure
from auditor.spaces import SpaceSettings, open_space
from auditor.stages import agreement

RNG = np.random.default_rng(0)


def test_the_bands_of_a_picture_keep_its_sum_of_squares():
    x = RNG.normal(size=(5, 3, 16, 24))
    bands = scales.haar_bands(x)
    np.testing.assert_allclose(sum(np.square(b).sum(axis=1) for b in bands.values()), np.square(x).sum(axis=(1, 2, 3)))
    assert {name: band.shape[1] for name, band in bands.items()} == dict(
        zip(HAAR, [3 * 6, 3 * 18, 3 * 72, 3 * 288], strict=True)
    )


def test_bands_of_a_picture_of_four_pixels_are_those_worked_by_hand():
    bands = scales.haar_bands(np.array([[[[1.0, 2.0], [4.0, 8.0]]]]))
    np.testing.assert_allclose(bands["haar-3"], [[(1 - 2 + 4 - 8) / 2, (1 + 2 - 4 - 8) / 2, (1 - 2 - 4 + 8) / 2]])
    np.testing.assert_allclose(bands["haar-0"], [[7.5]])
    assert len(bands) == 2  # one pixel is left, which cannot be halved


def test_a_constant_picture_has_no_details_and_a_chessboard_nothing_else():
    constant, chess = np.ones((1, 1, 8, 8)), (np.indices((8, 8)).sum(axis=0) % 2 * 2.0 - 1)[None, None]
    assert [float(np.abs(band).max()) > 0 for band in scales.haar_bands(constant).values()] == [
        True,
        False,
        False,
        False,
    ]
    assert [float(np.abs(band).max()) > 0 for band in scales.haar_bands(chess).values()] == [False, False, False, True]


@pytest.mark.parametrize("side", [5, 7, 28, 33])
def test_odd_sides_are_taken_and_a_constant_stays_one(side):
    coarse, *details = scales.haar_bands(np.ones((2, 1, side, side + 1))).values()
    assert len(details) == 3 and all(np.abs(band).max() == 0 for band in details) and (coarse > 0).all()


def test_principal_subspaces_keep_the_sum_of_squares_and_are_ordered_by_variance():
    images = RNG.normal(size=(300, 20)) * np.linspace(5, 0.5, 20)
    axes = scales.principal_axes(images)
    parts = scales.principal_parts(images - images.mean(axis=0), axes)
    total = np.square(images - images.mean(axis=0)).sum()
    assert sum(np.square(part).sum() for part in parts) == pytest.approx(total)
    widths = scales.dimensions((1, 4, 5), axes)
    assert [widths[name] for name in PCA] == [1, 1, 8, 10]
    each = [np.square(part).sum() / widths[name] for name, part in zip(PCA, parts, strict=True)]
    assert each == sorted(each, reverse=True)


def test_few_images_span_no_subspaces():
    assert scales.principal_axes(RNG.normal(size=(8, 50))) is None
    assert set(scales.dimensions((1, 8, 8), None)) == set(HAAR)


def test_energies_are_means_over_the_dimensions_of_a_scale():
    x = RNG.normal(size=(2000, 64))  # white noise has the same in each
    found = scales.energies(x, (1, 8, 8), scales.principal_axes(RNG.normal(size=(200, 64))))
    assert set(found) == set(SCALES)
    for name, values in found.items():
        assert values.mean() == pytest.approx(1, abs=0.1), name


# Spaces


def test_the_distance_in_a_band_is_the_rmse_of_its_coefficients():
    images = RNG.integers(0, 256, (2, 8, 8, 1), dtype=np.uint8)
    for level in range(4):
        first, second = open_space(f"haar-{level}", SpaceSettings()).embed(images)
        one, other = scales.haar_bands(images.transpose(0, 3, 1, 2) / 255)[f"haar-{level}"]
        assert np.linalg.norm(first - second) == pytest.approx(np.sqrt(np.mean((one - other) ** 2)), rel=1e-5)


def test_a_picture_too_small_for_a_band_is_an_error_that_says_so():
    with pytest.raises(AuditError, match="4x4 have no band haar-1"):
        open_space("haar-1", SpaceSettings()).embed(A)


def test_a_subspace_without_training_images_is_an_error_that_says_what_to_give():
    with pytest.raises(AuditError, match="spanned by training images"):
        open_space("pca-1", SpaceSettings())


def test_other_training_images_are_another_revision():
    settings = [SpaceSettings(training=lambda each=each: [each]) for each in (A, B)]
    assert open_space("pca-0", settings[0]).revision != open_space("pca-0", settings[1]).revision


# Predictions


def columns(a, b, images):
    eps = torch.from_numpy(np.random.default_rng(5).normal(size=(len(images), 3, 1, 4, 4)).astype(np.float32))
    noise = {name: denoising.predict(m, images, eps, CELLS, 64).noise for name, m in (("a", a), ("b", b))}
    axes = scales.principal_axes(np.concatenate([flat(A), flat(B)]))
    whole = agreement.cell_columns(
        noise, eps.flatten(2).double().numpy(), denoising.noised(a, images, eps, CELLS), {}, ABAR
    )
    return agreement.scale_columns(noise, eps.flatten(2).double().numpy(), (1, 4, 4), axes), whole, axes


def test_errors_in_subspaces_weighted_by_their_dimensions_are_the_error_of_all():
    found, whole, axes = columns(memorizer(A), population(), A)
    wide = scales.dimensions((1, 4, 4), axes)
    for column, of_all in (("loss_a", "noise_loss_a"), ("loss_b", "noise_loss_b"), ("half_squared", "half_squared")):
        total = sum(found[column][name] * wide[name] for name in PCA) / 16
        np.testing.assert_allclose(total, whole[of_all].mean(axis=1))


def test_networks_that_are_the_same_differ_at_no_scale():
    found, _, _ = columns(population(), population(), HELDOUT)
    assert all(np.abs(values).max() < 1e-9 for values in found["half_squared"].values())


def test_a_memorizer_denoises_its_own_images_better_at_every_scale():
    found, _, _ = columns(memorizer(A), memorizer(B), A)
    lean = {name: np.log(found["loss_b"][name] / found["loss_a"][name]).mean() for name in found["loss_a"]}
    assert all(value > 0.1 for value in lean.values()), lean


# In a run


def test_a_run_tells_losses_lean_and_disagreement_by_scale(finished):
    table = pd.read_parquet(finished / "scales.parquet")
    assert set(table.scale) == set(SCALES)
    assert set(table.metric) == {"loss_own", "loss_other", "loss_heldout", "loss_lean", "prediction_variance"}
    assert table.groupby(["step", "scale"]).size().eq(5).all()
    leans = table[table.metric == "loss_lean"]
    assert leans.p_corrected.ge(leans.p_value - 1e-12).all() and leans.p_value.between(0, 1).all()
    assert (table[table.metric != "loss_lean"].value >= 0).all()


def test_every_scale_has_a_minimum_of_its_own(finished):
    rows = pd.read_parquet(finished / "onsets.parquet")
    assert set(rows[rows.onset == "scale_loss"].space) == set(SCALES)
    assert not rows.duplicated(["onset", "space"]).any()


def test_the_figure_shows_the_onsets_of_scales_from_coarse_to_fine(finished):
    report = read_report(finished)
    none = report.tables["onsets"].iloc[:0]
    assert figure.charts(replace(report, tables={**report.tables, "onsets": none})) == []
    row = report.tables["onsets"].iloc[0].to_dict() | {"status": "found", "step": 90, "low": 90, "high": 200}
    found = [row | {"onset": onset, "space": name} for onset in ("scale_loss_bias", "bias") for name in SCALES]
    changed = replace(report, tables={**report.tables, "onsets": pd.DataFrame(found)[::-1]})
    (chart,) = figure.charts(changed)
    assert [[bar.space for bar in panel.bars] for panel in chart.panels] == [list(SCALES)] * 2
    assert "in haar-0" in chart.words and "in pca-3" in chart.words


def test_scales_as_spaces_are_asked_of_the_samples_by_one_name(audit, audit_args, tmp_path):
    outcome = audit(*audit_args(spaces="pixel,scales"))
    assert outcome.status == 0, outcome.err
    rows = pd.read_parquet(tmp_path / "run" / "measurements.parquet")
    known = rows[(rows.metric == "twin_distance") & rows.space.isin(SCALES)]
    assert set(known.space) == set(SCALES) and (known.value > 0).all()
    onsets = pd.read_parquet(tmp_path / "run" / "onsets.parquet")
    assert set(onsets[onsets.onset == "copying"].space) == {"pixel"}
    table = outcome.out.split("twin distance:")[0]  # scales make no verdict, and would leave no room for what does
    assert "pixel" in table and "haar" not in table and "pca" not in table


def test_scales_make_no_verdict_and_change_none(audit, audit_args, tmp_path):
    assert audit(*audit_args(spaces="pixel,scales", out=tmp_path / "more")).status == 0
    assert audit(*audit_args(spaces="pixel", out=tmp_path / "plain")).status == 0
    more, plain = (pd.read_parquet(tmp_path / name / "verdicts.parquet") for name in ("more", "plain"))
    pd.testing.assert_frame_equal(more, plain)
    refused = audit(*audit_args(spaces="scales", out=tmp_path / "alone"))
    assert refused.status == 1 and "no verdict rests on them" in refused.err
