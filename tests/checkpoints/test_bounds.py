"""What a file of a few bytes may build is bounded: it is refused at once, and sound files of its kind are read."""

from __future__ import annotations

import io
import json
import pickle
import struct
import time
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from auditor import images
from auditor.checkpoints import headers
from auditor.diffusion import schedules
from auditor.errors import AuditError, CheckpointError


def nested(depth: int, wide: int = 2):
    """Return a tuple that holds one tuple several times, which holds one several times, ..."""
    value = (1,) * wide
    for _ in range(depth):
        value = (value,) * wide
    return value


def expanded(path) -> None:
    torch.save({"w": torch.zeros(1).as_strided((1000, 1000), (0, 0))}, path)


def huge_shape(path) -> None:
    header = json.dumps({"w": {"dtype": "F4", "shape": [2**40] * 1000, "data_offsets": [0, 4]}}).encode()
    path.with_suffix(".safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))


HOSTILE = {
    "nested keys": lambda path: pickled(path, b"\x80\x02}" + pickle.dumps(nested(60), 2)[2:-1] + b"K\x01s."),
    "wide tuples": lambda path: torch.save({"x": nested(7, 60)}, path),
    "more steps than tensors need": lambda path: pickled(path, b"\x80\x02]" + b")" * 1_000_001 + b"."),
    "views of stride 0": expanded,
    "shapes of many sides": huge_shape,
}


def pickled(path, content: bytes) -> None:
    """Write an archive as torch does whose structure is this pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3")


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_structure_that_would_grow_without_end_is_refused_in_no_time(tmp_path, kind):
    HOSTILE[kind](tmp_path / "model_1.pt")
    (path,) = tmp_path.iterdir()
    started = time.monotonic()
    with pytest.raises(CheckpointError):
        headers.read_header(path)
    assert time.monotonic() - started < 10


def test_what_trainers_save_is_read(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    content = {"w": whole, "part": whole[1:, ::2], "turned": whole.T, "one": torch.tensor(5.0), "none": torch.zeros(0)}
    content |= {
        "tied": whole,
        "step": 7,
        ("a", 1): 2,
        "sizes": ((1, 2), (3, (4, 5))),
        "opt": {0: {"betas": (0.9, 0.9)}},
    }
    for old in (False, True):
        torch.save(content, tmp_path / f"{old}.pt", _use_new_zipfile_serialization=not old)
        found = headers.read_header(tmp_path / f"{old}.pt").content
        assert found["part"].shape == (2, 2) and found["step"] == 7


@pytest.mark.parametrize("steps", [10**12, 10**400, 0, 2.5, True])
def test_a_schedule_of_more_steps_than_any_training_has_is_none(steps):
    assert schedules.problem(schedules.DDPM | {"num_train_timesteps": steps}) != ""
    assert schedules.problem(schedules.DDPM | {"num_train_timesteps": 4000}) == ""


# Data sets


def png(value: int = 0) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(out, "PNG")
    return out.getvalue()


def read(path) -> images.ImageSet:
    return images.read(path, "train-a", (8, 8, 1))


def zip_of(path, facts: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(3):
            archive.writestr(f"{i}.png", png(i))
        archive.writestr("dataset.json", facts)


@pytest.mark.parametrize(
    "facts", [b'{"labels":[' + b"[]," * 10**6 + b"[]]}", b"[" * 10**5, b'{"labels": 5}', b"[]", b'"x"']
)
def test_facts_beside_pictures_are_bounded_by_their_number(tmp_path, facts):
    zip_of(tmp_path / "x.zip", facts)
    with pytest.raises(AuditError):
        read(tmp_path / "x.zip")
    zip_of(tmp_path / "y.zip", json.dumps({"labels": [[f"{i}.png", i] for i in range(3)]}).encode())
    assert read(tmp_path / "y.zip").labels == ("0", "1", "2")


def test_more_pictures_than_a_file_has_room_for_are_refused_before_one_is_named(tmp_path):
    head = b"{'descr': '|u1', 'fortran_order': False, 'shape': (6000000, 2, 2)}"
    head += b" " * ((64 - (len(head) + 11) % 64) % 64) + b"\n"
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + bytes(24_000_000)
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", content)
    (tmp_path / "x.npy").write_bytes(content)
    rows = pa.table({"image": pa.array([None], pa.binary()).take(pa.array(np.zeros(600_000, int)))})
    pq.write_table(rows, tmp_path / "x.parquet")
    for name in ("x.npz", "x.npy", "x.parquet"):
        with pytest.raises(AuditError, match="claims to hold"):
            images.open_source(tmp_path / name)
    np.savez_compressed(tmp_path / "blank.npz", images=np.zeros((500, 8, 8), np.uint8))
    assert len(read(tmp_path / "blank.npz")) == 500


@pytest.mark.parametrize(
    "said",
    ["[]", '{"info": []}', '{"info": {"features": 5}}', '"x"', "1", "{", "[" * 10**5]
    + [
        json.dumps({"info": {"features": {"label": {"_type": "ClassLabel", "names": names}}}})
        for names in (5, [1], {"a": 1})
    ],
)
def test_what_a_table_says_of_its_columns_is_checked(tmp_path, said):
    pictures = pa.array([{"bytes": png(i), "path": None} for i in range(3)])
    table = pa.table({"image": pictures, "label": pa.array([0, 1, 0])})
    pq.write_table(table.replace_schema_metadata({b"huggingface": said.encode()}), tmp_path / "x.parquet")
    with pytest.raises(AuditError):
        read(tmp_path / "x.parquet")
    for sound in ("{}", '{"info": null}', '{"info": {"features": null}}'):
        pq.write_table(table.replace_schema_metadata({b"huggingface": sound.encode()}), tmp_path / "x.parquet")
        assert len(read(tmp_path / "x.parquet")) == 3


def test_pictures_that_a_table_names_are_part_of_what_it_depends_on(tmp_path):
    (tmp_path / "p.png").write_bytes(png(1))
    pictures = pa.array(
        [{"bytes": None, "path": str(tmp_path / "p.png")}], pa.struct({"bytes": pa.binary(), "path": pa.string()})
    )
    pq.write_table(pa.table({"image": pictures}), tmp_path / "x.parquet")
    before = images.open_source(tmp_path / "x.parquet").stamps
    (tmp_path / "p.png").write_bytes(png(2))
    assert images.open_source(tmp_path / "x.parquet").stamps != before
