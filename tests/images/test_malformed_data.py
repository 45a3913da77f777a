"""Malformed data sets: one clear error or one excluded item each; never a traceback, a hang or unbounded memory."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import os
import pickle
import random
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hostile import Hostile
from PIL import Image

from auditor import images
from auditor.errors import AuditError

GRAY = (8, 8, 1)
SECONDS, MEMORY = 10, 200 * 2**20


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)


def encoded(kind: str = "PNG", pixels: np.ndarray | None = None) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture() if pixels is None else pixels).save(stream, kind)
    return stream.getvalue()


def folder(root: Path, **files: bytes) -> Path:
    (root / "set").mkdir()
    for name, content in files.items():
        (root / "set" / name.replace("__", ".")).write_bytes(content)
    return root / "set"


def zipped(root: Path, members: dict[str, bytes], name: str = "x.zip") -> Path:
    with zipfile.ZipFile(root / name, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return root / name


def npy(array: np.ndarray, **options) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def written(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def npy_header(shape: str, kind: str = "|u1") -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def zeros_zip(root: Path, member: str, mib: int, name: str = "x.zip", head: bytes = b"") -> Path:
    """A member that unpacks to many MiB of zeros."""
    with zipfile.ZipFile(root / name, "w", zipfile.ZIP_DEFLATED) as archive, archive.open(member, "w") as stream:
        stream.write(head)
        for _ in range(mib):
            stream.write(bytes(2**20))
    return root / name


def zeros_tar_gz(root: Path, mib: int) -> Path:
    member = tarfile.TarInfo("x.png")
    member.size = mib * 2**20
    with gzip.open(root / "x.tar.gz", "wb", compresslevel=9) as stream:
        stream.write(member.tobuf())
        for _ in range(mib):
            stream.write(bytes(2**20))
    return root / "x.tar.gz"


def tar_of(root: Path, *members: tuple[str, bytes, str]) -> Path:
    """Names, kinds of tar and targets of links; what is a file is a picture."""
    with tarfile.open(root / "x.tar", "w") as archive:
        for name, kind, target in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            member.size = len(encoded()) if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(encoded()))
    return root / "x.tar"


def tar_with_huge_header(root: Path) -> Path:
    member = tarfile.TarInfo("pax")
    member.type, member.size = tarfile.XHDTYPE, 2**33
    return written(root / "x.tar", member.tobuf(tarfile.GNU_FORMAT) + bytes(2048))


def duplicate_zip(root: Path) -> Path:
    with zipfile.ZipFile(root / "x.zip", "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a.png", encoded())
        archive.writestr("a.png", encoded())
    return root / "x.zip"


def encrypted_zip(root: Path) -> Path:
    content = bytearray(zipped(root, {"a.png": encoded()}).read_bytes())
    content[6] |= 1  # the flag of encryption, in the local header and in the directory
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    return written(root / "x.zip", bytes(content))


def hostile_pt(root: Path) -> Path:
    import torch

    torch.save({"images": torch.zeros(2, 1, 8, 8), "extra": Hostile()}, root / "x.pt")
    return root / "x.pt"


def expanded_pt(root: Path) -> Path:
    import torch

    torch.save(torch.zeros(1, 1, 8, 8).expand(10**9, 1, 8, 8), root / "x.pt")
    return root / "x.pt"


def tensor_pt(root: Path, damage: Callable[[bytes], bytes]) -> Path:
    import torch

    torch.save(torch.zeros(20, 1, 8, 8), root / "x.pt")
    return written(root / "x.pt", damage((root / "x.pt").read_bytes()))


def object_npz(root: Path) -> Path:
    with zipfile.ZipFile(root / "x.npz", "w") as archive:
        archive.writestr("images.npy", npy(np.array([picture(), Hostile()], object), allow_pickle=True))
    return root / "x.npz"


def parquet(root: Path, **columns: list) -> Path:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table(columns), root / "x.parquet")
    return root / "x.parquet"


def hub(root: Path, **files: str) -> Path:
    (root / "hub").mkdir()
    for name, content in files.items():
        (root / "hub" / name.replace("__", ".")).write_text(content)
    return root / "hub"


def link(path: Path, target: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)
    return path.parent


def parquet_of_objects(root: Path) -> Path:
    return parquet(root, image=[{"bytes": b"no picture", "path": None}])


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def text_file_as(name: str) -> Callable[[Path], Path]:
    return lambda root: written(root / name, "this is a text\n" * 100)


def empty_file_as(name: str) -> Callable[[Path], Path]:
    return lambda root: written(root / name, "")


def folder_as(name: str) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        (root / name).mkdir()
        return root / name

    return make


REFUSED: dict[str, Callable[[Path], object]] = {
    # pictures
    "a truncated picture": lambda root: folder(root, a__png=half(encoded())),
    "a picture with a broken checksum": lambda root: folder(root, a__png=encoded()[:60] + b"\xff" + encoded()[61:]),
    "a truncated jpeg": lambda root: folder(root, a__jpg=half(encoded("JPEG"))),
    "an empty picture": lambda root: folder(root, a__png=b""),
    "a web page called png": lambda root: folder(root, a__png=b"<html>404</html>"),
    "PostScript called png": lambda root: folder(root, a__png=b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n"),
    "a picture that claims a billion pixels": lambda root: folder(root, a__png=png_that_claims(40000, 40000)),
    "a picture that claims fewer": lambda root: folder(root, a__png=png_that_claims(12000, 12000)),
    "a picture one pixel wide": lambda root: folder(root, a__png=encoded("BMP", np.zeros((4_000_000, 1), np.uint8))),
    "a link that leads nowhere": lambda root: link(root / "set/a.png", "gone.png"),
    "a link to itself": lambda root: link(root / "set/a.png", "a.png"),
    "a folder without pictures": lambda root: folder(root, a__txt=b"x"),
    "a folder with nothing": folder_as("set"),
    "a path that is not there": lambda root: root / "nowhere",
    "a parent that is a file": lambda root: written(root / "file", "x") / "set",
    "a file without suffix": text_file_as("data"),
    "an unknown suffix": text_file_as("x.h5"),
    # archives
    "a truncated zip": lambda root: written(root / "y.zip", half(zipped(root, {"a.png": encoded()}).read_bytes())),
    "a zip that is a text": text_file_as("x.zip"),
    "an empty zip file": empty_file_as("x.zip"),
    "a zip without pictures": lambda root: zipped(root, {"a.txt": b"x"}),
    "a zip of names that lead outside": lambda root: zipped(root, {"../a.png": encoded()}),
    "a zip with one name twice": duplicate_zip,
    "an encrypted zip": encrypted_zip,
    "a zip that unpacks to 260 MiB": lambda root: zeros_zip(root, "a.png", 260),
    "a zip whose dataset.json is no JSON": lambda root: zipped(root, {"a.png": encoded(), "dataset.json": b"{"}),
    "a zip whose dataset.json is a list": lambda root: zipped(root, {"a.png": encoded(), "dataset.json": b"[1]"}),
    "a zip with a broken picture": lambda root: zipped(root, {"a.png": half(encoded())}),
    "a folder called zip": folder_as("x.zip"),
    "a tar that is a text": text_file_as("x.tar"),
    "an empty tar file": empty_file_as("x.tar"),
    "a truncated tar": lambda root: written(root / "x.tar", tarfile.TarInfo("a.png").tobuf()[:300]),
    "a tar of names that lead outside": lambda root: tar_of(
        root, ("../a.png", tarfile.REGTYPE, ""), ("/tmp/b.png", tarfile.REGTYPE, "")
    ),
    "a tar of links out and in a circle": lambda root: tar_of(
        root,
        ("a.png", tarfile.SYMTYPE, "/etc/passwd"),
        ("b.png", tarfile.LNKTYPE, "c.png"),
        ("c.png", tarfile.SYMTYPE, "b.png"),
        ("d.png", tarfile.CHRTYPE, ""),
    ),
    "a tar.gz that is a text": text_file_as("x.tar.gz"),
    "a tar.gz that unpacks to 260 MiB": lambda root: zeros_tar_gz(root, 260),
    "a tar whose header claims gigabytes": tar_with_huge_header,
    "a truncated tar.bz2": lambda root: written(root / "x.tar.bz2", half(bz2.compress(bytes(10240)))),
    # arrays
    "a truncated npy": lambda root: written(root / "x.npy", half(npy(np.zeros((9, 8, 8), np.uint8)))),
    "a npy that claims terabytes": lambda root: written(root / "x.npy", npy_header("(10000000000, 8, 8)")),
    "a npy with a negative shape": lambda root: written(root / "x.npy", npy_header("(-1, 8, 8)") + bytes(64)),
    "a npy whose header is code": lambda root: written(root / "x.npy", npy_header("__import__('os')")),
    "a npy of objects": lambda root: written(root / "x.npy", npy(np.array([Hostile(), 1], object), allow_pickle=True)),
    "a npz of objects": object_npz,
    "a npz whose member is longer than its shape": lambda root: zipped(
        root, {"a.npy": npy_header("(2, 8, 8)") + bytes(999)}, "x.npz"
    ),
    "a npz that claims terabytes": lambda root: zipped(root, {"a.npy": npy_header("(10000000000, 8, 8)")}, "x.npz"),
    "a npz that unpacks to 260 MiB": lambda root: zeros_zip(root, "a.npy", 260, "x.npz", npy_header("(4259840, 8, 8)")),
    "a npz without arrays": lambda root: zipped(root, {"a.txt": b"x"}, "x.npz"),
    "a folder called npy": folder_as("x.npy"),
    "an array of one axis": lambda root: written(root / "x.npy", npy(np.zeros(64, np.uint8))),
    "an array of five axes": lambda root: written(root / "x.npy", npy(np.zeros((2, 1, 1, 8, 8), np.uint8))),
    "an array of two channels": lambda root: written(root / "x.npy", npy(np.zeros((2, 8, 8, 2), np.uint8))),
    "an array of no pictures": lambda root: written(root / "x.npy", npy(np.zeros((0, 8, 8), np.uint8))),
    "an array of texts": lambda root: written(root / "x.npy", npy(np.full((2, 8, 8), "a"))),
    "an array with NaN": lambda root: written(root / "x.npy", npy(np.full((2, 8, 8), np.nan))),
    "an array from -1 to 1": lambda root: written(root / "x.npy", npy(np.linspace(-1, 1, 128).reshape(2, 8, 8))),
    "a pt with code in it": hostile_pt,
    "a plain pickle called pt": lambda root: written(root / "x.pt", pickle.dumps(Hostile())),
    "a truncated pt": lambda root: tensor_pt(root, half),
    "a pt that is a text": text_file_as("x.pt"),
    "an empty pt": empty_file_as("x.pt"),
    "a pt that is larger than its file": expanded_pt,
    # tables
    "a parquet that is a text": text_file_as("x.parquet"),
    "an empty parquet": empty_file_as("x.parquet"),
    "a parquet without pictures": lambda root: parquet(root, a=[1, 2]),
    "a parquet with two columns of pictures": lambda root: parquet(root, a=[encoded()], b=[encoded()]),
    "a parquet of broken pictures": parquet_of_objects,
    "a parquet without rows": lambda root: parquet(root, image=np.array([], object).tolist()),
    "a saved data set whose state.json leads outside": lambda root: hub(
        root, state__json=json.dumps({"_data_files": [{"filename": "../../x.arrow"}]}), a__arrow="x"
    ),
    "a saved data set of text": lambda root: hub(root, a__arrow="this is no Arrow stream"),
    "splits that lead outside": lambda root: hub(root, dataset_dict__json=json.dumps({"splits": ["../x"]})),
    "splits that are not there": lambda root: hub(root, dataset_dict__json=json.dumps({"splits": ["train"]})),
    "a dataset_dict.json that is no JSON": lambda root: hub(root, dataset_dict__json="{"),
    # lists
    "a list of nothing": lambda root: written(root / "x.csv", "path\n"),
    "a list without a column of paths": lambda root: written(root / "x.csv", "a,b\n1,2\n"),
    "a list of missing files": lambda root: written(root / "x.csv", "path\ngone.png\n"),
    "a list with a short line": lambda root: written(root / "x.csv", "path,label\na.png\n"),
    "a list that is binary": lambda root: written(root / "x.csv", bytes(range(256))),
    "a list of a folder": lambda root: written(folder(root, a__png=encoded()).parent / "x.csv", "path\nset\n"),
    "a list of itself": lambda root: written(root / "x.csv", "path,source\na.png,x.csv\n"),
    "a list of ids that are not there": lambda root: written(
        zipped(root, {"a.png": encoded()}).parent / "x.csv", "path,source\nb.png,x.zip\n"
    ),
    "a list with one path twice": lambda root: written(
        folder(root, a__png=encoded()).parent / "x.csv", "path\nset/a.png\nset/a.png\n"
    ),
    "an empty list": empty_file_as("x.csv"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_one_clear_error_at_once_and_in_bounded_memory(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = REFUSED[name](tmp_path)
    tracemalloc.start()
    started = time.monotonic()
    try:
        with pytest.raises(AuditError) as caught:
            images.read(source, "train-a", GRAY, scratch=tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.where and caught.value.remedy
    assert time.monotonic() - started < SECONDS and peak < MEMORY
    assert not Path("executed").exists()


def test_there_are_enough_of_them():
    assert len(REFUSED) >= 60


def test_pipes_and_sockets_with_the_name_of_a_picture_are_left_out_and_never_waited_for(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded())
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s.png"))
    found = images.read(tmp_path, "train-a", GRAY)
    assert found.ids == ("a.png",)
    assert found.notes == ("Pipes, sockets and devices with the name of a picture were left out: 2.",)


OTHER_USER = """
import os, sys
from auditor import images
from auditor.errors import AuditError
def every():
    said = []
    for source in sys.argv[1:]:
        try:
            images.read(source, "train-a", (8, 8, 1))
        except AuditError as error:
            assert error.where and error.remedy
            said.append(error.what)
    return said
