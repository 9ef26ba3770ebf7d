"""One DICOM file, or the files of one series in a folder, as one volume.

The order of a series is that of its instance numbers, which must be how the slices lie; without any instance numbers,
along the normal of the slices. So a slice's number means what it meant when instance numbers alone decided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.data.dicom_files import read_header
from secure_fedhelp.data.dicom_geometry import FRAME_BY_FRAME, ONE_BY_ONE, Plane, affine_of, planes_of
from secure_fedhelp.data.dicom_kinds import DIRECTORY, LARGEST_VOLUME, class_of, require_understood
from secure_fedhelp.data.dicom_pixels import stored_frames
from secure_fedhelp.data.dicom_tags import Frames, Tags
from secure_fedhelp.data.dicom_values import Scale, require_all_said, said_of, scales_of, values_of, warn_of_units
from secure_fedhelp.data.volume import Volume
from secure_fedhelp.errors import InvalidData

#: What lies beside images and is none: everything else in a folder must be a slice, so that no damaged one is left out.
_BESIDE = (".txt", ".csv", ".tsv", ".json", ".xml", ".md", ".log", ".ini", ".db", ".html", ".pdf", ".sha256", ".md5")
#: What all slices of one volume share: whose they are, and what their values mean.
_SHARED = (
    *("PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "SOPClassUID", "Modality"),
    *("RescaleType", "Units", "Rows", "Columns"),
)


@dataclass(frozen=True, eq=False)
class _File:
    """What the header of an understood file says."""

    path: Path
    name: str
    frames: Frames
    scales: list[Scale]
    planes: list[Plane] | None

    def values(self, intensity: tuple[float, float] | None) -> NDArray[np.float32]:
        """float32 [frames, rows, columns]; reads the pixels."""
        root = self.frames.root
        if intensity is not None:
            warn_of_units(self.frames)
        stored = stored_frames(self.path, root, self.frames.count)
        inverted = root.text("PhotometricInterpretation") == "MONOCHROME1"
        return values_of(stored, self.scales, inverted=inverted, intensity=intensity, where=self.name)


def volume_of(path: Path, intensity: tuple[float, float] | None) -> Volume:
    """The frames of one file, in the order in which it has them. Raises InvalidData or MissingExtra."""
    file = _understood(path, read_header(path, path.name))
    values, affine = file.values(intensity), None
    if file.planes is not None and not _at_one_place(file.planes):
        names = [f"frame {number}" for number in range(1, file.frames.count + 1)]
        affine = affine_of(file.planes, names, file.name, FRAME_BY_FRAME)
    return Volume(np.moveaxis(values, 0, -1), affine)


def read_series(folder: Path, intensity: tuple[float, float] | None) -> Volume:
    """The slices of the only series in a folder, in their order. Raises InvalidData or MissingExtra."""
    files = [file for path in _paths(folder) if (file := _slice_in(path, folder)) is not None]
    if not files:
        raise InvalidData(f"{folder}: no DICOM files in this folder", "A series is a folder with its slices in it.")
    if len(files) == 1:
        return volume_of(files[0].path, intensity)
    _require_one_series(files, folder)
    said = [said_of(file.frames)[0] for file in files]
    require_all_said(said, [file.path.name for file in files], str(folder))
    files = _in_order(files, folder)
    planes = [file.planes[0] for file in files if file.planes is not None]
    if planes and len(planes) < len(files):
        unplaced = next(file.name for file in files if file.planes is None)
        raise InvalidData(f"{unplaced}: it does not say where it lies, as others of its series do", ONE_BY_ONE)
    affine = affine_of(planes, [file.path.name for file in files], str(folder)) if planes else None
    rows, columns = (files[0].frames.root.whole(keyword) or 0 for keyword in ("Rows", "Columns"))
    if rows * columns * len(files) > LARGEST_VOLUME:
        size = f"{rows} x {columns} x {len(files)} voxels, at most {LARGEST_VOLUME} in all"
        raise InvalidData(f"{folder}: {size}", ONE_BY_ONE)
    values = np.empty((len(files), rows, columns), dtype=np.float32)
    for number, file in enumerate(files):
        values[number] = file.values(intensity)[0]
    return Volume(np.moveaxis(values, 0, -1), affine)


def _understood(path: Path, header: Tags) -> _File:
    frames = require_understood(header)
    return _File(path, header.where, frames, scales_of(frames), planes_of(frames))


def _at_one_place(planes: Sequence[Plane]) -> bool:
    """Whether several frames lie at one place, as phases of a heart do: their order is time."""
    return len(planes) > 1 and all(np.abs(plane.origin - planes[0].origin).max() < 1e-3 for plane in planes)


def _paths(folder: Path) -> list[Path]:
    """The files of a folder that must be slices; InvalidData for a folder within, whose slices would be left out."""
    from secure_fedhelp.data.dicom import is_dicom

    found = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name.startswith("__MACOSX"):
            continue
        if path.is_dir():
            raise InvalidData(f"{path}: a folder within a series", "Name the folder that has the slices in it.")
        if path.is_file() and is_dicom(path):
            found.append(path)
        elif not path.name.lower().endswith(_BESIDE):
            hint = "Fetch the slice again, or take the file away. Nothing was spent."
            raise InvalidData(f"{path}: no DICOM by its content, among the slices of a series", hint)
    return found


def _slice_in(path: Path, folder: Path) -> _File | None:
    """A slice, or None for a DICOMDIR, which lists files."""
    header = read_header(path, f"{folder.name}/{path.name}")
    return None if class_of(header) == DIRECTORY else _understood(path, header)


def _require_one_series(files: Sequence[_File], folder: Path) -> None:
    """InvalidData unless all are slices of one series of one patient, each once."""
    roots = [file.frames.root for file in files]
    if len({root.text("SeriesInstanceUID") for root in roots}) > 1:
        raise InvalidData(f"{folder}: more than one DICOM series", _FOLDERS)
    for file in files:
        if file.frames.count > 1:
            reason = f"{file.name}: {file.frames.count} frames, in a series of {len(files)} files"
            raise InvalidData(reason, ONE_BY_ONE)
    for keyword in _SHARED:
        found = [root.values(keyword) for root in roots]
        for file, value in zip(files, found, strict=True):
            if value != found[0]:
                raise InvalidData(
                    f"{folder}: {keyword} of {file.path.name} and {files[0].path.name} differ", ONE_BY_ONE
                )
    localizers = ["LOCALIZER" in root.texts("ImageType") for root in roots]
    if any(localizers) and not all(localizers):
        name = files[localizers.index(True)].name
        raise InvalidData(f"{name}: a localizer among slices", "Take it out of the folder. Nothing was spent.")
    seen: dict[str, str] = {}
    for file, root in zip(files, roots, strict=True):
        uid = root.text("SOPInstanceUID")
        if uid and uid in seen:
            raise InvalidData(f"{file.name}: a copy of {seen[uid]} (SOPInstanceUID)", "Take one of them away.")
        seen[uid] = file.path.name


_FOLDERS = "Give each series a folder of its own, or list the files one by one."


def _in_order(files: Sequence[_File], folder: Path) -> list[_File]:
    """By instance number, or along the normal where no slice has one."""
    numbers = [file.frames.root.whole("InstanceNumber") for file in files]
    if all(number is None for number in numbers):
        if any(file.planes is None for file in files):
            raise InvalidData(f"{folder}: slices without instance numbers that do not say where they lie", _FOLDERS)
        first = files[0].planes[0].normal if files[0].planes else np.zeros(3)
        return sorted(files, key=lambda file: float(file.planes[0].origin @ first) if file.planes else 0.0)
    first_of: dict[int, str] = {}
    for file, number in zip(files, numbers, strict=True):
        if number is None:
            raise InvalidData(f"{folder / file.path.name}: a slice without an instance number, among others", _FOLDERS)
        if number in first_of:
            raise InvalidData(f"{folder / file.path.name}: the instance number of {first_of[number]}", _FOLDERS)
        first_of[number] = file.path.name
    return [file for _, file in sorted(zip(numbers, files, strict=True), key=lambda pair: pair[0] or 0)]
