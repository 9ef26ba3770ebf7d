"""Many image files as records: a folder of image-and-mask pairs, or a table that lists images of any kind.

A folder has ``images/`` and ``masks/`` with files of the same stems, and perhaps ``patients.csv`` with the columns
``file`` (a stem) and the plan's patient column. An *index* is a CSV or Parquet table with a column ``file`` (PNG, JPEG,
DICOM, NIfTI, or a folder with a DICOM series; relative to the index), the plan's patient and target columns, or in
place of the target a column ``mask`` with a file, and for volumes a column ``slice``. A file is what its content says.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import numpy as np

from secure_fedhelp.data.doubles import copies_told
from secure_fedhelp.data.encoding import category
from secure_fedhelp.data.formats import promises_image, stem_of
from secure_fedhelp.data.image_files import ImageFiles
from secure_fedhelp.data.index_rows import require_once, row_of, volume_by_volume
from secure_fedhelp.data.loaded import Loaded, Progress, silent
from secure_fedhelp.data.nifti import is_half, pixels_of
from secure_fedhelp.data.patients import one_each, patients_of
from secure_fedhelp.data.pictures import fit_image, fit_mask
from secure_fedhelp.data.reading import STANDARD, Reading
from secure_fedhelp.data.records import Inputs, Labels, Records
from secure_fedhelp.data.rows import columns_of, read_rows
from secure_fedhelp.errors import InvalidData
from secure_fedhelp.study.sections import DataSection

NO_PATIENTS = (
    "no patients.csv: each image counts as a patient. Where several images are of one person, the guarantee is for "
    "each image, not for the person."
)

_ONE_NAME = (
    "The folder has images/ and masks/, written so, and an image has the name of its mask, but for the ending: "
    "images/a17.png and masks/a17.png. Nothing was spent."
)


def read_pairs(folder: Path, data: DataSection, progress: Progress = silent, reading: Reading = STANDARD) -> Loaded:
    """Records with masks from ``images/`` and ``masks/``, in the order of their stems; raises InvalidData."""
    images, masks = _by_stem(folder / "images"), _by_stem(folder / "masks")
    if alone := sorted(images.keys() ^ masks.keys()):
        where = "mask" if alone[0] in images else "image"
        reason = f"no {where} for {alone[0]!r}, and {len(alone) - 1} more without their other half"
        raise InvalidData(f"{folder}: {reason}", _ONE_NAME)
    if not images:
        raise InvalidData(f"{folder}: no image files in images/ and masks/", _ONE_NAME)
    if (folder / "patients.csv").exists():
        patients, notes = _patients(folder / "patients.csv", images, data.patient_id, reading)
    else:
        stems, told = one_each([(f"image {stem!r}", stem) for stem in images], folder.name, reading)
        patients, notes = dict(zip(images, stems, strict=True)), (NO_PATIENTS, *told)
    if unnamed := sorted(images.keys() - patients.keys()):
        reason = f"{folder / 'patients.csv'}: no patient for {unnamed[0]!r}, and {len(unnamed) - 1} more"
        raise InvalidData(reason, "Its column file has the images' names, with or without their endings.")
    files, inputs, labels = ImageFiles(folder, data), [], []
    for number, (stem, path) in enumerate(images.items()):
        progress(folder.name, number, len(images))
        image, mask = files.pair(path, masks[stem], None, f"{folder.name}, {stem!r}")
        inputs.append(fit_image(image, data, path.name))
        labels.append(fit_mask(mask, data, masks[stem].name))
    progress(folder.name, len(images), len(images))
    records = Records(np.stack(inputs), np.stack(labels), tuple(patients[stem] for stem in images))
    notes += copies_told(records, folder.name) + files.notes.lines()
    return Loaded(records, notes=notes, turned=files.notes.turned, tones=files.tones, odd=files.odd)


def read_index(path: Path, data: DataSection, progress: Progress = silent, reading: Reading = STANDARD) -> Loaded:
    """Records of the files that a table lists. Raises InvalidData, MissingColumn, UnknownCategory or MissingExtra."""
    there = columns_of(path, reading)
    masked = "mask" in there
    needed = ["file", data.patient_id, "mask" if masked else data.target, *(["slice"] if "slice" in there else [])]
    rows = read_rows(path, needed, progress, reading, patient=data.patient_id)
    named = ((place, row[data.patient_id]) for place, row in rows)
    patients, notes = patients_of(named, path.name, data.patient_id, reading)
    listed = [row_of(path, place, row, masked, reading) for place, row in rows]
    require_once(listed)
    files, inputs, labels = ImageFiles(path.parent, data), dict[int, Inputs](), dict[int, Labels]()
    for done, number in enumerate(volume_by_volume(listed)):
        progress(path.name, done, len(rows))
        one, row = listed[number], rows[number][1]
        if one.mask is not None:
            image, mask = files.pair(one.file, one.mask, one.slice, one.where)
            labels[number] = fit_mask(mask, data, row["mask"])
        else:
            image = files.image(one.file, one.slice, one.where)
            column = f"{one.where}, column {data.target!r}"
            labels[number] = np.asarray(category(row[data.target], data.classes, column, reading))
        inputs[number] = fit_image(image, data, one.where)
    progress(path.name, len(rows), len(rows))
    order = range(len(rows))
    records = Records(np.stack([inputs[at] for at in order]), np.stack([labels[at] for at in order]), patients)
    notes += copies_told(records, path.name) + files.notes.lines()
    return Loaded(records, notes=notes, turned=files.notes.turned, tones=files.tones, odd=files.odd)


def sites_of(path: Path, column: str, reading: Reading = STANDARD) -> list[str]:
    """What ``column`` of an index, or of the ``patients.csv`` of a folder, says of each record, in their order."""
    if not path.is_dir():
        return [row[column] for _, row in read_rows(path, [column], reading=reading, patient=None)]
    images = _by_stem(path / "images")
    named = _by_file(path / "patients.csv", images, column, reading)
    return [named[stem][1] for stem in images]


def files_of(path: Path, reading: Reading = STANDARD) -> dict[str, Path]:
    """All files that are read for a folder of pairs, or for an index, by the name that they have there; OSError."""
    if path.is_dir():
        listed = {f"{part}/{s}": file for part in ("images", "masks") for s, file in _by_stem(path / part).items()}
        found = {name: one for key, file in listed.items() for name, one in _parts(key, file).items()}
        who = path / "patients.csv"
        return found | ({who.name: who} if who.exists() else {})
    listed = {"": path}
    columns = [name for name in columns_of(path, reading) if name in ("file", "mask")]
    for _, row in read_rows(path, columns, reading=reading, patient=None) if columns else ():
        for name in (row.get("file", "").strip(), row.get("mask", "").strip()):
            series = path.parent / name
            if not name or name in listed:
                continue
            if series.is_dir():  # a DICOM series, whose files may lie behind links
                inside = [Path(place) / file for place, _, files in os.walk(series, followlinks=True) for file in files]
                listed |= {file.relative_to(path.parent).as_posix(): file for file in sorted(inside)}
            else:
                listed |= _parts(name, series)
    return listed


def _parts(name: str, path: Path) -> dict[str, Path]:
    """A file under its name, and the other half of a NIfTI pair under a name of its own; raises OSError."""
    voxels = pixels_of(path)
    return {name: path} if voxels == path else {name: path, f"{name}, voxels": voxels}


def _by_stem(folder: Path) -> dict[str, Path]:
    """The image files of a folder by their names without ending, read here or refused later, so that none is missed.

    What is no image (a list, a preview's cache) is left out, and so are folders. InvalidData for two of one name.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_dir() or path.name.startswith(".") or not promises_image(path) or is_half(path):
            continue
        if (stem := stem_of(path)) in found:
            raise InvalidData(f"{path}: the same name as {found[stem].name}", "Rename one of them, and its mask.")
        found[stem] = path
    return found


def _patients(
    path: Path, images: Collection[str], column: str, reading: Reading
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Patient by stem, and notes for the card."""
    named = _by_file(path, images, column, reading)
    patients, notes = patients_of(named.values(), path.name, column, reading)
    return dict(zip(named, patients, strict=True)), notes


def _by_file(path: Path, images: Collection[str], column: str, reading: Reading) -> dict[str, tuple[str, str]]:
    """Where an image is named, with its ending or without, and what ``column`` says of it.

    InvalidData if one is named twice: who would it be of?
    """
    found: dict[str, tuple[str, str]] = {}
    for place, row in read_rows(path, ["file", column], reading=reading, patient=None):
        name = row["file"].strip()
        stem = name if name in images else stem_of(Path(name))
        if stem in found:
            raise InvalidData(
                f"{path.name}, {place}: {stem!r} is named already, {found[stem][0]}",
                "Keep one of the rows. Nothing was spent.",
            )
        found[stem] = (place, row[column])
    return found
