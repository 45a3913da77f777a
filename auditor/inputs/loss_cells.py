"""On how many images and at how many noise levels losses are measured where that was not said (docs/statistics.md 5.4).

The one place where these defaults are resolved. A run that was begun keeps its numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from auditor.config import FEWER_LEVELS, LOSS_IMAGES, LOSS_LEVELS, AuditConfig
from auditor.inputs.asked import SetFacts
from auditor.records import DECOYS

AT_MOST = 2  # times what the losses for released samples cost


def with_loss_cells(config: AuditConfig, begun: Mapping[str, Any], sets: Mapping[str, SetFacts]) -> AuditConfig:
    """Return the settings with the number of images and of noise levels.

    Parameters
    ----------
    begun
        The settings of the run in this directory, if there is one.
    sets
        The image sets: those that are smaller than the default cost less.
    """
    images = config.loss_images or begun.get("loss_images")
    levels = config.loss_levels or begun.get("loss_levels")
    wanted = images or LOSS_IMAGES[config.release or "weights"]
    dear = images is None and images_asked(sets, wanted) > AT_MOST * images_asked(sets, LOSS_IMAGES["samples"])
    return replace(config, loss_images=wanted, loss_levels=levels or (FEWER_LEVELS if dear else LOSS_LEVELS))


def images_asked(sets: Mapping[str, SetFacts], n: int) -> int:
    """Return on how many images losses are measured where ``n`` of each set are asked for."""
    return sum(each.asked_about(n) for name, each in sets.items() if name != DECOYS)
