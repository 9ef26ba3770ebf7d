"""A real Ray cluster gives what processes give, and one that is not there is named at once."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from sweeps import Counting, result, runs

from secure_fedhelp.errors import ClusterUnavailable, InvalidConfiguration, MissingExtra
from secure_fedhelp.research.sweep import engines
from secure_fedhelp.research.sweep.engines import Outcome
from secure_fedhelp.research.sweep.sweep import sweep

pytest.importorskip("ray")

#: Of this machine alone. Ray takes 127.0.0.1 to mean the address that others see.
HOST = "127.0.0.2"


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind((HOST, 0))
        return int(asked.getsockname()[1])


def of_session(session: int) -> list[psutil.Process]:
    """Running processes of one session, which is that of everything a cluster starts."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A head node with a token of its own, for some of Ray's ports are open to the network; it leaves nobody behind."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    port = free_port()
    words = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--node-ip-address={HOST}"]
    words += [f"--port={port}", f"--ray-client-server-port={free_port()}", "--num-cpus=1", "--no-monitor"]
    words += ["--include-dashboard=false", "--include-log-monitor=false", "--object-store-memory=80000000"]
    # sockets have short paths, which pytest's own folder would exceed
    folder = tmp_path_factory.mktemp("r")
    words += ["--disable-usage-stats", f"--temp-dir={folder}"]
    with (folder / "out").open("wb") as out:
        head = subprocess.Popen(words, start_new_session=True, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + 60
        while b"block forever" not in (folder / "out").read_bytes():
            assert head.poll() is None, (folder / "out").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield f"{HOST}:{port}"
        head.send_signal(signal.SIGTERM)
        head.wait(60)
        psutil.wait_procs(of_session(head.pid), 20)
        left = [process.name() for process in of_session(head.pid)]
    finally:
        for process in of_session(head.pid):
            process.kill()
        head.wait()
    assert left == []


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As on a worker: sums of more threads have other last digits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.end
@pytest.mark.usefixtures("one_thread")
def test_a_cluster_gives_the_figures_of_processes_and_leaves_none(cluster: str, tmp_path: Path) -> None:
    asked = runs("public", "local-dp", seeds=1)
    found = sweep(asked, tmp_path, lambda left: engines.ray(left, cluster))
    here = [outcome.result for outcome in engines.processes(asked, 1)]
    assert [r.run for r in found] == [run.id for run in asked]
    assert [(r.run, r.epsilon_spent, r.plan_sha256, r.hospitals) for r in found] == [
        (r.run, r.epsilon_spent, r.plan_sha256, r.hospitals) for r in here if r is not None
    ]
    again = Counting()
    sweep(asked, tmp_path, again)
    assert again.done == []


def test_an_address_where_nobody_listens_is_named_within_seconds(tmp_path: Path) -> None:
    asked, started = runs("public", seeds=1), time.monotonic()
    for address in (f"{HOST}:{free_port()}", f"ray://{HOST}:{free_port()}"):
        with pytest.raises(ClusterUnavailable, match="nobody listens"):
            sweep(asked, tmp_path, lambda left, at=address: engines.ray(left, at))
    for address in ("somewhere", "host:port", f"{HOST}:"):
        with pytest.raises(InvalidConfiguration, match="no address"):
            list(engines.ray(asked, address))
    assert time.monotonic() - started < 10


def test_a_result_of_another_version_is_a_failure_not_a_result() -> None:
    run, other = runs("public", "local", seeds=1)
    assert engines._of_this_version(run, Outcome(run, result(run))).result is not None
    mixed = engines._of_this_version(run, Outcome(run, result(other)))
    assert mixed.result is None
    assert "another version" in (mixed.error or "")


def test_relative_paths_mean_on_a_worker_what_they_mean_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "attempt", lambda run: Outcome(run, None, str(Path.cwd())))
    (run,) = runs("public", seeds=1)
    before = Path.cwd()
    monkeypatch.chdir(before)  # and back at the end
    assert engines._attempt_in(run, tmp_path).error == str(tmp_path)
    assert engines._attempt_in(run, tmp_path / "not-on-this-node").error == str(tmp_path)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="Ray is not installed"):
        list(engines.ray(runs("public", seeds=1), None))
