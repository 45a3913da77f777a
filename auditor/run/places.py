"""Where the files of a run lie: one folder per kind of evidence, within it by space, twin and step."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FilePlace:
    """Where the files of one kind lie: ``folder/[space/]of[.part]suffix``."""

    folder: str
    suffix: str = ".parquet"
    part: str = ""  # tells files of one folder apart
    by_step: bool = False  # one file for both twins of a step: ``of`` is a/step, the file step

    def file(self, of: str, space: str = "") -> str:
        """Return the path within the run of an image set, a control, or twin/step, in a space where there are any."""
        name = of.split("/")[-1] if self.by_step else of
        return "/".join(part for part in (self.folder, space, f"{name}{self.part}{self.suffix}") if part)


# What reports read; the stages that write them import these.
SAMPLES = FilePlace("samples", ".npy")  # uint8 [n, h, w, c]; row i has the run's first seed + i
EVIDENCE = FilePlace("evidence")  # one row per seed (of = twin/step) or per image (heldout, train-a, train-b)
IMAGES = FilePlace("images", ".npy")  # the images of a set that are somebody's neighbor, as the model sees them
