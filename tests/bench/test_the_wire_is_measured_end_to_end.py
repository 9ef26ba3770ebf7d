"""Rounds over gRPC go through real server processes, give the right sum, and leave no process behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from secure_fedhelp.errors import StorageError
from secure_fedhelp.research.bench.coordinator import CoordinatorProcess
from secure_fedhelp.research.bench.material import Material
from secure_fedhelp.research.bench.memory import coordinator_peak_mib
from secure_fedhelp.research.bench.plaintext import PlaintextRounds, PlaintextWire
from secure_fedhelp.research.bench.study import borrowed_identity
from secure_fedhelp.research.bench.wired import WiredRounds
from secure_fedhelp.research.processes import ProcessFailed
from secure_fedhelp.secagg.profiles import PROFILES


def gone(process: int) -> bool:
    return not Path(f"/proc/{process}").exists()


@pytest.mark.parametrize("masks", ["none", "repairing"])
def test_a_round_through_a_real_coordinator(tmp_path: Path, masks: str) -> None:
    with Material(PROFILES["standard"], 3000, 3) as material:
        with WiredRounds(material, masks, tmp_path, rounds=2) as wired:  # type: ignore[arg-type]
            process = wired._coordinator._process.pid
            measured = [wired.measure(), wired.measure()]
        assert gone(process)
        for found in measured:
            assert found.max_error <= material.profile.error_bound(3)
            assert found.sanitised_error is not None
            assert found.coordinator_peak_mib is not None
            assert 20 < found.coordinator_peak_mib < 500
            assert 0 < found.up_bytes - material.profile.body_bytes(3000) < 10_000  # headers, keys, shares
            assert 0 < found.down_bytes - material.profile.sum_bytes(3000, 3) < 20_000
            assert {"coordinator.receive", "download.receive", "download.open"} < set(found.seconds)
            assert ("coordinator.mask_messages" in found.seconds) == (masks != "none")
            assert found.critical_path > 0
    assert len((tmp_path / "coordinator" / "transcript.jsonl").read_text(encoding="utf-8").splitlines()) == 2


def test_plain_floats_over_the_same_tls(tmp_path: Path) -> None:
    server, key_file, client = borrowed_identity(tmp_path)
    with PlaintextWire(700_000, 3, server, key_file, client) as wire:  # three chunks
        process = wire._process.pid
        for found in (wire.measure(), wire.measure()):  # the second sum does not hold the first
            assert 0 < found.max_error < 1e-5
            assert found.up_bytes == found.down_bytes == 4 * 700_000
            assert found.coordinator_peak_mib is not None
        assert wire.setting.transport == "grpc"
    assert gone(process)


def test_plain_floats_in_one_process() -> None:
    found = PlaintextRounds(1000, 12).measure()
    assert found.max_error < 1e-6
    assert found.contributions == 10


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(ProcessFailed, match="no plan"):
        CoordinatorProcess(tmp_path, tmp_path / "no plan")


def test_memory_is_that_of_the_sum_and_not_of_all_bodies() -> None:
    with Material(PROFILES["compact"], 200_000, 4) as material:
        few = coordinator_peak_mib(material.profile, 200_000, material.bodies, 4, masked=True)
        many = coordinator_peak_mib(material.profile, 200_000, material.bodies, 60, masked=True)
    assert 10 < few < 300
    assert many - few < 5  # 56 bodies more are 43 MiB
    with pytest.raises(StorageError, match="CiphertextWrongLength"):
        coordinator_peak_mib(PROFILES["compact"], 200_000, [b"too short"], 2, masked=False)


def test_what_measures_memory_loads_nothing_heavy() -> None:
    program = "import sys, secure_fedhelp.research.bench.memory; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"torch", "tenseal", "grpc", "plotly", "scipy"} & set(done.stdout.split())
