"""What a hospital that ends with an error says to the coordinator, by the table in docs/hospital.md."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from secure_fedhelp import errors
from secure_fedhelp.errors import FedHelpError, PolicyViolation
from secure_fedhelp.hospital.leaving import Farewell, Farewells, farewell

LEAVE, GOODBYE, NOTHING = Farewell.LEAVE, Farewell.GOODBYE, Farewell.NOTHING
#: One of each line at least.
TABLE = {
    errors.OneClassOnly: LEAVE,
    errors.TooFewPatients: LEAVE,
    errors.InvalidData: LEAVE,
    errors.PolicyViolation: LEAVE,
    errors.AccountantDisagreement: LEAVE,
    errors.FoundationRefused: LEAVE,
    errors.SplitView: LEAVE,
    errors.StorageError: GOODBYE,
    errors.NoFileLeft: GOODBYE,
    errors.InvalidConfiguration: GOODBYE,
    errors.LedgerInvalid: GOODBYE,
    errors.RevocationsUnreadable: GOODBYE,
    errors.UnlockSecretMissing: GOODBYE,
    errors.FoundationUnavailable: GOODBYE,
    errors.FoundationAnswerInvalid: GOODBYE,
    errors.FoundationChanged: GOODBYE,
    errors.LedgerLocked: NOTHING,
    errors.StudyEnded: NOTHING,
    errors.HospitalsLeft: NOTHING,
    errors.CertificateRevoked: NOTHING,
    errors.WrongAuthority: NOTHING,
    errors.CoordinatorUnreachable: NOTHING,
}


@pytest.mark.parametrize(("kind", "said"), TABLE.items())
def test_each_kind_of_error_says_what_the_table_says(kind: type[FedHelpError], said: Farewell) -> None:
    assert farewell(kind("x"), comes_back=True) is said
    never = LEAVE if said is GOODBYE else said
    assert farewell(kind("x"), comes_back=False) is never, "nobody starts a simulated hospital again"


@pytest.mark.parametrize(
    ("error", "said"), [(ZeroDivisionError(), LEAVE), (OSError(28, "full"), GOODBYE), (MemoryError(), GOODBYE)]
)
def test_so_do_pythons_own(error: Exception, said: Farewell) -> None:
    assert farewell(error, comes_back=True) is said


class Coordinator:
    def __init__(self) -> None:
        self.heard: list[str] = []

    def leave(self, study: str) -> None:
        self.heard.append(f"leave {study}")

    def goodbye(self) -> None:
        self.heard.append("goodbye")


@pytest.mark.parametrize("error", [PolicyViolation("x"), errors.StorageError("x")])
def test_nothing_is_said_while_another_process_has_the_ledger(tmp_path: Path, error: Exception) -> None:
    coordinator, ledger = Coordinator(), tmp_path / "ledger.jsonl"
    ledger.touch()
    saying = Farewells(coordinator, "study", ledger, lambda line: None, comes_back=True)
    with ledger.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(type(error)), saying:
            raise error
        assert coordinator.heard == []
    with pytest.raises(type(error)), saying:
        raise error
    assert coordinator.heard == ["leave study" if isinstance(error, PolicyViolation) else "goodbye"]


def test_who_is_stopped_by_hand_or_is_done_with_the_study_says_nothing(tmp_path: Path) -> None:
    coordinator = Coordinator()
    saying = Farewells(coordinator, "study", tmp_path / "ledger.jsonl", lambda line: None, comes_back=True)
    with pytest.raises(KeyboardInterrupt), saying:
        raise KeyboardInterrupt
    saying.over = True
    with pytest.raises(ZeroDivisionError), saying:
        raise ZeroDivisionError
    assert coordinator.heard == []
