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
    """The features of one value."""
    if column.kind == "categorical":
        features = [0.0] * len(column.categories)
        if text.strip() not in MISSING:
            features[category(text, column.categories, f"{where}, column {column.name!r}")] = 1.0
        return features
    if text.strip() in MISSING:
        return [0.0]
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InvalidValue(f"{where}, column {column.name!r}: {text.strip()[:40]!r} is not a finite number")
    return [(value - column.center) / column.scale]


def decode_row(values: np.ndarray[tuple[int, ...], np.dtype[np.float32]], columns: Sequence[Column]) -> list[str]:
    """The text values of one input's features."""
    cells, start = [], 0
    for column in columns:
        width = len(column.categories) or 1
        part = values[start : start + width]
        start += width
        if column.kind == "numeric":
            cells.append(repr(float(part[0]) * column.scale + column.center))
        else:
            cells.append(column.categories[int(part.argmax())] if part.any() else "")
    return cells


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
