"""Halves for a twin experiment: disjoint, equal, exchangeable, and nothing that belongs together is torn apart."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from repository import SHARED

import auditor
from auditor import images, spaces, split
from auditor.errors import AuditError
from auditor.images import near_duplicates
from auditor.split import SETS, items
from auditor.split.card import as_markdown, card_of, write
from auditor.split.items import Options
from auditor.stats import relabeling

PNEUMONIA = SHARED / "data/pneumoniamnist/pneumoniamnist.npz"


def films(n: int, seed: int = 0) -> np.ndarray:
    """Smooth pictures, all different."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(20, 230, (n, 5, 5)).astype(np.uint8)
    return np.stack([np.asarray(Image.fromarray(each).resize((16, 16), Image.Resampling.BICUBIC)) for each in coarse])


def write_folder(root: Path, pictures: np.ndarray, name) -> Path:
    for i, each in enumerate(pictures):
        path = root / name(i)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(each).save(path)
    return root


def sets_of(out: Path) -> dict[str, images.ImageSet]:
    lists = {name: out / f"{name}.csv" for name in SETS}
    return {
        name: images.read(path, name, (16, 16, 1)) for name, path in lists.items() if path.read_text().count("\n") > 1
    }


def where(sets: dict[str, images.ImageSet]) -> dict[str, str]:
    """The set of each image, by file name."""
    return {Path(each).name: name for name, found in sets.items() for each in found.ids}


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Path:
    """200 films of two classes; 10 exact copies, 10 brighter, 10 saved as JPEG."""
    root, base = tmp_path_factory.mktemp("films"), films(200)
    write_folder(root, base, lambda i: f"{'ill' if i % 4 else 'well'}/p{i // 2:03d}_{i:03d}.png")
    for i in range(10):
        Image.fromarray(base[i]).save(root / f"ill/q{i // 2:03d}_{i:03d}_exact.png")
        brighter = np.clip(base[20 + i] * 0.9 + 20, 0, 255).astype(np.uint8)
        Image.fromarray(brighter).save(root / f"ill/q{10 + i // 2:03d}_{20 + i:03d}_brighter.png")
        Image.fromarray(base[40 + i]).save(root / f"ill/q{20 + i // 2:03d}_{40 + i:03d}_pressed.jpg", quality=80)
    return root


@pytest.fixture(scope="module")
def plain(planted, tmp_path_factory):
    """A split of them, without groups: its folder and card."""
    out = tmp_path_factory.mktemp("split") / "out"
    return out, write(split.split(Options(str(planted)), out), out)


def test_halves_are_disjoint_and_equal_and_every_image_is_in_one_set(plain, planted):
    out, card = plain
    sets = sets_of(out)
    assert sum(map(len, sets.values())) == len(list(planted.rglob("*.*"))) == 230
    assert len(where(sets)) == 230
    assert len(sets["train-a"]) == len(sets["train-b"])
    assert abs(len(sets["heldout"]) - 46) <= 5
    assert card["sets"] == {name: len(found) for name, found in sets.items()}


def test_exact_and_near_duplicates_stay_together_and_are_counted(plain):
    out, card = plain
    at = where(sets_of(out))
    for name, place in at.items():
        if name.startswith("q"):
            assert place == at[f"p{name[1:8]}.png"], name
    assert card["exact_duplicates"] == 10 and card["near_duplicates"] == 40
    assert card["clusters"] == 200 and card["checks"]["clusters_in_two_sets"] == 0


def test_classes_are_spread_evenly(plain):
    _, card = plain
    a, b = card["classes"]["train-a"], card["classes"]["train-b"]
    assert abs(a["well"] - b["well"]) <= 4 and card["classes"]["heldout"]["well"] in range(5, 16)


def test_the_card_says_that_the_halves_are_exchangeable(plain):
    out, card = plain
    assert card["checks"]["halves"]["p_nearest"] > 0.01 and card["warnings"] == []
    assert json.loads((out / "split.json").read_text()) == card
    assert "correlation above 0.980" in (out / "split.md").read_text()


def test_lists_say_which_images_belong_together(plain):
    out, _ = plain
    sizes = Counter(group for found in sets_of(out).values() for group in found.groups)
    assert sorted(sizes.values())[-30:] == [2] * 30 and len(sizes) == 200


def test_the_same_seed_gives_the_same_halves_and_another_one_others(planted, plain, tmp_path):
    def drawn(seed: int) -> list[str]:
        return split.split(Options(str(planted), seed), tmp_path).of.tolist()

    assert drawn(0) == drawn(0) != drawn(1)


