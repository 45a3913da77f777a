"""One file per step: what the formats of bare weight files have in common."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
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
from auditor.errors import AuditError, CheckpointError
from auditor.records import NOT_SAID, Checkpoint, Facts, Flips, Found

Claims = Callable[[Header], bool]
THE_NETWORK = "Give the network that was trained (--model, --model-config)."
# What lies in a folder per step: of accelerate, and LoRA weights of the diffusers training scripts.
FOLDER_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.pt", "pytorch_lora_weights.safetensors")
# Whole weights within a folder of a step: accelerate's of DeepSpeed, and SimpleTuner's averages.
DEEPER = ("pytorch_model/mp_rank_00_model_states.pt", "ema/model.safetensors", "ema/ema_model.safetensors")


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
        return _in_folder(root, sorted(_listed(root)), self.claims, self.settings, self.expected())

    def expected(self) -> weights.Expected | None:
        """Return what the network must be given, where that is known before any file is read."""
        return None

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
    """Return the step folders of a series in which no file of weights is."""
    folders = [Path(one.path) for one in names.entries(root) if one.is_dir(follow_symlinks=False)]
    steps = [(names.progress(names.stem_of(one))[0], one) for one in folders if names.STEP_FOLDER.fullmatch(one.name)]
    return [(step, one, _what_is_in(one)) for step, one in steps if step >= 0]


def _what_is_in(folder: Path) -> str:
    """Return why a folder of a step is of no use, and what is in it."""
    inside = sorted(one.relative_to(folder).as_posix() for one in folder.glob("**/*") if one.is_file())[:200]
    shown = f"; there is {', '.join(inside[:4])}{' and more' if len(inside) > 4 else ''}" if inside else ""
    if any(names.SHARD.search(names.stem_of(folder / one)) or one.endswith(".distcp") for one in inside):
        return f"its weights are in shards, which are not read: save them in one file{shown}"
    if any("_optim_states" in one or one.rpartition("/")[2].startswith("zero_pp_rank") for one in inside):
        return f"its weights are divided by ZeRO: join them by the zero_to_fp32.py that DeepSpeed puts beside{shown}"
    return f"no file of weights ({', '.join(names.WEIGHT_SUFFIXES)}) is in it{shown}"


def _listed(root: Path) -> list[Path]:
    """Return the weight files of a folder, and those in its step folders."""
    found = []
    for entry in names.entries(root):
        path = root / entry.name
        if not entry.is_dir(follow_symlinks=False):
            if path.suffix in names.WEIGHT_SUFFIXES or names.is_numbered(path.name):
                found.append(path)
        elif names.progress(names.stem_of(path))[0] >= 0 and not names.STATE_FOLDER.fullmatch(entry.name):
            found += _in_step(path)
    return found


def _in_step(folder: Path) -> list[Path]:
    """Return the weight files of a step's folder: as accelerate calls them, or else all that may be weights."""
    inside = [folder / name for name in FOLDER_WEIGHTS if (folder / name).is_file()]
    files = [Path(entry.path) for entry in names.entries(folder) if not entry.is_dir(follow_symlinks=False)]
    files = [one for one in files if one.suffix in names.WEIGHT_SUFFIXES and not names.SHARD.search(one.stem)]
    averages = [one for one in files if names.is_average(one.stem) and one not in inside]
    if not inside and not (folder / "config.json").is_file():
        inside = [one for one in files if one not in averages]
    deeper = [folder / name for name in DEEPER if (folder / name).is_file()]
    if (folder / "model_index.json").is_file():
        return inside
    return [*inside, *averages, *deeper]


