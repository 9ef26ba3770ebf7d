"""Many image files as records: a folder of image-and-mask pairs, or a table that lists images of any kind.

A folder has ``images/`` and ``masks/`` with PNG files of the same stems, and perhaps ``patients.csv`` with the columns
``file`` (a stem) and the plan's patient column. An *index* is a CSV or Parquet table with a column ``file`` (PNG,
``.dcm``, NIfTI, or a folder with a DICOM series; relative to the index), the plan's patient and target columns, or in
place of the target a column ``mask`` with a file, and for volumes a column ``slice``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.data.doubles import copies_told
from secure_fedhelp.data.encoding import category
from secure_fedhelp.data.loaded import Loaded, Progress, silent
from secure_fedhelp.data.numbers import exact
from secure_fedhelp.data.patients import one_each, patients_of
from secure_fedhelp.data.pictures import Raw, fit_image, fit_mask, read_png, read_png_mask
from secure_fedhelp.data.reading import STANDARD, Reading
from secure_fedhelp.data.records import Records
from secure_fedhelp.data.rows import columns_of, read_rows
from secure_fedhelp.data.volumes import VolumeReader, is_volume
from secure_fedhelp.errors import InvalidData, InvalidValue
from secure_fedhelp.study.sections import DataSection

NO_PATIENTS = (
    "no patients.csv: each image counts as a patient. Where several images are of one person, the guarantee is for "
    "each image, not for the person."
)


def read_pairs(folder: Path, data: DataSection, progress: Progress = silent, reading: Reading = STANDARD) -> Loaded:
    """Records with masks from ``images/`` and ``masks/``, in the order of their stems; raises InvalidData."""
    images, masks = _by_stem(folder / "images"), _by_stem(folder / "masks")
    if alone := sorted(images.keys() ^ masks.keys()):
        where = "mask" if alone[0] in images else "image"
        raise InvalidData(f"{folder}: no {where} for {alone[0]!r}, and {len(alone) - 1} more without their other half")
    if not images:
        raise InvalidData(f"{folder}: no PNG files in images/ and masks/")
    if (folder / "patients.csv").exists():
        patients, notes = _patients(folder / "patients.csv", data.patient_id, reading)
    else:
        stems, told = one_each([(f"image {stem!r}", stem) for stem in images], folder.name, reading)
        patients, notes = dict(zip(images, stems, strict=True)), (NO_PATIENTS, *told)
    if unnamed := sorted(images.keys() - patients.keys()):
        raise InvalidData(f"{folder / 'patients.csv'}: no patient for {unnamed[0]!r}, and {len(unnamed) - 1} more")
    inputs, labels = [], []
    for number, (stem, path) in enumerate(images.items()):
        progress(folder.name, number, len(images))
        image, mask = read_png(path, data.input_shape[0]), read_png_mask(masks[stem])
        inputs.append(fit_image(image, data, path.name))
        labels.append(fit_mask(_same_size(mask, image, stem), data, masks[stem].name))
    progress(folder.name, len(images), len(images))
    records = Records(np.stack(inputs), np.stack(labels), tuple(patients[stem] for stem in images))
    return Loaded(records, notes=notes)


def read_index(path: Path, data: DataSection, progress: Progress = silent, reading: Reading = STANDARD) -> Loaded:
    """Records of the files that a table lists. Raises InvalidData, MissingColumn, UnknownCategory or MissingExtra."""
    there = columns_of(path, reading)
    masked = "mask" in there
    needed = ["file", data.patient_id, "mask" if masked else data.target, *(["slice"] if "slice" in there else [])]
    rows = read_rows(path, needed, progress, reading, patient=data.patient_id)
    named = ((place, row[data.patient_id]) for place, row in rows)
    patients, notes = patients_of(named, path.name, data.patient_id, reading)
    files, seen = _Files(path.parent, data, reading), dict[tuple[str, int | None], str]()
    inputs, labels = [], list[NDArray[np.int64]]()
    for number, (place, row) in enumerate(rows):
        progress(path.name, number, len(rows))
        where = f"{path.name}, {place}"
        key = os.path.realpath(path.parent / row["file"].strip()), _slice(row, where, reading)
        if key in seen:
            raise InvalidData(f"{where}: the same image as {seen[key]}")
        seen[key] = place
        image = files.image(row, where)
        inputs.append(fit_image(image, data, where))
        if masked:
            labels.append(fit_mask(_same_size(files.mask(row, where), image, where), data, row["mask"]))
        else:
            column = f"{where}, column {data.target!r}"
            labels.append(np.asarray(category(row[data.target], data.classes, column, reading)))
    progress(path.name, len(rows), len(rows))
    records = Records(np.stack(inputs), np.stack(labels), patients)
    return Loaded(records, notes=notes + copies_told(records, path.name))


def sites_of(path: Path, column: str, reading: Reading = STANDARD) -> list[str]:
    """What ``column`` of an index, or of the ``patients.csv`` of a folder, says of each record, in their order."""
    if not path.is_dir():
        return [row[column] for _, row in read_rows(path, [column], reading=reading, patient=None)]
    named = _by_file(path / "patients.csv", column, reading)
    return [named[stem][1] for stem in _by_stem(path / "images")]


def files_of(path: Path, reading: Reading = STANDARD) -> dict[str, Path]:
    """All files that are read for a folder of pairs, or for an index, by the name that they have there; OSError."""
    if path.is_dir():
        found = {f"{part}/{s}": file for part in ("images", "masks") for s, file in _by_stem(path / part).items()}
        who = path / "patients.csv"
        return found | ({who.name: who} if who.exists() else {})
    listed = {"": path}
    columns = [name for name in columns_of(path, reading) if name in ("file", "mask")]
    for _, row in read_rows(path, columns, reading=reading, patient=None) if columns else ():
        for name in (row.get("file", "").strip(), row.get("mask", "").strip()):
            series = path.parent / name
            if name and series.is_dir():  # a DICOM series, whose files may lie behind links
                inside = [Path(place) / file for place, _, files in os.walk(series, followlinks=True) for file in files]
                listed |= {file.relative_to(path.parent).as_posix(): file for file in sorted(inside)}
            elif name:
                listed[name] = series
    return listed


#: Left out without a word, these would be missed by nobody.
_OTHER_IMAGES = (".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".dcm", ".nii", ".gz", ".npy")


def _by_stem(folder: Path) -> dict[str, Path]:
    """The PNG files of a folder by their names without ending; InvalidData for images that would be left out."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if (ending := path.suffix.lower()) in _OTHER_IMAGES:
            raise InvalidData(f"{path}: no PNG, and nothing else is read here", "Convert it, or take it away.")
        if ending != ".png" or path.name.startswith("."):
            continue
        if path.stem in found:
            raise InvalidData(f"{path}: the same name as {found[path.stem].name}", "Rename one of them, and its mask.")
        found[path.stem] = path
    return found


