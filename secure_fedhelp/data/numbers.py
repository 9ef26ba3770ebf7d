"""What counts as a number in a file: one grammar for CSV, for text in Parquet and for inferred schemas.

    number   = [sign] (whole [mark [digits]] | mark digits) [exponent]
    sign     = "+" | "-"
    whole    = digits, or one to three digits, of which the first is no zero, and groups of three behind the thousands
               mark: ``0,123`` is a fraction whatever the setting says, and no 123
    digits   = "0" to "9", no others
    exponent = ("e" | "E") [sign] digits     only in columns that are declared numeric

``mark`` and the thousands mark are settings (data/reading.py). Blanks around a number are no part of it. ``inf``,
``nan`` and ``1_000``, which Python takes for numbers, are none. Where nobody declared the column, ``1E50`` is none: it
is a code of ICD-11.

A number that begins with a zero before two digits or more, as ``007`` does, is a *code*; ``07`` is a number, for so
ages and hours are padded. Where one of a list of names is a code, all of them are, and no name is taken for its number.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Final

from secure_fedhelp.data.reading import STANDARD, WHERE, Reading
from secure_fedhelp.errors import InvalidData, InvalidValue

#: What programs write where there is no value, in small letters. None of them is a number, or somebody's name.
NO_VALUE: Final = frozenset(
    (
        *("", "?", ".", "-", "na", "n/a", "#na", "#n/a", "#n/an/a", "<na>", "nan", "-nan", "nat", "null", "\\n"),
        *("1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan"),
        *("#ref!", "#value!", "#name?", "#div/0!", "#num!", "#null!"),
    )
)
#: The same in a column of words, where ``-`` may be one beside ``+``.
_NO_WORD: Final = NO_VALUE - {"-"}
_BLANKS = "[ \u00a0\u2009\u202f]"
_EXPONENT = re.compile(r"[eE][+-]?[0-9]+\Z")
_USUAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_CODE = re.compile(r"[+-]?0[0-9]{2,}(?:[.,][0-9]*)?")


def plain(text: str, reading: Reading = STANDARD) -> str | None:
    """A number without exponent in its usual spelling (a point, no thousands marks); None for what is no number."""
    value = text.strip()
    if not _pattern(reading.decimal, reading.thousands).fullmatch(value):
        return None
    if reading.thousands is not None:
        value = re.sub(_mark(reading.thousands), "", value)
    return value.replace(reading.decimal, ".")


def exact(text: str, reading: Reading = STANDARD) -> Decimal | None:
    """The value of a number without exponent, exactly; None for what is no number."""
    number = plain(text, reading)
    return None if number is None else Decimal(number)


def declared(text: str, reading: Reading = STANDARD) -> float | None:
    """The value in a column that is declared numeric, where an exponent is allowed; None if it is no finite number."""
    value = text.strip()
    if reading.usual:  # the same, faster
        found = float(value) if _USUAL.fullmatch(value) else math.nan
    else:
        exponent = _EXPONENT.search(value)
        number = plain(value[: exponent.start()] if exponent else value, reading)
        found = math.nan if number is None else float(number + (exponent.group() if exponent else ""))
    return found if math.isfinite(found) else None


def no_number(text: str, reading: Reading, where: str) -> InvalidValue:
    """The error of a text that is no number in a column of numbers; it names settings with which it would be one."""
    value = text.strip()
    if settings := other_settings(_EXPONENT.sub("", value), reading):
        return InvalidValue(f"{where}: {value[:40]!r} is a number only with {settings}", WHERE)
    if says_nothing(value):
        return InvalidValue(f"{where}: {value[:40]!r} is not a finite number", leave_empty(value))
    return InvalidValue(f"{where}: {value[:40]!r} is not a finite number")


def other_settings(text: str, reading: Reading) -> str:
    """The settings with which a text that is no number would be one, in words; empty if there are none."""
    if plain(text, reading) is not None:
        return ""
    found = []
    for decimal in dict.fromkeys([reading.decimal, *(mark for mark in ".," if mark in text)]):
        if _pattern(decimal, None).fullmatch(text.strip()):
            found.append(f'decimal = "{decimal}"')
            continue
        marks = [mark for mark in (".", ",", " ", "'") if mark != decimal]
        fitting = [mark for mark in marks if _pattern(decimal, mark).fullmatch(text.strip())]
        found += [f'decimal = "{decimal}" and thousands = "{mark}"' for mark in fitting]
    return " or with ".join(found)


def says_nothing(text: str) -> bool:
    """Whether a text is what programs write where there is no value, as R writes ``NA``. A setting has to say so."""
    return text.strip().lower() in _NO_WORD


def leave_empty(text: str) -> str:
    """What to do about a text that :func:`says_nothing`."""
    setting = f"missing = [{json.dumps(text.strip())}]"
    return f"If it stands for a value that is missing, leave the cell empty, or set {setting}. {WHERE}"


def is_code(text: str) -> bool:
    """Whether a text is a number but for zeros before it, which no number has to have, and has three digits or more."""
    return _CODE.fullmatch(text.strip()) is not None


def lost_zeros(text: str, names: Iterable[str], reading: Reading = STANDARD) -> bool:
    """Whether a text is one of these codes but for the zeros before it, which spreadsheets take away."""
    number = exact(text, reading)
    return number is not None and any(is_code(name) and exact(name) == number for name in names)


@lru_cache(maxsize=256)
def numbers_of(names: tuple[str, ...]) -> Mapping[Decimal, int]:
    """Position by number, of the names of a plan that are numbers; empty where one of them is a code."""
    if any(map(is_code, names)):
        return {}
    values = [exact(name) for name in names]
    return {value: at for at, value in enumerate(values) if value is not None and values.count(value) == 1}


def same_number(names: Iterable[str]) -> tuple[str, str] | None:
    """Two of these names that are one number, if there are such and none of the names is a code."""
    seen: dict[Decimal, str] = {}
    names = tuple(names)
    for name in () if any(map(is_code, names)) else names:
        value = exact(name)
        if value is not None and seen.setdefault(value, name) != name:
            return seen[value], name
    return None


def same_letters(texts: Iterable[str]) -> tuple[str, str] | None:
    """Two of these words that differ in small and large letters only, if there are such, as ``True`` and ``TRUE``."""
    seen: dict[str, str] = {}
    for text in texts:
        if seen.setdefault(text.casefold(), text) != text:
            return seen[text.casefold()], text
    return None


def one_spelling(texts: Sequence[str], what: str, reading: Reading = STANDARD, listed: bool = False) -> list[str]:
    """The names as they stand, but for a number in several spellings, which gets the shortest of them, with a point
    (``1`` of ``1`` and ``1.0``).

    Raises InvalidData, with ``what`` in it, if there are codes and two of the names are the same number (``007`` and
    ``7``): nobody can tell whether they are one, or what else is. Where somebody has ``listed`` the names, each stands
    for itself.
    """
    spelt: dict[Decimal, list[str]] = {}
    for text in dict.fromkeys(texts):
        if (number := exact(text, reading)) is not None:
            spelt.setdefault(number, []).append(text)
    coded = next((text for found in spelt.values() for text in found if is_code(text)), None)
    if coded is not None:
        double = next((found for found in spelt.values() if len(found) > 1), None)
        if double and not listed:
            hint = "Correct the file, or list the names in the study file: there each stands for itself."
            raise InvalidData(f"{what}: {double[0]!r} and {double[1]!r} are one number, and {coded!r} is a code", hint)
        return [plain(text, reading) or text for text in texts]
    shortest: dict[str, str] = {}
    for found in spelt.values():
        name = min((str(plain(text, reading)) for text in found), key=lambda text: (len(text), text))
        shortest |= dict.fromkeys(found, name)
    return [shortest.get(text, text) for text in texts]


@lru_cache
def _pattern(decimal: str, thousands: str | None) -> re.Pattern[str]:
    point, whole = re.escape(decimal), "[0-9]+"
    if thousands is not None:
        whole = f"(?:[1-9][0-9]{{0,2}}(?:{_mark(thousands)}[0-9]{{3}})+|{whole})"
    return re.compile(f"[+-]?(?:{whole}(?:{point}[0-9]*)?|{point}[0-9]+)")


def _mark(thousands: str) -> str:
    return _BLANKS if thousands == " " else re.escape(thousands)
