"""A study for the wire: a plan of the measured size, its consortium, and hospitals that speak through real clients.

What is left out of a real study is training and the privacy ledger: contributions are drawn, and each header names an
empty ledger. Identity, key ceremony, masks, transcript and every check are the product's own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from secure_fedhelp.hospital.ceremony import KeyCeremony
from secure_fedhelp.hospital.contribution import EpochKey, Masking, OpenedSum, check_round, open_sum
from secure_fedhelp.hospital.masked_round import MaskedRounds
from secure_fedhelp.hospital.vault import Vault
from secure_fedhelp.identity.cards import check_card, make_card
from secure_fedhelp.identity.lock import open_lock
from secure_fedhelp.identity.sealed_files import read_key
from secure_fedhelp.identity.signing import SigningKey
from secure_fedhelp.identity.tls import Credentials, load_credentials
from secure_fedhelp.research.demo_setup import RunFolder, create_consortium
from secure_fedhelp.secagg.ckks import Cipher
from secure_fedhelp.secagg.keys import StudyKey
from secure_fedhelp.secagg.sealing import SealingKey
from secure_fedhelp.secagg.versions import TENSEAL_VERSION
from secure_fedhelp.study.canonical import GENESIS, canonical_bytes, sha256_hex
from secure_fedhelp.study.plan import StudyPlan, parse_plan
from secure_fedhelp.study.policy import SitePolicy
from secure_fedhelp.study.threshold import Masks
from secure_fedhelp.wire.client import CoordinatorClient
from secure_fedhelp.wire.connection import Answer
from secure_fedhelp.wire.generated.coordinator_pb2_grpc import CoordinatorStub
from secure_fedhelp.wire.messages import HEADER_CONTEXT, StudyState, UploadHeader
from secure_fedhelp.wire.transcript import TranscriptChecker, TranscriptEntry

#: Nothing may end a round of a benchmark but its last hospital.
_PATIENCE_SECONDS: Final = 3600.0
_WATCH_SECONDS: Final = 10.0
#: Rounds under one key, as planned for the noise of sanitised sums (material.py).
_ROUNDS: Final = 10


def bench_plan(
    profile: str, masks: Masks, values: int, names: Sequence[str], rounds: int, bound: float, sanitised: bool
) -> StudyPlan:
    """A plan with one channel of ``values`` values, whose rounds wait for every hospital."""
    privacy = {"sampling_rate": 0.1, "noise_multiplier": 1.0, "clipping_norm": 1.0, "steps": 1}
    return parse_plan(
        {
            "study": {"name": "benchmark", "rounds": max(rounds, _ROUNDS), "seed": 0},
            "consortium": "benchmark",
            "data": {
                "dataset": "benchmark",
                "kind": "image",
                "classes": ["no", "yes"],
                "input_shape": [1, 1, 1],
                "public_sha256": "0" * 64,
                "public_records": 1,
            },
            "model": {"small": "none", "large": "none"},
            "learning": {
                "private_learning_rate": 1.0,
                "public_learning_rate": 1.0,
                "public_steps": 0,
                "public_batch": 1,
                "pupil_steps": 0,
                "pupil_learning_rate": 1.0,
                "personal_steps": 0,
                "personal_learning_rate": 1.0,
            },
            "privacy": {"small": {**privacy, "epsilon": 1.0, "delta": 1e-5}},
            "aggregation": {
                "profile": profile,
                "minimum_cohort": len(names),
                "weights": "uniform",
                "round_deadline_seconds": _PATIENCE_SECONDS,
                "gather_deadline_seconds": _PATIENCE_SECONDS,
                "answer_deadline_seconds": _PATIENCE_SECONDS,
                "key_epoch_rounds": max(rounds, _ROUNDS),
                "masks": masks,
                "decrypted": "sanitised" if sanitised else "closed",
            },
            "channels": [{"name": "model-update", "length": values, "bound": bound}],
            "hospitals": [{"name": name, "tier": "small", "nominal_patients": 100} for name in names],
        }
    )


class TimedClient(CoordinatorClient):
    """A client that adds up the seconds of its calls: network, TLS, and the coordinator's own work."""

    call_seconds = 0.0

    def _run(self, operation: Callable[[CoordinatorStub], Answer]) -> Answer:
        start = time.perf_counter()
        try:
            return super()._run(operation)
        finally:
            self.call_seconds += time.perf_counter() - start


