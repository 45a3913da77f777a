"""``audit scan``, ``split``, ``doctor`` and ``list``: what there is, before a run. Parse, call, print."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from auditor import config as settings

CLIP = settings.AuditConfig.clip_model, settings.AuditConfig.clip_weights
app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


SCAN_EXAMPLE = """Show what would be audited in folders, from names and headers alone: format, steps, weights, schedule.

Example: audit scan runs/a runs/b
"""


@app.command("scan", help=SCAN_EXAMPLE)
def scan_command(
    paths: Annotated[list[Path], typer.Argument(help="Folders of checkpoints, or of several series.")],
    json: Annotated[bool, typer.Option("--json", help="The same facts as JSON.")] = False,
    format: Annotated[str | None, typer.Option("--format", help="Checkpoint format; audit list names them.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="As for audit run.")] = None,
    model_config: Annotated[str | None, typer.Option("--model-config", help="As for audit run.")] = None,
    base: Annotated[str | None, typer.Option("--base", help="As for audit run.")] = None,
    autoencoder: Annotated[str | None, typer.Option("--autoencoder", help="As for audit run.")] = None,
    prediction: Annotated[str | None, typer.Option("--prediction", help="As for audit run.")] = None,
    image_shape: Annotated[str | None, typer.Option("--image-shape", help="As for audit run.")] = None,
    scheduler: Annotated[str | None, typer.Option("--scheduler", help="As for audit run.")] = None,
    trust_pickle: Annotated[bool, typer.Option("--trust-pickle", help="As for audit run.")] = False,
) -> None:
    from auditor.checkpoints import ModelSettings
    from auditor.inputs import scan

    shape = settings.shape_from(image_shape)
    told = ModelSettings(
        format=format,
        model=model,
        model_config=model_config,
        base=base,
        autoencoder=autoencoder,
        prediction=prediction,
        image_shape=shape,
        trust_pickle=trust_pickle,
    )
    found = scan.scan(paths, told, scheduler)
    (scan.write_json if json else scan.write_table)(found, sys.stdout)


SPLIT_EXAMPLE = """Split images into two exchangeable halves to train twins on, and a held-out set.

Duplicates, near-duplicates and groups stay together. Writes train-a.csv, train-b.csv and heldout.csv, which audit run
takes, and a card of what was done (split.md, split.json); with --for, also folders and configurations for a trainer.
For one training (--trainings 1): train.csv and heldout.csv.

Example: audit split data/films --out splits/first --group-by '^(patient[0-9]+)_'
"""


@app.command("split", help=SPLIT_EXAMPLE)
def split_command(
    data: Annotated[str, typer.Argument(help="Images: whatever --train-a of audit run takes.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the lists and the card.")],
    trainings: Annotated[
        int, typer.Option("--trainings", help="2: two halves; 1: one set to train on. Both with held-out images.")
    ] = 2,
    seed: Annotated[int, typer.Option("--seed", help="Of the drawing.")] = 0,
    heldout: Annotated[float, typer.Option("--heldout", help="Share of images that no training gets.")] = 0.2,
    group_by: Annotated[
        str | None,
        typer.Option("--group-by", help="Column, or regular expression on ids whose first group names the patient."),
    ] = None,
    near: Annotated[
        float, typer.Option("--near", help="Distance below which images are near-duplicates; 0: exact ones only.")
    ] = 0.2,
    window: Annotated[str | None, typer.Option("--window", help="LOW,HIGH for pictures of 16 bits or floats.")] = None,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave out pictures of kinds that are not read.")
    ] = False,
    near_clip: Annotated[
        float,
        typer.Option("--near-clip", help="The same in CLIP space, beside --near; 0: not looked for."),
    ] = 0.0,
    clip_model: Annotated[str, typer.Option("--clip-model", help="As in audit run.")] = CLIP[0],
    clip_weights: Annotated[str, typer.Option("--clip-weights", help="As in audit run.")] = CLIP[1],
    device: Annotated[str, typer.Option("--device", help="Of CLIP: cpu, cuda, cuda:1 or auto.")] = "auto",
    trainer: Annotated[
        str | None,
        typer.Option(
            "--for",
            help="Trainer for which folders, captions and configurations are written, too: sd-scripts, "
            "ai-toolkit, onetrainer, simpletuner or diffusers.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the card as JSON.")] = False,
) -> None:
    from auditor.cli.console import Chatter, shown

    limits = settings.window_from(window) if window else None
    with Chatter(), shown() as say:
        from auditor.pipeline.power import split_sentences
        from auditor.split import split
        from auditor.split.card import as_json, as_markdown, write
        from auditor.split.items import Options

        options = Options(
            data=data,
            trainings=trainings,
            seed=seed,
            heldout=heldout,
            group_by=group_by,
            near=near,
            window=limits,
            skip_unreadable=skip_unreadable,
            near_clip=near_clip,
            clip_model=clip_model,
            clip_weights=clip_weights,
            device=device,
            trainer=trainer,
        )
        done = split(options, out, lambda text: say(text, 0))
        say("checking the halves", 0)
        card = write(done, out, split_sentences)
    print(as_json(card) if json else as_markdown(card))


DOCTOR_EXAMPLE = """Look whether this machine can audit: packages, GPU, faiss, CLIP weights, disk, a short self-test.

Nothing is asked of the network. Exit status 1 where something must be solved first. Example: audit doctor
"""


@app.command("doctor", help=DOCTOR_EXAMPLE)
def doctor_command(
    clip_model: Annotated[str, typer.Option("--clip-model", help="As in audit run.")] = CLIP[0],
    clip_weights: Annotated[str, typer.Option("--clip-weights", help="As in audit run.")] = CLIP[1],
    json: Annotated[bool, typer.Option("--json", help="The findings as JSON.")] = False,
) -> None:
    from auditor.cli.console import Chatter, shown

    os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported
    with Chatter(), shown() as say:
        say("looking at this machine", 0)
        from auditor.cli import doctor
        from auditor.spaces import SpaceSettings

        findings = doctor.examine(SpaceSettings("cpu", clip_model, clip_weights), Path.cwd())
    print(doctor.as_json(findings) if json else doctor.as_text(findings))
    raise typer.Exit(int(any(each.status == "problem" for each in findings)))


@app.command("list", help="List checkpoint formats, feature spaces, metrics and reports. Example: audit list")
def list_command() -> None:
    from auditor import registry

    for kind, table in registry.TABLES.items():
        print(f"{kind}: {', '.join(table)}")
