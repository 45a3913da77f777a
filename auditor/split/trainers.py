"""What ``audit split --for TRAINER`` tells a trainer: a configuration for each half; and what it could not read.

The configurations name what an audit needs of a training: every save is kept, and whether images are mirrored is said.
Their keys are those of the trainers' own readers (docs/data.md names what was read).
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from auditor.errors import AuditError
from auditor.split.items import Items, Options

HALVES = ("train-a", "train-b")
ALL_SAVES = 1_000_000  # of a trainer that keeps the last few: more than any training writes


@dataclass(frozen=True)
class Half:
    """What the configuration of one training says."""

    name: str  # train-a or train-b
    out: Path  # absolute
    repeats: Mapping[str, float]  # folder, relative to out -> how often its pictures are shown per epoch
    captioned: bool

    @property
    def run(self) -> str:
        """Name of the training's own folder."""
        return self.name.removeprefix("train-")

    def path(self, *inside: str) -> str:
        """Return an absolute path in the folder of the split."""
        return (self.out / Path(*inside)).as_posix()


Writer = Callable[[Half], Mapping[str, str]]  # names of configuration files -> what stands in them


def check(trainer: str, out: Path) -> None:
    """Refuse an unknown trainer, and to overwrite what somebody may be training on."""
    if trainer not in TRAINERS:
        raise AuditError(f"There is no trainer called {trainer!r}.", "--for", f"Choose from: {', '.join(TRAINERS)}.")
    there = [name for name in (*HALVES, "train") if os.path.lexists(out / name)]
    if there:
        raise AuditError(
            f"There is a half already: {there[0]}.", out, "Give another --out, or remove it if nothing uses it."
        )


def check_items(items: Items, options: Options) -> None:
    """Refuse what the trainer could not read."""
    trainer, where = str(options.trainer), options.data
    if not items.captions and trainer != "diffusers":
        raise AuditError(
            f"The pictures have no captions, and {trainer} trains on captions.",
            where,
            "Write a .txt beside each; --for diffusers writes folders for unconditional training.",
        )
    marked = [name for name, caption in zip(items.source.ids, items.captions, strict=False) if "[trigger]" in caption]
    if marked:
        raise AuditError(
            f"{len(marked)} captions hold [trigger], such as that of {marked[0]!r}: the word is not known.",
            where,
            "Give ai-toolkit's configuration, which names it, or write the word itself.",
        )
    stems = Counter(os.path.splitext(each)[0] for each in items.source.ids)
    stem, most = stems.most_common(1)[0]
    if items.captions and most > 1:
        raise AuditError(
            f"{most} pictures share one caption file, that of {stem!r}: halves would share it.",
            where,
            "Give each a name of its own, or keep one of them.",
        )
    odd = sorted(each for each in set(items.repeats) if each != int(each))
    if odd and trainer != "onetrainer":
        raise AuditError(f"{odd[0]:g} repeats cannot be said to {trainer}.", where, "Give whole numbers of repeats.")
    if trainer == "diffusers" and len(set(items.repeats)) > 1:
        shown = ", ".join(f"{each:g}" for each in sorted(set(items.repeats)))
        raise AuditError(
            f"diffusers' scripts show every picture equally often, and these are to be repeated {shown} times.",
            where,
            "Choose another trainer, or give folders of one number of repeats.",
        )


# Configurations, one function per trainer


def text(value: str) -> str:
    """Return a text as TOML and YAML write it."""
    return json.dumps(value, ensure_ascii=False)


