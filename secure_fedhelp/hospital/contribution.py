"""From a released value to a signed upload, and from the published sum back to the cohort's means.

Both directions sit in one file because each is the other's mirror: what is signed here is what the other hospitals
check before they decrypt.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from secure_fedhelp.errors import NotReleasable, TranscriptInvalid
from secure_fedhelp.identity.signing import SigningKey
from secure_fedhelp.privacy.ledger import Ledger
from secure_fedhelp.privacy.release import Released, require_released
from secure_fedhelp.secagg.ckks import Cipher
from secure_fedhelp.secagg.expansion import add_expanded
from secure_fedhelp.secagg.masked.member import MaskKeys
from secure_fedhelp.secagg.packing import pack_body, split_sum
from secure_fedhelp.secagg.picker import plan_profile
from secure_fedhelp.secagg.sanitise import plan_flooding, sanitise
from secure_fedhelp.secagg.versions import TENSEAL_VERSION
from secure_fedhelp.study.canonical import canonical_bytes, sha256_hex
from secure_fedhelp.study.channel import Vector, pack_channels, split_channels, unpack_mean
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.study.policy import SitePolicy
from secure_fedhelp.wire.messages import HEADER_CONTEXT, NO_VIEW
from secure_fedhelp.wire.transcript import TranscriptEntry


@dataclass(frozen=True)
class EpochKey:
    """The study key of one epoch as this hospital uses it: its cipher, the fingerprint all members confirm, and the
    key of the noise that all members add to what they decrypt."""

    epoch: int
    fingerprint: str
    cipher: Cipher
    flooding_key: bytes = field(repr=False)


@dataclass(frozen=True)
class SignedUpload:
    """One hospital's upload of one round: canonical header, its Ed25519 signature, and the ciphertext body."""

    header: bytes
    signature: bytes
    body: bytes


@dataclass(frozen=True)
class Masking:
    """Which attempt an upload is for, and its masks; none in a plan without them."""

    attempt: int
    keys: MaskKeys | None

    @property
    def view(self) -> str:
        """What the upload's header says of the keys and shares this hospital has seen."""
        return NO_VIEW if self.keys is None else self.keys.view


UNMASKED: Final = Masking(0, None)


def make_upload(
    plan: StudyPlan,
    hospital: str,
    round_number: int,
    released: Released,
    keys: EpochKey,
    previous: str,
    ledger: Ledger,
    signing: SigningKey,
    masking: Masking = UNMASKED,
) -> SignedUpload:
    """Weight, pack, encrypt, mask and sign. Takes a :class:`Released` and nothing else: that is the valve.

    ``previous`` is the hash of the last transcript line this hospital has verified: signing it makes every cohort
    agree on one history, so that a coordinator cannot show different hospitals different ones. The fingerprint makes
    them agree on one key, the hash of the seeds pins the half of each ciphertext that the coordinator passes on.
    Raises InvalidContribution if a value is not finite or beyond its channel's bound.
    """
    require_released(released)
    chosen = keys.cipher.profile
    seed, residues = keys.cipher.encrypt_residues(pack_channels(plan, round_number, hospital, released.channels))
    if masking.keys is not None:
        add_expanded(residues, chosen, masking.keys.plus, masking.keys.minus)
    body = pack_body(chosen, seed, residues)
    header = canonical_bytes(
        {
            "attempt": masking.attempt,
            "body_bytes": len(body),
            "body_sha256": sha256_hex(body),
            "format": 2,
            "hospital": hospital,
            "key_epoch": keys.epoch,
            "key_fingerprint": keys.fingerprint,
            "ledger_entries": ledger.count,
            "ledger_head": ledger.head,
            "previous": previous,
            "profile": chosen.name,
            "round": round_number,
            "seeds_sha256": sha256_hex(seed),
            "study": plan.hash,
            "tenseal": TENSEAL_VERSION,
            "view": masking.view,
            "weight": plan.weights[hospital],
        }
    )
    return SignedUpload(header, signing.sign(HEADER_CONTEXT, header), body)


@dataclass(frozen=True)
class OpenedSum:
    """A round's result: the cohort's mean of each channel; and the decrypted sum itself, which is for nobody but the
    sealed vault of a research study, where the encryption's error is measured with it."""

    exact: Vector = field(repr=False)
    means: dict[str, Vector]


