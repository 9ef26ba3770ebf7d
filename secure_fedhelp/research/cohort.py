"""Who a study is of, in figures and words: patients, records and events of each part, and what is learnt from.

For simulations alone, where one researcher has all records. What a deployed hospital counts of its own stays there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from secure_fedhelp.data.records import Indices, Labels, Records
from secure_fedhelp.research.catalog import StudyData
from secure_fedhelp.study.sections import Column, Tier

#: A figure on a hospital's own test patients needs so many of each class: one over fewer is chance.
FEWEST_OF_A_CLASS = 10
#: Longer names are cut, and of more categories only the first are listed.
_LONGEST, _MOST_LISTED = 60, 8


@dataclass(frozen=True)
class Counts:
    """One part. ``classes``: patients with a record of each class (of masks: with a pixel of it), in the order of the
    cohort's classes; ``records_of`` the same in records."""

    patients: int
    records: int
    classes: tuple[int, ...]
    records_of: tuple[int, ...]


@dataclass(frozen=True)
class HospitalCounts:
    """One hospital's training records, and of hospitals that are as they came their own patients of the test part."""

    name: str
    tier: Tier
    training: Counts
    test: Counts | None = None


@dataclass(frozen=True)
class ColumnTaken:
    """A column that is learnt from: how it is encoded, and who says so."""

    name: str
    encoding: str
    source: str


@dataclass(frozen=True)
class Cohort:
    """Everything that a page says of a study's data."""

    classes: tuple[str, ...]
    #: Whether labels are masks.
    masked: bool
    hospitals: tuple[HospitalCounts, ...]
    #: None where the public set has no labels: nobody's classes are known then, and nor are its patients.
    public: Counts | None
    public_records: int
    #: Of each teacher.
    references: tuple[Counts, ...]
    test: Counts
    #: Of a table.
    columns: tuple[ColumnTaken, ...] = ()
    excluded: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    #: Who is predicted by which column, and which one says the part of a record.
    target: str | None = None
    split: str | None = None
    notes: tuple[str, ...] = ()

    def events(self, counts: Counts) -> str:
        """``ill 12, well 30``: patients of each class, and their records where those are more."""
        pairs = zip(self.classes, counts.classes, counts.records_of, strict=True)
        many = counts.records > counts.patients
        return ", ".join(f"{n} {p}" + (f" ({r} records)" if many and r != p else "") for n, p, r in pairs)


def cohort_of(data: StudyData) -> Cohort:
    """The cohort of a study's data as they were dealt."""
    fields, about = data.data_section_fields, data.about
    classes = tuple(map(_label, fields["classes"]))
    count = len(classes)
    hospitals = tuple(
        HospitalCounts(
            name, tier, _counts(records, count), _counts(data.home[name], count) if name in data.home else None
        )
        for name, (tier, records) in data.hospitals.items()
    )
    public = data.public
    return Cohort(
        classes=classes,
        masked=data.test.masked,
        hospitals=hospitals,
        public=None if public.labels is None else _of_labels(public.labels, count),
        public_records=len(public),
        references=tuple(_counts(records, count) for records in data.references),
        test=_counts(data.test, count),
        columns=tuple(_taken(column, about.said, own=data.about.inferred) for column in fields["columns"]),
        excluded=tuple(_label(name) or "(no name)" for name in about.excluded),
        left_out=about.left_out,
        target=_label(fields["target"]) if fields["kind"] == "table" and "target" in fields else None,
        split=None if about.split is None else _label(about.split),
        notes=tuple(data.notes),
    )


def enough_of_each(counts: Counts) -> bool:
    """Whether a figure that ranks classes may be told of these patients."""
    return all(patients >= FEWEST_OF_A_CLASS for patients in counts.classes)


def counts_of(records: Records, classes: int) -> Counts:
    """Patients and records of each class."""
    return _counts(records, classes)


def describe(column: Column) -> str:
    """How a column is encoded, in words for a person."""
    if column.kind == "numeric":
        said = f"number, centre {column.center:g}, scale {column.scale:g}"
    else:
        listed = ", ".join(map(_label, column.categories[:_MOST_LISTED]))
        more = len(column.categories) - _MOST_LISTED
        said = f"{len(column.categories)} categories: {listed}" + (f" and {more} more" if more > 0 else "")
    extra = [word for word, there in (("all others", column.other), ("missing", column.missing_indicator)) if there]
    return said + (f"; one more feature for {' and one for '.join(extra)}" if extra else "")


def _taken(column: Column, said: Iterable[str], own: bool) -> ColumnTaken:
    source = "the study file" if column.name in said else "the public part" if own else "the data set"
    return ColumnTaken(_label(column.name), describe(column), source)


def _counts(records: Records, classes: int) -> Counts:
    held = _holds(records.labels, classes)
    patients = np.asarray([held[group].any(axis=0) for group in records.by_patient], dtype=bool).reshape(-1, classes)
    return Counts(records.n_patients, len(records), _ints(patients.sum(axis=0)), _ints(held.sum(axis=0)))


def _of_labels(labels: Labels, classes: int) -> Counts:
    """Of a public set, whose file names no patients: each record by itself."""
    of = _ints(_holds(labels, classes).sum(axis=0))
    return Counts(len(labels), len(labels), of, of)


def _holds(labels: Labels, classes: int) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """[n, classes]: whether a record has a class, or its mask a pixel of it."""
    flat = labels.reshape(len(labels), -1)
    return np.stack([(flat == c).any(axis=1) for c in range(classes)], axis=1)


def _ints(values: Indices) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def _label(text: str) -> str:
    """Somebody else's word as it can stand on a page and a terminal: printable, and of a bounded length."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return shown if len(shown) <= _LONGEST else shown[: _LONGEST - 1] + "…"


def spans(found: Sequence[Mapping[str, int]]) -> dict[str, str]:
    """Of counts by name, one mapping a seed: the count, or ``least to most``."""
    names = dict.fromkeys(name for one in found for name in one)
    said = {}
    for name in names:
        values = [one[name] for one in found if name in one]
        said[name] = str(min(values)) if min(values) == max(values) else f"{min(values)} to {max(values)}"
    return said
