"""Kill a party at the worst moment: the study ends right, nothing counts twice, nothing leaves without an entry."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from ledgers import channels
from studies import Study, study, wait_until

from secure_fedhelp.audit.verify import verify_run
from secure_fedhelp.errors import UnderQuorum
from secure_fedhelp.hospital.vault import Vault
from secure_fedhelp.identity.lock import open_lock
from secure_fedhelp.identity.signing import SigningKey
from secure_fedhelp.learning.methods.fedhelp import FedHelp
from secure_fedhelp.privacy.datasets import KEY_PURPOSE, PatientBook
from secure_fedhelp.privacy.ledger import Ledger, read_ledger
from secure_fedhelp.privacy.mechanisms import planned_events
from secure_fedhelp.privacy.release import PrivateOutput
from secure_fedhelp.research.results import _hospital, measured_error, read_cohorts
from secure_fedhelp.secagg.picker import plan_profile

pytestmark = pytest.mark.end

DYING_HOSPITAL = """
import os, signal, sys
from pathlib import Path
from secure_fedhelp.hospital import agent, taking_part
from secure_fedhelp.privacy.ledger import Ledger
from secure_fedhelp.wire.client import CoordinatorClient

def dies(call, in_round_one):
    def instead(*args, **named):
        if in_round_one(*args, **named):
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **named)
    return instead

def died(call):
    def instead(client, number, *args):
        answer = call(client, number, *args)
        if number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer
    return instead

folder, plan, address, moment = sys.argv[1:]
if moment == "spooled-not-spent":
    Ledger.release = dies(Ledger.release, lambda ledger, event, **named: named["round"] == 1)
if moment == "spent-not-encrypted":
    agent.make_upload = dies(agent.make_upload, lambda plan, hospital, number, *rest: number == 1)
if moment == "encrypted-not-uploaded":
    CoordinatorClient.upload = dies(CoordinatorClient.upload, lambda client, number, *rest: number == 1)
if moment == "training-fails":
    from secure_fedhelp.learning.methods.fedhelp import FedHelp
    contribute = FedHelp.contribute
    def fails(method, number):
        if number == 1:
            raise MemoryError("short of memory")
        return contribute(method, number)
    FedHelp.contribute = fails
for name in ("post_round_key", "post_shares", "upload", "agree"):
    if moment == "after " + name:
        setattr(CoordinatorClient, name, died(getattr(CoordinatorClient, name)))
