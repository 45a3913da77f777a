"""The feature spaces of a run: those asked for, or the default as far as weights and pictures allow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from auditor import spaces
from auditor.config import AUTO, AuditConfig
from auditor.errors import AuditError
from auditor.registry import DEFAULT_SPACES, SPACE_GROUPS
from auditor.spaces import Space, SpaceSettings

DEEP = "clip"  # needs weights, which may not be had
WEIGHTS = ("clip_model", "clip_weights")  # who names them wants the space


@dataclass(frozen=True)
class Opened:
    """The spaces of a run, ready to embed."""

    spaces: Mapping[str, Space]
    notes: tuple[str, ...] = ()  # what is not looked for, and why

    @property
    def names(self) -> str:
        """The spaces as the setting has them."""
        return ",".join(self.spaces)


def kept(config: AuditConfig, record: Mapping[str, Any]) -> AuditConfig:
    """Return the settings with the spaces of the run that is there, where none are asked for: it stays what it is."""
    was = record.get("resolved", {}).get("spaces")
    if config.spaces != AUTO or config.quick or not was or record.get("given", {}).get("quick"):
        return config
    return replace(config, spaces=",".join(was))


def opened(config: AuditConfig, settings: SpaceSettings) -> Opened:
    """Return the spaces of a run; of the default, all that can be had.

    Raises
    ------
    AuditError
        If a space that was asked for cannot be had.
    """
    found, notes = {}, []
    for name in config.space_names:
        try:
            found[name] = spaces.open_space(name, settings)
        except AuditError as error:
            if name != DEEP or not may_lack_weights(config):
                raise
            notes.append(
                f"The default space {name} is left out, so no copy is looked for that only a deep space sees: "
                f"{error.what} {error.remedy}"
            )
    return Opened(found, tuple(notes))


def may_lack_weights(config: AuditConfig) -> bool:
    """Tell whether the deep space is there by default alone, with the default weights."""
    usual = {each.name: each.default for each in fields(config)}
    asked = {name.strip() for name in config.spaces.split(",")}
    return AUTO in asked and DEEP not in asked and all(getattr(config, name) == usual[name] for name in WEIGHTS)


def lacking(found: Opened, height: int, width: int, settings: SpaceSettings) -> tuple[str, ...]:
    """Return which default spaces a run that is there lacks, as a sentence: it keeps its own."""
    others = [name for name in DEFAULT_SPACES if name not in found.spaces]
    lacks = [name for name in others if name == DEEP or spaces.open_space(name, settings).fits(height, width)]
    if not lacks:
        return ()
    every = ",".join((*found.spaces, *lacks))
    return (
        f"This run keeps its spaces; of those that are the default now it lacks {', '.join(lacks)}. To add them, give "
        f"--spaces {every}.",
    )


def fitting(found: Opened, config: AuditConfig, height: int, width: int, n_images: int) -> Opened:
    """Return the spaces without those of the default that show nothing of such pictures, and what the others leave out.

    ``n_images`` is how many the largest image set holds.
    """
    asked = {name.strip() for name in config.spaces.split(",")} - {AUTO}
    asked = {each for name in asked for each in SPACE_GROUPS.get(name, (name,))}
    fit = {name: each for name, each in found.spaces.items() if name in asked or each.fits(height, width)}
    unfit = [name for name in found.spaces if name not in fit]
    notes = [
        *(
            [f"Of the default spaces {', '.join(unfit)} would show nothing more of {height}x{width} pictures."]
            * bool(unfit)
        ),
        *dict.fromkeys(each.left_out(height, width, n_images) for each in fit.values()),
    ]
    return Opened(fit, (*found.notes, *filter(None, notes)))
