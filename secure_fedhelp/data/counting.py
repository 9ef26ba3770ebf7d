"""Counting what the data card tells: of a table's columns before anything is filled in or cut (data/columns.py), and of
the pixels of images."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.data.columns import CategoryCounts, ColumnCounts, NumericCounts, Quantiles
from secure_fedhelp.data.encoding import LARGEST_STANDARDISED
from secure_fedhelp.data.images import CENTER, SCALE
from secure_fedhelp.data.loaded import Tones
from secure_fedhelp.data.records import Inputs
from secure_fedhelp.data.rows import MISSING
from secure_fedhelp.study.sections import Column

Floats = NDArray[np.floating[Any]]
#: Quartiles of a normal distribution are so many standard deviations apart.
_QUARTILES_APART = 1.349
#: What is no code for missing: nearer to the median than this, in scales ...
_FAR = 4.0
#: ... or nearer to the next value, for a tail is long and has no gap ...
_GAP = 1.5
#: ... or rarer than this, in records and as a share of what is known: an extreme value by itself is a finding, or one
#: typing mistake.
_OFTEN, _OFTEN_SHARE = 3, 0.005
#: More different values than this beyond a gap are values in another unit, or other patients, and no codes.
_MOST_CODES = 5
#: Gaps that are looked at in a column.
_GAPS = 8
#: Standardised values beyond this would overflow when they are squared.
_LARGEST = 1e100
#: Of what the plan does not list, so many values are named.
_NAMED = 3
#: Black and white as a model sees them.
BLACK, WHITE = (0.0 - CENTER) / SCALE, (1.0 - CENTER) / SCALE
#: Resizing rounds; a grey step of eight bits is fifteen times this.
_NEAR = 1e-3
#: Images that are compared at a time, and pixels that a percentile is taken of.
_IMAGES, _SAMPLED = 256, 1_000_000


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
        raw = None if texts is None else [text.strip() for text in texts(column.name)]
        missing = _missing(part, column, raw)
        if column.kind == "numeric":
            found.append(_numbers(part[~missing, 0], int(missing.sum()), column, as_read=raw is not None))
        else:
            found.append(_categories(part, int(missing.sum()), column, raw))
    return tuple(found)


def _missing(part: Floats, column: Column, raw: list[str] | None) -> NDArray[np.bool_]:
    if raw is not None:
        return np.asarray([text in MISSING for text in raw], dtype=np.bool_)
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
        quantiles=Quantiles(*(_raw(end, column) for end in ends)),
        middle=float(ends[2]),
        spread=float(finite.std()),
        quartile_spread=_quartile_spread(finite),
        codes=tuple((_raw(value, column), n) for value, n in codes_for_missing(finite)) if as_read else (),
    )


def codes_for_missing(values: Floats) -> list[tuple[float, int]]:
    """Values, in scales from the plan's centre, that lie far from all others and come often; each with how often.

    What lies beyond the widest gap, on the side further from the centre, is taken away, and so again: -999 must not
    hide -99, nor one typing mistake either of them.
    """
    distinct, counts = np.unique(values, return_counts=True)
    often = max(_OFTEN, math.ceil(_OFTEN_SHARE * len(values)))
    found = list[tuple[float, int]]()
    for _ in range(_GAPS):
        if len(distinct) < 2:
            break
        gaps = np.diff(distinct)
        widest = int(np.argmax(gaps))
        low, high = slice(0, widest + 1), slice(widest + 1, None)
        below = abs(_median(distinct[low], counts[low])) > abs(_median(distinct[high], counts[high]))
        far, rest, edge = (low, high, distinct[widest]) if below else (high, low, distinct[widest + 1])
        unit = max(1.0, _quartile_spread(np.repeat(distinct[rest], counts[rest])))
        if gaps[widest] < _GAP * unit or abs(edge - _median(distinct[rest], counts[rest])) < _FAR * unit:
            break
        beyond = list(zip(distinct[far].tolist(), counts[far].tolist(), strict=True))
        if len(beyond) <= _MOST_CODES:
            found += [(value, count) for value, count in beyond if count >= often]
        elif counts[far].sum() > counts[rest].sum():  # most of the column: its unit is wrong, and it has no codes
            break
        distinct, counts = distinct[rest], counts[rest]
    return sorted(found)


def _categories(part: Floats, missing: int, column: Column, raw: list[str] | None) -> CategoryCounts:
    taken = part[:, : column.listed + column.other].sum(axis=0).astype(int).tolist()
    named = dict(zip(column.categories, taken, strict=False))
    if not column.other:
        return CategoryCounts(column.name, len(part), missing, named)
    strange = [] if raw is None else [raw[i] for i in np.flatnonzero(part[:, column.listed])]
    return CategoryCounts(
        column.name, len(part), missing, named, taken[column.listed], tuple(Counter(strange).most_common(_NAMED))
    )


def _raw(value: float, column: Column) -> float:
    """As in the file, but for the last digits, which standardising has rounded."""
    return float(f"{float(value) * column.scale + column.center:.9g}")


def _median(values: Floats, counts: NDArray[np.integer[Any]]) -> float:
    return float(values[np.searchsorted(np.cumsum(counts), counts.sum() / 2)])


def _quartile_spread(values: Floats) -> float:
    lower, upper = np.quantile(values, (0.25, 0.75))
    return float(upper - lower) / _QUARTILES_APART


# --- images ---------------------------------------------------------------------------------------------------------


def count_tones(inputs: Inputs) -> Tones:
    """Of images as a model sees them: those of an array are taken as they are, so what is beyond is not cut."""
    found = Tones()
    for start in range(0, len(inputs), _IMAGES):
        part = inputs[start : start + _IMAGES]
        below, above = int((part < BLACK - _NEAR).sum()), int((part > WHITE + _NEAR).sum())
        black, white = int((part <= BLACK + _NEAR).sum()), int((part >= WHITE - _NEAR).sum())
        found += Tones(part.size, below, above, black, white)
    return found


def grey_ends(inputs: Inputs) -> tuple[float, float]:
    """The first and the last percentile of all pixels, black being 0 and white 1; of every so many, where there are
    many."""
    pixels = inputs.reshape(-1)
    low, high = np.quantile(pixels[:: max(1, pixels.size // _SAMPLED)], (0.01, 0.99))
    return float(low) * SCALE + CENTER, float(high) * SCALE + CENTER
