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
    "dicom": "auditor.images.sources.dicom:KIND",
    "nifti": "auditor.images.sources.nifti:KIND",
    "trainer": "auditor.images.sources.trainer:KIND",
}

HAAR = tuple(f"haar-{level}" for level in range(4))  # bands of the Haar wavelet, coarse to fine
PCA = tuple(f"pca-{level}" for level in range(4))  # principal subspaces of the training images, leading to rest
SCALES = (*HAAR, *PCA)
ALIGNED = ("aligned-whole", "aligned-overlap")  # copies in another position
WINDOWS = tuple(  # copies of a part
    f"window-{part}"
    for part in ("top-left", "top-right", "bottom-left", "bottom-right", "center", "row", "column", "frame")
)

TOLD_TOGETHER = ("aligned", "windows")  # groups of spaces that look for one kind of copies

SPACES = Table(
    "space",
    {
        "pixel": "auditor.spaces.pixel:PixelSpace",
        "correlation": "auditor.spaces.correlation:CorrelationSpace",
        "clip": "auditor.spaces.clip:ClipSpace",
        **{name: f"auditor.spaces.scale:{name.replace('-', '_')}" for name in SCALES},
        **{name: f"auditor.spaces.aligned:{name.split('-')[1]}" for name in ALIGNED},
        **{name: f"auditor.spaces.windows:{name.removeprefix('window-').replace('-', '_')}" for name in WINDOWS},
    },
)

DEFAULT_SPACES = ("pixel", "correlation", "clip", *ALIGNED, *WINDOWS)
SPACE_GROUPS = {  # one name for several
    "auto": DEFAULT_SPACES,
    "scales": SCALES,
    "aligned": ALIGNED,
    "windows": WINDOWS,
}

STAGES = {  # what a run is made of, in the order of making where needs leave it open
    "controls": "auditor.stages.controls:STAGE",
    "control_losses": "auditor.stages.losses:CONTROL",
    "features": "auditor.stages.features:STAGE",
    "sets": "auditor.stages.sets:STAGE",
    "control_evidence": "auditor.stages.nearest:CONTROL",
    "class_references": "auditor.stages.class_references:STAGE",
    "samples": "auditor.stages.samples:STAGE",
    "losses": "auditor.stages.losses:STAGE",
    "readings": "auditor.stages.readings:STAGE",
    "published_losses": "auditor.stages.published_losses:STAGE",
    "attack_scores": "auditor.stages.attack_scores:STAGE",
    "stepped_scores": "auditor.stages.attack_scores:STEPPED",
    "u_turns": "auditor.stages.u_turns:STAGE",
    "agreement": "auditor.stages.agreement:STAGE",
    "trajectories": "auditor.stages.trajectories:STAGE",
    "sample_features": "auditor.stages.features:SAMPLES",
    "evidence": "auditor.stages.nearest:STAGE",
    "coverage": "auditor.stages.coverage:STAGE",
    "quality": "auditor.stages.quality:STAGE",
    "images": "auditor.stages.images:STAGE",
}

# Family by family, in the order of the rows of tables; each object is called as its metric, in capitals.
METRICS = {
    name: f"auditor.metrics.{family}:{name.upper()}"
    for family, names in (
        ("twins", "twin_distance twin_distance_ratio twin_variance twin_variance_seed twin_variance_data"),
        ("nearest", "nearest_own nearest_other nearest_heldout"),
        ("lean", "own_share own_share_in_class heldout_share_in_class"),
        ("nearest", "nearest_own_in_class nearest_other_in_class"),
        ("lean", "gap_lean split_identification split_information heldout_share"),
        (
            "copies",
            "memorized_fraction heldout_memorized_fraction memorized_fraction_cluster "
            "heldout_memorized_fraction_cluster memorized_fraction_carlini heldout_memorized_fraction_carlini "
            "memorized_fraction_fpr heldout_memorized_fraction_fpr gap_q99 heldout_gap_q99 gap_max "
            "heldout_gap_max authenticity heldout_authenticity",
        ),
        ("beside_heldout", "nn_shift nn_mean_shift wasserstein_1 nn_kl_paper c_t"),
        ("kid", "kid"),
        (
            "quality",
            "frechet precision_own precision_other precision_heldout recall_own recall_other recall_heldout "
            "density_own density_other density_heldout coverage_own coverage_other coverage_heldout",
        ),
        ("losses", "loss_own loss_other loss_heldout loss_lean"),
        (
            "predictions",
            "prediction_agreement_heldout prediction_agreement_train prediction_variance prediction_variance_seed "
            "prediction_variance_data",
        ),
        (
            "memorizer",
            "memorizer_share_own memorizer_share_heldout memorizer_share_trajectory memorizer_share_samples "
            "collapse_time",
        ),
        ("predictions", "target_noise_correlation lone_disagreement"),
        ("u_turn", "u_turn_lean return_rate return_rate_lean"),
        ("losses", "separation"),
    )
    for name in names.split()
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
    "stage": STAGES,
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
