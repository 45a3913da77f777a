"""Feature spaces: the contract of all of them, the meaning of each distance, and where CLIP weights come from."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from auditor import spaces
from auditor.config import AuditConfig
from auditor.errors import AuditError
from auditor.lab.grammar import Grammar
from auditor.neighbors import paired_distance, search
from auditor.registry import SPACES
from auditor.spaces import Space, SpaceSettings, clip, open_space
from auditor.spaces.pixel import PixelSpace

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 32, "patch_size": 4, "head_width": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    """A folder as open_clip reads it. Its random weights are no CLIP: they only exercise the way they are loaded."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("tiny-clip")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY, "preprocess_cfg": {}}))
    (folder / "auditor-tiny.json").write_text(json.dumps(TINY))
    (folder / "auditor-wide.json").write_text(json.dumps(TINY | {"embed_dim": 24}))
    open_clip.add_model_config(folder / "auditor-tiny.json")
    open_clip.add_model_config(folder / "auditor-wide.json")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = open_clip.create_model("auditor-tiny").state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture
def settings(tiny_folder, tmp_path) -> SpaceSettings:
    Grammar(q=16, q_eff=16).write(tmp_path / "grammar.json")
    return SpaceSettings(clip_model=f"local-dir:{tiny_folder}", grammar=str(tmp_path / "grammar.json"))


@pytest.fixture
def empty_cache(monkeypatch, tmp_path) -> Path:
    """No cached weights, and no network: a test that would download must not."""
    import huggingface_hub

    def unreachable(*arguments, **options):
        raise OSError("no network in tests")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    return tmp_path


def random_images(n=7, height=16, width=16, n_channels=3, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size=(n, height, width, n_channels), dtype=np.uint8)


def opened(name, settings, images):
    """The space, trained on images of the same shape where it needs any."""
    halves = [random_images(40, *images.shape[1:], seed=seed) for seed in (8, 9)]
    return open_space(name, replace(settings, training=lambda: halves))


# The contract of every space


@pytest.mark.parametrize("n_channels", [1, 3])
@pytest.mark.parametrize("name", SPACES)
def test_a_vector_depends_on_its_own_image_only(name, n_channels, settings):
    images = random_images(n_channels=n_channels)
    space = opened(name, settings, images)
    together = spaces.embed(space, images)
    alone = np.concatenate([space.embed(images[i : i + 1]) for i in range(len(images))])
    # Networks multiply batches in another order than single images; pixels are exact.
    np.testing.assert_allclose(alone, together, rtol=0, atol=1e-6 if name == "clip" or name.startswith("pca") else 0)


@pytest.mark.parametrize("name", SPACES)
def test_vectors_are_finite_float32_and_repeatable(name, settings):
    images = random_images()
    images[0], images[1] = 0, 255
    space = opened(name, settings, images)
    vectors = spaces.embed(space, images, batch_size=3)
    assert vectors.dtype == np.float32 and len(vectors) == len(images) and np.isfinite(vectors).all()
    np.testing.assert_array_equal(spaces.embed(opened(name, settings, images), images, batch_size=3), vectors)


@pytest.mark.parametrize("name", SPACES)
def test_an_image_is_at_distance_zero_from_itself_and_not_from_another(name, settings):
    images = random_images()
    space = opened(name, settings, images)
    vectors = space.embed(images)
    assert (paired_distance(vectors, space.embed(images.copy())) == 0).all()
    assert (paired_distance(vectors[:-1], vectors[1:]) > 0).all()


@pytest.mark.parametrize("name", SPACES)
def test_a_space_says_who_it_is_and_what_distance_means(name, settings):
    space = opened(name, settings, random_images())
    assert space.name == name and space.revision.startswith(name) and space.metric_note.endswith(".")
    assert space.vectors in (True, False)
    assert all(each is None or callable(each) for each in (space.refine, space.nearest))
    assert not space.vectors or space.refine is space.nearest is None


@pytest.mark.parametrize("name", SPACES)
def test_images_that_are_not_square_are_taken(name, settings):
    images = random_images(height=12, width=20)
    assert len(opened(name, settings, images).embed(images)) == 7