every()  # imports what it needs, which the other user may have no right to
if os.getuid() == 0:
    os.setgid(65534), os.setuid(65534)
print(*every(), sep="\\n")
"""


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that others may enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)
        for path in Path(name).iterdir():
            path.chmod(0o700)


def test_what_may_not_be_read_is_one_clear_error(public):
    """As the system refuses it: a process without the right, since whoever runs these tests may have every right."""
    arrays = np.zeros((2, 8, 8), np.uint8)
    (public / "locked").mkdir()
    sources = [
        folder(public, a__png=encoded()),
        written(public / "locked/a.png", encoded()).parent,
        zipped(public, {"a.png": encoded()}),
        tar_of(public, ("a.png", tarfile.REGTYPE, "")),
        written(public / "x.npy", npy(arrays)),
        zipped(public, {"a.npy": npy(arrays)}, "x.npz"),
        written(public / "x.csv", "path\na.png\n"),
        parquet(public, image=[{"bytes": encoded(), "path": None}]),
    ]
    for path in (sources[0] / "a.png", *sources[1:]):
        path.chmod(0)
    command = [sys.executable, "-c", OTHER_USER, *map(str, sources)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(said) == len(sources) and all("ermission denied" in each for each in said), said


def test_a_loop_of_linked_folders_ends(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a.png").write_bytes(encoded())
    (tmp_path / "set/loop").symlink_to("..")
    (tmp_path / "set/self").symlink_to("self")
    assert images.read(tmp_path / "set", "train-a", GRAY).ids == ("a.png",)


@pytest.mark.parametrize("kind", ["png", "zip", "npz", "pt", "tar", "parquet"])
def test_flipped_bits_give_pictures_or_one_error_whatever_they_hit(kind, tmp_path):
    """Anything but an AuditError fails this test; formats without checksums may give other pixels."""
    pixels = np.stack([picture(i) for i in range(4)])
    if kind == "png":
        source = folder(tmp_path, a__png=encoded()) / "a.png"
    elif kind == "zip":
        source = zipped(tmp_path, {f"{i}.png": encoded(pixels=each) for i, each in enumerate(pixels)})
    elif kind == "npz":
        np.savez_compressed(tmp_path / "x.npz", images=pixels)
        source = tmp_path / "x.npz"
    elif kind == "pt":
        import torch

        torch.save(torch.from_numpy(pixels)[:, None], tmp_path / "x.pt")
        source = tmp_path / "x.pt"
    elif kind == "tar":
        source = tmp_path / "x.tar"
        with tarfile.open(source, "w") as archive:
            archive.add(folder(tmp_path, a__png=encoded()), "set")
    else:
        source = parquet(tmp_path, image=[encoded(pixels=each) for each in pixels])
    whole, rng, refused = source.read_bytes(), random.Random(0), 0
    for _ in range(150):
        content = bytearray(whole)
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        source.write_bytes(content)
        try:
            images.read(source.parent if kind == "png" else source, "train-a", GRAY)
        except AuditError:
            refused += 1
    assert refused
