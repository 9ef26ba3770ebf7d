"""What a model sees of one value of a table: numbers centred and scaled, categories as ones among zeros."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from secure_fedhelp.data.rows import MISSING
from secure_fedhelp.errors import InvalidValue, UnknownCategory
from secure_fedhelp.study.sections import Column

#: Standardised numbers are cut here: a value ten public scales from the centre is a unit mistake more often than a
#: finding, and must not swallow a whole gradient.
LARGEST_STANDARDISED = 10.0


def encode_rows(
    rows: Iterable[tuple[str, Sequence[str]]], columns: Sequence[Column]
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """float32 [rows, features] of raw text values in the columns' order; each row with the place that errors name."""
    values = [
        [x for text, column in zip(row, columns, strict=True) for x in encode(text, column, place)]
        for place, row in rows
    ]
    clipped = np.clip(np.asarray(values, dtype=np.float64), -LARGEST_STANDARDISED, LARGEST_STANDARDISED)
    return clipped.astype(np.float32)


def encode(text: str, column: Column, where: str) -> list[float]:
    """The features of one value: ``column.width`` of them, that of ``other`` and the indicator at the end."""
    missing = text.strip() in MISSING
    if column.kind == "categorical":
        features = [0.0] * (column.listed + column.other)
        if not missing:
            features[_place(text, column, where)] = 1.0
    else:
        features = [0.0 if missing else (_number(text, column, where) - column.center) / column.scale]
    return [*features, float(missing)] if column.missing_indicator else features


def _place(text: str, column: Column, where: str) -> int:
    try:
        return category(text, column.categories, f"{where}, column {column.name!r}")
    except UnknownCategory:
        if not column.other:
            raise
        return column.listed


def _number(text: str, column: Column, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InvalidValue(f"{where}, column {column.name!r}: {text.strip()[:40]!r} is not a finite number")
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


def category(text: str, categories: Sequence[str], where: str) -> int:
    """Index of a category; a number in another spelling (``1.0`` for ``1``) is the same category."""
    value = text.strip()
    if value in categories:
        return categories.index(value)
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if number.is_integer() and str(int(number)) in categories:
        return categories.index(str(int(number)))
    raise UnknownCategory(f"{where}: {value[:40]!r} is none of {', '.join(categories)}")
