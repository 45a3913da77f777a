"""The components that can be added to: name -> "module:object", and one lookup.

Values are names, not objects, so that listing them imports nothing heavy. A new
component is one file and one line here; the contract tests read these tables. A package
of its own offers checkpoint formats and feature spaces as entry points instead:

    [project.entry-points."auditor.formats"]
    mine = "my_package.checkpoints:MyFormat"

as ``auditor.lab`` does, which nothing here names.
"""

from __future__ import annotations

import re
from collections import UserDict
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

from auditor.errors import AuditError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

OURS = "auditor"  # the package whose entry points come first


class Table(UserDict[str, str]):
    """The components of one kind: ours, then what installed packages offer, read when a name is first looked for."""

    def __init__(self, kind: str, own: Mapping[str, str]) -> None:
        self.kind, self.own = kind, own

    @cached_property
    def offered(self) -> dict[str, EntryPoint]:
        """What packages offer, by name.

        Raises
        ------
        AuditError
            If a package offers a name that is ours, or another package's.
        """
        found: dict[str, EntryPoint] = {}
        for entry in offers(f"auditor.{self.kind}s"):
            if entry.name in self.own or entry.name in found:
                owner = package_of(found[entry.name]) if entry.name in found else OURS
                package = package_of(entry)
                what = f"The package {package} offers a {self.kind} called {entry.name!r}, and {owner} has one."
                raise AuditError(what, entry.value, f"Take one of them away: pip uninstall {package}.")
            found[entry.name] = entry
        return found

    @cached_property
    def data(self) -> dict[str, str]:  # type: ignore[override]  # what UserDict keeps
        """Every name and its object, ours first."""
        return {**self.own, **{name: entry.value for name, entry in self.offered.items()}}


def offers(group: str) -> list[EntryPoint]:
    """Return what installed packages offer to a group of entry points: our own package's first, then by package.

    Those of one package are ordered by their objects, for what builds packages does not keep their order. Metadata of
    a package may lie on the path twice, an older installation's beside the newer: of one name the first counts.
    """
    from importlib.metadata import distributions

    found: dict[tuple[str, str], EntryPoint] = {}
    for distribution in distributions():
        for entry in distribution.entry_points.select(group=group):
            found.setdefault((package_of(entry), entry.name), entry)
    return [found[key] for key in sorted(found, key=lambda key: (key[0] != OURS, key[0], found[key].value, key[1]))]


def package_of(entry: EntryPoint) -> str:
    """Return the normalized name of the package that offers an entry point."""
    return re.sub(r"[-_.]+", "-", entry.dist.name if entry.dist else "").lower()


FORMATS = Table(
    "format",
    {
        "diffusers": "auditor.checkpoints.formats.diffusers:DiffusersFormat",
        "denoising-diffusion-pytorch": (
            "auditor.checkpoints.formats.denoising_diffusion_pytorch:DenoisingDiffusionPytorchFormat"
        ),
        "dit": "auditor.checkpoints.formats.dit:DitFormat",
        "monai": "auditor.checkpoints.formats.monai:MonaiFormat",
        "lora": "auditor.checkpoints.formats.lora:LoraFormat",
        "edm": "auditor.checkpoints.formats.edm:EdmFormat",
        "plain": "auditor.checkpoints.formats.plain:PlainFormat",
    },
)

SOURCES = {
    "folder": "auditor.images.sources.folder:KIND",
    "archive": "auditor.images.sources.archive:KIND",
    "array": "auditor.images.sources.arrays:KIND",
    "table": "auditor.images.sources.tabular:KIND",
    "list": "auditor.images.sources.manifest:KIND",
}

HAAR = tuple(f"haar-{level}" for level in range(4))  # bands of the Haar wavelet, coarse to fine
PCA = tuple(f"pca-{level}" for level in range(4))  # principal subspaces of the training images, leading to rest
SCALES = (*HAAR, *PCA)

