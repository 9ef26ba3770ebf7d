"""What a hospital that ends with an error says to the coordinator: that it does not take part, and nothing else.

Whether it takes part is visible to everybody anyway, at the latest when a deadline passes. Saying it saves the others
that deadline. Why it does not is said in its own log only: the message has no room for a reason, so that neither the
records that failed a check, nor which check it was, is told to anybody.

*The machine's troubles* (a full disk, a setting, a foundation model) are mended, and the same command goes on. A
hospital that was in the study says goodbye for so long: nobody waits, and it may come back. *Everything else* it says
for the study, until it joins again. It says nothing where the coordinator has said no itself, and where another process
of this hospital may be at work, which this one must not sign off.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final, Protocol

from secure_fedhelp.errors import (
    CannotJudgeNow,
    CertificateExpired,
    CertificateRevoked,
    CoordinatorUnreachable,
    DuplicateHospital,
    FedHelpError,
    FoundationAnswerInvalid,
    FoundationChanged,
    FoundationUnavailable,
    InvalidConfiguration,
    InvalidPlan,
    InvalidPolicy,
    LedgerInvalid,
    LedgerLocked,
    MissingExtra,
    NotOnRoster,
    PlanChanged,
    StorageError,
    StudyAlreadyStarted,
    StudyEnded,
    UnsafePermissions,
    UnsealedSecret,
    VersionMismatch,
    WrongAuthority,
    WrongUnlockSecret,
)


class Farewell(Enum):
    """What to say of an error."""

    NOTHING = "nothing"
    GOODBYE = "goodbye"
    LEAVE = "leave"


#: The coordinator's own words, or another process's study.
_NOTHING: Final = (
    StudyEnded,
    StudyAlreadyStarted,
    CoordinatorUnreachable,
    CertificateExpired,
    CertificateRevoked,
    DuplicateHospital,
    LedgerLocked,
    NotOnRoster,
    PlanChanged,
    WrongAuthority,
)
#: A person mends these at this hospital, and runs the same command again.
_MENDED: Final = (
    CannotJudgeNow,
    FoundationAnswerInvalid,
    FoundationChanged,
    FoundationUnavailable,
    InvalidConfiguration,
    InvalidPlan,
    InvalidPolicy,
    LedgerInvalid,
    MemoryError,
    MissingExtra,
    OSError,
    StorageError,
    UnsafePermissions,
    UnsealedSecret,
    VersionMismatch,
    WrongUnlockSecret,
)


class Told(Protocol):
    """The coordinator's calls that are needed here."""

    def leave(self, study: str) -> None: ...
    def goodbye(self) -> None: ...


def farewell(error: Exception, comes_back: bool) -> Farewell:
    """What ``error`` is worth saying; ``comes_back`` False: nobody will start this hospital again (a simulation)."""
    if isinstance(error, _NOTHING):
        return Farewell.NOTHING
    return Farewell.GOODBYE if comes_back and isinstance(error, _MENDED) else Farewell.LEAVE


@dataclass
class Farewells:
    """Around a hospital's part in a study: what it ends with is said to the coordinator, and raised all the same."""

    coordinator: Told
    #: Hash of the plan.
    study: str
    ledger: Path
    say: Callable[[str], None]
    comes_back: bool
    #: Set when the study is over here: the models are still to be trained and kept, and nobody waits for that.
    over: bool = False

    def __enter__(self) -> Farewells:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        # What is no Exception is a signal: who stops a hospital by hand may start it again, and nothing is said.
        if isinstance(error, Exception) and not self.over:
            self.of(error)

    def of(self, error: Exception) -> None:
        """Say what is to be said of ``error``. Whatever goes wrong with that is nothing to the error itself."""
        what = farewell(error, self.comes_back)
        if what is Farewell.NOTHING or _in_use(self.ledger):
            return
        with contextlib.suppress(FedHelpError, OSError):
            if what is Farewell.LEAVE:
                self.say("telling the coordinator that this hospital does not take part, and nothing else")
                self.coordinator.leave(self.study)
            else:
                self.coordinator.goodbye()


def _in_use(ledger: Path) -> bool:
    """Whether another process has the ledger: this hospital is in a study, whatever became of this process."""
    try:
        file = os.open(ledger, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(file)
    return False
