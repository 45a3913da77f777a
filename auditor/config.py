"""Every setting of an audit once: name, default, unit, range. The command line is made from this."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from auditor.errors import AuditError
from auditor.registry import SPACE_GROUPS, SPACES

LEVEL = 0.95  # confidence level of every interval
N_NEIGHBORS = 8  # neighbors kept per query and reference set
N_RELABELINGS = 2000  # statistics 2.1
N_RESAMPLES = 2000  # statistics 6.3
N_EXCHANGEABLE = 0.01  # p below which the halves are called different (statistics 1.2)
COPY_RATIO = 1 / 3  # d1 / d2 below which a sample counts as a copy (statistics 4.1)
WINDOW_RATIO = 1 / 5  # the same where copies of a part are to be shown rare: honest parts come near more often
SETS_SPACE = "pixel"  # where a quick audit compares the image sets with each other
LOSS_IMAGES = {"weights": 1000, "samples": 256}  # by what is released (statistics 5.4)
LOSS_LEVELS, FEWER_LEVELS = 16, 8
AUTO = "auto"
LOSS_STRATA = ("time", "log-snr")
PUBLISHED_SAMPLER = "published"
HEADLINE_SPACE = "correlation"  # the paper's similarity; tau_div is taken here


def setting(help: str, default: Any = None, **metadata: Any) -> Any:
    """Return a dataclass field with its one-line description; ``extra`` marks the size of what few runs ask for."""
    return field(default=default, metadata={"help": help, **metadata})


@dataclass(frozen=True)
class AuditConfig:
    """The settings of ``audit run``, as given; ``None`` and ``auto`` are resolved when the run starts."""

    ckpts_a: str | None = setting("Checkpoints of the training on half a: a folder.")
    ckpts_b: str | None = setting("Checkpoints of the training on half b: a folder.")
    ckpts_a2: str | None = setting("Another training on half a, from another seed: tells what data and what seeds do.")
    ckpts: tuple[str, ...] = setting(
        "DIR: checkpoints of a single training, with --train PATH and --heldout. NAME=DIR, three times or more: of one "
        "training each. Beside --ckpts-a: a2=DIR, as --ckpts-a2.",
        (),
    )
    train: tuple[str, ...] = setting("PATH, or NAME=PATH: the training images of each of these.", ())
    samples_a: str | None = setting("Instead of --ckpts-a: samples drawn already, a folder or file per checkpoint.")
    samples_b: str | None = setting("The same of the training on half b.")
    unpaired: bool = setting("The samples given were not drawn from the same noise, whatever their names say.", False)
    train_a: str | None = setting(
        "Training images of half a: a folder, .zip, .tar, .npy, .npz, .pt (FILE:KEY picks an array), .csv with a path "
        "column, or a Hugging Face data set on disk (PATH:SPLIT)."
    )
    train_b: str | None = setting("Training images of half b.")
    final: str | None = setting(
        "The model that is to be released, usually trained on everything: its checkpoints (the last counts), or one."
    )
    train_final: str | None = setting("Its training images [default: those of all trainings given].")
    heldout: str | None = setting("Images that no training saw, held out at random.")
    out: str | None = setting("The run directory to write or resume.")
    spaces: str = setting(
        "Feature spaces, comma-separated. auto: pixel, correlation, clip where its weights can be had, aligned (copies "
        "mirrored, turned, zoomed, shifted) and windows (copies of a part); a run that is there keeps its own. scales "
        "adds wavelet bands and principal subspaces.",
        AUTO,
    )
    quick: bool = setting(
        "Ask the networks only and draw no samples: minutes instead of hours. Finds networks that lean on or give away "
        "their training images; cannot show a checkpoint safe.",
        False,
    )
    n_samples: int = setting("Samples per checkpoint (seeds).", 2000, low=2, high=10**7)
    seed: int = setting("First seed: sample i has seed SEED + i.", 0, low=0, high=2**62)
    protocol: str = setting(
        "ours, or paper: sample as arXiv 2603.03469 did, and tell its onsets and error bars beside the tool's own.",
        "ours",
    )
    sampler: str = setting(
        "ddim (eta 0), ddpm (shared per-step noise), dpm++, or published: ddpm as --protocol paper has it.", "ddim"
    )
    sampling_steps: int | None = setting("Sampling steps [default: 50 ddim, 20 dpm++, else all].", low=1)
    batch_size: str = setting("Images per network call, fixed for a run, or auto.", "auto")
    device: str = setting("cpu, cuda, cuda:1 or auto.", "auto")
    weights: str = setting(
        "raw, ema, or auto: EMA where all common steps of both twins have it, raw where none has; else refused.", "auto"
    )
    scheduler: str | None = setting(
        "Noise schedule where none is saved: ddpm (1000 linear steps), flow, edm, ve, or a scheduler's JSON file."
    )
    format: str | None = setting("Checkpoint format, where two could be meant; audit list names them.")
    model: str | None = setting("The network of bare weights: MODULE:FACTORY, a function that returns an nn.Module.")
    model_config: str | None = setting("JSON file with the arguments of the network, for formats that save none.")
    base: str | None = setting("The pipeline that was fine-tuned: LoRA weights, autoencoder, text encoder.")
    autoencoder: str | None = setting("Folder of the autoencoder of a latent model, where none is beside it.")
    prediction: str | None = setting(
        "What the network predicts, where that is not saved: epsilon, v, sample, flow, edm, ve."
    )
    image_shape: str | None = setting("HEIGHTxWIDTHxCHANNELS of the pictures, where the checkpoint does not say it.")
    pixel_range: str | None = setting("Range to which training scaled pictures: -1,1 or 0,1 [default: the trainer's].")
    pixel_mean: str | None = setting(
        "Mean that training subtracted after scaling: numbers per channel, an .npy file, or own (of each half)."
    )
    labels: str | None = setting("Classes to sample: a number of classes (in turn), or a file with one per line.")
    prompts: str | None = setting("Prompts to sample, in turn: a text file, one per line.")
    guidance_scale: float = setting("Classifier-free guidance when sampling; 1 is none.", 1.0)
    trust_pickle: bool = setting("Run the code in pickled checkpoints. Only for files whose maker you trust.", False)
    allow_identical: bool = setting("Go on where two checkpoints are the same.", False)
    pair: str | None = setting(
        "Twins that share no step: last (with last), best (kept as best by either), or steps of a with those of b, "
        "43:57,86:114."
    )
    steps: str | None = setting("Audit only these checkpoints, comma-separated steps.")
    allow_overlap: bool = setting(
        "Go on when halves share images; these leave every own-versus-other statistic.", False
    )
    flip_train: bool | None = setting(
        "Look for mirrored training images, too [default: where the trainer's files say that it mirrored its images]."
    )
    window: str | None = setting(
        "LOW,HIGH: pictures of 16 bits or floats are read so that LOW is black and HIGH white.", None
    )
    convert_color: bool = setting("Turn color images gray for a gray model, and gray ones to color.", False)
    skip_unreadable: bool = setting("Leave out pictures of kinds that are not read (.heic, .jxl, ...).", False)
    no_cache: bool = setting("Decode all images anew instead of recalling the contents of unchanged files.", False)
    clip_model: str = setting("open_clip model name, or local-dir:PATH.", "ViT-B-32")
    clip_weights: str = setting("open_clip pretrained tag or a weights file.", "laion2b_s34b_b79k")
    grammar: str | None = setting("grammar.json of audit lab make: what the spaces level-1, level-2, level-3 parse by.")
    loss_images: int | None = setting(
        "Images per set on which the denoising loss is measured and membership judged [default: 1000; 256 with "
        "--release samples].",
        low=2,
    )
    loss_levels: int | None = setting(
        "Noise levels of the denoising loss [default: 16; 8 where so many images by default would cost more than twice "
        "256 of them].",
        low=1,
    )
    loss_strata: str = setting(
        "What the noise levels divide evenly: time (the diffusion's), or log-snr (more of them at little noise).",
        "time",
    )
    u_turns: int = setting(
        "Images per set that are noised and denoised again; 0 is none, 64 a start.", 0, low=0, extra=True
    )
    trajectories: int = setting(
        "Seeds along whose trajectories the networks are compared with memorizing; 0 is none, 64 a start.",
        0,
        low=0,
        high=10**5,
        extra=True,
    )
    release: str | None = setting(
        "What is to be released: weights, which anybody can ask about an image, so that membership must be judged; or "
        "samples alone [default: weights]."
    )
    release_size: int | None = setting("Number of samples to be released: tells the copies to expect.", low=1)
    fpr: float | None = setting(
        "Set the copying rule so that it flags this share of real held-out images [default: the gap ratio 1/3].",
        low=0.0,
        high=0.2,
    )
    budgets: str | None = setting("TOML file with other margins for the verdict [default: docs/statistics.md].")

    def without_extras(self) -> AuditConfig:
        """Return the settings without what few runs ask for beside the usual."""
        none: dict[str, Any] = {each.name: 0 for each in dataclasses.fields(self) if each.metadata.get("extra")}
        return dataclasses.replace(self, **none)

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            self._require_range(each)
        if not self.space_names:
            raise AuditError("No space is given.", "--spaces", f"Choose from: {', '.join((*SPACES, *SPACE_GROUPS))}.")
        if set(self.space_names) <= set(SPACE_GROUPS["scales"]):
            what = "Scales say where in a picture something happens, and no verdict rests on them."
            raise AuditError(what, "--spaces", "Give another space as well: --spaces pixel,scales.")
        for name in self.space_names:
            if name not in SPACES:
                close = get_close_matches(name, (*SPACES, *SPACE_GROUPS), n=1)
                hint = f"Did you mean {close[0]}? " if close else ""
                raise AuditError(f"There is no space {name!r}.", "--spaces", f"{hint}Choose from: {', '.join(SPACES)}.")
        if self.batch_size != "auto" and not re.fullmatch("0*[1-9][0-9]{0,4}", self.batch_size):
            raise AuditError(
                f"The batch size {self.batch_size!r} is no count.", "--batch-size", "Give 64, say, or auto."
            )
        if self.loss_strata not in LOSS_STRATA:
            what = f"There are no strata of {self.loss_strata!r}."
            raise AuditError(what, "--loss-strata", f"Choose from: {', '.join(LOSS_STRATA)}.")
        if self.release not in (None, *RELEASES):
            what = f"Nothing is released as {self.release!r}."
            raise AuditError(what, "--release", f"Choose from: {', '.join(RELEASES)}.")
        self._follow_protocol()
        self.step_numbers  # noqa: B018  malformed lists are reported here
        self.window_limits  # noqa: B018

    def _follow_protocol(self) -> None:
        """Take the sampler of the protocol; refuse what contradicts it."""
        if self.protocol not in PROTOCOLS:
            what = f"There is no protocol {self.protocol!r}."
            raise AuditError(what, "--protocol", f"Choose from: {', '.join(PROTOCOLS)}.")
        if self.protocol == "ours":
            return
        refuse_beside_paper({name for name in BESIDE_PAPER if getattr(self, name) not in BESIDE_PAPER[name]})
        if HEADLINE_SPACE not in self.space_names:
            what = f"The published similarity is that of the space {HEADLINE_SPACE}, which is not among the spaces."
            raise AuditError(what, "--protocol paper", f"Add it: --spaces {self.spaces},{HEADLINE_SPACE}.")
        if self.ckpts_a is not None and self.ckpts_b is None:
            what = "The published protocol compares trainings, and one is given."
            raise AuditError(what, "--protocol paper", "Give its twin by --ckpts-b, or leave --protocol out.")
        object.__setattr__(self, "sampler", PUBLISHED_SAMPLER)

    def _require_range(self, each: dataclasses.Field[Any]) -> None:
        """Refuse a text that is empty, and a number outside the range of its setting."""
        low, high, value = each.metadata.get("low"), each.metadata.get("high"), getattr(self, each.name)
        if isinstance(value, str) and not value.strip():  # as a path it would be the current folder
            raise AuditError(f"{option(each.name)} is empty.", option(each.name), "Give a value, or leave it out.")
        if value is not None and low is not None and not value >= low:
            raise AuditError(f"{option(each.name)} is {value}.", option(each.name), f"Give at least {low}.")
        if value is not None and high is not None and value > high:
            raise AuditError(f"{option(each.name)} is {value}.", option(each.name), f"Give at most {high}.")

    @property
    def space_names(self) -> tuple[str, ...]:
        """The spaces in the order given, without repetition."""
        given = (name.strip() for name in self.spaces.split(",") if name.strip())
        return tuple(dict.fromkeys(each for name in given for each in SPACE_GROUPS.get(name, (name,))))

    @property
    def step_numbers(self) -> tuple[int, ...] | None:
        """The steps asked for, or None for all."""
        if self.steps is None:
            return None
        try:
            return tuple(int(part) for part in self.steps.split(",") if part.strip())
        except ValueError:
            raise AuditError(
                f"{self.steps!r} is no list of steps.", "--steps", "Give whole numbers: --steps 500,1000."
            ) from None

    @property
    def window_limits(self) -> tuple[float, float] | None:
        """The window (low, high), or None."""
        return None if self.window is None else window_from(self.window)


RELEASES = ("weights", "samples")
PROTOCOLS = ("ours", "paper")
# What the published protocol settles or cannot be told of, and the values that do not contradict it.
BESIDE_PAPER: dict[str, tuple[Any, ...]] = {
    "sampler": ("ddim", PUBLISHED_SAMPLER),  # the first is the default; given by name it is refused in ``resolve``
    "sampling_steps": (None,),
    "quick": (False,),
    "unpaired": (False,),
    "samples_a": (None,),
    "samples_b": (None,),
}


def refuse_beside_paper(names: Iterable[str]) -> None:
    """Refuse options beside ``--protocol paper``."""
    for name in sorted(names):
        flag = option(name)
        remedy = "Leave one of both out: the published protocol draws samples itself, in all steps."
        raise AuditError(f"--protocol paper and {flag} are both given.", flag, remedy)


def window_from(text: str) -> tuple[float, float]:
    """Return LOW,HIGH as two numbers."""
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise AuditError(f"{text!r} is no window.", "--window", "Give two numbers, the lower first: --window 0,4095.")
    return low, high


@dataclass(frozen=True)
class Budgets:
    """Margins and limits of the verdict, with the defaults of docs/statistics.md 9."""

    alpha: float = setting("Corrected p up to which a finding counts, each for bias and for copying.", 0.025)
    least_seeds: int = setting("Fewer seeds support no verdict but memorizing or undecided.", 1000)
    lean_bias: float = setting("Least own_share above 1/2 that is called bias.", 0.02)
    gap_bias: float = setting("Least gap lean, above that of the smooth reference, that is called bias.", 0.001)
    lean_safe: float = setting("own_share above 1/2 that is accepted.", 0.05)
    lean_safe_beyond_reference: float = setting("The same, above that of the smooth reference.", 0.03)
    lean_safe_beyond_reference_few: float = setting("The same, with fewer than 4,000 seeds.", 0.04)
    lean_safe_most: float = setting("own_share above 1/2 that is accepted at most, whatever a smooth model shows.", 0.1)
    tail_bias: float = setting("Least own share of the most standing out samples that is called bias.", 0.75)
    tail_bias_beyond_reference: float = setting("The same, above that of the smooth reference.", 0.1)
    loss_bias: float = setting("Least loss lean that is called bias.", 0.01)
    loss_safe_beyond_bias: float = setting("Loss lean above that margin that is accepted.", 0.03)
    copies_beyond_heldout: float = setting("Copied share accepted above that of held-out images; one training.", 0.005)
    copies_beyond_twin: float = setting("Copied share that is accepted above that of the twin's samples.", 0.001)
    copies_beyond_twin_few: float = setting("The same, with fewer than 4,000 seeds.", 0.002)
    many_seeds: int = setting("Seeds from which the narrower margins hold.", 4000)
    membership_hits: float = setting("Upper limit of the members that a score finds at 1 % false positives.", 0.05)
    membership_gain: float = setting("Members found beyond false positives that are called exposed.", 0.02)
    copy_rule_false_alarms: float = setting("Held-out rate up to which copies in a space make the verdict.", 0.01)
    overfit_rise: float = setting("Rise of the held-out loss above its least value that is called overfit.", 0.0025)
    underfit_loss: float = setting("Multiple of the least held-out loss above which a checkpoint is underfit.", 1.25)
    underfit_coverage: float = setting("Share of the real coverage of held-out images below which it is underfit.", 0.5)
    underfit_near: float = setting("Samples this much nearer to held-out than real images are underfit.", 0.6)
    underfit_far: float = setting("Samples this much farther from held-out than real images are underfit.", 1.5)
    underfit_saturated: float = setting("Saturated pixels beyond the real share that are underfit.", 0.2)


RETIRED_BUDGETS = {
    "attack_tpr_at_1_percent": "Membership is judged by scores fixed beforehand (docs/statistics.md 5.4).",
    "attack_tpr_at_1_permille": "Membership is judged by scores fixed beforehand (docs/statistics.md 5.4).",
}  # names of earlier versions, and why they went


def kept_budgets(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the budgets of an earlier run without those that there are no more."""
    return {name: value for name, value in values.items() if name not in RETIRED_BUDGETS}


