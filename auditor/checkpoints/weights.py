"""Weights out of files, without running anything that is in them, and into a network.

``torch.load(weights_only=True)`` reads tensors. Where a trainer saved an object beside them (its command line, its
configuration), the object is replaced by an inert dictionary. Names that no trainer needs stop the reading.
"""

from __future__ import annotations

import re
from _compat_pickle import IMPORT_MAPPING
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from auditor.checkpoints import names
from auditor.checkpoints.headers import SAVE_AGAIN, Header, Opaque, Tensor, read_header, tensors_in
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
UNREAD_AVERAGES = "averages are under "  # how the reason begins where the raw weights beside them are read
# What else averages are kept under, and what holds tensors that are no weights.
AVERAGED = re.compile(r"(?:^|[^a-z])(?:ema|averaged?|avg|shadow|polyak|swa|target|teacher)(?![a-z])|_ema|ema_", re.I)
NO_WEIGHTS = re.compile(
    r"opt[0-9]*|.*optim\w*|.*sched\w*|lr_\w*|\w*scaler|grads?|momentum\w*|rng\w*|random\w*|collected_params|exp_avg\w*",
    re.I,
)
DEEPEST, MOST_ITEMS = 3, 64  # of the dictionaries and lists in which weights are sought
WRAPPER = re.compile(r"(?:(?<=^)|(?<=\.))(?:(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.)+")
NUMBERED = re.compile(r"(?:^|\.)(?:shadow_params|averaged_params|ema_params)\.([0-9]+)$")
EMA_NAME = re.compile(r"(?:^|[._])ema(?:_model|_unet)?\.|(?:^|\.)model_ema\.")  # within the name of a weight
# What tensors are made of, and objects that trainers save beside weights: data, whose code is neither needed nor run.
TENSOR = re.compile(
    r"torch\.(_utils\._rebuild_\w+|\w*Storage|storage\.\w*Storage|Size|device|serialization\._get_layout"
    r"|nn\.parameter\.\w+|_tensor\._rebuild_from_type_v2|(bfloat|float|u?int|bool|complex|half|double|long|short)\w*)"
)
DATA = re.compile(
    r"(argparse|pathlib|collections|omegaconf|lightning|pytorch_lightning|enum|typing|easydict|ml_collections)\..+"
    r"|numpy\.(ndarray|dtype|dtypes\.\w+|_?core\.(multiarray\.(_reconstruct|scalar)|numeric\._frombuffer)|random\..+)"
    r"|datetime\.\w+|uuid\.(UUID|SafeUUID)|decimal\.Decimal"
    r"|(builtins|__builtin__)\.(list|dict|set|frozenset|tuple|int|float|str|bytes|bytearray|complex|bool|object)"
    r"|(copyreg|copy_reg)\._reconstructor|_codecs\.encode|types\.SimpleNamespace|dnnlib\.util\.EasyDict"
)
WITH_STATE = re.compile(r"numpy\.|datetime\.|uuid\.|decimal\.|_codecs\.")
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
    """Return a class whose instances remember its name and arguments: torch fills them, none runs.

    They are ordered dictionaries, to which a pickle may add items, except where the state is no dictionary (numpy).
    """
    if WITH_STATE.match(name):

        class Value:
            def __init__(self, *args: Any) -> None:
                self.name, self.args, self.state = name, args, None

            def __setstate__(self, state: Any) -> None:
                self.state = state

        return Value

    class Inert(OrderedDict[Any, Any]):
        def __new__(cls, *args: Any, **settings: Any) -> Any:
            made: Any = OrderedDict()
            made.name, made.args = name, args
            return made

    return Inert


def kinds(header: Header) -> set[str]:
    """Return which of "raw" and "ema" a file holds, by its header, where it is not known which names are sought."""
    content = header.content
    if not isinstance(content, dict):
        return {"raw"} if isinstance(content, Opaque) else set()  # a whole module
    found = {_kind_of("raw", name) for name in tensors_in(content)}
    for kind, _, value in _spots(content, RAW_KEYS):
        found |= {_kind_of(kind, name) for name in tensors_in(value)}
        if isinstance(value, Opaque):
            found.add(kind)
    return found


