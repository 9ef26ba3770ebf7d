"""Whether one upload header may count in the running round. Pure, like rounds.py, of which these are rules 12 to 18."""

from __future__ import annotations

from dataclasses import dataclass

from secure_fedhelp.coordinator.state import State
from secure_fedhelp.errors import (
    BudgetExhausted,
    CiphertextWrongLength,
    CiphertextWrongParameters,
    IdentityError,
    KeyCeremonyFailed,
    KeyEpochRolledBack,
    LedgerInvalid,
    MessageTooLarge,
    PlanChanged,
    ReplayedUpload,
    SplitView,
    VersionMismatch,
    WrongRound,
)
from secure_fedhelp.identity.signing import verify
from secure_fedhelp.secagg.picker import plan_profile
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.wire.messages import HEADER_CONTEXT, Phase, UploadHeader, parse_header


@dataclass(frozen=True)
class Constants:
    """What an upload of this study must say: what follows from the plan, and the pinned TenSEAL version."""

    plan: StudyPlan
    tenseal: str

    def body_bytes(self, round_number: int) -> int:
        """Length of every body of a round."""
        return plan_profile(self.plan).body_bytes(self.plan.length_of(round_number))


@dataclass(frozen=True)
class Admission:
    """A header that may count; ``done`` if its body already does, and nothing is left to send."""

    header: UploadHeader
    done: bool


def admit(constants: Constants, state: State, name: str, header_bytes: bytes, signature: bytes) -> Admission:
    """Check everything about an upload by ``name`` (the caller's certificate) that can be said before its body.

    Raises the named error of the first rule it breaks; nothing of a refused upload is kept.
    """
    header = parse_header(header_bytes)
    _check_sender(constants, state, name, header)
    verify(state.member(name).signing_key, HEADER_CONTEXT, header_bytes, signature)
    if header.study != constants.plan.hash:
        raise PlanChanged(f"the upload is for study {header.study[:16]}, this is study {constants.plan.hash[:16]}")
    if _stands(state, name, header):
        return Admission(header, done=True)
    _check_round(state, name, header)
    _check_parameters(constants, name, header)
    _check_ledger(state, name, header)
    return Admission(header, done=False)


def _check_sender(constants: Constants, state: State, name: str, header: UploadHeader) -> None:
    constants.plan.require_listed(header.hospital)
    if header.hospital != name:
        raise IdentityError(f"the certificate is {name}'s, the upload's header names {header.hospital}")
    state.member(name)


def _stands(state: State, name: str, header: UploadHeader) -> bool:
    """Whether this very body already counts; ReplayedUpload if another one does."""
    if (header.round, header.attempt) == state.place and name in state.uploads:
        standing = state.uploads[name].header.body_sha256
    elif header.round == state.round - 1 and name in state.published:
        standing = state.published[name]
    else:
        return False
    if standing != header.body_sha256:
        raise ReplayedUpload(f"{name} has already uploaded another body in round {header.round}")
    return True


def _check_round(state: State, name: str, header: UploadHeader) -> None:
    if state.over:
        raise state.over_error()
    if name in state.out:
        raise BudgetExhausted(f"{name} has declined for the rest of the study")
    if header.round == state.round and header.key_epoch < state.key_epoch:
        raise KeyEpochRolledBack(
            f"the upload for round {header.round} is under the key of epoch {header.key_epoch}, it is epoch "
            f"{state.key_epoch} by now",
            "The upload was refused. A key epoch that is over never comes back.",
        )
    found, running = (header.round, header.attempt, header.key_epoch), (*state.place, state.key_epoch)
    if state.phase is not Phase.COLLECTING or found != running:
        raise WrongRound(
            f"the upload is for round {found[0]}, attempt {found[1]}, key epoch {found[2]}; the study is "
            f"{state.phase.value} in round {running[0]}, attempt {running[1]}, key epoch {running[2]}"
        )
    if name in state.declines:
        raise ReplayedUpload(f"{name} has declined round {state.round}", "Upload again in the next round.")
    if name not in state.confirmed:
        raise KeyCeremonyFailed(
            f"{name} has not confirmed the key of epoch {state.key_epoch}", "Confirm the key's fingerprint first."
        )
    # Every hospital refuses an entry whose headers disagree on these two, so one header must not get that far.
    if header.key_fingerprint != state.fingerprint:
        raise KeyCeremonyFailed(
            f"the upload was encrypted under key {header.key_fingerprint[:16]}, all have confirmed key "
            f"{state.fingerprint[:16]} of epoch {state.key_epoch}"
        )
    _check_attempt(state, name, header)
    if header.previous != state.previous:
        raise WrongRound(
            f"the upload follows transcript line {header.previous[:16]}, the last one published is "
            f"{state.previous[:16]}",
            "Fetch and verify the whole transcript before uploading.",
        )


def _check_attempt(state: State, name: str, header: UploadHeader) -> None:
    if state.attempt.dealt and name not in state.attempt.dealt:
        raise WrongRound(
            f"{name} has dealt no shares in attempt {header.attempt}, so its masks could not be removed",
            "Wait for the next round or attempt.",
        )
    if header.view != state.attempt.view:
        raise SplitView(
            f"{name} made its masks from other keys and shares than those of attempt {header.attempt}",
            "The upload was refused. Somebody shows hospitals different lists; tell the other hospitals.",
        )


def _check_parameters(constants: Constants, name: str, header: UploadHeader) -> None:
    profile = plan_profile(constants.plan).name
    if header.profile != profile:
        raise CiphertextWrongParameters(f"the upload uses profile {header.profile!r}, the plan says {profile!r}")
    if header.tenseal != constants.tenseal:
        raise VersionMismatch(f"{name} uses TenSEAL {header.tenseal}, the study uses {constants.tenseal}")
    if header.weight != constants.plan.weights[name]:
        raise CiphertextWrongParameters(
            f"the upload was weighted by {header.weight!r}, the plan says {constants.plan.weights[name]!r}"
        )
    expected = constants.body_bytes(header.round)
    if header.body_bytes != expected:
        error = MessageTooLarge if header.body_bytes > expected else CiphertextWrongLength
        raise error(f"a body of {header.body_bytes} bytes, the plan says {expected}")


def _check_ledger(state: State, name: str, header: UploadHeader) -> None:
    """A ledger only grows. Fewer entries than were witnessed, or another head at the same length, is another ledger."""
    entries, head = state.witnessed.get(name, (0, header.ledger_head))
    if header.ledger_entries < entries:
        raise LedgerInvalid(f"the ledger of {name} has {header.ledger_entries} entries, {entries} were witnessed")
    if header.ledger_entries == entries and header.ledger_head != head:
        raise LedgerInvalid(f"the ledger of {name} has another head at {entries} entries than was witnessed")