def budgets_from_file(path: str | Path | None) -> Budgets:
    """Return the budgets of a TOML file, or the defaults; unknown names are refused."""
    if path is None:
        return Budgets()
    known = {each.name: each for each in dataclasses.fields(Budgets)}
    values: dict[str, Any] = {}
    for name, value in read_toml(path).items():
        plain = name.replace("-", "_")
        if plain in RETIRED_BUDGETS:
            raise AuditError(f"The budget {name!r} is used no more.", path, f"{RETIRED_BUDGETS[plain]} Leave it out.")
        if plain not in known:
            raise AuditError(f"There is no budget {name!r}.", path, f"Choose from: {', '.join(known)}.")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise AuditError(f"The budget {name} = {value!r} is no number.", path, "Give a number.")
        values[plain] = value
    return Budgets(**values)


def shape_from(given: str | None) -> tuple[int, int, int] | None:
    """Return (h, w, c) from ``32x32x1``."""
    if given is None:
        return None
    if not re.fullmatch("[1-9][0-9]{0,4}x[1-9][0-9]{0,4}x[13]", given.lower()):
        remedy = "Give HEIGHTxWIDTHxCHANNELS, such as 32x32x1; pictures have 1 or 3 channels."
        raise AuditError(f"{given!r} is no image shape.", "--image-shape", remedy)
    height, width, channels = map(int, given.lower().split("x"))
    return height, width, channels


