"""Writes docs/metrics.md from the metrics' own definitions: ``python docs/generate.py``. A test compares."""

from __future__ import annotations

from pathlib import Path

from auditor import registry

HEAD = """# Metrics

Each row of `measurements.parquet` is one metric at one step, for one twin (`a`, `b`, or `both`) and one space. `own`
are the images a model was trained on, `other` those of its twin, `heldout` those of neither. This page is made from the
code by `python docs/generate.py`.

"""

INTERVALS = {
    "mean": "Student's t over units",
    "proportion": "Clopper-Pearson",
    "lean": "two-way over seeds and the hubs of the split (both); spread under relabelling (a, b)",
    "loss_lean": "bootstrap of groups within halves",
    "percent": "Clopper-Pearson",
    "jackknife": "delete-block jackknife over seeds",
    "jackknife_share": "delete-block jackknife over seeds",
    "two_sample": "Welch, over samples and held-out images",
    "auc": "DeLong on the logit scale; Clopper-Pearson over pairs where the samples do not overlap",
    "quantile_99": "order statistics",
    "maximum": "none: a resample cannot exceed it",
    "shown": "none: the note carries its noise",
}


def page() -> str:
    """Return docs/metrics.md."""
    return HEAD + "\n".join(section(registry.lookup("metric", name)) for name in registry.METRICS)


def section(metric) -> str:
    """Return the part on one metric."""
    where = "each space" if metric.per_space else "no space"
    return (
        f"## `{metric.name}`\n\n{metric.question}\n\n"
        f"- definition: {metric.reference}\n"
        f"- unit: {metric.unit}; {metric.direction}\n"
        f"- given for: {', '.join(metric.twins)}, in {where}\n"
        f"- interval: {INTERVALS.get(metric.interval, metric.interval)}\n"
    )


if __name__ == "__main__":
    Path(__file__).with_name("metrics.md").write_text(page())