def _in_folder(
    root: Path, paths: list[Path], claims: Claims, settings: ModelSettings, expected: weights.Expected | None
) -> tuple[list[Found], Unusable]:
    found: list[Found] = []
    unusable: Unusable = []
    paths = [path for path in paths if not names.NO_MODEL.fullmatch(names.stem_of(path))]
    paths = [path for path in paths if not names.NO_MODEL.fullmatch(_stem(path, root))]
    counted = _counted(root, paths)
    for path in paths:
        step, unit = counted[path]
        try:
            one = _one(path, _stem(path, root), (step, unit), claims, settings, expected)
        except CheckpointError as error:
            unusable.append((step, path, f"{error.what} {error.remedy}".strip()))
            continue
        if isinstance(one, str):
            unusable.append((step, path, one))
        elif one is not None:
            found.append(one[0])
            unusable += [(step, path, reason) for reason in one[1]]
    found, rates = _one_rate(found, root)
    found, others = names.one_unit(_averages_beside(found))
    found, twice = _without_latest(found, root)
    return found, [*unusable, *rates, *others, *twice]


def _counted(root: Path, paths: Sequence[Path]) -> dict[Path, tuple[int, str]]:
    """Return the progress of every file, and its unit: what its content states, else what its name says.

    What the files state does not count where it is the same for names of different progress, nor steps that fall
    while epochs rise: they are counted within the epoch.
    """
    headers: dict[Path, Header] = {}
    for path in paths:
        try:
            headers[path] = read_header(path)
        except CheckpointError:
            continue  # told where it is read as a checkpoint
    stated = {path: weights.stated(header, _stem(path, root)) for path, header in headers.items()}
    first = {path: next(iter(each.items())) for path, each in stated.items() if each}
    stems = {path: _stem(path, root) for path in paths}
    known = {stems[path]: value for path, (_, value) in first.items()}
    times = {stems[path]: path.stat().st_mtime_ns for path in headers}
    if len(first) < len(paths) or _misleading(first, {path: names.progress(stems[path])[0] for path in first}):
        named = names.of_series([stems[path] for path in paths], known, times)
    else:
        named = {stem: names.progress(stem) for stem in stems.values()}
    if _misleading(first, {path: named[stems[path]][0] for path in first}):
        first = {}
    by_epoch = {path: each for path, each in stated.items() if "epoch" in each and len(each) > 1}
    within = [(each["epoch"], next(iter(each.values()))) for each in by_epoch.values()]
    if any(a[0] < b[0] and a[1] >= b[1] for a in within for b in within):
        if len({epoch for epoch, _ in within}) < len(within):
            what = f"The steps that {a_name(by_epoch)} and others state are counted within their epochs, which repeat."
            raise AuditError(what, root, "Rename the files so that a number counts all of the training: step-500, say.")
        first |= {path: ("epoch", each["epoch"]) for path, each in by_epoch.items()}
    progress = {path: (value, weights.STEP_KEYS.get(key, "step")) for path, (key, value) in first.items()}
    return {path: progress.get(path) or named[stems[path]] for path in paths}


def a_name(paths: Mapping[Path, Any]) -> str:
    """Return the name of the first of some files."""
    return next(iter(paths)).name


def _misleading(first: Mapping[Path, tuple[str, int]], named: Mapping[Path, int]) -> bool:
    """Whether what files state is one number for all, and their names count."""
    values = {value for _, value in first.values()}
    return len(values) == 1 and len({step for step in named.values() if step >= 0}) > 1


def _one(
    path: Path,
    stem: str,
    counted: tuple[int, str],
    claims: Claims,
    settings: ModelSettings,
    expected: weights.Expected | None,
) -> tuple[Found, Sequence[str]] | str | None:
    """Return a usable file as a step, with what of it is not read; why it is none; or None for a foreign format's."""
    if not path.is_file():
        return f"it {absence(path)}"
    header = read_header(path)
    if not claims(header):
        return None
    weights.require_safe(path, header, settings.trust_pickle)
    passed: Sequence[str] = ()
    if expected is not None and isinstance(header.content, (dict, list, tuple)):
        found = weights.located(header.content, expected)
        held, passed = set(found.weights), found.passed
        if found.problem and not _opaque(header):
            return found.problem if "no weights" in found.problem else f"{found.problem}. {THE_NETWORK}"
        held = held or weights.kinds(header)
    else:
        held = weights.kinds(header)
    if not held:
        return "there are no weights in it"
    if held == {"raw"} and _called_average(path, stem):
        held = {"ema"}  # guided-diffusion: ema_0.9999_010000.pt beside model010000.pt
    step, unit = counted
    if step < 0:
        return "no step in its name, nor in it"
    return Found(step, {kind: path for kind in ("ema", "raw") if kind in held}, None, unit), passed


