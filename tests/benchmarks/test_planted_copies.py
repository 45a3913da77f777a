"""Worlds of planted copies are what an audit reads of the same images, and are counted as the page says."""

from __future__ import annotations

from functools import partial

import numpy as np
import planted_copies
import pytest
from calibrating import asking, deals, page, planted

from auditor.measuring import copies
from auditor.measuring.series import read_series
from auditor.records import TWINS
from auditor.run import RunDirectory

N, SEEDS = 50, 40
BLOCK = planted_copies.Block("made-up", planted_copies.MADE_UP, N, SEEDS, ("verbatim",), (0.2,), worlds=1)
SEEN = (
    *("own", "other", "own_outside", "other_outside", "own_mean_50", "other_mean_50", "pool_own", "pool_other"),
    *("heldout_own", "heldout_own_outside", "heldout_own_mean_50", "heldout_pool_own", "heldout_pool_other"),
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def deal(cache) -> deals.Deal:
    """Halves dealt from made-up pictures."""
    return deals.Deal(planted_copies.bank_of(planted_copies.MADE_UP, N, cache, cache), 1)


@pytest.fixture(scope="module")
def copying(deal) -> deals.World:
    """A world in which a fifth of the samples are verbatim copies."""
    return planted.ROWS["verbatim"].draw(deal, SEEDS, 0.2, np.random.default_rng(0))


def test_a_world_is_what_an_audit_reads_of_the_same_images(deal, copying, audit, tmp_path):
    """Distances, landings, gaps and groups, in every space, of samples and of held-out images."""
    rows, n = deal.bank.rows.pictures, deal.bank.size.n
    sets = {"train-a": deal.bank.train[deal.images[:n]], "train-b": deal.bank.train[deal.images[n:]]}
    sets |= {"heldout": rows[copying.heldout]}
    for name, images in sets.items():
        np.savez(tmp_path / f"{name}.npz", images=images)
    for twin in TWINS:
        (tmp_path / twin).mkdir()
        np.savez(tmp_path / twin / "samples_1000.npz", images=rows[copying.rows[twin]])
    given = [(f"--{name}", tmp_path / f"{name}.npz") for name in sets] + [
        (f"--samples-{t}", tmp_path / t) for t in TWINS
    ]
    spaces = ",".join(deal.bank.size.spaces)
    options = [part for pair in given for part in pair]
    done = audit("run", *options, "--spaces", spaces, "--n-samples", SEEDS, "--out", tmp_path / "run")
    assert done.status == 0, done.err
    mine = copying.series()
    read = read_series(RunDirectory(tmp_path / "run"), mine.scope)
    assert list(read.pool.labels) == list(mine.pool.labels)
    for key, landing in mine.landings.items():
        if key[0] in (deals.STEP, "heldout"):
            same(landing, read.landings[key], ("nearest_a", "nearest_b", "in_a", "gap"))
            same(mine.evidence[key], read.evidence[key], SEEN)
    for twin in TWINS:
        pixel = [each.evidence[deals.STEP, twin, "pixel"] for each in (mine, read)]
        same(*pixel, ("own_spacing", "heldout_own_spacing"))
        flags = [copies.flags(each) for each in pixel]
        assert flags[0].own.sum() == flags[1].own.sum() == 8
        groups = [np.unique(each.own_group[each.own], return_inverse=True)[1] for each in flags]
        assert len(set(zip(*groups, strict=True))) == len(set(groups[0])) == len(set(groups[1]))


def same(mine: object, read: object, names: tuple[str, ...]) -> None:
    """Assert that these fields are alike."""
    for name in names:
        np.testing.assert_allclose(getattr(mine, name), getattr(read, name), atol=2e-3, err_msg=name)


def test_copies_are_of_images_of_their_own_half_alone(deal, copying):
    rows = deal.bank.rows
    assert len(deal.copies("verbatim", "a")) and len(deal.copies("collage of quarters", "a"))
    for twin, half in deals.SIGNS.items():
        drawn = copying.rows[twin]
        copied = drawn[np.isin(drawn, rows.of["verbatim"])]
        assert len(copied) == SEEDS // 5
        assert (deal.label[rows.sources[copied, 0]] == half).all()
        of_four = rows.sources[deal.copies("collage of quarters", twin)]
        assert (deal.label[of_four] == half).all()


def test_nobody_was_trained_on_private_samples_or_on_heldout_images(deal):
    drawn = planted.private(deal, SEEDS, np.random.default_rng(0), shared=planted.SHARED)
    for rows in (*drawn.values(), deal.heldout):
        assert (deal.bank.rows.sources[rows] < 0).all()
    assert not set(deal.heldout) & {*drawn["a"], *drawn["b"]}
    assert np.mean(drawn["a"] == drawn["b"]) > 0.5


def test_few_people_are_copied_as_often_as_the_rate_says(deal):
    world = planted.ROWS["five people, verbatim"].draw(deal, SEEDS, 0.1, np.random.default_rng(0))
    copied = np.concatenate([rows[np.isin(rows, deal.bank.rows.of["verbatim"])] for rows in world.rows.values()])
    assert len(copied) == 0.1 * 2 * SEEDS
    assert len(np.unique(copied)) == 5


def test_a_world_that_copies_is_not_released_and_is_asked_once(cache, monkeypatch):
    ask = partial(planted_copies.ask, BLOCK, cache, cache, np.inf)
    assert [ask(1), ask(1)] == [1, 0]
    (row,) = page.counted(planted_copies.answers_of(BLOCK, cache), BLOCK.images, N, SEEDS)
    assert row["worlds"] == 1 and row["released"] == 0
    monkeypatch.setattr(planted_copies, "rules", lambda: "others")
    assert ask(1) == 1


def test_a_condition_is_told_without_its_numbers():
    told = {
        "Copies: window-center: 12 of 2000 samples flagged": "Copies: window-center",
        "40 seeds are fewer than the 1000 that a verdict needs.": "n seeds are fewer than the n that a verdict needs",
        "Images that both halves hold are reproduced in pixel, by 4 of 8 samples": (
            "Images that both halves hold are reproduced: pixel"
        ),
        "5 images are reproduced only by the twin that saw them: a/1, b/2.": (
            "n images are reproduced only by the twin that saw them"
        ),
    }
    assert {reason: asking.condition(reason) for reason in told} == told


def test_a_line_carries_the_limits_and_the_goal():
    """None of 300 excludes more than .99 % at 95 %; 240 of 300 is .80, from .750 to .844."""
    counts = {"all_worlds": 300, "risks": {"memorizing": 300}, "why": {"Copies (pixel)": 300}, "worlds": 300}
    counts |= {"peers": dict.fromkeys(page.PEERS, 3), "seeds": 1000}
    hidden = page.line({"row": "verbatim", "rate": 0.02, "released": 0} | counts)
    assert "| 2 % | 300 | 0 (0.000, at most 0.010) | ≤ .01: met | 1.00 |" in hidden
    private = page.line({"row": "private: identical samples", "rate": 0.0, "released": 240} | counts)
    assert "240 (0.800 [0.750, 0.844]) | ≥ .80: met" in private


def test_conditions_are_counted_by_world_with_the_space_where_they_are_met_most_often():
    why = [["Copies: pixel", "Copies: window-row"], ["Copies: pixel"], ["The halves look exchanged"]]
    assert page.by_rule(why) == {"Copies (pixel)": 2, "The halves look exchanged": 1}


def test_the_page_shows_the_counts_that_are_kept(tmp_path, monkeypatch):
    """docs/calibration.md is stale otherwise: see page.write."""
    shown = page.PAGE.read_text()
    monkeypatch.setattr(page, "PAGE", tmp_path / "calibration.md")
    page.write()
    assert page.PAGE.read_text() == shown
