"""The transcript entry of a closed round: what the coordinator signs, so that every hospital can check what it did."""

from __future__ import annotations

from typing import Any

from secure_fedhelp.coordinator.state import State
from secure_fedhelp.identity.signing import SigningKey
from secure_fedhelp.study.canonical import canonical_bytes
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.wire.messages import TRANSCRIPT_CONTEXT


def transcript_entry(plan: StudyPlan, state: State, sum_sha256: str, sum_bytes: int) -> dict[str, Any]:
    """The entry of the round ``state`` has closed, as docs/architecture.md fixes it.

    ``declined`` holds the statements made in this round; who was out for good before it is in neither list.
    """
    cohort = [
        {"header": upload.header.model_dump(), "signature": upload.signature.hex()}
        for _, upload in sorted(state.uploads.items())
    ]
    declined = [
        {"hospital": name, "reason": decline.reason, "signature": decline.signature.hex()}
        for name, decline in sorted(state.declines.items())
    ]
    heard = state.uploads.keys() | state.declines.keys() | state.out
    return {
        "absent": sorted({h.name for h in plan.hospitals} - heard),
        "agreed": [{"hospital": n, "signature": s.hex()} for n, s in sorted(state.attempt.agreed.items())],
        "attempt": state.attempt.number,
        "cohort": cohort,
        "declined": declined,
        "format": 2,
        "key_epoch": state.key_epoch,
        "members": sorted(state.attempt.keys),
        "previous": state.previous,
        "round": state.round,
        "study": plan.hash,
        "sum_bytes": sum_bytes,
        "sum_sha256": sum_sha256,
        "view": state.attempt.view,
    }


def signed_line(entry: dict[str, Any], key: SigningKey) -> bytes:
    """The entry with the coordinator's signature, as one line of canonical JSON without its line feed."""
    return canonical_bytes({"entry": entry, "signature": key.sign(TRANSCRIPT_CONTEXT, canonical_bytes(entry)).hex()})