def _spots(content: Any, keys: Sequence[str] = (), depth: int = 0, at: str = "") -> Iterator[tuple[str, str, Any]]:
    """Yield (kind, keys that lead to it, value) of every place where weights may be, the likeliest first.

    ``keys`` are the only keys of raw weights to be looked under; none stands for any: then what is sought is known.
    """
    if isinstance(content, Mapping):
        averaged = {"state_dict"} if "current_model_state" in content else set()  # Lightning's WeightAveraging
        known = [key for key in (*EMA_KEYS, *RAW_KEYS) if key in content]
        others = [] if keys else [key for key in content if isinstance(key, str) and key not in known]
        for key in [*known, *others]:
            path, value = f"{at}.{key}".lstrip("."), content[key]
            if NO_WEIGHTS.fullmatch(key) or _is_tensor(value):
                continue
            kind = "ema" if AVERAGED.search(path) or key in EMA_KEYS or key in averaged else "raw"
            yield kind, path, value
            if keys and isinstance(value, Mapping):
                yield from ((kind, f"{path}.{one}", value[one]) for one in INNER_KEYS if one in value)
            elif depth < DEEPEST:
                yield from _spots(value, keys, depth + 1, path)
    elif isinstance(content, (list, tuple)) and not keys and depth < DEEPEST:
        for number, value in enumerate(content[:MOST_ITEMS]):
            if isinstance(value, (Mapping, list, tuple)):
                path = f"{at}[{number}]"
                yield "ema" if AVERAGED.search(at) else "raw", path, value
                yield from _spots(value, keys, depth + 1, path)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) or hasattr(value, "untyped_storage")


def progress(header: Header, stem: str = "") -> tuple[int, str]:
    """Return the progress that a file's own content states, and its unit; -1 where it states none."""
    for key, value in stated(header, stem).items():
        return value, STEP_KEYS[key]
    return -1, "step"


def stated(header: Header, stem: str = "") -> dict[str, int]:
    """Return the counts of progress that a file's own content states, the most telling first.

    ``stem`` is the name of the file, where its content decides what the number in it counts.
    """
    content = header.content if isinstance(header.content, dict) else {}
    found = {}
    for key in STEP_KEYS:
        value = content.get(key)
        if type(value) is int and 0 <= value < 10**names.MAX_DIGITS:
            found[key] = value
    said = {**header.stated("training_info"), **header.metadata}  # ai-toolkit writes the former
    for name, key in (("ss_steps", "step"), ("step", "step"), ("global_step", "global_step"), ("ss_epoch", "epoch")):
        value = str(said.get(name, ""))
        if value.isdecimal() and names.number(value) >= 0:
            found.setdefault(key, names.number(value))
    if not found and KOHYA in header.metadata and (epoch := KOHYA_EPOCH.search(stem)):
        found["epoch"] = int(epoch[1])
    return found


def state_of(value: Any) -> dict[str, Any]:
    """Return the tensors directly in a dictionary or a module, of a file or of its header."""
    if isinstance(value, Opaque):
        value = value.items
    elif not isinstance(value, Mapping) and callable(getattr(value, "state_dict", None)):
        value = value.state_dict()  # of an object whose code may run
    if not isinstance(value, Mapping):
        return {}
    return {key: each for key, each in value.items() if isinstance(key, str) and _is_tensor(each)}


class Expected(dict[str, tuple[int, ...]]):
    """Names and shapes of what a network must be given, and its parameters in their order.

    ``orders`` are all parameters, and those that are trained: lists of them are what averages are kept as. A parameter
    that several names share stands under all of them.
    """

    orders: tuple[tuple[tuple[str, ...], ...], ...] = ()


