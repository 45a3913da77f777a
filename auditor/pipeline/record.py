"""What a run says of itself: run.json, and the table of its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from typing import Any

from auditor.inputs.asked import as_record
from auditor.inputs.loaded import Loaded
from auditor.records import TWINS
from auditor.run.machine import peak_memory
from auditor.stages import stages

VERSIONED = ("torch", "diffusers", "open_clip_torch", "faiss-gpu", "faiss-cpu", "numpy", "pandas", "pyarrow", "auditor")


def checkpoint_rows(loaded: Loaded) -> list[dict[str, Any]]:
    """Return one row per checkpoint found, sorted by twin and step."""
    rows = []
    for twin in TWINS:
        for c in loaded.pair.series(twin).checkpoints:
            rows.append(checkpoint_row(c.twin, c.step, c.path, "", loaded, c))
    rows += [checkpoint_row(e.twin, e.step, e.path, e.reason, loaded) for e in loaded.pair.excluded]
    return sorted(rows, key=lambda row: (row["twin"], row["step"], row["path"]))


def checkpoint_row(
    twin: str, step: int, path: Any, reason: str, loaded: Loaded, checkpoint: Any = None
) -> dict[str, Any]:
    """Return one row of checkpoints.parquet; paths are relative to the series, so a run can be moved."""
    c = loaded.asked.config
    root = {"a": c.samples_a or c.ckpts_a, "b": c.samples_b or c.ckpts_b}[twin]
    try:
        shown = path.relative_to(root).as_posix()
    except ValueError:
        shown = path.name
    return {
        "twin": twin,
        "step": step,
        "unit": checkpoint.unit if checkpoint else "",
        "path": shown,
        "format": checkpoint.format if checkpoint else "",
        "weights": checkpoint.weights if checkpoint else "",
        "audited": checkpoint is not None,
        "reason": reason,
        "digest": checkpoint.digest if checkpoint else "",
    }


def record(loaded: Loaded, status: str, seconds: Mapping[str, float], checks: Mapping[str, Any]) -> dict[str, Any]:
    """Return run.json: the configuration as given and as resolved, versions, digests, times."""
    asked = loaded.asked
    return {
        "status": status,
        "given": asdict(asked.config),
        "asked": as_record(asked),
        "resolved": {
            "device": asked.device,
            "batch_size": asked.batch_size,
            "sampling_steps": asked.sampling_steps,
            "weights": loaded.pair.a.checkpoints[0].weights,
            "weights_said": loaded.pair.weights,
            "steps": list(loaded.pair.steps),
            "spaces": list(asked.config.space_names),
            "image_shape": list(asked.image_shape),
            "unit": loaded.unit,
            "model": {
                "class": loaded.facts.model,
                "parameters": loaded.facts.parameters,
                "conditioning": loaded.facts.conditioning,
            },
            "flips": asdict(loaded.flips),
            "pixels": {twin: each.text for twin, each in loaded.pixels.items()},
            "scheduler": dict(asked.scheduler),
            "loss_times": asked.times.tolist(),
            "loss_log_snr": asked.level_log_snr.round(4).tolist(),
            **{name: value for each in stages().values() for name, value in each.resolved(asked).items()},
        },
        "scope": asked.scope.as_record(),
        "budgets": asdict(asked.budgets),
        "sets": {
            name: {"images": each.originals, "digest": each.digest} for name, each in asked.sets_asked_about.items()
        },
        "notes": list(loaded.notes),
        "preflight": dict(loaded.preflight),
        "checks": dict(checks),
        "versions": versions(),
        "seconds": {kind: round(value, 2) for kind, value in seconds.items()},
        "peak_memory_mib": round((peak_memory() or 0) / 2**20),
    }


def versions() -> dict[str, str]:
    """Return the versions of the packages that make the numbers."""
    installed = {}
    for name in VERSIONED:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed
