"""Parquet tables as rows of text, so that they are held against the plan's schema exactly as CSV is.

pyarrow is imported here alone, and only when a Parquet file is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from secure_fedhelp.data.loaded import REPORT_ROWS, Progress, silent
from secure_fedhelp.errors import FedHelpError, InvalidData, MissingColumn
from secure_fedhelp.study.reading import TABLE, open_bounded

#: A Parquet file ends with its footer, four bytes of the footer's length, and a word. pyarrow reads all of the footer
#: before it looks at it: 20,000 columns in a hundred groups are 200 MB.
_END, LARGEST_FOOTER_BYTES = 8, 256 * 2**20
#: That word: with a footer in clear, and with an encrypted one.
_MAGIC = (b"PAR1", b"PARE")
#: Largest unpacked size of one table: a small file can declare a huge one.
LARGEST_BYTES = 4 * 2**30


def read_parquet(
    path: Path, needed: Sequence[str] | None, progress: Progress = silent
) -> list[tuple[str, dict[str, str]]]:
    """(``row N``, row) of every record, counted from 1; only the columns ``needed``, or all for None.

    Null becomes empty text, true and false become ``1`` and ``0``, a whole number its digits. Raises MissingColumn for
    a column that is not there, InvalidData for one that is there twice or a file that cannot be read.
    """
    import pyarrow.parquet as pq

    rows: list[tuple[str, dict[str, str]]] = []
    try:
        with open_bounded(path, TABLE) as raw, pq.ParquetFile(_with_footer(raw, path.name)) as file:
            names = list(file.schema_arrow.names)
            columns = check_header(path.name, names, needed)
            groups = (file.metadata.row_group(number) for number in range(file.metadata.num_row_groups))
            if (size := sum(group.total_byte_size for group in groups)) > LARGEST_BYTES:
                raise InvalidData(f"{path.name}: unpacks to {size} bytes, at most {LARGEST_BYTES} are allowed")
            total = file.metadata.num_rows
            for batch in file.iter_batches(REPORT_ROWS, columns=columns):
                progress(path.name, len(rows), total)
                values = [[_text(value) for value in batch.column(name).to_pylist()] for name in columns]
                numbered = enumerate(zip(*values, strict=True), len(rows) + 1)
                rows += [(f"row {n}", dict(zip(columns, row, strict=True))) for n, row in numbered]
    except FedHelpError:
        raise
    except OSError as error:  # pyarrow raises its own OSError for a malformed page, without an errno
        raise InvalidData(f"{path}: {error.strerror or 'not a readable Parquet file'}") from error
    except Exception as error:  # a malformed footer: pyarrow raises many kinds
        raise InvalidData(f"{path.name}: not a readable Parquet file ({type(error).__name__})") from error
    progress(path.name, total, total)
    return rows


def _with_footer(file: BinaryIO, name: str) -> BinaryIO:
    """``file`` at its beginning, once its last bytes announce a footer that one may read whole; InvalidData."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _END))
    end = file.read(_END)
    if end[4:] in _MAGIC and (length := int.from_bytes(end[:4], "little")) > LARGEST_FOOTER_BYTES:
        raise InvalidData(f"{name}: a footer of {length} bytes, at most {LARGEST_FOOTER_BYTES} are read")
    file.seek(0)
    return file


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


def _text(value: Any) -> str:
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, bool) else str(value)