class WeightsFound(NamedTuple):
    """Where the weights of a network are in a file: by kind, the keys that lead to them and the tensors."""

    weights: dict[str, tuple[str, dict[str, Any]]]
    passed: tuple[str, ...]  # averages that are there and not taken, with the reason
    problem: str  # why nothing fits, where nothing does


def located(content: Any, expected: Mapping[str, tuple[int, ...]]) -> WeightsFound:
    """Return the raw and averaged weights that fit a network, wherever they lie in a file or in its header.

    The names of the network say what is sought: any dictionary, or item of a list, that holds exactly these is right,
    whatever stands before the names, in the file or in the network. Averages may also be a list in the order of the
    parameters, or have the names of the parameters without their dots (LitEma); what they lack (buffers) comes from
    the raw weights. Of several averages the first is taken; in a list, what comes after the network is its average.
    """
    whole = state_of(content)
    spots = [*_spots(content), *([("raw", "", content)] if whole else [])]
    taken: dict[str, tuple[str, dict[str, Any]]] = {}
    misfits: list[tuple[int, str]] = []
    partial: list[tuple[str, dict[str, Any]]] = []  # averages of the parameters alone
    unread: list[tuple[str, str]] = []
    more: list[str] = []

    def take(kind: str, path: str, tensors: dict[str, Any]) -> None:
        if kind == "raw" and "raw" in taken and path.endswith("]") and taken["raw"][0].endswith("]"):
            kind = "ema"  # [network, optimizer, epoch, step, averages]
        if kind not in taken:
            taken[kind] = path, tensors
        elif kind == "ema" and path != taken[kind][0]:
            more.append(path)

    for kind, path, value in spots:
        state = state_of(value)
        fits = list(_fitting(state, expected, misfits)) if state else []
        for prefix, tensors in fits:
            take(_kind_of(kind, prefix), path, tensors)
        lists = _listed(value, state)
        for each in lists:
            tensors = _in_order(each, expected)
            if tensors:
                partial.append((path or "shadow_params", tensors))
            elif kind == "ema" or "shadow" in path:
                unread.append((path, f"they are a list of {len(each)} tensors, which are not the network's parameters"))
        if state and (dotless := _without_dots(state, expected)):
            partial.append((path or "model_ema", dotless))
        elif state and kind == "ema" and not fits:
            unread.append((path, misfit(state, expected)))
    base = taken.get("raw", ("", {}))[1]
    for path, tensors in partial:
        full = {name: tensors.get(name, base.get(name)) for name in expected}
        if all(one is not None for one in full.values()):
            take("ema", path, full)
        else:
            unread.append((path, "what is no parameter is missing, and there are no raw weights to take it from"))
    chosen = taken.get("ema", ("", {}))[0]
    passed = [f"the averages under {path} are left out: those under {chosen} are taken" for path in dict.fromkeys(more)]
    if not chosen:
        passed += [f"{UNREAD_AVERAGES}{path} and are not read: {why}" for path, why in dict(unread).items()]
    return WeightsFound(taken, tuple(passed), "" if taken else _nothing(spots, misfits))


def _nothing(spots: Sequence[tuple[str, str, Any]], misfits: Sequence[tuple[int, str]]) -> str:
    """Return why a file holds nothing that fits, and under which keys its tensors lie."""
    near, nearest = max(misfits, default=(0, ""))
    if near:
        return nearest
    keys = [path or "no key" for _, path, value in spots if state_of(value)]
    where = f"no weight of it is there; tensors lie under {', '.join(keys[:6])}"
    return where if keys else "there are no weights in it"


def matching(content: Any, kind: str, expected: Mapping[str, tuple[int, ...]], path: Path) -> dict[str, Any]:
    """Return the weights of this kind under the names that a network expects (`located`), or raise why not."""
    found = located(content, expected)
    if kind in found.weights:
        return found.weights[kind][1]
    other = next(iter(found.weights), "")
    why = found.problem or f"only {other} weights are there"
    what = f"{path.name} holds no {kind} weights that fit the network: {why}."
    raise CheckpointError(what, path, "Give the network that was trained (--model, --model-config).")