def test_a_vector_that_is_not_finite_is_an_error_that_names_the_row(settings):
    space = open_space("pixel", settings)
    space.embed = lambda images: np.where(images[:, 0, 0] == 255, np.nan, 0.0).astype(np.float32)
    images = np.zeros((10, 1, 1, 1), np.uint8)
    images[6] = 255
    with pytest.raises(AuditError, match="row 6"):
        spaces.embed(space, images, batch_size=4)


# Spaces of several views, and spaces that compare pictures


class Halves(Space):
    """Pixels of the left half of a picture, and of the right one: near is what shares either."""

    name, revision, metric_note = "halves", "halves-1", "The lesser RMSE of left and right halves."
    vectors = False

    def embed(self, images):
        half = images.shape[2] // 2
        pixels = PixelSpace(SpaceSettings())
        return np.stack([pixels.embed(each) for each in (images[:, :, :half], images[:, :, half:])], axis=1)


class AsPictures(PixelSpace):
    """Pixels propose; the largest difference of any of them decides."""

    vectors = False

    def refine(self, queries, candidates):
        return np.abs(queries[:, None].astype(float) - candidates).max(axis=(2, 3, 4))


def features(space, images):
    return spaces.features(space, "set", spaces.embed(space, images), tuple(map(str, range(len(images)))), images)


def test_a_space_of_two_views_finds_a_copy_of_either_half():
    reference = random_images(n=300)
    drawn = random_images(n=3, seed=1)
    drawn[0, :, :8], drawn[1, :, 8:], drawn[2] = reference[5, :, :8], reference[7, :, 8:], reference[11]
    found = search(features(Halves(SpaceSettings()), drawn), features(Halves(SpaceSettings()), reference), k=2)
    np.testing.assert_array_equal(found.indices[:, 0], [5, 7, 11])
    assert (found.distances[:, 0] == 0).all() and (found.distances[:, 1] > 0.1).all()


def test_views_are_compared_with_equal_views_so_that_a_copy_in_the_other_half_is_none():
    reference = random_images(n=20)
    turned = np.roll(reference, 8, axis=2)
    assert (
        search(features(Halves(SpaceSettings()), turned), features(Halves(SpaceSettings()), reference), k=1).distances
        > 0.1
    ).all()


def test_several_views_are_kept_and_a_single_one_is_no_axis():
    images = random_images(n=5)
    assert spaces.embed(Halves(SpaceSettings()), images, batch_size=2).shape == (5, 2, 384)
    one = PixelSpace(SpaceSettings())
    flat = spaces.embed(one, images)
    one.embed = lambda images: PixelSpace(SpaceSettings()).embed(images)[:, None]
    np.testing.assert_array_equal(spaces.embed(one, images, batch_size=2), flat)


def test_a_new_space_takes_one_file_and_one_line_of_the_registry(monkeypatch):
    monkeypatch.setitem(SPACES, "halves", f"{__name__}:Halves")
    assert AuditConfig(out="x", spaces="pixel,halves").space_names == ("pixel", "halves")
    assert spaces.embed(open_space("halves", SpaceSettings()), random_images()).shape == (7, 2, 384)


def test_a_space_of_several_views_has_distances_alone():
    space = Halves(SpaceSettings())
    space.vectors = True
    with pytest.raises(AssertionError, match="distances alone"):
        spaces.embed(space, random_images())


def test_a_space_that_refines_looks_at_the_pictures():
    images = np.zeros((3, 4, 4, 1), np.uint8)
    images[1], images[2, 0, 0] = 20, 60  # all pixels a little, one pixel much: the pixel space has 2 nearer to 0
    space = AsPictures(SpaceSettings())
    plain = search(features(PixelSpace(SpaceSettings()), images), features(PixelSpace(SpaceSettings()), images), 3)
    refined = search(features(space, images), features(space, images), 3)
    np.testing.assert_array_equal(plain.indices[0], [0, 2, 1])
    np.testing.assert_array_equal(refined.indices[0], [0, 1, 2])
    np.testing.assert_array_equal(refined.distances[0], [0, 20, 60])