@pytest.mark.parametrize(("by", "groups"), [("^(?:ill|well)/[pq]([0-9]{3})", 100), ("[pq][0-9]{2}", 13)])
def test_groups_found_in_names_stay_together(planted, tmp_path, by, groups):
    card = write(split.split(Options(str(planted), group_by=by), tmp_path / "out"), tmp_path / "out")
    assert card["user_groups"] == groups
    patients: dict[str, set[str]] = {}
    for name, place in where(sets_of(tmp_path / "out")).items():
        patients.setdefault(name[1 : 4 if groups == 100 else 3], set()).add(place)
    assert all(len(places) == 1 for places in patients.values())


def test_a_column_of_groups_is_taken_by_name(tmp_path):
    np.savez(tmp_path / "x.npz", images=films(120), slide=np.arange(120) // 3, labels=np.arange(120) % 2)
    done = split.split(Options(str(tmp_path / "x.npz"), group_by="slide"), tmp_path / "out")
    assert all(len(set(done.of[i : i + 3])) == 1 for i in range(0, 120, 3))


def test_images_inside_an_array_are_listed_by_id_and_found_again(tmp_path):
    pictures = films(150)
    np.savez(tmp_path / "x.npz", train_images=pictures[:90], val_images=pictures[90:])
    source = f"{tmp_path / 'x.npz'}:train_images+val_images"
    write(split.split(Options(source), tmp_path / "deep/out"), tmp_path / "deep/out")
    found = sets_of(tmp_path / "deep/out")
    whole = images.read(source, "all", (16, 16, 1))
    content = dict(zip(whole.ids, images.digests(whole), strict=True))
    for each in found.values():
        assert images.digests(each) == tuple(content[i] for i in each.ids)
    again = split.split(Options(str(tmp_path / "deep/out/train-a.csv"), heldout=0), tmp_path / "again")
    write(again, tmp_path / "again")
    assert set(sets_of(tmp_path / "again")["train-b"].ids if False else found["train-a"].ids) == set(
        again.items.source.ids
    )


def test_each_image_is_as_likely_in_either_half(tmp_path):
    sizes = np.array([1] * 60 + [2] * 20 + [5] * 7)
    clusters = np.repeat(np.arange(len(sizes)), sizes)
    drawn = np.array([split.assign(clusters, (), Options("x", seed)) for seed in range(400)])
    in_a, in_b = (drawn == "train-a").mean(axis=0), (drawn == "train-b").mean(axis=0)
    assert np.abs(in_a - in_b).max() < 0.2  # four standard errors are .19
    held = (drawn == "heldout").mean(axis=0)
    assert 0.18 < held.mean() < 0.24
    assert np.abs((drawn == "train-a").sum(axis=1) - (drawn == "train-b").sum(axis=1)).max() <= 5


def test_the_relabeling_test_of_the_audit_does_not_reject_its_halves(tmp_path):
    """Over many seeds p of a statistic that the split does not know is not small too often."""
    rng = np.random.default_rng(0)
    clusters, value = np.repeat(np.arange(80), 2), rng.normal(size=160)
    rejected = 0
    for seed in range(60):
        of = split.assign(clusters, (), Options("x", seed))
        rows = of != "heldout"
        pool = relabeling.Pool(
            tuple(("", str(i)) for i in np.flatnonzero(rows)),
            np.where(of[rows] == "train-a", 1.0, -1.0),
            np.unique(clusters[rows], return_inverse=True)[1],
        )
        rejected += relabeling.two_sided_p(relabeling.relabel(pool, seed, 200), value[rows]) < 0.05
    assert rejected <= 9  # 3 expected; more than 9 has a chance below .002


def test_a_cluster_of_many_near_images_is_found_whole():
    vectors = films(40).reshape(40, 16, 16, 1)
    noisy = np.clip(vectors[:1] + np.random.default_rng(0).normal(0, 2, (30, 16, 16, 1)), 0, 255).astype(np.uint8)
    everyone = np.concatenate([vectors, noisy])
    features = near_duplicates.likeness("x", tuple(map(str, range(70))), iter(everyone))
    pairs, nearest = near_duplicates.near_pairs(features, 0.2)
    cluster = {0, *range(40, 70)}
    assert {tuple(sorted(pair)) for pair in pairs.tolist()} == {(i, j) for i in cluster for j in cluster if i < j}
    assert np.nanmin(np.delete(nearest, list(cluster))) >= 0.2


def test_flat_pictures_are_not_near_duplicates_of_each_other(tmp_path):
    pictures = films(60)
    pictures[:10] = np.arange(10)[:, None, None] * 20  # ten different flat ones
    done = split.split(Options(str(write_folder(tmp_path / "x", pictures, lambda i: f"{i}.png"))), tmp_path / "out")
    assert len(np.unique(done.clusters.of)) == 60 and done.items.blank.sum() == 10


def refused(data: object, out: Path, **options) -> AuditError:
    with pytest.raises(AuditError) as caught:
        split.split(Options(str(data), **options), out)
    assert caught.value.where and caught.value.remedy
    return caught.value


def test_what_cannot_be_split_is_refused(planted, plain, tmp_path):
    assert "too few" in refused(write_folder(tmp_path / "few", films(10), lambda i: f"{i}.png"), tmp_path / "out").what
    assert "There is a split already" in refused(planted, plain[0]).what
    assert "is no column" in refused(planted, tmp_path / "out", group_by="nothing").what
    assert "regular expression" in refused(planted, tmp_path / "out", group_by="(").what
    assert "held-out share" in refused(planted, tmp_path / "out", heldout=1.0).what
    assert "The halves would have" in refused(planted, tmp_path / "out", group_by="^(.)").what
    assert not (tmp_path / "out").exists()


CLIP = f"local-dir:{Path(auditor.__file__).parent / 'demo/shipped/clip'}"  # the small one of the demo


def test_near_duplicates_in_clip_space_stay_together_and_are_told(planted, tmp_path):
    """By definition: every pair of pictures whose vectors, embedded here by hand, are nearer than the threshold."""
    options = Options(str(planted), near=0, near_clip=0.05, clip_model=CLIP, device="cpu")
    done = split.split(options, tmp_path)
    whole = images.read(planted, "all", (16, 16, 1), images.Reading(convert_color=True))
    space = spaces.open_space("clip", spaces.SpaceSettings("cpu", CLIP))
    vectors = spaces.embed(space, np.asarray(whole.images))
    apart = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    seen, digests = ~done.items.blank, np.array(images.digests(whole))
    expected = (apart < 0.05) & (digests[:, None] != digests[None]) & seen[:, None] & seen[None]
    assert tuple(whole.ids) == tuple(done.items.source.ids) and expected.any()
    first, second = np.nonzero(expected)
    assert (done.clusters.of[first] == done.clusters.of[second]).all() and (done.of[first] == done.of[second]).all()
    card = card_of(done)
    once = np.unique(digests, return_index=True)[1]  # of exact copies one is looked at
    assert card["near_clip_duplicates"] == expected[np.ix_(once, once)].any(axis=1).sum()
    assert card["near_duplicates"] == 0
    beyond = np.where(np.eye(len(once), dtype=bool), np.inf, apart[np.ix_(once, once)]).min(axis=1)
    assert card["next_clip_distance"] == pytest.approx(beyond[beyond >= 0.05].min(), abs=1e-4)
    assert card["near_clip_threshold"] == 0.05 and card["clip"] == space.revision
    line = f"in CLIP space: {card['near_clip_duplicates']} images, at a distance below 0.05 (cosine above 0.999, clip-"
    assert line in as_markdown(card)


def test_pixels_and_clip_join_what_either_finds(planted, plain, tmp_path):
    both = split.split(Options(str(planted), near_clip=0.05, clip_model=CLIP, device="cpu"), tmp_path)
    assert both.clusters.near == plain[1]["near_duplicates"] and both.clusters.near_clip > 0
    assert len(np.unique(both.clusters.of)) <= plain[1]["clusters"]
    assert not {"clip", "near_clip_duplicates"} & plain[1].keys()


def test_clip_embeds_a_batch_at_a_time(planted, tmp_path, monkeypatch):
    sizes, embed = [], spaces.embed
    monkeypatch.setattr(spaces, "embed", lambda space, batch, n: sizes.append(len(batch)) or embed(space, batch, n))
    split.split(Options(str(planted), near_clip=0.05, clip_model=CLIP, device="cpu"), tmp_path)
    assert sum(sizes) == 230 and max(sizes) == items.EMBEDDED_AT_ONCE


def test_missing_clip_weights_are_one_error_before_any_image_is_read(planted, tmp_path, audit, monkeypatch):
    monkeypatch.setattr(split, "read_items", lambda *given: pytest.fail("images are read"))
    given = ("--near-clip", "0.1", "--clip-model", f"local-dir:{tmp_path}")
    outcome = audit("split", planted, "--out", tmp_path / "out", *given)
    assert outcome.status == 1 and outcome.out == "" and not (tmp_path / "out").exists()
    assert "There is no open_clip_config.json" in outcome.err and "leave --near-clip out" in outcome.err
    assert "--spaces" not in outcome.err
    assert "is no distance" in refused(planted, tmp_path / "out", near_clip=2).what


def test_the_command_writes_lists_that_audit_run_takes(planted, tmp_path, audit):
    outcome = audit("split", planted, "--out", tmp_path / "out", "--group-by", "^(?:ill|well)/[pq]([0-9]{3})")
    assert outcome.status == 0, outcome.err
    assert "# Split of films" in outcome.out and "same set" in outcome.out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *(f"{name}.csv" for name in SETS),
        "split.json",
        "split.md",
    }
    again = audit("split", planted, "--out", tmp_path / "out")
    assert again.status == 1 and "There is a split already" in again.err


