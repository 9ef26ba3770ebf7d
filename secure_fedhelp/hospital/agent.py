"""The hospital's loop: join, agree on the study key, and for each round train, release, upload, check, open, absorb.

The agent can be stopped at any instruction and started again: each step first looks into the vault for what an earlier
run has already done. It knows no sockets and no torch: the coordinator and the method are passed in.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from secure_fedhelp.errors import (
    BudgetExhausted,
    FedHelpError,
    KeyEpochRolledBack,
    PlanChanged,
    RetryRefused,
    StorageError,
    StudyEnded,
    TranscriptInvalid,
    UnsupportedModel,
    WrongRound,
)
from secure_fedhelp.hospital.ceremony import KeyCeremony
from secure_fedhelp.hospital.contribution import UNMASKED, EpochKey, SignedUpload, check_round, make_upload, open_sum
from secure_fedhelp.hospital.masked_round import MaskedRounds
from secure_fedhelp.hospital.ports import Coordinator, Method
from secure_fedhelp.hospital.roster import check_roster
from secure_fedhelp.hospital.vault import Checkpoint, Vault
from secure_fedhelp.identity.cards import MemberCard
from secure_fedhelp.identity.signing import SigningKey
from secure_fedhelp.identity.tls import Credentials
from secure_fedhelp.privacy.ledger import Ledger
from secure_fedhelp.privacy.release import Released, ReleaseGate
from secure_fedhelp.secagg.sealing import SealingKey
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.study.policy import SitePolicy
from secure_fedhelp.wire.messages import (
    DECLINE_CONTEXT,
    FAILED_REASON,
    FINAL_REASON,
    Phase,
    StudyState,
    decline_statement,
)
from secure_fedhelp.wire.transcript import TranscriptChecker, TranscriptEntry

#: Told of each step: (what, details). For the log and the status file.
Progress = Callable[[str, dict[str, object]], None]

_POLL_SECONDS = 10.0
#: Phases that only plans with masks have, and all those in which a member is waited for.
_MASKED = frozenset({Phase.ADVERTISING, Phase.SHARING, Phase.AGREEING, Phase.REVEALING})
_RUNNING = _MASKED | {Phase.KEYING, Phase.COLLECTING}


@dataclass
class Agent:
    """One hospital in one study. :meth:`run` returns when the study has finished and every sum is absorbed."""

    plan: StudyPlan
    policy: SitePolicy
    hospital: str
    card: bytes
    credentials: Credentials
    signing: SigningKey
    sealing: SealingKey
    vault: Vault
    ledger: Ledger
    gate: ReleaseGate
    method: Method
    coordinator: Coordinator
    clock: Callable[[], float]
    progress: Progress
    _cards: Mapping[str, MemberCard] = field(default_factory=dict, init=False)
    _checker: TranscriptChecker | None = field(default=None, init=False)
    _lines: list[bytes] = field(default_factory=list, init=False)
    #: Published rounds that are not absorbed yet, and who had left before each.
    _waiting: list[tuple[TranscriptEntry, frozenset[str]]] = field(default_factory=list, init=False)
    _masked: MaskedRounds | None = field(default=None, init=False)
    _key: EpochKey | None = field(default=None, init=False)
    _ready: tuple[int, Released] | None = field(default=None, init=False)
    #: The last step taken: (phase, round, attempt). The state changes often within a phase; a step is taken once.
    _taken: tuple[Phase, int, int] | None = field(default=None, init=False)
    _rounds: int = field(default=0, init=False)
    _declined: bool = field(default=False, init=False)

    @property
    def ceremony(self) -> KeyCeremony:
        """The study key's part of this hospital, with the cards it has checked."""
        return KeyCeremony(
            self.plan, self.hospital, self._cards, self.signing, self.sealing, self.vault, self.coordinator
        )

    # -- the loop ----------------------------------------

    def run(self) -> None:
        """Take part until the study ends, or until the last round that this hospital has a key for, if it has left for
        good. Raises StudyEnded or UnderQuorum when it ends before its last round."""
        self._resume()
        if self._complete:
            self._over()
            return  # an earlier run has absorbed everything: the coordinator may be gone by now
        self.coordinator.join(self.card)
        self.progress("joined", {})
        known = 0
        while True:
            state = self.coordinator.watch(known, _POLL_SECONDS)
            if self.hospital in state.absent and state.phase in _RUNNING:
                self.coordinator.join(self.card)  # we were slow, not gone
            self._step(state)
            if state.phase is Phase.FINISHED:
                self._require_complete()
            if self._complete:
                break
            ended = state.ended_error()
            if ended is not None:
                self._forget_study()
                self.coordinator.goodbye()
                raise ended
            known = state.version
        self._over()
        self.coordinator.goodbye()

    @property
    def _complete(self) -> bool:
        """Whether every sum that this hospital has a key for is absorbed."""
        return self._rounds == self.vault.rounds_to_absorb(self.plan.study.rounds)

    def _over(self) -> None:
        self._forget_study()
        if self._rounds < self.plan.study.rounds:
            self.progress("left for good", {"round": self._rounds - 1})
        else:
            self.progress("finished", {"rounds": self._rounds})

    def _step(self, state: StudyState) -> None:
        if state.phase is Phase.GATHERING or (state.phase is Phase.ENDED and state.round <= self._rounds):
            return  # nothing to agree on yet, or nothing more to take home
        self._learn_roster()
        self._catch_up(state)
        self._declined = self._declined or self.hospital in state.declined
        if state.phase not in _RUNNING or self._declined or not self._is_next(state):
            return
        try:
            # An unconfirmed key after keying means that we came back after the ceremony.
            if self.hospital in state.unconfirmed:
                if not self.ceremony.take_part(state.key_epoch, state.maker, self._known.out):
                    return  # without the key there is nothing to do yet
                self.progress("key confirmed", {"epoch": state.key_epoch})
            step = state.phase, state.round, state.attempt
            if step != self._taken:
                self._taken = step
                self._take(state)
        except WrongRound:
            # The others went on without us, or the deadline passed while we trained. What was spent stays spent;
            # the next round or attempt is ours again.
            self.progress("too late", {"round": state.round})
        except StudyEnded:
            # While we trained. The next state says how, and what there is to take home.
            self.progress("too late, the study is over", {"round": state.round})

    def _take(self, state: StudyState) -> None:
        """This hospital's part in one phase of a round; it may be repeated after a crash."""
        number, attempt = state.round, state.attempt
        match state.phase:
            case Phase.ADVERTISING:
                self._advertise(number, attempt, state.key_epoch)
            case Phase.SHARING:
                self.masked.share(number, attempt, self._require_one_key(state.key_epoch))
            case Phase.COLLECTING:
                self._contribute(number, attempt, state.key_epoch)
            case Phase.AGREEING | Phase.REVEALING:
                self._unmask(state.phase, number, attempt)

    def _resume(self) -> None:
        signed = self.vault.signed_plan()
        if signed is not None and signed != self.plan.hash:
            raise PlanChanged(
                f"this folder signed plan {signed[:16]}…, the plan file now is {self.plan.hash[:16]}…",
                "Put the signed plan file back, or make the new study a folder with 'hospital init --like' this one.",
            )
        self.vault.require_not_given_back()  # once more: now under the ledger's lock, under which it is given back
        self.vault.remember_plan(self.plan.hash)
        checkpoint = self.vault.checkpoint()
        if checkpoint is not None:
            self.method.load(checkpoint.method)
            self._rounds = checkpoint.rounds
            self._forget_rounds(self._rounds)  # of a crash between absorbing and forgetting
            self.progress("resumed", {"rounds": self._rounds})

    def _learn_roster(self) -> None:
        if self._cards:
            return
        kept = self.vault.accepted_cards()
        roster = check_roster(
            self.coordinator, self.credentials, self.plan, self.clock(), self.hospital, self.signing.public_hex, kept
        )
        if roster.accepted != kept:
            self.vault.remember_accepted_cards(roster.accepted)
        self._cards = roster.hospitals
        publics = {name: card.signing_key for name, card in self._cards.items()}
        self._checker = TranscriptChecker(roster.coordinator.signing_key, publics, self.plan)
        self._masked = MaskedRounds(
            self.plan, self.policy, self.hospital, publics, self.signing, self.vault, self.coordinator
        )
        self._read_lines(self.vault.transcript())
        self.vault.forget_study_keys_before(self._key_needed)  # of a crash between absorbing and forgetting

    # -- a round: out ----------------------------------------

    def _is_next(self, state: StudyState) -> bool:
        """Whether the announced round is the one to train for now; TranscriptInvalid if it cannot be right.

        What the coordinator announces is believed only as far as it published the rounds before: otherwise it could
        have us spend the whole budget on rounds that never were.
        """
        if self.plan.aggregation.masks == "none" and (state.attempt or state.phase in _MASKED):
            raise TranscriptInvalid(f"{state.phase} of attempt {state.attempt + 1}, and the plan has no masks")
        if state.round < self._rounds:
            return False  # while we caught up the study went on: the next state will say so
        if state.round > self._rounds or state.round >= self.plan.study.rounds:
            raise TranscriptInvalid(f"round {state.round + 1} is announced, only {self._rounds} are published")
        if state.key_epoch != self._known.key_epoch:
            raise KeyEpochRolledBack(
                f"key epoch {state.key_epoch} is announced for round {state.round + 1}; by the transcript it is epoch "
                f"{self._known.key_epoch}"
            )
        return True

    def _advertise(self, number: int, attempt: int, epoch: int) -> None:
        """Train and pay for this round first, so that a hospital in the attempt has only to upload."""
        if self._prepared(number, epoch) is None:
            return
        try:
            self.masked.advertise(number, attempt)
        except RetryRefused as error:
            # What we uploaded might be opened twice. The others may go on without us.
            self.progress("another attempt refused", {"round": number, "message": error.message})

    def _contribute(self, number: int, attempt: int, epoch: int) -> None:
        if self.vault.acknowledged(number, attempt):
            return
        upload = self._prepare_upload(number, attempt, epoch)
        if upload is None:
            return
        self.progress("uploading", {"round": number, "bytes": len(upload.body)})
        self.coordinator.upload(number, upload.header, upload.signature, upload.body)
        self.vault.remember_acknowledged(number, attempt)
        self.progress("uploaded", {"round": number, "epsilon": self.gate.epsilon_spent()})

    def _unmask(self, phase: Phase, number: int, attempt: int) -> None:
        """Help to unmask the sum that our upload of this attempt is in; nothing to do if it never arrived."""
        body = self._spooled(number, attempt)
        if body is None:
            return
        if not self.vault.acknowledged(number, attempt):
            if not self.masked.survives(number, attempt, body):
                return
            self.vault.remember_acknowledged(number, attempt)  # it arrived, and we died before we heard
        if phase is Phase.AGREEING:
            self.masked.agree(number, attempt, body)
        else:
            self.masked.reveal(number, attempt, body)

    def _prepare_upload(self, number: int, attempt: int, epoch: int) -> SignedUpload | None:
        """The upload of this attempt, of an earlier run or new; None if we have declined, or the attempt goes on
        without us."""
        spooled = self.vault.upload(number)
        if spooled is not None and (header := json.loads(spooled[0]))["attempt"] == attempt:
            # A ledger that was put back since has forgotten what this upload cost.
            self.ledger.require_witnessed(header["ledger_entries"], header["ledger_head"])
            return SignedUpload(*spooled)
        masking = UNMASKED
        if self.plan.aggregation.masks != "none":
            found = self.masked.mask(number, attempt)
            if found is None:
                return None
            masking = found
        prepared = self._prepared(number, epoch)
        if prepared is None:
            return None
        released, key = prepared
        upload = make_upload(
            self.plan, self.hospital, number, released, key, self._known.previous, self.ledger, self.signing, masking
        )
        self.vault.remember_upload(number, upload.header, upload.signature, upload.body)
        return upload

    def _prepared(self, number: int, epoch: int) -> tuple[Released, EpochKey] | None:
        """What this round uploads, paid for, and the key for it; None if we decline: the budget does not reach, or an
        earlier run paid for training that failed."""
        # Before anything is spent: without a key it would be spent for nothing.
        key = self._epoch_key(epoch, self._known.out)
        if self._ready is None or self._ready[0] != number:
            self.ceremony.require_agreed(key, out=self._known.out)
            try:
                released = self._released(number)
            except BudgetExhausted as error:
                self._decline(number, FINAL_REASON)
                self._declined = True
                self.progress("budget exhausted", {"round": number, "message": error.message})
                return None
            except Exception:
                if self.gate.failed(number):  # it is paid for, and will not be tried again: nobody shall wait for it
                    with contextlib.suppress(FedHelpError):
                        self._decline(number, FAILED_REASON)
                raise
            if released is None:
                self._decline(number, FAILED_REASON)
                self.progress("left out, training failed in an earlier run", {"round": number})
                return None
            self._ready = number, released
        return self._ready[1], key

    def _epoch_key(self, epoch: int, out: frozenset[str]) -> EpochKey:
        if self._key is None or self._key.epoch != epoch:
            self._forget_key()
            self._key = self.ceremony.epoch_key(epoch, out)
        return self._key

    def _forget_key(self) -> None:
        """Out of memory with the epoch's key, as far as Python can."""
        if self._key is not None:
            self._key.cipher.forget()
            self._key = None

    def _forget_study(self) -> None:
        """It is over: what somebody recorded of it shall be opened by nothing that is found here later."""
        self._forget_key()
        self.vault.forget_study(values=not self.plan.study.keeps_values)

    def _forget_rounds(self, before: int) -> None:
        """Bodies, masks and values."""
        self.vault.forget_rounds_before(before, values=not self.plan.study.keeps_values)

    @property
    def _key_needed(self) -> int:
        """The key epoch of the next sum to open, or of the next round."""
        return self._waiting[0][0].key_epoch if self._waiting else self._known.key_epoch

    def _require_one_key(self, epoch: int) -> Callable[[frozenset[str]], None]:
        """Asks whether all members of an attempt have signed for the study key that this hospital holds: masks among
        hospitals with different keys would cancel and leave noise."""
        out = self._known.out
        return lambda members: self.ceremony.require_agreed(self._epoch_key(epoch, out), members, out)

    def _released(self, number: int) -> Released | None:
        """This round's released values: those an earlier run paid for, or new ones. None if an earlier run's training
        failed: it would fail again, and whatever starts this process anew by itself would pay each time."""
        values = self.vault.values(number)
        if values is not None:
            recovered = self.gate.recover(number, values)
            if recovered is not None:
                self.progress("recovered a paid release", {"round": number})
                return recovered
            self.vault.forget_values(number)  # never paid for, so never left: train again
        if self.gate.failed(number):
            return None
        self.gate.reserve(number)
        self.progress("training", {"round": number})
        try:
            output = self.method.contribute(number)
            return self.gate.release(
                number, output, before_spending=lambda v: self.vault.remember_values(number, dict(v))
            )
        except (StorageError, BudgetExhausted, UnsupportedModel):
            raise  # nothing can be written or paid; or the network was refused before a record was drawn
        except Exception:
            # The mechanism ran, and that it failed will show, whatever it failed of: nobody tries again for nothing.
            # Once: if the release itself stands in the ledger already, the next start recovers it.
            if self.gate.reserved(number):
                self.gate.spend_without_release(number, "system")
            raise

    def _decline(self, number: int, reason: str) -> None:
        """Say that this round goes on without us, so that nobody waits; again after a restart it changes nothing."""
        statement = decline_statement(self.plan.hash, number, self.hospital, reason)
        self.coordinator.decline(number, reason, self.signing.sign(DECLINE_CONTEXT, statement))

    # -- a round: back ----------------------------------------

    def _catch_up(self, state: StudyState) -> None:
        """Open and absorb every published round this hospital has not absorbed yet."""
        if self._rounds >= state.round:
            return
        if self._known.round < state.round:
            self._read_lines(self.coordinator.transcript(self._known.round))
            self.vault.remember_transcript(self._lines)
        if self._known.round < state.round:
            raise TranscriptInvalid(
                f"{state.round} rounds are announced as published, the transcript has {self._known.round}"
            )
        while self._waiting:
            entry, out = self._waiting.pop(0)
            if self.hospital in out:
                self._waiting.clear()  # under keys that are sealed to nobody who left
                return
            self._open(entry, out)

    def _read_lines(self, lines: list[bytes]) -> None:
        """Check the next lines of the transcript; those of rounds not absorbed yet wait to be opened."""
        for line in lines:
            out = self._known.out
            entry = self._known.check(line)
            if entry.round >= self.plan.study.rounds:
                raise TranscriptInvalid(f"round {entry.round + 1} is not in the plan")
            for upload in entry.cohort:
                if upload.hospital == self.hospital:
                    # Our own earlier words: a ledger put back from a backup has forgotten what was spent.
                    self.ledger.require_witnessed(upload.header.ledger_entries, upload.header.ledger_head)
            self._lines.append(line)
            if self.hospital in self._known.out - out:
                # Before that round's sum is opened: a restart after it needs nobody to know that this was the last.
                self.vault.remember_left(entry.round)
            if entry.round >= self._rounds:
                self._waiting.append((entry, out))

    @property
    def _known(self) -> TranscriptChecker:
        """The transcript as far as this hospital has verified it."""
        if self._checker is None:
            raise TranscriptInvalid("no transcript before the members' cards are checked")
        return self._checker

    @property
    def masked(self) -> MaskedRounds:
        """This hospital's part in the masks."""
        if self._masked is None:
            raise TranscriptInvalid("no masks before the members' cards are checked")
        return self._masked

    def _spooled(self, number: int, attempt: int) -> str | None:
        """SHA-256 of the body this hospital made for an attempt, if it has."""
        data = self.vault.upload_header(number)
        header = None if data is None else json.loads(data)
        return str(header["body_sha256"]) if header and header["attempt"] == attempt else None

    def _sent(self, number: int, attempt: int) -> str | None:
        """SHA-256 of the body that the coordinator has confirmed in this attempt, if it has."""
        return self._spooled(number, attempt) if self.vault.acknowledged(number, attempt) else None

    def _require_complete(self) -> None:
        if not self._complete:
            raise TranscriptInvalid(
                f"the study is called finished after {self._rounds} of {self.plan.study.rounds} rounds"
            )

    def _open(self, entry: TranscriptEntry, out: frozenset[str]) -> None:
        """Open a published round; ``out`` had left for good before it."""
        number = entry.round
        cohort = check_round(self.plan, self.policy, entry, self.hospital, self._sent(number, entry.attempt))
        data = self.coordinator.download(number, entry.sum_bytes)
        opened = open_sum(self.plan, entry, cohort, data, self._epoch_key(entry.key_epoch, out))
        if self.plan.study.keeps_values:
            self.vault.remember_sum(number, opened.exact)
        self.method.absorb(number, opened.means)
        self._rounds = number + 1
        self.vault.remember_checkpoint(Checkpoint(self._rounds, self.method.save()))
        self.masked.forget(number)
        self._forget_rounds(self._rounds)
        if self._key_needed != entry.key_epoch:
            self._forget_key()
            self.vault.forget_study_keys_before(self._key_needed)  # its last sum is open
        self.progress(
            "absorbed",
            {
                "round": number,
                "cohort": len(cohort),
                "epsilon": self.gate.epsilon_spent(),
                "bytes_up": self.coordinator.bytes_up,
                "bytes_down": self.coordinator.bytes_down,
            },
        )
