"""DICOM files and series as volumes of raw values, by a list of what is understood (docs/data.md has it as a table).

dicom_kinds.py says which objects are images, dicom_pixels.py unpacks stored numbers, dicom_values.py gives them their
meaning, dicom_geometry.py their place, dicom_series.py makes one volume of a folder. All else is refused by name.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from secure_fedhelp.data.dicom_files import reads_named
from secure_fedhelp.data.volume import Volume
from secure_fedhelp.errors import MissingExtra
from secure_fedhelp.study.reading import VOLUME, open_bounded

#: Value representations of the first elements of a data set: group length, text, dates, UIDs, code strings.
_FIRST = (b"UL", b"CS", b"UI", b"DA", b"TM", b"LO", b"SH", b"OB")
_LONGEST_FIRST = 256


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its content: the mark after the preamble, or a data set without one; raises OSError.

    Without a preamble a file begins with its first element, which is of the group 0002 or 0008, has a known value
    representation or, without any, a short even length, and is followed by an element of the same group or the next.
    """
    with open_bounded(path, VOLUME) as file:
        start = file.read(132 + _LONGEST_FIRST)
    return start[128:132] == b"DICM" or any(_begins(start, order) for order in ("little", "big"))


def _begins(start: bytes, order: str) -> bool:
    """Whether bytes begin with an element that opens a data set, and a second one stands where the first ends."""
    big = order == "big"

    def number(place: int, size: int) -> int:
        return int.from_bytes(start[place : place + size], "big" if big else "little")

    if len(start) < 16 or number(0, 2) not in ((8,) if big else (2, 8)):
        return False
    if start[4:6] in _FIRST:
        length, head = number(6, 2), 8
        if start[4:6] == b"OB":
            length, head = number(8, 4), 12
    elif big or number(0, 2) == 2:
        return False
    else:
        length, head = number(4, 4), 8
    after = head + length
    if length % 2 or length > _LONGEST_FIRST - head or len(start) < after + 4:
        return False
    first, second = (number(0, 2), number(2, 2)), (number(after, 2), number(after + 2, 2))
    return first < second and second[0] in (2, 8, 9, 0x10)


def read_dicom(path: Path, intensity: tuple[float, float] | None) -> Volume:
    """The volume of one DICOM file, or of the series in a folder.

    A negative (MONOCHROME1) is turned about the middle of ``intensity``; None for masks, whose numbers are classes.
    Raises MissingExtra without pydicom or a decoder, and InvalidData, with the reason, for what is not understood.
    """
    if importlib.util.find_spec("pydicom") is None:
        raise MissingExtra(f"{path.name}: DICOM files need pydicom, of the extra 'imaging'")
    from secure_fedhelp.data.dicom_series import read_series, volume_of

    with reads_named(path):
        return read_series(path, intensity) if path.is_dir() else volume_of(path, intensity)