def _opaque(header: Header) -> bool:
    """Whether something in a file can be known by running its code alone."""
    return any(not weights.DATA.fullmatch(name) and not weights.TENSOR.fullmatch(name) for name in header.names)


def _called_average(path: Path, stem: str) -> bool:
    """Whether a file, or the folder below a step's in which it lies, is called as averages are."""
    return names.is_average(stem) or names.is_average(names.stem_of(path)) or path.parent.name == "ema"


def _one_rate(found: list[Found], root: Path) -> tuple[list[Found], Unusable]:
    """Keep one rate of averages where a step has several: that of most steps, the least of equals.

    As for the widths of EDM2, the least rate is the narrowest average.
    """
    series: dict[str, list[Found]] = {}
    for one in found:
        if set(one.paths) == {"ema"}:
            path = a_path(one)
            name = _stem(path, root) if path.parent == root else names.stem_of(path)
            series.setdefault(re.sub(rf"0*{one.step}(?![0-9])", "*", name), []).append(one)
    steps = [one.step for each in series.values() for one in each]
    if len(set(steps)) == len(steps):
        return found, []
    rate = {name: [float(match[2]) for match in names.RATE.finditer(name)] for name in series}
    best = min(series, key=lambda name: (-len(series[name]), rate[name], name))
    held = {one.step for one in series[best]}
    rest = [one for name, each in series.items() for one in each if name != best and one.step in held]
    reason = f"there are several averages of its step, and those called {best} are taken"
    return [one for one in found if one not in rest], [(one.step, a_path(one), reason) for one in rest]


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
    if path.parent == root:
        return names.stem_of(path)
    return names.stem_of(root / path.relative_to(root).parts[0])


def chosen(checkpoint: Checkpoint, expected: Mapping[str, tuple[int, ...]], trusted: bool) -> dict[str, Any]:
    """Return the weights of the checkpoint's kind under the names that a network expects, finite."""
    content = weights.payload(checkpoint.path, trusted)
    kind = checkpoint.weights
    if kind == "ema" and "ema" not in weights.located(content, expected).weights:
        kind = "raw"  # averages only because the file is called so
    tensors = weights.matching(content, kind, expected, checkpoint.path)
    weights.finite(tensors, checkpoint.path)
    return tensors


def require_unchanged(checkpoint: Checkpoint, digest: str) -> None:
    """Refuse a file that is not what was inspected."""
    if checkpoint.digest not in ("", digest):
        raise CheckpointError(
            "The files changed after they were first read.", checkpoint.path, "Start the audit again."
        )


def expected_of(network: Any) -> weights.Expected:
    """Return names and shapes of what a network must be given, and its parameters in their order."""
    expected = weights.Expected({name: tuple(tensor.shape) for name, tensor in network.state_dict().items()})
    called: dict[int, list[str]] = {}
    parameters = [(name, one) for name, one in network.named_parameters(remove_duplicate=False) if name in expected]
    for name, one in parameters:
        called.setdefault(id(one), []).append(name)
    trained = {id(one) for _, one in parameters if one.requires_grad}
    every = tuple(tuple(each) for each in called.values())
    expected.orders = (every, tuple(tuple(each) for key, each in called.items() if key in trained))
    return expected


def fill(network: Any, tensors: Mapping[str, Any], device: str) -> Any:
    """Return the network with these weights, in float32 on a device, in evaluation mode and without gradients."""
    network = network.float()
    network.load_state_dict(dict(tensors))
    return network.to(device).eval().requires_grad_(False)


def count(network: Any) -> int:
    """Return how many weights a network has."""
    return sum(one.numel() for one in network.parameters())