def indented(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def sd_scripts(half: Half) -> dict[str, str]:
    """Return a dataset TOML (``--dataset_config``), and options that name it (``--config_file``)."""
    subsets = [
        "\n".join(
            (
                "  [[datasets.subsets]]",
                f"  image_dir = {text(half.path(folder))}",
                f"  num_repeats = {repeats:g}",
                '  caption_extension = ".txt"',
                "  flip_aug = false",
                "",
            )
        )
        for folder, repeats in half.repeats.items()
    ]
    options = (
        f"dataset_config = {text(half.path(f'{half.name}.toml'))}",
        f"output_dir = {text(half.path('runs', half.run))}",
        'output_name = "twin"',
        'save_model_as = "safetensors"',
        "save_every_n_epochs = 1",
        "# no save_last_n_epochs and no save_last_n_steps, which delete early saves; no_metadata would hide the steps",
        "",
    )
    return {
        f"{half.name}.toml": "\n".join(("[[datasets]]", "", *subsets)),
        f"{half.name}.options.toml": "\n".join(options),
    }


def ai_toolkit(half: Half) -> dict[str, str]:
    """Return the lines of a job that are the audit's; model, network and training are the user's."""
    sets = [
        (
            f"        - folder_path: {text(half.path(folder))}",
            '          caption_ext: "txt"',
            f"          num_repeats: {repeats:g}",
            "          flip_x: false",
            "          flip_y: false",
        )
        for folder, repeats in half.repeats.items()
    ]
    lines = (
        "job: extension",
        "config:",
        f"  name: {text(half.run)}",
        "  process:",
        "    - type: sd_trainer",
        f"      training_folder: {text(half.path('runs'))}",
        "      save:",
        "        save_every: 250",
        f"        max_step_saves_to_keep: {ALL_SAVES}",
        "      datasets:",
        *(line for each in sets for line in each),
        "",
    )
    return {f"{half.name}.yaml": "\n".join(lines)}


def onetrainer(half: Half) -> dict[str, str]:
    """Return the concepts, and the keys of a configuration that name them; saves are never deleted, backups may be."""
    concepts = [
        {
            "__version": 2,
            "name": folder,
            "path": half.path(folder),
            "enabled": True,
            "type": "STANDARD",
            "include_subdirectories": False,
            "balancing": repeats,
            "balancing_strategy": "REPEATS",
            "image": {"__version": 0, "enable_random_flip": False, "enable_fixed_flip": False},
            "text": {"__version": 0, "prompt_source": "sample"},
        }
        for folder, repeats in half.repeats.items()
    ]
    options = {
        "concept_file_name": half.path(f"{half.name}.json"),
        "workspace_dir": half.path("runs", half.run),
        "save_every": 1,
        "save_every_unit": "EPOCH",
        "save_skip_first": 0,
    }
    return {f"{half.name}.json": indented(concepts), f"{half.name}.options.json": indented(options)}


def simpletuner(half: Half) -> dict[str, str]:
    """Return the data backends, and the keys of a configuration that name them; SimpleTuner counts further repeats."""
    backends: list[dict[str, object]] = [
        {
            "id": folder.replace("/", "-"),
            "type": "local",
            "dataset_type": "image",
            "instance_data_dir": half.path(folder),
            "caption_strategy": "textfile",
            "repeats": int(repeats) - 1,
            "cache_dir_vae": half.path("cache", half.run, "vae", folder),
        }
        for folder, repeats in half.repeats.items()
    ]
    texts = {"id": f"{half.name}-texts", "type": "local", "dataset_type": "text_embeds", "default": True}
    options = {
        "--data_backend_config": half.path(f"{half.name}.json"),
        "--output_dir": half.path("runs", half.run),
        "--checkpointing_steps": 500,
        "--checkpoints_total_limit": ALL_SAVES,  # 0 is said to be no limit, and deletes all of them up to 3.1.6
    }
    texts = texts | {"cache_dir": half.path("cache", half.run, "texts")}
    return {f"{half.name}.json": indented([*backends, texts]), f"{half.name}.options.json": indented(options)}


def diffusers(half: Half) -> dict[str, str]:
    """Return options, one a line; without ``--checkpoints_total_limit`` and ``--random_flip``."""
    columns = ("--image_column=image", "--caption_column=text") if half.captioned else ()
    options = (
        f"--train_data_dir={half.path(half.name)}",
        *columns,
        f"--output_dir={half.path('runs', half.run)}",
        "--checkpointing_steps=500",
        "",
    )
    return {f"{half.name}.options.txt": "\n".join(options)}


TRAINERS: dict[str, Writer] = {
    "sd-scripts": sd_scripts,
    "ai-toolkit": ai_toolkit,
    "onetrainer": onetrainer,
    "simpletuner": simpletuner,
    "diffusers": diffusers,
}
STARTED = {
    "sd-scripts": "start `train_network.py --config_file train-a.options.toml` with your other options.",
    "ai-toolkit": "add model, network and train to both files, alike.",
    "onetrainer": "put the keys of `train-a.options.json` into your configuration.",
    "simpletuner": "put the keys of `train-a.options.json` into your `config.json`; SimpleTuner cannot mirror images.",
    "diffusers": "give the lines of `train-a.options.txt` to the script, one option each, with your others.",
}
SEVERAL_LINES = {
    "sd-scripts": "it reads the first only, unless `enable_wildcard`",
    "onetrainer": "it takes one of them at random",
    "simpletuner": "it takes each as a caption of its own, unless `disable_multiline_split`",
}
