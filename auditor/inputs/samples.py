"""``--samples-a DIR --samples-b DIR``: samples drawn already, one folder or file per checkpoint.

No model is loaded.

Samples of twins can be paired only if they were drawn from the same noise. Numbers in file names (``000123.png``,
``seed42.png``) or the order of rows in an array may say so, but need not be true; so the pictures are asked: if samples
with the same number are no more alike than others at any checkpoint, they do not share their noise, and nothing that
compares single samples of the twins is reported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from auditor import images
from auditor.checkpoints import names
from auditor.config import AuditConfig
from auditor.errors import AuditError
from auditor.images import Reading
from auditor.neighbors import paired_distance, shifted_distance
from auditor.records import TWINS, Checkpoint, CheckpointSeries, Excluded, ImageSet, TwinPair

TAR = re.compile(r"\.tar\.\w+$")
FORMAT = "samples"  # in checkpoints.parquet
LEAST = 10  # samples per checkpoint
ENOUGH_IN_COMMON = 0.5  # of the smallest set: numbers that all sets share, to pair by them
ALIKE_P = 0.01  # over all checkpoints: below, samples with the same number are more alike than others
LAYOUT = (
    "Give a folder with one folder of pictures (or one .npz, .npy, .pt, .zip, .tar) per checkpoint, named by its step: "
    "samples/500/000000.png, samples/step-500.npz."
)


@dataclass(frozen=True)
class GivenSamples:
    """The samples of every checkpoint, rows of one number from the same seed if ``paired``."""

    pair: TwinPair
    sets: Mapping[tuple[str, int], ImageSet]  # by twin and step; all of one size
    first_seed: int
    paired: bool
    notes: tuple[str, ...]

    @property
    def n(self) -> int:
        """Samples per checkpoint."""
        return min(map(len, self.sets.values()))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(h, w, c) of the samples."""
        return next(iter(self.sets.values())).images.shape[1:]


def read(config: AuditConfig, reading: Reading, scratch: Path) -> GivenSamples:
    """Return the samples of the twins, or of a single training, aligned by step and seed.

    Raises
    ------
    AuditError
        If a folder holds no samples, two stand for one step, the twins share no step, or sizes differ.
    """
    given = zip(TWINS, (config.samples_a, config.samples_b), strict=True)
    roots = {twin: Path(folder) for twin, folder in given if folder}
    if len(roots) == len(TWINS) and roots["a"].resolve() == roots["b"].resolve():
        raise AuditError("Both twins are the same folder.", roots["a"], "Give the samples of two trainings.")
    found = {twin: by_step(root, twin) for twin, root in roots.items()}
    steps = common_steps({twin: set(each) for twin, (each, _) in found.items()}, config.step_numbers)
    excluded = [each for _, left_out in found.values() for each in left_out]
    for twin, (paths, _) in found.items():
        reason = "not asked for (--steps), or the twin has no samples of this step"
        excluded += [Excluded(twin, step, path, reason) for step, path in paths.items() if step not in steps]
    shape = images.native_shape(images.open_source(found["a"][0][steps[0]], reading))
    exact = replace(reading, exact_size=True)
    sets = {
        (twin, step): images.read(
            paths[step], f"samples {twin}/{step}", shape, exact, use_cache=not config.no_cache, scratch=scratch
        )
        for twin, (paths, _) in found.items()
        for step in steps
    }
    sets, first_seed, how = aligned(sets, config.n_samples)
    shown = {twin: [checkpoint(twin, step, found[twin][0][step], sets[twin, step]) for step in steps] for twin in roots}
    a, b = (CheckpointSeries(twin, tuple(shown.get(twin, ()))) for twin in TWINS)
    pair = TwinPair(a, b, tuple(sorted(excluded, key=lambda each: (each.twin, each.step))))
    paired, said = pairing(sets, steps, how, config.unpaired) if len(roots) == len(TWINS) else (False, "")
    n = min(map(len, sets.values()))
    notes = [
        "Samples were given, not drawn: no model was loaded, so there are no denoising losses, no least held-out loss "
        "and no overfit check, and the loss lean of the verdict is left out.",
        *([said] if said else []),
        *([f"{n} samples per checkpoint were given."] if n < config.n_samples else []),
        *sorted({f"samples: {note}" for each in sets.values() for note in each.notes}),
    ]
    return GivenSamples(pair, sets, first_seed, paired, tuple(notes))


# Steps


def by_step(root: Path, twin: str) -> tuple[dict[int, Path], list[Excluded]]:
    """Return the samples of each step, ascending, and what was left out with the reason."""
    if not root.is_dir():
        raise AuditError(f"The samples of twin {twin} are not there: {root}.", root, LAYOUT)
    found: dict[int, Path] = {}
    left_out = []
    try:
        entries = sorted(each for each in root.iterdir() if not each.name.startswith("."))
    except OSError as error:
        raise AuditError(f"This folder cannot be listed: {error.strerror}", root, "Make it readable.") from error
    if any(each.suffix.lower() in images.SUFFIXES for each in entries):
        raise AuditError(f"The pictures of twin {twin} lie in no folder of a step.", root, LAYOUT)
    stems = {
        path: path.name if path.is_dir() else path.name.partition(".")[0] if TAR.search(path.name) else path.stem
        for path in entries
    }
    counted = names.of_series(list(stems.values()), {}, {})
    for path in entries:
        step = counted[stems[path]][0] if counted[stems[path]][0] >= 0 else None
        if step is None or not (path.is_dir() or is_file_of_samples(path)):
            left_out.append(Excluded(twin, -1 if step is None else step, path, "no samples of a step"))
            continue
        if step in found:
            both = f"{found[step].name} and {path.name}"
            raise AuditError(f"Twin {twin} has two sets of samples of step {step}: {both}.", root, "Move one away.")
        found[step] = path
    if not found:
        raise AuditError(f"There are no samples of twin {twin}.", root, LAYOUT)
    return dict(sorted(found.items())), left_out


