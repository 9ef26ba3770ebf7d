"""Workers give the same results as one process, hold the key in memory only, and are never left behind."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from secure_fedhelp.errors import CiphertextNotCanonical, InvalidContribution, KeyCeremonyFailed
from secure_fedhelp.secagg import workers
from secure_fedhelp.secagg.ckks import Cipher
from secure_fedhelp.secagg.keys import StudyKey
from secure_fedhelp.secagg.packing import SumAccumulator
from secure_fedhelp.secagg.profiles import PROFILES, Profile
from secure_fedhelp.secagg.workers import SMALLEST_SHARED, CipherPool

COMPACT = PROFILES["compact"]


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "SMALLEST_SHARED", 1)


@pytest.fixture(scope="module")
def pool(keys: dict[str, StudyKey]) -> Iterator[CipherPool]:
    with CipherPool(COMPACT, keys["compact"]) as running:
        yield running


def summed(profile: Profile, bodies: list[bytes], length: int) -> tuple[bytes, tuple[str, ...]]:
    total, cohort = SumAccumulator(profile, length), tuple(f"hospital-{i}" for i in range(len(bodies)))
    for name, body in zip(cohort, bodies, strict=True):
        total.add(name, body)
    return total.finish(), cohort


def state(pid: int) -> str:
    """The letter of a process's state; empty once it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def wait_until_ended(pids: list[int]) -> None:
    deadline = time.monotonic() + 20
    while any(state(pid) not in ("", "Z") for pid in pids):
        assert time.monotonic() < deadline, "a worker is left behind"
        time.sleep(0.01)


@pytest.mark.parametrize("length", [1, 1024, 3 * 1024, 10 * 1024 - 7])
def test_workers_and_one_process_open_each_others_uploads(
    pool: CipherPool, ciphers: dict[str, Cipher], length: int
) -> None:
    values = np.random.default_rng(length).uniform(-1, 1, length)
    data, cohort = summed(COMPACT, [pool.encrypt(values), ciphers["compact"].encrypt(-2 * values)], length)
    assert len(pool._workers) == 2
    opened = pool.decrypt_sum(data, cohort, length)
    assert (opened == ciphers["compact"].decrypt_sum(data, cohort, length)).all()
    assert np.abs(opened + values).max() <= COMPACT.error_bound(2)


def test_two_primes_are_shared_out_too(keys: dict[str, StudyKey], ciphers: dict[str, Cipher]) -> None:
    p = PROFILES["exact"]
    values = np.random.default_rng(0).uniform(-1, 1, 3 * p.ring_degree)
    with CipherPool(p, keys["exact"], processes=3) as three:
        data, cohort = summed(p, [three.encrypt(values)], len(values))
        opened = three.decrypt_sum(data, cohort, len(values))
    assert (opened == ciphers["exact"].decrypt_sum(data, cohort, len(values))).all()
    assert np.abs(opened - values).max() <= p.error_bound(1, 1.0)


def test_noise_of_the_workers_is_not_the_same(pool: CipherPool) -> None:
    # Equal noise in two ciphertexts would cancel in their difference.
    seed = bytes(32)
    slots = np.zeros((8, 512), dtype=np.complex128)
    first, second = pool.encrypt_slots(slots, seed), pool.encrypt_slots(slots, seed)
    assert (first == second).mean() < 0.2
    assert (first[:4] == first[4:]).mean() < 0.2


def test_refusals_are_those_of_a_cipher(pool: CipherPool) -> None:
    with pytest.raises(InvalidContribution):
        pool.encrypt(np.array([1.0, np.nan]))
    data, cohort = summed(COMPACT, [pool.encrypt(np.ones(10))], 10)
    with pytest.raises(CiphertextNotCanonical):
        pool.decrypt_sum(b"\xff" * 4 + data[4:], cohort, 10)
    with pytest.raises(ValueError, match="'compact'.*'standard'"):
        CipherPool(PROFILES["standard"], pool._key)


def test_small_vectors_start_no_process(monkeypatch: pytest.MonkeyPatch, keys: dict[str, StudyKey]) -> None:
    monkeypatch.setattr(workers, "SMALLEST_SHARED", SMALLEST_SHARED)
    quiet = CipherPool(COMPACT, keys["compact"])
    quiet.start(SMALLEST_SHARED - 1024)
    values = np.ones(5000)
    data, cohort = summed(COMPACT, [quiet.encrypt(values)], 5000)
    assert np.abs(quiet.decrypt_sum(data, cohort, 5000) - values).max() <= COMPACT.error_bound(1)
    assert quiet._workers == []
    alone = CipherPool(COMPACT, keys["compact"], processes=1)
    alone.start(10 * SMALLEST_SHARED)
    assert alone._workers == []


