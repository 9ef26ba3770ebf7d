"""Images of a researcher's own, as the data of a study: an NPZ, or image files that are in a folder or an index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from secure_fedhelp.data.images import read_image_set
from secure_fedhelp.data.loaded import Loaded, Progress
from secure_fedhelp.data.loading import load_records
from secure_fedhelp.data.medmnist import is_medmnist
from secure_fedhelp.data.npz import array_names, read_arrays
from secure_fedhelp.data.reading import STANDARD
from secure_fedhelp.data.records import Labels, Records
from secure_fedhelp.data.rows import MISSING, columns_of, read_rows
from secure_fedhelp.data.suspicion import of_images
from secure_fedhelp.errors import InvalidConfiguration, InvalidData
from secure_fedhelp.research.catalog import data_fields
from secure_fedhelp.research.dealing import About, Dealt, deal
from secure_fedhelp.research.official import Split, cut_parts, read_split
from secure_fedhelp.research.sites import Chosen, choose_sites
from secure_fedhelp.research.study_file import OwnData, SitePartition, StudyFile
from secure_fedhelp.research.target import require_classes
from secure_fedhelp.study.sections import DataSection


@dataclass(frozen=True, eq=False)
class Pictures:
    """All images of a file or folder, and what it says of each, one entry a record; None where it says nothing."""

    records: Records
    notes: tuple[str, ...]
    sites: Sequence[str] | None = None
    #: Of a file with a test part of its own: whether each record is in it.
    tested: Sequence[bool] | None = None
    #: Whether ``sites`` are also of the records of that test part.
    sites_of_test: bool = True
    split: Sequence[str] | None = None


def read_pictures(study: StudyFile, data: OwnData, progress: Progress) -> Pictures:
    """Everything that is read of the files, once for all seeds. Raises InvalidData's kinds, InvalidConfiguration."""
    column = study.partition.column if isinstance(study.partition, SitePartition) else None
    if not data.files and is_medmnist(array_names(data.path)):
        return _with_test_part(study, data, column, progress)
    if data.files:
        loaded = _read_files(study.name, data, progress)
        sites, split = _beside(data, column), _beside(data, data.split)
    else:
        loaded = read_image_set(data.path, len(data.classes), "open", progress, data.reading or STANDARD)
        sites, split = (_array(data, name, len(loaded.records)) for name in (column, data.split))
    turned = (loaded.turned,) if loaded.turned else ()
    return Pictures(loaded.records, loaded.notes + turned, sites, split=split)


def deal_pictures(study: StudyFile, data: OwnData, pictures: Pictures, rng: np.random.Generator) -> Dealt:
    """The study's records and whose they are."""
    partition, name = study.partition, data.path.name
    assert partition is not None  # noqa: S101 - the study file has been checked
    everybody, sites = pictures.records, pictures.sites
    chosen = _chosen(study, pictures)
    records = everybody if len(chosen.kept) == len(everybody) else everybody.take(chosen.kept)
    sites = None if sites is None else [sites[i] for i in chosen.kept]
    strata, named = _strata(records), None
    if pictures.tested is not None:
        named = Split("test_images", tuple("test" if pictures.tested[i] else "hospitals" for i in chosen.kept))
    elif pictures.split is not None:
        places = [f"{name}, record {i + 1}" for i in chosen.kept]
        named = read_split([pictures.split[i] for i in chosen.kept], records.patients, str(data.split), places)
    cut = cut_parts(records.patients, strata, study.parts, named, name, rng)
    hospitals = deal(partition, records.patients, strata, sites, cut.pool, rng, study.hospitals, tuple(chosen.left_out))
    fields = _image_fields(study.name, data, records.inputs.shape[1:])
    fields |= {"task": "segmentation"} if records.masked else {}
    about = About(left_out=tuple(chosen.left_out.values()), split=data.split)
    known = sites if pictures.sites_of_test else None
    return Dealt(
        records, strata, partition, hospitals, cut.public, cut.reference, cut.test, fields, known, pictures.notes,
        about=about,
    )  # fmt: skip


