"""Keys of artefacts: everything that changes their bytes, as readable JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from importlib import metadata
from typing import Any

from auditor import images
from auditor.diffusion import denoising, noise, sampling
from auditor.images import scales
from auditor.inputs.prepared import Prepared
from auditor.records import other_twin
from auditor.stages import agreement, controls, nearest, published_losses, trajectories, u_turns
from auditor.stages import attack_scores as attacks


@dataclass(frozen=True)
class Keys:
    """The key of every artefact of a prepared audit; samples and features have no count in theirs, so runs can grow."""

    prepared: Prepared

    def samples(self, twin: str, step: int) -> dict[str, Any]:
        """Return what determines the samples of one checkpoint."""
        p = self.prepared
        if p.given is not None:
            digest = p.pair.series(twin).at(step).digest
            return {"stage": "given samples", "checkpoint": digest, "first_seed": p.config.seed}
        return {
            "stage": "samples",
            "revision": [noise.REVISION, sampling.REVISION],
            "checkpoint": p.pair.series(twin).at(step).digest,
            "scheduler": dict(p.scheduler),
            "sampler": p.config.sampler,
            "sampling_steps": p.sampling_steps,
            "first_seed": p.config.seed,
            **self.conditions,
            **self.scaling(twin),
            **self.machine,
        }

    @property
    def conditions(self) -> dict[str, Any]:
        """Return under what samples are drawn, where the models are conditional."""
        drawn = self.prepared.conditions
        if drawn is None:
            return {}
        prompts = {"prompts": list(self.prepared.settings.prompts)} if self.prepared.settings.prompts else {}
        return {"conditions": list(drawn.numbers), "guidance_scale": drawn.guidance, **prompts}

    def scaling(self, twin: str) -> dict[str, Any]:
        """Return how pictures are scaled for the networks of a twin, where it is not to [-1, 1]."""
        pixels = self.prepared.pixels[twin]
        if pixels.is_standard:
            return {}
        mean = pixels.mean if isinstance(pixels.mean, float) else sha256(pixels.mean.tobytes()).hexdigest()
        return {"pixels": [pixels.low, pixels.high, mean]}

    @cached_property
    def machine(self) -> dict[str, Any]:
        """Return what changes the arithmetic of a network."""
        p = self.prepared
        versions = {name: metadata.version(name) for name in ("torch", "diffusers")}
        return {"batch_size": p.batch_size, "device": p.device.split(":")[0], **versions}

    def image_set(self, name: str) -> dict[str, Any]:
        """Return what determines an image set."""
        return {"images": self.prepared.set_digests[name]}

    def loss_images(self, name: str) -> dict[str, Any]:
        """Return what determines the images whose loss is measured: mirrored ones are none of them."""
        p = self.prepared
        if p.n_originals(name) == len(p.sets[name]):
            return self.image_set(name)
        return {"images": images.set_digest(p.sets[name].rows(range(p.n_originals(name))))}

    def features(self, space: str, of: Mapping[str, Any]) -> dict[str, Any]:
        """Return what determines the features of samples or of an image set."""
        return {"stage": "features", "space": space, "revision": self.prepared.spaces[space].revision, "of": dict(of)}

    def evidence(self, space: str, twin: str, step: int) -> dict[str, Any]:
        """Return what determines one evidence table; it holds the count, for different-seed distances use all seeds."""
        p = self.prepared
        return {
            "stage": "evidence",
            "revision": nearest.REVISION,
            "samples": self.features(space, self.samples(twin, step)),
            **({"twin_samples": self.samples(other_twin(twin), step)} if p.scope.with_twin and p.pairs_samples else {}),
            "n_samples": self.prepared.config.n_samples,
            **self.references,
        }

    def restricted(self, name: str) -> dict[str, Any]:
        """Return which images of a half are in the pool, where not all of them are."""
        mask = self.prepared.in_pool.get(name)
        if mask is None or mask.all():
            return {}
        mask = mask[: self.prepared.n_originals(name)]
        return {"pool": sha256(mask.tobytes()).hexdigest()}

    def control(self, name: str) -> dict[str, Any]:
        """Return what determines the images of a control."""
        p = self.prepared
        training = self.image_set(f"train-{name[-1]}")
        return {"stage": "control", "revision": controls.REVISION, "name": name, "of": training, "seed": p.config.seed}

    def control_evidence(self, space: str, name: str) -> dict[str, Any]:
        """Return what determines the evidence of a control: like that of samples."""
        p = self.prepared
        source = self.image_set("heldout") if name.startswith("heldout") else self.control(name)
        return {
            "stage": "evidence",
            "revision": nearest.REVISION,
            "samples": self.features(space, source),
            "of": name,
        } | {
            **self.references,
            "seed": p.config.seed,
        }

    def control_losses(self, name: str) -> dict[str, Any]:
        """Return what determines the losses of a reference denoiser."""
        losses = {k: v for k, v in self.losses("a", self.prepared.pair.steps[0]).items() if k != "checkpoint"}
        return losses | {"denoiser": name, "controls": controls.REVISION}

    def set_evidence(self, space: str, name: str) -> dict[str, Any]:
        """Return what determines the table of a control set."""
        return {"stage": "evidence", "revision": nearest.REVISION, "of": name} | {
            "space": self.features(space, {}),
            "n_samples": self.prepared.config.n_samples,
            **self.references,
        }

    @cached_property
    def references(self) -> dict[str, Any]:
        """Return the sets that samples are compared with, and who is in the pool."""
        p = self.prepared
        return {name: self.image_set(name) for name in p.sets} | {
            "pool": [int(mask.sum()) for mask in p.in_pool.values()],
            "pool_seed": p.config.seed,
            "groups": {name: sha256(each.tobytes()).hexdigest() for name, each in p.groups.items()},
            **({"classes": {n: sha256(c.tobytes()).hexdigest() for n, c in p.classes.items()}} if p.classes else {}),
        }

    def published_losses(self, twin: str, step: int) -> dict[str, Any]:
        """Return what determines the losses of one checkpoint by the published protocol."""
        losses = self.losses(twin, step)
        kept = {name: losses[name] for name in losses if name not in ("images", "times", "seed", "sets", "classes")}
        classes = {"classes": losses["classes"]["heldout"]} if "classes" in losses else {}
        own = {"stage": "published losses", "revision": [denoising.REVISION, published_losses.REVISION]}
        return kept | own | classes | {"images": self.loss_images("heldout")}

    def attack_scores(self, twin: str, step: int) -> dict[str, Any]:
        """Return what determines the scores of membership attacks: of the losses' images, at times of their own."""
        times = {name: each.tolist() for name, each in self.prepared.attack_times.items()}
        own = {"stage": "attack scores", "revision": [noise.REVISION, attacks.REVISION], "attack_times": times}
        return {name: value for name, value in self.losses(twin, step).items() if name != "times"} | own

    def u_turns(self, twin: str, step: int) -> dict[str, Any]:
        """Return what determines the U-turns of one checkpoint."""
        losses = self.losses(twin, step)
        kept = {name: losses[name] for name in losses if name not in ("times", "images")}
        searched = {name: self.image_set(name) for name in self.prepared.sets}
        own = {"stage": "u-turns", "revision": [noise.REVISION, u_turns.REVISION], "searched": searched}
        return kept | own | {"images": self.prepared.config.u_turns}

    def trajectories(self, step: int) -> dict[str, Any]:
        """Return what determines how the twins' predictions compare where samples come from."""
        both = {twin: self.losses(twin, step) for twin in self.prepared.pair.twins}
        revisions = [noise.REVISION, agreement.REVISION, trajectories.REVISION]
        seeds = [self.prepared.config.seed, self.prepared.config.trajectories]
        return {"stage": "trajectories", "revision": revisions, "losses": both, "seeds": seeds, **self.conditions}

    def agreement(self, step: int) -> dict[str, Any]:
        """Return what determines how the twins' predictions compare."""
        both = {twin: self.losses(twin, step) for twin in self.prepared.pair.twins}
        halves = {name: self.image_set(name) for name in self.prepared.in_pool}
        mirrored = {"halves": halves} if self.prepared.mirrored else {}  # else the losses' key has them
        return {"stage": "agreement", "revision": [agreement.REVISION, scales.REVISION], "losses": both, **mirrored}

    def losses(self, twin: str, step: int) -> dict[str, Any]:
        """Return what determines the losses of one checkpoint."""
        p = self.prepared
        return {
            "stage": "losses",
            "revision": [noise.REVISION, denoising.REVISION],
            "checkpoint": p.pair.series(twin).at(step).digest,
            "scheduler": dict(p.scheduler),
            "images": p.config.loss_images,
            "times": p.times.tolist(),
            "seed": p.config.seed,
            "sets": {name: self.loss_images(name) | self.restricted(name) for name in p.sets},
            **({"classes": {n: sha256(c.tobytes()).hexdigest() for n, c in p.classes.items()}} if p.classes else {}),
            **self.scaling(twin),
            **self.machine,
        }
