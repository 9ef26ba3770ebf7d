"""Whose records a file holds: identifiers as exports spell them, checked, made one notion, and what was merged told.

What names a patient exactly is taken. A number that a program has rounded, or that has no one meaning, is refused: two
people would become one, or one person another to the ledger's book, and have a budget again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

from numpy.typing import NDArray

from secure_fedhelp.data.numbers import NO_VALUE, other_settings, plain
from secure_fedhelp.data.reading import STANDARD, WHERE, Reading
from secure_fedhelp.errors import InvalidData, InvalidValue
from secure_fedhelp.study.patients import canonical_patient, visible

#: Whole numbers from here on share a floating-point number with others, by the number's size in bytes.
FIRST_INEXACT = {2: 2**11, 4: 2**24, 8: 2**53}
_NAME_ALL = "Give every record its patient's identifier, or leave it out of the file. Nothing was spent."
#: What programs write where there is no value. One patient of that name would be everybody whom nobody has named.
_NOBODY = NO_VALUE | {"none", "nil", "unknown", "missing", "inf", "+inf", "-inf", "infinity"}
#: Nor does what has no letter and no digit: ``--``, ``####``, ``***``.
_MARKS_ONLY = re.compile(r"[\W_]*")
_EXPONENT = re.compile(r"[+-]?[0-9]+(?:[.,][0-9]*e[+-]?|e[+-])[0-9]+")
_WHOLE = re.compile(r"([+-]?)([0-9]+)(\.0*)?")
_GROUPED = re.compile(r"[+-]?[0-9]{1,3}(?:[,'][0-9]{3})+(?:[.,]0*)?|[+-]?[0-9.]+,0*")
#: Bytes and other values as Python prints them, lists, text in quotes, a UUID in braces, a spreadsheet's formula for
#: text, and its mark of a number that is text.
_SPELT_OUT = re.compile(
    r"""b?'.*'|b?".*"|[\u2018-\u201f\u00ab].*|\[.*\]|\{.*\}|\(.*,\)|[a-z]\w*\(b?['"].*\)|np\.\w+\(.*\)|=.*|'[0-9].*""",
    re.DOTALL,
)
#: The hint where an identifier's digits may be lost.
AS_TEXT = "Write identifiers as text or as whole numbers, and words as text. Nothing was trained and nothing was spent."


#: The canonical patient of each record, and notes for the data card.
People = tuple[tuple[str, ...], tuple[str, ...]]


def patients_of(named: Iterable[tuple[str, str]], file: str, column: str, reading: Reading = STANDARD) -> People:
    """The canonical patient of each record, of pairs of the record's place and what it says; and notes for the card.

    Raises InvalidValue for what names nobody exactly, InvalidData if one patient is spelled in two ways and the setting
    ``spellings`` refuses that.
    """
    checked = [(place, text, identifier(text, reading, f"{file}, {place}, column {column!r}")) for place, text in named]
    return _merged(checked, file, reading)


def one_each(named: Iterable[tuple[str, str]], file: str, reading: Reading) -> People:
    """The same of names that nobody has given to patients, such as those of image files: any name will do."""
    return _merged([(place, name, name) for place, name in named], file, reading)


def identifier(text: str, reading: Reading, where: str) -> str:
    """The identifier that a text gives, not canonical yet; InvalidValue if it gives none, or none exactly."""
    value, shown = visible(text), repr(text.strip()[:40])
    if value in _NOBODY or _MARKS_ONLY.fullmatch(value):
        raise InvalidValue(f"{where}: no patient identifier" + (f" but {shown}" if value else ""), _NAME_ALL)
    if _SPELT_OUT.fullmatch(value):
        raise InvalidValue(f"{where}: {shown} is a program's way to write an identifier, not one", AS_TEXT)
    if value[0].isalpha() and value.isascii():  # no number, as most identifiers
        return value
    if not value.isascii() and any(c.isdecimal() and not c.isascii() for c in value):
        raise InvalidValue(f"{where}: {shown} has digits that are not 0 to 9", AS_TEXT)
    if _EXPONENT.fullmatch(value):
        raise InvalidValue(f"{where}: {shown} is a number in exponent notation, which may be rounded", AS_TEXT)
    if not reading.usual and (number := plain(value, reading)) is not None:
        value = number
    elif _GROUPED.fullmatch(value) and (settings := other_settings(value, reading)):
        raise InvalidValue(f"{where}: {shown} is a number with a mark that is read only with {settings}", WHERE)
    if not (whole := _WHOLE.fullmatch(value)):
        return value
    sign, digits, fraction = whole.groups()
    if fraction and (len(digits.lstrip("0")) > 16 or int(digits) >= FIRST_INEXACT[8]):
        raise InvalidValue(f"{where}: {shown} was a floating-point number, which rounds 2^53 and more", AS_TEXT)
    return sign.replace("+", "") + digits


def array_identifiers(array: NDArray[Any], file: str, name: str) -> list[str]:
    """The texts of an NPZ's list of patients, which are text, bytes of UTF-8, integers, or whole floats that are exact.

    Raises InvalidData for other lists, InvalidValue for a number or bytes that name nobody exactly.
    """
    kind = array.dtype.kind
    if array.ndim != 1 or kind not in "iuUSf" or (kind == "f" and array.dtype.itemsize not in FIRST_INEXACT):
        raise InvalidData(f"{file}: {name} must be one list of text or integers, not {array.dtype} {array.shape}")
    size, found = array.dtype.itemsize, list[str]()
    for value in array.tolist():
        try:
            text = text_of(value) if kind == "S" else whole_text(value, size) if kind == "f" else str(value)
        except ValueError as error:
            where = f"{file}, record {len(found)}"
            raise InvalidValue(f"{where}: {name} must be text or integers, and {error}", AS_TEXT) from error
        found.append(text)
    return found


def whole_text(value: float, size: int) -> str:
    """The digits of a floating-point number of ``size`` bytes that is one whole number and no other; empty for NaN.

    ValueError with the reason for any other.
    """
    if math.isnan(value):  # no value, in every program that writes it
        return ""
    if not value.is_integer() or abs(value) >= FIRST_INEXACT[size]:
        below = f"whole number below 2^{FIRST_INEXACT[size].bit_length() - 1}"
        raise ValueError(f"{value!r} is no {below}, so a float of {8 * size} bits does not name a patient exactly")
    return str(int(value))


def text_of(value: bytes) -> str:
    """Text that is stored as bytes, and perhaps filled up with zero bytes; ValueError unless it is UTF-8.

    Control characters are no text: bytes of a number would lose them, and two numbers be one.
    """
    try:
        text = value.decode().rstrip("\0")
    except UnicodeDecodeError as error:
        raise ValueError(f"{value[:20]!r} is no UTF-8 text") from error
    if any(c < " " and c not in "\t\r\n" for c in text):
        raise ValueError(f"{value[:20]!r} are bytes and no text")
    return text


def _merged(named: Iterable[tuple[str, str, str]], file: str, reading: Reading) -> People:
    """Of places, spellings and identifiers."""
    patients: list[str] = []
    first: dict[str, tuple[str, str]] = {}
    several: dict[str, tuple[str, str]] = {}
    for place, text, name in named:
        patient, spelling = canonical_patient(name), text.strip()
        if first.setdefault(patient, (place, spelling))[1] != spelling:
            several.setdefault(patient, (place, spelling))
        patients.append(patient)
    if not several:
        return tuple(patients), ()
    patient, (place, spelling) = next(iter(several.items()))
    began, earlier = first[patient]
    example = f"{began} {earlier[:40]!r} and {place} {spelling[:40]!r}"
    if reading.spellings == "merge":
        note = f"{file}: {len(several)} patient(s) in more than one spelling, each counted as one: {example}"
        return tuple(patients), (note,)
    more = f", and {len(several) - 1} more patients" if len(several) > 1 else ""
    hint = 'Give each patient one identifier, or set spellings = "merge": then they are one. Nothing was spent.'
    raise InvalidData(f"{file}: {example} are two spellings of one patient{more}", hint)