# What the distances mean


def test_pixel_distance_is_the_root_mean_squared_difference(settings):
    images = random_images(n=2)
    first, second = open_space("pixel", settings).embed(images)
    rmse = np.sqrt(np.mean((images[0] / 255.0 - images[1] / 255.0) ** 2))
    assert np.linalg.norm(first - second) == pytest.approx(rmse, rel=1e-6)


def test_pixel_distance_of_black_and_white_is_one(settings):
    images = np.stack([np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)])
    black, white = open_space("pixel", settings).embed(images)
    assert np.linalg.norm(black - white) == pytest.approx(1, rel=1e-6)


def correlation_of(images, settings):
    first, second = open_space("correlation", settings).embed(images).astype(np.float64)
    assert np.linalg.norm(first - second) ** 2 == pytest.approx(2 * (1 - first @ second), abs=1e-6)
    return first @ second


def test_correlation_of_gray_images_is_pearsons(settings):
    images = random_images(n=2, n_channels=1)
    expected = np.corrcoef(images.reshape(2, -1))[0, 1]
    assert correlation_of(images, settings) == pytest.approx(expected, abs=1e-6)


def test_correlation_of_color_images_is_the_mean_over_channels(settings):
    images = random_images(n=2)
    channels = [np.corrcoef(images[0, :, :, c].ravel(), images[1, :, :, c].ravel())[0, 1] for c in range(3)]
    assert correlation_of(images, settings) == pytest.approx(np.mean(channels), abs=1e-6)


def test_correlation_ignores_brightness_and_contrast_and_turns_for_a_negative(settings):
    image = random_images(n=1) // 4
    assert correlation_of(np.concatenate([image, 2 * image + 50]), settings) == pytest.approx(1, abs=1e-6)
    assert correlation_of(np.concatenate([image, 255 - image]), settings) == pytest.approx(-1, abs=1e-6)


def test_a_constant_image_correlates_with_nothing_but_another_constant(settings):
    """A zero vector would be nearer to every picture than an unrelated picture is."""
    image = random_images(n=1)
    black, white = np.zeros_like(image), np.full_like(image, 255)
    assert correlation_of(np.concatenate([image, black]), settings) == 0
    assert correlation_of(np.concatenate([white, black]), settings) == 1


def test_a_constant_channel_does_not_shorten_the_vector(settings):
    images = random_images()
    images[:, :, :, 2] = 9
    lengths = np.linalg.norm(open_space("correlation", settings).embed(images), axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-6)


def test_clip_vectors_are_those_of_open_clip_at_unit_length(settings):
    import open_clip
    import torch
    from PIL import Image

    images = random_images(n=3)
    model, transform = open_clip.create_model_from_pretrained(settings.clip_model)
    with torch.no_grad():
        batch = torch.stack([transform(Image.fromarray(image)) for image in images])
        expected = model.eval().encode_image(batch, normalize=True).numpy()
    np.testing.assert_allclose(open_space("clip", settings).embed(images), expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, rtol=1e-5)


def test_clip_sees_a_gray_image_as_its_rgb_copy(settings):
    gray = random_images(n_channels=1)
    space = open_space("clip", settings)
    np.testing.assert_array_equal(space.embed(gray), space.embed(gray.repeat(3, axis=3)))


# Where CLIP weights come from


def test_weights_from_a_file_and_from_a_folder_give_the_same_vectors(settings, tiny_folder):
    from_file = SpaceSettings(clip_model="auditor-tiny", clip_weights=f"{tiny_folder}/open_clip_model.safetensors")
    images = random_images()
    vectors = [open_space("clip", chosen).embed(images) for chosen in (settings, from_file)]
    np.testing.assert_array_equal(*vectors)


