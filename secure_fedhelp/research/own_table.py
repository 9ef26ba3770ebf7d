"""A table of a researcher's own, as the data of a study: which columns are taken, who is in which part, and whose."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from secure_fedhelp.data.encoding import category, encode_rows
from secure_fedhelp.data.loaded import Progress, counted
from secure_fedhelp.data.numbers import one_spelling, same_letters, same_number, says_nothing
from secure_fedhelp.data.patients import patients_of
from secure_fedhelp.data.reading import STANDARD
from secure_fedhelp.data.records import Indices, Records
from secure_fedhelp.data.rows import MISSING, columns_of, read_rows
from secure_fedhelp.data.tables import require_distinct
from secure_fedhelp.errors import InvalidConfiguration, InvalidData, InvalidValue, MissingColumn, UnknownCategory
from secure_fedhelp.research.catalog import data_fields
from secure_fedhelp.research.dealing import About, Dealt, deal
from secure_fedhelp.research.official import cut_parts, read_split
from secure_fedhelp.research.schema import infer_column, suspected_codes
from secure_fedhelp.research.sites import choose_sites
from secure_fedhelp.research.study_file import OwnData, SitePartition, StudyFile
from secure_fedhelp.research.target import require_classes
from secure_fedhelp.study.sections import Column

Rows = list[tuple[str, dict[str, str]]]


@dataclass(frozen=True)
class TableFile:
    """The names of all columns of a file, and the rows of those that the study reads."""

    header: tuple[str, ...]
    rows: Rows


#: What programs call a column that nobody has named, most often the numbers of the rows: their order may tell the
#: outcome. (pandas in CSV and in Parquet; readr.)
_UNNAMED = re.compile(r"|Unnamed: [0-9]+|__index_level_[0-9]+__|\.\.\.[0-9]+")
#: So many categories a column may have however few public records there are.
_FEW_WORDS = 10


@dataclass(frozen=True)
class Layout:
    """The columns of a file and what each is for: ``taken`` are learnt from, in the file's order."""

    taken: tuple[str, ...]
    excluded: tuple[str, ...]
    site: str | None


def layout_of(study: StudyFile, data: OwnData, header: Sequence[str]) -> Layout:
    """What each column is for. Raises MissingColumn for names that the file does not have, InvalidConfiguration if no
    column is left."""
    site = study.partition.column if isinstance(study.partition, SitePartition) else None
    listed = [column.name for column in data.columns]
    roles = [data.patient, data.target, *([site] if site else []), *([data.split] if data.split else [])]
    if missing := [name for name in (*roles, *listed, *data.exclude) if name not in header]:
        hint = f"It has {', '.join(header)}."
        raise MissingColumn(f"{data.path.name}: no column {', '.join(map(repr, dict.fromkeys(missing)))}", hint)
    if data.columns_only:
        taken = tuple(listed)
    else:
        left = {name for name in header if name not in (*roles, *data.exclude) and not _UNNAMED.fullmatch(name)}
        taken = tuple(name for name in header if name in listed or name in left)
    if not taken:
        raise InvalidConfiguration(f"{data.path.name}: no column is left to learn from", "Exclude fewer in [data].")
    return Layout(taken, tuple(name for name in header if name not in (*roles, *taken)), site)