SPACES = Table(
    "space",
    {
        "pixel": "auditor.spaces.pixel:PixelSpace",
        "correlation": "auditor.spaces.correlation:CorrelationSpace",
        "clip": "auditor.spaces.clip:ClipSpace",
        **{name: f"auditor.spaces.scale:{name.replace('-', '_')}" for name in SCALES},
    },
)

SPACE_GROUPS = {"scales": SCALES}  # one name for several

METRICS = {
    "twin_distance": "auditor.metrics.twin_distance:METRIC",
    "twin_distance_ratio": "auditor.metrics.twin_distance_ratio:METRIC",
    "twin_variance": "auditor.metrics.twin_variance:METRIC",
    "twin_variance_seed": "auditor.metrics.twin_variance_parts:SEED",
    "twin_variance_data": "auditor.metrics.twin_variance_parts:DATA",
    "nearest_own": "auditor.metrics.nearest_own:METRIC",
    "nearest_other": "auditor.metrics.nearest_other:METRIC",
    "nearest_heldout": "auditor.metrics.nearest_heldout:METRIC",
    "own_share": "auditor.metrics.own_share:METRIC",
    "own_share_in_class": "auditor.metrics.own_share_in_class:METRIC",
    "heldout_share_in_class": "auditor.metrics.heldout_share_in_class:METRIC",
    "nearest_own_in_class": "auditor.metrics.nearest_in_class:OWN",
    "nearest_other_in_class": "auditor.metrics.nearest_in_class:OTHER",
    "gap_lean": "auditor.metrics.gap_lean:METRIC",
    "split_identification": "auditor.metrics.split_identification:METRIC",
    "split_information": "auditor.metrics.split_information:METRIC",
    "heldout_share": "auditor.metrics.heldout_share:METRIC",
    "memorized_fraction": "auditor.metrics.memorized_fraction:METRIC",
    "heldout_memorized_fraction": "auditor.metrics.heldout_memorized_fraction:METRIC",
    "memorized_fraction_cluster": "auditor.metrics.memorized_fraction_cluster:METRIC",
    "heldout_memorized_fraction_cluster": "auditor.metrics.heldout_memorized_fraction_cluster:METRIC",
    "memorized_fraction_carlini": "auditor.metrics.memorized_fraction_carlini:METRIC",
    "heldout_memorized_fraction_carlini": "auditor.metrics.heldout_memorized_fraction_carlini:METRIC",
    "memorized_fraction_fpr": "auditor.metrics.memorized_fraction_fpr:METRIC",
    "heldout_memorized_fraction_fpr": "auditor.metrics.heldout_memorized_fraction_fpr:METRIC",
    "gap_q99": "auditor.metrics.gap_tail:Q99",
    "heldout_gap_q99": "auditor.metrics.gap_tail:HELDOUT_Q99",
    "gap_max": "auditor.metrics.gap_tail:MAX",
    "heldout_gap_max": "auditor.metrics.gap_tail:HELDOUT_MAX",
    "authenticity": "auditor.metrics.authenticity:METRIC",
    "heldout_authenticity": "auditor.metrics.heldout_authenticity:METRIC",
    "nn_shift": "auditor.metrics.nn_shift:METRIC",
    "nn_mean_shift": "auditor.metrics.nn_mean_shift:METRIC",
    "wasserstein_1": "auditor.metrics.wasserstein_1:METRIC",
    "nn_kl_paper": "auditor.metrics.nn_kl_paper:METRIC",
    "c_t": "auditor.metrics.c_t:METRIC",
    "kid": "auditor.metrics.kid:METRIC",
    "frechet": "auditor.metrics.frechet:METRIC",
    "precision_own": "auditor.metrics.precision:OWN",
    "precision_other": "auditor.metrics.precision:OTHER",
    "precision_heldout": "auditor.metrics.precision:HELDOUT",
    "recall_own": "auditor.metrics.recall:OWN",
    "recall_other": "auditor.metrics.recall:OTHER",
    "recall_heldout": "auditor.metrics.recall:HELDOUT",
    "density_own": "auditor.metrics.density:OWN",
    "density_other": "auditor.metrics.density:OTHER",
    "density_heldout": "auditor.metrics.density:HELDOUT",
    "coverage_own": "auditor.metrics.coverage:OWN",
    "coverage_other": "auditor.metrics.coverage:OTHER",
    "coverage_heldout": "auditor.metrics.coverage:HELDOUT",
    "loss_own": "auditor.metrics.loss:OWN",
    "loss_other": "auditor.metrics.loss:OTHER",
    "loss_heldout": "auditor.metrics.loss:HELDOUT",
    "loss_lean": "auditor.metrics.loss_lean:METRIC",
    "prediction_agreement_heldout": "auditor.metrics.prediction_agreement:HELDOUT",
    "prediction_agreement_train": "auditor.metrics.prediction_agreement:TRAIN",
    "prediction_variance": "auditor.metrics.prediction_agreement:VARIANCE",
    "prediction_variance_seed": "auditor.metrics.prediction_agreement:VARIANCE_SEED",
    "prediction_variance_data": "auditor.metrics.prediction_agreement:VARIANCE_DATA",
    "memorizer_share_own": "auditor.metrics.memorizer_share:OWN",
    "memorizer_share_heldout": "auditor.metrics.memorizer_share:HELDOUT",
    "memorizer_share_trajectory": "auditor.metrics.memorizer_share:TRAJECTORY",
    "memorizer_share_samples": "auditor.metrics.memorizer_share:SAMPLES",
    "collapse_time": "auditor.metrics.collapse_time:METRIC",
    "target_noise_correlation": "auditor.metrics.target_noise:CORRELATION",
    "lone_disagreement": "auditor.metrics.target_noise:ALONE_EXCESS",
    "u_turn_lean": "auditor.metrics.u_turn:LEAN",
    "return_rate": "auditor.metrics.u_turn:RATE",
    "return_rate_lean": "auditor.metrics.u_turn:RATE_LEAN",
    "separation": "auditor.metrics.separation:METRIC",
}