def is_file_of_samples(path: Path) -> bool:
    """Return whether a file can hold the samples of one checkpoint."""
    return path.name.lower().endswith((".npz", ".npy", ".pt", ".pth", ".zip", ".tar", ".tar.gz", ".tgz", ".parquet"))


def number(name: str) -> int | None:
    """Return the last whole number in a name: 500 of checkpoint-500, 123 of sample_000123."""
    found = re.findall(r"\d+", name)
    step = names.number(found[-1]) if found else -1
    return step if step >= 0 else None


def common_steps(steps: Mapping[str, set[int]], wanted: tuple[int, ...] | None) -> list[int]:
    """Return the steps that are audited, ascending."""
    common = set.intersection(*steps.values())
    chosen = common if wanted is None else common & set(wanted)
    if not chosen:
        lists = "; ".join(f"{twin} has {', '.join(map(str, sorted(each)[:8]))}" for twin, each in steps.items())
        raise AuditError(f"There is no step to audit: {lists}.", "--samples-a, --samples-b", LAYOUT)
    return sorted(chosen)


def checkpoint(twin: str, step: int, path: Path, found: ImageSet) -> Checkpoint:
    """Return what stands for the checkpoint: its samples, by their content."""
    return Checkpoint(
        twin=twin, step=step, path=path, format=FORMAT, weights="", scheduler=None, digest=images.set_digest(found)
    )


# Seeds


def aligned(sets: Mapping[tuple[str, int], ImageSet], most: int) -> tuple[dict[tuple[str, int], ImageSet], int, str]:
    """Return the sets with the same numbers in the same rows, the first number, and what the rows go by.

    By numbers in the names where every set has its own for each sample and they share most of them; else by order.
    """
    found = {key: [number(Path(i).stem) for i in each.ids] for key, each in sets.items()}
    numbers = {key: [value for value in each if value is not None] for key, each in found.items()}
    least = min(map(len, sets.values()))
    if least < LEAST:
        raise AuditError(f"A checkpoint has {least} samples.", "--samples-a, --samples-b", f"Give at least {LEAST}.")
    if all(len(set(numbers[key])) == len(each) for key, each in sets.items()):
        common = sorted(set.intersection(*(set(each) for each in numbers.values())))[:most]
        if len(common) >= max(LEAST, min(ENOUGH_IN_COMMON * least, most)):
            at = {key: {value: row for row, value in enumerate(each)} for key, each in numbers.items()}
            rows = {key: [at[key][value] for value in common] for key in sets}
            start = common[0] if common == list(range(common[0], common[0] + len(common))) else 0
            how = "names" if any(Path(i).suffix for each in sets.values() for i in each.ids[:1]) else "order"
            return {key: each.rows(rows[key]) for key, each in sets.items()}, start, how
    n = min(least, most)
    return {key: each.rows(range(n)) for key, each in sets.items()}, 0, "order"


def pairing(sets: Mapping[tuple[str, int], ImageSet], steps: list[int], how: str, refused: bool) -> tuple[bool, str]:
    """Return whether the twins' samples share their noise, and the sentence that says so."""
    without = "twin distance, twin variance and the divergence of the twins are not known."
    if refused:
        return False, f"The twins' samples do not share their noise (--unpaired): {without}"
    by = "the numbers in their names" if how == "names" else "their order"
    if min(likeness_z(sets["a", step], sets["b", step]) for step in steps) < critical(len(steps)):
        return True, f"The twins' samples were paired by {by}; those of one number are more alike than others."
    return False, (
        f"The twins' samples cannot be paired: taken by {by}, those of one number are at no checkpoint more alike than "
        f"others, so they were not drawn from the same noise; {without}"
    )


def likeness_z(a: ImageSet, b: ImageSet) -> float:
    """Return by how many standard errors paired samples are farther apart than others; negative if nearer."""
    first, second = (flat(each) for each in (a, b))
    difference = paired_distance(first, second) - shifted_distance(first, second)
    spread = difference.std(ddof=1) / np.sqrt(len(difference))
    return float(difference.mean() / spread) if spread > 0 else 0.0


def flat(found: ImageSet) -> np.ndarray:
    """Return at most 2,000 pictures as float32 ``[n, d]``."""
    some = np.asarray(found.images[:2000])
    return some.reshape(len(some), -1).astype(np.float32)


def critical(n_looks: int) -> float:
    """Return the z below which one of several checkpoints shows alikeness."""
    from statistics import NormalDist

    return NormalDist().inv_cdf(ALIKE_P / n_looks)
