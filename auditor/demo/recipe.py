"""The audit of the demo; how its shipped files were made, and how to make them again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from auditor.config import AuditConfig
from auditor.demo import clip, digits, trainer
from auditor.demo.trainer import LOG
from auditor.records import TWINS
from auditor.run import RunDirectory
from auditor.run.files import atomic

STEPS = (120, 240, 430, 770, 1390, 2500, 4500, 8000, 14000, 18000)
# Twins share the recipe and differ in images and in seed, as two real trainings do.
TWIN_SETTINGS = {twin: trainer.TrainSettings(steps=STEPS, seed=seed) for seed, twin in enumerate(TWINS, start=1)}
SEEDS = 600
BUDGETS = f"""# The demo draws {SEEDS} seeds to take minutes on two cores; a release should rest on 1000 or more.
least_seeds = {SEEDS}
"""
CLIP_SETTINGS = clip.ClipSettings()

RetrainProgress = Callable[[str, int, int, float], None]  # ("twins/a", step, steps in all, loss)


def demo_config(out: Path, retrained: bool = False, say: Callable[[str, int], None] | None = None) -> AuditConfig:
    """Return the settings of the demo's audit, small enough for two minutes on two cores.

    Parameters
    ----------
    out
        The run directory; the images are written to ``out/data``.
    retrained
        Train the twins and the CLIP again, into ``out``. Once that is done, later audits
        with this ``out`` use them; otherwise the shipped ones are audited.
    say
        Called with what is being done and 0.
    """
    with RunDirectory(out).locked():  # proven and marked, so that the audit finds a run here and not somebody's files
        images = digits.write(out)
    if retrained:
        retrain(out, say and (lambda *line: say("training {}: step {:,} of {:,}, loss {:.3f}".format(*line), 0)))
    source = out if is_trained(out) else shipped()
    with atomic(out / "budgets.toml") as temporary:
        temporary.write_text(BUDGETS)
    return AuditConfig(
        ckpts_a=str(source / "twins" / "a"),
        ckpts_b=str(source / "twins" / "b"),
        train_a=str(images["train_a"]),
        train_b=str(images["train_b"]),
        heldout=str(images["heldout"]),
        out=str(out),
        n_samples=SEEDS,
        sampling_steps=20,
        spaces="pixel,correlation,clip,aligned-whole,window-center,window-frame",  # not all windows: minutes, not more
        clip_model=f"local-dir:{source / 'clip'}",
        loss_images=128,
        loss_levels=8,
        budgets=str(out / "budgets.toml"),
    )


def shipped() -> Path:
    """Return the folder of the shipped files: ``twins/a``, ``twins/b`` and ``clip``.

    ``TRAINING.md`` beside them says how they were made.
    """
    return Path(__file__).parent / "shipped"


def is_trained(folder: Path) -> bool:
    """Tell whether a retraining in this folder was finished: the twins' last checkpoints and the CLIP are there."""
    last = [folder / "twins" / twin / f"checkpoint-{STEPS[-1]}" for twin in TWINS]
    return all(path.exists() for path in (*last, folder / "clip" / clip.WEIGHTS))


def retrain(
    out: Path,
    progress: RetrainProgress | None = None,
    twins: Mapping[str, trainer.TrainSettings] = TWIN_SETTINGS,
    small_clip: clip.ClipSettings = CLIP_SETTINGS,
) -> None:
    """Train the twins and the small CLIP again, into ``out/twins/a``, ``out/twins/b`` and ``out/clip``.

    Each training has a process of its own with one thread: that keeps the numbers the same
    whatever the caller does with its threads, and two cores busy.

    Parameters
    ----------
    out
        Folder to write to; laid out like the shipped one.
    progress
        Called about once a second, for each training that has written a new line in its log.
    twins, small_clip
        The recipes; those of the shipped files unless given.
    """
    lengths = {out / "twins" / twin: settings.steps[-1] for twin, settings in twins.items()}
    lengths[out / "clip"] = small_clip.steps
    seen = dict.fromkeys(lengths, 0)
    for folder in lengths:
        (folder / LOG).unlink(missing_ok=True)  # an older training's lines are not this one's progress
    with ProcessPoolExecutor(max_workers=2, mp_context=get_context("spawn")) as pool:
        pending = {pool.submit(train_twin, twin, out / "twins" / twin, settings) for twin, settings in twins.items()}
        pending.add(pool.submit(train_clip, out / "clip", small_clip))
        while pending:
            done, pending = wait(pending, timeout=1)
            for training in done:
                training.result()
            for folder, n_steps in lengths.items():
                line = last_line(folder / LOG)
                if progress and line["step"] > seen[folder]:
                    seen[folder] = line["step"]
                    progress(folder.relative_to(out).as_posix(), line["step"], n_steps, line["loss"])


def train_twin(twin: str, out: Path, settings: trainer.TrainSettings) -> None:
    """Train one twin on its half of the digits, on one thread."""
    import torch

    torch.set_num_threads(1)
    half = digits.load()[f"train_{twin}"]
    trainer.train(half.images[..., None], out, settings)


def train_clip(out: Path, settings: clip.ClipSettings) -> None:
    """Train the CLIP on the digits that are in neither half nor held-out, on one thread."""
    import torch

    torch.set_num_threads(1)
    part = digits.load()["clip"]
    clip.train(part.images[..., None], digits.captions(part.labels), out, settings)


def last_line(log: Path) -> dict[str, Any]:
    """Return the last whole line of a training log; step 0 where there is none yet."""
    lines = log.read_text(encoding="utf-8").split("\n")[:-1] if log.exists() else []
    return json.loads(lines[-1]) if lines else {"step": 0}
