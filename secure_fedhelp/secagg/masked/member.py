"""One hospital's part in the masked rounds: Bonawitz et al. (CCS 2017), the protocol against active adversaries.

An attempt at a round has five steps; the coordinator relays, and everybody checks what it relays.

 1. *Key.* Each member signs fresh X25519 keys for this attempt.
 2. *Share.* Each member sees all keys (the *members*, n of them), draws its holders (graph.py), and deals Shamir shares
    of its self secret and its mask secret among them, sealed. Only members who dealt can upload (the *dealers*).
 3. *Mask.* Each dealer adds to its ciphertexts a self-mask, and one mask for each dealer it shares an edge with, which
    that one subtracts. It uploads the result.
 4. *Agree.* Each member whose upload arrived signs the list of uploads, the *survivors*: one list an attempt.
 5. *Reveal.* With the signatures of at least t survivors on its own list a member reveals, once, its shares of the
    survivors' self secrets and of the mask secrets of dealers that did not survive. With enough of them the coordinator
    removes the self-masks and the masks that drop-outs left behind; the sum is what remains, still encrypted.

Never both of one dealer: its self secret with its mask secret would open its upload. Two honest members never reveal
for two lists, since two groups of t have 2t - n members in common (study/threshold.py).

A retry
    A fresh attempt has fresh keys, secrets, masks and ciphertexts of the same values. Two sums of the same values over
    different survivors would give away the difference, so before a member goes to another attempt it must be certain
    that the first can never be opened:

    * it has handed out no upload: nothing of it can be opened;
    * or all n of the first attempt are needed to open it (t = n), and it has not revealed and never will;
    * otherwise it refuses (RetryRefused). With t < n the others might yet open the first attempt without it, and after
      its own reveal they might in any case.

    Attempts only count up; a lower number than the last is refused (WrongRound), and so is one after the 64th: each
    draws new holders, and nobody shall try until a sparse graph comes out badly.

This class holds no key of the study and sees no value: it turns messages into messages, and everything it must not
forget is in :meth:`to_bytes`, to be stored (sealed) before a step's result leaves the hospital.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random, SystemRandom
from typing import Any, Final, Protocol

from pydantic import ConfigDict, ValidationError

from secure_fedhelp.errors import ForgedShare, NotOnRoster, ProtocolError, RetryRefused, SplitView, WrongRound
from secure_fedhelp.secagg.masked.checks import check_agreement, check_dealer, check_key, check_record, shape_of
from secure_fedhelp.secagg.masked.graph import choose_holders
from secure_fedhelp.secagg.masked.roundkeys import RoundSecrets, adds, pair_key, self_key
from secure_fedhelp.secagg.masked.shares import deal, open_record
from secure_fedhelp.secagg.masked.statements import (
    ROUND_KEY_CONTEXT,
    SHARES_CONTEXT,
    SURVIVORS_CONTEXT,
    Place,
    Reveal,
    RoundKeyStatement,
    SharesStatement,
    Signed,
    SurvivorsStatement,
    members_hash,
    parse,
    view_hash,
)
from secure_fedhelp.study.canonical import canonical_bytes
from secure_fedhelp.study.plan import explain
from secure_fedhelp.study.sections import Strict
from secure_fedhelp.study.threshold import Masks, threshold

#: Attempts at one round.
LARGEST_ATTEMPTS: Final = 64


class Signer(Protocol):
    """Signs for one purpose, as identity/signing.py does."""

    def sign(self, context: str, message: bytes) -> bytes: ...


@dataclass(frozen=True)
class Dealing:
    """A dealer's signed statement and each holder's record."""

    signed: Signed
    records: Mapping[str, bytes]


@dataclass(frozen=True)
class Delivery:
    """What a member is given of one dealer: the signed statement, and its own record if it is a holder (or None)."""

    signed: Signed
    record: bytes | None


@dataclass(frozen=True, repr=False)
class MaskKeys:
    """The keys of the masks to add and to subtract, and the view an upload's header names. Never printed."""

    plus: tuple[bytes, ...]
    minus: tuple[bytes, ...]
    view: str


@dataclass(frozen=True)
class Setting:
    """What does not change in a study: the threshold's kind, and the smallest cohort this hospital takes part in."""

    study: str
    masks: Masks
    smallest_cohort: int


