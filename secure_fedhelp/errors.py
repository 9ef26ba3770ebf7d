"""Every error a user can meet, in one tree, with one table to exit code, gRPC status and hint.

The command line prints ``error: <message>`` and ``hint: <hint>`` and exits with :attr:`FedHelpError.exit_code`; the
coordinator sends :attr:`FedHelpError.status` with the class's name, and the hospital raises the same class again. So a
person reads the same name on both sides of the wire. This module imports nothing, so every room may use it.

Exit codes: 1 a check failed, 2 bad input or configuration, 3 identity or signature, 4 privacy or policy refused,
5 the network or another party failed, 6 the machine (disk, permissions).
"""

from __future__ import annotations

from typing import ClassVar


class FedHelpError(Exception):
    """Base of the tree: a message of what happened, a hint of what to do next."""

    exit_code: ClassVar[int] = 2
    #: Name of a ``grpc.StatusCode`` (a string, so that this file needs no gRPC).
    status: ClassVar[str] = "INTERNAL"
    default_hint: ClassVar[str] = "Run the command again with --help, or see the README."

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.default_hint


# --- exit 2: input and configuration -------------------------------------------------------------------------------


class InvalidPlan(FedHelpError):
    status = "FAILED_PRECONDITION"
    default_hint = "Correct the plan file; every hospital must then read and sign it again."


class InvalidPolicy(FedHelpError):
    status = "FAILED_PRECONDITION"
    default_hint = "Correct the site policy file; unknown keys are refused so that a misspelt limit cannot be ignored."


class InvalidConfiguration(FedHelpError):
    default_hint = "Correct the configuration file; unknown keys are refused."


class InvalidData(FedHelpError):
    default_hint = "Nothing was trained and nothing was spent. Correct the data file and start again."


class MissingColumn(InvalidData):
    default_hint = "Export the table again with every column of the plan's schema. Nothing was spent."


class UnknownCategory(InvalidData):
    default_hint = (
        "Map the value to one that the plan lists, or leave it empty; a record without a class has to be left out. "
        "Nothing was spent."
    )


class InvalidValue(InvalidData):
    default_hint = "Correct the value (numbers only, empty for missing). Nothing was spent."


class Diverged(FedHelpError):
    default_hint = "Its training diverged: give it a smaller learning rate (docs/plan.md says which one it takes)."


class OneClassOnly(InvalidData):
    default_hint = "A hospital needs records of at least two classes to take part. Nothing was spent."


class TooFewPatients(InvalidData):
    default_hint = (
        "Ask for a plan whose nominal size and sampling rate fit this hospital's patients. Nothing was spent."
    )


class PublicSetMismatch(InvalidData):
    default_hint = "Fetch the public set again; its hash is fixed by the plan."


class UnknownDataset(InvalidData):
    default_hint = "Choose one of: breast-cancer, heart, pneumonia, breast, retina."


class InvalidPartition(InvalidData):
    """A way of dealing patients to hospitals that these patients do not allow. ``hospitals`` would have too few."""

    hospitals: tuple[str, ...] = ()
    default_hint = "Change the study file's [partition] or [parts]: other shares, a larger alpha, fewer hospitals."


class DataChanged(InvalidData):
    """A data file that is no longer the one that a run of a sweep was asked for."""

    default_hint = "Start the sweep again: with the new file its runs are others and are done anew."


class MissingExtra(FedHelpError):
    default_hint = "Install it: pip install 'secure-fedhelp[imaging]'. Nothing was trained and nothing was spent."


class UnsupportedModel(FedHelpError):
    default_hint = "Choose an architecture without BatchNorm or in-place operations, as listed in the documentation."


class DuplicateHospital(FedHelpError):
    status = "ALREADY_EXISTS"
    default_hint = "Each hospital needs a name of its own in the plan and in the consortium."


# --- exit 3: identity, signatures, transcripts ---------------------------------------------------------------------


class IdentityError(FedHelpError):
    exit_code = 3
    status = "UNAUTHENTICATED"
    default_hint = "Check the certificate and key files with the consortium's administrator."


class WrongAuthority(IdentityError):
    default_hint = "Both sides need certificates of the same consortium CA; compare the ca.crt files."


class CertificateExpired(IdentityError):
    default_hint = "Make a new request with 'secure-fedhelp hospital init --renew' and have the consortium sign it."


class CertificateRevoked(IdentityError):
    status = "PERMISSION_DENIED"
    default_hint = "The consortium withdrew this certificate; ask its administrator."


class NotOnRoster(IdentityError):
    status = "PERMISSION_DENIED"
    default_hint = "The plan does not list this name; ask the coordinator's operator for the right plan."


class BadSignature(IdentityError):
    default_hint = "Somebody changed the message or used another key. Stop, and compare keys out of band."


