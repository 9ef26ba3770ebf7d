"""Members of a study for tests of the coordinator: keys, headers, signatures, canonical bodies, and the events."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from secure_fedhelp.coordinator import events
from secure_fedhelp.identity.signing import SigningKey
from secure_fedhelp.secagg.expansion import add_expanded
from secure_fedhelp.secagg.masked.member import MaskKeys
from secure_fedhelp.secagg.packing import pack_body, pack_residues, unpack_residues
from secure_fedhelp.secagg.picker import plan_profile
from secure_fedhelp.secagg.profiles import SEED_BYTES
from secure_fedhelp.secagg.versions import TENSEAL_VERSION
from secure_fedhelp.study.canonical import canonical_bytes, sha256_hex
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.wire.messages import NO_VIEW, decline_statement, key_statement
from secure_fedhelp.wire.transcript import GENESIS

FINGERPRINT = "f" * 64


def some_body(plan: StudyPlan, seed: int) -> bytes:
    """A body any hospital could have sent: a seed and residues below the modulus, uniform."""
    chosen, generator = plan_profile(plan), np.random.default_rng(seed)
    count = chosen.ciphertexts(plan.largest_length)
    shape = (count, len(chosen.moduli), chosen.ring_degree)
    residues = generator.integers(0, chosen.moduli_column(), shape, dtype=np.uint64)
    return pack_body(chosen, generator.bytes(SEED_BYTES), residues)


def masked_body(plan: StudyPlan, body: bytes, masks: MaskKeys) -> bytes:
    """The same upload with its masks on."""
    chosen = plan_profile(plan)
    shape = chosen.ciphertexts(plan.largest_length), len(chosen.moduli), chosen.ring_degree
    residues = unpack_residues(chosen, body[SEED_BYTES:]).reshape(shape)
    add_expanded(residues, chosen, masks.plus, masks.minus)
    return body[:SEED_BYTES] + pack_residues(chosen, residues)


@dataclass
class Hospital:
    """One hospital's side of the protocol, as far as the coordinator can tell."""

    plan: StudyPlan
    name: str
    key: SigningKey = field(default_factory=SigningKey.generate)
    sealing_key: str = ""

    def joined(self, card: bytes | None = None, expires: float = 1e9) -> events.Joined:
        sealing = self.sealing_key or f"sealing key of {self.name}"
        return events.Joined(
            name=self.name,
            card=card or f"card of {self.name}".encode(),
            signing_key=self.key.public_hex,
            sealing_key=sealing,
            expires=expires,
        )

    def posted(self, epoch: int = 0, fingerprint: str = FINGERPRINT) -> events.KeyPosted:
        others = tuple(h.name for h in self.plan.hospitals if h.name != self.name)
        return events.KeyPosted(name=self.name, epoch=epoch, fingerprint=fingerprint, recipients=others)

    def confirmed(self, epoch: int = 0, fingerprint: str = FINGERPRINT) -> events.KeyConfirmed:
        signature = self.key.sign("key-confirmation", key_statement(self.plan.hash, epoch, fingerprint))
        return events.KeyConfirmed(name=self.name, epoch=epoch, fingerprint=fingerprint, signature=signature)

    def header(self, body: bytes, **changes: object) -> bytes:
        values: dict[str, object] = {
            "body_bytes": len(body),
            "body_sha256": sha256_hex(body),
            "attempt": 0,
            "format": 2,
            "hospital": self.name,
            "key_epoch": 0,
            "key_fingerprint": FINGERPRINT,
            "ledger_entries": 1,
            "ledger_head": "a" * 64,
            "previous": GENESIS,
            "profile": plan_profile(self.plan).name,
            "round": 0,
            "seeds_sha256": sha256_hex(body[:SEED_BYTES]),
            "study": self.plan.hash,
            "tenseal": TENSEAL_VERSION,
            "view": NO_VIEW,
            "weight": self.plan.weights[self.name],
        }
        return canonical_bytes(values | changes)

    def sign_header(self, header: bytes) -> bytes:
        return self.key.sign("upload-header", header)

    def uploaded(self, body: bytes, **changes: object) -> events.Uploaded:
        header = self.header(body, **changes)
        return events.Uploaded(name=self.name, header=header, signature=self.sign_header(header))

    def declined(self, round_number: int, reason: str = "BudgetExhausted") -> events.Declined:
        signature = self.key.sign("decline", decline_statement(self.plan.hash, round_number, self.name, reason))
        return events.Declined(name=self.name, round=round_number, reason=reason, signature=signature)