class _Memory(Strict):
    """Everything a member must find again after a crash; bytes as hexadecimal, steps not yet taken as None."""

    model_config = ConfigDict(hide_input_in_errors=True)  # nor in a traceback

    attempt: int
    self_secret: str
    mask_secret: str
    share_private: str
    keys: dict[str, tuple[str, str]] | None = None
    dealing: tuple[str, str, dict[str, str]] | None = None
    dealers: dict[str, str] | None = None
    held: dict[str, tuple[str, str]] | None = None
    survivors: dict[str, str] | None = None
    signature: str | None = None
    revealed: str | None = None

    def __repr__(self) -> str:
        return f"_Memory(attempt={self.attempt})"

    __str__ = __repr__


class Member:
    """One hospital in one round. Every step may be repeated and then gives the same answer, or is refused by name."""

    def __init__(
        self,
        setting: Setting,
        round_number: int,
        hospital: str,
        signer: Signer,
        publics: Mapping[str, str],
        *,
        stored: bytes | None = None,
        random: Callable[[int], bytes] = os.urandom,
        draw: Random | None = None,
    ) -> None:
        """``publics`` are the signing keys of all hospitals of the study by name, from cards this hospital checked.

        ``stored`` is what :meth:`to_bytes` gave in an earlier run. ``random`` and ``draw`` (the choice of holders) are
        the system's sources except in tests.
        """
        self._setting, self._round, self._hospital = setting, round_number, hospital
        self._signer, self._publics = signer, dict(publics)
        self._random, self._draw = random, draw or SystemRandom()
        self._memory = None if stored is None else _read(stored)

    def to_bytes(self) -> bytes:
        """Everything to find again after a crash, secrets included. Empty before the first step."""
        return b"" if self._memory is None else canonical_bytes(self._memory.model_dump(mode="json"))

    @property
    def attempt(self) -> int:
        """The last attempt this member has a key in; -1 before the first."""
        return -1 if self._memory is None else self._memory.attempt

    def key(self, attempt: int) -> Signed:
        """Step 1: this attempt's public keys, signed. Raises RetryRefused or WrongRound (see the top)."""
        if attempt < self.attempt:
            raise WrongRound(f"attempt {attempt} of round {self._round} is asked for, {self.attempt} has begun")
        if attempt >= LARGEST_ATTEMPTS:
            raise RetryRefused(f"{attempt} attempts at round {self._round} have failed: too many to be chance")
        if attempt > self.attempt:
            self._require_first_closed()
            drawn = RoundSecrets.draw(self._place(attempt), self._hospital, self._random)
            self._memory = _Memory(
                attempt=attempt,
                self_secret=drawn.self_secret.hex(),
                mask_secret=drawn.mask_secret.hex(),
                share_private=drawn.share_private.hex(),
            )
        statement = self._secrets().statement().to_bytes()
        return Signed(statement, self._signer.sign(ROUND_KEY_CONTEXT, statement))

    def share(self, attempt: int, keys: Mapping[str, Signed]) -> Dealing:
        """Step 2: shares for this attempt's members, whose signed keys are ``keys``. SplitView for a second list."""
        memory = self._at(attempt)
        if memory.keys is not None:
            if members_hash(keys) != members_hash(self._keys()):
                raise SplitView(f"a second list of the members of attempt {attempt}")
            return self._dealing()
        statements = self._checked_keys(attempt, keys)
        shape = shape_of(self._setting.masks, keys)
        holders = choose_holders(shape, tuple(keys), self._hospital, self._draw)
        share_keys = {name: s.share_key for name, s in statements.items()}
        statement, records = deal(self._secrets(), holders, shape.holders_needed, share_keys, members_hash(keys))
        data = statement.to_bytes()
        signature = self._signer.sign(SHARES_CONTEXT, data)
        self._remember(
            keys={name: (k.statement.hex(), k.signature.hex()) for name, k in keys.items()},
            dealing=(data.hex(), signature.hex(), {name: r.hex() for name, r in records.items()}),
        )
        return self._dealing()

    def mask(self, attempt: int, delivered: Mapping[str, Delivery]) -> MaskKeys:
        """Step 3: the keys of this hospital's masks, when the dealers' statements and its shares have come.

        From here on an upload may leave, so a second set of dealers is refused (SplitView).
        """
        memory = self._at(attempt)
        keys = self._keys()
        if not keys:
            raise ProtocolError("masks before shares: the coordinator left out a step")
        view = view_hash(keys, {name: d.signed.statement for name, d in delivered.items()})
        if memory.dealers is None:
            self._accept_dealers(attempt, keys, delivered)
        elif view != self._view():
            raise SplitView(f"a second list of the dealers of attempt {attempt}")
        return self._mask_keys()

    def agree(self, attempt: int, survivors: Mapping[str, str], body_sha256: str) -> bytes:
        """Step 4: the signature on the list of survivors (SHA-256 of the body by name), with this hospital in it.

        ``body_sha256`` is of the body this hospital uploaded. SplitView for a second list, or one that leaves out or
        changes this hospital's upload.
        """
        memory = self._at(attempt)
        if memory.survivors is not None:
            if dict(survivors) != memory.survivors:
                raise SplitView(f"a second list of the survivors of attempt {attempt}")
        else:
            if survivors.get(self._hospital) != body_sha256:
                raise SplitView("the list of survivors leaves out or changes what this hospital uploaded")
            if not survivors.keys() <= (memory.dealers or {}).keys():
                raise SplitView("a survivor is listed that never dealt shares: its masks could not be removed")
            needed = max(threshold(self._setting.masks, len(self._keys())), self._setting.smallest_cohort)
            if len(survivors) < needed:
                raise SplitView(f"a list of {len(survivors)} survivors, at least {needed} are needed")
            statement = self._statement(survivors).to_bytes()
            signature = self._signer.sign(SURVIVORS_CONTEXT, statement)
            self._remember(survivors=dict(survivors), signature=signature.hex())
        return bytes.fromhex(str(self._at(attempt).signature))

    def reveal(self, attempt: int, signatures: Mapping[str, bytes]) -> bytes:
        """Step 5: this member's shares as canonical bytes, once at least t survivors have signed its own list.

        SplitView otherwise: too few have signed it, or somebody signed another.
        """
        memory = self._at(attempt)
        if memory.survivors is None:
            raise SplitView("shares are asked for before this hospital agreed to any list of survivors")
        if memory.revealed is None:
            check_agreement(
                self._setting.masks,
                self._setting.smallest_cohort,
                self._statement(memory.survivors),
                signatures,
                self._publics,
            )
            self._remember(revealed=self._reveal().to_bytes().hex())
        return bytes.fromhex(str(self._at(attempt).revealed))

    # -- inside -------------------------------------------------------------------------------------------------------

    def _require_first_closed(self) -> None:
        memory = self._memory
        if memory is None:
            return
        if memory.revealed is not None:
            raise RetryRefused(
                f"attempt {memory.attempt} of round {self._round} may still be opened: this hospital has revealed"
            )
        members = len(self._keys())
        if memory.dealers is not None and threshold(self._setting.masks, members) < members:
            raise RetryRefused(
                f"attempt {memory.attempt} of round {self._round} may still be opened without this hospital"
            )

    def _checked_keys(self, attempt: int, keys: Mapping[str, Signed]) -> dict[str, RoundKeyStatement]:
        own = self.key(attempt).statement
        if self._hospital not in keys or keys[self._hospital].statement != own:
            raise SplitView("the list of round keys leaves out or changes this hospital's own")
        if len(keys) < self._setting.smallest_cohort:
            raise SplitView(f"{len(keys)} round keys, at least {self._setting.smallest_cohort} hospitals are needed")
        return {name: check_key(k, self._place(attempt), name, self._public(name)) for name, k in keys.items()}

    def _accept_dealers(self, attempt: int, keys: Mapping[str, Signed], delivered: Mapping[str, Delivery]) -> None:
        dealing, shape, listed = self._dealing(), shape_of(self._setting.masks, keys), members_hash(keys)
        mine = delivered.get(self._hospital)
        if mine is None or mine.signed.statement != dealing.signed.statement:
            raise SplitView("the list of dealers leaves out or changes this hospital's own shares")
        if len(delivered) < max(threshold(self._setting.masks, len(keys)), self._setting.smallest_cohort):
            raise SplitView(f"only {len(delivered)} of {len(keys)} members have dealt shares")
        held, dealers = {}, {}
        for name, delivery in delivered.items():
            if name not in keys:
                raise SplitView(f"{name} dealt shares and is no member of the attempt")
            statement = check_dealer(
                delivery.signed, self._place(attempt), name, self._public(name), keys, listed, shape
            )
            dealers[name] = delivery.signed.statement.hex()
            if self._hospital in statement.records:
                if delivery.record is None:
                    raise ForgedShare(f"the shares of {name} for this hospital were not delivered")
                record = check_record(delivery.record, statement, self._hospital)
                first, second = open_record(self._secrets(), record)
                held[name] = first.hex(), second.hex()
        self._remember(dealers=dealers, held=held)

    def _mask_keys(self) -> MaskKeys:
        memory, secrets = self._at(self.attempt), self._secrets()
        statements = {n: parse(SharesStatement, bytes.fromhex(d)) for n, d in (memory.dealers or {}).items()}
        plus = [self_key(secrets.place, self._hospital, secrets.self_secret)]
        minus: list[bytes] = []
        for other in statements:
            if other != self._hospital and paired(statements, self._hospital, other):
                public = parse(RoundKeyStatement, self._keys()[other].statement).mask_key
                key = pair_key(secrets.place, self._hospital, secrets.mask_secret, other, public)
                (plus if adds(self._hospital, other) else minus).append(key)
        return MaskKeys(tuple(plus), tuple(minus), self._view())

    def _reveal(self) -> Reveal:
        memory = self._at(self.attempt)
        held, survivors = memory.held or {}, memory.survivors or {}
        return Reveal(
            study=self._setting.study,
            round=self._round,
            attempt=memory.attempt,
            self_shares={name: pair[0] for name, pair in held.items() if name in survivors},
            mask_shares={name: pair[1] for name, pair in held.items() if name not in survivors},
        )

    def _statement(self, survivors: Mapping[str, str]) -> SurvivorsStatement:
        try:
            return SurvivorsStatement(
                study=self._setting.study,
                round=self._round,
                attempt=self.attempt,
                members=tuple(sorted(self._keys())),
                survivors=dict(survivors),
                view=self._view(),
            )
        except ValidationError as error:
            raise ProtocolError(f"the list of survivors: {explain(error)}") from error

    def _view(self) -> str:
        dealers = self._at(self.attempt).dealers or {}
        return view_hash(self._keys(), {name: bytes.fromhex(data) for name, data in dealers.items()})

    def _keys(self) -> dict[str, Signed]:
        stored = (self._memory.keys if self._memory else None) or {}
        return {name: Signed(bytes.fromhex(data), bytes.fromhex(sig)) for name, (data, sig) in stored.items()}

    def _dealing(self) -> Dealing:
        stored = self._at(self.attempt).dealing
        if stored is None:
            raise ProtocolError("no shares dealt yet")
        data, signature, records = stored
        return Dealing(
            Signed(bytes.fromhex(data), bytes.fromhex(signature)), {n: bytes.fromhex(r) for n, r in records.items()}
        )

    def _secrets(self) -> RoundSecrets:
        memory = self._at(self.attempt)
        parts = (memory.self_secret, memory.mask_secret, memory.share_private)
        return RoundSecrets(self._place(memory.attempt), self._hospital, *(bytes.fromhex(p) for p in parts))

    def _place(self, attempt: int) -> Place:
        return Place(self._setting.study, self._round, attempt)

    def _public(self, name: str) -> str:
        if name not in self._publics:
            raise NotOnRoster(f"{name} is no hospital of this study")
        return self._publics[name]

    def _at(self, attempt: int) -> _Memory:
        """The memory of this very attempt: a step of another one is never answered."""
        if self._memory is None or self._memory.attempt != attempt:
            raise WrongRound(f"a step of attempt {attempt}, this hospital is in attempt {self.attempt}")
        return self._memory

    def _remember(self, **changes: Any) -> None:
        self._memory = self._at(self.attempt).model_copy(update=changes)


def paired(statements: Mapping[str, SharesStatement], one: str, other: str) -> bool:
    """Whether two dealers have a pair mask: one holds a share of the other."""
    return other in statements[one].records or one in statements[other].records


def _read(stored: bytes) -> _Memory | None:
    try:
        return _Memory.model_validate_json(stored) if stored else None
    except ValidationError:
        # Not chained: what is wrong with it is told in pieces of it.
        raise ProtocolError(
            "the stored secrets of this round are damaged", "Restore the folder from a backup."
        ) from None
