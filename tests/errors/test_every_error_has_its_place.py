"""No error may be missing from the table: a status that gRPC knows, an exit code, a hint a person can act on."""

from __future__ import annotations

import grpc
import pytest

from secure_fedhelp.errors import FedHelpError, error_classes


@pytest.mark.parametrize("cls", error_classes().values(), ids=lambda c: c.__name__)
def test_every_error_has_a_status_an_exit_code_and_a_hint(cls: type[FedHelpError]) -> None:
    assert cls.status in grpc.StatusCode.__members__
    assert cls.status != "OK"
    assert 1 <= cls.exit_code <= 6
    assert cls.default_hint.endswith((".", "FILE.")) or ":" in cls.default_hint
    assert cls("what happened").hint


def test_a_hint_of_its_own_wins() -> None:
    assert FedHelpError("what", "do this").hint == "do this"


def test_names_are_unique_so_that_the_wire_can_name_them() -> None:
    def count(cls: type[FedHelpError]) -> int:
        return 1 + sum(count(sub) for sub in cls.__subclasses__())

    assert count(FedHelpError) == len(error_classes())
