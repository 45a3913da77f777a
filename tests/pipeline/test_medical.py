"""DICOM and NIfTI through split, run and every report: nothing that is written or printed says whom they show."""

from __future__ import annotations

import gzip
import json
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import medical
import numpy as np
import pandas as pd
import pydicom
import pytest
from conftest import FAST, as_arguments, call, make_fast

from auditor import images, registry

PERSONAL = ("PN", "LO", "SH", "LT", "ST", "UI", "DA", "TM", "DT", "AS", "AE")  # kinds of values of DICOM
PEOPLE, EACH = 40, 3
CAPTURED = [{"BurnedInAnnotation": "YES"}, {"PhotometricInterpretation": "MONOCHROME1"}]


def write_dicom(root: Path) -> str:
    medical.patients(root, PEOPLE, EACH, PixelPaddingValue=0, InstitutionAddress="Elsewhere Street 5", **CAPTURED[0])
    medical.patients(root / "more", 2, EACH, seed=70_000, **CAPTURED[1])
    return str(root)


def write_nifti(root: Path) -> str:
    for number in range(PEOPLE):
        name = medical.PEOPLE[number % 4].replace("^", "_")
        volume = np.stack([medical.film(100 * number + i, 16, 256) for i in range(EACH + 2)], axis=2).astype(np.uint8)
        path = root / f"sub-{name}{number}/ses-2021{1 + number % 12:02d}17" / f"{name}_{number}_T1w.nii.gz"
        medical.nifti(
            path, volume, descrip=f"{name} MRN-{70_400 + number}".encode(), aux_file=f"ACC{number:06d}".encode()
        )
    return f"{root}:axial=1-{EACH}"


WRITERS = {"dicom": write_dicom, "nifti": write_nifti}


def secrets_of(root: Path) -> set[str]:
    """Every name and value from which a person follows, and every name and path of a file or folder inside."""
    found = {str(root), *medical.PEOPLE, *(part for each in medical.PEOPLE for part in each.split("^"))}
    for path in root.rglob("*"):
        inside = path.relative_to(root).as_posix()
        found |= {str(path), inside, *inside.split("/"), path.name.split(".")[0]}
        if not path.is_file():
            continue
        if path.name.endswith(".nii.gz"):
            header = gzip.decompress(path.read_bytes())[:348]
            found |= set(header[148:228].decode().strip("\0").split()) | {header[228:252].decode().strip("\0")}
            continue
        data = pydicom.dcmread(path)
        for each in (*data.file_meta, *data):
            if each.VR in PERSONAL and each.value:
                found |= {str(each.value), *str(each.value).split("^")}
    return {each for each in found if len(each) > 3} - {"ISO_IR 192", "more"}  # "more than" is no name of a folder


def texts(root: Path) -> Iterator[tuple[str, str]]:
    """Every file below a folder as text, tables unpacked, with its own name."""
    for path in root.rglob("*"):
        yield str(path), path.relative_to(root).as_posix()
        if not path.is_file():
            continue
        content = path.read_bytes()
        yield str(path), content.decode("utf-8", "replace")
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
            yield str(path), frame.to_csv() + json.dumps([str(each) for each in frame.attrs.values()])


@pytest.fixture(scope="module", params=WRITERS)
def audited(request, tmp_path_factory, saved_inputs) -> tuple[Path, Path, list[str]]:
    """Medical data audited: where they lie, everything that was written, and everything that was printed."""
    base = tmp_path_factory.mktemp(request.param)
    root, out = base / "clinic", base / "out"
    data = WRITERS[request.param](root)
    lists = {name: str(out / f"split/{name}.csv") for name in ("train-a", "train-b", "heldout")}
    options = {**saved_inputs.options, **lists, **FAST, "steps": "90,200", "spaces": "pixel", "out": str(out / "run")}
    formats = {
        name: out / f"report.{name}" for name in (*registry.REPORTS, *registry.FOLDER_REPORTS) if name != "terminal"
    }
    said = []
    with pytest.MonkeyPatch.context() as patch:
        make_fast(patch)
        patch.setenv("XDG_CACHE_HOME", str(out / "cache"))
        for command in (
            ["split", data, "--out", out / "split"],
            ["split", data, "--out", out / "again", "--json"],
            ["run", *as_arguments({**options, "dry-run": ""})],
            ["run", *as_arguments(options)],
            ["run", *as_arguments(options)],  # from the cache
            ["report", out / "run", *(each for name, path in formats.items() for each in (f"--{name}", path))],
            ["report", out / "run"],
            ["report", out / "run", "--no-pictures", "--markdown", out / "page.md"],
            ["show", out / "run", "--step", "200"],
            ["show", out / "run", "--step", "200", "--json"],
            ["check", out / "run"],
            ["verify", out / "run"],
        ):
            done = call(*map(str, command))
            assert done.status == 0 or command[0] == "check", (command, done.err)
            said += [done.out, done.err]
    (out / "printed").write_text("\n".join(said))
    assert {f"report.{name}" for name in formats} <= set(os.listdir(out))
    return root, out, said


def test_nothing_that_is_written_or_printed_names_anybody_or_any_file(audited):
    root, out, _ = audited
    secrets, found = secrets_of(root), defaultdict(set)
    assert len(secrets) > 4 * PEOPLE
    for path, text in texts(out):
        for each in secrets:
            if each in text:
                found[each].add(path)
    assert not found


def test_the_search_finds_what_it_looks_for(audited, tmp_path):
    root, _, _ = audited
    name = next(each.name for each in root.rglob("*") if each.is_file())
    pd.DataFrame({"id": [name] * 50}).to_parquet(tmp_path / "x.parquet")
    assert any(each in text for _, text in texts(tmp_path) for each in secrets_of(root))


def test_nobody_is_in_two_sets_and_every_picture_is_in_one(audited):
    root, out, _ = audited
    lists = {name: pd.read_csv(out / f"split/{name}.csv") for name in ("train-a", "train-b", "heldout")}
    every = pd.concat([each.assign(set=name) for name, each in lists.items()])
    n_files = sum(each.is_file() for each in root.rglob("*"))
    assert len(every) == every.path.nunique() == (n_files if "nifti" not in str(root) else n_files * EACH)
    assert every.groupby("group").set.nunique().max() == 1
    assert every.group.nunique() <= PEOPLE
    by_file = every.assign(file=every.path.str.partition("/")[0])
    assert by_file.groupby("file").set.nunique().max() == 1


def test_the_run_and_its_cards_tell_how_pictures_were_read(audited):
    root, out, said = audited
    card = (out / "split/split.md").read_text()
    page = (out / "report.html").read_text()
    if "nifti" in str(root):
        return
    for text in (card, page, *said[:1]):
        assert "text is burned into them" in text and "VOI LUT" in text and "MONOCHROME1" in text


def test_the_copies_of_an_image_are_found_by_their_ids(audited):
    """What a report names is found again among the files, by whoever has them."""
    import hashlib

    root, out, _ = audited
    whole = {hashlib.sha256(each.read_bytes()).hexdigest()[:16] for each in root.rglob("*") if each.is_file()}
    source = images.open_source(f"{root}:axial=1-{EACH}" if "nifti" in str(root) else root)
    assert {each.partition("/")[0] for each in source.ids} == whole
    named = pd.read_parquet(out / "run/exposure.parquet")
    assert set(named["id"].str.partition("/")[0]) <= whole
