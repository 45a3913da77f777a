"""Make the X-ray twins: images, two trainings and a small CLIP, for an audit of real medical images.

    python benchmarks/xray/make.py prepare ../shared/data/pneumoniamnist/pneumoniamnist.npz OUT
    python benchmarks/xray/make.py train OUT a      # and b, in another process
    python benchmarks/xray/make.py clip OUT
    audit run --ckpts-a OUT/runs/a --ckpts-b OUT/runs/b --train-a OUT/data/half-a.npz --train-b OUT/data/half-b.npz \
        --heldout OUT/data/heldout.npz --clip-model local-dir:OUT/clip --out OUT/audit

OUT must lie outside the repository: the films (MedMNIST, CC BY 4.0) are not ours to ship.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from auditor.demo import clip, trainer
from auditor.demo.digits import first_occurrences

SPLIT_SEED = 20260303
SIZE = 16
NEAR_DUPLICATE = 0.02  # RMSE of pixels in [0, 1] at 28x28; different films are further apart
SIZES = {"half-a": 512, "half-b": 512, "heldout": 1024, "clip": 1000}
CAPTIONS = ("a normal chest x-ray", "a chest x-ray with pneumonia")
STEPS = (200, 290, 421, 611, 886, 1286, 1866, 2708, 3929, 5700, 8270)  # held-out loss is least near 5,000
SEEDS = {"a": 1, "b": 2}
THREADS = 1
TWIN = trainer.TrainSettings(steps=STEPS, widths=(24, 48), bfloat16=True)
CLIP = clip.ClipSettings(groups=32)


def main() -> None:
    """Run one of the three verbs."""
    if "--smoke" in sys.argv[1:]:
        return smoke()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="alone: all verbs on made-up films: does it start?")
    verbs = parser.add_subparsers(dest="verb", required=True)
    prepare_verb = verbs.add_parser("prepare", help="remove duplicates, resize, split")
    prepare_verb.add_argument("source", type=Path, help="pneumoniamnist.npz")
    train_verb = verbs.add_parser("train", help="train one twin")
    clip_verb = verbs.add_parser("clip", help="train the small CLIP on images of no twin")
    for verb in (prepare_verb, train_verb, clip_verb):
        verb.add_argument("out", type=Path)
    train_verb.add_argument("twin", choices=tuple(SEEDS))
    given = parser.parse_args()
    if given.verb == "prepare":
        prepare(given.source, given.out)
    elif given.verb == "train":
        train_twin(given.out, given.twin)
    else:
        train_clip(given.out)


def prepare(source: Path, out: Path, sizes: Mapping[str, int] = SIZES) -> None:
    """Write ``out/data/{half-a,half-b,heldout,clip}.npz`` with the keys ``images``, ``labels`` and ``indices``.

    Training and validation films are pooled (the test split differs in class balance);
    ``indices`` are positions in that pool. One film of each cluster of near-duplicates is
    kept, then the parts are drawn together.
    """
    archive = np.load(source)
    images = np.concatenate([archive["train_images"], archive["val_images"]])
    labels = np.concatenate([archive["train_labels"], archive["val_labels"]]).ravel().astype(np.int64)
    kept = one_per_cluster(images)
    kept = kept[first_occurrences(resize(images[kept]))]
    order = np.random.default_rng(SPLIT_SEED).permutation(kept)
    print(f"{len(images)} films, {len(images) - len(kept)} near-duplicates removed")
    (out / "data").mkdir(parents=True, exist_ok=True)
    for (name, n), end in zip(sizes.items(), np.cumsum(list(sizes.values())), strict=True):
        indices = order[end - n : end]
        np.savez_compressed(
            out / "data" / f"{name}.npz", images=resize(images[indices]), labels=labels[indices], indices=indices
        )
        print(f"{name}: {n} films, {labels[indices].mean():.3f} with pneumonia")


def one_per_cluster(images: np.ndarray) -> np.ndarray:
    """Return the position of the first image of each cluster of near-duplicates, ascending, int64 ``[m]``."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pixels = images.reshape(len(images), -1) / 255
    pairs = [near_pairs(pixels, start, start + 512) for start in range(0, len(pixels), 512)]
    rows, columns = np.concatenate(pairs, axis=1)
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(pixels),) * 2)
    _, cluster = connected_components(graph, directed=False)
    return np.sort(np.unique(cluster, return_index=True)[1])


def near_pairs(pixels: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Return the pairs (i, j), i of ``start:stop``, whose RMSE is below the threshold, int64 ``[2, m]``."""
    block, norms = pixels[start:stop], (pixels**2).sum(axis=1)
    squares = norms[start:stop, None] + norms[None, :] - 2 * block @ pixels.T  # float64: no loss that matters here
    i, j = np.nonzero(squares < NEAR_DUPLICATE**2 * pixels.shape[1])
    return np.stack([i + start, j])


def resize(images: np.ndarray) -> np.ndarray:
    """Return uint8 ``[n, h, w]`` images at the size of the model, antialiased, as ``[n, 16, 16]``."""
    from PIL import Image

    small = [Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BICUBIC) for image in images]
    return np.stack([np.asarray(image) for image in small])


def train_twin(out: Path, twin: str, steps: tuple[int, ...] = STEPS) -> None:
    """Train one twin on its half, into ``out/runs/<twin>``."""
    one_thread()
    half = np.load(out / "data" / f"half-{twin}.npz")["images"]
    trainer.train(half[..., None], out / "runs" / twin, replace(TWIN, seed=SEEDS[twin], steps=steps), say)


def train_clip(out: Path, settings: clip.ClipSettings = CLIP) -> None:
    """Train the small CLIP on films of neither half nor held-out; print what it can tell on held-out films."""
    one_thread()
    films, heldout = np.load(out / "data" / "clip.npz"), np.load(out / "data" / "heldout.npz")
    captions = [CAPTIONS[label] for label in films["labels"]]
    clip.train(films["images"][..., None], captions, out / "clip", settings, say)
    right = clip.zero_shot(out / "clip", heldout["images"][..., None], CAPTIONS) == heldout["labels"]
    for label, caption in enumerate(CAPTIONS):
        print(f"{caption}: {right[heldout['labels'] == label].mean():.3f} of the held-out films told right")


def smoke() -> None:
    """Do all of it on a few films of noise: the real ones, ../shared/data/pneumoniamnist, are not needed to start."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        out, sets = Path(folder), {}
        for name, n in (("train", 48), ("val", 8)):
            sets[f"{name}_images"] = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
            sets[f"{name}_labels"] = (np.arange(n) % 2)[:, None]
        np.savez(out / "films.npz", **sets)
        print("made-up films, so nothing is said of real ones")
        prepare(out / "films.npz", out, {"half-a": 12, "half-b": 12, "heldout": 12, "clip": 16})
        for twin in SEEDS:
            train_twin(out, twin, (1, 2))
        train_clip(out, replace(CLIP, steps=2, groups=2))


def one_thread() -> None:
    """Keep torch to one thread: the twins are trained side by side, and the weights depend on the number."""
    import torch

    torch.set_num_threads(THREADS)


def say(step: int, last: int, loss: float) -> None:
    """Print one line of progress to stderr."""
    print(f"step {step} of {last}, loss {loss:.4f}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
