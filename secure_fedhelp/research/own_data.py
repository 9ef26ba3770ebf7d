"""A study file's data: of the catalog, or a researcher's own table or image set, dealt out by patient and by the seed.

What the plan makes public (classes, columns, centres and scales) comes from the study file or from the public part
alone, as it would in a deployment: nothing is fitted to records that a hospital would keep.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from secure_fedhelp.data.encoding import category, encode_rows
from secure_fedhelp.data.images import read_image_set
from secure_fedhelp.data.loaded import Loaded, Progress, counted, silent
from secure_fedhelp.data.loading import load_records
from secure_fedhelp.data.medmnist import is_medmnist
from secure_fedhelp.data.npz import array_names, read_arrays
from secure_fedhelp.data.numbers import one_spelling, same_number
from secure_fedhelp.data.partition import split
from secure_fedhelp.data.patients import patients_of
from secure_fedhelp.data.reading import STANDARD
from secure_fedhelp.data.records import Indices, Labels, PublicSet, Records
from secure_fedhelp.data.rows import MISSING, read_rows
from secure_fedhelp.data.tables import require_distinct
from secure_fedhelp.errors import InvalidConfiguration, InvalidData, InvalidValue, MissingColumn, UnknownCategory
from secure_fedhelp.research.catalog import StudyData, data_fields, deal_out, image_set, make_study
from secure_fedhelp.research.dealing import Dealt, deal
from secure_fedhelp.research.public_part import strangers, with_public
from secure_fedhelp.research.schema import infer_column
from secure_fedhelp.research.study_file import (
    OwnData,
    Partition,
    Parts,
    PublicPart,
    SitePartition,
    StudyFile,
    TeacherPart,
)
from secure_fedhelp.research.teacher_part import lessons
from secure_fedhelp.study.sections import DataSection

#: Streams of random numbers of their own, beside those of the catalog's data sets.
_STREAM, _PUBLIC, _TEACHER = 1000, 1001, 1002


def study_data(study: StudyFile, data_dir: Path | None, progress: Progress = silent) -> StudyData:
    """The study's data, of the catalog (from ``data_dir``) or the researcher's own, dealt out by its seed to the
    hospitals that take part.

    Raises UnknownDataset, InvalidPartition, InvalidConfiguration, or InvalidData's kinds for what a file holds.
    """
    usual, part = _dealt(study, data_dir, progress), study.public or PublicPart()
    if unknown := [name for name in study.hospitals if name not in usual.hospitals]:
        known = ", ".join(usual.hospitals)
        raise InvalidConfiguration(f"{study.label} has no hospital {unknown[0]!r}", f"It has {known}.")
    taking_part = study.hospitals or tuple(usual.hospitals)
    rng = np.random.default_rng([study.seed, _PUBLIC])
    dealt = with_public(usual, part, taking_part, rng)
    if part.dataset is not None:
        inputs = strangers(dealt, part, image_set(part.dataset, data_dir, progress), rng)
    else:
        inputs = dealt.records.inputs[dealt.public]
    public = PublicSet.of(inputs, dealt.records.labels[dealt.public] if part.labelled else None)
    taught = lessons(dealt, study.teacher or TeacherPart(), np.random.default_rng([study.seed, _TEACHER]))
    hospitals = {name: dealt.hospitals[name] for name in taking_part}
    return make_study(replace(dealt, hospitals=hospitals), public, taught)


def _dealt(study: StudyFile, data_dir: Path | None, progress: Progress) -> Dealt:
    data, parts, partition = study.data, study.parts, study.partition
    if data is None or parts is None or partition is None:  # then the file has named a data set
        return deal_out(str(study.dataset), data_dir, study.seed, partition, progress)
    rng = np.random.default_rng([study.seed, _STREAM])
    make = _table if data.table else _images
    return make(study.name, data, parts, partition, rng, progress)


def _table(
    name: str, data: OwnData, parts: Parts, partition: Partition, rng: np.random.Generator, progress: Progress
) -> Dealt:
    reading = data.reading or STANDARD
    rows = read_rows(data.path, None, progress, reading, patient=data.patient)
    site = partition.column if isinstance(partition, SitePartition) else None
    needed = [data.patient, data.target, *([site] if site else []), *(column.name for column in data.columns)]
    if missing := [column for column in needed if column not in rows[0][1]]:
        raise MissingColumn(f"{data.path.name}: no column {', '.join(map(repr, missing))}")
    named = ((place, row[data.patient]) for place, row in rows)
    patients, notes = patients_of(named, data.path.name, data.patient, reading)
    raw = [row[data.target].strip() for _, row in rows]
    if unlabelled := [place for (place, _), text in zip(rows, raw, strict=True) if text in MISSING]:
        reason = (
            f"{data.path.name}, {unlabelled[0]}: no {data.target!r}, and {len(unlabelled) - 1} more records without"
        )
        raise InvalidValue(reason, "Fill it in, or leave these records out: an empty text would be a class of its own.")
    _require_test(data.path, parts)
    for what, names in (("classes", data.classes), *((f"column {c.name!r}", c.categories) for c in data.columns)):
        if double := same_number(names):
            raise InvalidConfiguration(f"{what}: {double[0]!r} and {double[1]!r} are one number", "Name it once.")
    raw = one_spelling(raw, f"{data.path.name}, column {data.target!r}", reading, listed=bool(data.classes))
    strata = np.unique(raw, return_inverse=True)[1]
    test, public, reference, pool = split(patients, strata, (parts.test, parts.public, parts.reference), rng)
    classes = data.classes or tuple(sorted({raw[index] for index in public}))
    kept = [column for column in rows[0][1] if column not in (data.patient, data.target, site)]
    columns = data.columns or tuple(infer_column(c, [rows[index][1][c] for index in public], reading) for c in kept)
    try:
        places = [f"{data.path.name}, {place}" for place, _ in rows]
        labels = [category(text, classes, f"{places[i]}, column {data.target!r}") for i, text in enumerate(raw)]
        told = zip(places, counted(rows, data.path.name, progress), strict=True)
        inputs = encode_rows(((place, [row[c.name] for c in columns]) for place, (_, row) in told), columns, reading)
    except UnknownCategory as error:
        hint = "Correct it, or name it in the study file."
        if not (data.classes and data.columns):
            hint = "What the study file leaves out is taken from the public part: name classes or [[data.columns]]."
        raise UnknownCategory(error.message, hint) from error
    except InvalidValue as error:
        hint = "Correct it, or say in the study file's [[data.columns]] what the column is."
        raise InvalidValue(error.message, hint) from error
    everything = Records(inputs, np.asarray(labels, dtype=np.int64), patients)
    require_distinct(data.path, [place for place, _ in rows], everything)  # as the hospital's own loader will
    sites = [row[site] for _, row in rows] if site else None
    hospitals = deal(partition, patients, everything.labels, sites, pool, rng)
    fields = data_fields(name, "table", _two(classes, data.path), inputs.shape[1:], columns)
    fields |= {"target": data.target, "patient_id": data.patient}
    return Dealt(everything, strata, partition, hospitals, public, reference, test, fields, sites, notes)


def _images(
    name: str, data: OwnData, parts: Parts, partition: Partition, rng: np.random.Generator, progress: Progress
) -> Dealt:
    classes, notes = len(data.classes), tuple[str, ...]()
    if not data.files and is_medmnist(array_names(data.path)):
        if parts.test:
            raise InvalidConfiguration(f"{data.path.name} has a test part of its own", "Leave test out of [parts].")
        loaded = read_image_set(data.path, classes, "open", progress, data.reading or STANDARD)
        records = loaded.records
        tested = read_image_set(data.path, classes, "test", progress, data.reading or STANDARD).records
        known = set(tested.patients)  # a copy of a test image among the others would be its patient in two parts
        kept = [i for i, patient in enumerate(records.patients) if patient not in known]
        sites = all_sites = None
        named = _sites(data, partition, len(records), len(records) + len(tested))
        if named is not None:
            sites, later = [named[number] for number in kept], named[len(records) :]
            all_sites = [*sites, *later] if later else None
        records = records.take(kept)
        everything = _joined(records, tested)
        test: Indices = np.arange(len(records), len(everything))
        public, reference, pool = split(records.patients, _strata(records), (parts.public, parts.reference), rng)
    else:
        _require_test(data.path, parts)
        if data.files:
            loaded = _read_files(name, data, progress)
        else:
            loaded = read_image_set(data.path, classes, "open", progress, data.reading or STANDARD)
        records = loaded.records
        notes = _copies(records)
        sites = all_sites = _sites(data, partition, len(records))
        everything, counts = records, (parts.test, parts.public, parts.reference)
        test, public, reference, pool = split(records.patients, _strata(records), counts, rng)
    strata = _strata(everything)
    hospitals = deal(partition, everything.patients, strata, sites, pool, rng)
    fields = _image_fields(name, data, everything.inputs.shape[1:])
    fields |= {"task": "segmentation"} if everything.masked else {}
    notes = loaded.notes + notes
    return Dealt(everything, strata, partition, hospitals, public, reference, test, fields, all_sites, notes)


def _copies(records: Records) -> tuple[str, ...]:
    """A note on images that are the same to the last value and said to be of several patients."""
    who: dict[bytes, set[str]] = {}
    for image, patient in zip(records.inputs, records.patients, strict=True):
        who.setdefault(hashlib.sha256(image.tobytes()).digest(), set()).add(patient)
    if not (several := sum(len(patients) > 1 for patients in who.values())):
        return ()
    return (f"{several} image(s) are of more than one patient: copies may be trained and tested on",)


def _read_files(name: str, data: OwnData, progress: Progress) -> Loaded:
    """Image files by the loader of hospitals, which goes by a plan: by all of the plan that it asks for."""
    if not (data.listed or data.path.is_dir()):
        raise InvalidData(f"{data.path}: no such folder", "[data] path is relative to the study file.")
    fields = _image_fields(name, data, data.input_shape or ())
    draft = DataSection(**fields, public_sha256="0" * 64, public_records=1)
    return load_records(data.path, draft, progress=progress, reading=data.reading or STANDARD)


def _image_fields(name: str, data: OwnData, shape: tuple[int, ...]) -> dict[str, Any]:
    fields = data_fields(name, "image", data.classes, shape, ())
    if data.files:
        fields |= {"target": data.target, "patient_id": data.patient}
        fields |= {"intensity": data.intensity} if data.intensity else {}
    return fields


def _strata(records: Records) -> Labels:
    """The class of each record; of a mask its commonest class but the background, 0 where it has no other."""
    if not records.masked:
        return records.labels
    classes = range(1, int(records.labels.max(initial=1)) + 1)
    pixels = np.stack([(records.labels == c).sum(axis=(1, 2)) for c in classes])
    return np.where(pixels.any(axis=0), 1 + pixels.argmax(axis=0), 0).astype(np.int64)


def _sites(data: OwnData, partition: Partition, *counts: int) -> list[str] | None:
    """The sites that a column beside image files names, or an array of an NPZ, one a record: in MedMNIST's layout those
    of training and validation, which those of the test part may follow. Any other number is refused: nobody can tell
    which record each is of."""
    if not isinstance(partition, SitePartition):
        return None
    if data.files:
        from secure_fedhelp.data.picture_sets import sites_of

        return sites_of(data.path, partition.column, data.reading or STANDARD)
    named = read_arrays(data.path, [partition.column])[partition.column]
    if named.ndim != 1 or named.dtype.kind not in "iuU":
        raise InvalidData(f"{data.path.name}: {partition.column!r} must be one list of text or integers")
    if len(named) not in counts:
        records = " or ".join(map(str, counts))
        raise InvalidData(f"{data.path.name}: {partition.column!r} names {len(named)} sites for {records} records")
    return [str(name) for name in named]


def _joined(one: Records, other: Records) -> Records:
    labels: Labels = np.concatenate([one.labels, other.labels])
    return Records(np.concatenate([one.inputs, other.inputs]), labels, one.patients + other.patients)


def _require_test(path: Path, parts: Parts) -> None:
    if not parts.test:
        raise InvalidConfiguration(f"{path.name} has no test part of its own", "Say in [parts] how many: test = ...")


def _two(classes: tuple[str, ...], path: Path) -> tuple[str, ...]:
    if len(classes) < 2:
        raise InvalidData(f"{path.name}: the public part has records of one class only", "Set more aside: [parts].")
    return classes