@pytest.mark.shared_data
@pytest.mark.skipif(not PNEUMONIA.exists(), reason=f"the shared X-rays are not at {PNEUMONIA}")
def test_the_copies_among_the_real_x_rays_stay_together(tmp_path):
    done = split.split(Options(f"{PNEUMONIA}:train_images+val_images"), tmp_path)
    assert done.clusters.exact == 26 and len(np.unique(done.clusters.of)) == 5206
    by_digest: dict[str, set[str]] = {}
    for digest, name in zip(done.items.digests, done.of, strict=True):
        by_digest.setdefault(digest, set()).add(name)
    assert all(len(names) == 1 for names in by_digest.values())


def test_one_training_gets_a_list_and_held_out_images_and_is_told_what_they_can_find(planted, audit, tmp_path):
    outcome = audit("split", planted, "--trainings", 1, "--heldout", 0.3, "--out", tmp_path / "split")
    assert outcome.status == 0, outcome.err
    files = {path.name for path in (tmp_path / "split").iterdir()}
    assert files == {"train.csv", "heldout.csv", "split.md", "split.json"}
    card = json.loads((tmp_path / "split" / "split.json").read_text())
    assert sum(card["sets"].values()) == card["images"] and card["sets"]["heldout"] == pytest.approx(69, abs=6)
    assert card["checks"]["clusters_in_two_sets"] == 0 and "halves" not in card["checks"]
    assert len(card["power"]) == 3 and card["power"][0] in " ".join(outcome.out.split())
    lists = {n: images.read(tmp_path / "split" / f"{n}.csv", n, (16, 16, 1)) for n in ("train", "heldout")}
    assert not set(images.digests(lists["train"])) & set(images.digests(lists["heldout"]))


