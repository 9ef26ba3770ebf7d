"""What every loader takes and gives: a way to tell how far it is, and records with what they no longer show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from secure_fedhelp.data.records import Records


class Progress(Protocol):
    """Is told what is being loaded, and how much of how much is done; the last call has ``done == total``."""

    def __call__(self, what: str, done: int, total: int) -> None: ...


def silent(what: str, done: int, total: int) -> None:
    """Tells nobody."""


@dataclass(frozen=True, eq=False)
class Loaded:
    """Records, with what the data card says of their file and the arrays cannot show any more."""

    records: Records
    #: Values that were missing, by column; a missing number has become the plan's public centre.
    missing: Mapping[str, int] = field(default_factory=dict)
    #: What whoever reads the card must know, such as that the file names no patients.
    notes: tuple[str, ...] = ()
