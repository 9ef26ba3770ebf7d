"""Tables, CSV or Parquet by the file's ending: one row a record, columns as the plan's schema says.

Numbers are centred and scaled by the plan's public constants, so preparing the data reveals nothing and costs nothing.
A missing value (empty or ``?``) becomes the public centre, a missing category a row of zeros.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from secure_fedhelp.data.loaded import REPORT_ROWS, Loaded, Progress, counted, silent
from secure_fedhelp.data.parquet import check_header, read_parquet
from secure_fedhelp.data.records import Records
from secure_fedhelp.errors import InvalidData, InvalidValue, UnknownCategory
from secure_fedhelp.study.files import write_atomic
from secure_fedhelp.study.sections import Column, DataSection

MISSING = ("", "?")
#: Standardised numbers are cut here: a value ten public scales from the centre is a unit mistake more often than a
#: finding, and must not swallow a whole gradient.
LARGEST_STANDARDISED = 10.0


def load_table(path: Path, data: DataSection) -> Records:
    """The records of :func:`read_table`, for whoever needs nothing else of it."""
    return read_table(path, data).records


def read_table(path: Path, data: DataSection, progress: Progress = silent) -> Loaded:
    """Records of a table: inputs float32 [rows, features], labels by the plan's order of classes; and missing values.

    Raises InvalidData (unreadable, empty, doubled), MissingColumn, UnknownCategory or InvalidValue, the last two naming
    row (the line of a CSV file, the row of a Parquet file) and column. Columns the plan does not name are ignored.
    """
    rows = read_rows(path, [data.patient_id, data.target, *(column.name for column in data.columns)], progress)
    inputs, labels, patients = [], [], []
    for place, row in counted(rows, path.name, progress):
        where, patient = f"{path.name}, {place}", patient_of(row, data.patient_id, f"{path.name}, {place}")
        inputs.append([x for column in data.columns for x in _encode(row[column.name], column, where)])
        labels.append(category(row[data.target], data.classes, f"{where}, column {data.target!r}"))
        patients.append(patient)
    array = np.clip(np.asarray(inputs, dtype=np.float64), -LARGEST_STANDARDISED, LARGEST_STANDARDISED)
    if array.shape[1:] != data.input_shape:
        raise InvalidData(f"the plan's columns make {array.shape[1]} features, its input_shape says {data.input_shape}")
    records = Records(array.astype(np.float32), np.asarray(labels, dtype=np.int64), tuple(patients))
    require_distinct(path, [place for place, _ in rows], records)
    names = [column.name for column in data.columns]
    return Loaded(records, {name: sum(row[name].strip() in MISSING for _, row in rows) for name in names})


def require_distinct(path: Path, places: Sequence[str], records: Records) -> None:
    """InvalidData if two records of a patient are one and the same to a model: class and features, not their spelling.

    ``places`` say where each record stands. Most often a file was put together from two that overlap, and then its
    counts of records are wrong.
    """
    seen: dict[tuple[str, int, bytes], str] = {}
    doubles = list[tuple[str, str]]()
    everything = zip(places, records.patients, records.labels, records.inputs, strict=True)
    for place, patient, label, features in everything:
        same = (features + 0.0).tobytes()  # minus zero is zero
        first = seen.setdefault((patient, int(label), same), place)
        if first != place:
            doubles.append((place, first))
    if doubles:
        (place, first), more = doubles[0], f" ({len(doubles) - 1} more like it)" if len(doubles) > 1 else ""
        raise InvalidData(
            f"{path.name}, {place}: the same record of the same patient as {first}{more}",
            "Keep one of them, also of two visits with equal values: a model sees no difference (nor between values "
            "that are beyond what it is shown). Nothing was trained and nothing was spent.",
        )


def patient_of(row: Mapping[str, str], column: str, where: str) -> str:
    """The patient's identifier in a row; InvalidValue if it is empty."""
    if not (patient := row[column].strip()):
        raise InvalidValue(f"{where}, column {column!r}: no patient identifier")
    return patient


def write_table(path: Path, records: Records, data: DataSection) -> None:
    """Write records as a CSV that :func:`load_table` reads back (numbers to float32 accuracy)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([data.patient_id, *(column.name for column in data.columns), data.target])
    for values, label, patient in zip(records.inputs, records.labels, records.patients, strict=True):
        writer.writerow([patient, *_decode(values, data.columns), data.classes[int(label)]])
    write_atomic(path, text.getvalue().encode(), mode=0o600)


def encode_rows(
    rows: Iterable[tuple[str, Sequence[str]]], columns: Sequence[Column]
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """float32 [rows, features] of raw text values in the columns' order; each row with the place that errors name."""
    values = [
        [x for text, column in zip(row, columns, strict=True) for x in _encode(text, column, place)]
        for place, row in rows
    ]
    clipped = np.clip(np.asarray(values, dtype=np.float64), -LARGEST_STANDARDISED, LARGEST_STANDARDISED)
    return clipped.astype(np.float32)


def read_rows(
    path: Path, needed: Sequence[str] | None, progress: Progress = silent
) -> list[tuple[str, dict[str, str]]]:
    """(place, row) of every record, the place as a person counts it, once the header has each column exactly once.

    ``needed`` are the columns to read, None for all. Raises MissingColumn or InvalidData.
    """
    rows = (read_parquet if path.suffix == ".parquet" else _read_csv)(path, needed, progress)
    if not rows:
        raise InvalidData(f"{path.name}: no records below the header")
    return rows


def _read_csv(path: Path, needed: Sequence[str] | None, progress: Progress) -> list[tuple[str, dict[str, str]]]:
    try:
        with path.open("rb") as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
            size = path.stat().st_size
            progress(path.name, 0, size)
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            check_header(path.name, header, needed)
            rows = []
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise InvalidData(f"{path.name}, line {reader.line_num}: {len(cells)} values, not {len(header)}")
                rows.append((f"line {reader.line_num}", dict(zip(header, cells, strict=True))))
                if len(rows) % REPORT_ROWS == 0:  # in bytes: how many rows there are nobody knows yet
                    progress(path.name, raw.tell(), size)
        progress(path.name, size, size)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidData(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    return rows


def _encode(text: str, column: Column, where: str) -> list[float]:
    """The features of one value."""
    if column.kind == "categorical":
        features = [0.0] * len(column.categories)
        if text.strip() not in MISSING:
            features[category(text, column.categories, f"{where}, column {column.name!r}")] = 1.0
        return features
    if text.strip() in MISSING:
        return [0.0]
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InvalidValue(f"{where}, column {column.name!r}: {text.strip()[:40]!r} is not a finite number")
    return [(value - column.center) / column.scale]


def _decode(values: np.ndarray[tuple[int, ...], np.dtype[np.float32]], columns: Sequence[Column]) -> list[str]:
    """The text values of one input's features."""
    cells, start = [], 0
    for column in columns:
        width = len(column.categories) or 1
        part = values[start : start + width]
        start += width
        if column.kind == "numeric":
            cells.append(repr(float(part[0]) * column.scale + column.center))
        else:
            cells.append(column.categories[int(part.argmax())] if part.any() else "")
    return cells


def category(text: str, categories: Sequence[str], where: str) -> int:
    """Index of a category; a number in another spelling (``1.0`` for ``1``) is the same category."""
    value = text.strip()
    if value in categories:
        return categories.index(value)
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if number.is_integer() and str(int(number)) in categories:
        return categories.index(str(int(number)))
    raise UnknownCategory(f"{where}: {value[:40]!r} is none of {', '.join(categories)}")
