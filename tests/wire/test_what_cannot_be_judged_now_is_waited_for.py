"""Three answers: refused, I cannot judge now, the study says no. Only the second is tried again, and not for ever."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from consortia import NOW, Consortium
from unlocking import UNLOCK

from secure_fedhelp.errors import (
    CannotJudgeNow,
    CertificateRevoked,
    CoordinatorUnreachable,
    FedHelpError,
    NoFileLeft,
    RevocationsUnreadable,
    StorageError,
    UnderQuorum,
)
from secure_fedhelp.identity.tls import Credentials, load_credentials
from secure_fedhelp.wire.client import CoordinatorClient
from secure_fedhelp.wire.failures import answering
from secure_fedhelp.wire.generated import coordinator_pb2 as pb
from secure_fedhelp.wire.generated.coordinator_pb2_grpc import CoordinatorServicer
from secure_fedhelp.wire.memory import MemoryChannel


class Answers(CoordinatorServicer):
    """A coordinator that meets each of ``errors`` in turn, and then answers."""

    def __init__(self, *errors: Exception, then: Exception | None = None) -> None:
        self._errors: Iterator[Exception | None] = iter(errors)
        self._then, self.asked = then, 0

    def Join(self, request: pb.JoinRequest, context: Any) -> pb.Done:
        self.asked += 1
        with answering(context):
            error = next(self._errors, self._then)
            if error is not None:
                raise error
            return pb.Done()


@pytest.fixture(scope="module")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    folder: Path = Consortium.create(tmp_path_factory.mktemp("north")).member("alpha")
    return load_credentials(folder, NOW, UNLOCK)


class Hospital:
    """A client on a clock of its own, which counts the connections it makes."""

    def __init__(self, coordinator: Answers, credentials: Credentials) -> None:
        self.now, self.dialled = 0.0, 0

        def dial(known: Credentials) -> grpc.Channel:
            self.dialled += 1
            return MemoryChannel(coordinator, known.certificate_pem)

        self.client = CoordinatorClient(
            "127.0.0.1:1",
            credentials,
            "north",
            sleep=self._sleep,
            clock=lambda: self.now,
            patience_seconds=120,
            dial=dial,
        )

    def _sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(
    "error",
    [
        RevocationsUnreadable("half a list"),
        CannotJudgeNow("something else"),
        NoFileLeft("Too many open files"),
        StorageError("the disk is full"),
        OSError(24, "Too many open files"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_hospital_waits_and_keeps_its_connection(credentials: Credentials, error: Exception) -> None:
    """A new connection would need what the coordinator may have none of."""
    coordinator = Answers(error, error, error)
    hospital = Hospital(coordinator, credentials)
    hospital.client.join(b"")
    assert coordinator.asked == 4
    assert hospital.dialled == 1
    assert 0 < hospital.now < 5


def test_a_hospital_does_not_wait_for_ever(credentials: Credentials) -> None:
    hospital = Hospital(Answers(then=RevocationsUnreadable("half a list")), credentials)
    with pytest.raises(CoordinatorUnreachable, match="cannot judge now: half a list") as caught:
        hospital.client.join(b"")
    assert "Run the same command again" in caught.value.hint
    assert 119 < hospital.now < 121


@pytest.mark.parametrize("error", [CertificateRevoked("alpha"), UnderQuorum("two of three")])
def test_a_refusal_and_the_end_of_the_study_are_final(credentials: Credentials, error: FedHelpError) -> None:
    coordinator = Answers(error)
    with pytest.raises(type(error)):
        Hospital(coordinator, credentials).client.join(b"")
    assert coordinator.asked == 1


def test_what_is_waited_for_is_told_once_it_lasts_and_then_once_a_minute(
    credentials: Credentials, caplog: pytest.LogCaptureFixture
) -> None:
    """A person who looks at the hospital's terminal sees whose trouble it is, and no line for what passes at once."""
    passing = Hospital(Answers(RevocationsUnreadable("no list")), credentials)
    passing.client.join(b"card")
    assert caplog.records == []
    lasting = Hospital(Answers(then=RevocationsUnreadable("no list")), credentials)
    with pytest.raises(CoordinatorUnreachable):
        lasting.client.join(b"card")
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert told[0].startswith("127.0.0.1:1 cannot judge now: no list; trying again for up to 1")
