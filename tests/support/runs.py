"""The files of a finished study, made without sockets or training: real keys, cards, ledgers and transcript lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from consortia import NOW, Consortium
from ledgers import DATASET, proofs
from unlocking import UNLOCK

from secure_fedhelp.identity.cards import make_card
from secure_fedhelp.identity.signing import SigningKey
from secure_fedhelp.privacy.ledger import Ledger
from secure_fedhelp.privacy.mechanisms import planned_events
from secure_fedhelp.privacy.release import Budget, PrivateOutput, ReleaseGate
from secure_fedhelp.secagg.masked.statements import SURVIVORS_CONTEXT, SurvivorsStatement
from secure_fedhelp.secagg.picker import plan_profile
from secure_fedhelp.secagg.versions import TENSEAL_VERSION
from secure_fedhelp.study.canonical import canonical_bytes, sha256_hex
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.wire.messages import FINAL_REASON, NO_VIEW, decline_statement

#: Changes an entry before it is signed.
Change = Callable[[dict[str, Any]], None]

#: The view of keys and shares in masked transcripts; a hash like any other here.
VIEW = "7" * 64


@dataclass
class Scribe:
    """Writes transcript entries as a coordinator does, and can be made to write anything."""

    plan: StudyPlan
    coordinator: SigningKey = field(default_factory=SigningKey.generate)
    hospitals: dict[str, SigningKey] = field(default_factory=dict)
    lines: list[bytes] = field(default_factory=list)
    epoch: int = 0

    def __post_init__(self) -> None:
        for hospital in self.plan.hospitals:
            self.hospitals.setdefault(hospital.name, SigningKey.generate())

    @property
    def member_keys(self) -> dict[str, str]:
        return {name: key.public_hex for name, key in self.hospitals.items()}

    @property
    def head(self) -> str:
        """SHA-256 of the last published line."""
        return sha256_hex(self.lines[-1]) if self.lines else "0" * 64

    def header(self, name: str, number: int, **changes: Any) -> dict[str, Any]:
        chosen = plan_profile(self.plan)
        return {
            "attempt": 0,
            "body_bytes": chosen.body_bytes(self.plan.largest_length),
            "body_sha256": sha256_hex(f"{name} {number}".encode()),
            "format": 2,
            "hospital": name,
            "key_epoch": self.epoch,
            "key_fingerprint": "f" * 64,
            "ledger_entries": number + 1,
            "ledger_head": sha256_hex(f"ledger of {name} {number}".encode()),
            "previous": self.head,
            "profile": plan_profile(self.plan).name,
            "round": number,
            "seeds_sha256": sha256_hex(f"seeds of {name} {number}".encode()),
            "study": self.plan.hash,
            "tenseal": TENSEAL_VERSION,
            "view": NO_VIEW if self.plan.aggregation.masks == "none" else VIEW,
            "weight": self.plan.weights[name],
        } | changes

    def signed(self, header: dict[str, Any], key: SigningKey | None = None) -> dict[str, Any]:
        signer = key or self.hospitals[header["hospital"]]
        return {"header": header, "signature": signer.sign("upload-header", canonical_bytes(header)).hex()}

    def refusal(self, name: str, number: int, reason: str = "BudgetExhausted") -> dict[str, Any]:
        statement = decline_statement(self.plan.hash, number, name, reason)
        signature = self.hospitals[name].sign("decline", statement).hex()
        return {"hospital": name, "reason": reason, "signature": signature}

    def entry(self, cohort: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
        """The next round's entry; who is neither in the cohort nor declined is absent."""
        heard = {u["header"]["hospital"] for u in cohort} | {d["hospital"] for d in changes.get("declined", [])}
        chosen = plan_profile(self.plan)
        return {
            "absent": sorted(self.hospitals.keys() - heard),
            "attempt": 0,
            "cohort": cohort,
            "declined": [],
            "format": 2,
            "key_epoch": self.epoch,
            "previous": self.head,
            "round": len(self.lines),
            "study": self.plan.hash,
            "sum_bytes": chosen.sum_bytes(self.plan.largest_length, len(cohort)),
            "sum_sha256": sha256_hex(f"sum {len(self.lines)}".encode()),
            **self.agreement(cohort),
        } | changes

    def agreement(self, cohort: list[dict[str, Any]], signers: list[str] | None = None) -> dict[str, Any]:
        """Who gave keys, and who of the cohort signed the list of survivors: everybody, if not said otherwise."""
        if self.plan.aggregation.masks == "none":
            return {"agreed": [], "members": [], "view": NO_VIEW}
        names = sorted(u["header"]["hospital"] for u in cohort)
        statement = SurvivorsStatement(
            study=self.plan.hash,
            round=len(self.lines),
            attempt=0,
            members=tuple(names),
            survivors={u["header"]["hospital"]: u["header"]["body_sha256"] for u in cohort},
            view=VIEW,
        ).to_bytes()
        agreed = [
            {"hospital": n, "signature": self.hospitals[n].sign(SURVIVORS_CONTEXT, statement).hex()}
            for n in (names if signers is None else signers)
        ]
        return {"agreed": agreed, "members": names, "view": VIEW}

    def publish(self, entry: dict[str, Any], key: SigningKey | None = None) -> bytes:
        signature = (key or self.coordinator).sign("transcript-entry", canonical_bytes(entry))
        line = canonical_bytes({"entry": entry, "signature": signature.hex()})
        self.lines.append(line)
        if any(d["reason"] == FINAL_REASON for d in entry["declined"]):
            self.epoch += 1
        return line

    def round(self, change: Change | None = None, **header_changes: Any) -> bytes:
        """An honest round with everybody in it, ``change`` being made before the coordinator signs."""
        number = len(self.lines)
        cohort = [self.signed(self.header(name, number, **header_changes)) for name in sorted(self.hospitals)]
        entry = self.entry(cohort)
        if change is not None:
            change(entry)
        return self.publish(entry)