def option(name: str) -> str:
    """Return the command-line spelling of a setting."""
    return "--" + name.replace("_", "-")


def from_file(path: str | Path) -> dict[str, Any]:
    """Return the settings in a TOML file, names checked; ``n-samples`` and ``n_samples`` are the same.

    Raises
    ------
    AuditError
        If the file is missing, is no TOML, or holds an unknown name or a value of another type.
    """
    return {checked_name(name, path): checked_value(name, value, path) for name, value in read_toml(path).items()}


def read_toml(path: str | Path) -> dict[str, Any]:
    """Return what a TOML file says."""
    try:
        return tomllib.loads(Path(path).read_text())
    except OSError as error:
        raise AuditError(f"The configuration cannot be read: {error.strerror}.", path, "Check the path.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise AuditError(
            f"The configuration is no TOML: {error}.", path, "Write lines such as: n-samples = 2000"
        ) from None


def checked_name(name: str, path: str | Path) -> str:
    """Return the field name of a setting, or refuse an unknown one."""
    known = [each.name for each in dataclasses.fields(AuditConfig)]
    plain = name.replace("-", "_")
    if plain not in known:
        close = get_close_matches(plain, known, n=1)
        hint = f"Did you mean {close[0].replace('_', '-')}? " if close else ""
        raise AuditError(f"There is no setting {name!r}.", path, f"{hint}audit run --help lists them.")
    return plain


