"""The rows of an index of image files: what each names, none twice, and the order in which they are best read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from secure_fedhelp.data.numbers import exact
from secure_fedhelp.data.reading import Reading
from secure_fedhelp.data.volume import UNREADABLE
from secure_fedhelp.errors import InvalidData, InvalidValue

_SLICE = "Slices are counted from 0; it is empty where a file has one. Nothing was spent."


@dataclass(frozen=True)
class Listed:
    """One row of an index: its ``place`` there, the words for a person with the index's name, and what it names."""

    place: str
    where: str
    file: Path
    mask: Path | None
    slice: int | None


def row_of(index: Path, place: str, row: Mapping[str, str], masked: bool, reading: Reading) -> Listed:
    """What a row names, which must be there; raises InvalidData or InvalidValue."""
    where = f"{index.name}, {place}"
    mask = _named(index, row, "mask", where) if masked else None
    return Listed(place, where, _named(index, row, "file", where), mask, _slice(row, where, reading))


def require_once(listed: Sequence[Listed]) -> None:
    """InvalidData for an image that two rows name, by whatever path; no slice and slice 0 are one."""
    seen: dict[tuple[str, int], str] = {}
    for one in listed:
        first = seen.setdefault((os.path.realpath(one.file), one.slice or 0), one.place)
        if first != one.place:
            raise InvalidData(f"{one.where}: the same image as {first}", "Keep one of the two rows. Nothing was spent.")


def volume_by_volume(listed: Sequence[Listed]) -> list[int]:
    """The numbers of the rows in the order in which they are read: all slices of a volume together.

    Only the last volume is kept, so an index that was shuffled would have a volume unpacked anew for every slice.
    """
    times = Counter(one.file for one in listed)
    shared = [one.file if times[one.file] > 1 or one.mask is None else one.mask for one in listed]
    first_of: dict[Path, int] = {}
    for number, path in enumerate(shared):
        first_of.setdefault(path, number)
    return sorted(range(len(listed)), key=lambda number: first_of[shared[number]])


def _named(index: Path, row: Mapping[str, str], column: str, where: str) -> Path:
    if not (name := row[column].strip()):
        raise InvalidValue(
            f"{where}, column {column!r}: no file", "Name the file, or leave the row out. Nothing was spent."
        )
    found = index.parent / name
    try:
        if not found.exists():
            raise InvalidData(f"{where}, column {column!r}: no such file: {found}", _hint_for(found))
    except OSError as error:  # a folder that may not be looked into, a name that is too long
        raise InvalidData(f"{where}, column {column!r}: {found}: {error.strerror or error}", UNREADABLE) from error
    return found


def _hint_for(missing: Path) -> str:
    """What to do about a file that is not there; names are compared as they are, as the file system does."""
    if missing.is_symlink():
        return "It is a link that leads to no file. Nothing was spent."
    if "\\" in missing.name:
        return "The names in an index have / between folders, and are relative to the index. Nothing was spent."
    if os.access(missing.parent, os.R_OK):
        alike = [one.name for one in missing.parent.iterdir() if one.name.casefold() == missing.name.casefold()]
        if alike:
            return f"There is {alike[0]!r}: capital and small letters differ. Nothing was spent."
    return "Put the file there, or correct its name: names are relative to the folder of the index. Nothing was spent."


def _slice(row: Mapping[str, str], where: str, reading: Reading) -> int | None:
    text = row.get("slice", "").strip()
    number = exact(text, reading)  # 14.0 too: programs write so what has gaps
    if text and (number is None or number < 0 or number != int(number)):
        raise InvalidValue(f"{where}, column 'slice': {text[:40]!r} is no whole number from 0", _SLICE)
    return None if number is None else int(number)
