"""Tables, CSV or Parquet by the file's ending: one row a record, columns as the plan's schema says.

Numbers are centred and scaled by the plan's public constants, so preparing the data reveals nothing and costs nothing.
A missing value (empty or ``?``) becomes the public centre, a missing category a row of zeros; where the column has an
indicator, that says so. What was missing, cut or not listed is counted before it can be seen no more.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from secure_fedhelp.data.counting import count_columns
from secure_fedhelp.data.doubles import doubles
from secure_fedhelp.data.encoding import LARGEST_STANDARDISED, category, decode_row, encode
from secure_fedhelp.data.loaded import Loaded, Progress, counted, silent
from secure_fedhelp.data.patients import patients_of
from secure_fedhelp.data.reading import STANDARD, Reading
from secure_fedhelp.data.records import Records
from secure_fedhelp.data.rows import read_rows
from secure_fedhelp.errors import InvalidData
from secure_fedhelp.study.files import write_atomic
from secure_fedhelp.study.sections import DataSection


def load_table(path: Path, data: DataSection) -> Records:
    """The records of :func:`read_table`, for whoever needs nothing else of it."""
    return read_table(path, data).records


def read_table(path: Path, data: DataSection, progress: Progress = silent, reading: Reading = STANDARD) -> Loaded:
    """Records of a table: inputs float32 [rows, features], labels by the plan's order of classes; and missing values.

    ``reading`` says how this hospital's exports are written. Raises InvalidData (unreadable, empty, doubled),
    MissingColumn, UnknownCategory or InvalidValue, the last two naming row (the line of a CSV file, the row of a
    Parquet file) and column. Columns the plan does not name are ignored.
    """
    needed = [data.patient_id, data.target, *(column.name for column in data.columns)]
    rows = read_rows(path, needed, progress, reading, patient=data.patient_id)
    named = ((place, row[data.patient_id]) for place, row in rows)
    patients, notes = patients_of(named, path.name, data.patient_id, reading)
    inputs, labels = [], []
    for place, row in counted(rows, path.name, progress):
        where = f"{path.name}, {place}"
        inputs.append([x for column in data.columns for x in encode(row[column.name], column, where, reading)])
        labels.append(category(row[data.target], data.classes, f"{where}, column {data.target!r}", reading))
    features = np.asarray(inputs, dtype=np.float64)
    if features.shape[1:] != data.input_shape:
        reason = f"the plan's columns make {features.shape[1]} features, its input_shape says {data.input_shape}"
        raise InvalidData(reason)
    array = np.clip(features, -LARGEST_STANDARDISED, LARGEST_STANDARDISED).astype(np.float32)
    records = Records(array, np.asarray(labels, dtype=np.int64), patients)
    require_distinct(path, [place for place, _ in rows], records)
    columns = count_columns(features, data.columns, lambda name: [row[name] for _, row in rows])
    return Loaded(records, columns, notes)


def require_distinct(path: Path, places: Sequence[str], records: Records) -> None:
    """InvalidData if two records of a patient are one and the same to a model: class and features, not their spelling.

    ``places`` say where each record stands. Most often a file was put together from two that overlap, and then its
    counts of records are wrong.
    """
    if found := list(doubles(records)):
        (at, first), more = found[0], f" ({len(found) - 1} more like it)" if len(found) > 1 else ""
        raise InvalidData(
            f"{path.name}, {places[at]}: the same record of the same patient as {places[first]}{more}",
            "Keep one of them, also of two visits with equal values: a model sees no difference (nor between values "
            "that are beyond what it is shown). Nothing was trained and nothing was spent.",
        )


def write_table(path: Path, records: Records, data: DataSection) -> None:
    """Write records as a CSV that :func:`load_table` reads back (numbers to float32 accuracy)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([data.patient_id, *(column.name for column in data.columns), data.target])
    for values, label, patient in zip(records.inputs, records.labels, records.patients, strict=True):
        writer.writerow([patient, *decode_row(values, data.columns), data.classes[int(label)]])
    write_atomic(path, text.getvalue().encode(), mode=0o600)