def deal_table(study: StudyFile, data: OwnData, file: TableFile, rng: np.random.Generator, progress: Progress) -> Dealt:
    """The study's records and whose they are; ``file`` is of :func:`read_table_file`. Raises InvalidData's kinds, or
    InvalidConfiguration."""
    partition = study.partition
    assert partition is not None  # noqa: S101 - the study file has been checked
    layout, name, rows = layout_of(study, data, file.header), data.path.name, file.rows
    site_of = [row[layout.site] for _, row in rows] if layout.site else None
    chosen = choose_sites(study, [row[data.patient] for _, row in rows], site_of)  # first: what is left out may be odd
    rows = [rows[i] for i in chosen.kept]
    reading = data.reading or STANDARD
    patients, notes = patients_of(((place, row[data.patient]) for place, row in rows), name, data.patient, reading)
    places = [f"{name}, {place}" for place, _ in rows]
    raw = _targets(rows, data, places)
    named = None
    if data.split is not None:
        named = read_split([row[data.split] for _, row in rows], patients, data.split, places)
    strata = np.unique(raw, return_inverse=True)[1]
    cut = cut_parts(patients, strata, study.parts, named, name, rng)
    classes = data.classes or tuple(sorted({raw[index] for index in cut.public}))
    columns = _columns(data, layout, rows, cut.public)
    everything = _encoded(data, rows, raw, patients, classes, columns, progress)
    require_distinct(data.path, [place for place, _ in rows], everything)  # as the hospital's own loader will
    sites = [row[layout.site] for _, row in rows] if layout.site else None
    hospitals = deal(
        partition, patients, everything.labels, sites, cut.pool, rng, study.hospitals, tuple(chosen.left_out)
    )
    fields = data_fields(study.name, "table", _two(classes, name), everything.inputs.shape[1:], columns)
    fields |= {"target": data.target, "patient_id": data.patient}
    about = About(
        inferred=True,
        said=frozenset(column.name for column in data.columns),
        excluded=layout.excluded,
        left_out=tuple(chosen.left_out.values()),
        split=data.split,
        reading=data.reading or STANDARD,
    )
    return Dealt(
        everything, strata, partition, hospitals, cut.public, cut.reference, cut.test, fields, sites,
        notes=notes + _notes(data, columns) + _codes(data, columns, rows, cut.public),
        rows=[row for _, row in rows], about=about,
    )  # fmt: skip


def _codes(data: OwnData, columns: Sequence[Column], rows: Rows, public: Indices) -> tuple[str, ...]:
    """Notes on inferred columns whose centre and scale are made of codes for missing, most likely."""
    said, found = {column.name for column in data.columns}, list[str]()
    for name in (column.name for column in columns if column.kind == "numeric" and column.name not in said):
        values = [rows[index][1][name] for index in public]
        for value, times in suspected_codes(name, values, data.reading or STANDARD):
            found.append(
                f"column {name!r}: {value:.12g} comes {times} times in the public part, far from all other values, and "
                f"centre and scale are made of it. If it stands for missing: [data.reading] missing = "
                f'["{value:.12g}"]'
            )
    return tuple(found)


def _notes(data: OwnData, columns: Sequence[Column]) -> tuple[str, ...]:
    """Once a study file that listed a column took no other one: whoever meant that hears of it."""
    if not data.columns or len(columns) == len(data.columns):
        return ()
    return (
        f"[[data.columns]] says {len(data.columns)} of the {len(columns)} columns taken, and the others were inferred; "
        "columns_only = true takes only those that it says",
    )


def read_table_file(study: StudyFile, data: OwnData, progress: Progress) -> TableFile:
    """The file as the study reads it: a column that is not taken may hold what no table can.

    Raises InvalidData's kinds if it cannot be read, or as :func:`layout_of` does.
    """
    reading = data.reading or STANDARD
    header = columns_of(data.path, reading)
    layout = layout_of(study, data, header)
    needed = [name for name in header if name not in layout.excluded]
    return TableFile(tuple(header), read_rows(data.path, needed, progress, reading, patient=data.patient))