class PlanChanged(IdentityError):
    status = "FAILED_PRECONDITION"
    default_hint = "The plan differs from the one that was signed. Compare the files; a new plan is a new study."


class TranscriptInvalid(IdentityError):
    exit_code = 3
    status = "DATA_LOSS"
    default_hint = "Nothing was decrypted. Keep the transcript and tell the other hospitals."


class KeyCeremonyFailed(IdentityError):
    status = "FAILED_PRECONDITION"
    default_hint = "Start the study again; every hospital must confirm the same study key."


class SplitView(TranscriptInvalid):
    """Two lists of survivors of one attempt: somebody wants shares for both."""

    status = "FAILED_PRECONDITION"
    default_hint = "Nothing was revealed. The coordinator shows hospitals different lists; tell the other hospitals."


class RetryRefused(TranscriptInvalid):
    """Another attempt at a round whose first attempt may still be opened: two sums would give away a difference."""

    status = "FAILED_PRECONDITION"
    default_hint = "Nothing was uploaded. This hospital waits for the next round; what it has paid for is kept."


class KeyEpochRolledBack(TranscriptInvalid):
    default_hint = "Nothing was encrypted. A key epoch that is over never comes back; tell the other hospitals."


class ForgedShare(IdentityError):
    """A share of a round's secret that is not the one its dealer committed to, or a dealer whose shares disagree."""

    status = "INVALID_ARGUMENT"
    default_hint = "The share was not used. Ask the hospital that is named which software it runs."


class WrongUnlockSecret(FedHelpError):
    """The passphrase or key file is not the one a folder's private keys are sealed under."""

    exit_code = 3
    default_hint = (
        "Give the passphrase or key file of the last 'init' or 'rekey'. If it is lost, so are the private keys and the "
        "running study's state: make a new folder, get a new certificate, and have the old one revoked. The ledger can "
        "still be read and audited, but not continued."
    )


class UnlockSecretMissing(WrongUnlockSecret):
    default_hint = (
        "Put the key file back from its copy, or say where it is with --key-file; give a passphrase at the prompt, "
        "with --passphrase-file, or in SECURE_FEDHELP_PASSPHRASE. If it is lost, so are the private keys and the "
        "running study's state. The ledger can still be read and audited, but not continued."
    )


# --- exit 4: privacy and policy -------------------------------------------------------------------------------------


class PolicyViolation(FedHelpError):
    exit_code = 4
    status = "FAILED_PRECONDITION"
    default_hint = "Ask for another plan, or change the site policy if your privacy officer agrees."


class BudgetExhausted(FedHelpError):
    exit_code = 4
    status = "FAILED_PRECONDITION"
    default_hint = "The hospital stays out of the remaining rounds; the study goes on without it."


class NotReleasable(FedHelpError):
    exit_code = 4
    default_hint = "Only values with a ledger entry, or derived from such values, may leave the hospital."


class LedgerInvalid(FedHelpError):
    exit_code = 1
    default_hint = "Keep the file as it is and compare it with the heads that the other hospitals witnessed."


class LedgerLocked(FedHelpError):
    exit_code = 4
    default_hint = "Another process uses this ledger; stop it first."


class AccountantDisagreement(FedHelpError):
    exit_code = 4
    default_hint = (
        "The two accountants differ beyond their stated bounds; nothing was spent. Report the plan's settings."
    )


class InvalidContribution(FedHelpError):
    """NaN, infinity or a value beyond the channel's bound."""

    exit_code = 4
    status = "INVALID_ARGUMENT"
    default_hint = "Training diverged or the bound is wrong; nothing was uploaded. Lower the learning rate in the plan."


class CapacityExceeded(FedHelpError):
    exit_code = 4
    status = "FAILED_PRECONDITION"
    default_hint = "Choose a deeper aggregation profile or smaller channel bounds in the plan."


# --- exit 5: the other side ------------------------------------------------------------------------------------------


class ProtocolError(FedHelpError):
    exit_code = 5
    status = "INVALID_ARGUMENT"
    default_hint = "Both sides must run the same version; nothing of this message was used."


class CiphertextWrongLength(ProtocolError):
    default_hint = "The upload was truncated or is too long; it was refused whole and can be sent again."


class CiphertextNotCanonical(ProtocolError):
    default_hint = "A residue is not below the modulus; the upload was refused whole."


class CiphertextWrongParameters(ProtocolError):
    default_hint = "The upload uses another profile than the plan's; it was refused whole."


class VersionMismatch(ProtocolError):
    status = "FAILED_PRECONDITION"
    default_hint = "Install exactly the pinned TenSEAL version on every hospital; its formats differ between versions."


class ReplayedUpload(ProtocolError):
    status = "ALREADY_EXISTS"
    default_hint = "Each hospital contributes once a round; the first upload stands."


class WrongRound(ProtocolError):
    status = "FAILED_PRECONDITION"
    default_hint = "The message belongs to another round; ask for the current state and go on from there."


