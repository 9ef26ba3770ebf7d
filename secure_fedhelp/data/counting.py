"""Counting what stood in a table's columns, before anything is filled in or cut (data/columns.py)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.data.codes import Floats, codes_for_missing, quartile_spread, raw
from secure_fedhelp.data.columns import CategoryCounts, ColumnCounts, NumericCounts, Quantiles
from secure_fedhelp.data.encoding import LARGEST_STANDARDISED
from secure_fedhelp.data.rows import MISSING
from secure_fedhelp.study.sections import Column

#: Standardised values beyond this would overflow when they are squared.
_LARGEST = 1e100
#: Of what the plan does not list, so many values are named, with so many characters.
_NAMED, _LONGEST = 3, 40


def count_columns(
    features: Floats, columns: Sequence[Column], texts: Callable[[str], Sequence[str]] | None = None
) -> tuple[ColumnCounts, ...]:
    """Figures of each column, from features [records, width] that are not cut and the texts that they were made of.

    Without ``texts`` as much as the features tell: a number without an indicator is never missing, what was cut is ten
    scales from the centre, and what the plan does not list has no name.
    """
    found, start = list[ColumnCounts](), 0
    for column in columns:
        part = features[:, start : start + column.width]
        start += column.width
        words = None if texts is None else [text.strip() for text in texts(column.name)]
        missing = _missing(part, column, words)
        if column.kind == "numeric":
            found.append(_numbers(part[~missing, 0], int(missing.sum()), column, as_read=words is not None))
        else:
            found.append(_categories(part, int(missing.sum()), column, words))
    return tuple(found)


def _missing(part: Floats, column: Column, words: list[str] | None) -> NDArray[np.bool_]:
    if words is not None:
        return np.asarray([text in MISSING for text in words], dtype=np.bool_)
    if column.missing_indicator:
        return np.asarray(part[:, -1] > 0, dtype=np.bool_)
    return np.asarray((part == 0).all(axis=1) & (column.kind == "categorical"), dtype=np.bool_)


def _numbers(values: Floats, missing: int, column: Column, as_read: bool) -> NumericCounts:
    """``values``: those that are known, in scales from the centre, ``as_read`` or cut."""
    records = len(values) + missing
    if not len(values):
        return NumericCounts(column.name, records, missing, cut=0)
    beyond = np.abs(values) > LARGEST_STANDARDISED if as_read else np.abs(values) >= LARGEST_STANDARDISED
    finite = np.clip(values.astype(np.float64), -_LARGEST, _LARGEST)
    ends = np.quantile(finite, (0.0, 0.25, 0.5, 0.75, 1.0))
    return NumericCounts(
        name=column.name,
        records=records,
        missing=missing,
        cut=int(beyond.sum()),
        quantiles=Quantiles(*(raw(end, column) for end in ends)),
        middle=float(ends[2]),
        spread=float(finite.std()),
        quartile_spread=quartile_spread(finite),
        codes=tuple(codes_for_missing(finite, column)) if as_read else (),
    )


def _categories(part: Floats, missing: int, column: Column, words: list[str] | None) -> CategoryCounts:
    taken = part[:, : column.listed + column.other].sum(axis=0).astype(int).tolist()
    named = dict.fromkeys(column.categories, 0)
    for name, count in zip(column.categories, taken, strict=False):
        named[name] += count
    if not column.other:
        return CategoryCounts(column.name, len(part), missing, named)
    strange = [] if words is None else [words[i][:_LONGEST] for i in np.flatnonzero(part[:, column.listed])]
    return CategoryCounts(
        column.name, len(part), missing, named, taken[column.listed], tuple(Counter(strange).most_common(_NAMED))
    )