def _fitting(
    state: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]], misfits: list[tuple[int, str]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (prefix, weights under the expected names) of everything in a dictionary that fits; add what nearly does.

    A prefix is what precedes the expected names, the same for all of them; the expected names may have one, too.
    Nothing else may stand under it. Wrappers (torch.compile, DDP, FSDP) count nowhere in a name.
    """
    given = _unwrapped(state)
    own = _unwrapped(expected)
    lead = next(iter(own), "").split(".")[:-1]
    for cut in range(min(len(lead), DEEPEST) + 1):
        shared = "".join(f"{part}." for part in lead[:cut])
        if not all(name.startswith(shared) for name in own):
            break
        sought = {name[len(shared) :]: full for name, full in own.items()}
        found = False
        for prefix in _prefixes(given, sought):
            inside = {name[len(prefix) :]: state[full] for name, full in given.items() if name.startswith(prefix)}
            shapes = {name: expected[full] for name, full in sought.items()}
            problem = misfit(inside, shapes)
            if problem:
                misfits.append((sum(name in shapes for name in inside), problem))
            else:
                found = True
                yield prefix, {sought[name]: each for name, each in inside.items()}
        if found:
            break


def _unwrapped(names_: Iterable[str]) -> dict[str, str]:
    """Return names by what they are without the names of wrappers; as they are where that would make two alike."""
    given = list(names_)
    short = {WRAPPER.sub("", name): name for name in given}
    return short if len(short) == len(given) else {name: name for name in given}


def unwrapped(state: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return a state dict under the expected names where only wrappers or a common prefix differ; else as it is."""
    return next((tensors for _, tensors in _fitting(state, expected, [])), dict(state))


def _listed(value: Any, state: Mapping[str, Any]) -> list[list[Any]]:
    """Return the lists of tensors that averages may be: a list, or entries of a state dict that are numbered."""
    if isinstance(value, (list, tuple)) and value and all(map(_is_tensor, value)):
        return [list(value)]
    numbered: dict[str, dict[int, Any]] = {}
    for name, one in state.items():
        if match := NUMBERED.search(name):
            numbered.setdefault(name[: match.start()], {})[int(match[1])] = one
    return [[each[i] for i in sorted(each)] for each in numbered.values()]


def _in_order(tensors: Sequence[Any], expected: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return a list of tensors under the names of the parameters; nothing where counts or shapes differ."""
    for order in getattr(expected, "orders", ()):
        shapes = [expected[names_[0]] for names_ in order]
        if order and shapes == [tuple(one.shape) for one in tensors]:
            return {name: one for names_, one in zip(order, tensors, strict=True) for name in names_}
    return {}


def _without_dots(state: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return averages that are called as parameters without their dots are (LitEma); nothing where some are missing."""
    for order in getattr(expected, "orders", ()):
        called = {WRAPPER.sub("", names_[0]).replace(".", ""): names_ for names_ in order}
        if len(called) < len(order) or not called:
            continue
        longest = max(called, key=len)
        first = [names_[0].partition(".")[0] for names_ in order]
        lead = first[0] if len(set(first)) == 1 else ""  # what a factory's wrapper puts before all names
        for cut in ("", lead):
            ends = [name for name in state if name.endswith(longest[len(cut) :]) and EMA_NAME.search(name)]
            for prefix in (name.removesuffix(longest[len(cut) :]) for name in ends):
                found = {names_: state.get(prefix + short[len(cut) :]) for short, names_ in called.items()}
                if all(one is not None and tuple(one.shape) == expected[names_[0]] for names_, one in found.items()):
                    return {name: one for names_, one in found.items() for name in names_}
    return {}


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
