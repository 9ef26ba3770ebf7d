"""Parquet tables as rows of text, so that they are held against the plan's schema exactly as CSV is.

A type is read if its values have one text: text and bytes of UTF-8, whole, decimal and floating-point numbers, true and
false, UUIDs, each also as a dictionary. Other types are refused with the column's name. In the column of patients a
floating-point number has to be whole, and so small that it is no other number's rounding; true and false name nobody.

pyarrow is imported here alone, and only when a Parquet file is read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

from secure_fedhelp.data.loaded import REPORT_ROWS, Progress, silent
from secure_fedhelp.data.patients import AS_TEXT, text_of, whole_text
from secure_fedhelp.data.reading import STANDARD, Reading
from secure_fedhelp.errors import FedHelpError, InvalidData, InvalidValue, MissingColumn
from secure_fedhelp.study.reading import TABLE, open_bounded, require_plausible, said_by

#: A Parquet file ends with its footer, four bytes of the footer's length, and a word. pyarrow reads all of the footer
#: before it looks at it: 20,000 columns in a hundred groups are 200 MB.
_END, LARGEST_FOOTER_BYTES = 8, 256 * 2**20
#: That word: with a footer in clear, and with an encrypted one.
_MAGIC = (b"PAR1", b"PARE")
#: Largest unpacked size of one table: a small file can declare a huge one.
LARGEST_BYTES = 4 * 2**30


_AGAIN = "Export the table again, as Parquet or as CSV. Nothing was spent."

#: The text of a value that is not null; ValueError with the reason if it has none.
Writer = Callable[[Any], str]


def read_parquet(
    path: Path,
    needed: Sequence[str] | None,
    patient: str | None,
    progress: Progress = silent,
    reading: Reading = STANDARD,
) -> list[tuple[str, dict[str, str]]]:
    """(``row N``, row) of every record, counted from 1; only the columns ``needed``, or all for None.

    Null becomes empty text, true and false become ``1`` and ``0``, a number its digits, without exponent and with the
    decimal mark of ``reading``. ``patient`` is the column that names patients.

    Raises MissingColumn for a column that is not there, InvalidData for one that is there twice, for a type or a file
    that cannot be read, InvalidValue for a value that has no text or names no patient exactly.
    """
    import pyarrow.parquet as pq

    rows: list[tuple[str, dict[str, str]]] = []
    try:
        with open_bounded(path, TABLE) as raw, pq.ParquetFile(_with_footer(raw, path.name)) as file:
            columns = check_header(path.name, list(file.schema_arrow.names), needed)
            kinds = [file.schema_arrow.field(name).type for name in columns]
            writers = [
                _writer(kind, f"{path.name}, column {name!r}", name == patient, reading)
                for name, kind in zip(columns, kinds, strict=True)
            ]
            groups = (file.metadata.row_group(number) for number in range(file.metadata.num_row_groups))
            if (size := sum(group.total_byte_size for group in groups)) > LARGEST_BYTES:
                raise InvalidData(f"{path.name}: unpacks to {size} bytes, at most {LARGEST_BYTES} are allowed")
            total = file.metadata.num_rows
            # A value that is repeated a million times has a few bytes here, and a million cells in memory.
            require_plausible(os.fstat(raw.fileno()).st_size, max(size, total * len(columns)))
            for batch in file.iter_batches(REPORT_ROWS, columns=columns):
                progress(path.name, len(rows), total)
                values = [
                    _texts(batch.column(name).to_pylist(), writer, path.name, name, len(rows))
                    for name, writer in zip(columns, writers, strict=True)
                ]
                numbered = enumerate(zip(*values, strict=True), len(rows) + 1)
                rows += [(f"row {n}", dict(zip(columns, row, strict=True))) for n, row in numbered]
    except FedHelpError:
        raise
    except OSError as error:  # pyarrow raises its own OSError for a malformed page, without an errno
        raise InvalidData(f"{path}: {error.strerror or 'not a readable Parquet file'}") from error
    except Exception as error:  # a malformed footer: pyarrow raises many kinds
        raise InvalidData(f"{path.name}: not a readable Parquet file: {said_by(error)}", _AGAIN) from error
    progress(path.name, total, total)
    return rows


def is_parquet(path: Path) -> bool:
    """Whether a file is Parquet, by its content or by its name; one that cannot be read is what its name says."""
    if path.suffix.lower() == ".parquet":
        return True
    try:
        with open_bounded(path, TABLE) as file:
            return file.read(4) in _MAGIC
    except OSError:  # whoever reads it says why not
        return False


def _with_footer(file: BinaryIO, name: str) -> BinaryIO:
    """``file`` at its beginning, once its last bytes announce a footer that one may read whole; InvalidData."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _END))
    end = file.read(_END)
    if end[4:] in _MAGIC and (length := int.from_bytes(end[:4], "little")) > LARGEST_FOOTER_BYTES:
        raise InvalidData(f"{name}: a footer of {length} bytes, at most {LARGEST_FOOTER_BYTES} are read")
    file.seek(0)
    return file