@dataclass
class Run:
    """A run directory as the demonstration leaves it, as far as an audit reads it."""

    root: Path
    plan: StudyPlan
    scribe: Scribe
    consortium: Consortium

    def ledger(self, name: str) -> Path:
        return self.root / "hospitals" / name / "ledger.jsonl"

    @property
    def transcript(self) -> Path:
        return self.root / "coordinator" / "transcript.jsonl"

    @property
    def roster(self) -> Path:
        return self.root / "coordinator" / "roster.json"

    def spend(self, name: str, number: int, plan: StudyPlan | None = None) -> tuple[int, str]:
        """Release made-up values of a round; the ledger's length and head afterwards."""
        plan = plan or self.plan
        generator = np.random.default_rng(number)
        output = PrivateOutput(
            channels={c.name: generator.normal(0, 0.1, c.length) for c in plan.channels},
            events=planned_events(plan, name, number),
            proofs=proofs(plan),
            noise_source="system",
        )
        key = self.scribe.hospitals[name].of("ed25519")  # a ledger's suite, whatever the study's
        with Ledger.open(self.ledger(name), name, key, lambda: NOW + number) as ledger:
            gate = ReleaseGate(ledger, plan, name, Budget(DATASET))
            gate.reserve(number)
            gate.release(number, output)
            return ledger.count, ledger.head

    def round(self) -> None:
        """One round in which everybody spends and uploads."""
        number, cohort = len(self.scribe.lines), []
        for name in sorted(self.scribe.hospitals):
            entries, head = self.spend(name, number)
            header = self.scribe.header(name, number, ledger_entries=entries, ledger_head=head)
            cohort.append(self.scribe.signed(header))
        self.scribe.publish(self.scribe.entry(cohort))
        self.write_transcript()

    def write_transcript(self) -> None:
        self.transcript.write_bytes(b"".join(line + b"\n" for line in self.scribe.lines))

    def change_roster(self, change: Change) -> None:
        cards = json.loads(self.roster.read_bytes())
        change(cards)
        self.roster.write_bytes(canonical_bytes(cards))


def make_run(root: Path, plan: StudyPlan, rounds: int, days: Mapping[str, int] | None = None) -> Run:
    """A finished study of ``rounds`` honest rounds; ``days`` a member's certificate holds, if not a year."""
    consortium = Consortium.create(root / "consortium", plan.consortium)
    (root / "coordinator").mkdir(parents=True)
    (root / "ca.crt").write_bytes(consortium.ca_pem)
    (root / "plan.toml").write_text(tomli_w.dumps(plan.model_dump(mode="json", exclude_none=True)))
    keys, cards = {}, {}
    for name in ("coordinator", *(h.name for h in plan.hospitals)):
        role = "coordinator" if name == "coordinator" else "hospital"
        folder = consortium.member(name, role, days=(days or {}).get(name, 365))
        key = SigningKey.load(folder / "signing.key", UNLOCK).of(plan.study.signatures)
        sealing = "" if role == "coordinator" else "ab" * 32
        cards[name] = json.loads(make_card(plan.hash, role, name, key.public_hex, sealing, folder, key, UNLOCK))
        keys[name] = key
    (root / "coordinator" / "roster.json").write_bytes(canonical_bytes(cards) + b"\n")
    run = Run(root, plan, Scribe(plan, keys.pop("coordinator"), keys), consortium)
    run.write_transcript()
    for _ in range(rounds):
        run.round()
    return run
