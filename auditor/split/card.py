"""What ``audit split`` tells and writes: lists of paths, a check that the sets are exchangeable, and a card."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from auditor.config import N_EXCHANGEABLE
from auditor.images import identity, near_duplicates
from auditor.run.files import atomic, write_json
from auditor.seeds import derived_seed
from auditor.split import Split, folders, grouped, sets_of
from auditor.split.items import Items, Options
from auditor.stages.halves import nearest_of_another_group
from auditor.stats.relabeling import Pool, exchangeability, relabel, two_sided_p

SCHEMA_VERSION = 1


def write(done: Split, out: Path, power: Callable[[int, int], list[str]] | None = None) -> dict[str, Any]:
    """Write a list for each set (``train-a.csv``, ...), ``split.json`` and ``split.md``; return the card.

    For a trainer, the folders and configurations of `folders` are written first. ``power`` tells of one training's
    images and held-out ones how small a lean they can find, in sentences.
    """
    card = card_of(done)
    written: list[str] = []
    if done.options.trainings == 1 and power is not None:
        card["power"] = power(card["sets"]["train"], card["sets"]["heldout"])
    out.mkdir(parents=True, exist_ok=True)
    if done.options.trainer:
        written, card["training"] = folders.write(done, out)
    for name in card["sets"]:
        write_list(out / f"{name}.csv", done, np.flatnonzero(done.of == name), out, written)
    write_json(out / "split.json", card)
    with atomic(out / "split.md") as temporary:
        temporary.write_text(as_markdown(card))
    return card


def card_of(done: Split) -> dict[str, Any]:
    """Return what was done and what the check says, as JSON knows it."""
    options, items, clusters, of = done.options, done.items, done.clusters, done.of
    sizes = np.bincount(clusters.of)
    counts = {name: int((of == name).sum()) for name in sets_of(options)}
    classes = {
        name: dict(sorted(Counter(np.asarray(items.labels, object)[of == name]).items())) if items.labels else {}
        for name in counts
    }
    checks = self_check(items, clusters.of, of, options)
    return {
        "schema": SCHEMA_VERSION,
        "asked": asdict(options) | {"data": os.path.basename(os.path.normpath(options.data))},
        "images": len(items),
        "sets": counts,
        "classes": classes,
        "exact_duplicates": clusters.exact,
        "near_duplicates": clusters.near,
        "near_threshold": options.near,
        "next_distance": rounded(clusters.next_distance),
        **in_clip(done),
        "user_groups": len(set(items.groups)),
        "clusters": len(sizes),
        "clusters_of_several": int((sizes > 1).sum()),
        "largest_cluster": int(sizes.max()),
        "blank": int(items.blank.sum()),
        "notes": list(items.notes),
        "checks": checks,
        "warnings": warnings_of(counts, sizes, checks, options),
    }


def in_clip(done: Split) -> dict[str, Any]:
    """Return what was found in CLIP space, where it was looked for."""
    if done.items.clip is None:
        return {}
    return {
        "near_clip_duplicates": done.clusters.near_clip,
        "near_clip_threshold": done.options.near_clip,
        "next_clip_distance": rounded(done.clusters.next_clip_distance),
        "clip": done.items.clip_revision,
    }


def rounded(distance: float) -> float | None:
    """Return a distance for people, None where there is none."""
    return round(distance, 4) if np.isfinite(distance) else None


def self_check(items: Items, clusters: np.ndarray, of: np.ndarray, options: Options) -> dict[str, Any]:
    """Test what was written: no cluster and no near-duplicate in two sets, and sets that chance explains."""
    across = int(sum(len({*of[rows]}) > 1 for rows in grouped(clusters)))
    facts: dict[str, Any] = {"clusters_in_two_sets": across}
    seen = ~items.blank
    for name, (looked_at, first) in {
        "halves": (seen & (of != "heldout"), of == "train-a"),
        "heldout_and_halves": (seen, of == "heldout"),
    }.items():
        rows = np.flatnonzero(looked_at)
        if len(np.unique(first[rows])) < 2:
            continue
        ids = tuple(("", items.features.ids[i]) for i in rows)
        groups = identity.duplicate_groups([str(c) for c in clusters[rows]])
        pool = Pool(ids, np.where(first[rows], 1.0, -1.0), groups)
        relabeling = relabel(pool, derived_seed("split check", options.seed))
        nearest, _ = nearest_of_another_group(items.features.rows(rows), groups)
        share, p = exchangeability(nearest, relabeling)  # statistics 1.2
        facts[name] = {
            "share_with_nearest_in_the_same_set": round(share, 4),
            "p_nearest": round(p, 4),
            "p_brightness": round(two_sided_p(relabeling, items.brightness[rows]), 4),
        }
    return facts


def warnings_of(counts: Mapping[str, int], sizes: np.ndarray, checks: Mapping[str, Any], options: Options) -> list[str]:
    """Return what a reader should look at."""
    found = []
    if options.trainings == 2 and counts["train-a"] != counts["train-b"]:
        found.append(
            f"The halves have {counts['train-a']} and {counts['train-b']} images: clusters of several images do not "
            "divide evenly. The audit compares equal numbers of both."
        )
    wanted = options.heldout * sum(counts.values())
    if abs(counts["heldout"] - wanted) > 0.02 * sum(counts.values()):
        found.append(f"{counts['heldout']} images are held out, {wanted:.0f} were asked for: clusters are not divided.")
    if sizes.max() > 0.05 * sizes.sum():
        found.append(
            f"One cluster holds {sizes.max()} of {sizes.sum()} images: look whether its images belong together. "
            "Pictures that share most of their background are all alike: then give a smaller --near, or --near-clip."
        )
    if checks["clusters_in_two_sets"]:
        found.append("A cluster is in two sets: this is a fault of the program.")
    for name in ("halves", "heldout_and_halves"):
        for test in ("p_nearest", "p_brightness"):
            p = checks.get(name, {}).get(test, 1.0)
            if p < N_EXCHANGEABLE:
                others = "the others" if options.trainings == 1 else "the halves"
                what = {"halves": "The halves", "heldout_and_halves": f"Held-out images and {others}"}[name]
                found.append(f"{what} differ more than chance explains ({test[2:]}, p {p:.3g}): try another --seed.")
    return found


# Files


def write_list(path: Path, done: Split, rows: np.ndarray, out: Path, written: Sequence[str] = ()) -> None:
    """Write one set as a CSV that every command reads: path, source, label, caption and repeats where known, group.

    ``written`` tells where a trainer finds each image.
    """
    items, clusters, source = done.items, done.clusters, done.items.source
    at = [source.origin(int(row)) if source.origin else (source.ids[row], done.options.data) for row in rows]
    with_source = any(inside for _, inside in at)
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    facts = {
        "label": items.labels,
        "caption": items.captions,
        "repeats": [f"{each:g}" for each in items.repeats],
        "written": written,
    }
    facts = {name: each for name, each in facts.items() if each}
    writer.writerow(["path", *(["source"] if with_source else []), *facts, "group"])
    for row, (place, inside) in zip(rows, at, strict=True):
        shown = [place, relative(inside, out)] if inside else [relative(place, out), *([""] if with_source else [])]
        writer.writerow([*shown, *(each[row] for each in facts.values()), f"g{clusters.of[row]}"])
    with atomic(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def relative(path: str, out: Path) -> str:
    """Return a path as seen from the folder of the lists, so that both can be moved together."""
    return Path(os.path.relpath(path, out)).as_posix()


def as_markdown(card: Mapping[str, Any]) -> str:
    """Return the card for people."""
    asked, counts = card["asked"], card["sets"]
    names = sorted({name for each in card["classes"].values() for name in each})
    lines = [
        f"# Split of {asked['data']}",
        "",
        f"{card['images']:,} images, seed {asked['seed']}, {asked['heldout']:.0%} held out, "
        + (f"grouped by `{asked['group_by']}`." if asked["group_by"] else "no groups asked for."),
        "",
        "| set | images |" + "".join(f" {name} |" for name in names),
        "|---|---:|" + "---:|" * len(names),
        *(
            f"| {name} | {counts[name]:,} |" + "".join(f" {card['classes'][name].get(c, 0):,} |" for c in names)
            for name in counts
        ),
        "",
        f"- Exact duplicates: {card['exact_duplicates']} images repeat another one.",
        f"- Near-duplicates: {card['near_duplicates']} images, at a distance below {card['near_threshold']} "
        f"(correlation above {1 - card['near_threshold'] ** 2 / 2:.3f} at {near_duplicates.SIDE} pixels a side); "
        f"the nearest two that are not lie at {card['next_distance']}.",
        *clip_lines(card),
        f"- {card['user_groups']:,} groups were given." if card["user_groups"] else "- No groups were given.",
        f"- {card['clusters']:,} clusters were drawn as wholes, {card['clusters_of_several']:,} of them of several "
        f"images, the largest of {card['largest_cluster']}.",
        f"- Blank images: {card['blank']}.",
        *(f"- Power: {each}" for each in card.get("power", ())),
        *(f"- {note}" for note in card["notes"]),
        "",
        "## Check",
        "",
        f"- Clusters in two sets: {card['checks']['clusters_in_two_sets']}.",
    ]
    against = "the others" if "train" in counts else "both halves"
    for name, what in (("halves", "Halves"), ("heldout_and_halves", f"Held-out against {against}")):
        found = card["checks"].get(name)
        if found:
            lines.append(
                f"- {what}: {found['share_with_nearest_in_the_same_set']:.1%} of images have their nearest image in "
                f"the same set (p {found['p_nearest']:.3g} by relabelling), brightness p {found['p_brightness']:.3g}."
            )
    lines += [f"- **{each}**" for each in card["warnings"]]
    if "training" in card:
        lines += ["", "## Training", "", *(f"- {each}" for each in card["training"])]
    return "\n".join([*lines, ""])


def clip_lines(card: Mapping[str, Any]) -> list[str]:
    """Return what was found in CLIP space, for people."""
    if "clip" not in card:
        return []
    return [
        f"- Near-duplicates in CLIP space: {card['near_clip_duplicates']} images, at a distance below "
        f"{card['near_clip_threshold']} (cosine above {1 - card['near_clip_threshold'] ** 2 / 2:.3f}, {card['clip']}); "
        f"the nearest two that are not lie at {card['next_clip_distance']}."
    ]


def as_json(card: Mapping[str, Any]) -> str:
    """Return the card for programs."""
    return json.dumps(card, indent=2)