class _Files:
    """The files beside an index; the last volume of images and the last of masks are kept."""

    def __init__(self, folder: Path, data: DataSection, reading: Reading) -> None:
        self._folder, self._data, self._reading = folder, data, reading
        self._images, self._masks = VolumeReader(data.intensity), VolumeReader(None)

    def image(self, row: Mapping[str, str], where: str) -> Raw:
        """float32 [C, H, W]."""
        path, channels = self._path(row, "file", where), self._data.input_shape[0]
        if not is_volume(path):
            return read_png(path, channels)
        if channels != 1:
            raise InvalidData(f"{where}: {path.name} has one channel, the plan says {channels}")
        return self._images.slice(path, _slice(row, where, self._reading))[None]

    def mask(self, row: Mapping[str, str], where: str) -> Raw:
        """float32 [H, W]."""
        path = self._path(row, "mask", where)
        return self._masks.slice(path, _slice(row, where, self._reading)) if is_volume(path) else read_png_mask(path)

    def _path(self, row: Mapping[str, str], column: str, where: str) -> Path:
        if not (name := row[column].strip()):
            raise InvalidValue(f"{where}, column {column!r}: no file")
        return self._folder / name


def _slice(row: Mapping[str, str], where: str, reading: Reading) -> int | None:
    text = row.get("slice", "").strip()
    number = exact(text, reading)  # 14.0 too: programs write so what has gaps
    if text and (number is None or number < 0 or number != int(number)):
        raise InvalidValue(f"{where}, column 'slice': {text[:40]!r} is no whole number from 0")
    return None if number is None else int(number)


def _same_size(mask: Raw, image: Raw, where: str) -> Raw:
    if mask.shape != image.shape[1:]:
        raise InvalidData(f"{where}: a mask of {mask.shape} for an image of {image.shape[1:]} pixels")
    return mask


def _patients(path: Path, column: str, reading: Reading) -> tuple[dict[str, str], tuple[str, ...]]:
    """Patient by stem, and notes for the card."""
    named = _by_file(path, column, reading)
    patients, notes = patients_of(named.values(), path.name, column, reading)
    return dict(zip(named, patients, strict=True)), notes


def _by_file(path: Path, column: str, reading: Reading) -> dict[str, tuple[str, str]]:
    """Where a file is named, and what ``column`` says of it. InvalidData if one is named twice: who would it be of?"""
    found: dict[str, tuple[str, str]] = {}
    for place, row in read_rows(path, ["file", column], reading=reading, patient=None):
        if (stem := row["file"].strip()) in found:
            raise InvalidData(f"{path.name}, {place}: {stem!r} is named already, {found[stem][0]}")
        found[stem] = (place, row[column])
    return found
