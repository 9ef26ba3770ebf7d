"""A coordinator without a file descriptor waits for one: nothing is lost, nobody is refused, and its log says so."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from consortia import Consortium
from plans import example_plan
from servers import NOW, Cast, Server, new_coordinator, running

from secure_fedhelp.coordinator import spool
from secure_fedhelp.study import files
from secure_fedhelp.wire.messages import Phase

PLAN = example_plan(study__rounds=2, aggregation__minimum_cohort=2)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    consortium = Consortium.create(tmp_path / "consortium", now=NOW)
    consortium.member("coordinator", "coordinator", now=NOW)
    (tmp_path / "coordinator").mkdir()
    with running(new_coordinator(consortium, tmp_path / "coordinator"), PLAN) as server:
        server.consortium = consortium  # type: ignore[attr-defined]
        yield server


class Scarce:
    """Every fourth call finds no file descriptor, the first one too."""

    def __init__(self, call: Callable[..., object]) -> None:
        self._call, self.calls = call, 0

    def __call__(self, *arguments: object, **named: object) -> object:
        self.calls += 1
        if self.calls % 4 == 1:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return self._call(*arguments, **named)


def test_a_study_goes_on_where_every_fourth_file_cannot_be_opened(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bodies, the sum, the transcript and the roster: whatever the coordinator opens for a study."""
    by_number, by_path, open_path, mine = Scarce(os.open), Scarce(Path.open), Path.open, server.folder
    scarce_os = type("Os", (), {**vars(os), "open": staticmethod(by_number)})

    def scarce_open(path: Path, *arguments: object, **named: object) -> object:
        return (by_path if path.is_relative_to(mine) else open_path)(path, *arguments, **named)  # type: ignore[arg-type]

    cast = Cast(server.consortium, server, PLAN)  # type: ignore[attr-defined]
    with monkeypatch.context() as patched:
        patched.setattr(spool, "os", scarce_os)
        patched.setattr(files, "os", scarce_os)
        patched.setattr(Path, "open", scarce_open)
        cast.join()
        cast.make_key()
        for number in range(2):
            cast.until(Phase.COLLECTING, number)
            for name in cast.names:
                cast.upload(name, number)
        cast.until(Phase.FINISHED)
        for client in cast.clients.values():
            client.goodbye()
        assert server.wait() is not None
    cast.close()
    assert (server.folder / "transcript.jsonl").read_bytes().count(b"\n") == 2
    assert min(by_number.calls, by_path.calls) > 4
    told = [line for line in server.told if "Too many open files" in line]
    assert "ulimit -n" in told[0]
    assert len(told) == server.told.count("files can be opened again")
