"""Every column of the tables that reports read, with its type, unit and meaning; what several tables share.

Columns that nothing but a stage and measuring know stand in the file of that stage.
"""

from __future__ import annotations

from dataclasses import dataclass

from auditor.config import N_NEIGHBORS

DISTANCE = "distance of the space"
TIME = "training time steps"
RANKS = range(1, N_NEIGHBORS + 1)


@dataclass(frozen=True)
class Column:
    """One column: name, Arrow type by name, unit, description."""

    name: str
    type: str  # int64, float64, float32, bool, string, category
    description: str
    unit: str = ""


# ---------------------------------------------------------------------------
# Columns that stand in several tables
# ---------------------------------------------------------------------------


def distance(name: str, description: str) -> Column:
    """Return a column of distances in a feature space."""
    return Column(name, "float32", description, DISTANCE)


def neighbors(role: str, text: str) -> tuple[Column, ...]:
    """Return the id and distance columns of the nearest images of one reference set."""
    ids = (Column(f"{role}_id_{j}", "category", f"id of the {text}, rank {j}") for j in RANKS)
    return (*ids, *(distance(f"{role}_distance_{j}", f"distance to the {text}, rank {j}") for j in RANKS))


def of_class(role: str, text: str) -> tuple[Column, Column]:
    """Return the columns of the nearest image of the sample's class."""
    says = f"nearest {text} image of the sample's class, halves subsampled to equal numbers of each class"
    return (
        Column(f"{role}_class_id", "category", f"id of the {says}"),
        distance(f"{role}_class_distance", f"distance to the {says}"),
    )


def ends(over: str = "", prefix: str = "", least: str = "") -> tuple[Column, Column]:
    """Return the columns of both ends of an interval; ``least`` says more of the lower one."""
    return (
        Column(f"{prefix}low", "float64", f"lower end of its {over or 'interval'}{least}"),
        Column(f"{prefix}high", "float64", f"upper end of its {over or 'interval'}"),
    )


STEP = Column("step", "int64", "optimizer updates", "steps")
SPACE_OR_LOSS = Column("space", "string", "feature space; empty for the loss")
TRAINING_IMAGE = Column("id", "string", "training image")
HELDOUT_IMAGE = Column("id", "string", "held-out image")
HELDOUT_DISTANCE = distance("heldout_distance", "distance to the nearest held-out image")
IMAGE = Column("id", "category", "image")
IMAGE_SET = Column("set", "category", "own, other or heldout")
CELL_TIME = Column("t", "int64", "diffusion time of the cell", TIME)
N_IMAGES = Column("n", "int64", "number of images")
LEAN_P = Column("p_value", "float64", "one-sided p of the lean by relabelling")

# ---------------------------------------------------------------------------
# Samples and images
# ---------------------------------------------------------------------------

CHECKPOINTS = (
    Column("twin", "string", "a or b"),
    Column("step", "int64", "progress of the training at this checkpoint", "column unit"),
    Column("unit", "string", "what progress is counted in: step, epoch, milestone or kimg; empty where not audited"),
    Column("path", "string", "where it was found, relative to the series"),
    Column("format", "string", "checkpoint format"),
    Column("weights", "string", "raw or ema: which weights were audited"),
    Column("audited", "bool", "whether this checkpoint was audited"),
    Column("reason", "string", "why it was not audited, else empty"),
    Column("digest", "string", "sha256 of configuration and weights"),
)

EVIDENCE = (
    Column("seed", "int64", "seed of the sample: initial noise and per-step noise"),
    *neighbors("own", "nearest training image of this twin"),
    *neighbors("other", "nearest training image of the other twin"),
    *(Column(f"pool_role_{j}", "category", f"half (own or other) of pool neighbour {j}") for j in RANKS),
    *neighbors("pool", "nearest image of both halves, subsampled to equal size"),
    distance("pool_own_distance", "distance to the nearest pool image of the own half"),
    distance("pool_other_distance", "distance to the nearest pool image of the other half"),
    distance("own_mean_distance_50", "mean distance to the 50 nearest own images"),
    distance("other_mean_distance_50", "mean distance to the 50 nearest other images"),
    distance("own_outside_distance", "distance to the nearest own image that is no duplicate of rank 1"),
    distance("other_outside_distance", "the same among other images"),
    Column("own_cluster_size", "float32", "how many own images equal rank 1, itself included", "images"),
    Column("own_cell", "float32", "number of the k-means cell of the own half that the sample is in"),
    Column("class", "float32", "number of the class that the sample was drawn as; NaN without classes"),
    *of_class("own", "own"),
    *of_class("other", "other"),
    HELDOUT_DISTANCE,
    Column("twin_distance", "float64", "distance to the twin's sample of the same seed", DISTANCE),
    Column("different_seed_distance", "float64", "mean distance to the twin's samples of 16 other seeds", DISTANCE),
    Column("memorized", "bool", "own distance 1 is 0 or below a third of own distance 2"),
    Column("kid_score", "float64", "linearised share of this seed in KID to held-out; the mean over seeds is KID"),
    Column("saturated", "float32", "share of the sample's pixels that are 0 or 255", "share"),
)

MEASUREMENTS = (
    STEP,
    Column("space", "string", "feature space; empty where none is involved"),
    Column("metric", "string", "what is measured; docs/metrics.md defines each"),
    Column("twin", "string", "a, b, or both for comparisons and averages"),
    Column("value", "float64", "the estimate"),
    *ends(),
    Column("level", "float64", "confidence level of the interval"),
    Column("n", "int64", "number of units"),
    Column("unit", "string", "what is counted and resampled: seed or image"),
    Column("method", "string", "how the interval was made"),
    Column("low_corrected", "float64", "lower end when all checkpoints and spaces are looked at together"),
    Column("high_corrected", "float64", "upper end when all checkpoints and spaces are looked at together"),
    Column("p_value", "float64", "one-sided p of the test of this value, where it is tested"),
    Column("p_corrected", "float64", "the same, corrected over all checkpoints and spaces"),
    Column("note", "string", "why a value or an interval is missing, or what to know about it"),
)

METRICS = (
    Column("metric", "string", "name in measurements.parquet"),
    Column("question", "string", "what it asks"),
    Column("reference", "string", "definition and source"),
    Column("unit", "string", "unit of the value"),
    Column("direction", "string", "what larger means"),
    Column("k", "int64", "neighbours it needs"),
    Column("twins", "string", "what it is given for: a, b, both; comma-separated"),
    Column("per_space", "bool", "whether it is about a feature space, or about the network alone"),
)

SCALES = (
    STEP,
    Column("scale", "string", "haar-0 to haar-3 and pca-0 to pca-3, coarse to fine"),
    Column("metric", "string", "loss_own, loss_other, loss_heldout, loss_lean or prediction_variance"),
    Column("value", "float64", "mean over images, noise levels and dimensions; of both models"),
    *ends("95 % interval over images"),
    N_IMAGES,
    LEAN_P,
    Column("p_corrected", "float64", "the same, corrected over all steps and scales"),
)

PROFILES = (
    STEP,
    Column(
        "metric",
        "string",
        "a loss, loss_lean, agreement, prediction_variance, memorizer_share, ...; docs/statistics.md 5",
    ),
    Column("twin", "string", "a, b, or both for comparisons"),
    Column("t", "int64", "diffusion time of the noise level", "diffusion steps"),
    Column("value", "float64", "the loss, or the lean, at this noise level"),
    *ends("95 % interval over images"),
    N_IMAGES,
    LEAN_P,
    Column("p_corrected", "float64", "the same, corrected over all steps and noise levels"),
)

ATTACKS = (
    STEP,
    Column("twin", "string", "the model that is attacked: a or b"),
    Column("target_fpr", "float64", "share of non-members that the attacker accepts to flag"),
    Column("attack", "string", "a score fixed beforehand, or what flags most members on the other half of the images"),
    Column("chosen", "string", "beforehand, or best of many: shown, and no condition of a verdict"),
    Column("members", "int64", "training images of the model"),
    Column("non_members", "int64", "held-out images, without near-duplicates of training images"),
    Column("threshold", "float64", "score above which an image is flagged; NaN where each half of the images has one"),
    Column("hits", "int64", "members that are flagged; -1 where withheld"),
    Column("tpr", "float64", "share of members that are flagged"),
    *ends(prefix="tpr_", least=" (Clopper-Pearson)"),
    Column("tpr_upper", "float64", "one-sided 95 % upper limit of tpr: what is compared with what is accepted"),
    Column("fpr", "float64", "share of non-members that are flagged: what the target really came to"),
    *ends(prefix="fpr_", least=" (exact)"),
    Column("level", "float64", "confidence level of the intervals"),
    Column("p_value", "float64", "one-sided p that members are flagged more often; best of many: of both directions"),
    Column("p_corrected", "float64", "the same times scores, trainings and steps; NaN for the best of many"),
    Column("note", "string", "why there is no number, or how it was found"),
)

