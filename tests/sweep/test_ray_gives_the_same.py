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
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from sweeps import result, runs

import secure_fedhelp
from secure_fedhelp.errors import ClusterUnavailable, InvalidConfiguration, MissingExtra
from secure_fedhelp.research.study_file import load_study
from secure_fedhelp.research.sweep import engines
from secure_fedhelp.research.sweep.engines import Outcome
from secure_fedhelp.research.sweep.runs import expand
from secure_fedhelp.research.sweep.store import Store
from secure_fedhelp.research.sweep.sweep import sweep

pytest.importorskip("ray")

STUDY_FILE = """
name = "quick"
dataset = "breast-cancer"
rounds = 1
learning = { warm_steps = 1, pupil_steps = 1, personal_steps = 1, public_steps = 1 }
"""

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


@pytest.mark.end
def test_a_cluster_gives_the_figures_of_processes_and_leaves_none(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "study.toml").write_text(STUDY_FILE, encoding="utf-8")
    words = [sys.executable, "-m", "secure_fedhelp", "sweep", "study.toml", "--methods", "public,local-dp"]
    words += ["--seeds", "1", "--no-encryption", "--engine", "ray", "--ray-address", cluster, "--out", "out"]
    monkeypatch.setenv("PYTHONPATH", str(Path(secure_fedhelp.__file__).parents[1]))
    # a process of its own: Ray reads its token once, as it is imported
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    asked = expand(load_study(tmp_path / "study.toml"), ["public", "local-dp"], [3.0], 1, False, None)
    found = Store(tmp_path / "out").results(asked)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as on a worker: sums of more threads have other last digits
    here = [outcome.result for outcome in engines.processes(asked, 1)]
    torch.set_num_threads(threads)
    assert [r.run for r in found] == [run.id for run in asked]
    for one, other in zip(found, here, strict=True):
        assert replace(one, seconds=0) == replace(other, seconds=0)  # type: ignore[type-var]


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
