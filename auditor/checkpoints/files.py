"""One file per step: what the formats of bare weight files have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from auditor.checkpoints import ModelSettings, a_path, absence, names, weights
from auditor.checkpoints.headers import Header, read_header
from auditor.errors import CheckpointError
from auditor.records import Checkpoint, Found

Unusable = list[tuple[int, Path, str]]
# What lies in a folder per step: of accelerate, and LoRA weights of the diffusers training scripts.
FOLDER_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.pt", "pytorch_lora_weights.safetensors")


def find(root: Path, claims: Callable[[Path, Header], bool], settings: ModelSettings) -> tuple[list[Found], Unusable]:
    """Return the steps whose files a format claims, and (step or -1, path, reason) of what is not usable."""
    return _in_folder(root, sorted(_listed(root)), claims, settings)


def empty_steps(root: Path) -> Unusable:
    """Return the step folders of a series in which no file is called as the weights of a step are."""
    folders = [Path(one.path) for one in names.entries(root) if one.is_dir(follow_symlinks=False)]
    reason = f"none of {', '.join(FOLDER_WEIGHTS)} is in it; weights in shards are not read"
    steps = [(names.progress(one.name)[0], one, reason) for one in folders if names.STEP_FOLDER.fullmatch(one.name)]
    return [one for one in steps if one[0] >= 0]


def _listed(root: Path) -> list[Path]:
    """Return the weight files of a folder, and those that lie alone in its step folders."""
    found = []
    for entry in names.entries(root):
        path = root / entry.name
        if not entry.is_dir(follow_symlinks=False):
            if path.suffix in names.WEIGHT_SUFFIXES or names.is_numbered(path.name):
                found.append(path)
        elif names.progress(entry.name)[0] >= 0 and not names.STATE_FOLDER.fullmatch(entry.name):
            found += [path / name for name in FOLDER_WEIGHTS if (path / name).is_file()]
    return found


def _in_folder(
    root: Path, paths: list[Path], claims: Callable[[Path, Header], bool], settings: ModelSettings
) -> tuple[list[Found], Unusable]:
    found: list[Found] = []
    unusable: Unusable = []
    for path in paths:
        stem = _stem(path, root)
        if names.NO_MODEL.fullmatch(stem):
            continue
        named, unit = names.progress(stem)
        try:
            one = _one(path, stem, (named, unit), claims, settings)
        except CheckpointError as error:
            unusable.append((named, path, f"{error.what} {error.remedy}".strip()))
            continue
        if isinstance(one, str):
            unusable.append((named, path, one))
        elif one is not None:
            found.append(one)
    found, others = names.one_unit(_averages_beside(found))
    found, twice = _without_latest(found, root)
    return found, [*unusable, *others, *twice]


def _one(
    path: Path,
    stem: str,
    named: tuple[int, str],
    claims: Callable[[Path, Header], bool],
    settings: ModelSettings,
) -> Found | str | None:
    """Return a usable file as a step, or why it is not, or None where the format does not claim it."""
    if not path.is_file():
        return f"it {absence(path)}"
    header = read_header(path)
    if not claims(path, header):
        return None
    weights.require_safe(path, header, settings.trust_pickle)
    held = weights.kinds(header)
    if not held:
        return "there are no weights in it"
    if held == {"raw"} and "ema" in stem.lower().replace("-", "_").split("_"):
        held = {"ema"}  # guided-diffusion: ema_0.9999_010000.pt beside model010000.pt
    stated = weights.progress(header, stem)
    step, unit = stated if stated[0] >= 0 else named
    if step < 0:
        return "no step in its name, nor in it"
    return Found(step, {kind: path for kind in ("ema", "raw") if kind in held}, None, unit)


def _averages_beside(found: list[Found]) -> list[Found]:
    """Join a file of averages with the file of raw weights of its step."""
    joined: dict[tuple[int, str], Found] = {}
    rest = []
    for one in found:
        other = joined.get((one.step, one.unit))
        if other is None:
            joined[one.step, one.unit] = one
        elif set(other.paths).isdisjoint(one.paths):
            joined[one.step, one.unit] = replace(other, paths={**other.paths, **one.paths})
        else:
            rest.append(one)
    return [*joined.values(), *rest]


def _without_latest(found: list[Found], root: Path) -> tuple[list[Found], Unusable]:
    """Drop files that state a step which another file names: ``last.ckpt``, or one named by its epoch."""
    named = {id(one): names.progress(_stem(a_path(one), root))[0] for one in found}
    exact = {one.step for one in found if named[id(one)] == one.step}
    numbered = {one.step for one in found if named[id(one)] >= 0}
    kept, twice = [], []
    for one in found:
        if one.step in exact and named[id(one)] != one.step:
            twice.append((one.step, a_path(one), "a file with this step in its name is there"))
        elif one.step in numbered and named[id(one)] < 0:
            twice.append((one.step, a_path(one), "a file with a number in its name has this step"))
        else:
            kept.append(one)
    return kept, twice


def _stem(path: Path, root: Path) -> str:
    """Return what names the step of a file: itself, or the folder below ``root`` in which it lies alone."""
    return names.stem_of(path) if path.parent == root else path.parent.name


def chosen(checkpoint: Checkpoint, expected: Mapping[str, tuple[int, ...]], trusted: bool) -> dict[str, Any]:
    """Return the weights of the checkpoint's kind under the names that a network expects, finite."""
    content = weights.payload(checkpoint.path, trusted)
    kind = "raw" if _is_alone(checkpoint) else checkpoint.weights
    tensors = weights.matching(content, kind, expected, checkpoint.path)
    weights.finite(tensors, checkpoint.path)
    return tensors


def _is_alone(checkpoint: Checkpoint) -> bool:
    """Whether a file holds averages only because its name says so."""
    return checkpoint.weights == "ema" and "ema" not in weights.kinds(read_header(checkpoint.path))


def require_unchanged(checkpoint: Checkpoint, digest: str) -> None:
    """Refuse a file that is not what was inspected."""
    if checkpoint.digest not in ("", digest):
        raise CheckpointError(
            "The files changed after they were first read.", checkpoint.path, "Start the audit again."
        )


def expected_of(network: Any) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of what a network must be given."""
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def fill(network: Any, tensors: Mapping[str, Any], device: str) -> Any:
    """Return the network with these weights, in float32 on a device, in evaluation mode and without gradients."""
    network = network.float()
    network.load_state_dict(dict(tensors))
    return network.to(device).eval().requires_grad_(False)