EXPOSURE = (
    STEP,
    Column("half", "string", "half that the image was trained on: a or b"),
    TRAINING_IMAGE,
    Column(
        "ratio", "float64", "ln(loss of the model without the image / of the model with it); larger is more exposed"
    ),
    Column("value", "float64", "ratio less the median of its half; positive: its own network knows it better"),
    Column("smooth", "float64", "the same of the linear denoisers of both halves: what a smooth model shows"),
    Column("fdr", "float64", "least false discovery rate of a list with its group on it; NaN where no list has it"),
    Column("listed", "bool", "on the exposed list, at a false discovery rate of 10 %; one image of a group"),
)

LAB_SWEEPS = (
    Column("measure", "string", "divergence (nats per sequence), uturn or random_uturn (share of letters recovered)"),
    Column("of", "string", "the denoiser: bp_K, rounding, empirical, or model"),
    Column("on", "string", "the sequences: own (those that the model was trained on), heldout or random"),
    Column("step", "int64", "of the model; -1 for denoisers that are not trained", "steps"),
    Column("t", "int64", "time of the noise", "diffusion steps"),
    Column("value", "float64", "the mean over sequences"),
    *ends(),
    Column("n", "int64", "number of sequences"),
)

NAMED = (
    STEP,
    Column("space", "string", "where nearness is measured"),
    Column("twin", "string", "whose samples lead there: both (one list over both twins), a or b"),
    Column("list", "string", "gap: the image stands out before all others; wide: before the nearest of the other half"),
    Column("half", "string", "half that the image is in: a or b"),
    TRAINING_IMAGE,
    Column("seed", "int64", "of the sample that speaks most for the image"),
    Column("magnitude", "float64", "how much the image stands out for that sample, 0 to 1; larger is nearer to a copy"),
    Column("wins", "int64", "samples that are nearest to the image or to one that counts as the same"),
    Column("q_value", "float64", "least false discovery rate at which it is listed; all are at 10 %"),
)

ONSETS = (
    Column("onset", "string", "divergence, predictions, loss, loss_bias, bias or copying"),
    SPACE_OR_LOSS,
    Column("status", "string", "found, edge, undecided or none"),
    Column("step", "int64", "of the least value; of bias and copying the end of the onset; -1 if none", "steps"),
    Column("low", "int64", "first step of the confidence set; -1 if empty", "steps"),
    Column("high", "int64", "last step of the confidence set; -1 if empty", "steps"),
    Column("steps", "string", "all steps of the confidence set, comma-separated"),
    Column("level", "float64", "confidence level of the set"),
    Column("note", "string", "what the set is conditional on"),
)

PROTOCOL = (
    Column("quantity", "string", "distance (1 - r of the twins' samples), loss (held-out), nn_kl or copies"),
    Column("twin", "string", "both: all trainings; else the one"),
    SPACE_OR_LOSS,
    STEP,
    Column("published", "float64", "the value by the published protocol"),
    Column("published_error", "float64", "its error bar as published: a standard error"),
    Column("error_over", "string", "what the published error bar takes to be independent"),
    Column("published_onset", "bool", "the one step that the published protocol names"),
    Column("own", "float64", "the value of this tool from the same networks; for nn_kl nn_shift, whose sign tells"),
    *ends(prefix="own_"),
    Column("own_onset", "bool", "whether the step is in this tool's 95 % set"),
)

VERDICTS = (
    STEP,
    Column("risk", "string", "of training images: memorizing, biased, exposed, undecided or shown small"),
    Column("quality", "string", "of the model: underfit, overfit, unknown or good"),
    Column("verdict", "string", "underfit, generalizing, biased, overfit, memorizing or undecided"),
    Column("recommended", "bool", "the checkpoint to release by the rule"),
    Column("reasons", "string", "the sentences behind the verdict"),
)
