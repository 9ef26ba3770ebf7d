"""DICOM and NIfTI volumes, slice by slice; the last volume is kept, since all slices of one are read together.

They need the extra ``imaging`` (pydicom, nibabel). Orientation is taken as stored: hospitals agree on it before the
study, since no public constant could repair it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from secure_fedhelp.data.dicom import read_dicom
from secure_fedhelp.data.formats import Format
from secure_fedhelp.data.geometry import onto_grid
from secure_fedhelp.data.nifti import read_nifti
from secure_fedhelp.data.pictures import Raw
from secure_fedhelp.data.volume import Volume
from secure_fedhelp.errors import InvalidData


class VolumeReader:
    """Reads the volumes of images and of their masks, and keeps the last of each."""

    def __init__(self, intensity: tuple[float, float]) -> None:
        #: Black and white, about which a negative image is turned; a mask's class numbers stay as they are.
        self._intensity = intensity
        self._images: dict[Path, Volume] = {}
        self._masks: dict[Path, Volume] = {}
        self._moved: dict[tuple[Path, Path], Volume] = {}

    def image(self, path: Path, form: Format) -> Volume:
        """The volume of an image. Raises MissingExtra without the package that the format needs, InvalidData."""
        if path not in self._images:
            self._images = {path: _read(path, form, self._intensity)}
        return self._images[path]

    def mask(self, path: Path, form: Format) -> Volume:
        """The volume of a mask as it is stored; raises as :meth:`image` does."""
        if path not in self._masks:
            self._masks = {path: _read(path, form, None)}
        return self._masks[path]

    def mask_of(self, image: Path, image_form: Format, path: Path, form: Format, where: str) -> Volume:
        """The volume of a mask on its image's grid; InvalidData if they do not lie on one (data/geometry.py)."""
        if (key := (image, path)) not in self._moved:
            volume = self.image(image, image_form)
            self._moved = {key: Volume(onto_grid(self.mask(path, form), volume, where), volume.affine)}
        return self._moved[key]


def slice_of(volume: Volume, number: int | None, name: str) -> Raw:
    """float32 [H, W] of slice ``number``, counted from 0; None for what has one slice only. Raises InvalidData."""
    depth = volume.values.shape[2]
    if number is None and depth != 1:
        raise InvalidData(f"{name}: {depth} slices; name one in the column 'slice' of an index, from 0", _SLICE)
    if number is not None and not 0 <= number < depth:
        raise InvalidData(f"{name}: no slice {number}; there are {depth}, counted from 0", _SLICE)
    return np.ascontiguousarray(volume.values[:, :, number or 0])


_SLICE = "An index names one slice a row; a folder of pairs has one slice a file (docs/data.md). Nothing was spent."


def _read(path: Path, form: Format, intensity: tuple[float, float] | None) -> Volume:
    return read_nifti(path) if form == "NIfTI" else read_dicom(path, intensity)
