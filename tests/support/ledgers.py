"""Ledgers for tests: a fixed key and clock, entries of a study, and a lying scribe who can sign anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from secure_fedhelp.identity.signing import SigningKey
from secure_fedhelp.privacy.entries import ChannelRelease, Proof, Release
from secure_fedhelp.privacy.ledger import Ledger
from secure_fedhelp.privacy.mechanisms import DpSgd
from secure_fedhelp.study.canonical import canonical_bytes, sha256_hex
from secure_fedhelp.study.plan import StudyPlan

NOW = 1_800_000_000.0
STUDY, DATASET = "5" * 64, "d" * 64
EVENT = DpSgd(sampling_rate=0.25, noise_multiplier=4.0, clipping_norm=1.0, steps=5)


def fixed_key(number: int = 0) -> SigningKey:
    """A key that is the same in every test run. Its private half is public, so it protects nothing."""
    return SigningKey.from_private_bytes(bytes([number]) * 64)


def channels(number: int = 0) -> list[ChannelRelease]:
    return [
        ChannelRelease(
            name="model-update", mechanism="dp-sgd", derived_from=("event:0",), values_sha256=f"{number:064x}"
        ),
        ChannelRelease(
            name="public-logits",
            mechanism="post-processing",
            derived_from=("event:0", "public:public-set"),
            values_sha256=f"{number + 1000:064x}",
        ),
    ]


def proofs(plan: StudyPlan) -> dict[str, Proof]:
    """What training says of each channel that it sends."""
    found = {
        "model-update": Proof.of("dp-sgd", "event:0", "public:transcript"),
        "public-logits": Proof.of("post-processing", "event:0", "public:public-set"),
    }
    return {name: found[name] for name in plan.lengths(0)}


def spend(ledger: Ledger, number: int) -> Release:
    """One entry of round ``number``."""
    return ledger.release(
        [EVENT],
        study=STUDY,
        round=number,
        delta=1e-4,
        dataset=DATASET,
        channels=channels(number),
        noise_source="system",
    )


def open_ledger(path: Path, hospital: str = "alpha", key: SigningKey | None = None) -> Ledger:
    return Ledger.open(path, hospital, key or fixed_key(), lambda: NOW)


def write_ledger(path: Path, count: int, hospital: str = "alpha", key: SigningKey | None = None) -> bytes:
    """A ledger of ``count`` entries; returns the file's bytes."""
    with open_ledger(path, hospital, key) as ledger:
        for number in range(count):
            spend(ledger, number)
    return path.read_bytes()


def forge(content: bytes, index: int, change: Callable[[dict[str, Any]], None], key: SigningKey, chain: bool) -> bytes:
    """The ledger with one entry changed and signed anew by ``key``; with ``chain`` all later entries as well."""
    lines = content.split(b"\n")[:-1]
    for number in range(index, len(lines)):
        record = json.loads(lines[number])
        if number == index:
            change(record["entry"])
        elif chain:
            record["entry"]["previous"] = sha256_hex(lines[number - 1])
        else:
            break
        record["signature"] = key.sign("ledger-entry", canonical_bytes(record["entry"])).hex()
        lines[number] = canonical_bytes(record)
    return b"".join(line + b"\n" for line in lines)
