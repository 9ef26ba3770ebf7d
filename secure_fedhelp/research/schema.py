"""Columns with public constants, from the values of the public part alone."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from secure_fedhelp.data.codes import codes_for_missing, quartile_spread
from secure_fedhelp.data.numbers import (
    declared,
    is_code,
    leave_empty,
    no_number,
    one_spelling,
    other_settings,
    plain,
    same_letters,
    says_nothing,
)
from secure_fedhelp.data.reading import STANDARD, WHERE, Reading
from secure_fedhelp.data.rows import MISSING
from secure_fedhelp.errors import InvalidData
from secure_fedhelp.study.sections import Column

#: More different words than this are remarks or identifiers, not categories.
MOST_CATEGORIES = 50
#: A number with a limit, a currency or a percent sign, as laboratories and accounts write them.
_LIMITS = "<>\u2264\u2265"
_SIGNS = "%\u2030$\u20ac\u00a3\u00a5"
_MARKED = re.compile(rf"(?=.*[{_LIMITS}{_SIGNS}])[{_LIMITS}]?=?\s*[{_SIGNS}]?\s*[+-]?[0-9][0-9.,' ]*\s*[{_SIGNS}]?")
#: Significant digits of a public constant.
_DIGITS = 4
_HINT = "Set more aside with [parts] public, or list the columns yourself: [[data.columns]]."


def infer_column(name: str, public_values: Sequence[str], reading: Reading = STANDARD) -> Column:
    """Numeric if every public value that is not missing is a number (data/numbers.py), else categorical; so are codes
    such as ``007``.

    A column of which the public part misses a value gets an indicator, and a categorical one ``other``, for a category
    that the public part lacks. Raises InvalidData, also where most are numbers: NA among them is no category, nor are
    the numbers.
    """
    known = [value.strip() for value in public_values if value.strip() not in MISSING]
    # Where no public value is missing, an indicator would be 0 in every public record: nothing public could be learnt
    # of it, and each feature costs private training under noise. A value that a hospital misses is then the centre.
    indicator = len(known) < len(public_values)
    if not known:
        raise InvalidData(f"column {name!r} has no value in the public part", _HINT)
    if nothing := next(filter(says_nothing, known), None):
        among = "numbers, and" if any(plain(value, reading) is not None for value in known) else "words, and"
        raise InvalidData(f"column {name!r} has {among} {nothing!r} among them", leave_empty(nothing))
    coded = any(map(is_code, known))
    words = [value for value in known if plain(value, reading) is None]
    if not (words or coded):
        return numeric_column(name, known, reading).model_copy(update={"missing_indicator": indicator})
    if settings := [(value, found) for value in words if (found := other_settings(value, reading))]:
        value, found = settings[0]
        raise InvalidData(f"column {name!r} has {value!r}, a number only with {found}", WHERE)
    if words and len(words) < len(known) / 2:
        listed = ", ".join(map(repr, sorted(set(words))[:3]))
        hint = "Leave missing values empty (or ?), or say in [[data.columns]] what the column is."
        raise InvalidData(f"column {name!r} has numbers, and {listed} among them", hint)
    if marked := _marked_number(known, words):
        hint = "Write plain numbers, or say in [[data.columns]] what the column is."
        raise InvalidData(f"column {name!r} has {marked!r}, a number with a mark", hint)
    if pair := same_letters(known):
        hint = "Spell each word in one way, or list the categories in [[data.columns]]."
        raise InvalidData(f"column {name!r} has {pair[0]!r} and {pair[1]!r}, the same word in other letters", hint)
    if len(categories := sorted(set(one_spelling(known, f"column {name!r}", reading)))) > MOST_CATEGORIES:
        raise InvalidData(f"column {name!r} has {len(categories)} different words in the public part alone", _HINT)
    # Its feature is 0 in every public record. It is there all the same: refused, the category would end a study.
    return Column(name=name, kind="categorical", categories=tuple(categories), missing_indicator=indicator, other=True)


def _marked_number(known: Sequence[str], words: Sequence[str]) -> str | None:
    """The first number with a mark, where all values are numbers but for that: as categories they would not be numbers.

    Two limits or more and no number, such as ``<65`` and ``>=65``, are groups.
    """
    if not words or not all(map(_MARKED.fullmatch, words)):
        return None
    groups = len(words) == len(known) and len(set(words)) > 1 and all(value[0] in _LIMITS for value in words)
    return None if groups else words[0]


def numeric_column(name: str, public_values: Sequence[str], reading: Reading = STANDARD) -> Column:
    """A column of numbers, centred and scaled by the mean and standard deviation of the public values."""
    found = [(text, declared(text, reading)) for text in public_values if text not in MISSING]
    if wrong := [text for text, value in found if value is None]:
        raise no_number(wrong[0], reading, f"column {name!r}")
    known = np.asarray([value for _, value in found], dtype=np.float64)
    scale = rounded(known.std()) or 1.0
    return Column(name=name, kind="numeric", center=_centre(float(known.mean()), scale), scale=scale)


def suspected_codes(name: str, public_values: Sequence[str], reading: Reading = STANDARD) -> list[tuple[float, int]]:
    """Codes for missing among the public values of a numeric column, each with how often it comes.

    Mean and standard deviation are made of the codes too and hide them: here the middle is the median, and the scale
    is from the quartiles. One is enough to spoil the plan's constants.
    """
    found = (declared(text, reading) for text in public_values if text.strip() not in MISSING)
    values = np.asarray([value for value in found if value is not None], dtype=np.float64)
    if not len(values):
        return []
    middle, scale = float(np.median(values)), quartile_spread(values) or float(values.std()) or 1.0
    column = Column(name=name, kind="numeric", center=middle, scale=scale)
    return codes_for_missing((values - middle) / scale, column, sure_times=1)


#: A centre is rounded by no more than this share of the scale.
_OFF_CENTRE = 0.1
_ALL_DIGITS = 17


def _centre(mean: float, scale: float) -> float:
    """Four significant digits, or as many as it takes: of years, times or large numbers four are several scales off."""
    for digits in range(_DIGITS, _ALL_DIGITS):
        found = float(f"{mean:.{digits}g}")
        if abs(found - mean) <= _OFF_CENTRE * scale:
            return found
    return mean


def rounded(value: float) -> float:
    """Four significant digits: a public constant somebody can read in the plan."""
    return float(f"{value:.{_DIGITS}g}")