def checked_value(name: str, value: Any, path: str | Path) -> Any:
    """Return a TOML value in the type of its field: lists become comma-separated text."""
    kind = {each.name: str(each.type) for each in dataclasses.fields(AuditConfig)}[name.replace("-", "_")]
    if kind.startswith("tuple"):
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise AuditError(f"{name} = {value!r} is no list of names.", path, f'Give {name} = ["NAME=PATH", ...].')
        return tuple(value)
    if isinstance(value, list):
        value = ",".join(str(item) for item in value)
    if kind.startswith("str") and type(value) in (str, int):  # steps = 500
        return str(value)
    expected = next((each for each in (str, bool, float) if kind.startswith(each.__name__)), int)
    if expected is float and type(value) is int:
        return float(value)
    if type(value) is not expected:
        raise AuditError(f"{name} = {value!r} is of the wrong type.", path, f"Give {expected.__name__}, as in --help.")
    return value


def beside_twins(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``--ckpts a2=DIR`` beside twins as the setting ``ckpts_a2``: further trainings are all NAME=DIR."""
    named = settings.get("ckpts", ())
    if not settings.get("ckpts_a") or len(named) != 1 or not named[0].startswith("a2="):
        return {}
    if settings.get("ckpts_a2"):
        what = "The second training on half a is given twice."
        raise AuditError(what, "--ckpts a2=DIR, --ckpts-a2", "Leave one of both out.")
    return {"ckpts": (), "ckpts_a2": named[0].removeprefix("a2=")}


def as_single_training(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``--ckpts DIR --train PATH`` as the settings of a training without a twin; NAME=DIR is one of several."""
    named, images = settings.get("ckpts", ()), settings.get("train", ())
    if len(named) != 1 or is_named(named[0]) or settings.get("ckpts_a"):
        return {}
    if len(images) > 1 or (images and settings.get("train_a")):
        what = f"--ckpts {named[0]} is one training, and training images are given more than once."
        raise AuditError(
            what, "--train", "Give one --train, or name the trainings: --ckpts NAME=DIR --train NAME=PATH."
        )
    return {"ckpts": (), "train": (), "ckpts_a": named[0], "train_a": images[0] if images else settings.get("train_a")}


def is_named(value: str) -> bool:
    """Tell whether a value is NAME=PATH: it has a =, and is no path as it stands."""
    return "=" in value and not Path(value).exists()


def with_home(name: str, value: Any) -> Any:
    """Return a setting as a path is opened: ``~`` is a home, also behind NAME=; a name that no file has is refused."""
    if isinstance(value, tuple):
        return tuple(with_home(name, each) for each in value)
    if not isinstance(value, str):
        return value
    before, equals, path = value.partition("=") if name in ("ckpts", "train") else ("", "", value)
    try:
        value.encode()
        if "\0" in value:
            raise ValueError
        return f"{before}{equals}{os.path.expanduser(path)}" if path.startswith("~") and known_home(path) else value
    except ValueError:  # a name of a file that is no UTF-8 reads as halves of characters
        raise AuditError(f"{value!a} is no name in UTF-8.", option(name), "Rename it, or link to it.") from None


def known_home(path: str) -> bool:
    """Return true for a path whose ``~`` is somebody's home, else refuse it: a file called so is written ./~."""
    if os.path.expanduser(path).startswith("~"):
        raise AuditError(
            "Nobody's home is meant.", path, "Give the whole path; a file whose name begins so is ./~NAME."
        )
    return True


def resolve(given: Mapping[str, Any], file: str | Path | None) -> AuditConfig:
    """Return the configuration: the command line wins over the file, the file over the defaults."""
    settings = from_file(file) if file else {}
    settings.update({name: value for name, value in given.items() if value is not None and value != []})
    settings |= {name: tuple(settings[name]) for name in ("ckpts", "train") if name in settings}
    settings = {name: with_home(name, value) for name, value in settings.items()}
    settings |= beside_twins(settings)
    settings |= as_single_training(settings)
    if settings.get("protocol") == "paper" and settings.get("sampler", PUBLISHED_SAMPLER) != PUBLISHED_SAMPLER:
        refuse_beside_paper({"sampler"})  # the default sampler, too, where it is asked for
    return AuditConfig(**settings)
