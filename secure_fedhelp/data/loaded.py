"""What every loader takes and gives: a way to tell how far it is, and records with what they no longer show."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Literal, Protocol, TypeVar

from secure_fedhelp.data.columns import ColumnCounts
from secure_fedhelp.data.records import Records

Item = TypeVar("Item")
#: What a single image is whose values are of another kind than the plan's ``intensity`` is meant for.
Odd = Literal["white", "fractions"]
#: Rows between two reports of progress.
REPORT_ROWS = 2000


class Progress(Protocol):
    """Is told what is being loaded, and how much of how much is done; the last call has ``done == total``."""

    def __call__(self, what: str, done: int, total: int) -> None: ...


def silent(what: str, done: int, total: int) -> None:
    """Tells nobody."""


def counted(rows: Sequence[Item], what: str, progress: Progress) -> Iterator[Item]:
    """The same rows, and now and then how many of them have been asked for."""
    for number, row in enumerate(rows):
        if number % REPORT_ROWS == 0:
            progress(what, number, len(rows))
        yield row
    progress(what, len(rows), len(rows))


@dataclass(frozen=True)
class Tones:
    """How the raw pixels of images lie against the plan's ``intensity``, before anything is cut.

    ``below`` and ``above`` count the pixels strictly beyond black and white, ``black`` and ``white`` those that become
    black and white (the cut ones with them).
    """

    pixels: int = 0
    below: int = 0
    above: int = 0
    black: int = 0
    white: int = 0

    def __add__(self, other: Tones) -> Tones:
        return Tones(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True, eq=False)
class Loaded:
    """Records, with what the data card says of their file and the arrays cannot show any more."""

    records: Records
    #: What stood in each column of a table, before anything was filled in or cut.
    columns: tuple[ColumnCounts, ...] = ()
    #: What whoever reads the card must know, such as that the file names no patients.
    notes: tuple[str, ...] = ()
    #: How volumes lie that lie in different ways; empty if all lie alike.
    turned: str = ""
    #: Of image files, whose raw values the plan's ``intensity`` cuts; None for tables and arrays.
    tones: Tones | None = None
    #: Of image files: those that stand out, by what is odd about them (data/suspicion.py).
    odd: Mapping[Odd, Collection[str]] = field(default_factory=dict)

    @property
    def missing(self) -> dict[str, int]:
        """Values that were missing, by column."""
        return {one.name: one.missing for one in self.columns}