def _chosen(study: StudyFile, pictures: Pictures) -> Chosen:
    """The records of sites that take part; a test part whose sites are not known stays whole."""
    patients, sites = pictures.records.patients, pictures.sites
    if sites is None or pictures.tested is None or pictures.sites_of_test:
        return choose_sites(study, patients, sites)
    tested = np.asarray(pictures.tested)
    known = np.flatnonzero(~tested)
    found = choose_sites(study, [patients[i] for i in known], [sites[int(i)] for i in known])
    return Chosen(np.concatenate([known[found.kept], np.flatnonzero(tested)]), found.left_out)


def _with_test_part(study: StudyFile, data: OwnData, column: str | None, progress: Progress) -> Pictures:
    """A file in MedMNIST's layout: the test part is last."""
    if study.parts is not None and study.parts.test:
        raise InvalidConfiguration(f"{data.path.name} has a test part of its own", "Leave test out of [parts].")
    if data.split is not None:
        raise InvalidConfiguration(f"{data.path.name} has a test part of its own", "Leave split out of [data].")
    classes, reading = len(data.classes), data.reading or STANDARD
    loaded = read_image_set(data.path, classes, "open", progress, reading)
    tested = read_image_set(data.path, classes, "test", progress, reading).records
    open_part, known = loaded.records, set(tested.patients)
    # A copy of a test image among the others would be its patient in two parts.
    kept = [i for i, patient in enumerate(open_part.patients) if patient not in known]
    sites, all_sites = None, True
    named = _array(data, column, len(open_part), len(open_part) + len(tested))
    if named is not None:
        later = named[len(open_part) :]
        all_sites = bool(later)
        sites = [*(named[number] for number in kept), *(later or [""] * len(tested))]
    everything = _joined(open_part.take(kept), tested)
    flags = [False] * len(kept) + [True] * len(tested)
    return Pictures(everything, loaded.notes, sites, flags, all_sites)


def _read_files(name: str, data: OwnData, progress: Progress) -> Loaded:
    """Image files by the loader of hospitals, which goes by a plan: by all of the plan that it asks for."""
    if not (data.listed or data.path.is_dir()):
        raise InvalidData(f"{data.path}: no such folder", "[data] path is relative to the study file.")
    if data.listed:
        _require_classes(data)
    fields = _image_fields(name, data, data.input_shape or ())
    draft = DataSection(**fields, public_sha256="0" * 64, public_records=1)
    loaded = load_records(data.path, draft, progress=progress, reading=data.reading or STANDARD)
    # Hospitals get arrays, whose cards know no files any more.
    return replace(loaded, notes=loaded.notes + tuple(one.text for one in of_images(loaded.odd, draft)))


def _require_classes(data: OwnData) -> None:
    """An index's target by its kind, before thousands of images are read to find its first value unknown."""
    reading = data.reading or STANDARD
    header = columns_of(data.path, reading)
    if "mask" in header or data.target not in header:
        return  # its loader says what is missing
    texts = [row[data.target].strip() for _, row in read_rows(data.path, [data.target], reading=reading, patient=None)]
    require_classes([text for text in texts if text not in MISSING], data.target, data.path.name, data.classes)


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


def _beside(data: OwnData, column: str | None) -> list[str] | None:
    """What a column of an index, or of the ``patients.csv`` of a folder, says of each image."""
    if column is None:
        return None
    from secure_fedhelp.data.picture_sets import sites_of

    return sites_of(data.path, column, data.reading or STANDARD)


def _array(data: OwnData, column: str | None, *counts: int) -> list[str] | None:
    """What an array of an NPZ says of each record: in MedMNIST's layout of those of training and validation, which
    those of the test part may follow. Any other number is refused: nobody can tell which record each is of."""
    if column is None:
        return None
    named = read_arrays(data.path, [column])[column]
    if named.ndim != 1 or named.dtype.kind not in "iuU":
        raise InvalidData(f"{data.path.name}: {column!r} must be one list of text or integers")
    if len(named) not in counts:
        what = "parts" if column == data.split else "sites"
        records = " or ".join(map(str, counts))
        raise InvalidData(f"{data.path.name}: {column!r} names {len(named)} {what} for {records} records")
    return [str(name) for name in named]


def _joined(one: Records, other: Records) -> Records:
    labels: Labels = np.concatenate([one.labels, other.labels])
    return Records(np.concatenate([one.inputs, other.inputs]), labels, one.patients + other.patients)
