"""Weights out of files, without running anything that is in them, and into a network.

``torch.load(weights_only=True)`` reads tensors. Where a trainer saved an object beside them (its command line, its
configuration), the object is replaced by an inert dictionary. Names that no trainer needs stop the reading.
"""

from __future__ import annotations

import re
from _compat_pickle import IMPORT_MAPPING
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from auditor.checkpoints import names
from auditor.checkpoints.headers import SAVE_AGAIN, Header, Opaque, read_header, tensors_in
from auditor.errors import CheckpointError

DTYPES = ("torch.float16", "torch.bfloat16", "torch.float32", "torch.float64")
# Where trainers keep weights in the dictionary they save; the first that is there is taken.
RAW_KEYS = (
    "model",
    "state_dict",
    "model_state_dict",
    "current_model_state",
    "network",
    "net",
    "unet",
    "module",
    "weights",
)
EMA_KEYS = ("ema", "model_ema", "ema_model", "ema_state_dict", "model_ema_state_dict", "ema_params", "params_ema")
INNER_KEYS = ("state_dict", "module", "shadow")  # where classes of averages keep theirs
STEP_KEYS = {"global_step": "step", "step": "step", "iteration": "step", "iter": "step", "epoch": "epoch"}
# kohya sd-scripts names files by epoch so, and with --no_metadata the header keeps neither epoch nor step.
KOHYA, KOHYA_EPOCH = "ss_network_module", re.compile(r"-([0-9]{6})$")
EMA_NAME = re.compile(r"(?:^|[._])ema(?:_model|_unet)?\.|(?:^|\.)model_ema\.")  # within the name of a weight
# What tensors are made of, and objects that trainers save beside weights: data, whose code is neither needed nor run.
TENSOR = re.compile(
    r"torch\.(_utils\._rebuild_\w+|\w*Storage|storage\.\w*Storage|Size|device|serialization\._get_layout"
    r"|nn\.parameter\.\w+|_tensor\._rebuild_from_type_v2|(bfloat|float|u?int|bool|complex|half|double|long|short)\w*)"
)
DATA = re.compile(
    r"(argparse|pathlib|collections|omegaconf|lightning|pytorch_lightning|enum|typing|easydict|ml_collections)\..+"
    r"|numpy\.(ndarray|dtype|_?core\.multiarray\.(_reconstruct|scalar)|random\..+)"
    r"|(builtins|__builtin__)\.(list|dict|set|frozenset|tuple|int|float|str|bytes|bytearray|complex|bool|object)"
    r"|(copyreg|copy_reg)\._reconstructor|_codecs\.encode|types\.SimpleNamespace|dnnlib\.util\.EasyDict"
)
REFUSED = "A file that runs code when it is read is read only with --trust-pickle, if you trust who made it."


def forbidden(header: Header) -> list[str]:
    """Return what unpickling the file would import that no data of a trainer needs."""
    return [name for name in header.names if not TENSOR.fullmatch(name) and not DATA.fullmatch(name)]


def require_safe(path: Path, header: Header, trusted: bool) -> None:
    """Refuse a file that would run code, naming what would run."""
    names = forbidden(header)
    if header.kind == "pickle" and not trusted:
        foreign_first = sorted(header.names, key=lambda name: (name not in names, name.startswith("torch.")))
        run = f": it calls {', '.join(foreign_first[:6])}" if header.names else ""
        raise CheckpointError(f"{path.name} is a pickle, which runs code when it is read{run}.", path, REFUSED)
    if names and not trusted:
        raise CheckpointError(f"{path.name} would run {', '.join(names[:6])} when it is read.", path, REFUSED)


