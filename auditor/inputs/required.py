"""What every run must be given, refused where it is not, before anything is read."""

from __future__ import annotations

from auditor.config import AuditConfig
from auditor.errors import AuditError

WAYS = (
    "Give --ckpts DIR --train IMAGES --heldout IMAGES (one training) or --ckpts-a DIR --ckpts-b DIR (two), and --out."
)


def require(config: AuditConfig) -> None:
    """Refuse a command that lacks what every run needs."""
    if config.quick:
        require_networks(config)
    if config.samples_a is not None or config.samples_b is not None:
        require_samples_alone(config)
    for name in ("out",) if config.ckpts or config.samples_a else ("ckpts_a", "out"):
        if getattr(config, name) is None:
            flag = "--" + name.replace("_", "-")
            raise AuditError(f"{flag} is missing.", flag, WAYS)
    if config.final is None and config.train_final is not None:
        what = "--train-final is given and --final is not."
        raise AuditError(what, "--final", "Give the checkpoints of the model that was trained on these images.")
    if config.final is not None:
        require_beside_final(config)
    if config.pair is not None and (config.ckpts or config.samples_a is not None):
        what = "--pair is given beside what it does not pair."
        raise AuditError(what, "--pair", "It pairs the checkpoints of --ckpts-a and --ckpts-b.")
    if config.ckpts:
        return  # trainings.py checks what it splits into pairs
    has_twin = config.ckpts_b is not None or config.samples_b is not None
    if not has_twin and config.ckpts_a2 is not None:
        raise AuditError("--ckpts-a2 is given without a twin.", "--ckpts-b", "Give the training on half b, too.")
    if not has_twin:
        require_single(config)
    elif (config.train_a is None) != (config.train_b is None):
        given, lacking = ("a", "b") if config.train_a else ("b", "a")
        raise AuditError(
            f"--train-{given} is given and --train-{lacking} is not.",
            f"--train-{lacking}",
            "Give both: each half is the control of the other. Without both, only divergence is measured.",
        )


def require_beside_final(config: AuditConfig) -> None:
    """Refuse a model that is to be released where there is nothing to judge it by."""
    for name in ("ckpts", "samples_a", "samples_b", "quick"):
        if getattr(config, name):
            flag = "--" + name.replace("_", "-")
            remedy = "Leave one of both out: the final model is sampled, and judged beside one training or two."
            raise AuditError(f"--final and {flag} are both given.", flag, remedy)
    if config.heldout is None or config.train_a is None:
        what = "A final model is judged by the images that it was trained on, and by held-out ones."
        raise AuditError(what, "--heldout, --train-a", "Give both.")


def require_networks(config: AuditConfig) -> None:
    """Refuse a quick audit of what has no network, of more than a pair, or without images to ask about."""
    for name in ("samples_a", "samples_b", "ckpts", "ckpts_a2", "fpr"):
        if getattr(config, name):
            flag = "--" + name.replace("_", "-")
            remedy = "Leave one of both out: a quick audit asks the networks of two trainings, or of one."
            raise AuditError(f"--quick and {flag} are both given.", flag, remedy)
    if config.train_a is None and config.heldout is None:
        remedy = "Give the training images of both halves and held-out images."
        raise AuditError("A quick audit has no images to ask about.", "--train-a, --train-b, --heldout", remedy)


def require_samples_alone(config: AuditConfig) -> None:
    """Refuse samples beside checkpoints, and samples of twin b alone."""
    if config.samples_a is None:
        raise AuditError(
            "--samples-b is given and --samples-a is not.", "--samples-a", "Give both, or --samples-a alone."
        )
    for name in ("ckpts_a", "ckpts_b", "ckpts_a2", "ckpts", "scheduler"):
        if getattr(config, name):
            flag = "--" + name.replace("_", "-")
            raise AuditError(
                f"{flag} and --samples-a are both given.", flag, "Give checkpoints to be sampled, or samples, not both."
            )


def require_single(config: AuditConfig) -> None:
    """Refuse a single training whose images are not given, or that comes with another half's."""
    if config.train_b is not None:
        raise AuditError(
            "--train-b is given and --ckpts-b is not.",
            "--ckpts-b",
            "Give the checkpoints trained on half b; without them, images that were not trained on are --heldout.",
        )
    if (config.train_a is None and not config.train) or config.heldout is None:
        raise AuditError(
            "A single training is compared with its own images, and with images held out of the same deal.",
            "--train, --heldout",
            "Give both, or the checkpoints of a twin by --ckpts-b.",
        )


def require_levels(n_levels: int, train_steps: int) -> None:
    """Refuse more noise levels than the schedule has noised times: two levels would be one."""
    if n_levels > train_steps - 1:
        raise AuditError(
            f"{n_levels} noise levels were asked for, the schedule has {train_steps - 1}.",
            "--loss-levels",
            f"Give at most {train_steps - 1}; 16 is the default.",
        )
