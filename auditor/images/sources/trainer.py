"""What a trainer's own configuration of its data lists: the folders, captions, trigger words and repeats it names.

Read are the dataset TOML of kohya's sd-scripts, the YAML of ai-toolkit, the concepts of OneTrainer and the data
backends of SimpleTuner (both JSON), as their own readers take them (docs/data.md). What they keep as regularization,
for validation or as conditions is no training image of the audit. Relative folders are sought beside the configuration,
then in the working directory, from which trainers are started.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from auditor.errors import AuditError
from auditor.images import captions, open_source, sources
from auditor.images.sources import Kind, Place, Reading, Source

LARGEST = 2**22  # bytes of a configuration
REPEATS = 10_000  # most repeats that are believed
_REMEDY = "Give the file that the trainer reads, or a folder of pictures."


class Subset(NamedTuple):
    """One folder of a configuration, and what its pictures are called."""

    folder: str
    deep: bool = False  # whether folders in it are read, too
    beside: Sequence[str] = ()  # suffixes of captions beside pictures
    fallback: str = ""  # caption of a picture that has none beside it
    by_name: str | None = None  # its name is its caption, with this instead of each "_"
    one_line: bool = False  # of several lines the first counts
    before: str = ""
    after: str = ""
    trigger: str | None = None  # ai-toolkit's word, "" where it names none
    repeats: float = 1
    kept_as: str = ""  # another end than training on it

    def caption(self, name: str, read: str) -> str:
        """Return what the trainer makes of a picture's name and of the caption beside it."""
        caption = read or (self.fallback if self.by_name is None else Path(name).stem.replace("_", self.by_name))
        if self.one_line:
            caption = next((line.strip() for line in caption.splitlines() if line.strip()), "")
        if self.trigger is not None:
            caption = caption.replace("[trigger]", self.trigger)
            caption = caption if self.trigger in caption else f"{self.trigger} {caption}"
        return " ".join(filter(None, (self.before if caption else "", caption, self.after if caption else ""))).strip()


def claims(path: Path) -> bool:
    """Return whether the name says so."""
    return path.suffix.lower() in (".toml", ".yaml", ".yml", ".json") and not path.is_dir()


def open_configuration(place: Place, reading: Reading) -> Source:
    """Return the pictures of all folders that are trained on; ids are paths below the folder that holds all of them."""
    if place.part is not None:
        raise AuditError(f"A configuration has no part {place.part!r}", place, f"Give {place.path}.")
    try:
        subsets = subsets_of(parsed(place.path), place.path)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        said = f"{type(error).__name__}: {error}"
        raise AuditError(f"This configuration is not as its trainer reads it: {said}", place, _REMEDY) from error
    kept = Counter(each.kept_as for each in subsets if each.kept_as)
    subsets = [each for each in subsets if not each.kept_as]
    if not subsets:
        raise AuditError("The configuration names no folder of training images", place, _REMEDY)
    folders = [folder_named(each, place.path) for each in subsets]
    parts = [trained_on(each, folder, place, reading) for each, folder in zip(subsets, folders, strict=True)]
    top = os.path.commonpath(folders)
    ids = [
        os.path.relpath(folder / name, top).replace(os.sep, "/")
        for folder, source in zip(folders, parts, strict=True)
        for name in source.ids
    ]
    origins = [source.origin(row) for source in parts if source.origin for row in range(len(source.ids))]
    found = Source(
        ids,
        [each for source in parts for each in source.stamps],
        sources.in_turn(parts),
        (
            *(f"Folders left out, for the configuration keeps them as {end}: {n}." for end, n in sorted(kept.items())),
            *dict.fromkeys(note for source in parts for note in source.notes),
        ),
        origin=lambda row: origins[row],
    )
    repeats = [each.repeats for each, source in zip(subsets, parts, strict=True) for _ in source.ids]
    return found.with_captions(lambda: [each for source in parts for each in source.column("caption")], repeats)


def trained_on(subset: Subset, folder: Path, place: Place, reading: Reading) -> Source:
    """Return the pictures of one folder, with the captions that the configuration gives them."""
    opened = open_source(folder, reading)
    rows = [row for row, name in enumerate(opened.ids) if subset.deep or "/" not in name]
    if not rows:
        raise AuditError(f"The folder {folder} holds no pictures", place, _REMEDY)
    source = opened.only(rows)

    def told() -> list[str]:
        read = captions.of(folder, source.ids, subset.beside, listed=False)
        return [subset.caption(name, one) for name, one in zip(source.ids, read, strict=True)]

    return source.with_captions(told)


def folder_named(subset: Subset, path: Path) -> Path:
    """Return the folder that a configuration names."""
    places = [path.parent / subset.folder, Path(subset.folder)]
    for each in places:
        if os.path.isdir(each):
            return Path(os.path.abspath(each))
    raise AuditError(f"The configuration names a folder that is not there: {subset.folder!r}", path, _REMEDY)


def parsed(path: Path) -> Any:
    """Return what a configuration holds, without making objects."""
    import yaml

    try:
        with open(path, "rb") as stream:
            content = stream.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise AuditError(f"It has more than {LARGEST:,} bytes, more than any configuration", path, _REMEDY)
        text = content.decode("utf-8-sig")
        if path.suffix.lower() == ".toml":
            return tomllib.loads(text)
        return json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())[:200]
        raise AuditError(f"This configuration cannot be read: {said}", path, _REMEDY) from error