REPORTS = {
    "terminal": "auditor.reports.formats.terminal:render",
    "json": "auditor.reports.formats.json:render",
    "markdown": "auditor.reports.formats.markdown:render",
    "pull-request": "auditor.reports.formats.markdown:render_body",
    "csv": "auditor.reports.formats.csv:render",
    "html": "auditor.reports.formats.html:render",
}

FOLDER_REPORTS = {
    "figures": "auditor.reports.formats.figures:write",
    "tensorboard": "auditor.reports.formats.tensorboard:write",
}

TABLES: Mapping[str, Mapping[str, str]] = {
    "format": FORMATS,
    "source": SOURCES,
    "space": SPACES,
    "metric": METRICS,
    "report": REPORTS,
    "folder report": FOLDER_REPORTS,
}


OPTIONS = {"format": "--format", "space": "--spaces"}  # by which a user names them


def lookup(kind: str, name: str) -> Any:
    """Return the component called ``name`` of ``kind`` (format, source, space, metric, report or folder report).

    Raises
    ------
    AuditError
        If there is none; the message lists the names and the closest match. Or if another package offers it, and its
        module cannot be imported.
    """
    table = TABLES[kind]
    if name not in table:
        close = get_close_matches(name, table, n=1)
        hint = f"Did you mean {close[0]!r}? " if close else ""
        raise AuditError(
            f"There is no {kind} called {name!r}.", OPTIONS.get(kind, kind), f"{hint}Choose from: {', '.join(table)}."
        )
    entry = table.offered.get(name) if isinstance(table, Table) else None
    if entry is None:
        module, attribute = table[name].split(":")
        return getattr(import_module(module), attribute)
    try:
        found = entry.load()
        if not callable(found):
            raise TypeError(f"{entry.value} is no class and no function")
        return found
    except Exception as problem:  # the module of another package may raise anything
        what = f"The {kind} {name!r} cannot be loaded: {type(problem).__name__}: {problem}."
        package = package_of(entry)
        remedy = f"Install the package {package}, which ships it, again, or take it away: pip uninstall {package}."
        raise AuditError(what, entry.value, remedy) from problem
