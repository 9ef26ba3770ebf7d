"""All members of a masked round in one process: the real protocol, of which one member's part is timed.

Every member gives a round key, deals Shamir shares and derives the keys of its masks, once, when the cohort is made.
The measured member's steps are then taken again in each round from what it stored before them (a member can always be
resumed), so that each round does their work afresh although the others need not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from secure_fedhelp.identity.signing import ED25519, SigningKey, verify
from secure_fedhelp.research.bench.stopwatch import Stopwatch
from secure_fedhelp.secagg.masked.checks import check_dealer, check_key, check_record, shape_of
from secure_fedhelp.secagg.masked.member import Delivery, MaskKeys, Member, Setting
from secure_fedhelp.secagg.masked.statements import (
    SURVIVORS_CONTEXT,
    Place,
    Reveal,
    SurvivorsStatement,
    members_hash,
)
from secure_fedhelp.secagg.masked.unmasking import Unmasking
from secure_fedhelp.study.canonical import digest
from secure_fedhelp.study.threshold import Masks

_STUDY = digest("benchmark")
_PLACE = Place(_STUDY, 0, 0)

#: An Ed25519 signature, and a body's hash.
SIGNATURE_BYTES, SHA256_BYTES = 64, 32

Keys = tuple[tuple[bytes, ...], tuple[bytes, ...]]


class MaskedCohort:
    """A cohort of which nobody drops out; ``names[0]`` is measured."""

    def __init__(self, names: tuple[str, ...], masks: Masks) -> None:
        self._names, self._measured = names, names[0]
        self._setting = Setting(_STUDY, masks, smallest_cohort=2)
        self._signing = {name: SigningKey.generate().of(ED25519) for name in names}
        self._publics = {name: key.public_hex for name, key in self._signing.items()}
        members = {name: self._member(name) for name in names}
        self._keys = {name: member.key(0) for name, member in members.items()}
        self._before_share = members[self._measured].to_bytes()
        self._dealings = {name: member.share(0, self._keys) for name, member in members.items()}
        self._before_mask = members[self._measured].to_bytes()
        self._masks = {name: member.mask(0, self._delivered(name)) for name, member in members.items()}
        self._before_agree = members[self._measured].to_bytes()
        self._reveals = self._reveal_all(members)

    @property
    def masks(self) -> Masks:
        return self._setting.masks

    @property
    def others_masks(self) -> Keys:
        """Keys of the masks, added and subtracted, that remain when the uploads of all others are added up.

        What two of the others share has cancelled by then. One of their bodies carries all of it in place of each
        carrying its own: the sum is the same to the last bit, and so is the coordinator's work.
        """
        plus: Counter[bytes] = Counter()
        for name, keys in self._masks.items():
            if name != self._measured:
                plus.update(keys.plus)
                plus.subtract(keys.minus)
        return tuple(+plus), tuple(-plus)

    @property
    def bytes_up(self) -> int:
        """Bytes of the measured member's own messages: its key, its shares, its agreement, its reveal."""
        dealing, key = self._dealings[self._measured], self._keys[self._measured]
        signed = sum(len(s.statement) + len(s.signature) for s in (key, dealing.signed))
        records = sum(len(record) for record in dealing.records.values())
        return signed + records + SIGNATURE_BYTES + len(self._reveals[self._measured])

    @property
    def bytes_down(self) -> int:
        """Bytes of what it is given: every key, every dealing with its own record, the survivors and who agreed."""
        delivered = self._delivered(self._measured).values()
        signed = [*self._keys.values(), *(d.signed for d in delivered)]
        records = sum(len(d.record or b"") for d in delivered)
        survivors = sum(len(name) + SHA256_BYTES + SIGNATURE_BYTES for name in self._names)
        return sum(len(s.statement) + len(s.signature) for s in signed) + records + survivors

    # -- a round ------------------------------------------------------------------------------------------------------

    def agree_on_masks(self, watch: Stopwatch) -> MaskKeys:
        """The measured member's key, shares and masks: X25519 with each neighbour, Shamir dealing, opening shares."""
        fresh = self._member(self._measured)
        dealer = self._member(self._measured, self._before_share)
        holder = self._member(self._measured, self._before_mask)
        delivered = self._delivered(self._measured)
        with watch.stage("upload.agree_on_masks"):
            fresh.key(0)
            dealer.share(0, self._keys)
            return holder.mask(0, delivered)

    def check_statements(self, watch: Stopwatch) -> None:
        """The coordinator's checks of all keys and dealings, and of every record."""
        shape, listed = shape_of(self._setting.masks, self._names), members_hash(self._keys)
        with watch.stage("coordinator.check_keys"):
            for name in self._names:
                public, dealing = self._publics[name], self._dealings[name]
                check_key(self._keys[name], _PLACE, name, public)
                statement = check_dealer(dealing.signed, _PLACE, name, public, self._names, listed, shape)
                for holder, record in dealing.records.items():
                    check_record(record, statement, holder)

    def reveal(self, watch: Stopwatch, bodies_sha256: Mapping[str, str]) -> Keys:
        """Agreement, reveals and rebuilding; gives the keys of the masks to add to the sum and to subtract from it."""
        member = self._member(self._measured, self._before_agree)
        survivors = SurvivorsStatement(
            study=_STUDY,
            round=0,
            attempt=0,
            members=tuple(sorted(self._names)),
            survivors=dict(bodies_sha256),
            view=self._masks[self._measured].view,
        ).to_bytes()
        signatures = {name: key.sign(SURVIVORS_CONTEXT, survivors) for name, key in self._signing.items()}
        with watch.stage("upload.reveal"):
            signatures[self._measured] = member.agree(0, bodies_sha256, bodies_sha256[self._measured])
            revealed = {**self._reveals, self._measured: member.reveal(0, signatures)}
        with watch.stage("coordinator.rebuild"):
            for name, signature in signatures.items():
                verify(self._publics[name], SURVIVORS_CONTEXT, survivors, signature)
            return self._rebuild(revealed)

    def _rebuild(self, revealed: Mapping[str, bytes]) -> Keys:
        """From as many reveals as are needed, in the order in which they come: the others are not waited for."""
        unmasking = Unmasking(_PLACE, self._keys, self._dealings, frozenset(self._names))
        checked: dict[str, Reveal] = {}
        for name, data in revealed.items():
            if not unmasking.waiting_for(checked):
                break
            checked[name] = unmasking.check(name, data)
        return unmasking.masks(checked)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _member(self, name: str, stored: bytes | None = None) -> Member:
        return Member(self._setting, 0, name, self._signing[name], self._publics, stored=stored)

    def _delivered(self, name: str) -> dict[str, Delivery]:
        return {dealer: Delivery(d.signed, d.records.get(name)) for dealer, d in self._dealings.items()}

    def _reveal_all(self, members: Mapping[str, Member]) -> dict[str, bytes]:
        """What each other member reveals; it does not depend on the bodies, so any hashes do."""
        bodies = dict.fromkeys(self._names, digest("a body"))
        agreed = {name: member.agree(0, bodies, bodies[name]) for name, member in members.items()}
        return {name: member.reveal(0, agreed) for name, member in members.items()}
