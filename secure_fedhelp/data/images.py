"""Image records and the public set as NPZ files, read without pickle and with their size checked first.

An NPZ is a ZIP archive, so a small file can unpack to a huge array: the declared sizes are added up before a byte is
unpacked. ``allow_pickle`` stays off, because a pickle is a program.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.data.records import Inputs, Labels, PublicSet, Records
from secure_fedhelp.errors import FedHelpError, InvalidData, InvalidValue, PublicSetMismatch
from secure_fedhelp.study.files import write_atomic
from secure_fedhelp.study.sections import DataSection

#: Largest unpacked size of one file.
LARGEST_BYTES = 8 * 2**30
#: Larger float inputs are refused: they would make a gradient infinite, and training would stop because of one record.
LARGEST_VALUE = 1e3
#: Grey values 0..255 become (v / 255 - 0.5) / 0.25: public constants, near centre and spread of most images.
CENTER, SCALE = 0.5, 0.25


def normalise(images: NDArray[np.uint8]) -> Inputs:
    """uint8 [n, height, width] or [n, channels, height, width] to float32 [n, channels, height, width]."""
    array = images[:, None] if images.ndim == 3 else images
    return np.asarray((array.astype(np.float32) / 255.0 - CENTER) / SCALE, dtype=np.float32)


def load_images(path: Path, data: DataSection) -> Records:
    """Records of an NPZ with ``images``, ``labels`` and ``patients``.

    ``images`` are uint8 (normalised here) or float32 (taken as they are), ``labels`` integers below the number of the
    plan's classes, one an image or, for a segmentation, one a pixel [n, height, width], ``patients`` text or integers,
    one each. Raises InvalidData or InvalidValue.
    """
    arrays = _read(path, ("images", "labels", "patients"))
    inputs = _inputs(arrays["images"], data, path)
    labels = _labels(arrays["labels"], data, path)
    patients = arrays["patients"]
    if patients.ndim != 1 or patients.dtype.kind not in "iuU":
        raise InvalidData(f"{path.name}: patients must be one list of text or integers")
    return Records(inputs, labels, tuple(str(patient) for patient in patients))


def write_images(path: Path, records: Records) -> None:
    """Write image records as an NPZ that :func:`load_images` reads back exactly."""
    _write(path, images=records.inputs, labels=records.labels, patients=np.asarray(records.patients, dtype=np.str_))


def load_public(path: Path, data: DataSection) -> PublicSet:
    """The public set of the plan from an NPZ with ``inputs`` and perhaps ``labels``.

    Raises PublicSetMismatch unless its hash is the plan's, InvalidData if the file is malformed.
    """
    arrays = _read(path, ("inputs",), ("labels",))
    try:
        inputs = _inputs(arrays["inputs"], data, path)
        labels = _labels(arrays["labels"], data, path) if "labels" in arrays else None
        return PublicSet(inputs, labels, data.public_sha256)
    except PublicSetMismatch as error:
        raise PublicSetMismatch(f"{path}: not the plan's public set, whose hash is {data.public_sha256}") from error


def write_public(path: Path, public: PublicSet) -> None:
    """Write a public set as an NPZ that :func:`load_public` reads back exactly."""
    arrays: dict[str, NDArray[Any]] = {"inputs": public.inputs}
    if public.labels is not None:
        arrays["labels"] = public.labels
    _write(path, mode=0o644, **arrays)


def _read(path: Path, needed: Sequence[str], optional: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            declared = sum(member.file_size for member in archive.infolist())
        if declared > LARGEST_BYTES:
            raise InvalidData(f"{path.name}: unpacks to {declared} bytes, at most {LARGEST_BYTES} are allowed")
        with np.load(path, allow_pickle=False) as stored:
            missing = [name for name in needed if name not in stored.files]
            if missing:
                raise InvalidData(f"{path.name}: no array {', '.join(repr(name) for name in missing)}")
            return {name: stored[name] for name in (*needed, *optional) if name in stored.files}
    except FedHelpError:
        raise
    except OSError as error:
        raise InvalidData(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # a malformed archive or array header: numpy and zipfile raise many kinds
        raise InvalidData(f"{path.name}: not a readable NPZ file ({type(error).__name__})") from error


def _inputs(array: NDArray[Any], data: DataSection, path: Path) -> Inputs:
    if array.dtype == np.uint8 and array.ndim in (3, 4):
        array = normalise(array)
    if array.dtype != np.float32:
        raise InvalidData(f"{path.name}: inputs of type {array.dtype}; uint8 or float32 is needed")
    if (np.abs(array[np.isfinite(array)]) > LARGEST_VALUE).any():
        raise InvalidValue(f"{path.name}: an input beyond {LARGEST_VALUE:g}; scale images to about one first")
    if array.shape[1:] != data.input_shape or not len(array):
        raise InvalidData(f"{path.name}: inputs of shape {array.shape[1:]}, the plan says {data.input_shape}")
    return array


def _labels(array: NDArray[Any], data: DataSection, path: Path) -> Labels:
    pixels, classes = data.input_shape[1:] if data.masked else (), len(data.classes)
    if array.dtype.kind not in "iu" or array.ndim < 1 or array.shape[1:] != pixels:
        what = f"integers [n, {pixels[0]}, {pixels[1]}], a mask an image" if pixels else "one list of integers"
        raise InvalidData(f"{path.name}: labels must be {what}")
    wrong = np.argwhere((array < 0) | (array >= classes))
    if len(wrong):
        raise InvalidValue(
            f"{path.name}: label {array[tuple(wrong[0])]} of record {wrong[0][0]} is not below {classes}"
        )
    return array.astype(np.int64)


def _write(path: Path, mode: int = 0o600, **arrays: NDArray[Any]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # numpy's stub reads ** as its flags
    write_atomic(path, buffer.getvalue(), mode=mode)