taking_part.take_part(Path(folder), Path(plan), address, print)
"""


def assert_the_study_ended_right(running: Study) -> None:
    """Every round has everybody once, every upload has its entry, no entry is paid twice, and the sums are right."""
    everybody = set(running.names)
    assert running.cohorts() == [everybody] * running.plan.study.rounds
    for name in running.names:
        rounds = [entry["round"] for entry in running.ledger(name)]
        assert rounds == list(range(running.plan.study.rounds)), name
    cohorts = read_cohorts(running.run.coordinator / "transcript.jsonl")
    bound = plan_profile(running.plan).error_bound(len(everybody))
    assert measured_error(running.run, running.plan, cohorts) <= bound
    wait_until((running.run.coordinator / "roster.json").exists)
    assert [f for f in verify_run(running.run.root, time.time()) if not f.ok] == []


def assert_the_book_has_seen(running: Study, name: str, releases: int) -> None:
    """After a power cut the ledger may be gone or an older copy: the next study must miss every release of this one."""
    folder = running.run.hospital(name)
    key = SigningKey.load(folder.keys / "signing.key", open_lock(folder.root, running.run.key_file(name)))
    seen, _ = PatientBook(folder.ledger, key.derive(KEY_PURPOSE))._seen
    lines = folder.ledger.read_text(encoding="utf-8").splitlines()
    assert sum('"kind":"release"' in line for line in lines[:seen]) == releases


def test_coordinator_killed_while_uploads_arrive(tmp_path: Path) -> None:
    with study(tmp_path / "run", rounds=2) as running:
        running.start_coordinator()
        for name in running.names:
            running.start_thread(name)
        # The first accepted upload: others of the same round are still on their way or not yet trained.
        wait_until(lambda: any(any(running.run.hospital(n).state.glob("*-acknowledged-0")) for n in running.names))
        running.kill("coordinator")
        running.start_coordinator()
        running.join_threads()
        assert_the_study_ended_right(running)


@pytest.mark.parametrize(
    ("moment", "paid_rounds", "said"),
    [
        ("spooled-not-spent", [0], "training round=2"),  # nothing left and nothing was paid: train again
        ("spent-not-encrypted", [0, 1], "recovered a paid release round=2"),
        ("encrypted-not-uploaded", [0, 1], "uploading round=2"),
        # And after each step of the masks: what it said is on its disk, and it goes on from there.
        ("after post_round_key", [0, 1], "uploading round=2"),
        ("after post_shares", [0, 1], "uploading round=2"),
        ("after upload", [0, 1], "absorbed round=2"),
        ("after agree", [0, 1], "absorbed round=2"),
    ],
)
def test_hospital_killed_after_it_spent_and_before_it_uploaded(
    tmp_path: Path, moment: str, paid_rounds: list[int], said: str
) -> None:
    with study(tmp_path / "run", rounds=3) as running:
        running.start_coordinator()
        victim, *others = running.names
        folder = running.run.hospital(victim).root
        for name in others:
            running.start_thread(name)
        arguments = [sys.executable, "-c", DYING_HOSPITAL, str(folder), str(running.run.plan), running.address, moment]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == -signal.SIGKILL, done.stderr
        paid = running.ledger(victim)
        assert [entry["round"] for entry in paid] == paid_rounds
        assert_the_book_has_seen(running, victim, len(paid))
        leftover = running.run.hospital(victim).state / ".round-00001-values.ab12.part"
        leftover.write_bytes(b"of a write that the kill cut off")
        running.start_thread(victim)
        running.join_threads()
        assert not leftover.exists()
        assert "resumed rounds=1" in running.said[victim]
        assert any(line.startswith(said) for line in running.said[victim]), running.said[victim]
        assert_the_study_ended_right(running)
        assert running.ledger(victim)[: len(paid)] == paid


def test_a_round_whose_training_failed_is_paid_once_and_goes_on_without_that_hospital(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once: it says so itself. In the last round the others are slow, so that it is back by then."""
    back, contribute = threading.Event(), FedHelp.contribute

    def slow(method: FedHelp, number: int) -> PrivateOutput:
        assert number < 2 or back.wait(60)
        return contribute(method, number)

    monkeypatch.setattr(FedHelp, "contribute", slow)
    with study(tmp_path / "run", rounds=3) as running:
        running.start_coordinator()
        victim, *others = running.names
        folder = running.run.hospital(victim).root
        for name in others:
            running.start_thread(name)
        failing = [sys.executable, "-c", DYING_HOSPITAL, str(folder), str(running.run.plan), running.address]
        done = subprocess.run([*failing, "training-fails"], capture_output=True, text=True, check=False, timeout=120)
        assert "MemoryError" in done.stderr
        paid = running.ledger(victim)
        assert [entry["round"] for entry in paid] == [0, 1]
        wait_until(lambda: len(running.entries()) == 2)  # nobody waits for who failed, nor for a deadline
        running.start_thread(victim)
        wait_until(lambda: "joined" in running.said[victim])
        back.set()
        running.join_threads()
        assert running.cohorts() == [set(running.names), set(others), set(running.names)]
        assert [(d["hospital"], d["reason"]) for d in running.entries()[1]["declined"]] == [(victim, "TrainingFailed")]
        assert [entry["round"] for entry in running.ledger(victim)] == [0, 1, 2]
        assert running.ledger(victim)[:2] == paid
        wait_until((running.run.coordinator / "roster.json").exists)
        assert [f for f in verify_run(running.run.root, time.time()) if not f.ok] == []
        cohorts = read_cohorts(running.run.coordinator / "transcript.jsonl")
        statuses = {name: _hospital(running.run, running.plan, name, cohorts).status for name in running.names}
        assert statuses == dict.fromkeys(others, "contributed") | {victim: "training failed in round 2"}


@pytest.mark.parametrize("moment", ["after post_shares", "after upload", "after agree"])
def test_hospital_lost_in_the_middle_of_a_masked_round_is_repaired(tmp_path: Path, moment: str) -> None:
    """Its masks are in the others' uploads, or its own self-mask is in the sum: both are taken off without it."""
    seconds = {"aggregation__round_deadline_seconds": 12.0, "aggregation__answer_deadline_seconds": 6.0}
    with study(tmp_path / "run", rounds=2, **seconds) as running:
        running.start_coordinator()
        *others, victim = running.names
        folder = running.run.hospital(victim).root
        for name in others:
            running.start_thread(name)
        arguments = [sys.executable, "-c", DYING_HOSPITAL, str(folder), str(running.run.plan), running.address, moment]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == -signal.SIGKILL, done.stderr
        running.join_threads()
        cohorts = read_cohorts(running.run.coordinator / "transcript.jsonl")
        left = others if moment == "after post_shares" else running.names
        assert cohorts == [tuple(sorted(running.names)), tuple(sorted(left))]
        second = running.entries()[1]
        assert second["members"] == sorted(running.names)
        bound = plan_profile(running.plan).error_bound(len(running.names))
        assert measured_error(running.run, running.plan, cohorts) <= bound


