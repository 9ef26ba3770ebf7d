"""DICOM through MONAI (for the time being)."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.data.volume import Volume
from secure_fedhelp.errors import FedHelpError, InvalidData, MissingExtra

_SAMPLES, _PHOTOMETRIC, _FRAMES = "00280002", "00280004", "00280008"


def is_dicom(path: Path) -> bool:
    """By content; raises OSError."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_dicom(path: Path, intensity: tuple[float, float] | None) -> Volume:
    """A file or a folder that is a series."""
    if importlib.util.find_spec("pydicom") is None:
        raise MissingExtra(f"{path.name}: DICOM files need pydicom, of the extra 'imaging'")
    from monai.data.image_reader import PydicomReader
    from monai.transforms import LoadImage  # type: ignore[attr-defined]  # MONAI exports it by a star

    try:
        if path.is_dir():
            _require_one_series(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            array, header = LoadImage(reader=PydicomReader(prune_metadata=False), image_only=False)(str(path))
        volume = _upright(np.asarray(array, dtype=np.float32), header, path, intensity)
    except FedHelpError:
        raise
    except Exception as error:  # a malformed file: the readers raise many kinds
        raise InvalidData(f"{path}: not readable by MONAI's reader ({type(error).__name__})") from error
    if volume.ndim == 2:
        volume = volume[:, :, None]
    return Volume(np.ascontiguousarray(volume.swapaxes(0, 1)), None)


def _require_one_series(folder: Path) -> None:
    """InvalidData unless the DICOM files of a folder are one series whose slices have numbers of their own.

    MONAI's reader sorts by these and leaves out a slice without one: slices of two series would be mixed, all later
    ones be counted otherwise than in the index, and masks be of other images.
    """
    from pydicom import dcmread
    from pydicom.misc import is_dicom

    headers = {
        path.name: dcmread(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID", "InstanceNumber"])
        for path in sorted(folder.iterdir())
        if path.is_file() and is_dicom(path)
    }
    if len(headers) < 2:
        return
    hint = "Give each series a folder of its own, or list the files one by one."
    if len({header.get("SeriesInstanceUID") for header in headers.values()}) > 1:
        raise InvalidData(f"{folder}: more than one DICOM series", hint)
    first: dict[object, str] = {}
    for name, header in headers.items():
        number = header.get("InstanceNumber")
        if number is None:
            raise InvalidData(f"{folder / name}: a slice without an instance number, among others", hint)
        if number in first:
            raise InvalidData(f"{folder / name}: the instance number of {first[number]}", hint)
        first[number] = name


def _upright(
    volume: NDArray[np.float32], header: dict[str, Any], path: Path, intensity: tuple[float, float] | None
) -> NDArray[np.float32]:
    """A DICOM image with white at the large end; InvalidData for colours and films."""
    value = {tag: (header.get(tag) or {}).get("Value", [default])[0] for tag, default in _DEFAULTS.items()}
    if int(value[_SAMPLES]) != 1 or int(value[_FRAMES]) != 1:
        raise InvalidData(f"{path.name}: in colour or with several frames; one grey image a file is read")
    if intensity is not None and value[_PHOTOMETRIC] == "MONOCHROME1":  # the smallest value is white: a negative
        volume = intensity[0] + intensity[1] - volume
    return volume


_DEFAULTS: dict[str, Any] = {_SAMPLES: 1, _PHOTOMETRIC: "MONOCHROME2", _FRAMES: 1}