@pytest.mark.parametrize("options", [("--trainings", 3), ("--trainings", 1, "--heldout", 0)])
def test_splits_that_nothing_could_be_compared_in_are_refused(planted, audit, tmp_path, options):
    outcome = audit("split", planted, *options, "--out", tmp_path / "split")
    assert outcome.status == 1 and options[-2] in outcome.err and not (tmp_path / "split").exists()


def test_captions_and_repeats_go_into_the_lists(tmp_path):
    root = write_folder(tmp_path / "d", films(60), lambda i: f"{1 + i % 3}_film/{i:02d}.png")
    for i in range(60):
        (root / f"{1 + i % 3}_film/{i:02d}.txt").write_text(f'film, number "{i}"\nof 60')
    card = write(split.split(Options(str(root)), tmp_path / "out"), tmp_path / "out")
    assert "Every image has a caption; 60 of them are different." in card["notes"]
    seen = {}
    for name in SETS:
        found = images.open_source(tmp_path / "out" / f"{name}.csv")
        seen |= dict(zip(found.ids, zip(found.column("caption"), found.column("repeats"), strict=True), strict=True))
    assert {Path(each).name: said for each, said in seen.items()} == {
        f"{i:02d}.png": (f'film, number "{i}"\nof 60', str(1 + i % 3)) for i in range(60)
    }


def test_lists_are_written_without_captions_that_are_not_whole(tmp_path):
    root = write_folder(tmp_path / "d", films(60), lambda i: f"{i:02d}.png")
    (root / "07.txt").write_text("0 0.5 0.5 0.2 0.2")  # a file of boxes: no training on captions need be meant
    card = write(split.split(Options(str(root)), tmp_path / "out"), tmp_path / "out")
    assert "The lists have no captions. 59 of 60 pictures have no caption, such as '00.png'." in card["notes"]
    assert (tmp_path / "out/train-a.csv").read_text().startswith("path,group\n")


def test_one_training_gets_the_folder_and_the_configuration_of_its_trainer(tmp_path, audit):
    root = write_folder(tmp_path / "d", films(60), lambda i: f"{i:02d}.png")
    for i in range(60):
        (root / f"{i:02d}.txt").write_text(f"film {i}")
    outcome = audit("split", root, "--trainings", 1, "--for", "sd-scripts", "--out", tmp_path / "out")
    assert outcome.status == 0, outcome.err
    pictures = list((tmp_path / "out/train").rglob("*.png"))
    card = json.loads((tmp_path / "out/split.json").read_text())
    assert len(pictures) == card["sets"]["train"] and all(each.with_suffix(".txt").is_file() for each in pictures)
    assert not (tmp_path / "out/train-a").exists() and list((tmp_path / "out").glob("*.toml"))
