"""How figures are printed for people; never so that less seems to have been spent."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, Context, Decimal

NOTHING = "–"
#: From here on an epsilon says nothing but its size, as a limit that somebody wrote down may have.
_LARGE = 1e6


def epsilon(value: float) -> str:
    """Epsilon rounded *up* in the second decimal, so that what is shown is never less than what was spent.

    A large one has three digits and a power of ten.
    """
    exact = Decimal(str(value))
    if value >= _LARGE:
        return str(Context(prec=3, rounding=ROUND_CEILING).plus(exact))
    return str(exact.quantize(Decimal("0.01"), ROUND_CEILING))


def size(count: int | None) -> str:
    """A number of bytes in B, KiB, MiB or GiB."""
    if count is None:
        return NOTHING
    amount, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"


def count(value: int) -> str:
    """An integer with commas between thousands."""
    return f"{value:,}"


def odds(epsilon: float) -> str:
    """e to the epsilon, rounded up: the factor by which one patient can change the odds of a conclusion."""
    factor = math.exp(min(epsilon, 50.0))
    return count(math.ceil(factor)) if factor >= 10 else f"{math.ceil(factor * 10) / 10:.1f}"
