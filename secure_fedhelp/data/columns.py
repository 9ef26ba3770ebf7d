"""What stood in the columns of a table: exact figures of private records, for the hospital's data card alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Quantiles:
    """Smallest value, lower quartile, median, upper quartile and largest of what was not missing, as in the file."""

    smallest: float
    lower: float
    median: float
    upper: float
    largest: float


@dataclass(frozen=True)
class NumericCounts:
    """A column of numbers. A *scale* is the plan's public scale, and distances are from the plan's public centre."""

    name: str
    records: int
    missing: int
    #: Values beyond ten scales, which a model sees cut to ten.
    cut: int
    #: None where every value is missing.
    quantiles: Quantiles | None = None
    #: The median, in scales from the centre.
    middle: float = 0.0
    #: Standard deviation, in scales: of values like the public set's it is about 1.
    spread: float = 0.0
    #: The distance of the quartiles over 1.349, in scales: the same for a normal distribution, and deaf to few values
    #: however far they are.
    quartile_spread: float = 0.0
    #: Values that are far from all others and come again and again, with how often: codes for missing, most likely.
    codes: tuple[tuple[float, int], ...] = ()

    @property
    def known(self) -> int:
        return self.records - self.missing


@dataclass(frozen=True)
class CategoryCounts:
    """A categorical column."""

    name: str
    records: int
    missing: int
    #: Records of each category of the plan.
    categories: dict[str, int]
    #: Records with a value that the plan does not list, and the commonest of those, as in the file; None where the plan
    #: has no ``other`` for them, so that they are refused.
    other: int | None = None
    unlisted: tuple[tuple[str, int], ...] = ()

    @property
    def known(self) -> int:
        return self.records - self.missing


ColumnCounts = NumericCounts | CategoryCounts