def test_strict_masks_try_again_without_whom_they_lost(tmp_path: Path) -> None:
    seconds = {"aggregation__round_deadline_seconds": 12.0, "aggregation__answer_deadline_seconds": 6.0}
    with study(tmp_path / "run", rounds=2, aggregation__masks="strict", **seconds) as running:
        running.start_coordinator()
        *others, victim = running.names
        arguments = [str(running.run.hospital(victim).root), str(running.run.plan), running.address]
        for name in others:
            running.start_thread(name)
        dying = [sys.executable, "-c", DYING_HOSPITAL, *arguments, "after upload"]
        done = subprocess.run(dying, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == -signal.SIGKILL, done.stderr
        running.join_threads()
        cohorts = read_cohorts(running.run.coordinator / "transcript.jsonl")
        assert cohorts == [tuple(sorted(running.names)), tuple(sorted(others))]
        assert [entry["attempt"] for entry in running.entries()] == [0, 1]
        assert measured_error(running.run, running.plan, cohorts) <= plan_profile(running.plan).error_bound(6)
        for name in others:  # the second attempt was the same contribution, paid for once
            assert [entry["round"] for entry in running.ledger(name)] == [0, 1]


def test_each_epoch_has_a_key_of_its_own_and_the_old_one_is_gone(tmp_path: Path) -> None:
    with study(tmp_path / "run", rounds=2, aggregation__key_epoch_rounds=1) as running:
        running.start_coordinator()
        for name in running.names:
            running.start_thread(name)
        running.join_threads()
        assert_the_study_ended_right(running)
        assert [entry["key_epoch"] for entry in running.entries()] == [0, 1]
        keys = [{u["header"]["key_fingerprint"] for u in entry["cohort"]} for entry in running.entries()]
        assert [len(k) for k in keys] == [1, 1]
        assert keys[0] != keys[1]
        for name in running.names:
            state = running.run.hospital(name).state
            assert [p.name for p in state.iterdir() if re.fullmatch(r"study-key-\d+", p.name)] == []


def test_hospital_that_never_comes_back_costs_one_deadline(tmp_path: Path) -> None:
    with study(tmp_path / "run", rounds=3, aggregation__round_deadline_seconds=15.0) as running:
        running.start_coordinator()
        *others, victim = running.names
        running.start_process(victim)
        for name in others:
            running.start_thread(name)
        wait_until(lambda: (running.run.hospital(victim).state / "study-key-0").exists())
        running.kill(victim)
        running.join_threads()
        assert len(running.entries()) == 3
        last = running.entries()[-1]
        assert victim in last["absent"]
        assert {u["header"]["hospital"] for u in last["cohort"]} == set(others)


def test_too_few_hospitals_end_the_study_by_name_and_keep_everything(tmp_path: Path) -> None:
    with study(tmp_path / "run", rounds=2, aggregation__gather_deadline_seconds=4.0) as running:
        running.start_coordinator()
        for name in running.names[:2]:
            running.start_thread(name)
        with pytest.raises(UnderQuorum):
            running.join_threads()
        assert all(isinstance(error, UnderQuorum) for error in running.errors.values())
        assert (running.run.coordinator / "signing.key").exists()
        for name in running.names[:2]:
            assert running.ledger(name) == []  # nothing was spent for a study that never began


def test_hospital_with_a_spent_budget_stays_out_and_the_others_go_on(tmp_path: Path) -> None:
    with study(tmp_path / "run", rounds=2) as running:
        poor = running.names[1]
        folder = running.run.hospital(poor)
        key = SigningKey.load(folder.keys / "signing.key", open_lock(folder.root))
        with Ledger.open(folder.ledger, poor, key, lambda: 1_700_000_000.0) as ledger:
            ledger.release(
                planned_events(running.plan, poor, 0),
                study="0" * 64,
                round=0,
                delta=running.plan.privacy_of(poor).delta,
                dataset="0" * 64,
                channels=channels()[:1],
                noise_source="system",
            )
        running.start_coordinator()
        for name in running.names:
            running.start_thread(name)
        running.join_threads()
        cohorts = running.cohorts()
        assert cohorts[0] == set(running.names)
        assert cohorts[1] == set(running.names) - {poor}
        assert [d["hospital"] for d in running.entries()[1]["declined"]] == [poor]
        assert any("budget exhausted" in line for line in running.said[poor])
        entries = read_ledger(folder.ledger, key.public_hex)
        assert [entry.kind for entry in entries] == ["release", "reservation", "release"], (
            "no training without a reservation"
        )


def test_no_secret_of_the_study_reaches_the_coordinators_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Vault, "forget_study_keys_before", lambda vault, epoch: None)  # to know what to look for
    with study(tmp_path / "run", rounds=1) as running:
        running.start_coordinator()
        for name in running.names:
            running.start_thread(name)
        running.join_threads()
        folder = running.run.hospital(running.names[0])
        vault = Vault.read_only(folder.state, open_lock(folder.root))
        key, values = vault.study_key(0), vault.values(0)
        assert key is not None
        assert values is not None
        plain = np.concatenate([v.ravel() for v in values.values()])
        needles = [key[i : i + 32] for i in range(64, len(key) - 32, 997)] + [plain[:8].astype("<f8").tobytes()]
        for path in running.run.coordinator.rglob("*"):
            if path.is_file():
                data = path.read_bytes()
                assert not any(needle in data for needle in needles), path


def test_no_process_is_left_behind(tmp_path: Path) -> None:
    with study(tmp_path / "run", rounds=1, aggregation__gather_deadline_seconds=600.0) as running:
        running.start_coordinator()
        pid = running.parties.parties["coordinator"].process.pid
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
