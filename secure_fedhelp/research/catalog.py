"""The studies on open data: who the hospitals are, what is public, what is kept for testing.

Every dataset is cut by *patient* into a test part, a public set, a reference part (it trains the teacher, and belongs
to no hospital) and the private pool. Heart disease and the retina have their four natural hospitals; elsewhere the pool
is dealt to six hospitals, 60/20/8/6/4/2 per cent, the first three large. A study file's ``[partition]`` deals it in
another way. MedMNIST names no patients, so there each image counts as one.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from secure_fedhelp.data.encoding import encode_rows
from secure_fedhelp.data.images import normalise
from secure_fedhelp.data.loaded import Progress, silent
from secure_fedhelp.data.npz import read_arrays
from secure_fedhelp.data.partition import split
from secure_fedhelp.data.records import Inputs, PublicSet, Records
from secure_fedhelp.data.rows import MISSING
from secure_fedhelp.errors import InvalidData, UnknownDataset
from secure_fedhelp.research.dealing import About, Dealt, deal, site_name
from secure_fedhelp.research.retina import CENTRES, FILE, read_retina
from secure_fedhelp.research.schema import numeric_column, rounded
from secure_fedhelp.research.study_file import Partition, Parts, SitePartition, SizesPartition
from secure_fedhelp.study.reading import RESULTS, read_bounded
from secure_fedhelp.study.sections import Column, DataSection, Tier

DATASETS = ("breast-cancer", "heart", "pneumonia", "breast", "retina")

HEART_SITES = {
    "cleveland": "processed.cleveland.data",
    "hungarian": "processed.hungarian.data",
    "long-beach": "processed.va.data",
    "switzerland": "processed.switzerland.data",
}
#: Natural hospitals, and which of them are large; elsewhere the pool is dealt by sizes.
NATURAL = {
    "heart": SitePartition(kind="site", large=("cleveland", "hungarian")),
    "retina": SitePartition(kind="site", large=tuple(name for name, tier in CENTRES if tier == "large")),
}

#: Name, and the categories as the UCI files code them (none: a number), in the files' order; the target follows.
HEART_COLUMNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("age", ()),
    ("sex", ("0", "1")),
    ("chest_pain", ("1", "2", "3", "4")),
    ("resting_pressure", ()),
    ("cholesterol", ()),
    ("fasting_sugar", ("0", "1")),
    ("resting_ecg", ("0", "1", "2")),
    ("largest_heart_rate", ()),
    ("exercise_angina", ("0", "1")),
    ("st_depression", ()),
    ("st_slope", ("1", "2", "3")),
    ("vessels", ()),
    ("thal", ("3", "6", "7")),
)


#: Text by the names of the columns, one a record.
Rows = Sequence[Mapping[str, str]]


@dataclass(frozen=True, eq=False)
class StudyData:
    """One dataset, dealt out. ``hospitals`` maps a name to its tier and records; no patient is in two parts."""

    hospitals: dict[str, tuple[Tier, Records]]
    public: PublicSet
    #: Each trains one foundation model of the study, none, one or two; they belong to no hospital.
    references: tuple[Records, ...]
    test: Records
    #: Keyword arguments of :class:`secure_fedhelp.study.plan.DataSection`.
    data_section_fields: dict[str, Any]
    #: What of the test part is a hospital's own patients, by its name; empty where hospitals were dealt from one pool.
    home: dict[str, Records] = field(default_factory=dict)
    #: What the loader has to say of the records.
    notes: tuple[str, ...] = ()
    #: Of a table: the rows of each hospital's records, and those of the test part, with the text that the source has.
    rows: dict[str, Rows] = field(default_factory=dict)
    test_rows: Rows = ()
    about: About = field(default_factory=About)


#: Small public sets on purpose: with a large one, training on it alone would do, and no study would be needed.
PARTS = {
    "breast-cancer": Parts(public=20, reference=40, test=140),
    "heart": Parts(public=30, reference=60, test=230),
    "pneumonia": Parts(public=60, reference=400),
    "breast": Parts(public=80, reference=80),
    "retina": Parts(public=10, reference=10, test=26),
}


def prepare(
    dataset: str, data_dir: Path | None, seed: int, partition: Partition | None = None, progress: Progress = silent
) -> StudyData:
    """Load ``dataset`` and deal it out by ``seed``, to its usual hospitals or as ``partition`` says.

    Only breast-cancer ships with the project (scikit-learn's table); the others are read from ``data_dir``. Raises
    UnknownDataset, InvalidPartition, or InvalidData if the files are missing or malformed.
    """
    dealt = deal_out(dataset, data_dir, seed, partition, progress)
    records = dealt.records
    public = PublicSet.of(records.inputs[dealt.public], records.labels[dealt.public])
    return make_study(dealt, public, [records.take(dealt.reference)])


def deal_out(
    dataset: str,
    data_dir: Path | None,
    seed: int,
    partition: Partition | None = None,
    progress: Progress = silent,
    taking_part: Collection[str] = (),
) -> Dealt:
    """What :func:`prepare` makes a study of: all records, and whose each is. Image sets tell their ``progress``; the
    tables are read in an instant. Hospitals that take no part may have too few patients."""
    makers: dict[str, Callable[[Path | None, Partition, np.random.Generator, Collection[str]], Dealt]] = {
        "breast-cancer": _breast_cancer,
        "heart": _heart,
        "pneumonia": partial(_medmnist, "pneumonia", progress),
        "breast": partial(_medmnist, "breast", progress),
        "retina": partial(_retina, progress),
    }
    if dataset not in makers:
        raise UnknownDataset(f"no dataset is called {dataset!r}")
    usual = NATURAL.get(dataset, SizesPartition(kind="sizes"))
    rng = np.random.default_rng([seed, DATASETS.index(dataset)])
    return makers[dataset](data_dir, partition or usual, rng, taking_part)


# --- tables ---------------------------------------------------------------------------------------------------------


def _breast_cancer(
    _: Path | None, partition: Partition, rng: np.random.Generator, taking_part: Collection[str]
) -> Dealt:
    from sklearn.datasets import load_breast_cancer

    table = load_breast_cancer()
    raw = np.asarray(table.data, dtype=np.float64)
    labels = np.asarray(table.target == 0, dtype=np.int64)  # scikit-learn calls malignant 0
    parts = PARTS["breast-cancer"]
    patients = _patients(len(labels))
    test, public, reference, pool = split(patients, labels, (parts.test, parts.public, parts.reference), rng)
    columns = tuple(
        Column(
            name=str(name).replace(" ", "_"), kind="numeric", center=rounded(values.mean()), scale=rounded(values.std())
        )
        for name, values in zip(table.feature_names, raw[public].T, strict=True)
    )
    texts = [[repr(float(value)) for value in row] for row in raw]
    inputs = encode_rows(((f"row {n}", row) for n, row in enumerate(texts, 1)), columns)
    everything = Records(inputs, labels, patients)
    sites = deal(partition, patients, labels, None, pool, rng, taking_part)
    fields = data_fields("breast-cancer", "table", ("benign", "malignant"), inputs.shape[1:], columns)
    rows = _rows(texts, everything, fields)
    return Dealt(everything, labels, partition, sites, public, reference, test, fields, rows=rows)


def _heart(folder: Path | None, partition: Partition, rng: np.random.Generator, taking_part: Collection[str]) -> Dealt:
    rows: list[tuple[str, ...]] = []
    labels: list[int] = []
    sites: list[str] = []
    for name, file in HEART_SITES.items():
        # The files name no patients, and two of them hold a row twice: a copy, not another patient.
        for row in dict.fromkeys(map(tuple, _heart_rows(_find(folder, file, "heart")))):
            sites.append(name)
            rows.append(row[:-1])
            labels.append(int(float(row[-1]) > 0))
    targets = np.asarray(labels, dtype=np.int64)
    strata = targets + 2 * np.unique(sites, return_inverse=True)[1]
    parts = PARTS["heart"]
    patients = _patients(len(targets))
    test, public, reference, pool = split(patients, strata, (parts.test, parts.public, parts.reference), rng)
    columns = tuple(
        _heart_column(name, cats, [rows[i][n] for i in public]) for n, (name, cats) in enumerate(HEART_COLUMNS)
    )
    inputs = encode_rows(((f"row {n}", row) for n, row in enumerate(rows, 1)), columns)
    everything = Records(inputs, targets, patients)
    hospitals = deal(partition, patients, targets, sites, pool, rng, taking_part)
    fields = data_fields("heart", "table", ("healthy", "diseased"), inputs.shape[1:], columns)
    texts = _rows(rows, everything, fields)
    return Dealt(everything, strata, partition, hospitals, public, reference, test, fields, sites, rows=texts)


def _rows(texts: Sequence[Sequence[str]], records: Records, fields: Mapping[str, Any]) -> list[dict[str, str]]:
    """A file's values by the names of the plan's columns, with the patient and the name of the class beside them."""
    names, plan = [column.name for column in fields["columns"]], DataSection.model_fields
    patient, target = plan["patient_id"].default, plan["target"].default
    return [
        {patient: who, **dict(zip(names, values, strict=True)), target: fields["classes"][int(label)]}
        for values, who, label in zip(texts, records.patients, records.labels, strict=True)
    ]


def _heart_rows(path: Path) -> list[list[str]]:
    """Rows of one UCI file; a cholesterol or pressure of 0 is how some sites wrote 'not measured'."""
    text = read_bounded(path, RESULTS).decode("utf-8")
    rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text, newline="")) if row]
    for number, row in enumerate(rows, 1):
        if len(row) != len(HEART_COLUMNS) + 1:
            raise InvalidData(f"{path.name}, line {number}: {len(row)} values, not {len(HEART_COLUMNS) + 1}")
        for place in (3, 4):
            if row[place] not in MISSING and float(row[place]) == 0:
                row[place] = ""
    return rows


def _heart_column(name: str, categories: tuple[str, ...], public_values: Sequence[str]) -> Column:
    if categories:
        return Column(name=name, kind="categorical", categories=categories)
    return numeric_column(name, public_values)


# --- images ---------------------------------------------------------------------------------------------------------


MEDMNIST = {"pneumonia": "pneumoniamnist.npz", "breast": "breastmnist.npz"}


def image_set(dataset: str, folder: Path | None, progress: Progress = silent) -> Records:
    """All records of an image data set (IMAGE_SETS), the test part included; raises InvalidData."""
    if dataset == "retina":
        return read_retina(_find(folder, FILE, "retina"), progress)[0]
    return _read_medmnist(dataset, folder, progress)[0]


def _read_medmnist(dataset: str, folder: Path | None, progress: Progress) -> tuple[Records, int]:
    """All records, and how many come before the official test part."""
    path = _find(folder, MEDMNIST[dataset], dataset)
    names = ("train", "val", "test")
    needed = [f"{part}_{what}" for part in names for what in ("images", "labels")]
    stored = read_arrays(path, needed, progress=progress)
    images = [normalise(stored[f"{part}_images"]) for part in names]
    labels = [stored[f"{part}_labels"].reshape(-1).astype(np.int64) for part in names]
    open_part = len(images[0]) + len(images[1])
    everything = Records(np.concatenate(images), np.concatenate(labels), _patients_of(np.concatenate(images)))
    tested = set(everything.patients[open_part:])  # a copy of a test image must not be trained on
    kept = [i for i, patient in enumerate(everything.patients) if i >= open_part or patient not in tested]
    return everything.take(kept), open_part - (len(everything) - len(kept))


def _patients_of(images: Inputs) -> tuple[str, ...]:
    """A patient for each distinct image: the files name none, and copies of an image are one person's."""
    first: dict[bytes, int] = {}
    return tuple(f"p{first.setdefault(image.tobytes(), number):05d}" for number, image in enumerate(images))


def _medmnist(
    dataset: str,
    progress: Progress,
    folder: Path | None,
    partition: Partition,
    rng: np.random.Generator,
    taking_part: Collection[str],
) -> Dealt:
    everything, open_part = _read_medmnist(dataset, folder, progress)
    test = np.arange(open_part, len(everything))  # the official test part, as in published figures
    parts = PARTS[dataset]
    patients, labels_of = everything.patients, everything.labels
    public, reference, pool = split(patients[:open_part], labels_of[:open_part], (parts.public, parts.reference), rng)
    sites = deal(partition, patients, labels_of, None, pool, rng, taking_part)
    names = ("normal", "pneumonia") if dataset == "pneumonia" else ("malignant", "benign")
    fields = data_fields(dataset, "image", names, everything.inputs.shape[1:], ())
    return Dealt(everything, labels_of, partition, sites, public, reference, test, fields)


def _retina(
    progress: Progress,
    folder: Path | None,
    partition: Partition,
    rng: np.random.Generator,
    taking_part: Collection[str],
) -> Dealt:
    everything, centres = read_retina(_find(folder, FILE, "retina"), progress)
    parts, patients = PARTS["retina"], everything.patients
    test, public, reference, pool = split(patients, centres, (parts.test, parts.public, parts.reference), rng)
    sites = [CENTRES[number][0] for number in centres]
    hospitals = deal(partition, patients, centres, sites, pool, rng, taking_part)
    fields = data_fields("retina", "image", ("background", "vessel"), everything.inputs.shape[1:], ())
    fields |= {"task": "segmentation"}
    return Dealt(everything, centres, partition, hospitals, public, reference, test, fields, sites)


# --- dealing --------------------------------------------------------------------------------------------------------


def make_study(dealt: Dealt, public: PublicSet, lessons: Sequence[Records]) -> StudyData:
    """The study of what was dealt, with this public set and this training of each teacher, of none, one or two."""
    records, home = dealt.records, dict[str, Records]()
    if isinstance(dealt.partition, SitePartition) and dealt.sites is not None:
        own = {name: [i for i in dealt.test if site_name(dealt.sites[i]) == name] for name in dealt.hospitals}
        home = {name: records.take(indices) for name, indices in own.items() if indices}
    return StudyData(
        hospitals={name: (tier, records.take(indices)) for name, (tier, indices) in dealt.hospitals.items()},
        public=public,
        references=tuple(lessons),
        test=records.take(dealt.test),
        data_section_fields={
            **dealt.fields,
            "public_sha256": public.sha256,
            "public_records": len(public),
            "public_labelled": public.labels is not None,
        },
        home=home,
        notes=dealt.notes,
        rows={n: [dealt.rows[i] for i in at] for n, (_, at) in dealt.hospitals.items()} if dealt.rows else {},
        test_rows=[dealt.rows[i] for i in dealt.test] if dealt.rows else (),
        about=dealt.about,
    )


def data_fields(
    dataset: str, kind: str, classes: tuple[str, ...], shape: tuple[int, ...], columns: tuple[Column, ...]
) -> dict[str, Any]:
    return {"dataset": dataset, "kind": kind, "classes": classes, "input_shape": shape, "columns": columns}


def _find(folder: Path | None, file: str, dataset: str) -> Path:
    """The file in ``folder`` or one level below it; InvalidData with a hint if it is nowhere."""
    hint = f"Download {file} (see the README, 'Data') and pass its folder with --data-dir."
    if folder is None:
        raise InvalidData(f"{dataset} does not ship with the project", hint)
    found = [path for path in (folder / file, *sorted(folder.glob(f"*/{file}"))) if path.is_file()]
    if not found:
        raise InvalidData(f"{folder}: no {file} there", hint)
    return found[0]


def _patients(count: int) -> tuple[str, ...]:
    return tuple(f"p{number:05d}" for number in range(count))
