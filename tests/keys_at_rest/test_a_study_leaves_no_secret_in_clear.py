"""A whole small study, signed in the hybrid suite: what lies on the disks of its parties afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from studies import Study, study

from secure_fedhelp.audit.epsilon import recompute
from secure_fedhelp.audit.verify import verify_run
from secure_fedhelp.errors import UnlockSecretMissing
from secure_fedhelp.hospital.vault import Vault
from secure_fedhelp.identity import pem
from secure_fedhelp.identity.lock import open_lock
from secure_fedhelp.identity.sealed_files import is_sealed, read_key
from secure_fedhelp.identity.signing import HYBRID, ledger_key, suite_of

pytestmark = pytest.mark.end

#: In clear by intent: what the transcript shows anyway, and marks without content.
OPEN = ("signed-plan", "transcript", "-header", "-confirmed", "-acknowledged")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    folder = tmp_path_factory.mktemp("hybrid") / "run"
    with (
        pytest.MonkeyPatch.context() as patch,
        study(folder, rounds=1, study__signatures=HYBRID) as running,
    ):
        patch.setattr(Vault, "forget_study_keys_before", lambda vault, epoch: None)  # to know what to look for
        running.start_coordinator()
        for name in running.names:
            running.start_thread(name)
        running.join_threads()
        yield running


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_file_of_the_state_is_sealed_or_open_by_intent(finished: Study) -> None:
    for name in finished.names:
        folder = finished.run.hospital(name)
        left = [p.name for p in folder.state.iterdir() if not is_sealed(p.read_bytes())]
        assert [n for n in left if not any(mark in n for mark in OPEN)] == []
        assert any(is_sealed(p.read_bytes()) for p in folder.state.iterdir())


def test_no_private_key_and_no_study_key_lies_in_clear_anywhere_in_the_run(finished: Study) -> None:
    needles: dict[str, bytes] = {}
    for name in finished.names:
        folder = finished.run.hospital(name)
        unlock = open_lock(folder.root)
        key = pem.read_private_key(read_key(folder.keys / "tls.key", unlock), "tls.key")
        needles[f"TLS key of {name}"] = key.private_numbers().private_value.to_bytes(32, "big")
        signing = read_key(folder.keys / "signing.key", unlock)
        needles[f"Ed25519 key of {name}"], needles[f"ML-DSA seed of {name}"] = signing[:32], signing[32:]
        needles[f"sealing key of {name}"] = read_key(folder.keys / "sealing.key", unlock)[:32]
        study_key = Vault.read_only(folder.state, unlock).study_key(0)
        assert study_key is not None
        needles["study key"] = study_key[256:288]
    found = [
        (what, path.name)
        for path, content in files(finished.run.root).items()
        for what, needle in needles.items()
        if needle in content or needle.hex().encode() in content
    ]
    assert found == []


def test_no_key_file_is_in_the_coordinators_folder_or_any_partys(finished: Study) -> None:
    secrets = {p.read_bytes().strip(): p.name for p in finished.run.unlock.iterdir()}
    assert len(secrets) == len(finished.names) + 2  # the hospitals', the coordinator's and the authority's
    for place in (finished.run.coordinator, finished.run.consortium, finished.run.root / "hospitals"):
        for path, content in files(place).items():
            assert not any(s in content or bytes.fromhex(s.decode()) in content for s in secrets), path


def test_key_files_and_their_folder_are_for_the_owner_only(finished: Study) -> None:
    assert finished.run.unlock.stat().st_mode & 0o777 == 0o700
    for path in finished.run.unlock.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600


def test_without_its_key_file_a_hospital_cannot_go_on(finished: Study) -> None:
    name = finished.names[-1]
    key_file = finished.run.unlock / f"{name}.key"
    kept = key_file.with_suffix(".kept")
    key_file.rename(kept)
    try:
        finished.start_process(name)
        process = finished.parties.parties[name]
        assert process.process.wait(60) == UnlockSecretMissing.exit_code
        assert "error: UnlockSecretMissing" in process.tail(4)
    finally:
        kept.rename(key_file)


def test_every_signature_of_the_study_is_hybrid_and_the_ledger_is_not(finished: Study) -> None:
    cards = json.loads((finished.run.coordinator / "roster.json").read_bytes())
    assert {suite_of(card["signing_key"]) for card in cards.values()} == {HYBRID}
    lines = (finished.run.coordinator / "transcript.jsonl").read_text(encoding="utf-8").splitlines()
    for line in map(json.loads, lines):
        signatures = [line["signature"]] + [upload["signature"] for upload in line["entry"]["cohort"]]
        assert {len(signature) for signature in signatures} == {2 * (64 + 3309)}
    for name in finished.names:
        ledger = finished.run.hospital(name).ledger
        entry = json.loads(ledger.read_text(encoding="utf-8").splitlines()[0])
        assert len(entry["signature"]) == 128
        assert entry["entry"]["public_key"] == ledger_key(cards[name]["signing_key"])
        assert recompute(ledger, cards[name]["signing_key"]).entries == 2  # the key of a card, as an auditor has it


def test_an_audit_of_a_hybrid_study_holds(finished: Study) -> None:
    findings = verify_run(finished.run.root, 0.0)
    assert [f for f in findings if not f.ok] == []