def subsets_of(content: Any, path: Path) -> list[Subset]:
    """Return the folders that a configuration names, by the trainer whose keys it has."""
    if isinstance(content, dict) and isinstance(content.get("datasets"), list):
        return sd_scripts_subsets(content)
    if isinstance(content, dict) and isinstance(content.get("config"), dict):
        return ai_toolkit_subsets(content["config"])
    concepts = content.get("concepts") if isinstance(content, dict) else content
    if isinstance(concepts, list) and all(isinstance(each, dict) for each in concepts):
        if any("path" in each for each in concepts):
            return onetrainer_subsets(concepts, path)
        if any("instance_data_dir" in each for each in concepts):
            return simpletuner_subsets(concepts)
    what = "It is no configuration of sd-scripts, ai-toolkit, OneTrainer or SimpleTuner that lists folders of pictures"
    raise AuditError(what, path, _REMEDY)


def repeats_of(value: Any) -> float:
    """Return a number of repeats."""
    if isinstance(value, bool) or not 0 < float(value) <= REPEATS:
        raise ValueError(f"{value!r} is no number of repeats")
    return float(value)


# One function per trainer, in the words of its own reader


def sd_scripts_subsets(content: Mapping[str, Any]) -> list[Subset]:
    """Return what ``[[datasets.subsets]]`` name; what is not said there is said by the data set, or in general."""
    found = []
    for data_set in content["datasets"]:
        for subset in data_set["subsets"]:
            told = {**content.get("general", {}), **data_set, **subset}
            if "metadata_file" in told:
                raise ValueError("metadata_file is not read; give captions beside the pictures")
            if int(told.get("num_repeats", 1)) < 1:
                continue  # as the trainer does
            suffix = told.get("caption_extension")  # left open, the command line may say it
            found.append(
                Subset(
                    str(told["image_dir"]),
                    beside=captions.TEXTS if suffix is None else (str(suffix),),
                    fallback=str(told.get("class_tokens") or ""),
                    one_line=not told.get("enable_wildcard"),
                    before=str(told.get("caption_prefix") or ""),
                    after=str(told.get("caption_suffix") or ""),
                    repeats=repeats_of(told.get("num_repeats", 1)),
                    kept_as="regularization images" if told.get("is_reg") else "",
                )
            )
    return found


def ai_toolkit_subsets(config: Mapping[str, Any]) -> list[Subset]:
    """Return what the data sets of all processes name, once what is read at several resolutions."""
    found = []
    for process in config["process"]:
        for told in process.get("datasets") or []:
            suffix = str(told.get("caption_type") or told.get("caption_ext", ".txt"))
            found.append(
                Subset(
                    str(told.get("dataset_path") or told["folder_path"]),
                    deep=True,
                    beside=(suffix if suffix.startswith(".") else f".{suffix}",),
                    fallback=str(told.get("default_caption") or ""),
                    trigger=str(told.get("trigger_word") or process.get("trigger_word") or ""),
                    repeats=repeats_of(told.get("num_repeats", 1)),
                    kept_as="regularization images" if told.get("is_reg") or told.get("prior_reg") else "",
                )
            )
    return list(dict.fromkeys(found))


def onetrainer_subsets(concepts: Sequence[Mapping[str, Any]], path: Path) -> list[Subset]:
    """Return what the concepts name that are enabled."""
    found = []
    for told in concepts:
        if not told.get("enabled", True):
            continue
        kind = str(told.get("type", "VALIDATION" if told.get("validation_concept") else "STANDARD"))
        text = told.get("text") or {}
        source = text.get("prompt_source", "sample")
        if source not in ("sample", "concept", "filename"):
            raise ValueError(f"{source!r} is no prompt_source")
        counted = told.get("balancing_strategy", "REPEATS") == "REPEATS"
        found.append(
            Subset(
                str(told["path"]),
                deep=bool(told.get("include_subdirectories")),
                beside=(".txt",) if source == "sample" else (),
                fallback=captions.caption_in(path.parent / str(text["prompt_path"])) if source == "concept" else "",
                by_name="_" if source == "filename" else None,
                repeats=repeats_of(told.get("balancing", told.get("repeats", 1))) if counted else 1,
                kept_as={"STANDARD": "", "VALIDATION": "images of validation"}.get(kind, "regularization images"),
            )
        )
    return found


def simpletuner_subsets(backends: Sequence[Mapping[str, Any]]) -> list[Subset]:
    """Return what the data backends of pictures name."""
    found = []
    for told in backends:
        kind = told.get("dataset_type", "image")
        if told.get("disabled", told.get("disable")) or kind in ("text_embeds", "image_embeds"):
            continue
        strategy, prompt = told.get("caption_strategy", "filename"), str(told.get("instance_prompt") or "")
        if strategy not in ("textfile", "instanceprompt", "filename"):
            raise ValueError(f"captions by {strategy!r} are not read")
        alone = strategy == "instanceprompt" or told.get("only_instance_prompt")
        regular = told.get("is_regularisation_data", told.get("is_regularization_data"))
        found.append(
            Subset(
                str(told["instance_data_dir"]),
                deep=True,
                beside=(".txt",) if strategy == "textfile" and not alone else (),
                fallback=prompt if alone else "",
                by_name=" " if strategy == "filename" and not alone else None,
                before=prompt if told.get("prepend_instance_prompt") and not alone else "",
                repeats=repeats_of(int(told.get("repeats") or 0) + 1),
                kept_as="regularization images" if regular else "" if kind == "image" else f"{kind} data",
            )
        )
    return found


KIND = Kind(claims, open_configuration)
