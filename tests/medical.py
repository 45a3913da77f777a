"""DICOM and NIfTI files as scanners and their converters write them, with everything that identifies a person."""

from __future__ import annotations

from pathlib import Path

import numpy as np

PEOPLE = ("Smith^John", "Müller^Änne", "Okonkwo^Ada", "Tanaka^Hiro")


def film(seed: int = 0, size: int = 16, high: int = 4096) -> np.ndarray:
    """A smooth picture of 12 bits."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0.05, 0.95, (5, 5))
    at = np.linspace(0, 4, size)
    rows = np.stack([np.interp(at, range(5), column) for column in coarse.T], axis=1)
    return (np.stack([np.interp(at, range(5), row) for row in rows]) * (high - 1)).astype(np.uint16)


def identity(number: int, image: int = 0) -> dict[str, str]:
    """What a scanner writes about a person, a visit and a picture."""
    return {
        "PatientID": f"MRN-{70_400 + number}",
        "PatientName": f"{PEOPLE[number % len(PEOPLE)]}{number}",
        "PatientBirthDate": f"19{40 + number % 50}0{1 + number % 9}17",
        "AccessionNumber": f"ACC{880_000 + number}",
        "StudyDate": f"2021{1 + number % 12:02d}{1 + image % 28:02d}",
        "StudyTime": f"0{number % 10}5913.{774_000 + number}",
        "ReferringPhysicianName": f"Referrer{number}^Ruth",
        "InstitutionName": "St. Elsewhere",
        "StudyInstanceUID": f"1.2.826.0.1.3680043.8.498.{1000 + number}.1",
        "SeriesInstanceUID": f"1.2.826.0.1.3680043.8.498.{1000 + number}.2",
        "FrameOfReferenceUID": f"1.2.826.0.1.3680043.8.498.{1000 + number}.3",
        "SOPInstanceUID": f"1.2.826.0.1.3680043.8.498.{1000 + number}.4.{image}",
    }


def dicom(path: Path, pixels: np.ndarray | None = None, bits: int = 0, raw: dict | None = None, **said) -> Path:
    """Write a file ``[h, w]``, ``[frames, h, w]`` or ``[..., 3]``; None removes an element; ``raw`` are file metas."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    pixels = film() if pixels is None else pixels
    color = pixels.shape[-1] == 3 and pixels.ndim > 2
    frames = pixels.shape[0] if pixels.ndim == 3 + color else None
    width = 8 * pixels.dtype.itemsize
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    default = {
        **identity(0),
        "SOPClassUID": CTImageStorage,
        "Modality": "CT",
        "SpecificCharacterSet": "ISO_IR 192",
        "Rows": pixels.shape[-2 - color],
        "Columns": pixels.shape[-1 - color],
        "SamplesPerPixel": 3 if color else 1,
        "PhotometricInterpretation": "RGB" if color else "MONOCHROME2",
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "BitsAllocated": width,
        "BitsStored": bits or width,
        "HighBit": (bits or width) - 1,
        **({"PlanarConfiguration": 0} if color else {}),
        **({"NumberOfFrames": frames} if frames is not None else {}),
    }
    for name, value in {**default, **said}.items():
        if value is not None:
            setattr(data, name, value)
    data.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    data["PixelData"].VR = "OW" if width > 8 else "OB"
    for name, value in (raw or {}).items():
        setattr(data.file_meta, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def patients(root: Path, people: int, each: int, seed: int = 0, **said) -> Path:
    """Write a folder per person and study, with files named after them; every second has no suffix."""
    for number in range(people):
        for image in range(each):
            who = identity(number, image)
            inside = root / f"{who['PatientName'].replace('^', '_')}_{who['PatientID']}" / who["StudyDate"]
            name = who["SOPInstanceUID"] if image % 2 else f"{who['AccessionNumber']}_{image}.dcm"
            pixels = film(seed + 1000 * number + image)
            window = {"WindowCenter": 2048, "WindowWidth": 4096}
            dicom(inside / name, pixels, 12, **{**who, **window, **said})
    return root


def nifti(path: Path, volume: np.ndarray | None = None, affine: np.ndarray | None = None, **fields) -> Path:
    """Write a volume ``[x, y, z]``; fields of the header are set as given."""
    import nibabel

    volume = np.stack([film(i, 8, 256) for i in range(4)], axis=2).astype(np.uint8) if volume is None else volume
    image = nibabel.Nifti1Image(volume, np.eye(4) if affine is None else affine)
    for name, value in {"descrip": b"Smith^John 20210317", "db_name": b"MRN-70400", **fields}.items():
        image.header[name] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path
