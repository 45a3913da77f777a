"""The model that is to be released, usually trained on everything: audited as one training, within the run it is for.

What its networks say of single images is compared with the twin that never saw each (measuring/final.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from auditor import inputs
from auditor.config import AuditConfig
from auditor.errors import AuditError
from auditor.inputs import models, twins
from auditor.inputs.loaded import Loaded, Say
from auditor.run import RunDirectory


def config_of(config: AuditConfig, beside: Loaded, run: RunDirectory) -> AuditConfig:
    """Return the settings of the audit of the final model alone: the spaces, seeds and loss cells of the run."""
    kept: dict[str, Any] = {
        name: getattr(beside.asked.config, name) for name in ("loss_images", "loss_levels", "spaces")
    }
    both = () if config.train_final or config.train_b is None else (f"a={config.train_a}", f"b={config.train_b}")
    kept |= dict.fromkeys(("final", "train_final", "ckpts_b", "train_b", "ckpts_a2", "steps", "pair"))
    alone = replace(
        config.without_extras(),
        ckpts_a=config.final,
        train_a=None if both else config.train_final or config.train_a,
        train=both,
        out=str(run.final.root),
        **kept,
    )
    last = twins.discover(alone, models.settings(alone)).steps[-1]
    return replace(alone, steps=str(last))


def prepare(config: AuditConfig, beside: Loaded, run: RunDirectory, say: Say) -> Loaded:
    """Read and check the final model.

    Raises
    ------
    AuditError
        If it cannot be read, or is not of the kind of the trainings that it is judged beside.
    """
    assert config.final is not None, "a final model is given"
    found = inputs.prepare(config_of(config, beside, run), run.final, say)
    for what, mine, theirs in (
        ("draws pictures of", found.asked.image_shape, beside.asked.image_shape),
        ("has parameters:", found.facts.parameters, beside.facts.parameters),
        ("is conditioned on", found.facts.conditioning, beside.facts.conditioning),
    ):
        if mine != theirs and mine is not None and theirs is not None:
            raise AuditError(
                f"The final model {what} {in_words(mine)}, and the trainings beside it {in_words(theirs)}.",
                config.final,
                "Give the final model of the same recipe: what the others show says nothing of another.",
            )
    return found


def in_words(value: object) -> str:
    """Return a shape as height x width x channels, and numbers with thousands apart."""
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)
