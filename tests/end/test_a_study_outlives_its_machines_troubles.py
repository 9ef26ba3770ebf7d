"""What passes ends no study: a revocation list that is being copied, no file left to open, a proxy in the environment.

The coordinator is a process of its own; hospitals reach it over mutual TLS.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from studies import Study, study, wait_until
from swapping import swapped

from secure_fedhelp.research.processes import Party

pytestmark = pytest.mark.end

NAMES = ("large-1", "small-1", "small-2")


def start(running: Study) -> None:
    running.start_coordinator()
    for name in NAMES:
        running.start_thread(name)


def test_a_list_that_is_copied_over_again_and_again_ends_nothing(tmp_path: Path) -> None:
    """Twenty rounds; the coordinator's list and the hospitals' own are empty, half or gone three times a second."""
    with study(tmp_path / "run", 20, NAMES) as running:
        lists = [running.run.coordinator / "revoked.crl"]
        lists += [running.run.hospital(name).keys / "revoked.crl" for name in NAMES]
        running.start_coordinator()  # it has read a list then; with none so far its log has other words
        with swapped(lambda: lists) as count:
            for name in NAMES:
                running.start_thread(name)
            running.join_threads()
            assert count.times > 10
        assert running.cohorts() == [set(NAMES)] * 20
        log = (running.run.coordinator / "log.txt").read_text()
        told = [line for line in log.splitlines() if "stays in force" in line]
        assert 1 <= len(told) <= 1 + count.times / 180, "a change is told, and not three a second"
        assert "Copy revoked.crl" in told[0]


class Strangers:
    """Connections that say nothing, and come back whenever they are closed; a context manager."""

    def __init__(self, address: str, many: int) -> None:
        host, port = address.rsplit(":", 1)
        self._address, self._stop = (host, int(port)), threading.Event()
        self._threads = [threading.Thread(target=self._idle, daemon=True) for _ in range(many)]
        self._open: set[socket.socket] = set()
        self.turned_away = 0

    def _idle(self) -> None:
        while not self._stop.wait(0.3):
            with suppress(OSError), socket.create_connection(self._address, timeout=60) as stream:
                self._open.add(stream)
                began = time.monotonic()
                with suppress(OSError):
                    stream.recv(1)
                self.turned_away += not self._stop.is_set() and time.monotonic() - began < 5
                self._open.discard(stream)

    def __enter__(self) -> Strangers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for stream in self._open.copy():
            with suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()


def start_with_few_files(running: Study, files: int) -> None:
    """The coordinator, in a process that may have so many files open and no more."""
    address, log = running.run.coordinator / "address", running.run.coordinator / "log.txt"
    command = [sys.executable, "-m", "secure_fedhelp", "coordinator", "serve", "--listen", "127.0.0.1:0"]
    command += ["--folder", str(running.run.coordinator), "--plan", str(running.run.plan)]
    with log.open("ab") as out:
        process = subprocess.Popen(
            ["sh", "-c", f'ulimit -n {files}; exec "$@"', "sh", *command], stdout=out, stderr=subprocess.STDOUT
        )
    running.parties.parties["coordinator"] = Party("coordinator", process, log)
    wait_until(address.exists, lambda: running.parties.require_running("coordinator"))
    running.address = address.read_text(encoding="ascii").strip()


def test_strangers_that_take_all_connections_end_nothing(tmp_path: Path) -> None:
    """They get no file that a call in progress needs, and a hospital that is there stays connected."""
    with study(tmp_path / "run", 20, NAMES) as running:
        start_with_few_files(running, 170)
        for name in NAMES:
            running.start_thread(name)
        wait_until(lambda: len(running.entries()) >= 1)
        with Strangers(running.address, 200) as others:
            wait_until(lambda: others.turned_away > 10)
            already = len(running.entries())
            running.join_threads()
        assert already < 20, "the study was over before there were no connections left"
        assert running.cohorts() == [set(NAMES)] * 20
        process = running.parties.parties["coordinator"].process
        assert process.wait(90) == 0, (running.run.coordinator / "log.txt").read_text()


@pytest.mark.parametrize("variable", ["https_proxy", "grpc_proxy"])
def test_a_proxy_of_the_environment_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Nothing listens at port 9; the addresses of a study are dialled as they were given."""
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    began = time.monotonic()
    with study(tmp_path / "run", 1, NAMES) as running:
        start(running)
        running.join_threads()
        assert len(running.entries()) == 1
    assert time.monotonic() - began < 60
