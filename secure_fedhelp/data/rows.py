"""Rows of text from CSV or Parquet, each with the place that a person finds it by."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from secure_fedhelp.data.loaded import REPORT_ROWS, Progress, silent
from secure_fedhelp.data.parquet import check_header, read_parquet
from secure_fedhelp.errors import InvalidData, InvalidValue
from secure_fedhelp.study.reading import TABLE, BoundedLines, open_bounded

MISSING = ("", "?")


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
        with open_bounded(path, TABLE) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
            size = path.stat().st_size
            progress(path.name, 0, size)
            lines = BoundedLines(file, TABLE, records=True)
            reader = csv.reader(lines, strict=True)
            header = [name.strip() for name in next(reader, [])]
            check_header(path.name, header, needed)
            rows = []
            for cells in reader:
                lines.next_record()
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


def patient_of(row: Mapping[str, str], column: str, where: str) -> str:
    """The patient's identifier in a row; InvalidValue if it is empty."""
    if not (patient := row[column].strip()):
        raise InvalidValue(f"{where}, column {column!r}: no patient identifier")
    return patient
