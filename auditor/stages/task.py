"""What a run consists of: each artefact's path, key, number of rows and cost in network calls."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from auditor.diffusion import schedules
from auditor.inputs.prepared import Prepared
from auditor.run import RunDirectory
from auditor.stages import attack_scores, controls, published_losses, trajectories, u_turns
from auditor.stages.keys import Keys

LOSS_IMAGES_AT_ONCE = 32  # images whose cells make one resumable batch of the loss stage


@dataclass(frozen=True)
class Task:
    """One artefact of a run: what must be done for it, and why."""

    kind: str  # what is made; see the *_artefacts functions
    of: str  # an image set or control, or twin/step
    space: str
    action: str  # make, extend, reuse, remake
    reason: str
    calls: int  # network calls it still needs

    @property
    def twin(self) -> str:
        """Twin of a checkpoint's task."""
        return self.of.split("/")[0]

    @property
    def step(self) -> int:
        """Step of a checkpoint's task."""
        return int(self.of.split("/")[1])


def artefact(
    prepared: Prepared, run: RunDirectory, keys: Keys, kind: str, of: str, space: str
) -> tuple[Path, dict[str, Any], int | None]:
    """Return path, key and the rows asked for (None: the key says all) of one artefact."""
    twin, _, step = of.partition("/")
    n = prepared.config.n_samples
    if kind == "control":
        return run.control(of), keys.control(of), control_size(of)
    if kind == "control-losses":
        return run.control_losses(of), keys.control_losses(of), None
    if kind == "features" and of in prepared.sets:
        return run.features(space, of), keys.features(space, keys.image_set(of)), len(prepared.sets[of])
    if kind == "features":
        return run.features(space, of), keys.features(space, keys.control(of)), control_size(of)
    if kind == "set-evidence":
        return run.evidence(space, of), keys.set_evidence(space, of), None
    if kind == "control-evidence":
        return run.evidence(space, of), keys.control_evidence(space, of), None
    if kind == "samples":
        return run.samples(twin, int(step)), keys.samples(twin, int(step)), n
    if kind == "losses":
        return run.losses(twin, int(step)), keys.losses(twin, int(step)), None
    if kind == "published-losses":
        return run.published_losses(twin, int(step)), keys.published_losses(twin, int(step)), None
    if kind == "attack-scores":
        return run.attack_scores(twin, int(step)), keys.attack_scores(twin, int(step)), None
    if kind == "u-turns":
        return run.u_turns(twin, int(step)), keys.u_turns(twin, int(step)), None
    if kind == "trajectories":
        return run.trajectories(int(step)), keys.trajectories(int(step)), None
    if kind == "agreement":
        return run.agreement(int(step)), keys.agreement(int(step)), None
    if kind == "sample-features":
        return run.features(space, of), keys.features(space, keys.samples(twin, int(step))), n
    if kind in ("coverage", "quality"):
        return run.evidence(space, f"{of}.{kind}"), keys.evidence(space, twin, int(step)), None
    return run.evidence(space, of), keys.evidence(space, twin, int(step)), None


def control_size(name: str) -> int:
    """Return how many images a control has."""
    return controls.N_SMOOTH if name.startswith("smooth") else controls.N_COPIES


def calls_of(prepared: Prepared, kind: str, of: str, have: int) -> int:
    """Return how many network calls an artefact needs, ``have`` rows being there."""
    batch = prepared.batch_size
    if prepared.given is not None:
        return 0
    if kind == "samples":
        whole = have // batch * batch
        return -(-(prepared.config.n_samples - whole) // batch) * prepared.sampling_steps
    if kind == "losses":  # those of the linear reference are no network calls
        return sum(
            -(-min(LOSS_IMAGES_AT_ONCE, n - start) * len(prepared.times) * 2 // batch)
            for n in loss_counts(prepared).values()
            for start in range(0, n, LOSS_IMAGES_AT_ONCE)
        )
    if kind == "published-losses":
        return published_losses.n_calls(prepared.n_originals("heldout"), schedules.n_times(prepared.scheduler), batch)
    if kind == "attack-scores":
        asked = sum(loss_counts(prepared)[name] for name in attacked_sets(of))
        parts = [min(batch, asked - start) for start in range(0, asked, batch)]
        return sum(attack_scores.n_calls(n, prepared.attack_times, batch) for n in parts)
    if kind == "u-turns":
        asked = sum(turned_counts(prepared).values())
        return sum(u_turns.n_calls(min(batch, asked - at), prepared.scheduler, batch) for at in range(0, asked, batch))
    if kind == "trajectories":
        return trajectories.n_calls(prepared.config.trajectories, prepared.times, prepared.scheduler, batch)
    return 0


def attacked_sets(of: str) -> dict[str, str]:
    """Return by image set its role in attacks on the model ``twin/step``: its own images are members, held-out not."""
    return {f"train-{of.split('/')[0]}": "own", "heldout": "heldout"}


def loss_counts(prepared: Prepared) -> dict[str, int]:
    """Return on how many images of each set the loss is measured."""
    return counts(prepared, prepared.config.loss_images)


def turned_counts(prepared: Prepared) -> dict[str, int]:
    """Return how many images of each set are noised and denoised again."""
    return counts(prepared, prepared.config.u_turns)


def counts(prepared: Prepared, asked: int) -> dict[str, int]:
    """Return how many images of each set are taken where so many are asked for: no mirrored, shared or blank ones."""
    available = {name: prepared.n_originals(name) for name in prepared.sets}
    available |= {name: int(mask[: available[name]].sum()) for name, mask in prepared.in_pool.items()}
    return {name: min(asked, n) for name, n in available.items()}
