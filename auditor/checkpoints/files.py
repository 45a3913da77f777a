"""One file per step: what the formats of bare weight files have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from auditor.checkpoints import names, weights
from auditor.checkpoints.configs import absence
from auditor.checkpoints.formats import Unusable
from auditor.checkpoints.headers import Header, read_header, tensors_in
from auditor.checkpoints.names import a_path
from auditor.checkpoints.settings import ModelSettings
from auditor.diffusion.model import Conditioned, DiffusionModel, Network
from auditor.errors import CheckpointError
from auditor.records import NOT_SAID, Checkpoint, Facts, Flips, Found

Claims = Callable[[Header], bool]
# What lies in a folder per step: of accelerate, and LoRA weights of the diffusers training scripts.
FOLDER_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.pt", "pytorch_lora_weights.safetensors")


class WeightFiles:
    """A format of one weight file per step: what all of them share.

    A subclass says which files it claims, what they say of the model (`facts`), how its network is built, and how the
    network is called.
    """

    def __init__(self, settings: ModelSettings | None = None) -> None:
        self.settings = settings or ModelSettings()

    def claims(self, header: Header) -> bool:
        """Whether a file is of this format, by its header."""
        raise NotImplementedError

    def facts(self, checkpoint: Checkpoint) -> Facts:
        """Return what the header, and what the user gave beside it, say of the model."""
        raise NotImplementedError

    def built(self, checkpoint: Checkpoint, device: str) -> tuple[Any, object]:
        """Return the network on a device, its weights not yet filled, and what of its making belongs to the digest."""
        raise NotImplementedError

    def called(self, network: Any) -> tuple[Network, Conditioned | None]:
        """Return a filled network as it is called with (x, t), and as it is called under conditions, if it can be."""
        return network, None

    def find(self, root: Path) -> tuple[list[Found], Unusable]:
        """Return the steps under ``root`` whose files are claimed, and what of them is not usable."""
        return _in_folder(root, sorted(_listed(root)), self.claims, self.settings)

    def schedule(self, checkpoint: Checkpoint) -> dict[str, Any] | None:
        """Return nothing: bare weights come without a schedule."""
        return None

    def flips(self, checkpoint: Checkpoint) -> Flips:
        """Return that the files say nothing of mirrored images."""
        return NOT_SAID

    def inspect(self, checkpoint: Checkpoint) -> str:
        """Return the sha256 over the weights and what the network is made from; they fit, and are finite."""
        return self.read(checkpoint)[2]

    def load(self, checkpoint: Checkpoint, scheduler_config: Mapping[str, Any], device: str) -> DiffusionModel:
        """Return the network with its weights."""
        network, tensors, digest = self.read(checkpoint)
        require_unchanged(checkpoint, digest)
        network = fill(network, tensors, device)
        call, conditioned = self.called(network)
        return DiffusionModel(
            network=call,
            scheduler=dict(scheduler_config),
            image_shape=self.image_shape(checkpoint),
            n_parameters=count(network),
            conditioned=conditioned,
        )

    def read(self, checkpoint: Checkpoint) -> tuple[Any, dict[str, Any], str]:
        """Return the network, the weights that fit it, and the sha256 over them."""
        expected = expected_of(self.built(checkpoint, "meta")[0])
        tensors = chosen(checkpoint, expected, self.settings.trust_pickle)
        network, made_of = self.built(checkpoint, "cpu")  # of a size that the weights have shown to be real
        return network, tensors, weights.digest(tensors, made_of)

    def image_shape(self, checkpoint: Checkpoint) -> tuple[int, int, int]:
        """Return (h, w, c) of the pictures, as the file or the user says."""
        shape = self.facts(checkpoint).image_shape or self.settings.image_shape
        assert shape is not None, "model_facts asks for a shape that nothing says"
        return shape


def n_values(checkpoint: Checkpoint) -> int | None:
    """Return how many values the first state dict of a file holds, by its header."""
    content = read_header(checkpoint.path).content
    if not isinstance(content, dict):
        return None
    keys = weights.EMA_KEYS if checkpoint.weights == "ema" else weights.RAW_KEYS
    places = [tensors_in(content.get(key)) for key in keys] + [tensors_in(content)]
    return next((sum(one.size for one in place.values()) for place in places if place), None)


def foreign_class(module: str, name: str, path: Path) -> Any:
    """Return a class that a format needs, or raise that its package is not installed."""
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as problem:
        package = module.partition(".")[0]
        remedy = f"pip install {package.replace('_', '-')}"
        raise CheckpointError(f"{package} is not installed.", path, remedy) from problem


def made(of_class: Any, arguments: Mapping[str, Any], device: str, *, failed: str, path: Path, remedy: str) -> Any:
    """Return an object of a foreign class on a device; the global generator does not notice that weights are drawn.

    ``failed`` begins the message where the class refuses its arguments.
    """
    import torch

    with torch.random.fork_rng(devices=[]), torch.device(device):
        try:
            return of_class(**arguments)
        except Exception as problem:  # a foreign class may raise anything for impossible arguments
            raise CheckpointError(f"{failed}: {problem}.", path, remedy) from problem


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


def _in_folder(root: Path, paths: list[Path], claims: Claims, settings: ModelSettings) -> tuple[list[Found], Unusable]:
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
    claims: Claims,
    settings: ModelSettings,
) -> Found | str | None:
    """Return a usable file as a step, or why it is not, or None where the format does not claim it."""
    if not path.is_file():
        return f"it {absence(path)}"
    header = read_header(path)
    if not claims(header):
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


def count(network: Any) -> int:
    """Return how many weights a network has."""
    return sum(one.numel() for one in network.parameters())
