"""The components that can be added to: name -> "module:object", and one lookup.

Values are names, not objects, so that listing them imports nothing heavy. A new
component is one file and one line here; the contract tests read these tables.
"""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from typing import Any

from auditor.errors import AuditError

FORMATS = {
    "diffusers": "auditor.checkpoints.formats.diffusers:DiffusersFormat",
    "denoising-diffusion-pytorch": (
        "auditor.checkpoints.formats.denoising_diffusion_pytorch:DenoisingDiffusionPytorchFormat"
    ),
    "dit": "auditor.checkpoints.formats.dit:DitFormat",
    "monai": "auditor.checkpoints.formats.monai:MonaiFormat",
    "lora": "auditor.checkpoints.formats.lora:LoraFormat",
    "edm": "auditor.checkpoints.formats.edm:EdmFormat",
    "plain": "auditor.checkpoints.formats.plain:PlainFormat",
    "lab": "auditor.lab.checkpoints:LabFormat",
}

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

SPACES = {
    "pixel": "auditor.spaces.pixel:PixelSpace",
    "correlation": "auditor.spaces.correlation:CorrelationSpace",
    "clip": "auditor.spaces.clip:ClipSpace",
    **{name: f"auditor.spaces.scale:{name.replace('-', '_')}" for name in SCALES},
    "onehot": "auditor.lab.spaces:OneHotSpace",
    "level-1": "auditor.lab.spaces:level_1",
    "level-2": "auditor.lab.spaces:level_2",
    "level-3": "auditor.lab.spaces:level_3",
}

SPACE_GROUPS = {"scales": SCALES}  # one name for several

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

TABLES = {
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
        If there is none; the message lists the names and the closest match.
    """
    table = TABLES[kind]
    if name not in table:
        close = get_close_matches(name, table, n=1)
        hint = f"Did you mean {close[0]!r}? " if close else ""
        raise AuditError(
            f"There is no {kind} called {name!r}.", OPTIONS.get(kind, kind), f"{hint}Choose from: {', '.join(table)}."
        )
    module, attribute = table[name].split(":")
    return getattr(import_module(module), attribute)