def parquet_columns(path: Path) -> list[str]:
    """The names of a file's columns; InvalidData if it cannot be read."""
    import pyarrow.parquet as pq

    try:
        with open_bounded(path, TABLE) as raw:
            return list(pq.read_schema(_with_footer(raw, path.name)).names)
    except FedHelpError:
        raise
    except OSError as error:
        raise InvalidData(f"{path}: {error.strerror or 'not a readable Parquet file'}") from error
    except Exception as error:
        raise InvalidData(f"{path.name}: not a readable Parquet file: {said_by(error)}", _AGAIN) from error


def check_header(file: str, header: Sequence[str], needed: Sequence[str] | None) -> list[str]:
    """The columns to read, once each is there exactly once; MissingColumn or InvalidData otherwise."""
    wanted = list(dict.fromkeys(header if needed is None else needed))
    missing = [name for name in wanted if name not in header]
    if missing:
        raise MissingColumn(f"{file}: no column {', '.join(repr(name) for name in missing)}")
    double = sorted({name for name in wanted if header.count(name) > 1})
    if double:
        raise InvalidData(f"{file}: two columns are called {', '.join(repr(name) for name in double)}")
    return wanted


def _texts(values: Sequence[Any], writer: Writer, file: str, column: str, before: int) -> list[str]:
    texts = []
    for value in values:
        try:
            texts.append("" if value is None else writer(value))
        except ValueError as error:
            where = f"{file}, row {before + len(texts) + 1}, column {column!r}"
            raise InvalidValue(f"{where}: {error}", AS_TEXT) from error
    return texts


def _writer(kind: Any, column: str, patient: bool, reading: Reading) -> Writer:
    """What makes text of the values of an Arrow type; InvalidData for a type that is not read."""
    import pyarrow.types as of

    if of.is_dictionary(kind):
        return _writer(kind.value_type, column, patient, reading)
    name, text, integer = str(kind), of.is_string(kind) or of.is_large_string(kind), of.is_integer(kind)
    if text or integer or of.is_null(kind) or name in ("string_view", "extension<arrow.uuid>"):
        return str
    if of.is_binary(kind) or of.is_large_binary(kind) or of.is_fixed_size_binary(kind) or name == "binary_view":
        return text_of
    if of.is_floating(kind):
        size = kind.bit_width // 8
        return (lambda value: whole_text(value, size)) if patient else _float_writer(reading.decimal)
    if of.is_decimal(kind):
        return _whole_decimal if patient else _decimal_writer(reading.decimal)
    if of.is_boolean(kind) and not patient:
        return _truth
    reason = "names no patient" if patient else "is not read"
    raise InvalidData(f"{column}: the Parquet type {name} {reason}", _TYPES)


_TYPES = "Write the column as text or as numbers, or leave it out. Nothing was trained and nothing was spent."


def _truth(value: bool) -> str:
    return str(int(value))


def _whole_decimal(value: Decimal) -> str:
    if value != (whole := int(value)):
        raise ValueError(f"{value} is no whole number, so it does not name a patient exactly")
    return str(whole)


def _decimal_writer(mark: str) -> Writer:
    return lambda value: format(value, "f").replace(".", mark)


def _float_writer(mark: str) -> Writer:
    def written(value: float) -> str:
        text = repr(value)  # the shortest that is read back exactly
        return (format(Decimal(text), "f") if "e" in text else text).replace(".", mark)

    return written