class Site:
    """One hospital of the study: its keys, its vault, its client, and what it has checked."""

    def __init__(self, run: RunFolder, plan: StudyPlan, name: str, address: str) -> None:
        self.plan, self.name = plan, name
        folder = run.hospital(name)
        unlock = open_lock(folder.root, run.key_file(name))
        self._credentials = load_credentials(folder.keys, time.time(), unlock)
        self._signing = SigningKey.load(folder.keys / "signing.key", unlock).of(plan.study.signatures)
        sealing = read_key(folder.keys / "sealing.key", unlock)
        self._sealing = SealingKey.from_private_bytes(sealing)
        self._card = make_card(
            plan.hash,
            "hospital",
            name,
            self._signing.public_hex,
            self._sealing.public_hex,
            folder.keys,
            self._signing,
            unlock,
        )
        self.vault = Vault(folder.state, unlock)
        self.policy = SitePolicy(smallest_cohort=2)
        self.client = TimedClient(address, self._credentials, plan.consortium)

    def join(self) -> None:
        self.client.join(self._card)

    def learn(self) -> None:
        """Check every member's card, as a hospital does before it believes anybody."""
        ca_pem, now = self._credentials.ca_pem, time.time()
        coordinator = check_card(self.client.coordinator_card(), ca_pem, self.plan, now)
        self._cards = {n: check_card(card, ca_pem, self.plan, now) for n, card in self.client.roster().items()}
        publics = {name: card.signing_key for name, card in self._cards.items()}
        self.checker = TranscriptChecker(coordinator.signing_key, publics, self.plan)
        self.masked = MaskedRounds(self.plan, self.policy, self.name, publics, self._signing, self.vault, self.client)

    def take_key(self, maker: str) -> bool:
        """Make or take the study key of epoch 0, and confirm it."""
        ceremony = KeyCeremony(self.plan, self.name, self._cards, self._signing, self._sealing, self.vault, self.client)
        return ceremony.take_part(0, maker)

    def use(self, key: StudyKey, cipher: Cipher) -> None:
        """The epoch's key as this hospital encrypts and opens with it."""
        self.key = EpochKey(0, key.fingerprint(self.plan.hash, 0), cipher, key.flooding_key)

    def sign_header(self, number: int, body: bytes, seed: bytes, masking: Masking) -> tuple[bytes, bytes]:
        """The header of an upload as hospital/contribution.py writes it, and its signature."""
        header = UploadHeader(
            attempt=masking.attempt,
            body_bytes=len(body),
            body_sha256=sha256_hex(body),
            format=2,
            hospital=self.name,
            key_epoch=0,
            key_fingerprint=self.key.fingerprint,
            ledger_entries=0,
            ledger_head=GENESIS,
            previous=self.checker.previous,
            profile=self.key.cipher.profile.name,
            round=number,
            seeds_sha256=sha256_hex(seed),
            study=self.plan.hash,
            tenseal=TENSEAL_VERSION,
            view=masking.view,
            weight=1.0,
        )
        data = canonical_bytes(header.model_dump(mode="json"))
        return data, self._signing.sign(HEADER_CONTEXT, data)

    def open(self, entry: TranscriptEntry, data: bytes, sent_sha256: str) -> OpenedSum:
        """The opened sum, after this hospital's own questions to the transcript's entry."""
        cohort = check_round(self.plan, self.policy, entry, self.name, sent_sha256)
        return open_sum(self.plan, entry, cohort, data, self.key)

    def wait_for(self, done: Callable[[StudyState], bool]) -> StudyState:
        """Watch the study until ``done``; raises what the study ended with."""
        known = 0
        while True:
            state = self.client.watch(known, _WATCH_SECONDS)
            error = state.ended_error()
            if error is not None:
                raise error
            if done(state):
                return state
            known = state.version

    def close(self) -> None:
        self.client.close()


def borrowed_identity(folder: Path) -> tuple[Path, Path, Credentials]:
    """A server's folder, the key file that opens it, and a client's credentials: for a service that is not ours."""
    run, names = RunFolder(folder), ("hospital-000", "hospital-001")
    plan = bench_plan("standard", "none", 1, names, 1, 1.0, sanitised=False)
    create_consortium(run, plan, time.time())
    client = run.hospital(names[0])
    unlock = open_lock(client.root, run.key_file(names[0]))
    credentials = load_credentials(client.keys, time.time(), unlock)
    unlock.wipe()
    return run.coordinator, run.unlock / "coordinator.key", credentials