def _targets(rows: Rows, data: OwnData, places: Sequence[str]) -> list[str]:
    """The class of each record as text; InvalidValue where there is none, or where the target is no class at all."""
    raw = [row[data.target].strip() for _, row in rows]
    known = set(data.classes)
    if unlabelled := [
        at for at, text in enumerate(raw) if text in MISSING or (says_nothing(text) and text not in known)
    ]:
        text = raw[unlabelled[0]]
        what = f"no {data.target!r}" + (f" but {text!r}" if text not in MISSING else "")
        reason = f"{places[unlabelled[0]]}: {what}, and {len(unlabelled) - 1} more records without"
        raise InvalidValue(reason, "Fill it in, or leave these records out: an empty text would be a class of its own.")
    require_classes(raw, data.target, data.path.name, data.classes)
    for what, names in (("classes", data.classes), *((f"column {c.name!r}", c.categories) for c in data.columns)):
        if double := same_number(names):
            raise InvalidConfiguration(f"{what}: {double[0]!r} and {double[1]!r} are one number", "Name it once.")
    what = f"{data.path.name}, column {data.target!r}"
    if not data.classes and (pair := same_letters(raw)):
        hint = "Spell each class in one way, or list them in the study file: classes = [...]."
        raise InvalidData(f"{what}: {pair[0]!r} and {pair[1]!r} are the same word in other letters", hint)
    return one_spelling(raw, what, data.reading or STANDARD, listed=bool(data.classes))


def _columns(data: OwnData, layout: Layout, rows: Rows, public: Indices) -> tuple[Column, ...]:
    """The columns that the study file says, and of the others what their public values show."""
    said: Mapping[str, Column] = {column.name: column for column in data.columns}
    found, wrong = list[Column](), list[InvalidData]()
    for name in layout.taken:
        try:
            found.append(said.get(name) or _inferred(name, [rows[index][1][name] for index in public], data))
        except InvalidData as error:
            wrong.append(error)
    if wrong:  # all of them: who mends one by one starts the study once for each
        what = "; ".join(error.message for error in wrong)
        hint = f"{wrong[0].hint} Or leave it out: {_leaving_out(data)}."
        raise type(wrong[0])(f"{data.path.name}: {what}", hint)
    return tuple(found)


def _leaving_out(data: OwnData) -> str:
    """How a column is left out; a study file of 0.4.0 that listed some columns meant to leave out all others."""
    return "exclude = [...]" + (", or all that are not listed: columns_only = true" if data.columns else "")


def _inferred(name: str, public: Sequence[str], data: OwnData) -> Column:
    """A column by its public values; InvalidData if nearly each is a word of its own, as names and remarks are."""
    column = infer_column(name, public, data.reading or STANDARD)
    words, known = len(column.categories), sum(text.strip() not in MISSING for text in public)
    if words > max(_FEW_WORDS, known / 2):
        reason = f"column {name!r} has {words} different words in {known} public records: codes, names or remarks"
        raise InvalidData(reason, "Say in [[data.columns]] what it is.")
    return column


def _encoded(
    data: OwnData,
    rows: Rows,
    raw: Sequence[str],
    patients: tuple[str, ...],
    classes: tuple[str, ...],
    columns: tuple[Column, ...],
    progress: Progress,
) -> Records:
    places = [f"{data.path.name}, {place}" for place, _ in rows]
    try:
        labels = [category(text, classes, f"{places[i]}, column {data.target!r}") for i, text in enumerate(raw)]
        told = zip(places, counted(rows, data.path.name, progress), strict=True)
        values = ((place, [row[c.name] for c in columns]) for place, (_, row) in told)
        inputs = encode_rows(values, columns, data.reading or STANDARD)
    except UnknownCategory as error:
        hint = f"Correct it, name it in the study file, or leave the column out: {_leaving_out(data)}."
        if not (data.classes and data.columns):
            hint = "What the study file leaves out is taken from the public part: name classes or [[data.columns]]."
        raise UnknownCategory(error.message, hint) from error
    except InvalidValue as error:
        hint = "Correct it, or say in the study file's [[data.columns]] what the column is."
        raise InvalidValue(error.message, hint) from error
    return Records(inputs, np.asarray(labels, dtype=np.int64), patients)


def _two(classes: tuple[str, ...], name: str) -> tuple[str, ...]:
    if len(classes) < 2:
        raise InvalidData(f"{name}: the public part has records of one class only", "Set more aside: [parts].")
    return classes
