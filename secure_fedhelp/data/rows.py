"""Rows of text from CSV or Parquet, each with the place that a person finds it by."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

from secure_fedhelp.data.loaded import REPORT_ROWS, Progress, silent
from secure_fedhelp.data.numbers import exact
from secure_fedhelp.data.parquet import check_header, is_parquet, parquet_columns, read_parquet
from secure_fedhelp.data.reading import MARKS, STANDARD, WHERE, Reading
from secure_fedhelp.errors import InvalidData
from secure_fedhelp.study.reading import TABLE, BoundedLines, open_bounded

MISSING = ("", "?")
#: How every CSV is read. A blank before a quoted value, as some programs write, is no part of it: else the quotes would
#: be, and a patient would be somebody else.
_CSV: Final[dict[str, Any]] = {"strict": True, "skipinitialspace": True}


def read_rows(
    path: Path,
    needed: Sequence[str] | None,
    progress: Progress = silent,
    reading: Reading = STANDARD,
    *,
    patient: str | None,
) -> list[tuple[str, dict[str, str]]]:
    """(place, row) of every record, the place as a person counts it, once the header has each column exactly once.

    ``needed`` are the columns to read, None for all. ``patient`` is the column of identifiers if one is read: what a
    Parquet type cannot name exactly is refused there. Numbers are written as ``reading`` says, those of Parquet types
    too. Raises MissingColumn, InvalidData or InvalidValue.
    """
    if is_parquet(path):
        rows = read_parquet(path, needed, patient, progress, reading)
    else:
        rows = _read_csv(path, needed, progress, reading)
    if not rows:
        raise InvalidData(f"{path.name}: no records below the header")
    _empty(rows, reading, patient)
    return rows


def _empty(rows: Sequence[tuple[str, dict[str, str]]], reading: Reading, patient: str | None) -> None:
    """Takes away what a setting says stands for a missing value, but of patients: they are named, or refused."""
    texts = {word.strip() for word in reading.missing}
    numbers = {number for word in texts if (number := exact(word, reading)) is not None}
    for _, row in rows if texts else ():
        for name, text in row.items():
            value = text.strip()
            if name != patient and (value in texts or (numbers and exact(value, reading) in numbers)):
                row[name] = ""


def columns_of(path: Path, reading: Reading = STANDARD) -> list[str]:
    """The names of a file's columns, in order and as often as they are there; InvalidData if it cannot be read."""
    if is_parquet(path):
        return parquet_columns(path)
    try:
        with _text_of(path) as (_, lines):
            return _header(csv.reader(lines, delimiter=MARKS[reading.separator], **_CSV), path, None, reading)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(path, error) from error


def _read_csv(
    path: Path, needed: Sequence[str] | None, progress: Progress, reading: Reading
) -> list[tuple[str, dict[str, str]]]:
    try:
        with _text_of(path) as (raw, lines):
            size = path.stat().st_size
            progress(path.name, 0, size)
            reader = csv.reader(lines, delimiter=MARKS[reading.separator], **_CSV)
            header = _header(reader, path, needed, reading)
            check_header(path.name, header, needed)
            rows = []
            for cells in reader:
                lines.next_record()
                if not any(cell.strip() for cell in cells):  # spreadsheets write such rows below the last
                    continue
                if len(cells) != len(header):
                    reason = f"{path.name}, line {reader.line_num}: {len(cells)} values, not {len(header)}"
                    raise InvalidData(reason, f"A separator inside a value needs quotes around the value. {WHERE}")
                rows.append((f"line {reader.line_num}", dict(zip(header, cells, strict=True))))
                if len(rows) % REPORT_ROWS == 0:  # in bytes: how many rows there are nobody knows yet
                    progress(path.name, raw.tell(), size)
        progress(path.name, size, size)
    except csv.Error as error:
        hint = f"Within a value a quote mark is written twice, and one that opens has to close. {WHERE}"
        raise InvalidData(f"{path.name}, line {reader.line_num}: {error}", hint) from error
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error
    return rows


@contextmanager
def _text_of(path: Path) -> Iterator[tuple[BinaryIO, BoundedLines[str]]]:
    """The open file, which knows how far it was read, and its text line by line for ``csv.reader``; OSError."""
    with open_bounded(path, TABLE) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
        yield raw, BoundedLines(file, TABLE, records=True)


def _header(reader: Iterator[list[str]], path: Path, needed: Sequence[str] | None, reading: Reading) -> list[str]:
    """The names of the columns.

    Raises InvalidData, which names the setting, where the line is readable with another separator only.
    """
    try:
        header = _names(reader)
    except csv.Error:
        header = []  # quotes behind another separator, or no CSV at all
        if not (other := _other_separator(path, needed, reading)):
            raise
    else:
        split = len(header) > 1 if needed is None else set(needed) <= set(header)
        other = None if split else _other_separator(path, needed, reading)
    if other:
        reason = f'{path.name}: the columns are not told apart with separator = "{reading.separator}"'
        raise InvalidData(f'{reason}; with separator = "{other}" they would be', WHERE)
    return header


def _other_separator(path: Path, needed: Sequence[str] | None, reading: Reading) -> str | None:
    """The separator with which the header has the columns that are needed, or more than one column."""
    for other in (name for name in MARKS if name != reading.separator):
        with _text_of(path) as (_, lines), suppress(csv.Error):
            names = _names(csv.reader(lines, delimiter=MARKS[other], **_CSV))
            if len(names) > 1 and set(needed or ()) <= set(names):
                return other
    return None


def _names(reader: Iterator[list[str]]) -> list[str]:
    """The first line, or the second if the first says this separator, as spreadsheets write it."""
    names = [name.strip() for name in next(reader, [])]
    return [name.strip() for name in next(reader, [])] if [name.lower() for name in names] == ["sep=", ""] else names


def _unreadable(path: Path, error: OSError | UnicodeDecodeError | csv.Error) -> InvalidData:
    if isinstance(error, UnicodeDecodeError):
        return InvalidData(f"{path}: no UTF-8 text", "Save it as UTF-8. Nothing was trained and nothing was spent.")
    return InvalidData(f"{path}: {getattr(error, 'strerror', None) or error}")