def payload(path: Path, trusted: bool = False) -> Any:
    """Return what a weights file holds, tensors on the CPU; whatever is wrong with it is a ``CheckpointError``.

    Parameters
    ----------
    path
        safetensors, or anything that ``torch.save`` wrote.
    trusted
        Whether code in it may run (``--trust-pickle``).
    """
    header = read_header(path)
    if header.kind == "safetensors":
        return _safetensors(path)
    require_safe(path, header, trusted)
    import torch

    try:
        if trusted and (forbidden(header) or header.kind == "pickle"):
            return _unpickled(path, header)
        stubs = _stubs(header)
        with torch.serialization.safe_globals(stubs):
            return torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except ModuleNotFoundError as problem:  # only code that is trusted imports anything
        what = f"{path.name} runs code that is not there: {problem}; start the audit in the folder that holds it."
        raise CheckpointError(what, path) from problem
    except Exception as problem:  # whatever a damaged archive or a strange object makes torch raise
        said = str(problem).rpartition("WeightsUnpickler error: ")[2].split("\n", 1)[0][:200].strip().rstrip(".")
        raise CheckpointError(f"{path.name} cannot be read: {said}.", path, SAVE_AGAIN) from problem


def _unpickled(path: Path, header: Header) -> Any:
    """Return what a file holds by running its code; only with --trust-pickle."""
    import pickle

    import torch

    if header.kind == "pickle":
        with path.open("rb") as file:
            return pickle.load(file)
    return torch.load(path, map_location="cpu", weights_only=False)


def _safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(path.read_bytes())
    except OSError as problem:
        raise CheckpointError(f"{path.name} cannot be read: {problem.strerror}.", path, SAVE_AGAIN) from problem
    except (SafetensorError, KeyError, ValueError) as problem:  # KeyError: a type of number that torch lacks
        raise CheckpointError(f"{path.name} is corrupt: {problem}.", path, SAVE_AGAIN) from problem


def _stubs(header: Header) -> list[tuple[Any, str]]:
    """Return an inert class for everything that is not part of a tensor."""
    known = ("collections.OrderedDict", "collections.Counter")
    foreign = [name for name in header.names if not TENSOR.fullmatch(name) and name not in known]
    # Protocol 2 writes names as Python 2 had them, and torch looks for today's.
    today = {name: IMPORT_MAPPING.get(name.rpartition(".")[0], name.rpartition(".")[0]) for name in foreign}
    return [(_inert(name), f"{module}.{name.rpartition('.')[2]}") for name, module in today.items()]


def _inert(name: str) -> type:
    """Return a class whose instances are ordered dictionaries that remember its name: torch fills them, none runs."""

    class Inert(OrderedDict[Any, Any]):
        def __new__(cls, *args: Any, **settings: Any) -> Any:
            made: Any = OrderedDict()
            made.name, made.args = name, args
            return made

    return Inert


def kinds(header: Header) -> set[str]:
    """Return which of "raw" and "ema" a file holds, by its header."""
    content = header.content
    if not isinstance(content, dict):
        return {"raw"} if isinstance(content, Opaque) else set()  # a whole module
    found = {_kind_of("raw", name) for name in tensors_in(content)}
    for place, values in _spots(content):
        found |= {_kind_of(place, name) for each in values for name in tensors_in(each)}
        if isinstance(values[0], Opaque):
            found.add(place)
    return found


def _spots(content: Mapping[Any, Any]) -> Iterator[tuple[str, list[Any]]]:
    """Yield (kind, values) of every key under which trainers keep weights: what is there, and what is within it."""
    averaged = {"state_dict"} if "current_model_state" in content else set()  # Lightning's WeightAveraging
    for key in (*EMA_KEYS, *RAW_KEYS):
        value = content.get(key)
        inner = [value.get(one) for one in INNER_KEYS] if isinstance(value, Mapping) else []
        yield "ema" if key in EMA_KEYS or key in averaged else "raw", [value, *inner]


def progress(header: Header, stem: str = "") -> tuple[int, str]:
    """Return the progress that a file's own content states, and its unit; -1 where it states none.

    ``stem`` is the name of the file, where its content decides what the number in it counts.
    """
    content = header.content if isinstance(header.content, dict) else {}
    for key, unit in STEP_KEYS.items():
        value = content.get(key)
        if type(value) is int and 0 <= value < 10**names.MAX_DIGITS:
            return value, unit
    stated = {**header.stated("training_info"), **header.metadata}  # ai-toolkit writes the former
    for key, unit in (("ss_steps", "step"), ("step", "step"), ("global_step", "step"), ("ss_epoch", "epoch")):
        value = str(stated.get(key, ""))
        if value.isdecimal() and names.number(value) >= 0:
            return names.number(value), unit
    if KOHYA in header.metadata and (epoch := KOHYA_EPOCH.search(stem)):
        return int(epoch[1]), "epoch"
    return -1, "step"


def places(content: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return (kind, tensors by name) of every dictionary in which weights may be, the likeliest first."""
    if not isinstance(content, Mapping):
        return [("raw", state)] if (state := _tensors(content)) else []
    spots = [*_spots(content), ("raw", [content])]
    return [(kind, state) for kind, values in spots for state in map(_tensors, values) if state]


def _tensors(value: Any) -> dict[str, Any]:
    import torch

    value = value.state_dict() if isinstance(value, torch.nn.Module) else value
    if not isinstance(value, Mapping):
        return {}
    return {key: each for key, each in value.items() if isinstance(key, str) and isinstance(each, torch.Tensor)}


def matching(content: Any, kind: str, expected: Mapping[str, tuple[int, ...]], path: Path) -> dict[str, Any]:
    """Return the weights of this kind under the names that a network expects, whatever was put before the names.

    A prefix is what precedes the expected names, the same for all of them: ``module.``, ``_orig_mod.``, ``model.``,
    ``ema_model.`` or several. All expected names must be there under one prefix, and nothing else under it.
    """
    misfits: list[tuple[int, str]] = []
    for place, state in places(content):
        for prefix in _prefixes(state, expected):
            if _kind_of(place, prefix) != kind:
                continue
            inside = {name[len(prefix) :]: each for name, each in state.items() if name.startswith(prefix)}
            problem = misfit(inside, expected)
            if not problem:
                return inside
            misfits.append((sum(name in expected for name in inside), problem))
    nearest = max(misfits, default=(0, "no weight of it is there"))[1]
    what = f"{path.name} holds no {kind} weights that fit the network: {nearest}."
    raise CheckpointError(what, path, "Give the network that was trained (--model, --model-config).")


def _kind_of(place: str, prefix: str) -> str:
    """Return whether weights at a place and under a prefix are raw or averaged."""
    if prefix.startswith("online_model."):  # ema_pytorch keeps the network beside its average
        return "raw"
    return "ema" if place == "ema" or EMA_NAME.search(prefix) else "raw"


def _prefixes(state: Iterable[str], expected: Mapping[str, Any]) -> list[str]:
    """Return what precedes the expected names, the shortest first."""
    sought = sorted(expected, key=len)[-3:]  # long names say more
    found = {name.removesuffix(each) for name in state for each in sought if name.endswith(each)}
    return sorted((one for one in found if one == "" or one.endswith(".")), key=lambda one: (len(one), one))


def misfit(given: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]]) -> str:
    """Return why tensors do not fit a network; an empty string where they do."""
    shapes = {name: tuple(one.shape) for name, one in given.items()}
    differing = sorted(name for name in expected.keys() | shapes.keys() if expected.get(name) != shapes.get(name))
    if not differing:
        return ""
    name = differing[0]
    return (
        f"{name} is {shapes.get(name, 'absent')} in the file and {expected.get(name, 'absent')} in the network "
        f"({len(differing)} such weights)"
    )


def finite(tensors: Mapping[str, Any], path: Path) -> None:
    """Refuse weights that are not finite, or that are no numbers of a network."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue  # counters and indices
        if str(tensor.dtype) not in DTYPES:
            raise CheckpointError(f"The weights {name} are {tensor.dtype}, not one of {', '.join(DTYPES)}.", path)
        if not tensor.isfinite().all():
            what = f"The weights {name} hold NaN or infinite values."
            raise CheckpointError(what, path, "The training diverged before this step.")


def digest(tensors: Mapping[str, Any], *more: object) -> str:
    """Return the sha256 over names, shapes, types and values, so that a copy under another step is recognized."""
    import torch

    total = sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous()
        total.update(f"{name}\x1f{tensor.dtype}\x1f{tuple(tensor.shape)}\x1f".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    for one in more:
        total.update(f"\x1e{one}".encode())
    return total.hexdigest()
