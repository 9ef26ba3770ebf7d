"""The coordinator's part: which shares it needs, what they rebuild, and which masks are then taken off the sum.

Everything here is public to the coordinator by the protocol; it removes masks from a sum of ciphertexts that it still
cannot open. The sum of the survivors' uploads holds

* the self-mask of each survivor, rebuilt from the others' shares of its self secret;
* for each dealer that did not survive, the pair masks that its neighbours among the survivors added or subtracted for
  it; they follow from its mask secret.

Pair masks between survivors have cancelled already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from secure_fedhelp.errors import ForgedShare, ProtocolError, UnmaskingFailed, WrongRound
from secure_fedhelp.secagg.masked.member import Dealing, paired
from secure_fedhelp.secagg.masked.roundkeys import adds, mask_public, pair_key, self_key, self_secret_commitment
from secure_fedhelp.secagg.masked.shares import MASK, SELF, commitment, rebuild
from secure_fedhelp.secagg.masked.statements import (
    Place,
    Reveal,
    RoundKeyStatement,
    ShareRecord,
    SharesStatement,
    Signed,
    parse,
)


@dataclass(frozen=True)
class Unmasking:
    """One attempt whose survivors are agreed on. ``keys`` and ``dealings`` are those of the dealers, checked before."""

    place: Place
    keys: Mapping[str, Signed]
    dealings: Mapping[str, Dealing]
    survivors: frozenset[str]

    def check(self, holder: str, data: bytes) -> Reveal:
        """What ``holder`` reveals, if it is exactly what is asked of it and each share is the dealer's.

        ForgedShare for another share than the dealer committed to; ProtocolError for a share too many or too few.
        """
        reveal = parse(Reveal, data)
        if Place(reveal.study, reveal.round, reveal.attempt) != self.place:
            raise WrongRound(f"{holder} reveals shares of another attempt")
        held = {dealer for dealer, dealing in self.dealings.items() if holder in dealing.records}
        wanted = held & self.survivors, held - self.survivors
        if (set(reveal.self_shares), set(reveal.mask_shares)) != wanted:
            raise ProtocolError(f"{holder} reveals other shares than those of the agreed list")
        for dealer, share in reveal.self_shares.items():
            self._check_share(dealer, holder, SELF, share)
        for dealer, share in reveal.mask_shares.items():
            self._check_share(dealer, holder, MASK, share)
        return reveal

    def waiting_for(self, reveals: Mapping[str, Reveal]) -> frozenset[str]:
        """Dealers whose secret cannot be rebuilt yet from what was revealed; empty if the sum can be unmasked."""
        return frozenset(
            dealer for dealer in self.dealings if len(self._shares(dealer, reveals)) < self._statements[dealer].needed
        )

    def masks(self, reveals: Mapping[str, Reveal]) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """Keys of the masks to add to the sum and to subtract from it, so that none is left.

        UnmaskingFailed with too few shares, or if a dealer's own shares rebuild another secret than it committed to:
        then it dealt false ones, and the sum is lost.
        """
        waiting = self.waiting_for(reveals)
        if waiting:
            raise UnmaskingFailed(f"too few shares of {', '.join(sorted(waiting))} were revealed")
        plus: list[bytes] = []
        minus: list[bytes] = []
        statements = self._statements
        for dealer in sorted(self.dealings):
            secret = rebuild(self._shares(dealer, reveals), statements[dealer].needed)
            if dealer in self.survivors:
                minus.append(self._self_key(dealer, secret, statements[dealer]))
                continue
            if mask_public(self.place, dealer, secret) != self._mask_key(dealer):
                raise UnmaskingFailed(f"{dealer} dealt shares of another mask secret than its round key's")
            for other in sorted(self.survivors):
                if paired(statements, dealer, other):
                    key = pair_key(self.place, dealer, secret, other, self._mask_key(other))
                    (minus if adds(other, dealer) else plus).append(key)
        return tuple(plus), tuple(minus)

    def _self_key(self, dealer: str, secret: bytes, statement: SharesStatement) -> bytes:
        if self_secret_commitment(self.place, dealer, secret) != statement.self_secret:
            raise UnmaskingFailed(f"{dealer} dealt shares of another self secret than it committed to")
        return self_key(self.place, dealer, secret)

    def _shares(self, dealer: str, reveals: Mapping[str, Reveal]) -> dict[int, bytes]:
        holders = sorted(self.dealings[dealer].records)
        shares = {}
        for name, reveal in reveals.items():
            of = reveal.self_shares if dealer in self.survivors else reveal.mask_shares
            if dealer in of:
                shares[1 + holders.index(name)] = bytes.fromhex(of[dealer])
        return shares

    def _check_share(self, dealer: str, holder: str, kind: str, share: str) -> None:
        record = parse(ShareRecord, self.dealings[dealer].records[holder])
        wanted = record.self_commitment if kind == SELF else record.mask_commitment
        if commitment(self.place, dealer, holder, kind, bytes.fromhex(share)) != wanted:
            raise ForgedShare(f"{holder} reveals a share of {dealer} that {dealer} did not give it")

    @cached_property
    def _statements(self) -> dict[str, SharesStatement]:
        return {name: parse(SharesStatement, dealing.signed.statement) for name, dealing in self.dealings.items()}

    def _mask_key(self, name: str) -> str:
        return parse(RoundKeyStatement, self.keys[name].statement).mask_key
