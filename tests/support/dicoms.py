"""Small DICOM files written by hand: stored numbers and tags go in as they are, so that right values are known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)

Array = np.ndarray[Any, Any]
AXIAL = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
#: Rises along rows and columns, with negative and large numbers, so that a turned or mirrored image is another one.
STORED = (np.arange(20, dtype=np.int16).reshape(4, 5) * 37 - 200).astype(np.int16)


def image(stored: Array, **tags: Any) -> FileDataset:
    """A classic CT slice, or whatever ``tags`` make of it; a tag of None is written empty, one of ... is left out."""
    meta = FileMetaDataset()
    file = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = CTImageStorage, generate_uid()
    file.Modality, file.PatientID, file.SeriesInstanceUID = "CT", "p", "1.2.3.4"
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.Rows, file.Columns = stored.shape[-2:]
    if stored.ndim == 3:
        file.NumberOfFrames = len(stored)
    if stored.dtype.kind == "f":
        file.BitsAllocated = 8 * stored.dtype.itemsize
        setattr(file, "FloatPixelData" if stored.dtype == np.float32 else "DoubleFloatPixelData", stored.tobytes())
    else:
        file.BitsAllocated = file.BitsStored = 8 * stored.dtype.itemsize
        file.HighBit, file.PixelRepresentation = file.BitsStored - 1, int(stored.dtype.kind == "i")
        file.PixelData = stored.tobytes() + b"\0" * (stored.nbytes % 2)
        file["PixelData"].VR = "OW"
    change(file, **tags)
    return file


def change(data: Dataset, **tags: Any) -> Dataset:
    """The same data set with other tags: None writes an empty one, ... takes it away."""
    for name, value in tags.items():
        if value is ...:
            delattr(data, name)
        else:
            setattr(data, name, value)
    return data


def place(number: float, spacing: Sequence[float] = (0.5, 0.8), along: Sequence[float] = AXIAL) -> dict[str, Any]:
    """Tags of a slice that lies ``number`` millimetres along z."""
    return {
        "ImagePositionPatient": [-10.0, 20.0, float(number)],
        "ImageOrientationPatient": list(along),
        "PixelSpacing": list(spacing),
        "SliceThickness": 2.0,
    }


def enhanced(stored: Array, shared: dict[str, Any], own: Sequence[dict[str, Any]], **tags: Any) -> FileDataset:
    """An enhanced CT whose functional groups are items of the named sequences."""
    file = image(stored, SOPClassUID=EnhancedCTImageStorage, **tags)
    file.SharedFunctionalGroupsSequence = [_groups(shared)]
    file.PerFrameFunctionalGroupsSequence = [_groups(group) for group in own]
    return file


def rescaled(slope: float | None, intercept: float | None) -> dict[str, Any]:
    """The functional group of a slope and an intercept."""
    return {"PixelValueTransformationSequence": {"RescaleSlope": slope, "RescaleIntercept": intercept}}


def placed(number: float) -> dict[str, Any]:
    """The functional group of a place along z."""
    return {"PlanePositionSequence": {"ImagePositionPatient": [-10.0, 20.0, float(number)]}}


LIES: dict[str, Any] = {
    "PlaneOrientationSequence": {"ImageOrientationPatient": AXIAL},
    "PixelMeasuresSequence": {"PixelSpacing": [0.5, 0.8], "SliceThickness": 2.0},
}


def _groups(named: dict[str, Any]) -> Dataset:
    found = Dataset()
    for name, tags in named.items():
        setattr(found, name, [change(Dataset(), **tags)])
    return found


def save(path: Path, file: FileDataset, syntax: str = ExplicitVRLittleEndian) -> Path:
    """The file; its pixels are little endian and are swapped here where the syntax wants the other end first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if file.get("SOPClassUID"):
        file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID
    file.file_meta.MediaStorageSOPInstanceUID = file.get("SOPInstanceUID", "1.2")
    file.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian and "PixelData" in file:
        words = np.frombuffer(file.PixelData, dtype="<u4" if file.BitsAllocated == 32 else "<u2")
        file.PixelData = words.byteswap().tobytes()
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    file.set_original_encoding(implicit, little)
    file.save_as(path, implicit_vr=implicit, little_endian=little, enforce_file_format=True)
    return path


def compressed(path: Path, file: FileDataset, frames: Sequence[bytes], syntax: str, **how: Any) -> Path:
    """The file with compressed frames in place of its pixels."""
    file.PixelData = encapsulate(list(frames), **how)
    file["PixelData"].VR = "OB"
    file["PixelData"].is_undefined_length = True
    return save(path, file, syntax)


def lossless_jpeg(stored: Array, bits: int) -> bytes:
    """JPEG Lossless (process 14, first-order prediction) of unsigned numbers, after ITU-T T.81, annex H.

    Every category of differences has a code of five bits, so that no statistics are needed.
    """
    values = stored.astype(np.int64)
    guesses = np.roll(values, 1, axis=1)
    guesses[1:, 0], guesses[0, 0] = values[:-1, 0], 1 << (bits - 1)
    digits = "".join(_difference(int(rest)) for rest in ((values - guesses + 0x8000) % 0x10000 - 0x8000).flat)
    return _jpeg(0xC3, bits, stored.shape, [(0xC4, _codes(0, range(17)))], bytes([1, 1, 0, 1, 0, 0]), digits)


def extended_jpeg(tones: Array) -> bytes:
    """JPEG Extended with 12 bits (process 4): blocks of 8 x 8 pixels of one tone each, which it keeps exactly."""
    steps = np.diff(8 * (tones.astype(np.int64).ravel() - 2048), prepend=0)
    digits = "".join(_difference(int(step)) + "0" for step in steps)  # and no other frequencies
    tables = [(0xDB, b"\0" + b"\1" * 64), (0xC4, _codes(0, range(16))), (0xC4, bytes([0x10, 1, *[0] * 15, 0]))]
    shape = (8 * tones.shape[0], 8 * tones.shape[1])
    return _jpeg(0xC1, 12, shape, tables, bytes([1, 1, 0, 0, 63, 0]), digits)


def _difference(rest: int) -> str:
    size = abs(rest).bit_length()
    bits = "" if size in (0, 16) else f"{rest if rest > 0 else rest + (1 << size) - 1:0{size}b}"
    return f"{size:05b}{bits}"


def _codes(table: int, symbols: Sequence[int]) -> bytes:
    """A Huffman table whose codes have five bits each."""
    return bytes([table, *[0] * 4, len(symbols), *[0] * 11, *symbols])


def _jpeg(
    process: int, bits: int, shape: Sequence[int], tables: Sequence[tuple[int, bytes]], scan: bytes, digits: str
) -> bytes:
    def segment(marker: int, body: bytes) -> bytes:
        return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body

    frame = bytes([bits]) + shape[0].to_bytes(2, "big") + shape[1].to_bytes(2, "big") + bytes([1, 1, 0x11, 0])
    digits += "1" * (-len(digits) % 8)
    packed = bytes(int(digits[place : place + 8], 2) for place in range(0, len(digits), 8)).replace(b"\xff", b"\xff\0")
    tables = [*tables, (process, frame), (0xDA, scan)]
    return b"\xff\xd8" + b"".join(segment(*table) for table in tables) + packed + b"\xff\xd9"