def test_secrets_are_in_no_argument_environment_or_file(pool: CipherPool, keys: dict[str, StudyKey]) -> None:
    pool.encrypt(np.ones(5000))
    secret = keys["compact"].to_bytes()
    for worker in pool._workers:
        place = Path(f"/proc/{worker.process.pid}")
        for name in ("cmdline", "environ"):
            shown = (place / name).read_bytes()
            assert shown
            for part in (secret[:16], secret[-32:], secret[:16].hex().encode(), secret[-32:].hex().encode()):
                assert part not in shown
        held = [str(entry.readlink()) for entry in (place / "fd").iterdir() if int(entry.name) > 2]
        assert {path.partition(":")[0] for path in held} == {"socket", "/memfd"}


def test_workers_have_one_thread_each(pool: CipherPool) -> None:
    pool.encrypt(np.ones(5000))
    for worker in pool._workers:
        assert "\nThreads:\t1\n" in Path(f"/proc/{worker.process.pid}/status").read_text()


@pytest.mark.parametrize("when", ["before a job", "in a job"])
def test_killed_worker_costs_time_and_nothing_else(keys: dict[str, StudyKey], when: str) -> None:
    values = np.linspace(-1, 1, 5000)
    with CipherPool(COMPACT, keys["compact"]) as wounded:
        body = wounded.encrypt(values)
        pids = [worker.process.pid for worker in wounded._workers]
        if when == "in a job":
            os.kill(pids[1], signal.SIGSTOP)
            threading.Timer(0.2, os.kill, (pids[1], signal.SIGKILL)).start()
        else:
            os.kill(pids[1], signal.SIGKILL)
        data, cohort = summed(COMPACT, [body, wounded.encrypt(values)], 5000)
        assert np.abs(wounded.decrypt_sum(data, cohort, 5000) - 2 * values).max() <= COMPACT.error_bound(2)
        assert wounded._workers == []
    wait_until_ended(pids)


def test_no_room_for_a_process_is_no_failure(monkeypatch: pytest.MonkeyPatch, keys: dict[str, StudyKey]) -> None:
    def full(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", full)
    crowded = CipherPool(COMPACT, keys["compact"])
    data, cohort = summed(COMPACT, [crowded.encrypt(np.ones(3))], 3)
    assert np.abs(crowded.decrypt_sum(data, cohort, 3) - 1).max() <= COMPACT.error_bound(1)


def test_wiped_key_starts_nothing() -> None:
    key = StudyKey.generate(COMPACT)
    late = CipherPool(COMPACT, key)
    key.wipe()
    with pytest.raises(KeyCeremonyFailed, match="wiped"):
        late.start(5000)
    assert late._workers == []


@pytest.mark.parametrize("way", ["close", "with", "forgotten"])
def test_workers_end_with_their_pool(keys: dict[str, StudyKey], way: str) -> None:
    mine = CipherPool(COMPACT, keys["compact"])
    mine.start(5000)
    pids = [worker.process.pid for worker in mine._workers]
    assert len(pids) == 2
    if way == "with":
        with mine:
            pass
    elif way == "close":
        mine.close()
        mine.close()
        assert len(mine.encrypt(np.ones(5000))) == COMPACT.body_bytes(5000)  # by itself from now on
    del mine
    gc.collect()
    assert [state(pid) for pid in pids] == ["", ""]  # reaped, too


ORPHANS = """
import sys, time
import numpy as np
from secure_fedhelp.secagg import workers
from secure_fedhelp.secagg.keys import StudyKey
from secure_fedhelp.secagg.profiles import PROFILES
workers.SMALLEST_SHARED = 1
pool = workers.CipherPool(PROFILES["compact"], StudyKey.generate(PROFILES["compact"]))
pool.encrypt(np.ones(5000))
print(*(worker.process.pid for worker in pool._workers), flush=True)
if sys.argv[1] == "busy":
    while True:
        pool.encrypt(np.ones(50_000))
time.sleep(60)
"""


@pytest.mark.parametrize("doing", ["idle", "busy"])
def test_workers_and_their_memory_end_with_a_process_that_is_killed(doing: str) -> None:
    before = set(Path("/dev/shm").iterdir())
    parent = subprocess.Popen([sys.executable, "-c", ORPHANS, doing], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    assert all(state(pid) not in ("", "Z") for pid in pids)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until_ended(pids)
    assert set(Path("/dev/shm").iterdir()) <= before


def test_program_that_forgets_its_pool_ends_by_itself() -> None:
    quiet = ORPHANS.replace("time.sleep(60)", "")
    done = subprocess.run([sys.executable, "-c", quiet, "idle"], capture_output=True, text=True, timeout=60, check=True)
    wait_until_ended([int(pid) for pid in done.stdout.split()])
    assert done.stderr == ""
