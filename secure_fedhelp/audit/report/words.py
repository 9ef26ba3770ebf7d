"""Figures and lists as people read them; rounds are counted from 1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby


def listed(names: Sequence[str]) -> str:
    """``a, b and c``."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def counted(count: int, what: str) -> str:
    """``1 hospital``, ``2 hospitals``."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def rounds(count: int) -> str:
    return counted(count, "round")


def ranges(numbers: Sequence[int]) -> str:
    """Rounds, given from 0, as ``rounds 1–3 and 5``."""
    ordered = sorted({number + 1 for number in numbers})
    return f"round{'' if len(ordered) == 1 else 's'} {spans(ordered)}"


def spans(numbers: Sequence[int]) -> str:
    """``1–3 and 5``."""
    ordered = sorted(set(numbers))
    # Neighbours have the same distance to their place in the list.
    runs = [[n for _, n in group] for _, group in groupby(enumerate(ordered), key=lambda item: item[1] - item[0])]
    return listed([str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs])


def few(names: Sequence[str], most: int = 3) -> str:
    """The first names, and how many more."""
    return listed(names) if len(names) <= most else f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more"


def spread(numbers: Sequence[int], most: int) -> list[int]:
    """At most ``most`` of the numbers in order, evenly, the first and the last among them."""
    ordered = sorted(set(numbers))
    if len(ordered) <= most:
        return ordered
    step = (len(ordered) - 1) / (most - 1)
    return [ordered[round(i * step)] for i in range(most)]


def percent_up(share: float) -> str:
    """A share as a percentage, rounded up so that it never promises too much; 100 % only if nothing is left."""
    if share >= 1:
        return "100 %"
    tenths = min(math.ceil(share * 1000 - 1e-9), 999)
    if share * 1000 <= 999:
        return f"{tenths / 10:.1f} %"
    return "more than 99.9 %"


def percent_down(share: float) -> str:
    """A confidence as a percentage, rounded down so that it never promises too much."""
    return f"{math.floor(share * 1000 + 1e-9) / 10:.1f} %"


def belief(prior: float, epsilon: float) -> float:
    """The largest probability that a ``prior`` belief in a patient's presence can be brought to.

    Bayes: the odds change by at most e to the epsilon (up to delta).
    """
    odds = prior / (1 - prior) * math.exp(min(epsilon, 700.0))
    return odds / (1 + odds) if odds < 1e300 else 1.0
