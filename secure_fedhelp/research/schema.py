"""Columns with public constants, from the values of the public part alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from secure_fedhelp.data.rows import MISSING
from secure_fedhelp.errors import InvalidData
from secure_fedhelp.study.sections import Column

#: More different words than this are remarks or identifiers, not categories.
MOST_CATEGORIES = 50
_HINT = "Set more aside with [parts] public, or list the columns yourself: [[data.columns]]."


def infer_column(name: str, public_values: Sequence[str]) -> Column:
    """Numeric if every public value that is not missing is a finite number, else categorical.

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
    if all(map(_is_number, known)):
        return numeric_column(name, known).model_copy(update={"missing_indicator": indicator})
    words = [value for value in known if not _is_number(value)]
    if len(words) < len(known) / 2:
        listed = ", ".join(map(repr, sorted(set(words))[:3]))
        hint = "Leave missing values empty (or ?), or say in [[data.columns]] what the column is."
        raise InvalidData(f"column {name!r} has numbers, and {listed} among them", hint)
    if len(categories := sorted(set(known))) > MOST_CATEGORIES:
        raise InvalidData(f"column {name!r} has {len(categories)} different words in the public part alone", _HINT)
    # Its feature is 0 in every public record. It is there all the same: refused, the category would end a study.
    return Column(name=name, kind="categorical", categories=tuple(categories), missing_indicator=indicator, other=True)


def numeric_column(name: str, public_values: Sequence[str]) -> Column:
    """A column of numbers, centred and scaled by the mean and standard deviation of the public values."""
    known = np.asarray([float(value) for value in public_values if value not in MISSING])
    return Column(name=name, kind="numeric", center=rounded(known.mean()), scale=rounded(known.std()) or 1.0)


def rounded(value: float) -> float:
    """Four significant digits: a public constant somebody can read in the plan."""
    return float(f"{value:.4g}")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
