"""What a model sees of one value of a table: numbers centred and scaled, categories as ones among zeros."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from secure_fedhelp.data.numbers import (
    declared,
    exact,
    leave_empty,
    lost_zeros,
    no_number,
    numbers_of,
    other_settings,
    says_nothing,
)
from secure_fedhelp.data.reading import STANDARD, Reading
from secure_fedhelp.data.rows import MISSING
from secure_fedhelp.errors import UnknownCategory
from secure_fedhelp.study.sections import Column

#: Standardised numbers are cut here: a value ten public scales from the centre is a unit mistake more often than a
#: finding, and must not swallow a whole gradient.
LARGEST_STANDARDISED = 10.0


def encode_rows(
    rows: Iterable[tuple[str, Sequence[str]]], columns: Sequence[Column], reading: Reading = STANDARD
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """float32 [rows, features] of raw text values in the columns' order; each row with the place that errors name."""
    values = [
        [x for text, column in zip(row, columns, strict=True) for x in encode(text, column, place, reading)]
        for place, row in rows
    ]
    clipped = np.clip(np.asarray(values, dtype=np.float64), -LARGEST_STANDARDISED, LARGEST_STANDARDISED)
    return clipped.astype(np.float32)


def encode(text: str, column: Column, where: str, reading: Reading = STANDARD) -> list[float]:
    """The features of one value: ``column.width`` of them, that of ``other`` and the indicator at the end."""
    missing = text.strip() in MISSING
    if column.kind == "categorical":
        features = [0.0] * (column.listed + column.other)
        if not missing:
            features[_place(text, column, where, reading)] = 1.0
    else:
        features = [0.0 if missing else (_number(text, column, where, reading) - column.center) / column.scale]
    return [*features, float(missing)] if column.missing_indicator else features


def _place(text: str, column: Column, where: str, reading: Reading) -> int:
    try:
        return category(text, column.categories, f"{where}, column {column.name!r}", reading)
    except UnknownCategory:
        if not column.other or lost_zeros(text, column.categories, reading):
            raise
        if numbers_of(column.categories) and other_settings(text, reading):  # 1,5 is no other category than 1.5
            raise no_number(text, reading, f"{where}, column {column.name!r}") from None
        # Missing is no other category, and neither is a listed one with characters that nobody sees.
        seen = "".join(c for c in text if c.isprintable()).strip()
        if says_nothing(text) or seen in (*column.categories, ""):
            raise
        return column.listed


def _number(text: str, column: Column, where: str, reading: Reading) -> float:
    value = declared(text, reading)
    if value is None:
        raise no_number(text, reading, f"{where}, column {column.name!r}")
    return value


def decode_row(values: np.ndarray[tuple[int, ...], np.dtype[np.float32]], columns: Sequence[Column]) -> list[str]:
    """The text values of one input's features, which :func:`encode` makes the same features of.

    A missing value is empty where the features tell it: of a category, or by an indicator. Without one a number's is
    the centre. What the plan does not list is :func:`unlisted`, since its own word is no feature.
    """
    cells, start = [], 0
    for column in columns:
        part = values[start : start + column.width]
        start += column.width
        if column.missing_indicator and part[-1]:
            cells.append("")
        elif column.kind == "numeric":
            cells.append(repr(float(part[0]) * column.scale + column.center))
        elif not part.any():
            cells.append("")
        else:
            cells.append((*column.categories, unlisted(column))[int(part.argmax())])
    return cells


def unlisted(column: Column) -> str:
    """A word for a value that is none of a column's categories: ``other``, longer where that is one of them."""
    word = "other"
    while word in column.categories:
        word += "-other"
    return word


def category(text: str, categories: Sequence[str], where: str, reading: Reading = STANDARD) -> int:
    """Index of a category; a number in another spelling (``1.0`` or ``01`` for ``1``) is the same category; a code is
    not (data/numbers.py)."""
    value = text.strip()
    if reading.usual and value in categories:
        return categories.index(value)
    number, known = exact(value, reading), numbers_of(tuple(categories))
    if number is not None and number in known:
        return known[number]
    if value in categories and (number is None or exact(value) in (None, number)):  # not 1.500 where it is 1500
        return categories.index(value)
    hint = leave_empty(value) if says_nothing(value) else None
    raise UnknownCategory(f"{where}: {value[:40]!r} is none of {', '.join(categories)}", hint)
