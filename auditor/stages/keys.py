"""What several keys share: the machine, the pictures, what is asked of a network, what samples are compared with."""

from __future__ import annotations

from functools import cache
from importlib import metadata
from typing import Any

from auditor.diffusion import denoising, noise
from auditor.inputs.asked import Asked


@cache
def version(package: str) -> str:
    """Return the installed version of a package."""
    return metadata.version(package)


def machine(asked: Asked) -> dict[str, Any]:
    """Return what changes the arithmetic of a network."""
    versions = {name: version(name) for name in ("torch", "diffusers")}
    return {"batch_size": asked.batch_size, "device": asked.device.split(":")[0], **versions}


def of_scaling(asked: Asked, twin: str) -> dict[str, Any]:
    """Return how pictures are scaled for the networks of a twin, where it is not to [-1, 1]."""
    return {"pixels": asked.scaling[twin]} if twin in asked.scaling else {}


def image_set(asked: Asked, name: str) -> dict[str, Any]:
    """Return what determines an image set."""
    return {"images": asked.sets[name].digest}


def asked_images(asked: Asked, name: str) -> dict[str, Any]:
    """Return what determines the images that networks are asked about: mirrored ones are none of them."""
    return {"images": asked.sets[name].originals_digest}


def of_classes(asked: Asked) -> dict[str, Any]:
    """Return what determines the classes of the images, where they are known."""
    known = {name: each.classes for name, each in asked.sets_asked_about.items() if each.classes}
    return {"classes": known} if known else {}


def network(asked: Asked, of: str) -> dict[str, Any]:
    """Return what determines the losses of a checkpoint; other questions to it differ in a few entries."""
    twin = of.split("/")[0]
    sets = asked.sets_asked_about
    restricted = {name: {"pool": each.pool} if each.pool else {} for name, each in sets.items()}
    return {
        "stage": "losses",
        "revision": [noise.REVISION, denoising.REVISION],
        "checkpoint": asked.checkpoints[of],
        "scheduler": dict(asked.scheduler),
        "images": asked.loss_images,
        "times": asked.times.tolist(),
        "seed": asked.config.seed,
        "sets": {name: asked_images(asked, name) | restricted[name] for name in sets},
        **of_classes(asked),
        **of_scaling(asked, twin),
        **machine(asked),
    }


def of_features(asked: Asked, space: str, of: dict[str, Any]) -> dict[str, Any]:
    """Return what determines the features of samples or of an image set; ``of`` is their key."""
    return {"stage": "features", "space": space, "revision": asked.spaces[space].revision, "of": of}


def of_spread(asked: Asked, space: str) -> dict[str, Any]:
    """Return whether pictures are compared with held-out images, too, in a space of which that is not always asked."""
    return {} if space in asked.scope.vector_spaces else {"spread": space in asked.scope.compared_spaces}


def of_references(asked: Asked) -> dict[str, Any]:
    """Return the sets that samples are compared with, and who is in the pool."""
    trained = {name: asked.sets[name] for name in sorted(asked.sets) if asked.sets[name].pooled is not None}
    return {name: image_set(asked, name) for name in asked.sets} | {
        "pool": [each.pooled for each in trained.values()],
        "pool_seed": asked.config.seed,
        "groups": {name: each.groups for name, each in trained.items() if each.groups},
        **of_classes(asked),
    }
