"""Codes for missing among the numbers of a column: -999, 99, 0 where nothing is near 0."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.study.sections import Column

Floats = NDArray[np.floating[Any]]
#: Quartiles of a normal distribution are so many standard deviations apart.
_QUARTILES_APART = 1.349
#: What is no code for missing: nearer to the median than this, in scales ...
_FAR = 4.0
#: ... or nearer to the next value, in scales for a usual code and in widths of all the rest for another: a tail is long
#: and may end where a device does ...
_GAP, _GAP_OF_OTHERS = 1.5, 0.5
#: ... or rarer than this, in records and as a share of what is known: an extreme value by itself is a finding, or one
#: typing mistake.
_OFTEN, _OFTEN_SHARE = 3, 0.005
#: How missing is usually coded, besides 0 and a negative number among others that are not: 9, 99, 998, 888, 7777.
_USUAL_CODE = re.compile(r"9*[789]|7+|8+")
#: Of two digits or more, or below 0, and beyond what a model is shown: then it need not come often.
_SURE, _SURE_TIMES = 10.0, 2
#: More different values than this beyond a gap are values in another unit, or other patients, and no codes.
_MOST_CODES = 5
#: Gaps that are looked at in a column.
_GAPS = 8
#: Significant digits of a value that are told.
_DIGITS = 12
#: Above this, rounding may overflow.
_LARGEST_RAW = 1e300


def codes_for_missing(values: Floats, column: Column, sure_times: int = _SURE_TIMES) -> list[tuple[float, int]]:
    """Values as in the file that lie far from all others and come often, each with how often; from values in scales.

    A usual code that would be cut has to come ``sure_times``.

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
        far, rest, edge = (low, high, widest) if below else (high, low, widest + 1)
        body = np.repeat(distinct[rest], counts[rest])
        spread = quartile_spread(body)
        unit = max(1.0, spread)
        if gaps[widest] < _GAP * unit or abs(distinct[edge] - np.median(body)) < _FAR * unit:
            break
        if len(distinct[far]) <= _MOST_CODES:
            # Where most of a column is one value, the others are what it is about, and only usual codes are told.
            alone = spread > 0 and gaps[widest] > _GAP_OF_OTHERS * (body[-1] - body[0])
            rest_from = raw(body[0], column)
            for scaled, times in zip(distinct[far].tolist(), counts[far].tolist(), strict=True):
                value = raw(scaled, column)
                usual = _is_usual_code(value, rest_from, spread)
                sure = usual and abs(scaled) > _SURE and not 0 <= value < _SURE
                if times >= (sure_times if sure else often) and (alone or usual):
                    found.append((value, times))
        elif counts[far].sum() > len(body):  # most of the column: its unit is wrong, and it has no codes
            break
        distinct, counts = distinct[rest], counts[rest]
    return sorted(found)


def _is_usual_code(value: float, lowest: float, spread: float) -> bool:
    """``lowest`` is the smallest of the other values, and ``spread`` theirs: 0 beside ones alone is a finding."""
    negative, zero = value < 0 <= lowest, value == 0 and spread > 0
    return negative or zero or _USUAL_CODE.fullmatch(f"{value:.12g}") is not None


def raw(value: float, column: Column) -> float:
    """A value in scales as in the file: the last digits, which standardising has rounded, are left out."""
    found, size = float(value) * column.scale + column.center, max(abs(column.center), column.scale)
    if abs(found) > _LARGEST_RAW:
        return found
    return float(f"{round(found, _DIGITS - math.floor(math.log10(size))):.{_DIGITS}g}") + 0.0  # minus zero is zero


def quartile_spread(values: Floats) -> float:
    """The distance of the quartiles over that of a normal distribution of standard deviation 1."""
    lower, upper = np.quantile(values, (0.25, 0.75))
    return float(upper - lower) / _QUARTILES_APART


def _median(values: Floats, counts: NDArray[np.integer[Any]]) -> float:
    return float(values[np.searchsorted(np.cumsum(counts), counts.sum() / 2)])
