"""Whether mirrored training images are looked for: as the user says, else as the trainers' files say, else not."""

from __future__ import annotations

from auditor.checkpoints import ModelSettings, flips_of
from auditor.records import Flips, TwinPair


def resolve(asked: bool | None, pair: TwinPair, settings: ModelSettings | None) -> Flips:
    """Return whether the trainings mirrored their images, and what says so; ``settings`` is None for given samples.

    Where the files of the twins say different things, the one that says yes counts for both: to look for mirror images
    in vain costs time, not to look for them misses copies.
    """
    if asked is not None:
        return Flips(asked, "--flip-train" if asked else "--no-flip-train")
    if settings is None:
        return Flips(None, "")
    said = {twin: said_of(pair, twin, settings) for twin in pair.twins}
    answers = [one.mirrored for one in said.values()]
    if len(set(answers)) > 1:
        told = "; ".join(f"{twin}: {as_text(one)}" for twin, one in said.items())
        return Flips(True in answers or None, f"the files of the twins differ: {told}")
    return said["a"]


def said_of(pair: TwinPair, twin: str, settings: ModelSettings) -> Flips:
    """Return what the files of one training say: that it mirrored images, if one of its checkpoints says so."""
    said = [flips_of(checkpoint, settings) for checkpoint in pair.series(twin).checkpoints]
    return next((one for one in said if one.mirrored), said[0])


def as_text(flips: Flips) -> str:
    """Return what is said, for people."""
    word = {True: "yes", False: "no", None: "not known"}[flips.mirrored]
    return f"{word} ({flips.source})" if flips.source else word


def notes(flips: Flips, asked: bool | None) -> list[str]:
    """Return that mirror images were looked for, or that perhaps they should have been."""
    if flips.mirrored:
        because = flips.source if asked else f"{flips.source}; --no-flip-train leaves them out"
        return [
            f"Training images were looked for mirrored, too ({because}): an image and its mirror image are one, and "
            "the nearer of the two counts."
        ]
    if flips.mirrored is None and flips.source:
        return [
            f"Training images were not looked for mirrored, and whether the trainings mirrored them is not known "
            f"({flips.source}). If they did, add --flip-train: copies of mirror images are missed otherwise."
        ]
    return []