class MessageTooLarge(ProtocolError):
    status = "RESOURCE_EXHAUSTED"
    default_hint = "The plan fixes every message's size; this one is larger."


class TooManyCalls(ProtocolError):
    status = "RESOURCE_EXHAUSTED"
    default_hint = "One agent a hospital is enough: stop the others; the client tries again by itself."


class StudyEnded(FedHelpError):
    exit_code = 5
    status = "FAILED_PRECONDITION"
    default_hint = "Everything so far is kept in the run directory; see the coordinator's log for the reason."


class UnderQuorum(StudyEnded):
    default_hint = (
        "Too few hospitals answered before the deadline. Everything is kept; start the missing ones and a new study."
    )


class UnmaskingFailed(StudyEnded):
    """Shares were revealed, yet too few to open the sum; the round cannot be tried again without a second sum."""

    default_hint = (
        "Nothing was opened. Too many hospitals left while the sum was being unmasked; start a new study with them."
    )


class HospitalsLeft(UnderQuorum):
    """So many hospitals have said that they do not take part that a round cannot come."""

    default_hint = (
        "The hospital that is named says why in its own log. If no round has begun, it can be mended there: then all "
        "run the same commands again, the coordinator too. Otherwise a new study is needed."
    )


class StudyAlreadyStarted(FedHelpError):
    exit_code = 5
    status = "FAILED_PRECONDITION"
    default_hint = "Once a study has started hospitals can only come back, not join for the first time."


class CoordinatorUnreachable(FedHelpError):
    exit_code = 5
    status = "UNAVAILABLE"
    default_hint = "Check the address and the network; run the same command again and the study goes on where it was."


class FoundationUnavailable(FedHelpError):
    exit_code = 5
    default_hint = "Start the foundation model server or correct its URL, then run the command again."


class FoundationAnswerInvalid(FedHelpError):
    exit_code = 5
    default_hint = "The server's answer does not fit the plan (shape, names or values); check the model it serves."


class FoundationChanged(FedHelpError):
    """Not all answers are by one model: a teacher of two minds is none."""

    exit_code = 5
    default_hint = "Nothing was kept. Run the command again when the server's model stays, or name its version."


class FoundationRefused(FedHelpError):
    exit_code = 4
    default_hint = "The public set was already answered, or the site policy does not allow this endpoint."


class ClusterUnavailable(FedHelpError):
    """The Ray cluster of a sweep does not answer, or is of another version."""

    exit_code = 5
    default_hint = (
        "Start the cluster (ray start --head) or correct --ray-address; every node needs the same Python, Ray and "
        "secure-fedhelp. What is done is kept."
    )


class TrackingUnavailable(FedHelpError):
    """The place where a sweep's results are logged does not answer or refuses them."""

    exit_code = 5
    default_hint = (
        "Give --mlflow a folder that can be written or the address of a running server; a database needs all of "
        "mlflow, not mlflow-skinny. Results are kept in --out and are logged when the sweep is started again."
    )


# --- exit 6: the machine ---------------------------------------------------------------------------------------------


class StorageError(FedHelpError):
    exit_code = 6
    status = "RESOURCE_EXHAUSTED"
    default_hint = "Free some disk space or choose another directory; run the same command again to go on."


class NoFileLeft(StorageError):
    """The machine or the process has no file descriptor or memory left: what was not begun can be tried again."""

    default_hint = "Raise the limit of open files (ulimit -n) for this process. It goes on by itself when one is free."


class CannotJudgeNow(FedHelpError):
    """Whoever should answer has trouble of its own: who asked is not refused, waits and tries again."""

    exit_code = 6
    status = "UNAVAILABLE"
    default_hint = "It is tried again. The log of the side that cannot judge says what it lacks."


class RevocationsUnreadable(CannotJudgeNow):
    """A revocation list that is gone, half copied, not readable, or ran out, and no good one before it."""

    default_hint = (
        "Copy revoked.crl from the consortium again, under another name first, and then rename it: that takes no time."
    )


class UnsafePermissions(FedHelpError):
    exit_code = 6
    default_hint = "A private key must be readable by its owner only: chmod 600 FILE."


class UnsealedSecret(FedHelpError):
    """A private key or other secret lies on the disk in clear, as an earlier version left it."""

    exit_code = 6
    default_hint = (
        "Seal the folder once: 'secure-fedhelp hospital seal-keys --folder FOLDER' (or coordinator, consortium)."
    )


def error_classes() -> dict[str, type[FedHelpError]]:
    """Every class of the tree by name: how the wire turns a name back into the same error."""
    found: dict[str, type[FedHelpError]] = {}
    waiting: list[type[FedHelpError]] = [FedHelpError]
    while waiting:
        cls = waiting.pop()
        found[cls.__name__] = cls
        waiting.extend(cls.__subclasses__())
    return found
