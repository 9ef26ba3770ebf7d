"""DICOM files, DICOM series and NIfTI volumes through MONAI's readers: one slice as rows and columns of raw values.

They need the extra ``imaging`` (pydicom, nibabel). DICOM values are rescaled as the file says (Hounsfield units in CT).
Orientation is taken as stored: hospitals agree on it before the study, since no public constant could repair it.
"""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.data.pictures import Raw
from secure_fedhelp.errors import FedHelpError, InvalidData, MissingExtra

NIFTI = (".nii", ".nii.gz")
#: DICOM tags: samples per pixel, photometric interpretation, number of frames.
_SAMPLES, _PHOTOMETRIC, _FRAMES = "00280002", "00280004", "00280008"


def is_volume(path: Path) -> bool:
    """Whether a path is read by MONAI: NIfTI, DICOM (``.dcm``), or a folder, which is a DICOM series."""
    return path.name.lower().endswith((*NIFTI, ".dcm")) or path.is_dir()


class VolumeReader:
    """Reads slices, and keeps the last volume, since an index names the slices of a volume one after another."""

    def __init__(self, intensity: tuple[float, float] | None) -> None:
        #: Black and white, about which a negative is turned; None for masks, whose class numbers stay as they are.
        self._intensity = intensity
        self._path: Path | None = None
        self._volume: Raw = np.zeros((0, 0, 0), dtype=np.float32)

    def slice(self, path: Path, number: int | None) -> Raw:
        """float32 [H, W] of slice ``number``, from 0 along the last axis; None for what has one slice only.

        Raises MissingExtra without the package that the format needs, InvalidData for what is no such file or slice.
        """
        if path != self._path:
            self._volume, self._path = _read(path, self._intensity), path
        depth = self._volume.shape[2]
        if number is None and depth != 1:
            raise InvalidData(f"{path.name}: {depth} slices; name one in the column 'slice', from 0")
        if number is not None and not 0 <= number < depth:
            raise InvalidData(f"{path.name}: no slice {number}; there are {depth}, counted from 0")
        # MONAI's first axis runs along a row (x), ours down a column.
        return np.ascontiguousarray(self._volume[:, :, number or 0].T, dtype=np.float32)


def _read(path: Path, intensity: tuple[float, float] | None) -> NDArray[np.float32]:
    """[x, y, slices] of raw values."""
    nifti = path.name.lower().endswith(NIFTI)
    package = "nibabel" if nifti else "pydicom"
    if importlib.util.find_spec(package) is None:
        raise MissingExtra(f"{path.name}: {'NIfTI' if nifti else 'DICOM'} files need {package}, of the extra 'imaging'")
    from monai.data.image_reader import NibabelReader, PydicomReader
    from monai.transforms import LoadImage  # type: ignore[attr-defined]  # MONAI exports it by a star

    # With its pruned header a file could not say that it is inverted, coloured or a film.
    reader = NibabelReader() if nifti else PydicomReader(prune_metadata=False)
    try:
        if path.is_dir():
            _require_one_series(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            array, header = LoadImage(reader=reader, image_only=False)(str(path))
        volume = np.asarray(array, dtype=np.float32)
        if not nifti:
            volume = _upright(volume, header, path, intensity)
    except FedHelpError:
        raise
    except Exception as error:  # a malformed file: the readers raise many kinds
        raise InvalidData(f"{path}: not readable by MONAI's reader for {package} ({type(error).__name__})") from error
    if volume.ndim == 2:
        volume = volume[:, :, None]
    if volume.ndim != 3 or not np.isfinite(volume).all():
        raise InvalidData(f"{path.name}: shape {volume.shape}; one finite volume of slices is needed")
    return volume


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
