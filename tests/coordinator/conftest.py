"""A consortium, and a running coordinator with its hospitals."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from consortia import Consortium
from servers import NOW, PLAN, Cast, Server, new_coordinator, running


@pytest.fixture(scope="session")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    consortium = Consortium.create(tmp_path_factory.mktemp("north"), now=NOW)
    consortium.member("coordinator", "coordinator", now=NOW)
    return consortium


@pytest.fixture
def folder(consortium: Consortium, tmp_path: Path) -> Path:
    return new_coordinator(consortium, tmp_path / "coordinator")


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    with running(folder, PLAN) as started:
        yield started


@pytest.fixture
def cast(consortium: Consortium, server: Server) -> Iterator[Cast]:
    members = Cast(consortium, server, PLAN)
    yield members
    members.close()