def test_the_revision_follows_the_weights_and_the_preprocessing_but_not_the_path(settings, tiny_folder, tmp_path):
    config = tiny_folder / "open_clip_config.json"
    weights = tiny_folder / "open_clip_model.safetensors"
    copy = SpaceSettings(clip_model=f"local-dir:{tmp_path}")
    revision = clip.resolve(settings).revision
    assert hashlib.sha256(weights.read_bytes()).hexdigest()[:16] in revision
    (tmp_path / weights.name).write_bytes(weights.read_bytes())
    (tmp_path / config.name).write_text(config.read_text())
    assert clip.resolve(copy).revision == revision
    (tmp_path / config.name).write_text(config.read_text().replace("{}", '{"mean": [0.5, 0.5, 0.5]}'))
    assert clip.resolve(copy).revision != revision


def test_missing_weights_are_a_quick_error_that_says_what_to_place_and_what_runs_without(empty_cache):
    start = time.monotonic()
    with pytest.raises(AuditError) as error:
        open_space("clip", SpaceSettings())
    assert time.monotonic() - start < 10
    for words in ("open_clip_model.safetensors", "--clip-weights FILE", "--spaces pixel,correlation"):
        assert words in error.value.remedy
    assert "ViT-B-32" in error.value.where


def test_a_server_that_never_answers_is_given_up(empty_cache, monkeypatch):
    def silent(*arguments, **options):
        time.sleep(3)
        raise TimeoutError

    monkeypatch.setattr("urllib.request.urlopen", silent)
    monkeypatch.setattr(clip, "REQUEST_SECONDS", 0.2)
    start = time.monotonic()
    with pytest.raises(AuditError, match="no answer from https://huggingface.co"):
        clip.resolve(SpaceSettings())
    assert time.monotonic() - start < 2


def test_offline_mode_asks_nobody(empty_cache, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(clip, "_no_answer", lambda url: pytest.fail(f"asked {url}"))
    with pytest.raises(AuditError, match="HF_HUB_OFFLINE is set"):
        clip.resolve(SpaceSettings())


def test_a_download_that_breaks_is_the_same_clear_error(empty_cache, monkeypatch):
    def broken(trained):
        raise FileNotFoundError("connection reset")

    monkeypatch.setattr(clip, "_no_answer", lambda url: "")
    monkeypatch.setattr("open_clip.download_pretrained", broken)
    with pytest.raises(AuditError, match="connection reset"):
        clip.resolve(SpaceSettings())


def test_cached_weights_of_a_tag_are_used_without_a_request_and_with_its_preprocessing(
    empty_cache, monkeypatch, tiny_folder
):
    import open_clip

    siglip = open_clip.get_pretrained_cfg("ViT-B-16-SigLIP", "webli")
    monkeypatch.setitem(
        open_clip.pretrained._PRETRAINED, "auditor-tiny", {"sometag": siglip | {"hf_hub": "owner/tiny/"}}
    )
    snapshot = empty_cache / "models--owner--tiny" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "open_clip_model.safetensors").write_bytes((tiny_folder / "open_clip_model.safetensors").read_bytes())
    (snapshot / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY, "preprocess_cfg": siglip}))
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    tag = open_space("clip", SpaceSettings(clip_model="auditor-tiny", clip_weights="sometag"))
    folder = open_space("clip", SpaceSettings(clip_model=f"local-dir:{snapshot}"))
    images = random_images(height=12)
    np.testing.assert_array_equal(tag.embed(images), folder.embed(images))
    other = open_space("clip", SpaceSettings(clip_model=f"local-dir:{tiny_folder}"))
    assert not np.allclose(tag.embed(images), other.embed(images), atol=1e-3)


def test_openai_weights_need_the_quickgelu_model(empty_cache):
    with pytest.raises(AuditError, match="QuickGELU") as error:
        clip.resolve(SpaceSettings(clip_model="ViT-B-32", clip_weights="openai"))
    assert "--clip-model ViT-B-32-quickgelu" in error.value.remedy


def test_a_file_known_by_its_hash_as_openais_needs_the_quickgelu_model(monkeypatch, tiny_folder):
    import open_clip

    weights = tiny_folder / "open_clip_model.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    url = f"https://openaipublic.azureedge.net/clip/models/{digest}/ViT-B-32.pt"
    openai = open_clip.get_pretrained_cfg("ViT-B-32", "openai") | {"url": url}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "ViT-B-32", {"openai": openai})
    with pytest.raises(AuditError, match="QuickGELU"):
        clip.resolve(SpaceSettings(clip_model="ViT-B-32", clip_weights=str(weights)))


