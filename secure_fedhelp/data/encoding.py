"""What a model sees of one value of a table: numbers centred and scaled, categories as ones among zeros."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from secure_fedhelp.data.numbers import declared, exact, no_number, numbers_of
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
    """The features of one value."""
    if column.kind == "categorical":
        features = [0.0] * len(column.categories)
        if text.strip() not in MISSING:
            features[category(text, column.categories, f"{where}, column {column.name!r}", reading)] = 1.0
        return features
    if text.strip() in MISSING:
        return [0.0]
    value = declared(text, reading)
    if value is None:
        raise no_number(text, reading, f"{where}, column {column.name!r}")
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
    raise UnknownCategory(f"{where}: {value[:40]!r} is none of {', '.join(categories)}")