def check_round(
    plan: StudyPlan,
    policy: SitePolicy,
    entry: TranscriptEntry,
    hospital: str,
    sent_body_sha256: str | None,
) -> tuple[str, ...]:
    """The round's cohort, once this hospital may open its sum; TranscriptInvalid otherwise.

    Signatures and the chain were checked before (wire/transcript.py); here it is this hospital's own questions: is
    my upload in it, unchanged, and are there enough of us that the sum says little about anyone?
    """
    cohort = tuple(sorted(upload.hospital for upload in entry.cohort))
    smallest = max(plan.aggregation.minimum_cohort, policy.smallest_cohort)
    if len(cohort) < smallest:
        raise TranscriptInvalid(f"round {entry.round}: a cohort of {len(cohort)}, at least {smallest} are needed")
    mine = next((u for u in entry.cohort if u.hospital == hospital), None)
    if sent_body_sha256 is not None and mine is None:
        raise TranscriptInvalid(f"round {entry.round}: the coordinator confirmed our upload but left it out of the sum")
    expected = plan_profile(plan).sum_bytes(plan.length_of(entry.round), len(cohort))
    if entry.sum_bytes != expected:
        raise TranscriptInvalid(f"round {entry.round}: a sum of {entry.sum_bytes} bytes, {expected} are right")
    if mine is not None and sent_body_sha256 is not None and mine.header.body_sha256 != sent_body_sha256:
        raise TranscriptInvalid(f"round {entry.round}: the transcript holds another upload under our name")
    return cohort


def open_sum(plan: StudyPlan, entry: TranscriptEntry, cohort: tuple[str, ...], data: bytes, key: EpochKey) -> OpenedSum:
    """The decrypted sum and the cohort's weighted mean of each channel, sanitised if the plan says so.

    Raises TranscriptInvalid: before anything is decrypted, if ``data`` is not the sum the signed transcript names, or
    its seeds are not those the cohort signed (a ciphertext of another round, or one hospital's twice, has other
    seeds, and without the right ones the sum decrypts to noise); and after it, if a value is larger than the cohort
    together can make it, so that noise never reaches a model. What is compared then has its flooding noise already:
    whether the exact sum passes a limit would tell a coordinator that shifted it a little of the secret.
    """
    if len(data) != entry.sum_bytes or sha256_hex(data) != entry.sum_sha256:
        raise TranscriptInvalid(f"round {entry.round}: the sum differs from the one in the transcript")
    chosen = key.cipher.profile
    _, seeds = split_sum(chosen, plan.length_of(entry.round), cohort, data)
    for upload in entry.cohort:
        if sha256_hex(seeds[upload.hospital]) != upload.header.seeds_sha256:
            raise TranscriptInvalid(
                f"round {entry.round}: the sum holds other ciphertexts than {upload.hospital} signed"
            )
    exact = key.cipher.decrypt_sum(data, cohort, plan.length_of(entry.round))
    total, error = exact, chosen.error_bound(len(cohort))
    if plan.aggregation.decrypted == "sanitised":
        noise = plan_flooding(plan, chosen)
        # What the cohort signed, and not the sum's hash: a coordinator that gives each hospital the sum with another
        # constant added would else get as many independent noises of one sum, and average them away.
        signed = {upload.hospital: upload.header.body_sha256 for upload in entry.cohort}
        context = {"cohort": signed, "round": entry.round, "study": entry.study}
        try:
            total = sanitise(exact, noise, key.flooding_key, canonical_bytes(context))
        except NotReleasable as impossible:
            raise TranscriptInvalid(f"round {entry.round}: {impossible.message}", impossible.hint) from impossible
        error += noise.error_bound()
    _require_possible(plan, entry, cohort, total, error)
    return OpenedSum(exact, unpack_mean(plan, entry.round, total, cohort))


def _require_possible(
    plan: StudyPlan, entry: TranscriptEntry, cohort: tuple[str, ...], total: Vector, error: float
) -> None:
    """TranscriptInvalid if a value of the sum is beyond bound times the cohort's factors."""
    for name, part in split_channels(plan, entry.round, total).items():
        largest = float(np.abs(part).max())
        limit = plan.channel(name).bound * sum(plan.factor(name, hospital) for hospital in cohort) + error
        if not largest <= limit:
            raise TranscriptInvalid(
                f"round {entry.round}: channel {name} of the sum reaches {largest:.3g}, "
                f"the cohort can make at most {limit:.3g}: somebody sent no honest ciphertext, or another key"
            )