def test_a_local_file_gets_the_preprocessing_of_its_models_tags(tiny_folder):
    weights = str(tiny_folder / "open_clip_model.safetensors")
    assert clip.resolve(SpaceSettings(clip_model="ViT-B-16-SigLIP", clip_weights=weights)).preprocess == {
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "interpolation": "bicubic",
        "resize_mode": "squash",
    }


def test_weights_of_another_architecture_are_one_clear_error(tiny_folder):
    weights = tiny_folder / "open_clip_model.safetensors"
    with pytest.raises(AuditError, match="does not hold weights of auditor-wide") as error:
        open_space("clip", SpaceSettings(clip_model="auditor-wide", clip_weights=str(weights)))
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("content", [b"", b"these are not weights", b"\x80\x02]q\x00.", b"PK\x03\x04 cut short"])
def test_a_file_that_is_no_weights_is_one_clear_error(content, suffix, tiny_folder, tmp_path):
    weights = tmp_path / f"notes{suffix}"
    weights.write_bytes(content)
    with pytest.raises(AuditError, match="does not hold weights"):
        open_space("clip", SpaceSettings(clip_model="auditor-tiny", clip_weights=str(weights)))


@pytest.mark.parametrize("state", [{}, [1, 2], {"epoch": 3}])
def test_a_torch_file_without_a_state_dict_is_one_clear_error(state, tiny_folder, tmp_path):
    import torch

    torch.save(state, tmp_path / "epoch.pt")
    with pytest.raises(AuditError, match="does not hold weights"):
        open_space("clip", SpaceSettings(clip_model="auditor-tiny", clip_weights=str(tmp_path / "epoch.pt")))


@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated, but OpenAI's files are what they are
def test_a_torchscript_archive_is_refused_with_a_word_on_safetensors(tiny_folder, tmp_path):
    import torch

    torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(tmp_path / "ViT-B-32.pt")
    with pytest.raises(AuditError, match="does not hold weights") as error:
        open_space("clip", SpaceSettings(clip_model="auditor-tiny", clip_weights=str(tmp_path / "ViT-B-32.pt")))
    assert "safetensors" in error.value.remedy


def test_a_pickle_that_would_run_code_is_refused(tiny_folder, tmp_path):
    import torch

    class Hostile:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({"state_dict": Hostile()}, tmp_path / "hostile.pt")
    with pytest.raises(AuditError):
        open_space("clip", SpaceSettings(clip_model="auditor-tiny", clip_weights=str(tmp_path / "hostile.pt")))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"clip_weights": "laion2b"}, "neither a weights file nor a pretrained tag of ViT-B-32"),
        ({"clip_weights": "/nowhere/weights.pt"}, "neither a weights file nor a pretrained tag of ViT-B-32"),
        ({"clip_model": "ViT-B32"}, "open_clip has no model 'ViT-B32'"),
        ({"clip_model": "local-dir:/nowhere"}, "no open_clip_config.json in /nowhere"),
    ],
)
def test_what_does_not_exist_is_named(wrong, said):
    with pytest.raises(AuditError, match=said):
        clip.resolve(SpaceSettings(**wrong))


def test_a_folder_without_weights_is_never_filled_with_random_ones(tmp_path):
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY}))
    with pytest.raises(AuditError, match="no weights file"):
        open_space("clip", SpaceSettings(clip_model=f"local-dir:{tmp_path}"))


def test_loading_clip_leaves_the_root_logger_as_it_was(settings):
    before = list(logging.getLogger().handlers)
    open_space("clip", settings)
    assert logging.getLogger().handlers == before


def test_the_registry_knows_the_three_spaces_and_a_misspelled_one_is_an_error(settings):
    assert {"pixel", "correlation", "clip"} <= set(SPACES)
    with pytest.raises(AuditError, match="no space called 'pixels'"):
        open_space("pixels", settings)
